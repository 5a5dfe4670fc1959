"""A step of training and the scoring of a batch without a corpus, on noise: to be timed, or counted."""

from typing import Any

import numpy as np
import torch
from transformers import Trainer

from ..corpora.corpus import SAMPLING_RATE
from ..matrix_products import use_matrix_products
from ..model.encoders import encode
from ..model.feature_extraction_shift_ser import ShiftFeatureExtractor
from ..model.modeling_shift_ser import ShiftForSequenceClassification
from .adapters import Adapted
from .arguments import DataArguments, ModelArguments, RunArguments


class Rehearsal:
    """A new model with an optimizer, prepared as a fold prepares it: what is frozen is run once, for the batches.

    `place` comes first.

    Args:
        model: New, with its encoder; one on the `meta` device gets weights without values.
        model_args: Encoder, head and scenario.
        data_args: What is kept of the encoder's output, and in which dtype.
        run_args: Optimizer, precision and the device.
        feature_extractor: Preprocessing of the run.

    Attributes:
        weights: Those that are trained, once they are placed.
    """

    weights: list[torch.nn.Parameter]
    optimizer: torch.optim.Optimizer

    def __init__(
        self,
        model: ShiftForSequenceClassification,
        *,
        model_args: ModelArguments,
        data_args: DataArguments,
        run_args: RunArguments,
        feature_extractor: ShiftFeatureExtractor,
    ) -> None:
        self.model, self.run_args, self.feature_extractor = model, run_args, feature_extractor
        self._kept: int | str | None = "convolutions" if data_args.cache_convolutions else None
        if model.config.freeze_encoder:
            self._kept = model.config.encoder_output
        self._input_name = feature_extractor.model_input_names[0]
        self._kept_dtype = getattr(torch, data_args.cache_dtype)
        use_matrix_products(model)
        model.shift_ser.drop_unread_layers()
        self.encoder = model.shift_ser.encoder.eval()
        if model.config.freeze_encoder:
            model.shift_ser.encoder = None
        elif model_args.adapter_options is not None:
            Adapted(self.encoder, model_args.adapter_options, name=model_args.encoder)
        if run_args.gradient_checkpointing:  # its name up to transformers 5.22
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})

    def place(self) -> None:
        """Move all weights to the device, and make the optimizer."""
        frozen = [self.encoder] if self.model.config.freeze_encoder else []
        for part in [self.model, *frozen]:
            move = part.to_empty if part.device.type == "meta" else part.to
            move(device=self.run_args.device)
        self.weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        kind, options = Trainer.get_optimizer_cls_and_kwargs(self.run_args, self.model)
        self.optimizer = kind(self.weights, **{**options, "lr": 0.0})

    def speech(self, seconds: float) -> np.ndarray:
        """An utterance of noise as the feature extractor gives it."""
        noise = np.random.default_rng(0).standard_normal(round(SAMPLING_RATE * seconds)).astype(np.float32)
        return self.feature_extractor(noise, sampling_rate=SAMPLING_RATE, return_tensors="np")[self._input_name]

    def batch(self, count: int, speech: np.ndarray, *, joined: int = 1) -> dict[str, torch.Tensor]:
        """A batch as the fold gives it to the model.

        Args:
            count: How many utterances.
            speech: Each of them, from `speech`.
            joined: How many stand one behind the other in an example, of what is kept of the encoder's output.
        """
        name, device = self._input_name, self.run_args.device
        values = torch.from_numpy(speech).to(device)
        if self._kept is not None:
            name = "encoder_hidden_states" if self.model.config.freeze_encoder else "extract_features"
            with torch.no_grad():
                kept = encode(self.encoder, values, output=self._kept).to(self._kept_dtype)
            values = torch.cat([kept] * joined, dim=-2)
        time, outputs = values.shape[1 if name.startswith("input") else -2], self.model.config.num_labels
        values = values.repeat(count, *[1] * (values.dim() - 1))
        numbers = self.model.config.problem.soft or self.model.config.problem.dimensions
        labels = torch.full((count, outputs), 1 / outputs) if numbers else torch.zeros(count).long()
        return {name: values, "attention_mask": torch.ones(count, time).long().to(device), "labels": labels.to(device)}

    def train(self, batch: dict[str, torch.Tensor]) -> None:
        """One step of the optimizer; each of its batches is this one."""
        for _ in range(self.run_args.gradient_accumulation_steps):
            self.backward(batch)
        self.update()

    def backward(self, batch: dict[str, torch.Tensor]) -> None:
        """Add the gradients of a batch."""
        self.model.train()
        with self._precision():
            loss = self.model(**batch).loss
        loss.backward()

    def update(self) -> None:
        """Let the optimizer make its step with the gradients, and forget them; no weight changes."""
        torch.nn.utils.clip_grad_norm_(self.weights, self.run_args.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def score(self, batch: dict[str, torch.Tensor]) -> None:
        """Logits of a batch."""
        self.model.eval()
        with self._precision():
            self.model(**batch).logits.cpu()

    def _precision(self) -> Any:
        args = self.run_args
        half = torch.float16 if args.fp16 else torch.bfloat16
        return torch.autocast(args.device.type, dtype=half, enabled=args.fp16 or args.bf16)
