"""Many recordings through a model: read ahead, in batches of like length, in constant memory."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from huggingface_hub.utils import httpx

from ..memory import free_memory
from ..model.pipeline_shift_ser import ShiftAudioClassificationPipeline, in_order, like_lengths
from .memory import pass_memory

_STEP = 10.0  # seconds to which lengths are rounded up where memory is counted
AHEAD = 4  # recordings that are read while the model is busy
# ImportError: of a format that an extra reads which is not installed
_UNREADABLE = (
    ImportError,
    OSError,
    ValueError,
    TypeError,
    RuntimeError,
    MemoryError,
    httpx.HTTPError,
    httpx.InvalidURL,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Done(Generic[T]):
    """What was made of one recording, or why nothing was.

    Attributes:
        name: Its path if there is one, else `recording` and its place, counted from 0.
        value: What was made of it.
        error: Why there is no value.
    """

    name: str
    value: T | None = None
    error: str | None = None


def in_batches(
    classifier: ShiftAudioClassificationPipeline,
    recordings: Iterable[Any],
    work: Callable[[list[np.ndarray]], Iterable[T]],
    *,
    batch_seconds: float = 15.0,
    window: int = 256,
    window_seconds: float = 1200.0,
    max_memory: float | None = None,
) -> Iterator[Done[T]]:
    """Do the same to many recordings, each result as soon as all before it are there.

    A thread reads ahead of the model, and batches are picked from a window of recordings, so memory depends on the
    window and not on how many there are. What cannot be read or worked on is a result with its `error`, and the others
    go on. A recording is taken whole, however long it is, one beyond `batch_seconds` in a batch of its own.

    Args:
        classifier: Reads the recordings.
        recordings: As `classify_recordings` takes them.
        work: Gives a value for each of several recordings, float32 `(samples,)`, that go through the model together.
        batch_seconds: Seconds in a batch with its padding.
        window: Most recordings that wait.
        window_seconds: No more are read when those waiting are as long as this together.
        max_memory: Bytes that a pass may take; a recording beyond `batch_seconds` that needs more is an error, and no
            pass is tried. Default: what the device has left.

    Yields:
        A result for each recording, in their order.

    Raises:
        ValueError: If an option is not above 0, or `recordings` is a single one.
    """
    options = {"batch_seconds": batch_seconds, "window": window, "window_seconds": window_seconds}
    for name, value in {**options, "max_memory": max_memory}.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")
    if isinstance(recordings, (str, bytes, os.PathLike, Mapping, np.ndarray, torch.Tensor)):
        raise ValueError(f"recordings must be several, as a list or another iterable, got {type(recordings).__name__}")
    rate = classifier.feature_extractor.sampling_rate
    fixed = getattr(classifier.feature_extractor, "fixed_length", None)
    together = getattr(classifier.model.config, "mask_padding", True)
    batches = like_lengths(
        _read_ahead(_read(classifier, recordings)),
        length=lambda speech: 0.0 if speech.value is None else (fixed or len(speech.value)) / rate,
        fits=lambda count, longest: together and count * longest <= batch_seconds,
        window=window,
        window_length=window_seconds,
    )

    counted: dict[float, int] = {}

    def fitting(speech: list[np.ndarray]) -> Iterable[T]:
        seconds = max(len(samples) for samples in speech) / rate
        if seconds > batch_seconds and not fixed:
            _check_memory(classifier, seconds, max_memory, counted)
        return work(speech)

    return in_order((places, _work_on(batch, fitting)) for places, batch in batches)


def _check_memory(
    classifier: ShiftAudioClassificationPipeline, seconds: float, max_memory: float | None, counted: dict[float, int]
) -> None:
    """Refuse a recording that would not fit: a system that is out of memory ends the process, and nothing is kept.

    Counting takes a fifth of a second, so it is done once for all lengths up to the next ten seconds; only where that
    would not fit is the recording's own length counted.

    Raises:
        MemoryError: If a pass over it takes more than it may.
    """
    limit = free_memory(classifier.device) if max_memory is None else max_memory
    waveforms = classifier.feature_extractor.model_input_names[0] == "input_values"
    up_to = _STEP * math.ceil(seconds / _STEP) if waveforms else seconds  # Whisper takes no more than 30 s
    if up_to not in counted:
        counted[up_to] = pass_memory(classifier, up_to)
    if counted[up_to] <= limit:
        return
    if (needed := pass_memory(classifier, seconds)) > limit:
        what = "that the machine has left" if max_memory is None else "of max_memory"
        raise MemoryError(
            f"a pass over {seconds:.0f} s takes about {needed / 1e9:.1f} GB, more than the {limit / 1e9:.1f} GB {what}:"
            " cut the recording, or make a timeline of it, which goes over it in windows"
        )


def _work_on(batch: Sequence[Done[np.ndarray]], work: Callable[[list[np.ndarray]], Iterable[T]]) -> list[Done[T]]:
    """Results of recordings that go through the model together; if that fails, of each by itself."""
    speech = [each.value for each in batch if each.value is not None]
    try:
        values = iter(work(speech) if speech else [])
    except (MemoryError, RuntimeError, ValueError) as error:  # ValueError: a number that is not finite
        if len(batch) == 1:
            return [Done(batch[0].name, error=_reason(error))]
        return [result for each in batch for result in _work_on([each], work)]
    return [
        Done(each.name, error=each.error) if each.value is None else Done(each.name, next(values)) for each in batch
    ]


def _read(classifier: ShiftAudioClassificationPipeline, recordings: Iterable[Any]) -> Iterator[Done[np.ndarray]]:
    """The samples of each recording, or why there are none."""
    for place, look in enumerate(_looks(recordings)):
        name = f"recording {place}"
        try:
            recording = look()
            name = _name(recording) or name
            yield Done(name, classifier.read(recording, **classifier._preprocess_params))
        except _UNREADABLE as error:
            yield Done(name, error=_reason(error))


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _looks(recordings: Any) -> Iterator[Callable[[], Any]]:
    """For each recording a function that gets it: looking at a row of a column may be what fails."""
    if hasattr(recordings, "__getitem__") and hasattr(recordings, "__len__"):
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
    waiting = deque(thread.submit(next, items, None) for _ in range(AHEAD))
    try:
        while (item := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, items, None))
            yield item
    finally:
        thread.shutdown(cancel_futures=True)
