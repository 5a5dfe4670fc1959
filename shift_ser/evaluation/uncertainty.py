"""How sure a score is: intervals for WA, UA and macro F1 by resampling utterances or speakers."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from .metrics import SCORES
from .predictions import Predictions

_BATCH = 4_000_000  # drawn units held in memory at a time


def describe(
    predictions: Predictions, *, level: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """WA, UA and macro F1 of pooled predictions, each with two intervals.

    The interval over utterances asks how the scores would be with other utterances of the *same* speakers. It is
    narrow, and too narrow for any claim about people, since utterances of one speaker resemble each other. The
    interval over speakers keeps each speaker's utterances together. Neither knows of other random seeds or other
    training data: the folds' models are taken as they are. See `bootstrap_interval` for few speakers.

    Args:
        predictions: Of all folds. Rows of several seeds for one utterance are not independent: they are averaged, and
            drawn together.
        level: Confidence level.
        num_resamples: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        `level`, `num_resamples`, `num_utterances`, `num_speakers` (`None` if unknown), `num_seeds` (most rows of an
        utterance), and for `wa`, `ua` and `f1` a dict of `estimate` (of all utterances pooled, which is not the mean
        over folds), `utterances` and `speakers`: intervals `[low, high]`, or `None` where there is only one to draw
        from, or speakers are unknown.

    Example:
        >>> said = [("a", "F", "sad", "sad"), ("b", "F", "sad", "angry"), ("c", "M", "angry", "angry")]
        >>> rows = [dict(zip(("utterance", "speaker", "label", "prediction"), row)) for row in said]
        >>> describe(Predictions.from_rows(rows))["ua"]["estimate"]
        0.75
    """
    estimate = scores(confusion_by(predictions, unit="utterance")[1].sum(axis=0))
    description: dict[str, Any] = {"level": level, "num_resamples": num_resamples}
    intervals: dict[str, np.ndarray | None] = {}
    for unit in ("utterance", "speaker"):
        description[f"num_{unit}s"], intervals[f"{unit}s"] = None, None
        if unit in predictions.table:
            names, counts = confusion_by(predictions, unit=unit)
            description[f"num_{unit}s"] = len(names)
            intervals[f"{unit}s"] = bootstrap_interval(counts, level=level, num_resamples=num_resamples, seed=seed)
    description["num_seeds"] = int(predictions.table["utterance"].value_counts().max())
    for index, name in enumerate(SCORES):
        description[name] = {"estimate": float(estimate[index])}
        for unit, interval in intervals.items():
            description[name][unit] = None if interval is None else interval[index].tolist()
    return description


def confusion_by(
    predictions: Predictions, *, unit: str, labels: Sequence[str] | None = None
) -> tuple[list[Any], np.ndarray]:
    """Count true and predicted labels of each unit; every utterance counts once, however many rows (seeds) it has.

    Args:
        predictions: The table.
        unit: A column of it: `"utterance"`, `"speaker"`, `"fold"`.
        labels: Every label, in the order of the counts; default: those of the table.

    Returns:
        Names of the units, sorted, and counts, shape `(units, labels, labels)`: true labels down, predicted across.
    """
    labels = predictions.labels if labels is None else labels
    number = {label: index for index, label in enumerate(labels)}
    _, repeats = np.unique(predictions.table["utterance"], return_inverse=True)
    weights = 1.0 / np.bincount(repeats)
    units, places = np.unique(predictions.table[unit], return_inverse=True)
    true, predicted = (predictions.table[name].map(number).to_numpy(dtype=np.int64) for name in ("label", "prediction"))
    shape = (len(units), len(labels), len(labels))
    cells = np.ravel_multi_index((places, true, predicted), shape)
    counts = np.bincount(cells, weights=weights[repeats], minlength=int(np.prod(shape)))
    return units.tolist(), counts.reshape(shape)


def scores(counts: np.ndarray) -> np.ndarray:
    """WA, UA and macro F1 of counts `(..., labels, labels)`, shape `(..., 3)`; as `metrics` has them.

    Labels that are never true have no recall and no F1.

    Example:
        >>> scores(np.array([[3, 1], [0, 4]])).round(4)
        array([0.875, 0.875, 0.873])
    """
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    true, predicted = counts.sum(axis=-1), counts.sum(axis=-2)
    present = true > 0
    recall = np.divide(right, true, out=np.zeros_like(right, dtype=float), where=present)
    f1 = np.divide(2 * right, true + predicted, out=np.zeros_like(right, dtype=float), where=present)
    classes = present.sum(axis=-1)
    accuracy = right.sum(axis=-1) / true.sum(axis=-1)
    return np.stack([accuracy, recall.sum(axis=-1) / classes, f1.sum(axis=-1) / classes], axis=-1)


def bootstrap_interval(
    counts: np.ndarray,
    *,
    statistic: Callable[[np.ndarray], np.ndarray] = scores,
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> np.ndarray | None:
    r"""Intervals of a statistic of summed counts, when units are drawn with replacement.

    Percentiles of the resamples are too narrow for few units: by :math:`\sqrt{(n-1)/n}`, and as if a normal stood
    for Student's distribution. They are therefore taken at the level that makes up for both (the expanded percentile
    interval of Hesterberg, The American Statistician 69:371, 2015): with 10 speakers at 0.9 and 99.1 % in place of
    2.5 and 97.5 %. BCa would estimate its correction from as many values as there are speakers, which is worse than
    none. Below some 10 units the interval remains rough; it can never leave what was seen in the units at hand.

    Args:
        counts: Shape `(units, ...)`, what each unit adds to the sum.
        statistic: From sums, shape `(resamples, ...)`, to values, shape `(resamples, values)`.
        level: Confidence level.
        num_resamples: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        Low and high end of each value, shape `(values, 2)`; `None` for a single unit.

    Raises:
        ValueError: If the level is not between 0 and 1 or there are no resamples.
    """
    if not 0 < level < 1 or num_resamples < 1:
        raise ValueError(f"level must be between 0 and 1 and num_resamples above 0, got {level} and {num_resamples}")
    units = len(counts)
    if units < 2:
        return None
    flat = counts.reshape(units, -1)

    def of_drawn(drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        """Values, first axis, of rows of drawn units, shape `(resamples, units)`, or of one such row."""
        lines = np.atleast_2d(drawn)
        places = lines + units * np.arange(len(lines))[:, None]
        times = np.bincount(places.ravel(), minlength=units * len(lines)).reshape(len(lines), units)
        values = statistic((times @ flat).reshape(len(lines), *counts.shape[1:])).T
        return values.reshape(len(values), *drawn.shape[:-1])

    tail = stats.norm.cdf(np.sqrt(units / (units - 1)) * stats.t.ppf((1 - level) / 2, df=units - 1))
    result = stats.bootstrap(
        (np.arange(units),),
        of_drawn,
        n_resamples=num_resamples,
        batch=max(1, _BATCH // units),
        vectorized=True,
        axis=-1,
        confidence_level=1 - 2 * tail,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return np.stack(result.confidence_interval, axis=-1)
