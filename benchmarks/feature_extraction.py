"""Training a head on a frozen encoder: recomputing, padded, in float32, against cached, sorted, in bfloat16."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import HubertConfig, HubertModel, PreTrainedModel

from shift_ser import ShiftFeatureExtractor, ShiftForSequenceClassification
from shift_ser.corpora.corpus import SAMPLING_RATE
from shift_ser.training.batching import DataCollatorForShift
from shift_ser.training.feature_cache import FrameCache, FrameDataset, encode_dataset

from .measure import Experiment, Line, Way
from .workload import NUM_LABELS, Sizes, cached_batches, lengths, noise, num_frames, shift_model

HEADS = {"shiftformer": "Shiftformer", "shiftcnn": "ShiftCNN", "shiftlstm": "ShiftLSTM"}
EPOCHS, FOLDS = 100, 5


class Training:
    """A model and its optimizer, one batch after the other, as both scenarios were published.

    Args:
        model: The model.
        optimizer: Of its parameters that are trained.
        bf16: Whether the forward pass runs in bfloat16 where autocast lets it.
        fused: Whether the optimizer updates in one pass over the parameters, as our recipes say.
    """

    def __init__(self, model: ShiftForSequenceClassification, *, optimizer: Any, bf16: bool, fused: bool) -> None:
        self.model, self.bf16 = model.train(), bf16
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = optimizer(self.trained, lr=5e-4, fused=fused)

    def step(self, batch: Mapping[str, torch.Tensor]) -> float:
        """Forward, backward, clip, update; returns the loss."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = self.model(**batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 5.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


@dataclass
class AuthorsEncoder:
    """The stock encoder over one batch that is padded to the longest length, float32, no mask."""

    sizes: Sizes
    utterances: int | None = None

    def prepare(self) -> None:
        """Make encoder and batch."""
        self.encoder = HubertModel(HubertConfig(**self.sizes.encoder)).eval()
        self.values = torch.randn(self.utterances or self.sizes.batch, int(self.sizes.longest * SAMPLING_RATE))

    @torch.no_grad()
    def run(self) -> None:
        """One forward pass."""
        self.encoder(self.values)


@dataclass
class AuthorsHeadStep:
    """A step of a head over frames that are padded to the longest length, float32, no mask."""

    sizes: Sizes
    variant: str

    def prepare(self) -> None:
        """Make head and frames."""
        model = shift_model(self.variant, HubertConfig(**self.sizes.encoder), mask_padding=False)
        model.shift_ser.encoder = None
        self.training = Training(model, optimizer=torch.optim.AdamW, bf16=False, fused=False)
        shape = (self.sizes.batch, num_frames(self.sizes.longest), model.config.hidden_size)
        labels = torch.arange(self.sizes.batch) % NUM_LABELS
        self.batch = {"encoder_hidden_states": torch.randn(shape), "labels": labels}

    def run(self) -> None:
        """One step."""
        self.training.step(self.batch)


class CachedSteps:
    """Steps over batches from a cache: read, padded to the longest of a batch, masked."""

    training: Training
    dataset: FrameDataset
    batches: list[list[int]]

    def run(self) -> None:
        """One step for each batch."""
        collate = DataCollatorForShift()
        for rows in self.batches:
            self.training.step(collate([self.dataset[row] for row in rows]))


@dataclass
class HeadSteps(CachedSteps):
    """Steps of a head over frames. Like a run, it holds the encoder, which is not used."""

    sizes: Sizes
    variant: str
    bf16: bool = True
    by_length: bool = True
    threads: int | None = None

    def prepare(self) -> None:
        """Make head, cache and batches."""
        torch.set_num_threads(self.threads or torch.get_num_threads())
        model = shift_model(self.variant, HubertConfig(**self.sizes.encoder))
        self.encoder, model.shift_ser.encoder = model.shift_ser.encoder, None
        self.training = Training(model, optimizer=torch.optim.AdamW, bf16=self.bf16, fused=True)
        self.dataset, self.batches = cached_batches(
            self.sizes,
            batch=self.sizes.batch,
            count=self.sizes.head_batches,
            channels=model.config.hidden_size,
            dtype=torch.bfloat16 if self.bf16 else torch.float32,
            by_length=self.by_length,
        )


@dataclass
class PlainLoop(HeadSteps):
    """The loop that anyone writes: float32 frames in memory, shuffled batches padded to their longest, stock AdamW."""

    bf16: bool = False
    by_length: bool = False

    def prepare(self) -> None:
        """Also take all frames into memory."""
        super().prepare()
        self.training = Training(self.training.model, optimizer=torch.optim.AdamW, bf16=False, fused=False)
        self.rows = [self.dataset[row] for row in range(len(self.dataset))]

    def run(self) -> None:
        """One step for each batch."""
        for rows in self.batches:
            frames = [torch.as_tensor(self.rows[row]["encoder_hidden_states"]) for row in rows]
            ends = torch.tensor([len(utterance) for utterance in frames])
            padded = nn.utils.rnn.pad_sequence(frames, batch_first=True)
            mask = (torch.arange(padded.shape[1]) < ends[:, None]).long()
            labels = torch.tensor([self.rows[row]["labels"] for row in rows])
            self.training.step({"encoder_hidden_states": padded, "attention_mask": mask, "labels": labels})


@dataclass
class Encoding:
    """One pass of the frozen encoder over a corpus, into a new cache on disk, nothing padded."""

    encoder: Mapping[str, Any]
    utterances: int
    longest: float
    dtype: str = "bfloat16"
    seconds: list[float] = field(init=False, repr=False)

    def prepare(self) -> None:
        """Make encoder and corpus."""
        self.seconds = lengths(self.utterances, longest=self.longest).tolist()
        audio: list[Any] = [{"array": samples, "sampling_rate": SAMPLING_RATE} for samples in noise(self.seconds)]
        self.dataset: dict[str, list[Any]] = {"utterance": [f"{row:05d}" for row in range(len(audio))], "audio": audio}
        self.model: PreTrainedModel = shift_model("linear", HubertConfig(**self.encoder)).shift_ser.encoder

    def run(self) -> None:
        """Encode everything."""
        with tempfile.TemporaryDirectory() as folder:
            self.encode(folder)

    def encode(self, folder: str | Path) -> FrameCache:
        """Encode everything into a folder."""
        return encode_dataset(
            self.model,
            self.dataset,
            feature_extractor=ShiftFeatureExtractor(do_normalize=False),
            cache_dir=folder,
            dtype=self.dtype,
            encoder_dtype=self.dtype,
        )


def feature_extraction(sizes: Sizes) -> Experiment:
    """An epoch, and five folds of 100 epochs."""
    steps, part = sizes.steps, sizes.steps / sizes.head_batches
    ways = {
        "authors' encoder": Way(AuthorsEncoder(sizes), keeps_memory=False, process="authors"),
        "our encoder": Way(Encoding(sizes.encoder, sizes.encoded, sizes.longest)),
        "our shiftformer in float32": Way(HeadSteps(sizes, "shiftformer", bf16=False)),
        "plain loop": Way(PlainLoop(sizes, "shiftformer"), keeps_memory=False),
    }
    plain, loop = {"plain loop": part}, "plain loop over kept frames, float32"
    lines = [
        Line("Shiftformer: epoch after the first", plain, {way: part}, loop, f"ours, {words}")
        for way, words in (("our shiftformer in float32", "float32"), ("our shiftformer", "bf16"))
    ]
    for variant, name in HEADS.items():
        process = "authors" if variant == "shiftformer" else ""
        theirs, ours = f"authors' {variant}", f"our {variant}"
        ways[theirs] = Way(AuthorsHeadStep(sizes, variant), keeps_memory=False, process=process)
        ways[ours] = Way(HeadSteps(sizes, variant))
        epoch = {"authors' encoder": steps, theirs: steps}
        lines.append(Line(f"{name}: epoch after the first", epoch, {ours: part}, b_words="ours, bf16"))
        if variant == "shiftformer":
            in_float32 = {"our shiftformer in float32": part}
            lines.append(Line(f"{name}: epoch after the first", epoch, in_float32, b_words="ours, float32"))
        lines.append(Line(f"{name}: the head's share of it", {theirs: steps}, {ours: part}, b_words="ours, bf16"))
        runs = FOLDS * EPOCHS
        everything = {"our encoder": sizes.corpus / sizes.encoded, ours: part * runs}
        theirs_all = {way: times * runs for way, times in epoch.items()}
        lines.append(Line(f"{name}: 5 folds x 100 epochs", theirs_all, everything, b_words="ours, bf16"))
    peaks = ("our shiftformer", "training from the cache"), ("our encoder", "the pass that fills it")
    for way, words in peaks:
        memory = Line("Peak memory", {"authors' encoder": 1}, {way: 1}, b_words=f"ours, {words}", unit="MB")
        lines.append(memory)
    return Experiment(
        f"Frozen HuBERT. Authors' way: every batch of {sizes.batch}, unshuffled, is padded to {sizes.longest} s and"
        " goes through the stock encoder, then through the head, without mask, in float32, with the stock allocator;"
        " measured: one batch. Ours: frames from the cache, batches of like length, masked; measured:"
        f" {sizes.head_batches} batches of all lengths. Plain loop: frames computed once and kept in memory in float32,"
        " shuffled batches padded to their longest, masked, stock AdamW and allocator. An epoch is extrapolated to"
        f" {steps} batches ({sizes.epoch} utterances); 5 folds x 100 epochs are 500 such epochs, and in ours also one"
        f" pass of the encoder in bf16 over {sizes.corpus} utterances, extrapolated from {sizes.encoded}. Evaluation is"
        " left out on both sides.",
        ways,
        tuple(lines),
    )


def batching(sizes: Sizes) -> Experiment:
    """Batches of like length against plain shuffling, all else equal."""
    part = sizes.steps / sizes.head_batches
    ways = {
        "shuffled": Way(HeadSteps(sizes, "shiftformer", by_length=False)),
        "of like length": Way(HeadSteps(sizes, "shiftformer")),
    }
    line = Line("Shiftformer: head epoch", {"shuffled": part}, {"of like length": part}, "shuffled", "of like length")
    return Experiment(
        "Batches of like length against shuffled ones, both from the cache, masked, bf16;"
        f" {sizes.head_batches} batches, extrapolated to {sizes.steps}. The shares of padding are among the counts.",
        ways,
        (line,),
    )
