"""How sure a score is: intervals for the scores of classes and dimensions over folds, speakers and utterances.

How often they hold the truth was simulated for UA alone (`benchmarks.statistics`); intervals of WA, F1, CCC and RMSE
are computed in the same way, and their coverage was not simulated.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from .metrics import SCORES, agreement_names, score_of
from .predictions import Predictions

_BATCH = 4_000_000  # drawn units held in memory at a time


MIN_SPEAKERS = 6  # of fewer an exact test of pairs cannot reach p = 0.05: 2 ** (1 - 5) is 0.0625
MIN_CLUSTERS = 3


@dataclass(frozen=True)
class Jackknife:
    """Values with their standard errors, from leaving out one cluster at a time.

    Attributes:
        estimate: Shape `(values,)`.
        error: Standard error of each, shape `(values,)`.
        degrees: Of freedom, clusters less one.
    """

    estimate: np.ndarray
    error: np.ndarray
    degrees: int

    def interval(self, *, level: float = 0.95) -> np.ndarray:
        """Student's interval, shape `(values, 2)`.

        Raises:
            ValueError: If the level is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise ValueError(f"level must be between 0 and 1, got {level}")
        half = stats.t.ppf((1 + level) / 2, df=self.degrees) * self.error
        return np.stack([self.estimate - half, self.estimate + half], axis=-1)

    def p(self) -> np.ndarray:
        """Two-sided p of the value 0, shape `(values,)`; without any spread not less than so many signs can give."""
        exact = np.where(abs(self.estimate) < 1e-12, 1.0, 2.0**-self.degrees)
        spread = self.error > 1e-12
        ratio = np.divide(abs(self.estimate), self.error, out=np.zeros_like(self.error), where=spread)
        return np.where(spread, 2 * stats.t.sf(ratio, df=self.degrees), exact)

    def detectable(self, *, level: float = 0.95, power: float = 0.8) -> np.ndarray:
        """What true value would be told from 0 with this power, shape `(values,)`."""
        return (stats.t.ppf((1 + level) / 2, df=self.degrees) + stats.t.ppf(power, df=self.degrees)) * self.error


def jackknife(counts: np.ndarray, *, statistic: Callable[[np.ndarray], np.ndarray] | None = None) -> Jackknife:
    r"""Standard errors of a statistic of summed counts, whose clusters are independent (Tukey 1958).

    .. math::
        \text{error}^2 = \frac{G - 1}{G} \sum_g \left( \theta_{-g} - \bar\theta \right)^2

    with :math:`\theta_{-g}` the statistic without cluster :math:`g` of :math:`G`.

    Args:
        counts: Shape `(clusters, ...)`, what each cluster adds to the sum; at least two clusters.
        statistic: From sums, shape `(sums, ...)`, to values, shape `(sums, values)`; default: `scores`.

    Example:
        >>> counts = np.array([[[8.0, 2.0], [0.0, 0.0]], [[6.0, 4.0], [0.0, 0.0]], [[7.0, 3.0], [0.0, 0.0]]])
        >>> round(float(jackknife(counts).error[0]), 4)  # 0.1 / sqrt(3), as for any mean
        0.0577
    """
    statistic = scores if statistic is None else statistic
    total = counts.sum(axis=0)
    values = statistic(np.concatenate([total[None], total[None] - counts]))
    left_out, num = values[1:], len(counts)
    error = np.sqrt((num - 1) / num * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0))
    return Jackknife(values[0], error, num - 1)


def cluster_unit(predictions: Predictions) -> tuple[str | None, str]:
    """What may be drawn independently: folds, since the speakers of a fold share a model, else speakers.

    Returns:
        `"fold"`, `"speaker"`, or `None` with the reason why there can be no interval over speakers.
    """
    table = predictions.table
    if "speaker" not in table:
        return None, "speakers are not stated"
    speakers = table["speaker"].nunique()
    if speakers < MIN_SPEAKERS:
        return None, f"{speakers} speakers, and fewer than {MIN_SPEAKERS} tell too little of how speakers differ"
    if "fold" in table and table["fold"].nunique() > 1 and table.groupby("speaker")["fold"].nunique().max() == 1:
        folds = table["fold"].nunique()
        if folds < MIN_CLUSTERS:
            return None, f"{folds} folds, whose speakers share a model, and fewer than {MIN_CLUSTERS} tell too little"
        return "fold", ""
    return "speaker", ""


def describe(
    predictions: Predictions, *, level: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Scores of pooled predictions, each with two intervals: WA, UA and macro F1, CCC and RMSE, whichever there are.

    The interval over utterances asks how the scores would be with other utterances of the *same* speakers and models.
    It is narrow, and too narrow for any claim about people, since utterances of one speaker resemble each other. The
    interval over speakers takes whole folds as the unit (see `cluster_unit`), as the speakers of a fold share a model:
    it knows of other speakers, other trainings and, where there are several, other seeds (each is averaged within its
    fold). `docs/statistics.md` has how often both hold the truth.

    Args:
        predictions: Of all folds. Rows of several seeds for one utterance are not independent: they are averaged.
        level: Confidence level.
        num_resamples: Number of resamples of the interval over utterances.
        seed: Seed of the resampling.

    Returns:
        `level`, `num_resamples`, `num_utterances`, `num_speakers` (`None` if unknown), `num_seeds` (most rows of an
        utterance), `unit` (`"fold"`, `"speaker"` or `None`), `num_units`, `no_interval` (why there is none over
        speakers), and for each score (`wa`, `ua`, `f1`; `ccc`, `ccc_valence`, ...) a dict of `estimate` (of all
        utterances pooled, which is not the mean over folds), `utterances` and `speakers`: intervals `[low, high]` or
        `None`.

    Example:
        >>> said = [("a", "F", "sad", "sad"), ("b", "F", "sad", "angry"), ("c", "M", "angry", "angry")]
        >>> rows = [dict(zip(("utterance", "speaker", "label", "prediction"), row)) for row in said]
        >>> describe(Predictions.from_rows(rows))["ua"]["estimate"]
        0.75
    """
    unit, reason = cluster_unit(predictions)
    description: dict[str, Any] = {
        "level": level,
        "num_resamples": num_resamples,
        "num_utterances": predictions.count("utterance"),
        "num_speakers": predictions.count("speaker"),
        "num_seeds": int(predictions.table["utterance"].value_counts().max()),
        "unit": unit,
        "num_units": predictions.count(unit) if unit else None,
        "no_interval": reason,
    }
    for family in families(predictions):
        counts, names = family.counts(predictions, "utterance"), family.names
        of_all = family.statistic(counts.sum(axis=0)[None])[0]
        options: dict[str, Any] = {"level": level, "num_resamples": num_resamples, "seed": seed}
        drawn = bootstrap_interval(counts, statistic=family.statistic, **options)
        of_units = None
        if unit:
            found = jackknife(family.counts(predictions, unit), statistic=family.statistic)
            of_units = found.interval(level=level)
        for index, name in enumerate(names):
            low, high = score_of(name).low, score_of(name).high
            description[name] = {"estimate": float(of_all[index])}
            for kind, interval in (("utterances", drawn), ("speakers", of_units)):
                description[name][kind] = None if interval is None else interval[index].clip(low, high).tolist()
    return description


@dataclass(frozen=True)
class Family:
    """Scores that are one statistic of summed counts.

    Attributes:
        names: Of the scores.
        counts: From a table and a column of it to what each unit adds to the sum, shape `(units, ...)`.
        statistic: From sums, shape `(sums, ...)`, to values, shape `(sums, scores)`.
    """

    names: list[str]
    counts: Callable[[Predictions, str], np.ndarray]
    statistic: Callable[[np.ndarray], np.ndarray]


def families(predictions: Predictions, *, labels: Sequence[str] | None = None) -> list[Family]:
    """The scores of a table: those of its classes, those of its dimensions.

    Args:
        predictions: The table.
        labels: As in `confusion_by`.
    """
    found = []
    if "label" in predictions.table:
        found.append(Family(list(SCORES), lambda table, unit: confusion_by(table, unit=unit, labels=labels)[1], scores))
    if predictions.dimensions:
        centre = predictions.targets.mean(axis=0)
        found.append(
            Family(
                agreement_names(predictions.dimensions),
                lambda table, unit: moments_by(table, unit=unit, centre=centre),
                agreement,
            )
        )
    return found


def moments_by(predictions: Predictions, *, unit: str, centre: np.ndarray) -> np.ndarray:
    """What each unit adds to the CCC and RMSE of the dimensions; every utterance counts once, however many seeds.

    Args:
        predictions: With dimensions.
        unit: A column of the table.
        centre: Subtracted from values and targets, shape `(dimensions,)`: neither score depends on it, but sums of
            squares keep more digits.

    Returns:
        Shape `(units, 6, dimensions)`: sums of 1, x, y, x², y², xy, with x the value and y the target.
    """
    _, repeats = np.unique(predictions.table["utterance"], return_inverse=True)
    weights = (1.0 / np.bincount(repeats))[repeats]
    units, places = np.unique(predictions.table[unit], return_inverse=True)
    x, y = predictions.values - centre, predictions.targets - centre
    moments = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)
    sums = np.zeros((len(units), *moments.shape[1:]))
    np.add.at(sums, places, weights[:, None, None] * moments)
    return sums


def agreement(sums: np.ndarray) -> np.ndarray:
    """Scores of sums `(..., 6, dimensions)`, see `moments_by`: CCC, mean and of each dimension, and RMSE likewise.

    Returns:
        Shape `(..., 2 + 2 * dimensions)`, in the order of `agreement_names`; as `metrics.ccc_rmse` has them.
    """
    count, x, y, xx, yy, xy = np.moveaxis(sums, -2, 0)
    x, y, xx, yy, xy = (each / count for each in (x, y, xx, yy, xy))
    spread = xx + yy - 2 * x * y  # var x + var y + (mean x - mean y)²
    ccc = np.divide(2 * (xy - x * y), spread, out=np.zeros_like(spread), where=spread > 1e-12)
    rmse = np.sqrt((xx + yy - 2 * xy).clip(0))
    return np.concatenate([each for value in (ccc, rmse) for each in (value.mean(-1, keepdims=True), value)], axis=-1)


def holm(values: Sequence[float]) -> list[float]:
    """p-values that hold together (Holm 1979): at most a share alpha of such families has a false claim.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(values, kind="stable")
    factors = len(values) - np.arange(len(values))
    adjusted = np.minimum(1.0, np.maximum.accumulate(np.asarray(values, dtype=float)[order] * factors))
    result = np.empty(len(values))
    result[order] = adjusted
    return result.tolist()


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

    def of_drawn(drawn: np.ndarray, axis: int) -> np.ndarray:
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
