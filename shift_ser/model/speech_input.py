"""Speech in whatever form someone holds it: any rate and channel count in, float32 mono at one rate out."""

import functools
import io
import logging
import math
import numbers
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import torch

from .audio_container import is_mpeg, unfinished_size, what_is_missing
from .media_container import media_kind, open_media

try:  # these two are needed for files and for other rates only
    import soundfile as sf
except (ImportError, OSError):
    sf = None
try:
    import soxr
except ImportError:
    soxr = None

logger = logging.getLogger(__name__)

SAMPLING_RATE = 16000  # Hz, what the wav2vec2-like encoders were trained on
RATES = (1_000, 1_000_000)  # Hz, lowest and highest that are taken for a rate of speech
MAX_SECONDS = 6 * 3600.0  # longest recording that is read, unless told otherwise
MAX_BYTES = 2**31  # most that is read from a file object or an address, unless told otherwise
MAX_AMPLITUDE = 2.0**32  # full scale is 1, and 2**31 where 32-bit integers were made floats; beyond 1e18 float32 fails

_BLOCK, _SALVAGE = 2**20, 2**8  # frames that are decoded at a time; the small blocks lose little where a file is cut
_UNKNOWN = 2**62  # libsndfile's number of frames where the header does not say
_MPEG_SLACK = 1152  # samples by which the header and the decoder of a whole MP3 file may differ


def read_audio(
    source: str | os.PathLike | bytes | bytearray | memoryview,
    *,
    sampling_rate: int = SAMPLING_RATE,
    allow_truncated: bool = False,
    max_seconds: float = MAX_SECONDS,
) -> np.ndarray:
    """Read an audio file as mono at one sampling rate.

    Channels are averaged and another rate is resampled (soxr, HQ); each kind is logged once.

    Args:
        source: File that libsndfile reads (WAV, FLAC, OGG, Opus, MP3, ...), or, with PyAV installed, one of m4a, aac,
            mp4, mov, webm, mkv, avi and their like, of which the first audio track is read; or its bytes.
        sampling_rate: Rate of the result in Hz.
        allow_truncated: Whether a file that holds less audio than its header promises is read as far as it goes, which
            is logged. By default it is an error.
        max_seconds: Longest recording that is read.

    Returns:
        Samples, float32, shape `(samples,)`, full scale 1.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If soundfile, for another rate soxr, or for a video and its like PyAV, is not installed.
        ValueError: If it is not a regular file, not audio, or cut; if its rate is not between 1 kHz and 1 MHz; if it is
            too long, holds no sample, or a sample that is NaN, infinite or beyond 2**32.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     stereo = np.zeros((8000, 2))
        ...     sf.write(f"{folder}/stereo.wav", stereo, 8000)
        ...     read_audio(f"{folder}/stereo.wav").shape
        (16000,)
    """
    path: str | os.PathLike | None = None
    file: BinaryIO
    if isinstance(source, (str, os.PathLike)):
        path, name = source, printable(source)
        file = open_file(source, name=name)
    else:
        content = memoryview(source).tobytes()
        name, file = f"audio of {len(content)} bytes", _Content(content)
    with file:
        options: dict[str, Any] = {"name": name, "allow_truncated": allow_truncated, "max_seconds": max_seconds}
        samples, rate = _decode(file, path=path, **options)
    return to_mono(samples, rate, sampling_rate=sampling_rate, name=name, max_seconds=max_seconds)


def printable(path: str | os.PathLike) -> str:
    """A path as messages show it: bytes of a file name that are not UTF-8 become a replacement character.

    Example:
        >>> printable("a" + chr(0xDCFF) + ".wav") == "a" + chr(0xFFFD) + ".wav"
        True
    """
    return os.fsencode(path).decode("utf-8", "replace")


def load_speech(speech: Any, *, sampling_rate: int = SAMPLING_RATE, **options: Any) -> np.ndarray:
    """One recording, in any form, as mono at one sampling rate.

    Args:
        speech: A path or the bytes of an audio file, or a file object opened in binary mode; an array, tensor or list
            of numbers at `sampling_rate`, shape `(samples,)`, or of one or two channels in either order; a tuple of a
            rate and such an array, as gradio gives it; a dict of such an array as `raw` or `array` with its
            `sampling_rate`, of a file's `bytes` or `path`, or of any of these as `audio`; a torchcodec decoder.
            Integers of 8, 16 or 32 bits are scaled to [-1, 1).
        sampling_rate: Rate of the result in Hz.
        **options: `allow_truncated` and `max_seconds` as for `read_audio`; `max_bytes`, the most that is read from a
            file object.

    Returns:
        Samples, float32, shape `(samples,)`, full scale 1.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If soundfile or soxr is needed and not installed.
        ValueError: If it is none of these, has a rate that is not between 1 kHz and 1 MHz, is too long, holds no
            sample, a masked one, or one that is NaN, infinite or beyond 2**32.

    Example:
        >>> load_speech({"array": np.array([0, 16384], dtype=np.int16), "sampling_rate": 16000}).tolist()
        [0.0, 0.5]
    """
    speech, rate = find_samples(speech, sampling_rate=sampling_rate)
    max_bytes = options.pop("max_bytes", MAX_BYTES)
    if hasattr(speech, "read"):
        speech = _read_all(speech, max_bytes=max_bytes)
    if isinstance(speech, (str, os.PathLike, bytes, bytearray, memoryview)):
        return read_audio(speech, sampling_rate=sampling_rate, **options)
    rate = check_rate(rate, name="the input")
    samples = channels_last(scale_to_float(plain_array(speech, name="the input"), name="the input"))
    max_seconds = options.get("max_seconds", MAX_SECONDS)
    return to_mono(samples, rate, sampling_rate=sampling_rate, name="the input", max_seconds=max_seconds)


def find_samples(speech: Any, *, sampling_rate: int) -> tuple[Any, Any]:
    """What holds the samples of a recording, out of its dict, tuple or decoder; and the rate that belongs to an array.

    Args:
        speech: One recording, as `load_speech` takes it.
        sampling_rate: Rate in Hz of an array that comes without one.

    Returns:
        A path, bytes, a file object or something of numbers; the rate of the last, not yet checked.

    Raises:
        ValueError: If a dict holds neither a file nor an array with its rate.

    Example:
        >>> find_samples({"audio": {"path": "speech.wav"}}, sampling_rate=16000)
        ('speech.wav', 16000)
    """
    if hasattr(speech, "get_all_samples"):
        decoded = speech.get_all_samples()
        return decoded.data, decoded.sample_rate
    if has_its_rate(speech):
        return speech[1], speech[0]
    if not isinstance(speech, Mapping):
        return speech, sampling_rate
    given = {name: value for name, value in speech.items() if value is not None}
    if "audio" in given:
        return find_samples(given["audio"], sampling_rate=sampling_rate)
    array = given.get("raw", given.get("array"))
    if array is None and given.keys() & {"bytes", "path"}:
        return find_samples(given.get("bytes", given.get("path")), sampling_rate=sampling_rate)
    if array is None or "sampling_rate" not in given:
        raise ValueError(
            'speech in a dict must be "raw" or "array" with a "sampling_rate", or "bytes", or "path", got the keys'
            f" {list(speech)} and the rate {speech.get('sampling_rate')}"
        )
    return array, given["sampling_rate"]


def has_its_rate(speech: Any) -> bool:
    """Whether it is a tuple of a rate and samples, as gradio gives a recording.

    Example:
        >>> has_its_rate((16000, np.zeros(5))), has_its_rate((0.1, 0.2))
        (True, False)
    """
    return (
        isinstance(speech, tuple)
        and len(speech) == 2
        and isinstance(speech[0], numbers.Real)
        and isinstance(speech[1], (np.ndarray, torch.Tensor, list))
    )


def to_mono(
    samples: np.ndarray, rate: float, *, sampling_rate: int, name: str, max_seconds: float = MAX_SECONDS
) -> np.ndarray:
    """Average the channels of samples `(samples, channels)` and resample from `rate` to `sampling_rate`, in Hz.

    Raises:
        ImportError: If the rates differ and soxr is not installed.
        ValueError: If they last too long, or there is no sample, or one that is NaN, infinite or beyond 2**32; the
            message begins with `name`.
    """
    _check_seconds(len(samples) / rate, max_seconds=max_seconds, name=name)
    mono = average_channels(samples, name=name)
    if rate != sampling_rate and len(mono):
        if soxr is None:
            raise ImportError(f"resampling {name} from {rate} to {sampling_rate} Hz needs soxr: pip install soxr")
        log_once(f"audio of {rate} Hz is resampled to {sampling_rate} Hz")
        # A constant stays one: a resampling filter would ring where it begins and ends.
        constant = mono[0] if mono.min() == mono.max() else None
        mono = soxr.resample(mono, rate, sampling_rate, quality="HQ")
        mono = mono if constant is None else np.full_like(mono, constant)
    if len(mono) == 0:
        raise ValueError(f"{name} must hold at least one sample at {sampling_rate} Hz, got {len(samples)} recorded")
    return mono


def average_channels(samples: np.ndarray, *, name: str) -> np.ndarray:
    """The mean over the channels of samples `(samples, channels)`, shape `(samples,)`.

    Raises:
        ValueError: If a sample is NaN, infinite or beyond 2**32; the message begins with `name`.
    """
    nans, infinite = int(np.isnan(samples).sum()), int(np.isinf(samples).sum())
    if nans or infinite:
        raise ValueError(f"{name} must hold finite samples only, got {nans} NaN and {infinite} infinite")
    check_amplitude(samples, name=name)
    if samples.shape[1] > 1:
        log_once(f"audio of {samples.shape[1]} channels is averaged to mono")
    return samples.mean(axis=1)


def check_rate(rate: Any, *, name: str) -> float:
    """A sampling rate in Hz as a number; a tensor or an array of one number is one.

    Raises:
        ValueError: If it is not a number between 1 kHz and 1 MHz.
    """
    value = rate.item() if isinstance(rate, (np.ndarray, torch.Tensor)) and rate.ndim == 0 else rate
    low, high = RATES
    if not isinstance(value, numbers.Real) or isinstance(value, (bool, np.bool_)) or not low <= float(value) <= high:
        shown = repr(rate) if len(repr(rate)) < 50 else f"{type(rate).__name__} {repr(rate)[:30]}..."
        raise ValueError(f"{name} must have a sampling rate that is a number from {low} to {high} Hz, got {shown}")
    number = float(value)
    return int(number) if number.is_integer() else number


def check_amplitude(samples: np.ndarray, *, name: str) -> None:
    """Refuse samples that no recording holds and that a model answers with NaN.

    Raises:
        ValueError: If one is beyond 2**32; the message begins with `name`.
    """
    if samples.size and (largest := float(np.abs(samples).max())) > MAX_AMPLITUDE:
        raise ValueError(f"{name} must hold samples within {MAX_AMPLITUDE:g} (full scale is 1), got {largest:g}")


def plain_array(speech: Any, *, name: str) -> np.ndarray:
    """An array of an array, tensor or list.

    Raises:
        ValueError: If it is a nested list of unequal lengths, or a masked array in which something is masked.
    """
    if isinstance(speech, torch.Tensor):
        speech = speech.detach().cpu()
        speech = (speech.float() if speech.dtype == torch.bfloat16 else speech).numpy()
    if isinstance(speech, np.ma.MaskedArray) and (count := int(np.ma.getmaskarray(speech).sum())):
        raise ValueError(f"{name} must hold no masked samples, got {count}: fill or cut them")
    try:
        return np.asarray(speech)
    except ValueError as error:
        raise ValueError(f"{name} must be one recording, got what makes no array: {error}") from error


def scale_to_float(samples: np.ndarray, *, name: str) -> np.ndarray:
    """The same samples as float32; integers are divided by the size of their range, so that full scale is 1.

    Raises:
        ValueError: If they are neither floats nor signed integers of 8, 16 or 32 bits.

    Example:
        >>> scale_to_float(np.array([-128, 64], dtype=np.int8), name="the input").tolist()
        [-1.0, 0.5]
    """
    if samples.dtype.kind != "f" and samples.dtype not in (np.int8, np.int16, np.int32):
        raise ValueError(
            "speech must be floats or signed integers of 8, 16 or 32 bits (their range tells the scale),"
            f" but {name} is {samples.dtype}"
        )
    scale = 1.0 if samples.dtype.kind == "f" else -float(np.iinfo(samples.dtype).min)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
        return (samples / scale).astype(np.float32)


@functools.cache
def log_once(message: str) -> None:
    """Log a warning that has not been logged before."""
    logger.warning(message)


class _Content(io.BytesIO):
    """A file's bytes; libsndfile seeks before their beginning where a header is damaged, and is led to it."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As for every file."""
        return super().seek(max(0, offset) if whence == os.SEEK_SET else offset, whence)


def open_file(source: Any, *, name: str) -> BinaryIO:
    """A regular file, opened; a pipe or a device might never end."""
    if not os.path.exists(source):
        raise FileNotFoundError(f"audio file not found: {name}")
    if not os.path.isfile(source):
        kind = "a folder" if os.path.isdir(source) else "a pipe or a device"
        raise ValueError(f"{name} must be an audio file that libsndfile reads, got: {kind}")
    return open(source, "rb")


def _read_all(file: Any, *, max_bytes: int) -> bytes:
    """What is left of a file object in binary mode."""
    content = file.read(max_bytes + 1)
    if not isinstance(content, bytes):
        raise ValueError(f"a file object must be opened in binary mode, got one that reads {type(content).__name__}")
    if len(content) > max_bytes:
        raise ValueError(f"a file object must hold at most {max_bytes} bytes (max_bytes), got more")
    return content


@dataclass(frozen=True)
class OpenAudio:
    """An audio file that is being read.

    Attributes:
        rate: Its sampling rate in Hz.
        frames: Samples of each channel by its header; None where that does not say.
        blocks: The samples, float32, `(samples, channels)` each. An error is raised where they end too early.
    """

    rate: int
    frames: int | None
    blocks: Iterator[np.ndarray]


@contextmanager
def open_audio(
    file: BinaryIO, *, path: Any, name: str, allow_truncated: bool = False, block: int = _BLOCK
) -> Iterator[OpenAudio]:
    """Open an audio file to read it block by block.

    Args:
        file: Opened for reading, seekable.
        path: Where it lies; None where it is not a file of its own.
        name: What it is called in messages.
        allow_truncated: As for `read_audio`.
        block: Samples of each channel in a block; the blocks of a file that may be cut are smaller.

    Raises:
        ValueError: If it is not audio or cut; if its rate is not between 1 kHz and 1 MHz.
    """
    if (kind := media_kind(file)) is not None:
        with open_media(file, kind=kind, name=name) as (rate, parts):
            check_rate(rate, name=name)
            yield OpenAudio(rate, None, _until_it_stops(parts, name=name, allow_truncated=allow_truncated))
        return
    missing = what_is_missing(file)
    if missing is not None:
        _judge(missing, name=name, allow_truncated=allow_truncated)
    with _libsndfile(file, path=path, name=name) as audio:
        check_rate(audio.samplerate, name=name)
        blocks = _blocks(audio, size=_SALVAGE if allow_truncated else block)
        yield OpenAudio(
            rate=audio.samplerate,
            frames=audio.frames if audio.frames < _UNKNOWN else None,
            blocks=_until_the_end(
                blocks, audio, name=name, allow_truncated=allow_truncated, judged=missing is not None
            ),
        )


def _decode(
    file: BinaryIO, *, path: Any, name: str, allow_truncated: bool, max_seconds: float
) -> tuple[np.ndarray, int]:
    """Samples `(samples, channels)` and rate in Hz of an open audio file; `path` is None where it is bytes."""
    with open_audio(file, path=path, name=name, allow_truncated=allow_truncated) as audio:
        if audio.frames is not None:
            _check_seconds(audio.frames / audio.rate, max_seconds=max_seconds, name=name)
        parts, count, most = [], 0, math.floor(max_seconds * audio.rate) + 1
        for part in audio.blocks:
            parts.append(part)
            count += len(part)
            if count >= most:
                break
        return np.concatenate(parts), audio.rate


@contextmanager
def _libsndfile(file: BinaryIO, *, path: Any, name: str) -> Iterator[Any]:
    """The file as libsndfile opens it: by its path where it has one."""
    with tempfile.TemporaryDirectory() if path is None and is_mpeg(file) else nullcontext() as aside:
        size_at = unfinished_size(file)
        file.seek(0)
        target: Any = file
        if aside is not None:  # libsndfile 1.2.2 refuses MP3 that it cannot open by a path
            target = os.path.join(aside, "speech.mp3")
            with open(target, "wb") as copy:
                shutil.copyfileobj(file, copy)
        elif size_at is not None:  # nobody wrote the size: "until the end", as a program says that cannot know
            content = bytearray(file.read())
            content[size_at : size_at + 4] = b"\xff\xff\xff\xff"
            target = _Content(content)
        elif path is not None:
            target = os.fsencode(path) if os.name == "posix" else os.fspath(path)
        if sf is None:
            raise ImportError(f"reading {name} needs soundfile: pip install soundfile")
        try:
            audio = sf.SoundFile(target)
        except (sf.SoundFileError, TypeError, ValueError) as error:
            raise ValueError(f"{name} must be an audio file that libsndfile reads, got: {error}") from error
        with audio:
            yield audio


def _blocks(audio: Any, *, size: int) -> Iterator[np.ndarray | Exception]:
    """Samples `(samples, channels)` block by block, the last one shorter; or what stopped the decoder."""
    count = size
    while count == size:
        try:
            samples = audio.read(size, dtype="float32", always_2d=True)
        except (sf.SoundFileError, ValueError) as error:
            yield error
            return
        count = len(samples)
        yield samples


def _until_the_end(
    blocks: Iterator[np.ndarray | Exception], audio: Any, *, name: str, allow_truncated: bool, judged: bool
) -> Iterator[np.ndarray]:
    """The same blocks; a decoder that stopped, or a file that ends before its header says so, is an error at the end.

    Where it is allowed, it is logged, unless that was `judged` before.
    """
    count, broken, promised = 0, None, audio.frames
    for samples in blocks:
        if isinstance(samples, Exception):
            broken = samples
        else:
            count += len(samples)
            yield samples
    if broken is not None and not (allow_truncated and count):
        raise ValueError(f"{name} must be an audio file that libsndfile reads, got: {broken}") from broken
    slack = _MPEG_SLACK if audio.format in ("MP3", "MPEG") else 0
    if not judged and (broken is not None or count + slack < promised < _UNKNOWN):
        held = f"{promised} samples promised, {count} held"
        _judge(str(broken or held), name=name, allow_truncated=allow_truncated)


def _until_it_stops(
    blocks: Iterator[np.ndarray | Exception], *, name: str, allow_truncated: bool
) -> Iterator[np.ndarray]:
    """The blocks of a container; what stopped its decoder early is an error at the end, or logged."""
    for samples in blocks:
        if isinstance(samples, Exception):
            _judge(str(samples), name=name, allow_truncated=allow_truncated)
        else:
            yield samples


def _judge(missing: str, *, name: str, allow_truncated: bool) -> None:
    """Refuse a file that is cut, or log it where it is allowed."""
    if not allow_truncated:
        raise ValueError(
            f"{name} must hold as much audio as its header promises, got {missing}: it was cut, as by a copy that broke"
            " off. Copy it again, or pass allow_truncated=True to read what is there"
        )
    logger.warning("%s is cut and is read as far as it goes: %s", name, missing)


def _check_seconds(seconds: float, *, max_seconds: float, name: str) -> None:
    if seconds > max_seconds:
        raise ValueError(f"{name} must last at most {max_seconds:g} s (max_seconds), got {seconds:.6g} s")


def channels_last(samples: np.ndarray) -> np.ndarray:
    """Samples `(samples,)`, `(samples, channels)` or `(channels, samples)` as `(samples, channels)`."""
    if samples.ndim == 1 or samples.size == 0:
        return samples.reshape(-1, 1)
    if samples.ndim != 2 or min(samples.shape) > 2:
        raise ValueError(
            "speech must be one recording of one or two channels, shape (samples,), (samples, channels) or (channels,"
            f" samples), got {samples.shape}: give several recordings as a list"
        )
    return samples.T if samples.shape[0] < samples.shape[1] else samples
