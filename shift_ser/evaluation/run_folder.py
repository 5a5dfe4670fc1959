"""What a run leaves behind: the names of its files, and how they are written."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line reads names here, without the packages of training
    from matplotlib.figure import Figure

# In the folder of a run
SETTINGS = "run.json"  # what its results depend on; written first
PLANS = "plans.json"
RESULTS = "results.json"
TABLE = "results.md"
PREDICTIONS = "predictions.csv"  # of all folds and seeds; in the folder of a fold: of its own
CONFUSION = "confusion.png"
RELIABILITY = "reliability.png"
RISK_COVERAGE = "risk_coverage.png"
VALUES = "values.png"  # of dimensions: predicted against true values
EMBEDDING = "embedding.png"
REPORT = "report.html"
EVALUATION = "evaluation"  # folder of what evaluate_only writes
ROBUSTNESS = "robustness"  # folder of what the conditions of `evaluation.robustness` gave
ROBUSTNESS_TABLE = "robustness.md"
CURVES = "robustness.png"
CROSS = "cross"  # folder of what models said of other corpora
CROSS_TABLE = "cross.md"
CROSS_FIGURE = "cross.png"
FINAL = "final"  # folder of the model that saw every speaker
DIALOGS = "dialogs"  # folder of what timelines of whole dialogs came to
DIALOGS_TABLE = "dialogs.md"
# In the folder of a fold, and of the final model
FOLD_RESULT = "result.json"  # written last: a folder that has it holds a whole fold
FOLD_FAILURE = "failed.json"
VALIDATION_PREDICTIONS = "validation_predictions.csv"
ADAPTER = "adapter"  # folder of what `--adapter` trained in the encoder, before it was merged
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"  # folder of its logs, with `--report_to tensorboard`
# In the folder of adapted encoders
ADAPTATION_SETTINGS = "adapt.json"  # written first
ADAPTATION = "adaptation.json"  # in the folder of each fold's encoder, written last: what it has heard
# In the folder of a study
CELL = "cell.json"  # in each cell's folder, written last
STUDY_ROWS = "study.csv"
STUDY_GROUPS = "summary.csv"
STUDY_SUMMARY = "summary.md"
STUDY_BASELINES = "baselines.json"


def fold_folder(result: Mapping[str, Any], *, seeds: Sequence[int] | None) -> str:
    """Where in a run's folder the fold of a result lies.

    Args:
        result: Anything with `fold` and `seed`.
        seeds: The run's setting of that name.

    Example:
        >>> fold_folder({"fold": 1, "seed": 7}, seeds=None), fold_folder({"fold": 1, "seed": 7}, seeds=[0, 7])
        ('fold1', 'seed7/fold1')
    """
    fold = f"fold{result['fold']}"
    return f"seed{result['seed']}/{fold}" if len(seeds or []) > 1 else fold


def main_figure(results: Mapping[str, Any]) -> str:
    """The figure that a card shows: the confusion matrix, or where there are only dimensions their values."""
    return CONFUSION if "ua" in results["summary"]["test"] else VALUES


def write_json(path: str | Path, obj: Any) -> None:
    """Write `obj` as JSON: the file is the old or the new one, never half of either.

    Args:
        path: File to write.
        obj: What JSON can hold; NaN and infinity it cannot.
    """
    write_text(path, json.dumps(obj, indent=2, allow_nan=False) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write `text` in UTF-8: the file is the old or the new one, never half of either."""
    with aside(path) as part:
        part.write_text(text, encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """What `write_json` wrote."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def save_figure(path: str | Path, figure: "Figure") -> None:
    """Write a figure as PNG: the file is the old or the new one, never half of either."""
    with aside(path) as part:
        figure.savefig(part, format="png", dpi=150)


@contextmanager
def aside(path: str | Path) -> Iterator[Path]:
    """A file to write beside `path`, put in its place if nothing goes wrong."""
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
