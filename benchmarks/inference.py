"""Classifying a folder of recordings: padded in float32, by the stock pipeline, and by `shift_ser.inference`."""

import multiprocessing
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile
import torch
from transformers import HubertConfig, HubertForSequenceClassification, HubertModel, Wav2Vec2FeatureExtractor, pipeline

from shift_ser import ShiftFeatureExtractor
from shift_ser.corpora.corpus import SAMPLING_RATE
from shift_ser.inference.predict import classify_recordings, find_recordings, load_classifier

from .measure import Experiment, Line, Way
from .workload import NUM_LABELS, Sizes, lengths, shift_model, write_recordings


@dataclass
class _Folder:
    """A folder of wav files of mixed lengths."""

    sizes: Sizes

    def prepare(self) -> None:
        """Write the folder."""
        self.paths = write_recordings(lengths(self.sizes.files, longest=self.sizes.longest).tolist())

    def recordings(self) -> Iterator[np.ndarray]:
        """Read the folder, every recording cut to the longest length."""
        for path in self.paths:
            yield soundfile.read(path, dtype="float32")[0][: int(self.sizes.longest * SAMPLING_RATE)]


@dataclass
class AuthorsInference(_Folder):
    """Batches that are padded to the longest length through the stock encoder and a Shiftformer, float32, no mask."""

    def prepare(self) -> None:
        """Make encoder and head."""
        super().prepare()
        config = HubertConfig(**self.sizes.encoder)
        self.encoder = HubertModel(config).eval()
        self.model = shift_model("shiftformer", config, mask_padding=False).eval()
        self.model.shift_ser.encoder = None

    @torch.no_grad()
    def run(self) -> None:
        """Read, pad, classify."""
        samples = list(self.recordings())
        for start in range(0, len(samples), self.sizes.batch):
            part = samples[start : start + self.sizes.batch]
            values = torch.zeros(len(part), int(self.sizes.longest * SAMPLING_RATE))
            for row, speech in enumerate(part):
                values[row, : len(speech)] = torch.from_numpy(speech)
            frames = self.encoder(values).last_hidden_state
            self.model(encoder_hidden_states=frames).logits.softmax(dim=-1).tolist()


@dataclass
class StockPipeline(_Folder):
    """`transformers.pipeline` with the stock classifier on the same encoder, float32."""

    batch_size: int

    def prepare(self) -> None:
        """Make the pipeline."""
        super().prepare()
        config = HubertConfig(**self.sizes.encoder, num_labels=NUM_LABELS)
        self.classify: Any = pipeline(
            "audio-classification",
            model=HubertForSequenceClassification(config).eval(),
            feature_extractor=Wav2Vec2FeatureExtractor(do_normalize=False),
        )

    def run(self) -> None:
        """Read, classify."""
        inputs = [{"raw": speech, "sampling_rate": SAMPLING_RATE} for speech in self.recordings()]
        self.classify(inputs, batch_size=self.batch_size)


@dataclass
class OurInference(_Folder):
    """`shift_ser.inference`, as `shift-ser predict` calls it."""

    def prepare(self) -> None:
        """Have a model saved, and load it."""
        super().prepare()
        folder = tempfile.mkdtemp()
        other = multiprocessing.get_context("fork").Process(target=self._save, args=(folder,))
        other.start()  # or the peak of memory would be that of making a model
        other.join()
        self.classifier = load_classifier(folder)

    def _save(self, folder: str) -> None:
        shift_model("shiftformer", HubertConfig(**self.sizes.encoder)).save_pretrained(folder)
        ShiftFeatureExtractor(do_normalize=False).save_pretrained(folder)

    def run(self) -> None:
        """Read, classify."""
        for result in classify_recordings(self.classifier, find_recordings([self.paths[0].parent])):
            if result.error is not None:
                raise RuntimeError(f"every recording must be classified, got {result.error!r} for {result.name}")


def inference(sizes: Sizes) -> Experiment:
    """The authors' way and the stock pipeline, one by one and in batches, against ours."""
    ways = {
        "authors": Way(AuthorsInference(sizes), keeps_memory=False),
        "pipeline": Way(StockPipeline(sizes, 1), keeps_memory=False),
        "pipeline in batches": Way(StockPipeline(sizes, 8), keeps_memory=False),
        "ours": Way(OurInference(sizes)),
    }
    stock, batched = "stock pipeline, one by one", "stock pipeline, batches of 8"
    lines = (
        Line("Folder", {"authors": 1}, {"ours": 1}),
        Line("Folder", {"pipeline": 1}, {"ours": 1}, stock),
        Line("Folder", {"pipeline in batches": 1}, {"ours": 1}, batched),
        Line("Peak memory", {"authors": 1}, {"ours": 1}, unit="MB"),
        Line("Peak memory", {"pipeline": 1}, {"ours": 1}, stock, unit="MB"),
        Line("Peak memory", {"pipeline in batches": 1}, {"ours": 1}, batched, unit="MB"),
    )
    count = min(sizes.batch, sizes.files)
    return Experiment(
        f"A folder of {sizes.files} wav files of mixed lengths, none above {sizes.longest} s, read from disk; HuBERT."
        f" Authors' way: batches of {count} padded to {sizes.longest} s, Shiftformer, no mask, float32, stock"
        " allocator. Stock pipeline: that of `transformers` with `HubertForSequenceClassification`, float32, stock"
        " allocator. Ours: `shift_ser.inference` with a Shiftformer, bf16 where the processor computes in it.",
        ways,
        lines,
    )
