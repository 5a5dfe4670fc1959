"""Classifying a folder of recordings: padded in float32, by the stock pipeline, and by `shift_ser.inference`."""

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
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
class Engine(_Folder):
    """The exported graph in onnxruntime or OpenVINO, one recording after the other, nothing padded."""

    name: str
    precision: str = "f32"

    def prepare(self) -> None:
        """Have a graph written, and load it."""
        super().prepare()
        path = Path(tempfile.mkdtemp()) / "model.onnx"
        _in_another_process(self._write, path)
        if self.name == "openvino":
            import openvino

            hint = {"INFERENCE_PRECISION_HINT": self.precision}
            compiled = openvino.Core().compile_model(path, "CPU", hint)
            self.classify = lambda inputs: compiled(inputs)["logits"]
        else:
            import onnxruntime

            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            self.classify = lambda inputs: session.run(["logits"], inputs)[0]

    def _write(self, path: Path) -> None:
        from shift_ser.hub.onnx import write_onnx

        write_onnx(shift_model("shiftformer", HubertConfig(**self.sizes.encoder)).eval(), path, opset=20)

    def run(self) -> None:
        """Read, classify."""
        for speech in self.recordings():
            mask = np.ones((1, len(speech)), np.int64)
            torch.from_numpy(self.classify({"input_values": speech[None], "attention_mask": mask})).softmax(-1).tolist()


def _in_another_process(work: Callable[[Path], None], path: Path) -> None:
    """Or the peak of memory would be that of making a model.

    Raises:
        RuntimeError: If it fails.
    """
    other = multiprocessing.get_context("fork").Process(target=work, args=(path,))
    other.start()
    other.join()
    if other.exitcode:
        raise RuntimeError(f"a process that writes a model ended with exit code {other.exitcode}")


@dataclass
class OurInference(_Folder):
    """`shift_ser.inference`, as `shift-ser predict` calls it."""

    dtype: str = "auto"
    engine: str = "torch"

    def prepare(self) -> None:
        """Have a model saved or exported, and load it."""
        super().prepare()
        folder = Path(tempfile.mkdtemp())
        _in_another_process(self._save if self.engine == "torch" else self._export, folder)
        self.classifier = load_classifier(folder, dtype=self.dtype, engine=self.engine)

    def _save(self, folder: Path) -> None:
        shift_model("shiftformer", HubertConfig(**self.sizes.encoder)).save_pretrained(folder)
        ShiftFeatureExtractor(do_normalize=False).save_pretrained(folder)

    def _export(self, folder: Path) -> None:
        from shift_ser.hub.onnx import export_onnx

        model = shift_model("shiftformer", HubertConfig(**self.sizes.encoder)).eval()
        export_onnx(model, ShiftFeatureExtractor(do_normalize=False), folder)

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
        "OpenVINO, bf16": Way(Engine(sizes, "openvino", "bf16"), keeps_memory=False),
        "OpenVINO, float32": Way(Engine(sizes, "openvino"), keeps_memory=False),
        "onnxruntime, float32": Way(Engine(sizes, "onnxruntime"), keeps_memory=False),
        "ours": Way(OurInference(sizes)),
        "ours, float32": Way(OurInference(sizes, "float32")),
        "ours in OpenVINO": Way(OurInference(sizes, engine="openvino")),
        "ours in OpenVINO, float32": Way(OurInference(sizes, "float32", "openvino")),
    }
    stock, batched = "stock pipeline, one by one", "stock pipeline, batches of 8"
    lines = (
        Line("Folder", {"authors": 1}, {"ours": 1}),
        Line("Folder", {"pipeline": 1}, {"ours": 1}, stock),
        Line("Folder", {"pipeline in batches": 1}, {"ours": 1}, batched),
        *(
            Line("Folder", {engine: 1}, {ours: 1}, engine, ours)
            for engine, ours in (
                ("OpenVINO, bf16", "ours"),
                ("OpenVINO, float32", "ours, float32"),
                ("onnxruntime, float32", "ours, float32"),
                ("OpenVINO, bf16", "ours in OpenVINO"),
                ("OpenVINO, float32", "ours in OpenVINO, float32"),
                ("ours", "ours in OpenVINO"),
                ("ours, float32", "ours in OpenVINO, float32"),
            )
        ),
        Line("Peak memory", {"authors": 1}, {"ours": 1}, unit="MB"),
        Line("Peak memory", {"pipeline": 1}, {"ours": 1}, stock, unit="MB"),
        Line("Peak memory", {"pipeline in batches": 1}, {"ours": 1}, batched, unit="MB"),
    )
    count = min(sizes.batch, sizes.files)
    return Experiment(
        f"A folder of {sizes.files} wav files of mixed lengths, none above {sizes.longest} s, read from disk; HuBERT."
        f" Authors' way: batches of {count} padded to {sizes.longest} s, Shiftformer, no mask, float32, stock"
        " allocator. Stock pipeline: that of `transformers` with `HubertForSequenceClassification`, float32, stock"
        " allocator. OpenVINO and onnxruntime: the graph of `shift-ser export`, one by one, nothing padded. Ours:"
        " `shift_ser.inference` with a Shiftformer, bf16 where the processor computes in it; in OpenVINO as"
        " `shift-ser predict --engine openvino`.",
        ways,
        lines,
    )
