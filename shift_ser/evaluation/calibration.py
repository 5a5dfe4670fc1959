"""Whether probabilities mean what they say: calibration, the temperature that mends it, and abstaining."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_softmax, softmax

from .predictions import Predictions
from .uncertainty import cluster_unit, jackknife

logger = logging.getLogger(__name__)

NUM_BINS = 15
BOUNDS = (0.05, 20.0)  # of a temperature
COVERAGES = (0.5, 0.8, 1.0)
_TINY = np.finfo(np.float64).tiny  # stands for a probability of 0, whose logarithm is not finite


def describe(predictions: Predictions, *, num_bins: int = NUM_BINS) -> dict[str, Any]:
    """Calibration and selective accuracy of predictions.

    Args:
        predictions: With probabilities, and with a temperature where one was fitted on the validation set.
        num_bins: Bins of the calibration error.

    Returns:
        `temperature` (for several: the list of different ones), `ece_before`, `ece_after`, `nll_before`, `nll_after`
        (mean negative log-likelihood in nats; the two after are `None` without a temperature), and `aurc` and
        `accuracy_at` (`{"50%": ..., "80%": ..., "100%": ...}` of the most confident utterances) of the probabilities
        with the temperature, if there is one; `ece_calibrated`, the `mean` and `quantile` (95 %) of the calibration
        error that perfectly calibrated probabilities of so many utterances would have; `brier_before` and
        `brier_after`; and `intervals`, for `nll` and `brier` of the probabilities with the temperature: `[low, high]`
        over folds or speakers (see `uncertainty.cluster_unit`), `None` where there can be none.

    Raises:
        ValueError: If there are no probabilities.
    """
    probabilities, references, temperature = (
        probabilities_of(predictions),
        predictions.references,
        predictions.temperature,
    )
    before = probabilities
    described: dict[str, Any] = {"temperature": None, "ece_after": None, "nll_after": None}
    if temperature is not None:
        probabilities = apply_temperature(probabilities, temperature)
        different = np.unique(temperature).tolist()
        described["temperature"] = different[0] if len(different) == 1 else different
        described["ece_after"] = calibration_error(probabilities, references=references, num_bins=num_bins)
        described["nll_after"] = negative_log_likelihood(probabilities, references=references)
    described["ece_before"] = calibration_error(before, references=references, num_bins=num_bins)
    described["nll_before"] = negative_log_likelihood(before, references=references)
    described["brier_before"] = float(brier_scores(before, references=references).mean())
    described["brier_after"] = None
    if temperature is not None:
        described["brier_after"] = float(brier_scores(probabilities, references=references).mean())
    described["ece_calibrated"] = calibrated_error(probabilities, num_bins=num_bins)
    described["intervals"] = _intervals(predictions, probabilities)
    coverage, risk = risk_coverage(probabilities, references=references)
    kept = [int(np.searchsorted(coverage, share - 1e-9)) for share in COVERAGES]
    described["aurc"] = float(risk.mean())
    described["accuracy_at"] = {f"{c:.0%}": float(1 - risk[place]) for c, place in zip(COVERAGES, kept, strict=True)}
    return described


def probabilities_of(predictions: Predictions) -> np.ndarray:
    """The probabilities `(rows, labels)`.

    Raises:
        ValueError: If the table has none.
    """
    if predictions.probabilities is None:
        raise ValueError(f"predictions must have probabilities p_<label>, got the columns {list(predictions.table)}")
    return predictions.probabilities


def reliability_table(
    probabilities: np.ndarray, *, references: np.ndarray, num_bins: int = NUM_BINS
) -> list[dict[str, Any]]:
    """Confidence (the top probability) and accuracy in equally wide bins of the confidence.

    Args:
        probabilities: Shape `(utterances, labels)`.
        references: Class numbers, shape `(utterances,)`.
        num_bins: Number of bins from 0 to 1; a bin holds its upper edge, the first one 0 as well.

    Returns:
        For each bin `lower`, `upper`, `count`, and the means `confidence` and `accuracy`, `None` in an empty bin.

    Raises:
        ValueError: If there is nothing to score, shapes do not fit, or there are no bins.
    """
    confidence, right = _top(probabilities, references)
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}")
    edges, bins = _binned(confidence, num_bins)
    table = []
    for number in range(num_bins):
        here = bins == number
        entry: dict[str, Any] = {"lower": float(edges[number]), "upper": float(edges[number + 1])}
        entry["count"] = int(here.sum())
        for name, values in (("confidence", confidence), ("accuracy", right)):
            entry[name] = float(values[here].mean()) if here.any() else None
        table.append(entry)
    return table


def calibration_error(probabilities: np.ndarray, *, references: np.ndarray, num_bins: int = NUM_BINS) -> float:
    r"""Expected calibration error of the top label (ECE; Naeini et al. 2015, Guo et al. 2017).

    .. math::
        \text{ECE} = \sum_b \frac{n_b}{N} \left| \text{acc}_b - \text{conf}_b \right|

    over equally wide bins of the top probability, with :math:`n_b` of :math:`N` utterances in bin :math:`b`, their
    accuracy and their mean top probability. Arguments as in `reliability_table`.

    Example:
        >>> probabilities = np.array([[0.75, 0.25], [0.75, 0.25]])
        >>> calibration_error(probabilities, references=np.array([0, 1]))
        0.25
    """
    bins = [
        entry
        for entry in reliability_table(probabilities, references=references, num_bins=num_bins)
        if entry["count"]
    ]  # fmt: skip
    return sum(entry["count"] * abs(entry["accuracy"] - entry["confidence"]) for entry in bins) / len(references)


def negative_log_likelihood(probabilities: np.ndarray, *, references: np.ndarray) -> float:
    """Mean over utterances of minus the natural logarithm of the true label's probability."""
    true = np.take_along_axis(probabilities, np.asarray(references)[:, None], axis=1)
    return float(-np.log(np.maximum(true, _TINY)).mean())


def _binned(confidence: np.ndarray, num_bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges of the bins from 0 to 1, and in which bin each confidence is: upper edges belong to theirs."""
    edges = np.linspace(0, 1, num_bins + 1)
    return edges, np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, num_bins - 1)


def brier_scores(probabilities: np.ndarray, *, references: np.ndarray) -> np.ndarray:
    """Squared distance of each utterance's probabilities to its label, 0 to 2, shape `(utterances,)` (Brier 1950).

    Example:
        >>> brier_scores(np.array([[0.75, 0.25]]), references=np.array([1])).tolist()
        [1.125]
    """
    truth = np.eye(probabilities.shape[1])[references]
    return ((probabilities - truth) ** 2).sum(axis=1)


def calibrated_error(
    probabilities: np.ndarray, *, num_bins: int = NUM_BINS, num_draws: int = 1000, seed: int = 0
) -> dict[str, float]:
    """What calibration error perfect calibration would show: with few utterances it is not 0.

    Whether each top label is right is drawn with its own probability.

    Returns:
        `mean` and `quantile` (95 %) of the calibration error over the draws.
    """
    confidence = probabilities.max(axis=1)
    _, bins = _binned(confidence, num_bins)
    member = np.eye(num_bins)[bins]
    right = np.random.default_rng(seed).random((num_draws, len(confidence))) < confidence
    errors = abs((right - confidence) @ member).sum(axis=1) / len(confidence)
    return {"mean": float(errors.mean()), "quantile": float(np.quantile(errors, 0.95))}


def _intervals(predictions: Predictions, probabilities: np.ndarray) -> dict[str, list[float] | None]:
    """Of the mean over utterances of the negative log-likelihood and the Brier score."""
    unit, _ = cluster_unit(predictions)
    if unit is None:
        return {"nll": None, "brier": None}
    true = np.take_along_axis(probabilities, predictions.references[:, None], axis=1)[:, 0]
    losses = [-np.log(np.maximum(true, _TINY)), brier_scores(probabilities, references=predictions.references)]
    units, places = np.unique(predictions.table[unit], return_inverse=True)
    sums = np.zeros((len(units), 3))
    np.add.at(sums, places, np.stack([*losses, np.ones(len(true))], axis=1))
    found = jackknife(sums, statistic=lambda total: total[..., :2] / total[..., 2:]).interval()
    return {name: ends.clip(0).tolist() for name, ends in zip(("nll", "brier"), found, strict=True)}


def fit_temperature(
    logits: np.ndarray, *, references: np.ndarray, bounds: tuple[float, float] = BOUNDS
) -> float:  # fmt: skip
    r"""The temperature T at which softmax(logits / T) gives the true labels the greatest likelihood (Guo et al. 2017).

    In :math:`\beta = 1/T` the negative log-likelihood is convex; its derivative, the mean over utterances of the
    expected logit less the true label's, rises, and T is where it crosses 0.

    Args:
        logits: Shape `(utterances, labels)`; logarithms of probabilities do as well, also that of 0.
        references: Class numbers, shape `(utterances,)`.
        bounds: Least and greatest T. The least is what a set without errors asks for, the greatest what one gets that
            is no better than guessing; both are logged.

    Returns:
        T; 1 where all logits of each utterance are equal, since T then changes nothing.

    Raises:
        ValueError: If there is nothing to fit, shapes do not fit, a top logit is not finite, or bounds are not
            `0 < low < high`.

    Example:
        >>> logits = np.array([[np.log(9.0), 0.0]] * 4)  # 90 % sure, 75 % right
        >>> round(fit_temperature(logits, references=np.array([0, 0, 0, 1])), 6)
        2.0
    """
    if not 0 < bounds[0] < bounds[1] < np.inf:
        raise ValueError(f"bounds must be 0 < low < high, got {bounds}")
    logits = np.asarray(logits, dtype=np.float64)
    _top(logits, references)
    # A logit further below the top one than this has probability 0 in double, and infinity would give NaN.
    shifted = np.maximum(logits - logits.max(axis=1, keepdims=True), np.log(_TINY))
    true = np.take_along_axis(shifted, np.asarray(references)[:, None], axis=1)

    def slope(beta: float) -> float:
        return float(((softmax(beta * shifted, axis=1) * shifted).sum(axis=1) - true[:, 0]).mean())

    if not shifted.any():
        return 1.0
    for bound, outside in ((bounds[0], slope(1 / bounds[0]) <= 0), (bounds[1], slope(1 / bounds[1]) >= 0)):
        if outside:
            logger.warning("the temperature is at its bound %g: the set it is fitted on tells no better one", bound)
            return float(bound)
    return 1 / float(brentq(slope, 1 / bounds[1], 1 / bounds[0]))


def temperature_of(predictions: Predictions) -> float:
    """`fit_temperature` to the predictions on a validation set."""
    logits = np.log(np.maximum(probabilities_of(predictions), _TINY))
    return fit_temperature(logits, references=predictions.references)


def apply_temperature(probabilities: np.ndarray, temperature: float | Sequence[float] | np.ndarray) -> np.ndarray:
    """Probabilities as they are when logits are divided by the temperature: the order of labels stays.

    Args:
        probabilities: Shape `(utterances, labels)`.
        temperature: One for all, or one an utterance.

    Example:
        >>> apply_temperature(np.array([[0.9, 0.1]]), 2.0).round(6)
        array([[0.75, 0.25]])
    """
    divisor = np.asarray(temperature, dtype=np.float64)
    if not (np.isfinite(divisor) & (divisor > 0)).all():
        raise ValueError(f"temperature must be finite and above 0, got {temperature}")
    return np.exp(log_softmax(np.log(np.maximum(probabilities, _TINY)) / divisor[..., None], axis=1))


def risk_coverage(probabilities: np.ndarray, *, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of errors among the most confident utterances, for every number of them (Geifman and El-Yaniv 2017).

    Utterances of equal confidence count with their mean error, so that their order does not matter. The mean of the
    risks is the area under the curve (AURC).

    Args:
        probabilities: Shape `(utterances, labels)`; confidence is the top one.
        references: Class numbers, shape `(utterances,)`.

    Returns:
        Coverage `1/N, 2/N, ..., 1` and risk, each of shape `(utterances,)`.

    Example:
        >>> probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
        >>> risk_coverage(probabilities, references=np.array([0, 1, 1]))[1]
        array([0.        , 0.        , 0.33333333])
    """
    confidence, right = _top(probabilities, references)
    _, group, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)
    errors = np.repeat(np.bincount(group, weights=~right) / sizes, sizes)
    numbers = np.arange(1, len(right) + 1)
    return numbers / len(right), np.cumsum(errors) / numbers


def _top(scores: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Top score of each utterance and whether its label is the true one, both `(utterances,)`."""
    scores, references = np.asarray(scores), np.asarray(references)
    if scores.ndim != 2 or 0 in scores.shape or references.shape != scores.shape[:1]:
        raise ValueError(
            "scores must have shape (utterances, labels) and references (utterances,), none of them 0,"
            f" got {scores.shape} and {references.shape}"
        )
    if not np.isfinite(scores.max(axis=1)).all():
        raise ValueError(
            f"scores must be numbers, the top one finite, got {scores[~np.isfinite(scores.max(axis=1))][0]}"
        )
    return scores.max(axis=1), scores.argmax(axis=1) == references
