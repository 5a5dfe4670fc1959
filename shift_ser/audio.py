"""Reading audio: any rate and channel count in, float32 mono at 16 kHz out; and a `datasets` column that does so."""

import functools
import logging
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import soundfile as sf
import soxr
from datasets.features.features import register_feature

logger = logging.getLogger(__name__)

SAMPLING_RATE = 16000  # Hz, what the wav2vec2-like encoders were trained on


def read_audio(path: str | os.PathLike, *, sampling_rate: int = SAMPLING_RATE) -> np.ndarray:
    """Read an audio file as mono at one sampling rate.

    Channels are averaged and another rate is resampled (soxr, HQ); each kind is logged once.

    Args:
        path: File that libsndfile reads (WAV, FLAC, OGG, MP3, ...).
        sampling_rate: Rate of the result in Hz.

    Returns:
        Samples, float32, shape `(samples,)`, full scale 1.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not audio, holds no sample, or a sample that is NaN or infinite.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     stereo = np.zeros((8000, 2))
        ...     sf.write(f"{folder}/stereo.wav", stereo, 8000)
        ...     read_audio(f"{folder}/stereo.wav").shape
        (16000,)
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"audio file not found: {path}")
    try:
        samples, native_rate = sf.read(path, dtype="float32", always_2d=True)
    except (sf.LibsndfileError, IsADirectoryError) as error:
        raise ValueError(f"{path} must be an audio file that libsndfile reads, got: {error}") from error
    nans, infinite = int(np.isnan(samples).sum()), int(np.isinf(samples).sum())
    if nans or infinite:
        raise ValueError(f"{path} must hold finite samples only, got {nans} NaN and {infinite} infinite")
    if samples.shape[1] > 1:
        _log_once(f"audio of {samples.shape[1]} channels is averaged to mono")
    mono = samples.mean(axis=1)
    if native_rate != sampling_rate:
        _log_once(f"audio of {native_rate} Hz is resampled to {sampling_rate} Hz")
        mono = soxr.resample(mono, native_rate, sampling_rate, quality="HQ")
    if len(mono) == 0:
        raise ValueError(f"{path} must hold at least one sample at {sampling_rate} Hz, got {len(samples)} recorded")
    return mono


@functools.cache
def _log_once(message: str) -> None:
    logger.warning(message)


@dataclass
class SpeechAudio:
    """Column of a `datasets.Dataset` that stores the path of a recording and reads it when a row is looked at.

    It decodes with `read_audio` (no torchcodec) to
    `{"path": str, "array": float32 (samples,), "sampling_rate": int}`. Only the path is ever written to disk or
    uploaded, never the audio: corpora such as IEMOCAP may not be passed on.

    `Dataset.load_from_disk` needs this module to be imported first, which registers the type.

    Args:
        sampling_rate: Rate of the decoded array in Hz.
        decode: Whether to read the audio; otherwise a row shows the path.

    Example:
        >>> from datasets import Dataset, Features
        >>> dataset = Dataset.from_dict({"audio": ["a.wav"]}, features=Features({"audio": SpeechAudio(decode=False)}))
        >>> dataset[0]
        {'audio': 'a.wav'}
    """

    sampling_rate: int = SAMPLING_RATE
    decode: bool = True
    id: str | None = field(default=None, repr=False)
    dtype: ClassVar[str] = "dict"
    pa_type: ClassVar[Any] = pa.string()
    _type: str = field(default="SpeechAudio", init=False, repr=False)

    def __call__(self) -> pa.DataType:
        """Arrow type of the column."""
        return self.pa_type

    def encode_example(self, value: str | os.PathLike | dict[str, Any]) -> str:
        """Keep the path of a path, or of a decoded row."""
        path = value.get("path") if isinstance(value, dict) else value
        if not isinstance(path, (str, Path)):
            raise ValueError(f'audio must be a path, or a dict with a "path", got {value!r}')
        return str(path)

    def decode_example(self, value: str | dict[str, Any], token_per_repo_id: Any = None) -> dict[str, Any]:
        """Read the audio of a path; what is decoded already is returned as it is."""
        if isinstance(value, dict):
            return value
        array = read_audio(value, sampling_rate=self.sampling_rate)
        return {"path": value, "array": array, "sampling_rate": self.sampling_rate}

    def cast_storage(self, storage: pa.Array) -> pa.StringArray:
        """Cast strings, or decoded rows (structs with a path), to the column's Arrow type."""
        if pa.types.is_struct(storage.type):
            storage = storage.field("path")
        return storage.cast(self.pa_type)


with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="'register_feature' is experimental")
    register_feature(SpeechAudio, "SpeechAudio")
