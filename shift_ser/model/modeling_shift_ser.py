"""ShiftModel and ShiftForSequenceClassification: a speech encoder with a temporal shift head."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices
from transformers.utils import can_return_tuple

from .configuration_shift_ser import (
    SavedConfig,  # noqa: F401
    ShiftConfig,
)
from .encoders import (
    check_padding,
    convolution_width,
    convolutions_of,
    drop_unread_layers,
    encode,
    frame_mask,
    input_name,
    input_width,
    last_layers,
    new_encoder,
    training_parts,
)
from .heads import HEADS, ShiftHead
from .loading import LoadableModel
from .losses import labelled_frames, problem_loss, to_scale
from .model_place import check_model_place  # noqa: F401
from .pipeline_shift_ser import ShiftAudioClassificationPipeline  # noqa: F401
from .speech_input import load_speech  # noqa: F401
from .temporal_shift import zero_padding

EMBEDDINGS = ("head", "encoder")  # whose frames `embed` pools
POOLINGS = ("mean", "mean_and_deviation")


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
        self.encoder = new_encoder(config.encoder_config)
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
        frozen = self.encoder if self.config.freeze_encoder else convolutions_of(self.encoder)
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
        convolutions_of(self.encoder).requires_grad_(False)
        self.train(self.training)

    def drop_unread_layers(self) -> None:
        """Take the encoder's layers away that `encoder_layer` leaves unread; what is saved is as much smaller."""
        drop_unread_layers(self.encoder, self.config.encoder_output)
        encoder_config: Any = self.config.encoder_config
        encoder_config.num_hidden_layers = self.encoder.config.num_hidden_layers

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        extract_features: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
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
            input_features: In place of `input_values` what the encoders of Whisper and w2v-BERT read: the spectrogram
                that the feature extractor makes, shape `(batch, time, bins)`, with a mask over its time.
            **kwargs: Ignored here; lets a caller pass one set of arguments to every model.

        Returns:
            `last_hidden_state` `(batch, time, channels)`, twice the channels for the LSTM head; padding is zero.

        Raises:
            ValueError: Unless exactly one input is given, and in the shape above.
        """
        inputs = {
            "input_values": input_values,
            "input_features": input_features,
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
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *,
        input_features: torch.Tensor | None = None,
        of: str = "head",
        pooling: str = "mean",
    ) -> torch.Tensor:
        """One vector for each utterance, the same alone and in any batch.

        Args:
            input_values: Speech, as in `forward`.
            attention_mask: 1 on speech, 0 on padding.
            input_features: Or its spectrogram, as in `forward`.
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
        inputs = {"input_values": input_values, "input_features": input_features}
        frames, mask = self._head_input(inputs, attention_mask)
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
            frames = self._encode(name, values, attention_mask)
        if self.layer_weights is not None:
            frames = torch.einsum("l,bltd->btd", self.layer_weights.softmax(dim=0).to(frames.dtype), frames)
        return frames, self.frame_mask(attention_mask, num_frames=frames.shape[1], of_samples=name.startswith("input"))

    def frame_mask(
        self, attention_mask: torch.Tensor | None, *, num_frames: int, of_samples: bool
    ) -> torch.Tensor | None:
        """Bool mask `(batch, num_frames)` of the frames that are speech; None where nothing is masked.

        Args:
            attention_mask: Over samples or over frames, as in `forward`.
            num_frames: Length of the batch in frames.
            of_samples: Whether `attention_mask` is that of `input_values` or `input_features`.
        """
        if attention_mask is None or not self.config.mask_padding:
            return None
        if of_samples:
            return frame_mask(self.encoder, attention_mask, num_frames=num_frames)
        return attention_mask.bool()

    def _encode(self, name: str, values: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """The frames that the head reads, `(batch, time, channels)` or all layers' `(batch, layers, time, channels)`.

        Args:
            name: As what `values` were given.
            values: Speech, its spectrogram, or what the convolutions made of it.
            attention_mask: Over the time of `values`.
        """
        if self.encoder is None:
            raise ValueError(f"{name} need the encoder, which was taken out: give encoder_hidden_states")
        config = self.encoder.config
        sizes: tuple[str | int, ...] = ("samples",)
        if name == "extract_features":
            sizes = ("time", convolution_width(config))
        elif name != input_name(config):
            raise ValueError(f"an encoder of the family {config.model_type!r} reads {input_name(config)}, got {name}")
        elif name == "input_features":
            sizes = ("time", input_width(config))
        convolved = name == "extract_features"
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
        input_features: torch.Tensor | None = None,
        output_frame_logits: bool | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Classify utterances; the arguments of `ShiftModel.forward`, and `labels`.

        Args:
            input_values: Normalised speech at 16 kHz, shape `(batch, samples)`.
            attention_mask: 1 on speech, 0 on padding, over samples or over frames, whichever is given.
            encoder_hidden_states: Frames of an encoder that has been run before, `(batch, time, channels)`.
            labels: Adds the `loss` of `problem_type`: class indices `(batch,)`, or floats `(batch, num_labels)` (see
                `problem_loss`). With `frame_labels` also class indices `(batch, time)`, -100 where there is none.
            output_attentions: Also return the probabilities of the head's attention blocks.
            output_hidden_states: Also return the head's input and every block's output.
            extract_features: Output of the encoder's convolutions, `(batch, time, conv_channels)`.
            input_features: The spectrogram that some encoders read, `(batch, time, bins)`.
            output_frame_logits: Give the logits of frames, not those of utterances. Default: if labels are of frames.
            **kwargs: Handed to the loss (the Trainer's `num_items_in_batch`).

        Returns:
            `logits` `(batch, num_labels)`, for dimensions their values, and `loss`, `hidden_states`, `attentions` if
            asked for; `logits` of frames `(batch, time, num_labels)`.
        """
        outputs = self.shift_ser(
            input_values,
            attention_mask=attention_mask,
            encoder_hidden_states=encoder_hidden_states,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            extract_features=extract_features,
            input_features=input_features,
            return_dict=True,
        )
        frames = outputs.last_hidden_state
        encoded = input_values is not None or input_features is not None
        mask = self.shift_ser.frame_mask(attention_mask, num_frames=frames.shape[1], of_samples=encoded)
        labelled = self.config.frame_labels and labels is not None and labels.dim() == 2
        of_frames = labelled if output_frame_logits is None else output_frame_logits
        logits = self.classifier(frames if of_frames else masked_mean(frames, mask))
        logits, loss = to_scale(logits, self.config), None
        if labels is not None:
            said, true = labelled_frames(logits, labels) if of_frames else (logits, labels)
            items = kwargs.get("num_items_in_batch")
            loss = problem_loss(said, true, config=self.config, num_items_in_batch=items)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    @torch.no_grad()
    def frame_logits(
        self,
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *,
        input_features: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """Logits of the frames of each utterance, shapes `(frames, num_labels)`; their mean is the utterance's.

        Args:
            input_values: Speech, as in `forward`.
            attention_mask: 1 on speech, 0 on padding.
            input_features: Or its spectrogram, as in `forward`.
        """
        inputs = {"input_values": input_values, "input_features": input_features}
        logits = self(**inputs, attention_mask=attention_mask, output_frame_logits=True).logits
        mask = self.shift_ser.frame_mask(attention_mask, num_frames=logits.shape[1], of_samples=True)
        return list(logits) if mask is None else [row[kept] for row, kept in zip(logits, mask, strict=True)]


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
