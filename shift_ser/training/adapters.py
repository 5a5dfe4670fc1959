"""LoRA and DoRA: small matrices of `peft` beside an encoder's own, which stay frozen; merged into them at the end."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import is_peft_available
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_enabled

from ..model.encoders import ENCODERS, EncoderFamily, new_encoder

# What each kind adds to the options of `peft.LoraConfig`.
ADAPTERS: dict[str, dict[str, Any]] = {"lora": {}, "dora": {"use_dora": True}}


@dataclass(frozen=True)
class AdapterOptions:
    """What is added to an encoder.

    Args:
        kind: `lora` (Hu et al. 2021) or `dora`, which learns a length for each row too (Liu et al. 2024).
        rank: Rank of the matrices, from 1 to the least width of the layers.
        alpha: What is learned is scaled by `alpha / rank`. Default: twice the rank.
        dropout: Dropout before the adapter, in training.
        targets: Last parts of the names of the encoder's linear layers. Default: what `ENCODERS` says.

    Raises:
        ValueError: If a value breaks its rule.
    """

    kind: str
    rank: int = 8
    alpha: float | None = None
    dropout: float = 0.0
    targets: list[str] | None = None

    def __post_init__(self) -> None:
        """Refuse what no encoder can have."""
        if self.kind not in ADAPTERS:
            raise ValueError(f"adapter must be one of {tuple(ADAPTERS)}, got {self.kind!r}")
        if self.rank < 1:
            raise ValueError(f"adapter_rank must be at least 1, got {self.rank}")
        if self.alpha is not None and not 0 < self.alpha < float("inf"):
            raise ValueError(f"adapter_alpha must be above 0 and finite, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"adapter_dropout must be from 0 to below 1, got {self.dropout}")

    def check(self, encoder_config: PreTrainedConfig) -> None:
        """Refuse what this encoder cannot have, and say what it can.

        Raises:
            ImportError: If `peft` is not installed.
            ValueError: If there are no such layers, if an adapter on them has no effect, or if the rank is too high.
        """
        if not is_peft_available():
            raise ImportError('adapters need the package peft: pip install "shift-ser[peft]"')
        with torch.device("meta"):
            encoder = new_encoder(encoder_config)
        family, widths = _family(encoder_config), _linear_widths(encoder)
        possible = sorted(set(widths) - set(family.not_adaptable))
        for target in self.targets_for(encoder_config):
            if target in family.not_adaptable:
                raise ValueError(
                    f"adapter_targets of {family.title} must be among {possible}: the weights of {target!r} are handed"
                    f" past it, so that an adapter there has no effect; got {target!r}"
                )
            if target not in widths:
                raise ValueError(f"adapter_targets must name linear layers of the encoder, {possible}, got {target!r}")
            if self.rank > widths[target]:
                raise ValueError(
                    f"adapter_rank must be at most {widths[target]}, the lesser width of {target!r}, got {self.rank}"
                )

    def targets_for(self, encoder_config: PreTrainedConfig) -> list[str]:
        """The layers that get an adapter: those named, or the family's."""
        return list(self.targets or _family(encoder_config).adapter_targets)


def _family(encoder_config: PreTrainedConfig) -> EncoderFamily:
    return ENCODERS.get(encoder_config.model_type, EncoderFamily(encoder_config.model_type))


def _linear_widths(encoder: nn.Module) -> dict[str, int]:
    """The lesser width of the linear layers in an encoder, by the last part of their names."""
    layers = [(name, layer) for name, layer in encoder.named_modules() if isinstance(layer, nn.Linear)]
    return {name.rpartition(".")[2]: min(layer.weight.shape) for name, layer in layers}


class Adapted:
    """An encoder with adapters in it, and a way back to a plain one.

    The model holds the encoder itself, changed in place: it is trained, stopped and resumed like any other.

    Args:
        encoder: Its own weights are frozen; those of the adapters are drawn, or zero, so that it gives the same frames.
        options: Which adapters.
        name: Hub name or folder of the pretrained encoder, noted beside saved adapters.

    Raises:
        ValueError: If the run shards its weights.
    """

    def __init__(self, encoder: PreTrainedModel, options: AdapterOptions, *, name: str) -> None:
        from peft import LoraConfig, get_peft_model

        if is_fsdp_enabled() or is_deepspeed_zero3_enabled():
            raise ValueError("adapter must be left out where weights are sharded (FSDP, DeepSpeed ZeRO-3), got one")
        alpha: Any = 2 * options.rank if options.alpha is None else options.alpha  # peft's type says int, it scales
        config = LoraConfig(
            r=options.rank,
            lora_alpha=alpha,
            lora_dropout=options.dropout,
            target_modules=options.targets_for(encoder.config),
            **ADAPTERS[options.kind],
        )
        with warnings.catch_warnings():  # peft asks transformers for what it has renamed
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
            self._model = get_peft_model(encoder, config)
        added, adapted = self._model.peft_config["default"], self._model.base_model
        added.base_model_name_or_path = name
        added.target_modules = {*getattr(adapted, "targeted_module_names")}  # noqa: B009 (the whole one may have more)

    def save(self, folder: Path) -> None:
        """Write the adapters alone: `peft.PeftModel.from_pretrained(AutoModel.from_pretrained(NAME), folder)`."""
        self._model.save_pretrained(str(folder))
        (folder / "README.md").unlink(missing_ok=True)  # peft's template of a card, which says nothing

    def merge(self) -> None:
        """Add what was learned to the encoder's own weights: from then on it is a plain encoder again."""
        self._model.merge_and_unload()
