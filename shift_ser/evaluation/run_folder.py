"""What a run leaves behind: folders, result files, predictions, confusion matrix."""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

_COLUMNS = ("utterance", "speaker", "label", "prediction")
_PROBABILITY = "p_"


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


def write_predictions(path: str | Path, *, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one line for each utterance as CSV, probabilities in full precision.

    Args:
        path: File to write.
        rows: `utterance`, `speaker`, `label`, `prediction` (names) and `probabilities`, a dict from label to float.

    Raises:
        ValueError: If there is no row, or rows differ in their labels.
    """
    rows = list(rows)
    if not rows:
        raise ValueError("rows must hold at least one utterance, got none")
    labels = list(rows[0]["probabilities"])
    with aside(path) as part, open(part, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*_COLUMNS, *(_PROBABILITY + label for label in labels)])
        for row in rows:
            if list(row["probabilities"]) != labels:
                raise ValueError(f"{row['utterance']!r} has labels {list(row['probabilities'])}, others have {labels}")
            writer.writerow([*(row[name] for name in _COLUMNS), *map(float, row["probabilities"].values())])


def read_predictions(path: str | Path) -> list[dict[str, Any]]:
    """The rows that `write_predictions` wrote."""
    with open(path, encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    return [
        {name: line[name] for name in _COLUMNS}
        | {
            "probabilities": {
                name.removeprefix(_PROBABILITY): float(value)
                for name, value in line.items()
                if name.startswith(_PROBABILITY)
            }
        }
        for line in lines
    ]


def save_figure(path: str | Path, figure: Figure) -> None:
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
