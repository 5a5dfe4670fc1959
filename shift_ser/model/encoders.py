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
from transformers import AutoModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from .masked_norm import normed_convolution
from .temporal_shift import zero_padding

FEATURE_PROJECTION = "feature_projection"  # in place of a layer's number: the frames before positions and attention


@dataclass(frozen=True)
class EncoderFamily:
    """What tells one family of encoders from the others.

    Attributes:
        title: Its name in texts.
        extractor: Its class of feature extractor in transformers, which says what it reads: waveforms
            (`Wav2Vec2FeatureExtractor`) or spectrograms.
        pre_norm: Whether `do_stable_layer_norm` puts the norm of its transformer last instead of first.
        position_bias: Whether its layers hand a position bias on to each other.
        adapter_targets: Linear layers that get adapters unless others are named.
        not_adaptable: Linear layers whose weights are handed past them, so that an adapter there has no effect.
        refused: Why no head is put on it: what padding changes in it.
    """

    title: str
    extractor: str = "Wav2Vec2FeatureExtractor"
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
    "whisper": EncoderFamily("Whisper", extractor="WhisperFeatureExtractor"),
    "wav2vec2-bert": EncoderFamily(
        "w2v-BERT 2.0",
        extractor="SeamlessM4TFeatureExtractor",
        pre_norm=False,
        adapter_targets=("linear_q", "linear_v"),
    ),
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
WAVEFORM = [name for name in EXACT if ENCODERS[name].extractor == EncoderFamily.extractor]
_TOLERANCE = 1e-5


def check_encoder_config(config: Any) -> None:
    """Refuse an encoder whose frames are known to depend on the padding beside them, or that has no frames.

    Raises:
        ValueError: The message says what fits, and by how much padding changes the frames.
    """
    if config.model_type not in ENCODERS and not hasattr(config, "conv_stride"):
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


def is_whisper(config: Any) -> bool:
    """Whether an encoder is Whisper's, whose convolutions and layers lie side by side."""
    return config.model_type == "whisper"


def input_name(config: Any) -> str:
    """Name of the model input that an encoder reads: `input_values` (waveforms) or `input_features` (spectrograms)."""
    spectrogram = config.model_type in ENCODERS and config.model_type not in WAVEFORM
    return "input_features" if spectrogram else "input_values"


def input_width(config: Any) -> int:
    """Channels of the spectrogram that an encoder reads."""
    return config.num_mel_bins if is_whisper(config) else config.feature_projection_input_dim


def new_encoder(config: Any) -> Any:
    """An encoder with new weights; of Whisper the encoder alone."""
    return WhisperEncoder(config) if is_whisper(config) else AutoModel.from_config(config)


def load_encoder(name_or_path: str) -> tuple[Any, list[str]]:
    """A pretrained encoder, of Whisper without its decoder, and the names of weights that its checkpoint lacks."""
    model, info = AutoModel.from_pretrained(name_or_path, output_loading_info=True)
    if is_whisper(model.config):
        return model.encoder, sorted(name for name in info["missing_keys"] if name.startswith("encoder."))
    return model, sorted(name for name in info["missing_keys"] if name != "masked_spec_embed")


def transformer_of(encoder: Any) -> Any:
    """The module that holds an encoder's `layers`."""
    return encoder if is_whisper(encoder.config) else encoder.encoder


def convolutions_of(encoder: Any) -> nn.Module:
    """What fine-tuning keeps frozen and `cache_convolutions` runs once; w2v-BERT has none."""
    if is_whisper(encoder.config):
        return nn.ModuleList([encoder.conv1, encoder.conv2])
    return getattr(encoder, "feature_extractor", None) or nn.ModuleList()


def convolution_width(config: Any) -> int:
    """Channels of what an encoder's convolutions give.

    Raises:
        ValueError: If it has no convolutions.
    """
    if is_whisper(config):
        return config.d_model
    if not hasattr(config, "conv_dim"):
        raise ValueError(f"convolutions need an encoder that has some; {ENCODERS[config.model_type].title} has none")
    return config.conv_dim[-1]


def frame_lengths(encoder: Any, lengths: torch.Tensor) -> torch.Tensor:
    """Frames that an encoder makes of so many samples, or frames of a spectrogram, of each utterance."""
    if is_whisper(encoder.config):
        return torch.div(lengths + 1, 2, rounding_mode="floor")
    if input_name(encoder.config) == "input_features":
        return lengths
    return encoder._get_feat_extract_output_lengths(lengths)


def last_layers(encoder: Any, count: int, *, output: int | str) -> list[nn.Module]:
    """The last `count` layers of the transformer that are run for an `output` of `encode`, and the norm behind them."""
    transformer = transformer_of(encoder)
    layers = list(transformer.layers)[: output if isinstance(output, int) else None]
    return layers[-count:] + ([transformer.layer_norm] if _is_pre_norm(encoder) and output == "last" else [])


def unread_layers(encoder: Any, output: int | str) -> tuple[str, ...]:
    """How the names of weights begin that belong to layers of the transformer which `encode` does not run.

    Args:
        encoder: Of another encoder than those of `ENCODERS` all layers count as read.
        output: As in `encode`.
    """
    if encoder.config.model_type not in ENCODERS or output in ("last", "all"):
        return ()
    prefix = "" if is_whisper(encoder.config) else "encoder."
    first = output if isinstance(output, int) else 0
    return tuple(f"{prefix}layers.{index}." for index in range(first, len(transformer_of(encoder).layers)))


def drop_unread_layers(encoder: Any, output: int | str) -> None:
    """Take the layers away that are not run for an `output`; what is left gives the same frames to the bit.

    The number of layers that is left is in the encoder's configuration.
    """
    if unread := unread_layers(encoder, output):
        transformer = transformer_of(encoder)
        transformer.layers = transformer.layers[: len(transformer.layers) - len(unread)]
        encoder.config.num_hidden_layers = len(transformer.layers)


def _is_pre_norm(encoder: Any) -> bool:
    """Whether a norm follows the last layer of the transformer, and none goes before the first."""
    if is_whisper(encoder.config):
        return True
    family = ENCODERS.get(encoder.config.model_type)
    return (family is None or family.pre_norm) and getattr(encoder.config, "do_stable_layer_norm", False)


def training_parts(encoder: Any) -> list[tuple[nn.Module, nn.Module]]:
    """Parts of an encoder with dropout of their own, each with the module whose parameters it goes by.

    A part is in train mode where something of these parameters is trained. The whole comes before its parts.
    """
    parts = [encoder, convolutions_of(encoder)]
    if encoder.config.model_type not in ENCODERS:
        return [(part, part) for part in parts]
    parts += transformer_of(encoder).layers
    if is_whisper(encoder.config):
        return [(part, part) for part in parts]
    parts.append(encoder.feature_projection)
    return [*((part, part) for part in parts), (encoder.encoder.dropout, encoder.feature_projection)]


def encode(
    encoder: Any,
    values: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    output: int | str = "last",
    convolved: bool = False,
    mask_time_indices: torch.Tensor | None = None,
) -> torch.Tensor:
    """Frames of an encoder; an utterance's frames are the same alone and in any batch. What is not read is not run.

    Args:
        encoder: A model of `AutoModel`. One of a family that is not in `ENCODERS` is run by its own `forward`.
        values: Speech `(batch, samples)`, or of some families its spectrogram `(batch, time, bins)`, or (`convolved`)
            what its convolutions made of it `(batch, time, conv_channels)`.
        attention_mask: 1 on speech, 0 on the padding at its right; over samples or the time of `values`. None: nothing
            is padding.
        output: `"last"`: its `last_hidden_state`; a number: that one of its `hidden_states`; `"all"`: all of these;
            `"feature_projection"`: its projected features, before positions and attention; `"convolutions"`.
        convolved: Whether the convolutions have been run before.
        mask_time_indices: Bool `(batch, time)`: frames that the encoder's learned mask stands for.

    Returns:
        Frames `(batch, time, channels)`; of `"all"` `(batch, layers + 1, time, channels)`; of `"convolutions"`
        `(batch, time, conv_channels)`.

    Raises:
        ValueError: If an encoder of another family is asked for more than its own `forward` does, or Whisper for more
            than 30 s.
    """
    if encoder.config.model_type not in ENCODERS:
        return _encode_stock(encoder, values, attention_mask, output=output, convolved=convolved)
    if output == "convolutions" or convolved:
        convolution_width(encoder.config)  # raises where there are none
    frames = values if convolved else _convolve(encoder, values, attention_mask)
    if output == "convolutions":
        return frames
    if convolved or attention_mask is None:
        mask = None if attention_mask is None else attention_mask.bool()
    else:
        mask = frame_mask(encoder, attention_mask, num_frames=frames.shape[1])
    if not is_whisper(encoder.config):
        projected = encoder.feature_projection(frames)
        frames = projected[0] if isinstance(projected, tuple) else projected
        if output == FEATURE_PROJECTION:
            return frames
        # its own SpecAugment, if it has any, or the masks that are given
        frames = encoder._mask_hidden_states(frames, mask_time_indices=mask_time_indices, attention_mask=mask)
    states, last = _transform(encoder, zero_padding(frames, mask), mask, output=output)
    if output == "last":
        return last
    return torch.stack(states, dim=1) if output == "all" else states[-1]


def frame_mask(encoder: Any, attention_mask: torch.Tensor, *, num_frames: int) -> torch.Tensor:
    """Bool mask `(batch, num_frames)` of the frames that are speech; every utterance has at least one.

    By comparison, where transformers writes ones at computed places: graphs of it run in every ONNX runtime.

    Args:
        encoder: Its convolutions count.
        attention_mask: 1 on speech, 0 on the padding at its right, over samples or frames of a spectrogram.
        num_frames: Length of the batch in frames.
    """
    lengths = frame_lengths(encoder, attention_mask.long().sum(dim=-1)).clamp(min=1)
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
    if is_whisper(encoder.config):
        return _convolve_mel(encoder, speech, attention_mask)
    if input_name(encoder.config) == "input_features":
        return speech
    values = speech[:, None]
    first, *others = encoder.feature_extractor.conv_layers
    norm = getattr(first, "layer_norm", None)
    if isinstance(norm, nn.GroupNorm):
        lengths = None if attention_mask is None else _lengths_behind(first.conv, attention_mask)
        values = first.activation(normed_convolution(first.conv, norm, values, lengths))
    else:
        values = first(values)
    for layer in others:
        values = layer(values)
    return values.transpose(1, 2)


def _convolve_mel(encoder: Any, mel: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Whisper's two convolutions on a log-mel spectrogram `(batch, time, bins)`; between them padding is zero again."""
    most = 2 * encoder.config.max_source_positions
    if mel.shape[1] > most:
        raise ValueError(
            f"input_features must have at most {most} frames, {most / 100:g} s, with Whisper's encoder, got"
            f" {mel.shape[1]}: cut the recording, or go over it in windows (classifier.timeline)"
        )
    frames = nn.functional.gelu(encoder.conv1(zero_padding(mel, _bool(attention_mask)).transpose(1, 2)))
    frames = zero_padding(frames.transpose(1, 2), _bool(attention_mask)).transpose(1, 2)
    return nn.functional.gelu(encoder.conv2(frames)).transpose(1, 2)


def _bool(mask: torch.Tensor | None) -> torch.Tensor | None:
    return None if mask is None else mask.bool()


def _lengths_behind(convolution: nn.Conv1d, attention_mask: torch.Tensor) -> torch.Tensor:
    """Positions `(batch,)` that a convolution makes of each utterance, at least 1."""
    samples, kernel, stride = attention_mask.sum(dim=-1), convolution.kernel_size[0], convolution.stride[0]
    return torch.div(samples - kernel, stride, rounding_mode="floor").clamp(min=0) + 1


def _transform(
    encoder: Any, frames: torch.Tensor, mask: torch.Tensor | None, *, output: int | str
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Positions and the transformer's layers, as far as `output` needs them.

    Returns:
        The input of the first layer and the output of each that was run; and the encoder's last frames, if all were.
    """
    family, transformer = ENCODERS[encoder.config.model_type], transformer_of(encoder)
    options: dict[str, Any] = {"attention_mask": mask}
    if not family.position_bias:  # WavLM takes the mask as it is
        options["attention_mask"] = create_bidirectional_mask(
            config=encoder.config, inputs_embeds=frames, attention_mask=mask
        )
    frames = _first_state(encoder, frames, mask)
    if encoder.config.model_type == "wav2vec2-bert":
        positions = transformer.embed_positions
        options["relative_position_embeddings"] = None if positions is None else positions(frames)
        options["conv_attention_mask"] = mask
    states, bias = [frames], None
    layerdrop = getattr(encoder.config, "layerdrop", 0.0)
    run_all = is_deepspeed_zero3_enabled() or is_fsdp_managed_module(transformer)  # all processes stay in step
    layers = transformer.layers[:output] if isinstance(output, int) else transformer.layers
    for index, layer in enumerate(layers):
        # The first layer of WavLM makes the position bias of all others.
        droppable = layer.training and layerdrop > 0 and not (family.position_bias and index == 0)
        if droppable and bool(torch.rand([]) < layerdrop) and not run_all:
            pass
        elif family.position_bias:
            frames, bias = layer(frames, position_bias=bias, **options)
        else:
            frames = layer(frames, **options)
        states.append(frames)
    if _is_pre_norm(encoder):
        return states, transformer.layer_norm(frames)
    if getattr(encoder, "intermediate_ffn", None) is not None:  # of w2v-BERT, where its configuration asks for it
        return states, frames + 0.5 * encoder.intermediate_ffn(frames)
    return states, frames


def _first_state(encoder: Any, frames: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The input of the first layer: frames with what tells their positions, if that is no matter of the layers."""
    transformer = transformer_of(encoder)
    if is_whisper(encoder.config):
        frames = frames + encoder.embed_positions.weight[: frames.shape[1]]
        first = encoder.layers[0] if len(encoder.layers) else encoder
        return nn.functional.dropout(frames, p=encoder.dropout, training=first.training)
    if encoder.config.model_type == "wav2vec2-bert":
        return transformer.dropout(frames)
    frames = frames + _positions(transformer.pos_conv_embed, frames, mask)
    return transformer.dropout(frames if _is_pre_norm(encoder) else transformer.layer_norm(frames))


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
