"""How an encoder of speech is run so that its frames do not depend on the padding beside them.

`ENCODERS` lists the families that are known. Two places in them mix padding into speech, mask or no mask: with
`feat_extract_norm="group"` (wav2vec 2.0 base, HuBERT base) the first convolution is normalised over the whole length of
the batch; and data2vec's positional convolutions, several in a row, carry what they made of padding back into speech.
`encode` calls the encoder's own modules one after the other and hands lengths and masks to them as arguments: it writes
nothing on a module, so threads may share one, and it stops at the layer that is read.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module
from transformers.masking_utils import create_bidirectional_mask

from .temporal_shift import zero_padding

FEATURE_PROJECTION = "feature_projection"  # in place of a layer's number: the frames before positions and attention


@dataclass(frozen=True)
class EncoderFamily:
    """What tells one family of encoders from the others.

    Attributes:
        title: Its name in texts.
        pre_norm: Whether `do_stable_layer_norm` puts the norm of its transformer last instead of first.
        position_bias: Whether its layers hand a position bias on to each other.
        adapter_targets: Linear layers that get adapters unless others are named.
        not_adaptable: Linear layers whose weights are handed past them, so that an adapter there has no effect.
        refused: Why no head is put on it: what padding changes in it.
    """

    title: str
    pre_norm: bool = True
    position_bias: bool = False
    adapter_targets: tuple[str, ...] = ("q_proj", "v_proj")
    not_adaptable: tuple[str, ...] = ()
    refused: str | None = None


ENCODERS = {
    "wav2vec2": EncoderFamily("wav2vec 2.0, XLS-R, MMS"),
    "hubert": EncoderFamily("HuBERT"),
    "wavlm": EncoderFamily(
        "WavLM",
        position_bias=True,
        adapter_targets=("intermediate_dense", "output_dense"),
        not_adaptable=("q_proj", "k_proj", "v_proj", "out_proj"),
    ),
    "unispeech": EncoderFamily("UniSpeech"),
    "unispeech-sat": EncoderFamily("UniSpeech-SAT"),
    "data2vec-audio": EncoderFamily("data2vec", pre_norm=False),
    # Measured on tiny random encoders: noise alone against the same noise beside padding, largest difference of a frame
    # in standard deviations of the frames.
    "sew": EncoderFamily("SEW", refused="its frames change by up to 4.8 standard deviations with padding beside them"),
    "sew-d": EncoderFamily(
        "SEW-D", refused="its frames change by up to 3.7 standard deviations with padding beside them"
    ),
    "wav2vec2-conformer": EncoderFamily(
        "Wav2Vec2-Conformer", refused="its frames change by up to 2.8 standard deviations with padding beside them"
    ),
}
EXACT = [name for name, family in ENCODERS.items() if family.refused is None]
_TOLERANCE = 1e-5


def check_encoder_config(config: Any) -> None:
    """Refuse an encoder whose frames are known to depend on the padding beside them, or that has no frames.

    Raises:
        ValueError: The message says what fits, and by how much padding changes the frames.
    """
    if not hasattr(config, "conv_stride"):
        raise ValueError(
            f"encoder_config must be that of an encoder of speech ({', '.join(EXACT)}), got {config.model_type!r}"
        )
    refused = ENCODERS[config.model_type].refused if config.model_type in ENCODERS else None
    if refused is not None:
        raise ValueError(f"encoder_config must be of {', '.join(EXACT)}, got {config.model_type!r}: {refused}")
    if getattr(config, "add_adapter", False):
        raise ValueError(
            "encoder_config must have add_adapter=False, got True: the adapter's convolutions change frames by up to 6"
            " standard deviations with padding beside them"
        )


@torch.no_grad()
def check_padding(encoder: Any) -> None:
    """Try an encoder of a family that is not in `ENCODERS`: a short noise alone, and beside padding.

    Raises:
        ValueError: If its frames differ by more than 1e-5 of their standard deviation.
    """
    no_weights_yet = any(parameter.device.type == "meta" for parameter in encoder.parameters())
    if encoder.config.model_type in ENCODERS or no_weights_yet:
        return
    weight = next(encoder.parameters())
    modes = [module for module in encoder.modules() if module.training]
    noise = torch.randn(1, 6000, generator=torch.Generator().manual_seed(0)).to(weight.device, weight.dtype)
    padded = nn.functional.pad(noise, (0, 6000))
    mask = (torch.arange(12000, device=weight.device) < 6000).long()[None]
    encoder.eval()
    alone, beside = encode(encoder, noise), encode(encoder, padded, mask)
    for module in modes:
        module.training = True
    difference = ((beside[:, : alone.shape[1]] - alone).abs().max() / alone.std()).item()
    if not difference <= _TOLERANCE:
        raise ValueError(
            f"encoder must give the same frames with padding beside them, within {_TOLERANCE:g} of their standard"
            f" deviation, but those of {encoder.config.model_type!r} change by {difference:.1g}; known are"
            f" {', '.join(EXACT)}"
        )


def last_layers(encoder: Any, count: int, *, output: int | str) -> list[nn.Module]:
    """The last `count` layers of the transformer that are run for an `output` of `encode`, and the norm behind them."""
    layers = list(encoder.encoder.layers)[: output if isinstance(output, int) else None]
    return layers[-count:] + ([encoder.encoder.layer_norm] if _is_pre_norm(encoder) and output == "last" else [])


def _is_pre_norm(encoder: Any) -> bool:
    """Whether a norm follows the last layer of the transformer, and none goes before the first."""
    family = ENCODERS.get(encoder.config.model_type)
    return (family is None or family.pre_norm) and getattr(encoder.config, "do_stable_layer_norm", False)


def training_parts(encoder: Any) -> list[tuple[nn.Module, nn.Module]]:
    """Parts of an encoder with dropout of their own, each with the module whose parameters it goes by.

    A part is in train mode where something of these parameters is trained. The whole comes before its parts.
    """
    parts = [encoder, encoder.feature_extractor]
    if encoder.config.model_type not in ENCODERS:
        return [(part, part) for part in parts]
    parts += [encoder.feature_projection, *encoder.encoder.layers]
    return [*((part, part) for part in parts), (encoder.encoder.dropout, encoder.feature_projection)]


def encode(
    encoder: Any,
    values: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    output: int | str = "last",
    convolved: bool = False,
) -> torch.Tensor:
    """Frames of an encoder; an utterance's frames are the same alone and in any batch. What is not read is not run.

    Args:
        encoder: A model of `AutoModel`. One of a family that is not in `ENCODERS` is run by its own `forward`.
        values: Speech `(batch, samples)`, or (`convolved`) what its convolutions made of it
            `(batch, time, conv_channels)`.
        attention_mask: 1 on speech, 0 on the padding at its right; over samples, or (`convolved`) over frames. None:
            nothing is padding.
        output: `"last"`: its `last_hidden_state`; a number: that one of its `hidden_states`; `"all"`: all of these;
            `"feature_projection"`: its projected features, before positions and attention; `"convolutions"`.
        convolved: Whether the convolutions have been run before.

    Returns:
        Frames `(batch, time, channels)`; of `"all"` `(batch, layers + 1, time, channels)`; of `"convolutions"`
        `(batch, time, conv_channels)`.

    Raises:
        ValueError: If an encoder of another family is asked for more than its own `forward` does.
    """
    if encoder.config.model_type not in ENCODERS:
        return _encode_stock(encoder, values, attention_mask, output=output, convolved=convolved)
    frames = values if convolved else _convolve(encoder, values, attention_mask)
    if output == "convolutions":
        return frames
    if convolved or attention_mask is None:
        mask = None if attention_mask is None else attention_mask.bool()
    else:
        mask = frame_mask(encoder, attention_mask, num_frames=frames.shape[1])
    projected = encoder.feature_projection(frames)
    frames = projected[0] if isinstance(projected, tuple) else projected
    if output == FEATURE_PROJECTION:
        return frames
    frames = encoder._mask_hidden_states(frames, attention_mask=mask)  # its own SpecAugment, if it has any
    states, last = _transform(encoder, zero_padding(frames, mask), mask, output=output)
    if output == "last":
        return last
    return torch.stack(states, dim=1) if output == "all" else states[-1]


def frame_mask(encoder: Any, attention_mask: torch.Tensor, *, num_frames: int) -> torch.Tensor:
    """Bool mask `(batch, num_frames)` of the frames that are speech; every utterance has at least one.

    By comparison, where transformers writes ones at computed places: graphs of it run in every ONNX runtime.

    Args:
        encoder: Its convolutions count.
        attention_mask: 1 on speech, 0 on the padding at its right, over samples.
        num_frames: Length of the batch in frames.
    """
    lengths = encoder._get_feat_extract_output_lengths(attention_mask.long().sum(dim=-1)).clamp(min=1)
    return torch.arange(num_frames, device=lengths.device) < lengths[:, None]


def _encode_stock(
    encoder: Any, values: torch.Tensor, attention_mask: torch.Tensor | None, *, output: int | str, convolved: bool
) -> torch.Tensor:
    """Frames as an encoder's own `forward` gives them."""
    if convolved or output in ("convolutions", FEATURE_PROJECTION):
        asked = "extract_features" if convolved else output
        raise ValueError(f"{asked} need an encoder of {', '.join(EXACT)}, got {encoder.config.model_type!r}")
    outputs = encoder(values, attention_mask=attention_mask, output_hidden_states=output != "last", return_dict=True)
    if output == "last":
        return outputs.last_hidden_state
    return torch.stack(outputs.hidden_states, dim=1) if output == "all" else outputs.hidden_states[output]


def _convolve(encoder: Any, speech: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Speech `(batch, samples)` -> what the convolutions make of it, `(batch, time, conv_channels)`."""
    values = speech[:, None]
    first, *others = encoder.feature_extractor.conv_layers
    norm = getattr(first, "layer_norm", None)
    if isinstance(norm, nn.GroupNorm):
        values = first.conv(values)
        lengths = None if attention_mask is None else _lengths_behind(first.conv, attention_mask)
        values = first.activation(masked_group_norm(norm, values, lengths))
    else:
        values = first(values)
    for layer in others:
        values = layer(values)
    return values.transpose(1, 2)


def _lengths_behind(convolution: nn.Conv1d, attention_mask: torch.Tensor) -> torch.Tensor:
    """Positions `(batch,)` that a convolution makes of each utterance, at least 1."""
    samples, kernel, stride = attention_mask.sum(dim=-1), convolution.kernel_size[0], convolution.stride[0]
    return torch.div(samples - kernel, stride, rounding_mode="floor").clamp(min=0) + 1


def masked_group_norm(norm: nn.GroupNorm, values: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """A group norm whose statistics are taken over the first `lengths` positions of each utterance.

    Args:
        norm: Groups, scale, bias and epsilon.
        values: Shape `(batch, channels, time)`.
        lengths: Shape `(batch,)`, from 1 to time; None: everything counts.

    Returns:
        The same shape; positions beyond an utterance's length are scaled like the others and count for nothing.
    """
    batch, channels, time = values.shape
    if norm.num_groups == channels and values.dtype == torch.bfloat16 and values.transpose(1, 2).is_contiguous():
        return _norm_channels_last(norm, values, lengths)
    if lengths is None:
        return norm(values)
    grouped = values.float().view(batch, norm.num_groups, channels // norm.num_groups, time)
    outside = (torch.arange(time, device=lengths.device) >= lengths[:, None])[:, None, None, :]
    count = (lengths * (channels // norm.num_groups)).view(batch, 1, 1, 1)
    centred = grouped - grouped.masked_fill(outside, 0.0).sum(dim=(2, 3), keepdim=True) / count
    variance = centred.masked_fill(outside, 0.0).square().sum(dim=(2, 3), keepdim=True) / count
    normalised = (centred * torch.rsqrt(variance + norm.eps)).view(batch, channels, time)
    return (normalised * norm.weight[:, None] + norm.bias[:, None]).to(values.dtype)


def _norm_channels_last(norm: nn.GroupNorm, values: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """The same without a change of layout: with one channel a group it is the batch norm of an utterance."""
    ends = [values.shape[2]] * len(values) if lengths is None else lengths.tolist()
    rows = []
    for utterance, end in zip(values.transpose(1, 2), ends, strict=True):
        frames = torch.batch_norm(utterance[:end], norm.weight, norm.bias, None, None, True, 0.0, norm.eps, False)
        rows.append(nn.functional.pad(frames, (0, 0, 0, values.shape[2] - end)))
    return torch.stack(rows).transpose(1, 2)


def _transform(
    encoder: Any, frames: torch.Tensor, mask: torch.Tensor | None, *, output: int | str
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Positions and the transformer's layers, as far as `output` needs them.

    Returns:
        The input of the first layer and the output of each that was run; and the encoder's last frames, if all were.
    """
    family, transformer = ENCODERS[encoder.config.model_type], encoder.encoder
    pre_norm, attention_mask = _is_pre_norm(encoder), mask
    if not family.position_bias:  # WavLM takes the mask as it is
        attention_mask = create_bidirectional_mask(config=encoder.config, inputs_embeds=frames, attention_mask=mask)
    frames = frames + _positions(transformer.pos_conv_embed, frames, mask)
    frames = transformer.dropout(frames if pre_norm else transformer.layer_norm(frames))
    states, bias = [frames], None
    run_all = is_deepspeed_zero3_enabled() or is_fsdp_managed_module(transformer)  # all processes stay in step
    layers = transformer.layers[:output] if isinstance(output, int) else transformer.layers
    for index, layer in enumerate(layers):
        # The first layer of WavLM makes the position bias of all others.
        droppable = layer.training and encoder.config.layerdrop > 0 and not (family.position_bias and index == 0)
        if droppable and bool(torch.rand([]) < encoder.config.layerdrop) and not run_all:
            pass
        elif family.position_bias:
            frames, bias = layer(frames, attention_mask=attention_mask, position_bias=bias)
        else:
            frames = layer(frames, attention_mask=attention_mask)
        states.append(frames)
    return states, transformer.layer_norm(frames) if pre_norm else frames


def _positions(embedding: Any, frames: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Output of the positional convolutions; between two of them padding is zero again, as it is at the first."""
    if getattr(embedding, "batch_norm", None) is not None:  # HuBERT with conv_pos_batch_norm=True
        frames = zero_padding(embedding.batch_norm(frames.transpose(1, 2)).transpose(1, 2), mask)
        return embedding.activation(embedding.padding(embedding.conv(frames.transpose(1, 2)))).transpose(1, 2)
    layers = getattr(embedding, "layers", None)
    if layers is None:
        return embedding(frames)
    for layer in layers:
        frames = zero_padding(layer(frames.transpose(1, 2)).transpose(1, 2), mask)
    return frames
