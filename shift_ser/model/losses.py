"""What a model tells of an utterance, classes or dimensions or both, and the loss of each: `PROBLEM_TYPES`."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

DIMENSIONS = ("valence", "arousal", "dominance")  # the default of `dimensions`
_TINY = 1e-8  # keeps the CCC of constant values finite


@dataclass(frozen=True)
class ProblemType:
    """What the outputs of a model are and what it learns them from.

    Attributes:
        classes: Whether there are classes: softmax over their logits gives probabilities.
        soft: Whether classes are learned from the distribution of the raters' votes, not from one label.
        dimensions: Whether there are dimensions such as valence: the outputs are values on the scale of the corpus.
    """

    classes: bool = False
    soft: bool = False
    dimensions: bool = False


# `labels` of a batch: class numbers `(batch,)`; else floats `(batch, outputs)`, a distribution over the classes (one
# class has all of it in `multi_task`), then the values of the dimensions.
PROBLEM_TYPES = {
    "single_label_classification": ProblemType(classes=True),  # cross-entropy
    "soft_label_classification": ProblemType(classes=True, soft=True),  # cross-entropy to the raters' votes
    "regression": ProblemType(dimensions=True),  # 1 - CCC
    "multi_task": ProblemType(classes=True, dimensions=True),  # the sum of cross-entropy and 1 - CCC
}


def split_outputs(values: torch.Tensor, config: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs or labels `(batch, outputs)` as those of the classes and those of the dimensions, which come last.

    Args:
        values: Logits, or labels of floats.
        config: Its `dimensions` count.
    """
    first = values.shape[-1] - len(getattr(config, "dimensions", None) or ())
    return values[..., :first], values[..., first:]


def to_scale(outputs: torch.Tensor, config: Any) -> torch.Tensor:
    """Outputs of the classifier with the dimensions on the scale of the corpus: times its deviation, plus its mean.

    Args:
        outputs: Shape `(batch, outputs)`.
        config: Its `dimensions`, `dimension_means` and `dimension_stds` count.
    """
    if not config.dimensions:
        return outputs
    outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))  # means of squares, in few digits, are not
    if config.dimension_means is None:
        return outputs
    logits, values = split_outputs(outputs, config)
    values = values * values.new_tensor(config.dimension_stds) + values.new_tensor(config.dimension_means)
    return torch.cat([logits, values], dim=-1) if logits.shape[-1] else values


def labelled_frames(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of the frames or utterances that have a label, shapes `(labelled, classes)` and `(labelled,)`.

    Args:
        logits: Shape `(batch, time, classes)`, of utterances `(batch, classes)`.
        labels: Class numbers `(batch, time)`, of utterances `(batch,)`; -100 where there is none.
    """
    labels = labels.to(logits.device)
    return logits[labels >= 0], labels[labels >= 0]


def concordance(values: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    r"""Concordance correlation coefficient of each column (CCC, Lin 1989), shape `(columns,)`.

    .. math::
        \text{CCC} = \frac{2 \operatorname{cov}(x, y)}
        {\operatorname{var} x + \operatorname{var} y + (\bar x - \bar y)^2}

    Args:
        values: Shape `(rows, columns)`.
        targets: The same shape.

    Returns:
        From -1 to 1; 0 where values or targets are constant.

    Example:
        >>> concordance(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[2.0], [3.0], [4.0]])).round(decimals=4)
        tensor([0.5714])
    """
    means, centres = values.mean(dim=0), targets.mean(dim=0)
    covariance = ((values - means) * (targets - centres)).mean(dim=0)
    spread = ((values - means) ** 2).mean(dim=0) + ((targets - centres) ** 2).mean(dim=0)
    return 2 * covariance / (spread + (means - centres) ** 2 + _TINY)


def classification_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    *,
    weight: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
) -> torch.Tensor:
    r"""Cross-entropy, torch's own, or the focal loss (Lin et al. 2017), a scalar.

    .. math::
        \text{focal} = -\sum_c w_c \, t_c \, (1 - p_c)^\gamma \log p_c

    Args:
        logits: Shape `(batch, classes)`.
        targets: Class numbers `(batch,)`, or distributions `(batch, classes)`.
        weight: Weight of each class, shape `(classes,)`. With class numbers the loss is divided by the weights of the
            batch, with distributions by the batch, as in torch.
        label_smoothing: Share of the target that goes to all classes evenly.
        focal_gamma: How much less an utterance counts that is classified surely; 0: cross-entropy.

    Example:
        >>> classification_loss(torch.zeros(1, 4), torch.tensor([2])).round(decimals=4)  # ln 4
        tensor(1.3863)
    """
    if focal_gamma == 0:
        return functional.cross_entropy(logits, targets, weight=weight, label_smoothing=label_smoothing)
    classes = logits.shape[-1]
    shares = targets if targets.is_floating_point() else functional.one_hot(targets, classes).to(logits.dtype)
    smoothed = shares * (1 - label_smoothing) + label_smoothing / classes
    weight = logits.new_ones(classes) if weight is None else weight
    logs = logits.log_softmax(dim=-1)
    # -expm1 is 1 - p without its rounding: at p = 1 the power of a rounded 0 has no gradient for gamma < 1.
    losses = (-weight * smoothed * (-torch.expm1(logs)).clamp(min=_TINY) ** focal_gamma * logs).sum()
    return losses / (len(targets) if targets.is_floating_point() else (weight * shares).sum())


def problem_loss(
    outputs: torch.Tensor,
    labels: torch.Tensor,
    *,
    config: Any,
    num_items_in_batch: torch.Tensor | int | None = None,
    **options: Any,
) -> torch.Tensor:
    """Loss of a batch as `config.problem_type` says: of the classes, plus 1 - CCC (mean over the dimensions).

    Args:
        outputs: Logits of the classes, then values of the dimensions, shape `(batch, outputs)`.
        labels: Class numbers `(batch,)` for `single_label_classification`, else floats `(batch, outputs)`.
        config: The model's configuration.
        num_items_in_batch: Numbers in the labels of all batches whose gradients are added (the Trainer says it): each
            batch then counts by its share of them.
        **options: Of `classification_loss`.

    Raises:
        ValueError: If the labels have another shape or kind.
    """
    labels = labels.to(outputs.device)
    problem, hard = PROBLEM_TYPES[config.problem_type], config.problem_type == "single_label_classification"
    wanted = outputs.shape[:1] if hard else outputs.shape
    if labels.shape != wanted or labels.is_floating_point() == hard:
        raise ValueError(
            f"labels of {config.problem_type} must be {'class numbers' if hard else 'floats'} of shape"
            f" {tuple(wanted)}, got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    logits, values = split_outputs(outputs, config)
    targets = labels if hard else labels.to(outputs.dtype)
    shares, truth = (targets, values) if hard else split_outputs(targets, config)
    loss = outputs.new_zeros(())
    if problem.classes:
        loss = classification_loss(logits, shares, **options)
    if problem.dimensions:
        loss = loss + 1 - concordance(values, truth).mean()
    return loss if num_items_in_batch is None else loss * (labels.numel() / num_items_in_batch)
