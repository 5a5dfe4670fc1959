"""ShiftModel and ShiftForSequenceClassification: a speech encoder with a temporal shift head."""

import json
import os
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file, can_return_tuple

from .configuration_shift_ser import (
    SavedConfig,  # noqa: F401
    ShiftConfig,
)
from .encoders import check_padding, encode, frame_mask, last_layers, training_parts
from .heads import HEADS, ShiftHead
from .losses import problem_loss, to_scale
from .model_place import check_model_place
from .pipeline_shift_ser import ShiftAudioClassificationPipeline  # noqa: F401
from .speech_input import load_speech  # noqa: F401
from .temporal_shift import zero_padding

EMBEDDINGS = ("head", "encoder")  # whose frames `embed` pools
POOLINGS = ("mean", "mean_and_deviation")


class LoadableModel(PreTrainedModel):
    """`PreTrainedModel` that raises for missing weights, and that can be put on a pretrained encoder."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **options: Any) -> Any:
        """Load a saved model, in eval mode.

        Args:
            pretrained_model_name_or_path: Hub name or folder of a saved model.
            *args: As for every model of transformers.
            **options: Those of every model of transformers. `ignore_mismatched_sizes=True` draws a new classifier
                where the saved one is missing or has another number of labels, and no other weight;
                `output_loading_info=True` returns the model and what was missing, and leaves judging that to you.

        Raises:
            RuntimeError: If weights are missing, have other shapes than the configuration asks for, are whole numbers,
                or are not finite.
        """
        new_classifier = options.pop("ignore_mismatched_sizes", False)
        info_wanted = options.pop("output_loading_info", False)
        model, info = super().from_pretrained(
            pretrained_model_name_or_path, *args, ignore_mismatched_sizes=True, output_loading_info=True, **options
        )
        may_be_new = ("classifier.",) if new_classifier else ()
        problems = [
            f"{name!r} has shape {tuple(there)} in the file and {tuple(here)} by the configuration"
            for name, there, here in sorted(info["mismatched_keys"])
            if not name.startswith(may_be_new)
        ]
        if not info_wanted:  # the learned vectors of SpecAugment take no part in a prediction
            problems += [
                f"{name!r} is missing"
                for name in sorted(info["missing_keys"])
                if not name.startswith(may_be_new) and not name.endswith("masked_spec_embed")
            ]
        if problems:
            raise RuntimeError(
                f"{str(pretrained_model_name_or_path)!r} must hold every weight of {cls.__name__}, but"
                f" {'; '.join(problems[:3])} ({len(problems)} in all). For another label set, pass num_labels (or"
                " id2label and label2id) and ignore_mismatched_sizes=True, which draws a new classifier, and train"
                " it; for a new head on a pretrained encoder, call from_encoder_pretrained; otherwise save the model"
                " again, whole, or mend config.json"
            )
        _check_weights(model, pretrained_model_name_or_path, options)
        model.base_model._set_trainable()
        check_padding(model.base_model.encoder)
        return (model, info) if info_wanted else model

    @classmethod
    def from_encoder_pretrained(cls, name_or_path: str, **options: Any) -> "LoadableModel":
        """A new head on a pretrained encoder, in eval mode.

        Args:
            name_or_path: Hub name or folder of a wav2vec2-like encoder, e.g. `facebook/hubert-base-ls960`.
            **options: Options of `ShiftConfig` for the head; `variant="shiftformer"` takes one's published settings.

        Raises:
            ValueError: If the checkpoint lacks weights of the encoder.
            OSError: If there is no such folder, or the encoder is not on this disk and the Hub is out of reach.

        Example:
            model = ShiftForSequenceClassification.from_encoder_pretrained(
                "facebook/hubert-base-ls960", variant="shiftformer", num_labels=4
            )
        """
        check_model_place(os.fspath(name_or_path), option="name_or_path")
        encoder, loaded = AutoModel.from_pretrained(name_or_path, output_loading_info=True)
        missing = sorted(name for name in loaded["missing_keys"] if name != "masked_spec_embed")
        if missing:
            raise ValueError(
                f"name_or_path must hold every weight of the encoder; {name_or_path!r} lacks {len(missing)},"
                f" the first is {missing[0]!r}"
            )
        variant = options.pop("variant", None)
        options["encoder_config"] = encoder.config
        config = ShiftConfig(**options) if variant is None else ShiftConfig.from_variant(variant, **options)
        model = cls(config)
        model.base_model.encoder.load_state_dict(encoder.state_dict())
        _check_weights(model, name_or_path, {})
        check_padding(model.base_model.encoder)
        return model.eval()


_WHERE = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


def _check_weights(model: PreTrainedModel, name_or_path: Any, options: dict[str, Any]) -> None:
    """Refuse weights that no training can have left: whole numbers in the file, NaN or infinity in the model.

    Raises:
        RuntimeError: If there are any; the message names the first.
    """
    where = {name: options[name] for name in _WHERE if name in options}
    for file in _weight_files(name_or_path, where):
        with open(file, "rb") as stream:  # a safetensors file begins with the length of its header, and that in JSON
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        for name, tensor in header.items():
            if tensor.get("dtype", "F32").startswith(("I", "U", "BOOL")):
                raise RuntimeError(f"{file!r} must hold floating point weights, but {name!r} is of {tensor['dtype']}")
    for name, parameter in model.named_parameters():
        if parameter.device.type != "meta" and not parameter.isfinite().all():
            raise RuntimeError(f"{str(name_or_path)!r} must hold finite weights, but {name!r} has NaN or infinity")


def _weight_files(name_or_path: Any, where: dict[str, Any]) -> list[str]:
    """The safetensors files of a saved model: one, or the shards that its index names; none if it has other files."""

    def find(name: str) -> str | None:
        return cached_file(name_or_path, name, _raise_exceptions_for_missing_entries=False, **where)

    if (whole := find(SAFE_WEIGHTS_NAME)) is not None:
        return [whole]
    if (index := find(SAFE_WEIGHTS_INDEX_NAME)) is None:
        return []
    with open(index, encoding="utf-8") as stream:
        shards = sorted(set(json.load(stream)["weight_map"].values()))
    return [file for file in map(find, shards) if file is not None]


def spec_augment(
    frames: torch.Tensor, mask: torch.Tensor | None, *, config: PreTrainedConfig, vector: torch.Tensor | None
) -> torch.Tensor:
    """Frames with random time masks (a learned vector) and feature masks (zero); numpy's generator draws them.

    Args:
        frames: Shape `(batch, time, channels)`; left as they are.
        mask: Bool, `(batch, time)`, of the frames that are speech; None: all are.
        config: Its `mask_time_` and `mask_feature_` options count.
        vector: What stands under a time mask, shape `(channels,)`; None: there are no time masks.

    Returns:
        New frames of the same shape.
    """
    batch, length, channels = frames.shape
    if vector is not None and length >= config.mask_time_length:
        masked = _compute_mask_indices(
            (batch, length),
            config.mask_time_prob,
            config.mask_time_length,
            attention_mask=None if mask is None else mask.long(),
            min_masks=config.mask_time_min_masks,
        )
        masked = torch.from_numpy(masked).to(frames.device).unsqueeze(-1)
        frames = torch.where(masked, vector.to(frames.dtype), frames)
    if config.mask_feature_prob > 0:
        masked = _compute_mask_indices(
            (batch, channels),
            config.mask_feature_prob,
            config.mask_feature_length,
            min_masks=config.mask_feature_min_masks,
        )
        frames = frames.masked_fill(torch.from_numpy(masked).to(frames.device).unsqueeze(1), 0.0)
    return frames


# Not used here, but a saved model takes along the files that this one names, and not always those that they name.


class ShiftPreTrainedModel(LoadableModel):
    """What both models share: configuration, initial weights, and how they are loaded."""

    config: ShiftConfig
    config_class = ShiftConfig
    base_model_prefix = "shift_ser"
    main_input_name = "input_values"
    input_modalities = ("audio",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = [head.block.__name__ for head in HEADS.values() if head.block]

    def get_input_embeddings(self) -> None:
        """None: speech is no row of a table. FSDP asks."""

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """New weights are drawn as torch draws them, which is what the authors' code does."""
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.LSTM, nn.LayerNorm, nn.Embedding)):
            module.reset_parameters()
        elif isinstance(module, ShiftModel):
            if module.masked_spec_embed is not None:
                init.uniform_(module.masked_spec_embed)
            if module.layer_weights is not None:
                init.zeros_(module.layer_weights)


class ShiftModel(ShiftPreTrainedModel):
    """Speech or encoder frames in, shifted frames out: encoder, SpecAugment (training only), blocks with the shift.

    Args:
        config: The model's configuration.
    """

    def __init__(self, config: ShiftConfig) -> None:
        super().__init__(config)
        config.validate()
        self.encoder = AutoModel.from_config(config.encoder_config)
        self.encoder.config.layerdrop = config.encoder_layerdrop  # from_pretrained may have set it last
        layers = self.encoder.config.num_hidden_layers + 1
        self.layer_weights = nn.Parameter(torch.zeros(layers)) if config.use_weighted_layer_sum else None
        self.masked_spec_embed = nn.Parameter(torch.empty(config.hidden_size)) if config.mask_time_prob > 0 else None
        self.head = ShiftHead(config)
        self._no_split_modules = [type(block).__name__ for block in self.head.blocks[:1]]  # also of a head added later
        self.post_init()
        self._set_trainable()
        check_padding(self.encoder)

    def train(self, mode: bool = True) -> "ShiftModel":
        """Train or eval mode; what of the encoder has no trainable parameter stays in eval mode, without dropout."""
        super().train(mode)
        if mode and self.encoder is not None:
            for part, parameters in training_parts(self.encoder):
                if not any(parameter.requires_grad for parameter in parameters.parameters()):
                    part.eval()
        return self

    def _set_trainable(self) -> None:
        """Decide what is trained, when the model is made or loaded; from then on `requires_grad` is the caller's."""
        frozen = self.encoder if self.config.freeze_encoder else self.encoder.feature_extractor
        frozen.requires_grad_(False)
        if self.config.unfreeze_layers is not None:
            self.encoder.requires_grad_(False)
            for part in last_layers(self.encoder, self.config.unfreeze_layers, output=self.config.encoder_output):
                part.requires_grad_(True)
        unused = getattr(self.encoder, "masked_spec_embed", None)
        if unused is not None and not getattr(self.encoder.config, "apply_spec_augment", True):
            unused.requires_grad_(False)  # or several processes would wait for its gradient
        self.train(self.training)

    def freeze_feature_encoder(self) -> None:
        """Train no convolution of the encoder; so it is from the start, unless something was unfrozen by hand."""
        self.encoder.feature_extractor.requires_grad_(False)
        self.train(self.training)

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        extract_features: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Run the encoder, or what of it has not been run before, and the head.

        Args:
            input_values: Normalised speech at 16 kHz, shape `(batch, samples)`.
            attention_mask: 1 on speech, 0 on the padding at its right. Shape `(batch, samples)` beside
                `input_values`, `(batch, time)` beside the others.
            encoder_hidden_states: Frames of an encoder that has been run before, shape `(batch, time, channels)`; with
                `use_weighted_layer_sum` those of all its layers, shape `(batch, layers, time, channels)`.
            output_attentions: Also return the probabilities of the head's attention blocks.
            output_hidden_states: Also return the head's input and every block's output.
            extract_features: Output of the encoder's convolutions, shape `(batch, time, conv_channels)`, before their
                projection: what is left of the encoder is run. Any floating dtype, as `encoder_hidden_states`.
            **kwargs: Ignored here; lets a caller pass one set of arguments to every model.

        Returns:
            `last_hidden_state` `(batch, time, channels)`, twice the channels for the LSTM head; padding is zero.

        Raises:
            ValueError: Unless exactly one input is given, and in the shape above.
        """
        inputs = {
            "input_values": input_values,
            "extract_features": extract_features,
            "encoder_hidden_states": encoder_hidden_states,
        }
        frames, mask = self._head_input(inputs, attention_mask)
        if self.training:
            frames = spec_augment(frames, mask, config=self.config, vector=self.masked_spec_embed)
        attentions_wanted = self.config.output_attentions if output_attentions is None else output_attentions
        states_wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        frames, states, attentions = self.head(frames, mask, bool(attentions_wanted))
        return BaseModelOutput(
            last_hidden_state=frames,
            hidden_states=states if states_wanted else None,
            attentions=attentions if attentions_wanted else None,
        )

    @torch.no_grad()
    def embed(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        of: str = "head",
        pooling: str = "mean",
    ) -> torch.Tensor:
        """One vector for each utterance, the same alone and in any batch.

        Args:
            input_values: Speech, as in `forward`.
            attention_mask: 1 on speech, 0 on padding.
            of: Which frames are pooled: `head`, the head's output, which was trained for the labels, or `encoder`, what
                the head reads.
            pooling: `mean` over the frames, or `mean_and_deviation`, each channel's mean and then each one's deviation.

        Returns:
            Float32, shape `(batch, channels)`, twice the channels with deviations.

        Raises:
            ValueError: If `of` or `pooling` is none of these.
        """
        if of not in EMBEDDINGS:
            raise ValueError(f"of must be one of {EMBEDDINGS}, got {of!r}")
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {POOLINGS}, got {pooling!r}")
        frames, mask = self._head_input({"input_values": input_values}, attention_mask)
        if of == "head":
            frames, _, _ = self.head(frames, mask, False)
        frames = frames.float()
        mean = masked_mean(frames, mask)
        if pooling == "mean":
            return mean
        return torch.cat([mean, masked_mean((frames - mean[:, None]).square(), mask).sqrt()], dim=-1)

    def _head_input(
        self, inputs: dict[str, torch.Tensor | None], attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The frames that the head reads `(batch, time, channels)`, of the one input that is given, and their mask."""
        if not self.config.mask_padding:
            attention_mask = None
        given = {name: values for name, values in inputs.items() if values is not None}
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(inputs)}, got {' and '.join(given) or 'none'}")
        ((name, values),) = given.items()
        if name == "encoder_hidden_states":
            layers = () if self.layer_weights is None else (self.layer_weights.numel(),)
            frames = self._check(name, values, (*layers, "time", self.config.hidden_size), attention_mask)
        else:
            frames = self._encode(values, attention_mask, convolved=name == "extract_features")
        if self.layer_weights is not None:
            frames = torch.einsum("l,bltd->btd", self.layer_weights.softmax(dim=0).to(frames.dtype), frames)
        return frames, self.frame_mask(attention_mask, num_frames=frames.shape[1], of_samples=name == "input_values")

    def frame_mask(
        self, attention_mask: torch.Tensor | None, *, num_frames: int, of_samples: bool
    ) -> torch.Tensor | None:
        """Bool mask `(batch, num_frames)` of the frames that are speech; None where nothing is masked.

        Args:
            attention_mask: Over samples or over frames, as in `forward`.
            num_frames: Length of the batch in frames.
            of_samples: Whether `attention_mask` counts samples.
        """
        if attention_mask is None or not self.config.mask_padding:
            return None
        if of_samples:
            return frame_mask(self.encoder, attention_mask, num_frames=num_frames)
        return attention_mask.bool()

    def _encode(self, values: torch.Tensor, attention_mask: torch.Tensor | None, *, convolved: bool) -> torch.Tensor:
        """The frames that the head reads, `(batch, time, channels)` or all layers' `(batch, layers, time, channels)`.

        Args:
            values: Speech, or (`convolved`) what the convolutions made of it.
            attention_mask: Over samples or frames, whichever is given.
            convolved: Whether the convolutions have been run before.
        """
        name = "extract_features" if convolved else "input_values"
        if self.encoder is None:
            raise ValueError(f"{name} need the encoder, which was taken out: give encoder_hidden_states")
        sizes = ("time", self.encoder.config.conv_dim[-1]) if convolved else ("samples",)
        values = self._check(name, values, sizes, attention_mask)
        trained = values.requires_grad or any(parameter.requires_grad for parameter in self.encoder.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
            return encode(self.encoder, values, attention_mask, output=self.config.encoder_output, convolved=convolved)

    def _check(
        self, name: str, values: torch.Tensor, sizes: tuple[str | int, ...], attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """An input in the model's dtype, once its shape is seen to be `(batch, *sizes)` and to fit the mask."""
        expected = ("batch", *sizes)
        fits = values.dim() == len(expected) and all(
            isinstance(size, str) or size == there for size, there in zip(expected, values.shape, strict=True)
        )
        if not fits:
            raise ValueError(f"{name} must have shape ({', '.join(map(str, expected))}), got {tuple(values.shape)}")
        axis = next(size for size in sizes if isinstance(size, str))
        batch = (values.shape[0], values.shape[expected.index(axis)])
        if attention_mask is not None and attention_mask.shape != batch:
            raise ValueError(
                f"attention_mask beside {name} must have shape (batch, {axis}) = {batch},"
                f" got {tuple(attention_mask.shape)}"
            )
        return values.to(next((value.dtype for value in self.parameters()), torch.get_default_dtype()))


class ShiftForSequenceClassification(ShiftPreTrainedModel):
    """A label per utterance, or values such as valence: `ShiftModel`, the mean over its frames, a linear layer.

    Args:
        config: The model's configuration; `num_labels` or `id2label` and `label2id` give the labels, `problem_type`
            tells what they are.
    """

    def __init__(self, config: ShiftConfig) -> None:
        super().__init__(config)
        self.shift_ser = ShiftModel(config)
        self.classifier = nn.Linear(self.shift_ser.head.output_width, config.num_labels)
        self.post_init()

    def freeze_feature_encoder(self) -> None:
        """Train no convolution of the encoder; so it is from the start, unless something was unfrozen by hand."""
        self.shift_ser.freeze_feature_encoder()

    def freeze_base_model(self) -> None:
        """Train the classifier alone: neither the encoder nor the head's blocks."""
        self.shift_ser.requires_grad_(False)
        self.train(self.training)

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        extract_features: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Classify utterances; the arguments of `ShiftModel.forward`, and `labels`.

        Args:
            input_values: Normalised speech at 16 kHz, shape `(batch, samples)`.
            attention_mask: 1 on speech, 0 on padding, over samples or over frames, whichever is given.
            encoder_hidden_states: Frames of an encoder that has been run before, `(batch, time, channels)`.
            labels: Adds the `loss` of `problem_type`: class indices `(batch,)`, or floats `(batch, num_labels)` (see
                `problem_loss`).
            output_attentions: Also return the probabilities of the head's attention blocks.
            output_hidden_states: Also return the head's input and every block's output.
            extract_features: Output of the encoder's convolutions, `(batch, time, conv_channels)`.
            **kwargs: Handed to the loss (the Trainer's `num_items_in_batch`).

        Returns:
            `logits` `(batch, num_labels)`, for dimensions their values, and `loss`, `hidden_states`, `attentions` if
            asked for.
        """
        outputs = self.shift_ser(
            input_values,
            attention_mask=attention_mask,
            encoder_hidden_states=encoder_hidden_states,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            extract_features=extract_features,
            return_dict=True,
        )
        frames = outputs.last_hidden_state
        mask = self.shift_ser.frame_mask(
            attention_mask, num_frames=frames.shape[1], of_samples=input_values is not None
        )
        logits = to_scale(self.classifier(masked_mean(frames, mask)), self.config)
        loss = None
        if labels is not None:
            items = kwargs.get("num_items_in_batch")
            loss = problem_loss(logits, labels, config=self.config, num_items_in_batch=items)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


def masked_mean(frames: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Mean `(batch, channels)` over the frames `(batch, time, channels)` that the mask `(batch, time)` keeps.

    Example:
        >>> frames = torch.tensor([[[1.0], [3.0], [7.0]]])
        >>> masked_mean(frames, torch.tensor([[True, True, False]])).tolist()
        [[2.0]]
    """
    if mask is None:
        return frames.mean(dim=1)
    count = mask.sum(dim=1, keepdim=True).clamp(min=1)
    return zero_padding(frames, mask).sum(dim=1) / count.to(frames.dtype)
