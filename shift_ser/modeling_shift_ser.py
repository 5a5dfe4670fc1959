"""ShiftModel and ShiftForSequenceClassification: a speech encoder with a temporal shift head."""

from typing import Any

import torch
from torch import nn
from transformers import AutoModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices
from transformers.utils import can_return_tuple

from .configuration_shift_ser import ShiftConfig
from .loading import LoadableModel
from .padding_aware import make_padding_aware, utterance_ends

# Not used here, but a saved model takes along the files that this one names, and not always those that they name.
from .pipelines import ShiftAudioClassificationPipeline  # noqa: F401
from .saved_config import SavedConfig  # noqa: F401
from .shift_blocks import ShiftHead
from .speech_input import load_speech  # noqa: F401
from .temporal_shift import zero_padding


class ShiftPreTrainedModel(LoadableModel):
    """What both models share: configuration, initial weights, and how they are loaded."""

    config: ShiftConfig
    config_class = ShiftConfig
    base_model_prefix = "shift_ser"
    main_input_name = "input_values"
    input_modalities = ("audio",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["CnnBlock", "LstmBlock", "TransformerBlock"]

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
        make_padding_aware(self.encoder)
        layers = self.encoder.config.num_hidden_layers + 1
        self.layer_weights = nn.Parameter(torch.zeros(layers)) if config.use_weighted_layer_sum else None
        self.masked_spec_embed = nn.Parameter(torch.empty(config.hidden_size)) if config.mask_time_prob > 0 else None
        self.head = ShiftHead(config)
        self.post_init()
        self.train(self.training)

    def train(self, mode: bool = True) -> "ShiftModel":
        """Train or eval mode; what is frozen stays in eval mode and without gradients.

        Every way to a model passes here, `from_pretrained` too, which loads all weights as trainable ones.
        """
        super().train(mode)
        if self.encoder is not None:
            frozen = self.encoder if self.config.freeze_encoder else self.encoder.feature_extractor
            frozen.eval().requires_grad_(False)
        return self

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Run the encoder (unless its frames are given) and the head.

        Args:
            input_values: Normalised speech at 16 kHz, shape `(batch, samples)`.
            attention_mask: 1 on speech, 0 on the padding at its right. Shape `(batch, samples)` beside
                `input_values`, `(batch, time)` beside `encoder_hidden_states`.
            encoder_hidden_states: Frames of an encoder that has been run before, shape `(batch, time, channels)`; with
                `use_weighted_layer_sum` those of all its layers, shape `(batch, layers, time, channels)`.
            output_attentions: Also return the probabilities of the head's attention blocks.
            output_hidden_states: Also return the head's input and every block's output.
            **kwargs: Ignored here; lets a caller pass one set of arguments to every model.

        Returns:
            `last_hidden_state` `(batch, time, channels)`, twice the channels for the LSTM head; padding is zero.

        Raises:
            ValueError: Unless exactly one input is given, and in the shape above.
        """
        if not self.config.mask_padding:
            attention_mask = None
        if input_values is not None and encoder_hidden_states is None:
            frames = self._encode(input_values, attention_mask)
        elif input_values is None and encoder_hidden_states is not None:
            frames = self._check_frames(encoder_hidden_states, attention_mask)
        else:
            given = "neither" if input_values is None else "both"
            raise ValueError(f"give exactly one of input_values and encoder_hidden_states, got {given}")
        if self.layer_weights is not None:
            frames = torch.einsum("l,bltd->btd", self.layer_weights.softmax(dim=0).to(frames.dtype), frames)
        mask = self.frame_mask(attention_mask, num_frames=frames.shape[1], of_samples=input_values is not None)
        if self.training:
            frames = self._spec_augment(frames, mask)
        attentions_wanted = self.config.output_attentions if output_attentions is None else output_attentions
        states_wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        frames, states, attentions = self.head(frames, mask, bool(attentions_wanted))
        return BaseModelOutput(
            last_hidden_state=frames,
            hidden_states=states if states_wanted else None,
            attentions=attentions if attentions_wanted else None,
        )

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
            attention_mask = self.encoder._get_feature_vector_attention_mask(num_frames, attention_mask.long())
        return attention_mask.bool()

    def _encode(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """The encoder's last frames `(batch, time, channels)`, or all layers' `(batch, layers, time, channels)`."""
        if self.encoder is None:
            raise ValueError("input_values need the encoder, which was taken out: give encoder_hidden_states")
        if input_values.dim() != 2:
            raise ValueError(f"input_values must have shape (batch, samples), got {tuple(input_values.shape)}")
        if attention_mask is not None and attention_mask.shape != input_values.shape:
            raise ValueError(
                f"attention_mask beside input_values must have shape (batch, samples) = {tuple(input_values.shape)},"
                f" got {tuple(attention_mask.shape)}"
            )
        all_layers = self.config.use_weighted_layer_sum
        trained = torch.is_grad_enabled() and not self.config.freeze_encoder
        with torch.set_grad_enabled(trained), utterance_ends(self.encoder, attention_mask):
            outputs = self.encoder(
                input_values, attention_mask=attention_mask, output_hidden_states=all_layers, return_dict=True
            )
        return torch.stack(outputs.hidden_states, dim=1) if all_layers else outputs.last_hidden_state

    def _check_frames(self, frames: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Given frames as they are, once their shape is seen to fit the configuration and the mask."""
        layers = () if self.layer_weights is None else (self.layer_weights.numel(),)
        fits = frames.dim() == 3 + len(layers) and frames.shape[1:-2] == layers
        if not fits or frames.shape[-1] != self.config.hidden_size:
            expected = ("batch", *layers, "time", self.config.hidden_size)
            raise ValueError(
                f"encoder_hidden_states must have shape ({', '.join(map(str, expected))}), got {tuple(frames.shape)}"
            )
        if attention_mask is not None and attention_mask.shape != (frames.shape[0], frames.shape[-2]):
            raise ValueError(
                f"attention_mask beside encoder_hidden_states must have shape (batch, time) ="
                f" {(frames.shape[0], frames.shape[-2])}, got {tuple(attention_mask.shape)}"
            )
        return frames

    def _spec_augment(self, frames: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Frames with random time masks (a learned vector) and feature masks (zero); numpy's generator draws them."""
        config, (batch, length, channels) = self.config, frames.shape
        if self.masked_spec_embed is not None and length >= config.mask_time_length:
            masked = _compute_mask_indices(
                (batch, length),
                config.mask_time_prob,
                config.mask_time_length,
                attention_mask=None if mask is None else mask.long(),
                min_masks=config.mask_time_min_masks,
            )
            masked = torch.from_numpy(masked).to(frames.device).unsqueeze(-1)
            frames = torch.where(masked, self.masked_spec_embed.to(frames.dtype), frames)
        if config.mask_feature_prob > 0:
            masked = _compute_mask_indices(
                (batch, channels),
                config.mask_feature_prob,
                config.mask_feature_length,
                min_masks=config.mask_feature_min_masks,
            )
            frames = frames.masked_fill(torch.from_numpy(masked).to(frames.device).unsqueeze(1), 0.0)
        return frames


class ShiftForSequenceClassification(ShiftPreTrainedModel):
    """One label per utterance: `ShiftModel`, the mean over an utterance's frames, a linear layer.

    Args:
        config: The model's configuration; `num_labels` or `id2label` and `label2id` give the labels.
    """

    def __init__(self, config: ShiftConfig) -> None:
        super().__init__(config)
        self.shift_ser = ShiftModel(config)
        self.classifier = nn.Linear(self.shift_ser.head.output_width, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Classify utterances; the arguments of `ShiftModel.forward`, and `labels`.

        Args:
            input_values: Normalised speech at 16 kHz, shape `(batch, samples)`.
            attention_mask: 1 on speech, 0 on padding, over samples or over frames, whichever is given.
            encoder_hidden_states: Frames of an encoder that has been run before, `(batch, time, channels)`.
            labels: Class indices, shape `(batch,)`; adds the cross-entropy `loss`.
            output_attentions: Also return the probabilities of the head's attention blocks.
            output_hidden_states: Also return the head's input and every block's output.
            **kwargs: Handed to the loss (the Trainer's `num_items_in_batch`).

        Returns:
            `logits` `(batch, num_labels)`, and `loss`, `hidden_states`, `attentions` if asked for.
        """
        outputs = self.shift_ser(
            input_values,
            attention_mask=attention_mask,
            encoder_hidden_states=encoder_hidden_states,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        frames = outputs.last_hidden_state
        mask = self.shift_ser.frame_mask(
            attention_mask, num_frames=frames.shape[1], of_samples=input_values is not None
        )
        logits = self.classifier(masked_mean(frames, mask))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config, **kwargs)
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
