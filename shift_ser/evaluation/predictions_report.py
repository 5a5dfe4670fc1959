"""What can be said of a table of predictions, wherever it comes from: scores, intervals, calibration, confusion."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .calibration import describe as describe_calibration
from .metrics import score_names, score_of
from .predictions import Predictions
from .report import intervals_text
from .uncertainty import confusion_by
from .uncertainty import describe as describe_uncertainty


def evaluate_predictions(predictions: Predictions) -> dict[str, Any]:
    """Scores with intervals, calibration and confusion of one table of predictions.

    Args:
        predictions: Any labels; speakers and probabilities may be unknown.

    Returns:
        `labels`, `uncertainty` (see `uncertainty.describe`), `calibration` (see `calibration.describe`; `None` without
        probabilities) and `confusion`: for each true label (rows) and predicted label how many utterances; several
        seeds of an utterance share it, so that the counts need not be whole; `None` of dimensions alone.

    Example:
        >>> said = Predictions.from_rows([{"utterance": "a", "label": "sad", "prediction": "angry"}])
        >>> evaluate_predictions(said)["confusion"]
        [[0.0, 0.0], [1.0, 0.0]]
    """
    return {
        "labels": predictions.labels,
        "uncertainty": describe_uncertainty(predictions),
        "calibration": None if predictions.probabilities is None else describe_calibration(predictions),
        "confusion": confusion_by(predictions, unit="utterance")[1].sum(axis=0).tolist()
        if predictions.labels
        else None,
    }


def evaluation_text(evaluated: Mapping[str, Any]) -> str:
    """What `evaluate_predictions` returned, as Markdown that reads well on a terminal."""
    said, labels = evaluated["uncertainty"], evaluated["labels"]
    sizes = [f"{said['num_utterances']} utterances"] + ([f"{len(labels)} labels"] if labels else [])
    sizes += [f"{said['num_speakers']} speakers"] if said["num_speakers"] else ["speakers not stated"]
    sizes += [f"{said['num_seeds']} rows an utterance"] if said["num_seeds"] > 1 else []
    names = score_names(said)
    percent = any(score_of(name).percent for name in names)
    scored = [["score", "percent" if percent else "value"]]
    scored += [[score_of(name).title, score_of(name).shown(said[name]["estimate"])] for name in names]
    parts = [", ".join(sizes), markdown_table(scored), intervals_text(evaluated)]
    return "\n\n".join([*parts, _confusion(labels, np.array(evaluated["confusion"]))] if labels else parts)


def _confusion(labels: list[str], counts: np.ndarray) -> str:
    confused = [["true \\ predicted", *labels, "recall %"]]
    for label, row in zip(labels, counts, strict=True):
        recall = f"{100 * row[labels.index(label)] / row.sum():.1f}" if row.sum() else "-"
        confused.append([label, *(f"{count:g}" if count == round(count) else f"{count:.1f}" for count in row), recall])
    return markdown_table(confused)


def markdown_table(rows: list[list[str]]) -> str:
    """Rows of texts, the first the header, as a Markdown table with columns of equal width."""
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(rows[0]))]
    rule = ["-" * width if column == 0 else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    lines = [[cell.ljust(w) if c == 0 else cell.rjust(w) for c, (cell, w) in enumerate(zip(row, widths, strict=True))]
             for row in [rows[0], rule, *rows[1:]]]  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
