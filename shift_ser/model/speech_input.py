"""Speech in whatever form someone holds it: any rate and channel count in, float32 mono at one rate out."""

import functools
import io
import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

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


def read_audio(source: str | os.PathLike | bytes, *, sampling_rate: int = SAMPLING_RATE) -> np.ndarray:
    """Read an audio file as mono at one sampling rate.

    Channels are averaged and another rate is resampled (soxr, HQ); each kind is logged once.

    Args:
        source: File that libsndfile reads (WAV, FLAC, OGG, MP3, ...), or its bytes.
        sampling_rate: Rate of the result in Hz.

    Returns:
        Samples, float32, shape `(samples,)`, full scale 1.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If soundfile, or for another rate soxr, is not installed.
        ValueError: If it is not audio, holds no sample, or a sample that is NaN or infinite.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     stereo = np.zeros((8000, 2))
        ...     sf.write(f"{folder}/stereo.wav", stereo, 8000)
        ...     read_audio(f"{folder}/stereo.wav").shape
        (16000,)
    """
    content = source if isinstance(source, bytes) else None
    name = str(source) if content is None else f"audio of {len(content)} bytes"
    if sf is None:
        raise ImportError(f"reading {name} needs soundfile: pip install soundfile")
    if content is None and not os.path.exists(source):
        raise FileNotFoundError(f"audio file not found: {name}")
    try:
        samples, rate = sf.read(source if content is None else io.BytesIO(content), dtype="float32", always_2d=True)
    except (sf.LibsndfileError, IsADirectoryError) as error:
        raise ValueError(f"{name} must be an audio file that libsndfile reads, got: {error}") from error
    return to_mono(samples, rate, sampling_rate=sampling_rate, name=name)


def load_speech(speech: Any, *, sampling_rate: int = SAMPLING_RATE) -> np.ndarray:
    """One recording, in any form, as mono at one sampling rate.

    Args:
        speech: A path or the bytes of an audio file; an array, tensor or list of numbers at `sampling_rate`, shape
            `(samples,)`, or of one or two channels in either order; a dict of such an array as `raw` or `array` with
            its `sampling_rate`, of a file's `bytes` or `path`, or of any of these as `audio`; a torchcodec decoder.
            Integers of 8, 16 or 32 bits are scaled to [-1, 1).
        sampling_rate: Rate of the result in Hz.

    Returns:
        Samples, float32, shape `(samples,)`, full scale 1.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If soundfile or soxr is needed and not installed.
        ValueError: If it is none of these, holds no sample, or a sample that is NaN or infinite.

    Example:
        >>> load_speech({"array": np.array([0, 16384], dtype=np.int16), "sampling_rate": 16000}).tolist()
        [0.0, 0.5]
    """
    rate = sampling_rate
    if hasattr(speech, "get_all_samples"):
        decoded = speech.get_all_samples()
        speech = {"array": decoded.data, "sampling_rate": decoded.sample_rate}
    if isinstance(speech, Mapping):
        given = {name: value for name, value in speech.items() if value is not None}
        if "audio" in given:
            return load_speech(given["audio"], sampling_rate=sampling_rate)
        array = given.get("raw", given.get("array"))
        if array is None and given.keys() & {"bytes", "path"}:
            return load_speech(given.get("bytes", given.get("path")), sampling_rate=sampling_rate)
        if array is None or not given.get("sampling_rate", 0) > 0:
            raise ValueError(
                'speech in a dict must be "raw" or "array" with a "sampling_rate" above 0 Hz, or "bytes", or "path",'
                f" got the keys {list(speech)} and the rate {speech.get('sampling_rate')}"
            )
        speech, rate = array, given["sampling_rate"]
    if isinstance(speech, (str, os.PathLike, bytes)):
        return read_audio(speech, sampling_rate=sampling_rate)
    if isinstance(speech, torch.Tensor):
        speech = speech.detach().cpu()
        speech = (speech.float() if speech.dtype == torch.bfloat16 else speech).numpy()
    samples = _channels_last(scale_to_float(np.asarray(speech), name="the input"))
    return to_mono(samples, rate, sampling_rate=sampling_rate, name="the input")


def to_mono(samples: np.ndarray, rate: float, *, sampling_rate: int, name: str) -> np.ndarray:
    """Average the channels of samples `(samples, channels)` and resample from `rate` to `sampling_rate`, in Hz.

    Raises:
        ImportError: If the rates differ and soxr is not installed.
        ValueError: If there is no sample, or one that is NaN or infinite; the message begins with `name`.
    """
    nans, infinite = int(np.isnan(samples).sum()), int(np.isinf(samples).sum())
    if nans or infinite:
        raise ValueError(f"{name} must hold finite samples only, got {nans} NaN and {infinite} infinite")
    if samples.shape[1] > 1:
        log_once(f"audio of {samples.shape[1]} channels is averaged to mono")
    mono = samples.mean(axis=1)
    if rate != sampling_rate:
        if soxr is None:
            raise ImportError(f"resampling {name} from {rate} to {sampling_rate} Hz needs soxr: pip install soxr")
        log_once(f"audio of {rate} Hz is resampled to {sampling_rate} Hz")
        mono = soxr.resample(mono, rate, sampling_rate, quality="HQ")
    if len(mono) == 0:
        raise ValueError(f"{name} must hold at least one sample at {sampling_rate} Hz, got {len(samples)} recorded")
    return mono


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


def _channels_last(samples: np.ndarray) -> np.ndarray:
    """Samples `(samples,)`, `(samples, channels)` or `(channels, samples)` as `(samples, channels)`."""
    if samples.ndim == 1 or samples.size == 0:
        return samples.reshape(-1, 1)
    if samples.ndim != 2 or min(samples.shape) > 2:
        raise ValueError(
            "speech must be one recording of one or two channels, shape (samples,), (samples, channels) or (channels,"
            f" samples), got {samples.shape}: give several recordings as a list"
        )
    return samples.T if samples.shape[0] < samples.shape[1] else samples
