"""What it takes for an encoder's frames not to depend on the padding beside them.

Two places in the encoders mix padding into speech, mask or no mask. With `feat_extract_norm="group"` (wav2vec 2.0 base,
HuBERT base) the first convolution is normalised over the whole length of the batch; and data2vec's positional
convolutions, several in a row, carry what they made of padding back into speech. Both are told here where utterances
end. No parameter changes its name.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class MaskedGroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` whose statistics are taken over the first `lengths` positions only, when these are set.

    Shape:
        `(batch, channels, time)` -> the same; `lengths`: `(batch,)`, from 1 to time, or None
    """

    lengths: torch.Tensor | None = None

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Normalise; positions beyond an utterance's length are scaled like the others and count for nothing."""
        batch, channels, time = values.shape
        if self.num_groups == channels and values.dtype == torch.bfloat16 and values.transpose(1, 2).is_contiguous():
            return self._channels_last(values)
        if self.lengths is None:
            return super().forward(values)
        grouped = values.float().view(batch, self.num_groups, channels // self.num_groups, time)
        outside = _outside(self.lengths, time)[:, None, None, :]
        count = (self.lengths * (channels // self.num_groups)).view(batch, 1, 1, 1)
        centred = grouped - grouped.masked_fill(outside, 0.0).sum(dim=(2, 3), keepdim=True) / count
        variance = centred.masked_fill(outside, 0.0).square().sum(dim=(2, 3), keepdim=True) / count
        normalised = (centred * torch.rsqrt(variance + self.eps)).view(batch, channels, time)
        return (normalised * self.weight[:, None] + self.bias[:, None]).to(values.dtype)

    def _channels_last(self, values: torch.Tensor) -> torch.Tensor:
        """The same without a change of layout: with one channel a group it is the batch norm of an utterance."""
        ends = [values.shape[2]] * len(values) if self.lengths is None else self.lengths.tolist()
        rows = []
        for utterance, end in zip(values.transpose(1, 2), ends, strict=True):
            frames = torch.batch_norm(utterance[:end], self.weight, self.bias, None, None, True, 0.0, self.eps, False)
            rows.append(nn.functional.pad(frames, (0, 0, 0, values.shape[2] - end)))
        return torch.stack(rows).transpose(1, 2)


class MaskedActivation(nn.Module):
    """An activation whose output is zero from position `lengths` on, when these are set.

    Shape:
        `(batch, channels, time)` -> the same; `lengths`: `(batch,)`, from 1 to time, or None
    """

    lengths: torch.Tensor | None = None

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Activate, and zero what is padding."""
        values = self.activation(values)
        if self.lengths is None:
            return values
        return values.masked_fill(_outside(self.lengths, values.shape[-1])[:, None, :], 0.0)


def make_padding_aware(encoder: Any) -> None:
    """Put the two modules above where a wav2vec2-like encoder needs them."""
    first = encoder.feature_extractor.conv_layers[0]
    norm = getattr(first, "layer_norm", None)
    if isinstance(norm, nn.GroupNorm):
        first.layer_norm = MaskedGroupNorm(norm.num_groups, norm.num_channels, eps=norm.eps, device=norm.weight.device)
        first.layer_norm.weight, first.layer_norm.bias = norm.weight, norm.bias
    for layer in getattr(encoder.encoder.pos_conv_embed, "layers", []):
        layer.activation = MaskedActivation(layer.activation)


@contextmanager
def utterance_ends(encoder: Any, attention_mask: torch.Tensor | None) -> Iterator[None]:
    """For the time of one forward pass, tell a padding-aware encoder where utterances end.

    Args:
        encoder: An encoder that went through `make_padding_aware`.
        attention_mask: Over samples, shape `(batch, samples)`; None: nothing is padding.
    """
    if attention_mask is None:
        yield
        return
    samples = attention_mask.sum(dim=-1)
    convolution = encoder.feature_extractor.conv_layers[0].conv
    kernel, stride = convolution.kernel_size[0], convolution.stride[0]
    of_first = torch.div(samples - kernel, stride, rounding_mode="floor").clamp(min=0) + 1
    of_frames = encoder._get_feat_extract_output_lengths(samples).clamp(min=1)
    with _lengths(encoder, of_first, of_frames):
        yield


@contextmanager
def past_convolutions(encoder: Any, attention_mask: torch.Tensor | None) -> Iterator[None]:
    """For the time of one forward pass, let an encoder take its convolutions' output where it takes speech.

    What the encoder is called with, shape `(batch, channels, time)`, and the mask beside it, are handed through as if
    the convolutions had just made them of speech; everything behind them runs as always.

    Args:
        encoder: An encoder that went through `make_padding_aware`.
        attention_mask: Bool, over frames, shape `(batch, time)`; None: nothing is padding.
    """
    of_frames = None if attention_mask is None else attention_mask.sum(dim=-1).clamp(min=1)
    encoder.feature_extractor.forward = lambda values: values
    encoder._get_feature_vector_attention_mask = lambda time, mask, **options: mask
    try:
        with _lengths(encoder, None, of_frames):
            yield
    finally:
        del encoder.feature_extractor.forward, encoder._get_feature_vector_attention_mask


@contextmanager
def _lengths(encoder: Any, of_first: torch.Tensor | None, of_frames: torch.Tensor | None) -> Iterator[None]:
    """Set how long utterances are behind the first convolution, and in frames; afterwards forget it."""
    aware = [module for module in encoder.modules() if isinstance(module, (MaskedGroupNorm, MaskedActivation))]
    for module in aware:
        module.lengths = of_first if isinstance(module, MaskedGroupNorm) else of_frames
    try:
        yield
    finally:
        for module in aware:
            module.lengths = None


def _outside(lengths: torch.Tensor, time: int) -> torch.Tensor:
    """Bool mask `(batch, time)` of the positions that are padding."""
    return torch.arange(time, device=lengths.device) >= lengths[:, None]
