"""A step of fine-tuning: padded, in float32, from speech, against cached convolutions, sorted, in bfloat16."""

from dataclasses import dataclass

import torch
from transformers import Wav2Vec2Config

from shift_ser.corpora.corpus import SAMPLING_RATE

from .feature_extraction import CachedSteps, Training
from .measure import Experiment, Line, Way
from .workload import NUM_LABELS, Sizes, cached_batches, shift_model


@dataclass
class AuthorsTuningStep:
    """A step over one batch of speech that is padded to the longest length, float32, no mask."""

    sizes: Sizes

    def prepare(self) -> None:
        """Make model and batch."""
        config = Wav2Vec2Config(**self.sizes.encoder)
        model = shift_model("shiftformer", config, freeze_encoder=False, mask_padding=False)
        self.training = Training(model, optimizer=torch.optim.Adam, bf16=False, fused=False)
        count = self.sizes.tuning_batch
        values = torch.randn(count, int(self.sizes.longest * SAMPLING_RATE))
        self.batch = {"input_values": values, "labels": torch.arange(count) % NUM_LABELS}

    def run(self) -> None:
        """One step."""
        self.training.step(self.batch)


@dataclass
class TuningSteps(CachedSteps):
    """Steps over batches of cached output of the frozen convolutions, in bfloat16."""

    sizes: Sizes

    def prepare(self) -> None:
        """Make model, cache and batches."""
        config = Wav2Vec2Config(**self.sizes.encoder)
        model = shift_model("shiftformer", config, freeze_encoder=False)
        self.training = Training(model, optimizer=torch.optim.Adam, bf16=True, fused=True)
        self.dataset, self.batches = cached_batches(
            self.sizes,
            batch=self.sizes.tuning_batch,
            count=self.sizes.tuning_batches,
            channels=config.conv_dim[-1],
            dtype=torch.bfloat16,
            input_name="extract_features",
        )


def fine_tuning(sizes: Sizes) -> Experiment:
    """One step, the authors' way and ours."""
    share = 1 / sizes.tuning_batches
    ways = {
        "authors": Way(AuthorsTuningStep(sizes), keeps_memory=False),
        "ours": Way(TuningSteps(sizes)),
    }
    lines = (
        Line("Step", {"authors": 1}, {"ours": share}, b_words="ours, bf16"),
        Line("Peak memory", {"authors": 1}, {"ours": 1}, b_words="ours, bf16", unit="MB"),
    )
    return Experiment(
        "wav2vec 2.0 with a Shiftformer, convolutions frozen, the rest trained with Adam, batches of"
        f" {sizes.tuning_batch} on both sides (the published 32 need too much memory in float32). Authors' way: from"
        f" speech, padded to {sizes.longest} s, no mask, float32, stock allocator; measured: one step. Ours: from the"
        " cached output of the convolutions, batches of like length, masked; a step is the mean over"
        f" {sizes.tuning_batches} batches of all lengths.",
        ways,
        lines,
    )
