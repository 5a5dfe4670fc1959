"""Which parameters decay, and the learning rates of the two published scenarios, step by step."""

import math

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

SCHEDULES = ("authors_cosine", "authors_finetuning", "transformers")


def decay_parameter_names(model: nn.Module) -> list[str]:
    """Names of the parameters that weight decay applies to: all but vectors and biases (authors' code).

    Example:
        >>> decay_parameter_names(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)))
        ['0.weight']
    """
    return [name for name, value in model.named_parameters() if value.dim() != 1 and not name.endswith(".bias")]


def cosine_rate(
    step: int, *, base: float, num_steps: int, warmup_steps: int, warmup_start: float, minimum: float
) -> float:
    """Learning rate of optimizer step `step` (from 0) in the feature extraction scenario.

    The authors set the rate of t *after* step t, so step s runs at r(max(s - 1, 0)), where r rises linearly from
    `warmup_start` towards `base` for t < `warmup_steps` and then follows
    `minimum + (base - minimum) * (1 + cos(pi * t / num_steps)) / 2`: the warm-up takes nothing off the cosine.

    Example:
        >>> options = dict(base=5e-4, num_steps=24, warmup_steps=8, warmup_start=5e-7, minimum=5e-6)
        >>> [round(cosine_rate(step, **options), 9) for step in (0, 1, 2, 9)]
        [5e-07, 5e-07, 6.2938e-05, 0.00037625]
    """
    step = max(step - 1, 0)
    if step < warmup_steps:
        return warmup_start + step * (base - warmup_start) / warmup_steps
    return minimum + (base - minimum) * (1 + math.cos(math.pi * min(step, num_steps) / num_steps)) / 2


def finetuning_rate(step: int, *, base: float, num_steps: int, steps_per_epoch: int, warmup_steps: int) -> float:
    """Learning rate of optimizer step `step` (from 0) in the fine-tuning scenario, as it really ran.

    Warm-up, plateau of the same length and linear decay are counted in steps, but the authors advance their schedule
    once per epoch: with 5 warm-up epochs the rate of epoch e is `base * e / (5 * steps_per_epoch)`.

    Example:
        >>> options = dict(base=5e-4, num_steps=13900, steps_per_epoch=139, warmup_steps=695)
        >>> finetuning_rate(0, **options), finetuning_rate(99 * 139, **options)
        (0.0, 7.122302158273382e-05)
    """
    count = step // steps_per_epoch
    if count < warmup_steps:
        return base * (count / warmup_steps)
    if count < 2 * warmup_steps:
        return base
    return base * max(0.0, (num_steps - count) / max(1, num_steps - 2 * warmup_steps))


def build_schedule(
    name: str,
    *,
    optimizer: Optimizer,
    num_steps: int,
    steps_per_epoch: int,
    warmup_epochs: float,
    warmup_start: float,
    minimum: float,
) -> LambdaLR:
    """The published schedule `authors_cosine` or `authors_finetuning` for an optimizer, stepped after each update.

    Args:
        name: Which of the two.
        optimizer: Its groups' rates are the base; of one that had a schedule before, those that it had then.
        num_steps: Optimizer steps of the whole training.
        steps_per_epoch: Optimizer steps of one epoch.
        warmup_epochs: Length of the warm-up.
        warmup_start: First rate of the cosine's warm-up.
        minimum: Last rate of the cosine.
    """
    group = optimizer.param_groups[0]
    base = group.get("initial_lr", group["lr"])  # as for `LambdaLR`
    warmup_steps = int(warmup_epochs * steps_per_epoch)

    def factor(step: int) -> float:
        if name == "authors_cosine":
            rate = cosine_rate(
                step,
                base=base,
                num_steps=num_steps,
                warmup_steps=warmup_steps,
                warmup_start=warmup_start,
                minimum=minimum,
            )
        else:
            rate = finetuning_rate(
                step, base=base, num_steps=num_steps, steps_per_epoch=steps_per_epoch, warmup_steps=warmup_steps
            )
        return rate / base

    return LambdaLR(optimizer, factor)
