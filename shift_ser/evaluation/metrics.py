"""Weighted and unweighted accuracy and macro F1, as a function, as an `evaluate.Metric` and for the `Trainer`."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import accuracy_score, f1_score, recall_score
from transformers import EvalPrediction

SCORES = ("wa", "ua", "f1")

_DESCRIPTION = (
    "Weighted accuracy (share of all utterances), unweighted accuracy (mean over classes of the recall) and macro F1"
    " (mean over classes of the F1)."
)
_INPUTS = "Args: predictions, references: class numbers, one an utterance. Returns: wa, ua and f1, floats in [0, 1]."


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
