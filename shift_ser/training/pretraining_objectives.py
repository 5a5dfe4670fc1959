"""What an encoder is asked for while it is pretrained on: the units of masked frames, or their codes."""

import logging
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import TrainerCallback, Wav2Vec2ForPreTraining
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

from ..model.encoders import encode, frame_mask, input_name, load_encoder
from ..recipes import find_encoder
from .arguments import _option

logger = logging.getLogger(__name__)

# Options of `shift-ser train` that mean nothing here.
NOT_READ = ("refit", "seeds", "selection_metric", "evaluate_only", "baseline", "cache_dir", "cache_dtype",
            "encoder_dtype", "cache_convolutions", "push_to_hub", "label_smoothing_factor",
            "final", "class_weights", "balanced_sampling", "focal_gamma", "other_votes",
            "augment", "augment_variants", "mixup_alpha")  # fmt: skip
_STARTED, _ENDED = 2.0, 0.5  # temperature of the codebooks, as wav2vec 2.0 base was pretrained


@dataclass
class AdaptArguments:
    """Which encoder goes on with pretraining, and what it is asked for."""

    encoder: str = _option("Hub name or folder of the pretrained encoder", "facebook/hubert-base-ls960")
    objective: str = _option(
        "units: tell the k-means units of masked frames, as HuBERT was pretrained; contrastive: tell a masked frame's"
        " code from others, as wav2vec 2.0 was (wav2vec2 encoders only)",
        "units",
    )
    units_from: str = _option("what is clustered to units: mfcc, or layer: frames of the encoder itself", "layer")
    units_layer: int | None = _option("layer that is clustered; default: the middle one")
    units_encoder: str | None = _option(
        "encoder or trained model whose frames are clustered in place of the encoder's own; {fold} stands for the fold"
    )
    num_units: int = _option("number of units", 100)
    unmasked_weight: float = _option("units: weight of the loss on frames that are not masked", 0.0)
    mask_probability: float = _option("share of the frames that are masked, where masks do not overlap", 0.5)
    mask_length: int = _option("frames under one mask", 10)
    train_convolutions: bool = _option("train the convolutions too", False)
    mask_padding: ClassVar[None] = None  # what a corpus asks of the arguments of a run
    problem_type: ClassVar[None] = None
    dimensions: ClassVar[None] = None
    encoder_of_each_fold: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse what is out of range or would be ignored.

        Raises:
            ValueError: The message names the option, the rule and what was given.
        """
        for name, allowed in (("objective", tuple(OBJECTIVES)), ("units_from", ("mfcc", "layer"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        for name, low, high in (("num_units", 2, 10**6), ("mask_length", 1, 10**6), ("unmasked_weight", 0, 10**6)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if not 0 < self.mask_probability < 1:
            raise ValueError(f"mask_probability must be between 0 and 1, got {self.mask_probability}")
        read = {"units_from", "units_layer", "units_encoder", "num_units", "unmasked_weight"}
        ignored = read if self.objective == "contrastive" else set()
        if self.objective == "units" and self.units_from == "mfcc":
            ignored = {"units_layer", "units_encoder"}
        for option in fields(self):
            if option.name in ignored and getattr(self, option.name) != option.default:
                raise ValueError(
                    f"{option.name} must be left out with objective {self.objective!r} and units_from"
                    f" {self.units_from!r}, got {getattr(self, option.name)!r}"
                )

    @property
    def encoder_path(self) -> str:
        """What `from_pretrained` loads for `encoder`."""
        return find_encoder(self.encoder)


class MaskedUnits(nn.Module):
    """An encoder that tells the units of masked frames through one linear layer.

    Args:
        args: The encoder, the masks, the number of units.
    """

    def __init__(self, args: AdaptArguments) -> None:
        super().__init__()
        self.args, (self.encoder, _) = args, load_encoder(args.encoder_path)
        if input_name(self.encoder.config) != "input_values":
            raise ValueError(f"encoder must read waveforms to be adapted, {args.encoder!r} reads spectrograms")
        if getattr(self.encoder, "masked_spec_embed", None) is None or not self.encoder.config.apply_spec_augment:
            raise ValueError(
                f"encoder must have a learned mask (mask_time_prob above 0 and apply_spec_augment), {args.encoder!r}"
                " has none"
            )
        self.encoder.config.mask_feature_prob = 0.0
        self.predict = nn.Linear(self.encoder.config.hidden_size, args.num_units)

    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor, units: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Loss over masked frames.

        Args:
            input_values: Speech `(batch, samples)`.
            attention_mask: 1 on speech, `(batch, samples)`.
            units: Unit of each frame, `(batch, frames)`; -100: not known.
        """
        masked, mask = draw_masks(self.encoder, attention_mask, args=self.args)
        frames = encode(self.encoder, input_values, attention_mask, mask_time_indices=masked)
        wanted = nn.functional.pad(units, (0, max(0, mask.shape[1] - units.shape[1])), value=-100)[:, : mask.shape[1]]
        logits = self.predict(frames)
        loss = nn.functional.cross_entropy(logits[masked], wanted[masked])
        if self.args.unmasked_weight > 0:
            heard = mask & ~masked
            loss = loss + self.args.unmasked_weight * nn.functional.cross_entropy(logits[heard], wanted[heard])
        return {"loss": loss}


class Contrastive(nn.Module):
    """wav2vec 2.0 with its codebooks: a masked frame's code is told from those of other masked frames.

    Args:
        args: The encoder and the masks.
    """

    def __init__(self, args: AdaptArguments) -> None:
        super().__init__()
        self.args = args
        self.model, loaded = Wav2Vec2ForPreTraining.from_pretrained(args.encoder_path, output_loading_info=True)
        if self.model.config.model_type != "wav2vec2":
            raise ValueError(
                f"objective must be 'units' for an encoder of the family {self.model.config.model_type!r};"
                " 'contrastive' is for wav2vec2"
            )
        self.new_codes = any(name.startswith("quantizer") for name in loaded["missing_keys"])
        if self.new_codes:
            logger.warning("%s holds no codebooks: they are drawn and learned anew", args.encoder)

    @property
    def encoder(self) -> Any:
        """The encoder by itself."""
        return self.model.wav2vec2

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Contrastive and diversity loss, mean over masked frames.

        Args:
            input_values: Speech `(batch, samples)`.
            attention_mask: 1 on speech, `(batch, samples)`.
        """
        masked, _ = draw_masks(self.encoder, attention_mask, args=self.args)
        count = self.model.config.num_negatives
        others = _sample_negative_indices(tuple(masked.shape), count, mask_time_indices=masked.cpu().numpy())
        outputs = self.model(
            input_values,
            attention_mask=attention_mask,
            mask_time_indices=masked,
            sampled_negative_indices=torch.from_numpy(others).to(input_values.device),
        )
        return {"loss": outputs.loss / masked.sum()}


OBJECTIVES: dict[str, type[MaskedUnits] | type[Contrastive]] = {"units": MaskedUnits, "contrastive": Contrastive}


def draw_masks(
    encoder: Any, attention_mask: torch.Tensor, *, args: AdaptArguments
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which frames are masked and which are speech, both bool `(batch, frames)`; numpy's generator draws them."""
    frames = int(encoder._get_feat_extract_output_lengths(attention_mask.shape[1]))
    mask = frame_mask(encoder, attention_mask, num_frames=frames)
    length = min(args.mask_length, int(mask.sum(dim=1).min()))  # of an utterance that is shorter than a mask
    masked = _compute_mask_indices(
        (len(mask), frames), args.mask_probability, length, attention_mask=mask.long(), min_masks=1
    )
    return torch.from_numpy(masked).to(mask.device) & mask, mask


class CodebookTemperature(TrainerCallback):
    """The temperature at which codes are drawn, from 2.0 to 0.5 in equal ratios; codes that are there stay at 0.5."""

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Set it for the step to come; it depends on nothing but the step's number."""
        done = state.global_step / max(1, state.max_steps) if model.new_codes else 1.0
        model.model.set_gumbel_temperature(_STARTED * (_ENDED / _STARTED) ** done)
