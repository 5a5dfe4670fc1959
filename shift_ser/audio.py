"""A `datasets` column of recordings, read when a row is looked at."""

import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from datasets.features.features import register_feature

from .speech_input import SAMPLING_RATE, read_audio


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
