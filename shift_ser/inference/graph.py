"""Models that `shift-ser export` wrote, run by onnxruntime or OpenVINO in the place of torch."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from ..extras import missing_module
from ..model.configuration_shift_ser import ShiftConfig
from ..model.feature_extraction_shift_ser import ShiftFeatureExtractor
from ..model.modeling_shift_ser import ShiftForSequenceClassification
from ..model.pipeline_shift_ser import LENGTH_GRID

logger = logging.getLogger(__name__)

GRAPH = "model.onnx"
_FILES = (GRAPH, "config.json", "preprocessor_config.json")
_STREAMS = 4  # rows that OpenVINO runs at once: a batch of 15 s has few, and each stream takes memory
_LONG = 240_000  # samples of a row that all cores share, where shorter ones have a part of them each

Row = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Engine:
    """A library that runs an exported graph.

    Attributes:
        load: Makes of the graph's path and a dtype what gives logits `(labels,)` for each of several rows, inputs of
            shape `(1, samples)`; threads may call it side by side.
        dtypes: In which it computes.
        grid: Rows are padded to a multiple of so many samples, if padding is masked: code is made for each length.
        attention: The implementation in torch whose memory grows as that of this library.
        memory: Memory of a pass as a multiple of what is counted there, in the same dtype.
    """

    load: Callable[[Path, torch.dtype], Callable[[Sequence[Row]], list[np.ndarray]]]
    dtypes: tuple[torch.dtype, ...]
    grid: int
    attention: str
    memory: float


class _Onnxruntime:
    """One session; it takes calls of many threads."""

    def __init__(self, path: Path, dtype: torch.dtype) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def __call__(self, rows: Sequence[Row]) -> list[np.ndarray]:
        return [self.session.run(["logits"], row)[0][0] for row in rows]


class _OpenVino:
    """Rows side by side, each on a part of the cores; a long one that is alone on all of them."""

    def __init__(self, path: Path, dtype: torch.dtype) -> None:
        import openvino

        self._core, self._dtype = openvino.Core(), dtype
        self._graph = self._core.read_model(path)
        if dtype == torch.bfloat16 and any(node.get_type_name() == "Floor" for node in self._graph.get_ops()):
            raise ValueError(
                f"{str(path)!r} must count frames in whole numbers where dtype is 'bfloat16', and was exported by an"
                " earlier state of this package: export the model again, or take float32"
            )
        self._side_by_side = self._compiled(min(_STREAMS, torch.get_num_threads()))

    def _compiled(self, streams: int) -> Any:
        precision = "bf16" if self._dtype == torch.bfloat16 else "f32"
        options = {"NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        return self._core.compile_model(self._graph, "CPU", {**options, "INFERENCE_PRECISION_HINT": precision})

    @cached_property
    def _alone(self) -> Any:
        return self._compiled(1)

    def __call__(self, rows: Sequence[Row]) -> list[np.ndarray]:
        long = len(rows) == 1 and rows[0]["input_values"].shape[1] > _LONG
        compiled = self._alone if long else self._side_by_side
        requests = [compiled.create_infer_request() for _ in rows]  # of this call: one is not for two threads
        for request, row in zip(requests, rows, strict=True):
            request.start_async(dict(row))
        for request in requests:
            request.wait()
        return [request.get_tensor("logits").data[0].copy() for request in requests]


# memory: a tenth above what was measured once, by hand, with HuBERT base and 30, 60 and 120 s of speech
ENGINES = {
    "onnxruntime": Engine(_Onnxruntime, (torch.float32,), 1, "eager", 1.5),
    "openvino": Engine(_OpenVino, (torch.float32, torch.bfloat16), LENGTH_GRID, "sdpa", 1.8),
}


class GraphModel(nn.Module):
    """An exported model, called like `ShiftForSequenceClassification`: speech and its mask in, logits out.

    Each row of a batch is run by itself, cut to its mask. What is inside the graph, such as frames and embeddings,
    cannot be had.

    Args:
        folder: What `shift-ser export` wrote.
        engine: One of `ENGINES`.
        dtype: In which it computes.

    Raises:
        ModuleNotFoundError: If the engine is not installed.
        ValueError: If the folder is no export, the engine cannot load its graph, or it does not compute in `dtype` or
            not rightly: bfloat16 needs a model whose padding is masked, or which takes clips of one length.
    """

    def __init__(self, folder: str | os.PathLike, engine: str, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.name_or_path, self.engine, self.dtype = os.fspath(folder), engine, dtype
        _check_export(self.name_or_path, engine)
        self.config = ShiftConfig.from_pretrained(folder)
        self.config.architectures = None  # no class of torch
        self.feature_extractor = ShiftFeatureExtractor.from_pretrained(folder)
        self._check_dtype()
        try:
            self._run = ENGINES[engine].load(Path(folder) / GRAPH, dtype)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(missing_module(error.name), name=error.name) from error
        except ValueError:
            raise
        except Exception as error:  # each library has its own
            raise ValueError(f"{engine} must be able to load {str(Path(folder) / GRAPH)!r}, but: {error}") from error

    def _check_dtype(self) -> None:
        known = ENGINES[self.engine].dtypes
        if self.dtype not in known:
            names = ", ".join(str(each).removeprefix("torch.") for each in known)
            raise ValueError(
                f"dtype must be {names} with {self.engine}, got {str(self.dtype).removeprefix('torch.')!r}"
            )
        clips = self.config.mask_padding or self.feature_extractor.fixed_length is not None
        if self.dtype == torch.bfloat16 and not clips:
            raise ValueError(
                f"dtype must be float32 with {self.engine} and mask_padding=False, since in bfloat16 it needs short"
                " speech to be padded, got 'bfloat16'"
            )

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def can_generate(self) -> bool:
        """No: pipelines ask."""
        return False

    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any
    ) -> SequenceClassifierOutput:
        """Classify utterances.

        Args:
            input_values: Speech, shape `(batch, samples)`.
            attention_mask: 1 on speech, 0 on the padding at its right.

        Returns:
            `logits` `(batch, num_labels)`, float32.

        Raises:
            RuntimeError: If the engine fails.
        """
        values = input_values.float().numpy()
        mask = np.ones(values.shape, np.int64) if attention_mask is None else attention_mask.long().numpy()
        rows = [self._row(*row) for row in zip(values, mask, strict=True)]
        try:
            logits = self._run(rows)
        except Exception as error:  # onnxruntime's are of no class of Python's
            raise RuntimeError(f"{self.engine}: {error}") from error
        return SequenceClassifierOutput(logits=torch.from_numpy(np.stack(logits)).float())

    def _row(self, values: np.ndarray, mask: np.ndarray) -> Row:
        if self.config.mask_padding:
            length, grid = int(mask.sum()), ENGINES[self.engine].grid
            padding = -length % grid
            values, mask = (np.pad(each[:length], (0, padding)) for each in (values, mask))
        return {"input_values": values[None], "attention_mask": mask[None]}

    def in_torch(self) -> tuple[ShiftForSequenceClassification, float]:
        """A model of the same shapes in float32, with random weights; and what a pass takes as a multiple of its."""
        engine = ENGINES[self.engine]
        model = ShiftForSequenceClassification(self.config).eval()
        model.set_attn_implementation(engine.attention)
        return model, engine.memory * self.dtype.itemsize / torch.float32.itemsize

    @property
    def base_model(self) -> Any:
        """Not there: what embeddings and streams ask for.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"embeddings, frames and streams need the saved model in torch, got {self.name_or_path!r}, which was"
            " exported and gives scores of whole recordings: load the model that was exported"
        )

    @property
    def frame_logits(self) -> Any:
        """Not there, as `base_model`."""
        return self.base_model


def _check_export(folder: str, engine: str) -> None:
    missing = [name for name in _FILES if not (Path(folder) / name).is_file()]
    if missing:
        raise ValueError(
            f"model must be a folder that `shift-ser export` wrote where the engine is {engine!r}, got {folder!r},"
            f" which has no {missing[0]}: run `shift-ser export {folder} FOLDER` first, and give FOLDER"
        )
