"""Mingling and misalignment: how far the shift mixes neighbouring frames, and parts branch from shortcut.

The two notions are those of Shen et al., "Mingling or Misalignment? Temporal Shift for Speech Emotion Recognition with
Pre-trained Representations" (arXiv 2302.13277), which weighs one against the other by placement and proportion. The
formulas are this package's own.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn


def mingling(
    transform: Callable[[torch.Tensor], torch.Tensor],
    frames: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    num_frames: int | None = None,
    seed: int = 0,
) -> float:
    """Share of an output frame's sensitivity that comes from other input frames than its own.

    With J[t, s] the Jacobian of output frame t with respect to input frame s,

        mingling = 1 - sum_t ||J[t, t]||^2 / sum_t sum_s ||J[t, s]||^2     (Frobenius norms)

    over the output frames t of all utterances. Each norm is estimated from one vector of random signs v, since
    E ||J[t, s]^T v||^2 = ||J[t, s]||^2 (Hutchinson 1989); where channels do not mix, as in the shift, that is exact.

    Args:
        transform: Frames `(batch, time, channels)` of unpadded utterances in, as many frames of any width out.
        frames: Where the Jacobian is taken, shape `(batch, time, channels)`.
        attention_mask: Nonzero on the frames of an utterance, shape `(batch, time)`; padding is cut off.
        num_frames: Output frames drawn from each utterance; `None`: every one.
        seed: Of the draws.

    Returns:
        From 0 (each frame sees itself alone; also where nothing is seen at all) to 1 (each sees only others).

    Example:
        >>> from shift_ser import temporal_shift
        >>> mingling(lambda frames: temporal_shift(frames, proportion=1.0), torch.ones(1, 5, 4))
        1.0
    """
    generator = torch.Generator().manual_seed(seed)
    own = others = 0.0
    for row, utterance in enumerate(frames):
        if attention_mask is not None:
            utterance = utterance[attention_mask[row].bool()]
        chosen = torch.randperm(len(utterance), generator=generator)[:num_frames]
        every = torch.arange(len(chosen))
        with torch.enable_grad():
            copies = utterance.detach().expand(len(chosen), -1, -1).clone().requires_grad_()
            output = transform(copies)
            signs = torch.randint(0, 2, output[:, 0].shape, generator=generator) * 2.0 - 1.0
            probes = torch.zeros_like(output)
            probes[every, chosen] = signs.to(output)
            (gradient,) = torch.autograd.grad(output, copies, probes)
        energy = gradient.double().square().sum(dim=-1)
        own += energy[every, chosen].sum().item()
        energy[every, chosen] = 0.0
        others += energy.sum().item()
    return others / (own + others) if others else 0.0


def misalignment(
    branch_input: torch.Tensor, shortcut: torch.Tensor, attention_mask: torch.Tensor | None = None
) -> float:
    """How far a residual block's shortcut and what its branch reads have drifted apart, frame by frame.

    With b[t] the branch's input, s[t] the shortcut and m the mean of b over the frames of the utterance,

        misalignment = sum_t ||s[t] - b[t]||^2 / sum_t (||s[t] - m||^2 + ||b[t] - m||^2)

    which is one minus their concordance. Slow frames lose less by a shift than fast ones, and the mean, which a shift
    does not move, does not count. If frames are uncorrelated in time, shifting a share p of the channels gives p.

    Args:
        branch_input: Shape `(batch, time, channels)`.
        shortcut: What is added to the branch's output, same shape.
        attention_mask: Nonzero on the frames of an utterance, shape `(batch, time)`; padding does not count.

    Returns:
        0 if both are the same, 1 if they have nothing in common but the mean, at most 2.

    Example:
        >>> frames = torch.tensor([[[1.0], [-1.0], [1.0], [-1.0]]])
        >>> misalignment(frames, frames), misalignment(frames, -frames)
        (0.0, 2.0)
    """
    mask = torch.ones(branch_input.shape[:2]) if attention_mask is None else attention_mask
    weight = mask.to(branch_input.device).bool().unsqueeze(-1).double()
    branch, other = branch_input.double() * weight, shortcut.double() * weight
    mean = branch.sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True).clamp(min=1)
    spread = ((branch - mean).square() + (other - mean).square()) * weight
    return ((other - branch).square().sum() / spread.sum()).item() if spread.any() else 0.0


def branch_and_shortcut(
    block: nn.Module, frames: torch.Tensor, attention_mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the residual branch of a block reads and what the shortcut carries, both `(batch, time, channels)`.

    A shift in place, or instead of attention, moves both; one on the shortcut moves the shortcut alone. An LSTM block
    has no shortcut that could drift: what it reads is given twice.
    """
    for name in ("shift_in_place", "shift_replace"):
        if (shift := getattr(block, name, None)) is not None:
            frames = shift(frames, attention_mask)
    residual = getattr(block, "shift_residual", None)
    return frames, frames if residual is None else residual(frames, attention_mask)


@torch.no_grad()
def measure_blocks(
    model: Any, inputs: Mapping[str, torch.Tensor], *, num_frames: int = 8, seed: int = 0
) -> dict[str, float]:
    """Mingling and misalignment of a model's blocks on given speech: the mean over `config.shift_layers`.

    These are the blocks that have the shift; if the placement is `none`, the blocks where it would be.

    Args:
        model: `ShiftForSequenceClassification` on the CPU, set to eval mode here.
        inputs: What the model takes: `input_values`, or what of the encoder was run before, and `attention_mask`.
        num_frames: Output frames drawn from each utterance for `mingling`.
        seed: Of the draws.

    Returns:
        `mingling` and `misalignment`; empty if there is no such block.
    """
    model.eval()
    base, mask = model.shift_ser, inputs.get("attention_mask")
    states = base(**inputs, output_hidden_states=True).hidden_states
    encoded = bool({"input_values", "input_features"} & set(inputs))
    mask = base.frame_mask(mask, num_frames=states[0].shape[1], of_samples=encoded)
    mingled, misaligned = [], []
    for layer in model.config.shift_layers:
        block, frames = base.head.blocks[layer], states[layer]

        def transform(utterances: torch.Tensor, block: nn.Module = block) -> torch.Tensor:
            return block(utterances, None, False)[0]

        mingled.append(mingling(transform, frames, mask, num_frames=num_frames, seed=seed))
        misaligned.append(misalignment(*branch_and_shortcut(block, frames, mask), mask))
    count = len(mingled)
    return {"mingling": sum(mingled) / count, "misalignment": sum(misaligned) / count} if count else {}
