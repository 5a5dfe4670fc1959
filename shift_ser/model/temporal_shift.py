"""The temporal shift: some channels of each frame are exchanged with a neighbouring frame, at no cost in parameters."""

from functools import lru_cache
from typing import Any

import torch
from torch import nn

SHIFT_DIRECTIONS = ("forward", "bidirectional")
SHIFT_PADDINGS = ("zero", "repeat")


def shifted_channels(channels: int, *, proportion: float) -> int:
    """Number of channels that move in each direction, `floor(channels * proportion)`.

    With `proportion = 1 / n_div` this is the authors' `channels // n_div`; the small constant keeps a quotient that
    floating point puts just below a whole number (49 * (1 / 49)) from losing a channel.

    Example:
        >>> shifted_channels(768, proportion=1 / 16)
        48
        >>> shifted_channels(49, proportion=1 / 49)
        1
    """
    return int(channels * proportion + 1e-6)


def check_shift(*, proportion: float, stride: int, direction: str, padding: str) -> None:
    """Raise `ValueError` unless the four options make a shift; the message names the option, the rule and the value."""
    if direction not in SHIFT_DIRECTIONS:
        raise ValueError(f"direction must be one of {SHIFT_DIRECTIONS}, got {direction!r}")
    if padding not in SHIFT_PADDINGS:
        raise ValueError(f"padding must be one of {SHIFT_PADDINGS}, got {padding!r}")
    most = 0.5 if direction == "bidirectional" else 1.0
    if not 0 <= proportion <= most:
        raise ValueError(
            f"proportion is the share of channels per direction and must be from 0 to {most:g} for a {direction} shift,"
            f" got {proportion}"
        )
    if isinstance(stride, bool) or not isinstance(stride, int) or stride < 1:
        raise ValueError(f"stride must be a whole number of frames of at least 1, got {stride!r}")


def temporal_shift(
    hidden_states: torch.Tensor,
    *,
    proportion: float,
    stride: int = 1,
    direction: str = "forward",
    padding: str = "zero",
    attention_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Move the first channels of each frame by `stride` frames and leave the others where they are.

    With `fold = floor(channels * proportion)`, channels `[0, fold)` are delayed, `out[t] = x[t - stride]`; a
    bidirectional shift also advances channels `[fold, 2 * fold)`, `out[t] = x[t + stride]`. A frame that has no
    such neighbour becomes zero, or takes the utterance's first (last) frame with `padding="repeat"`.

    Source: Shen et al. 2024, Intelligent Computing 3:0073; `proportion` is `1 / n_div` in the authors' code.

    Args:
        hidden_states: Frame features, shape `(batch, time, channels)`, any floating dtype. Never modified.
        proportion: Share of the channels that moves in each direction, 0 to 1 (0 to 0.5 if bidirectional).
        stride: Frames to move by, at least 1; may exceed the length.
        direction: `"forward"` (delay only) or `"bidirectional"`.
        padding: What fills vacated frames, `"zero"` or `"repeat"`.
        attention_mask: Shape `(batch, time)`, nonzero on an utterance's frames, zero on the padding at its right.
            Padded frames count as absent: nothing flows in from them and they come out zero. `None`: all are frames.

    Returns:
        New tensor of the same shape, dtype and device.

    Raises:
        ValueError: If a shape or an option breaks its rule (the message shows the value).

    Example:
        >>> x = torch.tensor([[[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]]])
        >>> temporal_shift(x, proportion=0.5)[0].tolist()
        [[0.0, 10.0], [1.0, 20.0], [2.0, 30.0]]
        >>> temporal_shift(x, proportion=0.5, direction="bidirectional")[0].tolist()
        [[0.0, 20.0], [1.0, 30.0], [2.0, 0.0]]
    """
    check_shift(proportion=proportion, stride=stride, direction=direction, padding=padding)
    if hidden_states.dim() != 3:
        raise ValueError(f"hidden_states must have shape (batch, time, channels), got {tuple(hidden_states.shape)}")
    if attention_mask is not None and attention_mask.shape != hidden_states.shape[:2]:
        raise ValueError(
            f"attention_mask must have shape (batch, time) = {tuple(hidden_states.shape[:2])},"
            f" got {tuple(attention_mask.shape)}"
        )
    fold = shifted_channels(hidden_states.shape[-1], proportion=proportion)
    offsets = (stride, -stride) if direction == "bidirectional" else (stride,)
    if fold == 0:
        shifted = hidden_states.clone()
    elif padding == "repeat":
        shifted = _gather(hidden_states, fold, offsets, attention_mask)
    else:
        if len(offsets) == 2:  # an advance would bring padding into the last frames
            hidden_states = zero_padding(hidden_states, attention_mask)
        shifted = _exchange(hidden_states, fold, offsets)
    return zero_padding(shifted, attention_mask)


def zero_padding(hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Frames `(batch, time, channels)` with everything beyond the mask `(batch, time)` set to zero, NaN included."""
    if attention_mask is None:
        return hidden_states
    return hidden_states.masked_fill(~attention_mask.bool().unsqueeze(-1), 0.0)


def _exchange(hidden_states: torch.Tensor, fold: int, offsets: tuple[int, ...]) -> torch.Tensor:
    """The shift with zero padding, in the way that suits who asks; values and gradients are the same in all."""
    transformed = torch._C._are_functorch_transforms_active()  # torch.func: grad, hessian, vmap, ... in any nesting
    if (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or transformed
        or type(hidden_states) is not torch.Tensor
    ):
        return _pad_and_cat(hidden_states, fold, offsets)
    if hidden_states.requires_grad and torch.is_grad_enabled():
        return _Exchange.apply(hidden_states, fold, offsets)
    return _Exchange.forward(hidden_states, fold, offsets)


class _Exchange(torch.autograd.Function):
    """The shift with zero padding at about the cost of one copy, forward and backward.

    The adjoint of a shift is the shift the other way.
    """

    @staticmethod
    def forward(hidden_states: torch.Tensor, fold: int, offsets: tuple[int, ...]) -> torch.Tensor:
        """Channels `[i * fold, (i + 1) * fold)` go to the frame `offsets[i]` later."""
        whole_runs = hidden_states.shape[-1] % fold == 0 and fold >= 64  # shorter ones cost more than they spare
        if whole_runs and hidden_states.is_contiguous() and hidden_states.numel():
            return _copy_rows(hidden_states, fold, offsets)
        shifted = hidden_states.clone(memory_format=torch.contiguous_format)
        for index, offset in enumerate(offsets):
            moved = slice(index * fold, (index + 1) * fold)
            target, source, vacated = _spans(offset)
            shifted[:, target, moved] = hidden_states[:, source, moved]
            shifted[:, vacated, moved] = 0.0
        return shifted

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        """Nothing but the options is kept: the shift is linear."""
        _, ctx.fold, ctx.offsets = inputs

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Bring every gradient back to the frame that its value came from."""
        return _Exchange.apply(gradient, ctx.fold, tuple(-offset for offset in ctx.offsets)), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, *_: None) -> torch.Tensor:
        """A tangent moves as its value does."""
        return _Exchange.apply(tangent, ctx.fold, ctx.offsets)


def _spans(offset: int) -> tuple[slice, slice, slice]:
    """Frames that a move by `offset` writes, those that it reads, and those that it leaves empty."""
    if offset > 0:
        return slice(offset, None), slice(None, -offset), slice(None, offset)
    return slice(None, offset), slice(-offset, None), slice(offset, None)


def _copy_rows(hidden_states: torch.Tensor, fold: int, offsets: tuple[int, ...]) -> torch.Tensor:
    """Every run of `fold` channels is one row, and all rows are fetched in one pass through memory."""
    batch, length, channels = hidden_states.shape
    source = _sources(batch, length, channels // fold, offsets, hidden_states.device)
    shifted = hidden_states.view(-1, fold).index_select(0, source).view(batch, length, channels)
    for index, offset in enumerate(offsets):
        shifted[:, _spans(offset)[2], index * fold : (index + 1) * fold] = 0.0
    return shifted


@lru_cache(maxsize=32)
def _sources(batch: int, length: int, runs: int, offsets: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """For each run of each frame, flat, the number of the run that comes there; vacated ones keep their own."""
    source = torch.arange(batch * length * runs, dtype=torch.int32, device=device).view(batch, length, runs)
    for index, offset in enumerate(offsets):
        source[:, _spans(offset)[0], index] -= offset * runs
    return source.view(-1)


def _pad_and_cat(hidden_states: torch.Tensor, fold: int, offsets: tuple[int, ...]) -> torch.Tensor:
    """The same in operations that compile and export at any length: padding, then slicing."""
    length, parts = hidden_states.shape[1], []
    for index, offset in enumerate(offsets):
        part = hidden_states[..., index * fold : (index + 1) * fold]
        if offset > 0:
            parts.append(nn.functional.pad(part, (0, 0, offset, 0))[:, :length])
        else:
            parts.append(nn.functional.pad(part, (0, 0, 0, -offset))[:, -offset:])
    return torch.cat([*parts, hidden_states[..., len(parts) * fold :]], dim=-1)


def _gather(
    hidden_states: torch.Tensor, fold: int, offsets: tuple[int, ...], attention_mask: torch.Tensor | None
) -> torch.Tensor:
    """The shift whose vacated frames take the utterance's first or last frame."""
    batch, length, _ = hidden_states.shape
    position = torch.arange(length, device=hidden_states.device).expand(batch, -1)
    utterance = torch.arange(batch, device=hidden_states.device)[:, None]
    last = torch.full_like(position[:, :1], length - 1)
    if attention_mask is not None:
        last = attention_mask.bool().sum(dim=1, keepdim=True).sub(1).clamp(min=0)
    parts = []
    for index, offset in enumerate(offsets):
        part = hidden_states[..., index * fold : (index + 1) * fold]
        source = torch.minimum(position.sub(offset).clamp(min=0), last)
        parts.append(part[utterance, source])
    return torch.cat([*parts, hidden_states[..., len(parts) * fold :]], dim=-1)


class TemporalShift(nn.Module):
    """Module twin of :func:`temporal_shift`; it holds the options and has no parameter.

    Shape:
        hidden_states `(batch, time, channels)`, attention_mask `(batch, time)` -> `(batch, time, channels)`

    Example:
        >>> shift = TemporalShift(proportion=0.25, direction="bidirectional")
        >>> shift(torch.ones(1, 3, 4))[0, :, 0].tolist()
        [0.0, 1.0, 1.0]
        >>> shift
        TemporalShift(proportion=0.25, stride=1, direction='bidirectional', padding='zero')
    """

    def __init__(
        self, *, proportion: float, stride: int = 1, direction: str = "forward", padding: str = "zero"
    ) -> None:
        super().__init__()
        check_shift(proportion=proportion, stride=stride, direction=direction, padding=padding)
        self.proportion, self.stride, self.direction, self.padding = proportion, stride, direction, padding

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Shift frames `(batch, time, channels)`; see :func:`temporal_shift`."""
        return temporal_shift(
            hidden_states,
            proportion=self.proportion,
            stride=self.stride,
            direction=self.direction,
            padding=self.padding,
            attention_mask=attention_mask,
        )

    def step(self, frames: torch.Tensor, past: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Shift the next frames of a stream; a forward shift alone can.

        Args:
            frames: Those that come next, shape `(batch, time, channels)`, at least one.
            past: What the step before returned, shape `(batch, stride, moved channels)`; None at the first frames.

        Returns:
            The shifted frames, the same shape, and what the next step takes.

        Raises:
            ValueError: If the shift is not forward: it would need frames that are still to come.

        Example:
            >>> shift = TemporalShift(proportion=0.5)
            >>> first, past = shift.step(torch.tensor([[[1.0, 10.0], [2.0, 20.0]]]), None)
            >>> shift.step(torch.tensor([[[3.0, 30.0]]]), past)[0].tolist()
            [[[2.0, 30.0]]]
        """
        if self.direction != "forward":
            raise ValueError(f"direction must be 'forward' to shift a stream, got {self.direction!r}")
        fold = shifted_channels(frames.shape[-1], proportion=self.proportion)
        moved, kept = frames[..., :fold], frames[..., fold:]
        if past is None:
            first = moved[:, :1] if self.padding == "repeat" else torch.zeros_like(moved[:, :1])
            past = first.expand(-1, self.stride, -1)
        moved = torch.cat([past, moved], dim=1)
        return torch.cat([moved[:, : frames.shape[1]], kept], dim=-1), moved[:, frames.shape[1] :]

    def extra_repr(self) -> str:
        """The options, as they appear in `repr`."""
        options = ("proportion", "stride", "direction", "padding")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in options)
