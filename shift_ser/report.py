"""What a run leaves behind: fold table, result files, predictions, confusion matrix."""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

_COLUMNS = ("utterance", "speaker", "label", "prediction")
_PROBABILITY = "p_"


def summarise(results: Sequence[Mapping[str, Any]], *, num_folds: int) -> dict[str, Any]:
    """Mean and spread over the folds that are done: every one counts the same, however many utterances it has.

    Args:
        results: One dict a fold, with `test` and, if the protocol has it, `oracle`: each `{"wa": ..., "ua": ...}`.
        num_folds: Number of folds of the whole run.

    Returns:
        `folds` and `num_folds`, and for `test` and `oracle` (`None` unless all folds have it) the `mean` and `std`
        (sample standard deviation, `None` for a single fold) of `wa` and `ua`.

    Raises:
        ValueError: If there is no result.

    Example:
        >>> folds = [{"test": {"wa": 0.5, "ua": 0.4}}, {"test": {"wa": 0.75, "ua": 0.4}}]
        >>> summarise(folds, num_folds=5)["test"]["wa"]
        {'mean': 0.625, 'std': 0.1767766952966369}
    """
    if not results:
        raise ValueError("results must hold at least one fold, got none")
    summary: dict[str, Any] = {"folds": len(results), "num_folds": num_folds}
    for kind in ("test", "oracle"):
        scores = [result.get(kind) for result in results]
        summary[kind] = {name: _spread(scores, name) for name in ("wa", "ua")} if all(scores) else None
    return summary


def _spread(scores: Sequence[Any], name: str) -> dict[str, float | None]:
    values = [score[name] for score in scores]
    return {"mean": fmean(values), "std": stdev(values) if len(values) > 1 else None}


def fold_table(results: Sequence[Mapping[str, Any]], *, protocol: str, num_folds: int) -> str:
    """Scores of each fold and their mean, as a Markdown table that reads well on a terminal.

    Args:
        results: One dict a fold: `fold`, `test_session`, `num_test`, `selected_epoch`, `last_epoch`, `test` and
            `oracle` as in `summarise`. Under the protocol `authors`, `test` is the score after the last epoch.
        protocol: `"test_blind"` or `"authors"`; the latter's best scores on the test fold are called oracle.
        num_folds: Number of folds of the whole run.

    Returns:
        The table, without a line feed at its end; scores in percent, the mean with the standard deviation over folds.
    """
    summary = summarise(results, num_folds=num_folds)
    kinds = ("test", "oracle") if protocol == "authors" else ("test",)
    prefixes = ("last ", "oracle ") if protocol == "authors" else ("",)
    epoch = "last_epoch" if protocol == "authors" else "selected_epoch"
    header = ["fold", "test session", "n test", epoch.replace("_", " ")]
    header += [f"{prefix}{name}" for prefix in prefixes for name in ("WA", "UA")]

    rows = []
    for result in results:
        row = [str(result[name]) for name in ("fold", "test_session", "num_test", epoch)]
        rows.append(row + [f"{result[kind][name]:.2%}" for kind in kinds for name in ("wa", "ua")])
    mean = "mean" if len(results) == num_folds else f"mean of {len(results)} of {num_folds} folds"
    rows.append([mean, "", "", ""] + [_percent(**summary[kind][name]) for kind in kinds for name in ("wa", "ua")])

    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    rule = ["-" * (width - 1) + ":" for width in widths]
    lines = [[cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in [header, rule, *rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _percent(mean: float, std: float | None) -> str:
    return f"{mean:.2%}" if std is None else f"{mean:.2%} ± {std:.2%}"


def write_json(path: str | Path, obj: Any) -> None:
    """Write `obj` as JSON: the file is the old or the new one, never half of either.

    Args:
        path: File to write.
        obj: What JSON can hold; NaN and infinity it cannot.
    """
    write_text(path, json.dumps(obj, indent=2, allow_nan=False) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write `text` in UTF-8: the file is the old or the new one, never half of either."""
    with _aside(path) as part:
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
    with _aside(path) as part, open(part, "w", encoding="utf-8", newline="") as file:
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
    with _aside(path) as part:
        figure.savefig(part, format="png", dpi=150)


@contextmanager
def _aside(path: str | Path) -> Iterator[Path]:
    """A file to write beside `path`, put in its place if nothing goes wrong."""
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
