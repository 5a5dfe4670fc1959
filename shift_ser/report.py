"""What a run leaves behind: folders, result files, predictions, confusion matrix."""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

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


def plot_confusion(
    path: str | Path,
    *,
    references: Sequence[str],
    predictions: Sequence[str],
    label_names: Sequence[str],
    title: str,
) -> None:
    """Draw the confusion matrix as PNG: each row in percent of its true label, with the counts.

    Args:
        path: File to write.
        references: True label of each utterance, by name.
        predictions: Predicted label of each utterance, by name.
        label_names: The labels, in the order of rows and columns.
        title: Headline of the figure.
    """
    counts = confusion_matrix(references, predictions, labels=list(label_names))
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)  # an absent label is a row of zeros
    size = 2.2 + 0.95 * len(label_names)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for (row, column), share in np.ndenumerate(shares):
        color = "white" if share > 55 else "black"
        axes.text(column, row - 0.06, f"{share:.1f}%", ha="center", va="center", color=color, fontsize=12)
        axes.text(column, row + 0.18, f"{counts[row, column]}", ha="center", va="center", color=color, fontsize=9)
    totals = counts.sum(axis=1)
    axes.set_xticks(range(len(totals)), label_names)
    axes.set_yticks(range(len(totals)), [f"{name}\n(n={n})" for name, n in zip(label_names, totals, strict=True)])
    axes.set(xlabel="Predicted", ylabel="True", title=title)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.8, label="Share of the true label (%)")
    save_figure(path, figure)


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
