"""What a run leaves behind: the names of its files, how they are written, and checksums that tell when one changed."""

import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line reads names here, without the packages of training
    from matplotlib.figure import Figure

CHECKSUMS = "checksums.json"  # size and CRC-32 of the files beside it, in the folders of runs, folds and checkpoints
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
LAYER_WEIGHTS = "layer_weights.png"  # of a weighted sum over the encoder's layers
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
    write_text(path, json_text(obj))


def json_text(obj: Any) -> str:
    """What `write_json` puts into a file."""
    return json.dumps(obj, indent=2, allow_nan=False) + "\n"


def write_text(path: str | Path, text: str) -> None:
    """Write `text` in UTF-8: the file is the old or the new one, never half of either."""
    with aside(path) as part:
        part.write_text(text, encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """What `write_json` wrote.

    Raises:
        ValueError: If it is no JSON, or not as it was written (see `check_file`); the file is named.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is damaged, it holds no JSON: {error}") from error


def read_text(path: str | Path) -> str:
    """What `write_text` wrote.

    Raises:
        ValueError: If it is not UTF-8, or not as it was written (see `check_file`); the file is named.
    """
    check_file(path)
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is damaged, it is not UTF-8: {error}") from error


def write_checksums(folder: str | Path, names: Iterable[str], *, coming: Mapping[str, Any] | None = None) -> None:
    """Write down size and CRC-32 of files of a folder; from then on one that is changed is told from what was written.

    Args:
        folder: Where the files lie.
        names: The files, by their paths in the folder.
        coming: Files that will be written next with `write_json`, by their names.
    """
    folder = Path(folder)
    found = {name: _checksum(_blocks(folder / name)) for name in sorted(names)}
    found |= {name: _checksum([json_text(obj).encode()]) for name, obj in (coming or {}).items()}
    write_json(folder / CHECKSUMS, found)


def changed_files(folder: str | Path) -> dict[str, str]:
    """Files of a folder that are not as they were written, and what is wrong with each; empty without checksums.

    Raises:
        ValueError: If the checksums themselves are damaged.
    """
    folder = Path(folder)
    return {name: what for name, written in _checksums(folder).items() if (what := _change(folder / name, written))}


def check_file(path: str | Path) -> None:
    """Refuse a file that is not as it was written; one of which nothing is written down passes.

    Raises:
        ValueError: If the checksums beside it say otherwise, or are damaged; the file is named.
    """
    path = Path(path)
    written = _checksums(path.parent).get(path.name)
    if written and path.exists() and (what := _change(path, written)):
        raise ValueError(f"{str(path)!r} {what}. {_ACCEPT.format(path.with_name(CHECKSUMS))}")


def check_model_files(folder: str | os.PathLike) -> None:
    """Refuse a saved model of which a file is not as the run wrote it; one that no run wrote passes.

    Raises:
        ValueError: If one is changed or missing; it is named.
    """
    for name, what in changed_files(Path(folder)).items():
        if name not in (FOLD_RESULT, PREDICTIONS, VALIDATION_PREDICTIONS):
            raise ValueError(f"{str(Path(folder) / name)!r} {what}. {_ACCEPT.format(Path(folder) / CHECKSUMS)}")


_ACCEPT = "The command that made the run makes it again; if the change is meant, remove {}"
_BLOCK = 1 << 20  # bytes


def _checksums(folder: Path) -> dict[str, list[int]]:
    """Size and CRC-32 by the name of the file; nothing where none are written."""
    path = folder / CHECKSUMS
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict) and found and all(map(_is_checksum, found.values())):
            return found
    except ValueError:  # also what is no UTF-8
        pass
    raise ValueError(
        f"{str(path)!r} is damaged: it must hold size and CRC-32 of files beside it; remove it to take them as they are"
    )


def _is_checksum(value: Any) -> bool:
    return isinstance(value, list) and [type(part) for part in value] == [int, int]


def _change(path: Path, written: Sequence[int]) -> str | None:
    """What is wrong with a file, if something is."""
    if not path.is_file():
        return "is missing"
    size, value = _checksum(_blocks(path))
    if size != written[0]:
        return f"is damaged or changed: it has {size} bytes and was written with {written[0]}"
    return "is damaged or changed: it has another checksum than was written" if value != written[1] else None


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block


def _checksum(blocks: Iterable[bytes]) -> list[int]:
    size = value = 0
    for block in blocks:
        size, value = size + len(block), zlib.crc32(block, value)
    return [size, value]


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
