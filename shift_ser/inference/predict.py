"""Labels of many recordings, as fast as the model goes and in constant memory."""

import csv
import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import soundfile as sf
import torch
from datasets import Dataset
from huggingface_hub.utils import httpx
from transformers import pipeline

from ..cpu import use_matrix_convolutions
from ..model.pipeline_shift_ser import ShiftAudioClassificationPipeline, in_order, like_lengths

_SCORE = "score_"


DTYPES = ("auto", "float32", "bfloat16")
SUFFIXES = frozenset(f".{name.lower()}" for name in sf.available_formats() if name != "RAW") | {".aif", ".oga", ".opus"}
_AHEAD = 4  # recordings that are read while the model is busy
_UNREADABLE = (OSError, ValueError, TypeError, RuntimeError, MemoryError, httpx.HTTPError, httpx.InvalidURL)

T = TypeVar("T")


@dataclass(frozen=True)
class Classified:
    """What became of one recording.

    Attributes:
        name: Its path if there is one, else `recording` and its place, counted from 0.
        scores: From label to score, the likeliest first; None if it could not be classified.
        error: Why it could not be.
    """

    name: str
    scores: dict[str, float] | None = None
    error: str | None = None

    @property
    def label(self) -> str | None:
        """The likeliest label."""
        return next(iter(self.scores)) if self.scores else None


@dataclass(frozen=True)
class _Speech:
    """A recording that was read, or why it was not; `samples` has shape `(samples,)`."""

    name: str
    samples: np.ndarray | None = None
    error: str | None = None


def load_classifier(
    model: str | os.PathLike, *, dtype: str = "auto", calibrated: bool = False
) -> ShiftAudioClassificationPipeline:
    """The pipeline of a saved model, in the dtype in which this machine runs it fastest.

    Args:
        model: Hub name or folder of a saved model.
        dtype: Of weights and computation: `float32`, `bfloat16`, or `auto`: bfloat16 where the hardware computes it
            (`fast_dtype`), else float32.
        calibrated: Whether scores are those of logits divided by the model's temperature.

    Raises:
        ValueError: If `dtype` is none of these.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {DTYPES}, got {dtype!r}")
    classifier = pipeline(
        "audio-classification", model=str(model), pipeline_class=ShiftAudioClassificationPipeline, top_k=None,
        dtype=torch.float32, calibrated=calibrated,
    )  # fmt: skip
    classifier.model.to(fast_dtype(classifier.device) if dtype == "auto" else getattr(torch, dtype))
    use_matrix_convolutions(classifier.model.base_model.encoder)
    return classifier


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device computes it in hardware (on a CPU: AVX512-BF16 or AMX), else float32.

    Example:
        >>> fast_dtype(torch.device("meta"))
        torch.float32
    """
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return torch.bfloat16 if fast else torch.float32


def find_recordings(places: Iterable[str | os.PathLike]) -> Iterator[str]:
    """Paths of files as they are given, and of all audio files in folders and the folders in them, sorted, each once.

    What is audio is told by the suffix, one that libsndfile reads; hidden files and folders are left out; a place that
    does not exist is given as a file.

    Example:
        >>> list(find_recordings(["nowhere.wav", "nowhere.wav"]))
        ['nowhere.wav']
    """
    found: set[str] = set()
    for place in (os.fspath(place) for place in places):
        paths: Iterable[str] = _files_of(place) if os.path.isdir(place) else [place]
        for path in paths:
            if path not in found:
                found.add(path)
                yield path


def classify_recordings(
    classifier: ShiftAudioClassificationPipeline,
    recordings: Iterable[Any],
    *,
    batch_seconds: float = 15.0,
    window: int = 256,
    window_seconds: float = 1200.0,
) -> Iterator[Classified]:
    """Classify recordings in batches of like length, each result as soon as all before it are there.

    A thread reads ahead of the model, and batches are picked from a window of recordings, so memory depends on the
    window and not on how many there are. Scores are those of the classifier for each recording alone (in float32 within
    1e-5). A recording that cannot be read or classified is a result with its `error`, and the others go on. A recording
    is classified whole, however long it is, one beyond `batch_seconds` in a batch of its own.

    Args:
        classifier: What `load_classifier` gives.
        recordings: Anything that the classifier takes one by one: paths, arrays, rows of a `datasets` column, ...; of a
            sequence, such as a column, an item that raises an error when it is looked at is one that cannot be read.
        batch_seconds: Seconds in a batch with its padding; the default is among the fastest for HuBERT base on a CPU.
        window: Most recordings that wait to be classified.
        window_seconds: No more are read when those waiting are as long as this together.

    Yields:
        A result for each recording, in their order.

    Raises:
        ValueError: If an option is not above 0, or `recordings` is a single one.
    """
    for name, value in (("batch_seconds", batch_seconds), ("window", window), ("window_seconds", window_seconds)):
        if not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")
    if isinstance(recordings, (str, bytes, os.PathLike, Mapping, np.ndarray, torch.Tensor)):
        raise ValueError(f"recordings must be several, as a list or another iterable, got {type(recordings).__name__}")
    rate = classifier.feature_extractor.sampling_rate
    fixed = getattr(classifier.feature_extractor, "fixed_length", None)
    together = getattr(classifier.model.config, "mask_padding", True)

    batches = like_lengths(
        _read_ahead(_read(classifier, recordings)),
        length=lambda speech: 0.0 if speech.samples is None else (fixed or len(speech.samples)) / rate,
        fits=lambda count, longest: together and count * longest <= batch_seconds,
        window=window,
        window_length=window_seconds,
    )
    return in_order((places, _classify(classifier, batch)) for places, batch in batches)


def _files_of(folder: str) -> Iterator[str]:
    """Audio files of a folder and of those in it, sorted."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _files_of(entry.path)
        elif Path(entry.name).suffix.lower() in SUFFIXES and entry.is_file():
            yield entry.path


def _read(classifier: ShiftAudioClassificationPipeline, recordings: Iterable[Any]) -> Iterator[_Speech]:
    """The samples of each recording, or why there are none."""
    for place, look in enumerate(_looks(recordings)):
        name = f"recording {place}"
        try:
            recording = look()
            name = _name(recording) or name
            yield _Speech(name, samples=classifier.read(recording))
        except _UNREADABLE as error:
            yield _Speech(name, error=str(error) or type(error).__name__)


def _looks(recordings: Any) -> Iterator[Callable[[], Any]]:
    """For each recording a function that gets it: looking at a row of a column may be what fails."""
    if isinstance(recordings, (Sequence, Dataset, torch.utils.data.Dataset)) and hasattr(recordings, "__len__"):
        return (partial(recordings.__getitem__, row) for row in range(len(recordings)))
    return (partial(_same, recording) for recording in recordings)


def _same(recording: Any) -> Any:
    return recording


def _name(recording: Any) -> str | None:
    """The path of a recording, if it tells one."""
    while isinstance(recording, Mapping):
        recording = recording.get("audio") if recording.get("audio") is not None else recording.get("path")
    return os.fspath(recording) if isinstance(recording, (str, os.PathLike)) else None


def _read_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, fetched by a thread, a few of them before they are asked for."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="recordings")
    waiting = deque(thread.submit(next, items, None) for _ in range(_AHEAD))
    try:
        while (item := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, items, None))
            yield item
    finally:
        thread.shutdown(cancel_futures=True)


def _classify(classifier: ShiftAudioClassificationPipeline, batch: Sequence[_Speech]) -> list[Classified]:
    """Results of recordings that go through the model together; if that fails, of each by itself."""
    speech = [each.samples for each in batch if each.samples is not None]
    _, _, options = classifier._sanitize_parameters(top_k=None)
    try:
        found = classifier.classify_batch(speech, **{**classifier._postprocess_params, **options}) if speech else []
    except (MemoryError, RuntimeError) as error:
        if len(batch) == 1:
            return [Classified(batch[0].name, error=str(error) or type(error).__name__)]
        return [result for each in batch for result in _classify(classifier, [each])]
    scores = iter(found)
    return [
        Classified(each.name, error=each.error)
        if each.samples is None
        else Classified(each.name, scores={entry["label"]: entry["score"] for entry in next(scores)})
        for each in batch
    ]


class ScoreFile:
    """A CSV with a line for each classified recording: `recording`, `label`, a `score_` of each label, `model`.

    A line is handed to the system at once when it is written. What a kill has left of one is cut off when the file is
    opened again, and what is in it need not be classified again. Recordings that could not be classified have no line.

    Args:
        path: File to write or to go on with.
        labels: The model's labels, in the order of the columns.
        model: What the scores come from, such as the model's name and dtype; in every line and the same in all.

    Attributes:
        done: Names of the recordings that are in the file.

    Raises:
        ValueError: If the file holds something else, or scores of another model.
    """

    def __init__(self, path: str | os.PathLike, *, labels: Sequence[str], model: str) -> None:
        self.path, self.labels, self.model = Path(path), list(labels), model
        self.done: set[str] = set()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        header = ["recording", "label", *(_SCORE + label for label in self.labels), "model"]
        whole = self._read(header) if self.path.exists() else 0
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115
        self._file.truncate(whole)
        if not whole:
            self._append(header)

    def __enter__(self) -> "ScoreFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def write(self, result: Classified) -> None:
        """Append the line of one recording.

        Raises:
            ValueError: If it could not be classified, or its labels are not those of the file.
        """
        if result.scores is None or set(result.scores) != set(self.labels):
            raise ValueError(f"scores of {result.name!r} must be of {self.labels}, got {result.scores}")
        self._append([result.name, result.label, *(result.scores[label] for label in self.labels), self.model])
        self.done.add(result.name)

    def _append(self, row: Sequence[Any]) -> None:
        """One line in one go: a kill leaves at most a part of one."""
        line = _line(row)
        if self._file.write(line) != len(line):
            raise OSError(f"the disk took a part of a line only: {str(self.path)!r}")

    def _read(self, header: list[str]) -> int:
        """Note what is done; return how many bytes of the file are whole lines."""
        end = 0
        with open(self.path, "rb") as file:
            try:
                for start, stop, row in _whole_rows(file):
                    end = stop
                    if start and (len(row) != len(header) or row[-1] != self.model):
                        raise ValueError(f"{str(self.path)!r} must hold scores of {self.model!r}, got the line {row}")
                    if start:
                        self.done.add(row[0])
                    elif row != header:
                        raise ValueError(f"{str(self.path)!r} must hold scores, with the columns {header}, got {row}")
            except csv.Error as error:
                raise ValueError(f"{str(self.path)!r} must hold lines of CSV, got one with: {error}") from error
            file.seek(0)
            if end == 0 and not _line(header).startswith(start_of := file.read(len(_line(header)))):
                raise ValueError(f"{str(self.path)!r} must hold scores, with the columns {header}, got {start_of!r}")
        return end


def _line(row: Sequence[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _whole_rows(file: BinaryIO) -> Iterator[tuple[int, int, list[str]]]:
    """Where each row starts and ends, and the row; not a last one that was cut off.

    Raises:
        csv.Error: If there is something else than a row before the end.
    """
    line, start = b"", 0

    def lines() -> Iterator[str]:
        nonlocal line
        for line in file:
            yield line.decode("utf-8", "surrogateescape")

    try:
        for row in csv.reader(lines(), strict=True):
            if line.endswith(b"\n"):
                yield start, file.tell(), row
                start = file.tell()
    except csv.Error:
        if file.read(1):
            raise
