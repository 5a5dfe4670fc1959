"""The scores: accuracy, recall and F1 of classes, CCC and RMSE of dimensions; also as an `evaluate.Metric`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import accuracy_score, f1_score, recall_score
from transformers import EvalPrediction

SCORES = ("wa", "ua", "f1")  # of classes
AGREEMENT = ("ccc", "rmse")  # of dimensions: the mean over them, and with `_<dimension>` of each

_DESCRIPTION = (
    "Weighted accuracy (share of all utterances), unweighted accuracy (mean over classes of the recall) and macro F1"
    " (mean over classes of the F1)."
)
_INPUTS = "Args: predictions, references: class numbers, one an utterance. Returns: wa, ua and f1, floats in [0, 1]."


@dataclass(frozen=True)
class Score:
    """How a score is shown, and what is good.

    Attributes:
        title: Its name in tables.
        percent: Whether it is shown in percent.
        low: Least value.
        high: Greatest value.
        greater_is_better: Whether the greatest value is the best.
    """

    title: str
    percent: bool = True
    low: float = 0.0
    high: float = 1.0
    greater_is_better: bool = True

    def shown(self, value: float, *, digits: int = 2, sign: bool = False) -> str:
        """A value, or a difference, as text: percent with so many digits, else with one more.

        Example:
            >>> score_of("ua").shown(0.51234), score_of("ccc_valence").shown(0.51234)
            ('51.23', '0.512')
        """
        value, digits = (100 * value, digits) if self.percent else (value, digits + 1)
        return f"{value:{'+' if sign else ''}.{digits}f}"


_SHOWN = {
    "wa": Score("WA"),
    "ua": Score("UA"),
    "f1": Score("F1"),
    "ccc": Score("CCC", percent=False, low=-1.0),
    "rmse": Score("RMSE", percent=False, high=float("inf"), greater_is_better=False),
}


def score_of(name: str) -> Score:
    """How the score of that name is shown: `wa`, `ccc`, `ccc_valence`, ...

    Raises:
        KeyError: If there is none.

    Example:
        >>> score_of("rmse_arousal").title
        'RMSE arousal'
    """
    kind, _, dimension = name.partition("_")
    score = _SHOWN[kind]
    return Score(**{**vars(score), "title": f"{score.title} {dimension}"}) if dimension else score


def agreement_names(dimensions: Sequence[str]) -> list[str]:
    """Names of the scores of dimensions: CCC and RMSE, each the mean and for each dimension.

    Example:
        >>> agreement_names(["valence"])
        ['ccc', 'ccc_valence', 'rmse', 'rmse_valence']
    """
    return [name for kind in AGREEMENT for name in (kind, *(f"{kind}_{dimension}" for dimension in dimensions))]


def score_names(scores: Iterable[str]) -> list[str]:
    """Which of some names are scores, in their order.

    Example:
        >>> score_names({"unit": "fold", "wa": 0.5, "ccc_valence": 0.4, "level": 0.95})
        ['wa', 'ccc_valence']
    """
    return [name for name in scores if name.partition("_")[0] in _SHOWN]


def shown_names(names: Sequence[str]) -> list[str]:
    """Those of some scores that a table has room for: of dimensions the CCC of each in place of their mean, and RMSE.

    Example:
        >>> shown_names(["ua", "ccc", "ccc_valence", "ccc_arousal", "rmse", "rmse_valence", "rmse_arousal"])
        ['ua', 'ccc_valence', 'ccc_arousal', 'rmse']
    """
    return [name for name in names if name != "ccc" and not name.startswith("rmse_")]


def ccc_rmse(values: np.ndarray, *, targets: np.ndarray, dimensions: Sequence[str]) -> dict[str, float]:
    r"""Concordance correlation coefficient (CCC, Lin 1989) and root mean square error (RMSE), as audmetric has them.

    .. math::
        \text{CCC} = \frac{2 \operatorname{cov}(x, y)}
        {\operatorname{var} x + \operatorname{var} y + (\bar x - \bar y)^2}
        \qquad \text{RMSE} = \sqrt{\overline{(x - y)^2}}

    Args:
        values: Predicted, shape `(utterances, dimensions)`.
        targets: True, the same shape.
        dimensions: Their names.

    Returns:
        `ccc` and `rmse`, means over the dimensions, and `ccc_<dimension>` and `rmse_<dimension>`. The CCC is 0 where
        values and targets are one constant.

    Raises:
        ValueError: If there is nothing to score or the shapes differ.

    Example:
        >>> values, targets = np.array([[0.0], [1.0], [1.0]]), np.array([[0.0], [1.0], [2.0]])
        >>> round(ccc_rmse(values, targets=targets, dimensions=["valence"])["ccc"], 4)
        0.6667
    """
    values, targets = np.asarray(values, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    if values.shape != targets.shape or values.shape[1:] != (len(dimensions),) or not len(values):
        raise ValueError(
            f"values and targets must have shape (utterances, {len(dimensions)}), got {values.shape} and"
            f" {targets.shape}"
        )
    means, centres = values.mean(axis=0), targets.mean(axis=0)
    covariance = ((values - means) * (targets - centres)).mean(axis=0)
    spread = values.var(axis=0) + targets.var(axis=0) + (means - centres) ** 2
    ccc = np.divide(2 * covariance, spread, out=np.zeros_like(spread), where=spread > 0)
    rmse = np.sqrt(((values - targets) ** 2).mean(axis=0))
    numbers = [float(number) for each in (ccc, rmse) for number in (each.mean(), *each)]
    return dict(zip(agreement_names(dimensions), numbers, strict=True))


def wa_ua_f1(predictions: Sequence[int] | np.ndarray, *, references: Sequence[int] | np.ndarray) -> dict[str, float]:
    r"""Weighted accuracy (WA), unweighted accuracy (UA, balanced accuracy) and macro F1.

    .. math::
        \text{WA} = \frac{1}{N} \sum_c t_c \qquad \text{UA} = \frac{1}{|C|} \sum_{c \in C} \frac{t_c}{n_c} \qquad
        \text{F1} = \frac{1}{|C|} \sum_{c \in C} \frac{2 t_c}{n_c + p_c}

    where :math:`n_c` of the :math:`N` utterances belong to class :math:`c`, :math:`p_c` are predicted to, and
    :math:`t_c` rightly so. :math:`C` are the classes present in the references: an absent one has no recall.

    Args:
        predictions: Predicted class numbers, shape `(utterances,)`.
        references: True class numbers, shape `(utterances,)`.

    Returns:
        `{"wa": ..., "ua": ..., "f1": ...}`, each between 0 and 1.

    Raises:
        ValueError: If there is nothing to score or the lengths differ.

    Example:
        >>> wa_ua_f1([0, 0, 1, 2], references=[0, 0, 0, 2])
        {'wa': 0.75, 'ua': 0.8333333333333333, 'f1': 0.9}
    """
    if not 0 < len(references) == len(predictions):
        raise ValueError(
            f"predictions and references must be of one length above 0, got {len(predictions)} and {len(references)}"
        )
    macro: dict[str, Any] = {"labels": np.unique(references), "average": "macro"}
    return {
        "wa": float(accuracy_score(references, predictions)),
        "ua": float(recall_score(references, predictions, **macro)),
        "f1": float(f1_score(references, predictions, **macro)),
    }


class SpeechEmotionMetric(evaluate.Metric):
    """`wa_ua_f1` as an `evaluate.Metric` that needs no Hub and touches no file.

    Predictions are kept in memory, so several processes can compute it at once.

    Example:
        >>> metric = SpeechEmotionMetric()
        >>> metric.compute(predictions=[0, 1, 1], references=[0, 1, 0])
        {'wa': 0.6666666666666666, 'ua': 0.75, 'f1': 0.6666666666666666}
    """

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        integers = datasets.Value("int64")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": integers, "references": integers}),
        )

    def _build_data_dir(self) -> str:
        """No folder: the base class would make one in the home directory even when all is kept in memory."""
        return ""

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return wa_ua_f1(predictions, references=references)


def compute_metrics(eval_prediction: EvalPrediction) -> dict[str, float]:
    """WA, UA and macro F1 of the likeliest class, for the `compute_metrics` argument of the `Trainer`.

    Args:
        eval_prediction: `predictions` are logits, shape `(utterances, labels)`, or a tuple that starts with them;
            `label_ids` are class numbers, shape `(utterances,)`.

    Returns:
        `{"wa": ..., "ua": ..., "f1": ...}`
    """
    predictions: Any = eval_prediction.predictions
    logits = predictions[0] if isinstance(predictions, tuple) else predictions
    return SpeechEmotionMetric().compute(predictions=logits.argmax(-1), references=eval_prediction.label_ids)
