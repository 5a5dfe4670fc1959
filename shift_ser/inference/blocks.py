"""A recording of any length, in any form, as float32 mono blocks at one rate: no more than a block is held."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import soxr

from ..model.pipeline_shift_ser import DOWNLOAD_SECONDS, download
from ..model.speech_input import (
    MAX_BYTES,
    average_channels,
    channels_last,
    check_rate,
    find_samples,
    log_once,
    open_audio,
    open_file,
    plain_array,
    scale_to_float,
)

BLOCK = 2**16  # samples of a channel that are decoded at a time
_COPIED = 2**20  # bytes of a file object that are copied at a time


@dataclass(frozen=True)
class SpeechBlocks:
    """A recording that is being read.

    Attributes:
        name: Its path or address if there is one, else `the input`.
        seconds: How long it is, by its header or its array; None where nobody knows before the end.
        blocks: Its samples, float32 mono, full scale 1, shapes `(samples,)`.
    """

    name: str
    seconds: float | None
    blocks: Iterator[np.ndarray]


@contextmanager
def open_speech(
    recording: Any, *, sampling_rate: int, allow_truncated: bool = False, max_seconds: float = float("inf"),
    max_bytes: int = MAX_BYTES, max_download_seconds: float = DOWNLOAD_SECONDS,
) -> Iterator[SpeechBlocks]:  # fmt: skip
    """Open one recording to read it block by block; its samples are those of `load_speech`.

    What a file object or an address holds is copied to a temporary file on the disk first. A WAV file whose size was
    never written, which needs `allow_truncated`, is held whole.

    Args:
        recording: What `load_speech` takes, or an http or https URL.
        sampling_rate: Rate of the blocks in Hz.
        allow_truncated: As for `read_audio`.
        max_seconds: Longest recording that is read. Default: any.
        max_bytes: Most that is read from an address or a file object.
        max_download_seconds: Longest time that fetching it from an address may take.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not audio, cut, empty or too long, or holds a sample that is NaN, infinite or beyond 2**32;
            the last three when the blocks are read.
    """
    source, rate = find_samples(recording, sampling_rate=sampling_rate)
    with ExitStack() as stack:
        name, path = "the input", None
        file: Any = None
        frames: int | None
        if isinstance(source, str) and source.startswith(("http://", "https://")):
            name, file = source, stack.enter_context(tempfile.NamedTemporaryFile())
            download(source, file, max_bytes=max_bytes, max_seconds=max_download_seconds)
            path = _written(file)
        elif hasattr(source, "read") or isinstance(source, (bytes, bytearray, memoryview)):
            file = stack.enter_context(tempfile.NamedTemporaryFile())
            _copy(source, file, max_bytes=max_bytes)
            path = _written(file)
        elif isinstance(source, str) or hasattr(source, "__fspath__"):
            name, path = str(source), source
            file = stack.enter_context(open_file(source, name=name))
        else:
            samples, rate = channels_last(plain_array(source, name=name)), check_rate(rate, name=name)
            blocks, frames = _pieces(samples, name=name), len(samples)
        if file is not None:
            options: dict[str, Any] = {"path": path, "name": name, "allow_truncated": allow_truncated, "block": BLOCK}
            audio = stack.enter_context(open_audio(file, **options))
            blocks, rate, frames = audio.blocks, audio.rate, audio.frames
        seconds = None if frames is None else frames / rate
        mono = _mono(blocks, rate, sampling_rate=sampling_rate, name=name, max_seconds=max_seconds)
        yield SpeechBlocks(name, seconds, mono)


def _written(file: Any) -> str:
    """The path of a temporary file whose content has reached the disk: libsndfile opens it by itself."""
    file.flush()
    return file.name


def _copy(source: Any, file: BinaryIO, *, max_bytes: int) -> None:
    """Bytes, or what is left of a file object in binary mode, to a file."""
    if not hasattr(source, "read"):
        file.write(source)
        return
    count = 0
    while content := source.read(_COPIED):
        if not isinstance(content, bytes):
            raise ValueError(
                f"a file object must be opened in binary mode, got one that reads {type(content).__name__}"
            )
        count += file.write(content)
        if count > max_bytes:
            raise ValueError(f"a file object must hold at most {max_bytes} bytes (max_bytes), got more")


def _pieces(samples: np.ndarray, *, name: str) -> Iterator[np.ndarray]:
    """Blocks of an array `(samples, channels)` as float32."""
    for start in range(0, len(samples), BLOCK):
        yield scale_to_float(samples[start : start + BLOCK], name=name)


def _mono(
    blocks: Iterator[np.ndarray], rate: float, *, sampling_rate: int, name: str, max_seconds: float
) -> Iterator[np.ndarray]:
    """Channels averaged, resampled; what is no speech is an error when it is met."""
    resampler = None
    if rate != sampling_rate:
        log_once(f"audio of {rate} Hz is resampled to {sampling_rate} Hz")
        resampler = soxr.ResampleStream(rate, sampling_rate, 1, dtype="float32", quality="HQ")
    count = given = 0
    for block in blocks:
        if block.shape[1] > 1:
            log_once(f"audio of {block.shape[1]} channels is averaged to mono")
        mono = average_channels(block, name=name)
        count += len(mono)
        if count / rate > max_seconds:
            raise ValueError(f"{name} must last at most {max_seconds:g} s (max_seconds), got more")
        mono = mono if resampler is None else resampler.resample_chunk(mono)
        given += len(mono)
        yield mono
    if resampler is not None:
        mono = resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)
        given += len(mono)
        yield mono
    if given == 0:
        raise ValueError(f"{name} must hold at least one sample at {sampling_rate} Hz, got {count} recorded")
