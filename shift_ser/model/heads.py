"""HEADS: every head with its block, placements, published settings and words; and the stack of a head's blocks.

A block that has `step(frames, state)` can be causal: a frame of its output depends on no later frame of its input. The
state is what of the frames before is still needed; the caller holds it, and None stands before the first frame.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from .temporal_shift import TemporalShift, zero_padding


def _shift_at(config: PreTrainedConfig, layer: int, placement: str) -> nn.Module | None:
    """The block's shift if it sits at `placement`, else None."""
    if config.shift_placement != placement or layer not in config.shift_layers:
        return None
    return TemporalShift(
        proportion=config.shift_proportion,
        stride=config.shift_stride,
        direction=config.shift_direction,
        padding=config.shift_padding,
    )


def _step(shift: Any, frames: torch.Tensor, past: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The next frames shifted, and what the next step takes; as they are where the block has no such shift."""
    return (frames, None) if shift is None else shift.step(frames, past)


def _shift_without_mask(shift: nn.Module, frames: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Shift frames whose padding is zero, for a block that keeps frames apart and zeroes padding at its end.

    Zeros may flow in from padding as they should, and what flows into padding goes no further: no mask is needed but
    to find the last frame that is to be repeated.
    """
    return shift(frames, mask if shift.padding == "repeat" else None)


BlockState = tuple[torch.Tensor | None, ...]  # of a block: tensors whose first axis is the batch
HeadState = tuple[BlockState, ...]  # of its blocks


class CnnBlock(GradientCheckpointingLayer):
    """ConvNeXt block over time: depthwise convolution, norm, MLP of four times the width, and a shortcut.

    Shape:
        `(batch, time, channels)` -> the same
    """

    def __init__(self, config: PreTrainedConfig, layer: int) -> None:
        super().__init__()
        width, kernel = config.hidden_size, config.conv_kernel_size
        self.causal = config.causal
        self.shift_in_place = _shift_at(config, layer, "in_place")
        self.shift_residual = _shift_at(config, layer, "residual")
        self.depthwise = nn.Conv1d(width, width, kernel, padding=0 if self.causal else kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(
        self, frames: torch.Tensor, mask: torch.Tensor | None, output_attentions: bool
    ) -> tuple[torch.Tensor, None]:
        """Frames whose padding is zero -> frames whose padding is zero; there is no attention to return."""
        if self.causal:
            return zero_padding(self.step(frames, None)[0], mask), None
        if self.shift_in_place is not None:
            frames = self.shift_in_place(frames, mask)
        branch = self._convolve(frames)
        shortcut = frames if self.shift_residual is None else _shift_without_mask(self.shift_residual, frames, mask)
        return zero_padding(shortcut + branch, mask), None

    def step(self, frames: torch.Tensor, state: BlockState | None) -> tuple[torch.Tensor, BlockState]:
        """The next frames of a stream, for a causal block; the convolution looks at the frames before."""
        in_place, before, residual = state or (None, None, None)
        frames, in_place = _step(self.shift_in_place, frames, in_place)
        if before is None:
            reach = self.depthwise.kernel_size[0] - 1
            before = frames.new_zeros(frames.shape[0], reach, frames.shape[2])
        heard = torch.cat([before, frames], dim=1)
        shortcut, residual = _step(self.shift_residual, frames, residual)
        return shortcut + self._convolve(heard), (in_place, heard[:, frames.shape[1] :], residual)

    def _convolve(self, frames: torch.Tensor) -> torch.Tensor:
        branch = self.depthwise(frames.transpose(1, 2)).transpose(1, 2)
        return self.contract(nn.functional.gelu(self.expand(self.norm(branch))))


class LstmBlock(GradientCheckpointingLayer):
    """One bidirectional LSTM layer, or a forward one in a causal head; its input may be shifted.

    The backward direction reads every utterance from its own last frame, so padding is never seen: that is what
    packing does, in operations that trace and export. Two one-way LSTMs hold the parameters.

    Shape:
        `(batch, time, channels)`, from the second block on `(batch, time, 2 * channels)`
        -> `(batch, time, 2 * channels)`; of a causal head `(batch, time, channels)` throughout
    """

    def __init__(self, config: PreTrainedConfig, layer: int) -> None:
        super().__init__()
        width = config.hidden_size
        entering = width if layer == 0 or config.causal else 2 * width
        self.shift_in_place = _shift_at(config, layer, "in_place")
        self.forward_lstm = nn.LSTM(entering, width, batch_first=True)
        self.backward_lstm = None if config.causal else nn.LSTM(entering, width, batch_first=True)

    def forward(
        self, frames: torch.Tensor, mask: torch.Tensor | None, output_attentions: bool
    ) -> tuple[torch.Tensor, None]:
        """Frames whose padding is zero -> frames whose padding is zero; there is no attention to return."""
        if self.shift_in_place is not None:
            frames = _shift_without_mask(self.shift_in_place, frames, mask)
        ahead, _ = _run_lstm(self.forward_lstm, frames)
        if self.backward_lstm is None:
            return zero_padding(ahead, mask), None
        back, _ = _run_lstm(self.backward_lstm, _reverse(frames, mask))
        return zero_padding(torch.cat([ahead, _reverse(back, mask)], dim=-1), mask), None

    def step(self, frames: torch.Tensor, state: BlockState | None) -> tuple[torch.Tensor, BlockState]:
        """The next frames of a stream, for a causal block; hidden state and cell are `(batch, channels)`."""
        past, hidden, cell = state or (None, None, None)
        frames, past = _step(self.shift_in_place, frames, past)
        before = None if hidden is None or cell is None else (hidden[None], cell[None])
        frames, (hidden, cell) = _run_lstm(self.forward_lstm, frames, before)
        return frames, (past, hidden[0], cell[0])


def _run_lstm(lstm: Any, frames: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
    """Output frames and last state; in float32 on a CPU that has no half-precision LSTM, where torch would raise."""
    dtype = frames.dtype
    if frames.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
    if frames.device.type != "cpu" or dtype == torch.float32 or _has_half_precision_lstm(dtype):
        return lstm(frames) if state is None else lstm(frames, state)
    with torch.autocast("cpu", enabled=False):  # with converted weights as arguments: the module is left as it is
        zero = frames.new_zeros(1, len(frames), lstm.hidden_size, dtype=torch.float32)
        hidden, cell = (zero, zero) if state is None else (part.float() for part in state)
        weights = [weight.float() for weight in lstm._flat_weights]
        frames, hidden, cell = torch.lstm(
            frames.float(), (hidden, cell), weights, True, 1, 0.0, lstm.training, False, True
        )
        return frames.to(dtype), (hidden, cell)


def _has_half_precision_lstm(dtype: torch.dtype) -> bool:
    supported = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    return dtype in supported and supported[dtype]()


def _reverse(frames: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Each utterance's frames in reverse order, its padding left where it is; twice gives the input back."""
    if mask is None:
        return frames.flip(1)
    position = torch.arange(frames.shape[1], device=frames.device).expand(frames.shape[0], -1)
    mirrored = mask.sum(dim=1, keepdim=True) - 1 - position
    source = torch.where(mirrored >= 0, mirrored, position)
    return frames.gather(1, source.unsqueeze(-1).expand_as(frames))


class RelativeSelfAttention(nn.Module):
    """Multi-head self-attention with relative distance embeddings and without an output projection.

    As in BERT's `relative_key(_query)`: with e(d) the embedding of the distance d = t - s, clipped to the table, the
    score of query frame t and key frame s is (q_t·k_s + q_t·e(d) [+ k_s·e(d)]) / sqrt(head width).

    Shape:
        `(batch, time, channels)`, mask `(batch, time)` -> the same, and `(batch, heads, time, time)` if asked for
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.head_width = config.hidden_size // self.num_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        if config.position_embedding_type != "absolute":
            self.distance_embedding = nn.Embedding(2 * config.max_position_embeddings - 1, self.head_width)

    def forward(
        self, frames: torch.Tensor, mask: torch.Tensor | None, output_attentions: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attended frames, and the attention probabilities if asked for."""
        batch, length, width = frames.shape
        heads = self.qkv(frames).view(batch, length, 3, self.num_heads, self.head_width)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        bias = self._bias(query, key, mask)
        probabilities = None
        if output_attentions or self.config._attn_implementation == "eager":
            scores = query @ key.transpose(-1, -2) / self.head_width**0.5
            probabilities = (scores if bias is None else scores + bias).softmax(dim=-1)
            attended = probabilities @ value
        else:
            attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return attended.transpose(1, 2).reshape(batch, length, width), probabilities if output_attentions else None

    def _bias(self, query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor | None:
        """What joins the scaled dot products: the distance terms, and the least number where a key is padding."""
        bias = None
        if self.config.position_embedding_type != "absolute":
            reach = self.config.max_position_embeddings - 1
            position = torch.arange(query.shape[2], device=query.device)
            distance = (position[:, None] - position[None, :]).clamp(-reach, reach) + reach
            embedding = self.distance_embedding(distance).to(query.dtype)
            bias = torch.einsum("bhtd,tsd->bhts", query, embedding)
            if self.config.position_embedding_type == "relative_key_query":
                bias = bias + torch.einsum("bhsd,tsd->bhts", key, embedding)
            bias = bias / self.head_width**0.5
        if mask is None:
            return bias
        absent = ~mask[:, None, None, :]
        bias = query.new_zeros(()).expand(*query.shape[:3], key.shape[2]) if bias is None else bias
        return bias.masked_fill(absent, torch.finfo(query.dtype).min)


class TransformerBlock(GradientCheckpointingLayer):
    """Post-norm transformer block; with `replace` the shift stands instead of attention, its shortcut and its norm.

    Shape:
        `(batch, time, channels)` -> the same
    """

    def __init__(self, config: PreTrainedConfig, layer: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.shift_replace = _shift_at(config, layer, "replace")
        self.shift_in_place = _shift_at(config, layer, "in_place")
        self.shift_residual = _shift_at(config, layer, "residual")
        if self.shift_replace is None:
            self.attention = RelativeSelfAttention(config)
            self.attention_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        self.mlp_norm = nn.LayerNorm(width)

    def forward(
        self, frames: torch.Tensor, mask: torch.Tensor | None, output_attentions: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Frames whose padding is zero -> frames whose padding is zero, and attention probabilities if asked for."""
        probabilities = None
        if self.shift_replace is not None:
            frames = _shift_without_mask(self.shift_replace, frames, mask)
        else:
            if self.shift_in_place is not None:
                frames = _shift_without_mask(self.shift_in_place, frames, mask)
            attended, probabilities = self.attention(frames, mask, output_attentions)
            residual = self.shift_residual
            shortcut = frames if residual is None else _shift_without_mask(residual, frames, mask)
            frames = self.attention_norm(shortcut + attended)
        return zero_padding(self._transform(frames), mask), probabilities

    def step(self, frames: torch.Tensor, state: BlockState | None) -> tuple[torch.Tensor, BlockState]:
        """The next frames of a stream, for a block whose shift replaces attention: no other one is causal."""
        (past,) = state or (None,)
        frames, past = _step(self.shift_replace, frames, past)
        return self._transform(frames), (past,)

    def _transform(self, frames: torch.Tensor) -> torch.Tensor:
        return self.mlp_norm(frames + self.contract(nn.functional.gelu(self.expand(frames))))


@dataclass(frozen=True)
class Variant:
    """A head under a name of its own: with or without the shift.

    Attributes:
        placement: Where the shift sits, one of the head's `placements`.
        title: Its name for people.
        description: What it is, for the card; follows "under a TITLE head: ".
    """

    placement: str
    title: str
    description: str


@dataclass(frozen=True)
class Head:
    """An entry of `HEADS`: everything that the rest of the package asks about one head type.

    Attributes:
        block: Class of its blocks, made as `block(config, layer)`. `forward(frames, mask, output_attentions)` takes
            `(batch, time, channels)` whose padding is zero and returns such frames, and attention probabilities or
            None. None: the head has no blocks.
        placements: Where its shift may sit; the first is the default.
        published: Settings that apply where they are left at None. A name that `ShiftConfig` does not have becomes an
            option of this head alone.
        variants: Its names in `ShiftConfig.from_variant` and on the command line; the first is the plain head.
        width: Channels of its output, in multiples of the encoder's.
        has_norm: Whether a LayerNorm follows the last block.
        has_attention: Whether a block attends to other frames, unless the shift replaces that.
        least_blocks: Least number of blocks.
        shifted: Which blocks have the shift if `shift_layers` does not say.
    """

    block: type[nn.Module] | None
    placements: tuple[str, ...]
    published: Mapping[str, Any]
    variants: Mapping[str, Variant]
    width: int = 1
    has_norm: bool = False
    has_attention: bool = False
    least_blocks: int = 1
    shifted: Literal["all", "last"] = "all"


_SHIFT = "At every step of time a share of the channels is taken from a neighbouring frame"
HEADS: dict[str, Head] = {
    "linear": Head(
        block=None,
        placements=("none",),
        published={"num_head_layers": 0, "shift_proportion": 0.25, "shift_direction": "forward"},
        variants={"linear": Variant("none", "Linear head", "the masked mean over frames and a linear layer")},
        least_blocks=0,
    ),
    "cnn": Head(
        block=CnnBlock,
        placements=("residual", "in_place", "none"),
        published={"num_head_layers": 2, "shift_proportion": 1 / 16, "shift_direction": "forward"},
        variants={
            "cnn": Variant("none", "CNN", "two ConvNeXt blocks over time, without a shift"),
            "shiftcnn": Variant(
                "residual", "ShiftCNN", f"two ConvNeXt blocks over time, the second with a shifted shortcut. {_SHIFT}"
            ),
        },
        has_norm=True,
        shifted="last",
    ),
    "lstm": Head(
        block=LstmBlock,
        placements=("in_place", "none"),
        published={"num_head_layers": 1, "shift_proportion": 1 / 4, "shift_direction": "forward"},
        variants={
            "lstm": Variant("none", "LSTM", "one bidirectional LSTM layer, without a shift"),
            "shiftlstm": Variant(
                "in_place", "ShiftLSTM", f"one bidirectional LSTM layer that reads shifted frames. {_SHIFT}"
            ),
        },
        width=2,
        has_norm=True,
    ),
    "transformer": Head(
        block=TransformerBlock,
        placements=("replace", "residual", "in_place", "none"),
        published={"num_head_layers": 2, "shift_proportion": 1 / 4, "shift_direction": "bidirectional"},
        variants={
            "transformer": Variant(
                "none", "Transformer", "two transformer blocks with relative positions, without a shift"
            ),
            "shiftformer": Variant(
                "replace",
                "Shiftformer",
                f"two transformer blocks in which a shift stands instead of attention. {_SHIFT}",
            ),
        },
        has_attention=True,
    ),
}


def variants() -> dict[str, tuple[str, Variant]]:
    """Every variant of every head: its name -> the head type, and what the variant is."""
    return {name: (head_type, variant) for head_type, head in HEADS.items() for name, variant in head.variants.items()}


def placements() -> tuple[str, ...]:
    """Every placement that some head knows."""
    return tuple(dict.fromkeys(placement for head in HEADS.values() for placement in head.placements))


class ShiftHead(nn.Module):
    """The blocks of one head type in a row, and its norm if it has one.

    Shape:
        `(batch, time, channels)`, mask `(batch, time)` bool -> `(batch, time, output_width)`
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        head, width, self.causal = HEADS[config.head_type], config.hidden_size, config.causal
        self.output_width = width if config.causal else head.width * width
        blocks = [] if head.block is None else [head.block(config, layer) for layer in range(config.num_head_layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(self.output_width) if head.has_norm else None
        self.position_embedding = None
        if config.attention_layers and config.position_embedding_type == "absolute":
            self.position_embedding = nn.Embedding(config.max_position_embeddings, width)

    def forward(
        self, frames: torch.Tensor, mask: torch.Tensor | None, output_attentions: bool = False
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """Head's output, its input and every block's output, and the attention probabilities if asked for."""
        if self.position_embedding is not None:
            position = torch.arange(frames.shape[1], device=frames.device)
            frames = frames + self.position_embedding(position.clamp(max=self.position_embedding.num_embeddings - 1))
        frames = zero_padding(frames, mask)
        states, attentions = [frames], []
        for block in self.blocks:
            frames, probabilities = block(frames, mask, output_attentions)
            states.append(frames)
            if probabilities is not None:
                attentions.append(probabilities)
        if self.norm is not None:
            frames = zero_padding(self.norm(frames), mask)
        return frames, tuple(states), tuple(attentions)

    def step(self, frames: torch.Tensor, state: HeadState | None = None) -> tuple[torch.Tensor, HeadState]:
        """Run a causal head over the next frames of a stream; the head keeps nothing, the caller holds the state.

        However the frames are divided into steps, what comes out is what `forward` gives for all of them at once
        (in float32 within 1e-5).

        Args:
            frames: Those that come next, shape `(batch, time, channels)`, at least one, without padding.
            state: What the step before returned; None before the first frame.

        Returns:
            The head's output for these frames, shape `(batch, time, output_width)`, and the state behind them.

        Raises:
            ValueError: If the head is not causal, or there is no frame.
        """
        if not self.causal:
            raise ValueError("a head must be causal to step, got one with causal=False: it looks at later frames")
        if frames.dim() != 3 or frames.shape[1] == 0:
            raise ValueError(f"frames must have shape (batch, time of at least 1, channels), got {tuple(frames.shape)}")
        states = []
        for block, before in zip(self.blocks, state or [None] * len(self.blocks), strict=True):
            step: Any = block.step
            frames, after = step(frames, before)
            states.append(after)
        return frames if self.norm is None else self.norm(frames), tuple(states)
