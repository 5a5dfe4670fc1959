"""What every corpus has: a description, an entry of `CORPORA`, an audio column, a hash and a length a recording."""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset, DatasetInfo, Features
from datasets.features.features import register_feature

from ..model.speech_input import SAMPLING_RATE, read_audio
from .check import CorpusReport


@dataclass(frozen=True)
class CorpusInfo:
    """What a corpus says of itself: facts for the metadata of a model, and sentences for its card.

    Attributes:
        name: Short name, used in names of repositories and as key of `CORPORA`.
        title: Name for people.
        description: Which task is read from it, one sentence.
        language: ISO 639-1 code, or several separated by commas.
        license: Identifier of the Hub, such as `cc-by-4.0`, or `other`; `None` if it is not stated.
        license_name: Name of the licence if `license` is `other`.
        license_link: Where the licence is to be read.
        homepage: Where the corpus is described.
        citation: The paper that describes it.
        hub_dataset: Its tag among the Hub's data sets, if it has one.
        synthetic: Whether no person speaks in it.
        speakers_known: Whether speakers are told apart; if not, folds may share speakers.
        heading: Ends the heading of a card: "Shiftformer on hubert, ...".
        labels_note: What the labels of a model trained on it are; `None` lets the card list them.
        data: Where the data comes from and what its licence means for the weights.
        intended: What a model trained on it is for.
        misuse: What it must not be used for.
        limits: What to keep in mind about its scores.
    """

    name: str
    title: str
    description: str
    language: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    homepage: str | None = None
    citation: str | None = None
    hub_dataset: str | None = None
    synthetic: bool = False
    speakers_known: bool = True
    heading: str | None = None
    labels_note: str | None = None
    data: str | None = None
    intended: str | None = None
    misuse: str | None = None
    limits: str | None = None

    def dataset_info(self, features: Features, *, own: bool = False) -> DatasetInfo:
        """The `info` of a `datasets.Dataset` from which `corpus_info` finds this description again.

        Args:
            features: Its columns.
            own: Whether it is a user's own corpus, not one of `CORPORA`, even if it has the name of one.
        """
        return DatasetInfo(
            builder_name=None if own else BUILDER,
            dataset_name=self.name,
            config_name=None if self.speakers_known else SPEAKERS_UNKNOWN,
            description=self.description,
            license=self.license or "",
            homepage=self.homepage or "",
            citation=self.citation or "",
            features=features,
        )


SPEAKERS_UNKNOWN = "speakers not told apart"
BUILDER = "shift_ser"  # marks what a reader of `CORPORA` read


@dataclass(frozen=True)
class Corpus:
    """An entry of `CORPORA`: how one corpus is recognised, read and checked.

    Attributes:
        info: What it says of itself.
        is_here: Whether a folder holds it, or has it as a sub-folder.
        read: Makes a `datasets.Dataset` of a folder; takes the keyword `subset`, a key of `subsets`.
        check: Looks a copy over; None: what `read` gives is counted, and every recording read.
        subsets: What can be read of it, by name, with a sentence each; the first is the default.
        protocol: How it is usually divided into folds, for the documentation.
        published: Recordings of the default subset in the published corpus; `None` if it is not known.
    """

    info: CorpusInfo
    is_here: Callable[[Path], bool]
    read: Callable[..., Dataset]
    check: Callable[[Path], CorpusReport] | None = None
    subsets: Mapping[str, str] = field(default_factory=dict)
    protocol: str = ""
    published: int | None = None

    @property
    def name(self) -> str:
        """Key of the table."""
        return self.info.name


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


_SHOWN = 3  # names in a message


class Columns(Protocol):
    """A `datasets.Dataset` or a mapping of columns."""

    def __getitem__(self, column: str, /) -> Sequence[Any]: ...


@dataclass(frozen=True)
class Recording:
    """What there is to know of a recording without listening to it.

    Attributes:
        content_hash: Changes with its samples (as float32) and its sampling rate, not with its name.
        num_samples: Its length, at its own rate.
    """

    content_hash: str
    num_samples: int


def scan_recordings(dataset: Columns) -> dict[str, Recording]:
    """Read every recording once; with several processes (`accelerate`) each reads its share.

    Args:
        dataset: Columns `utterance` (unique names) and `audio` (`array`, mono samples, and `sampling_rate`).

    Returns:
        What each utterance holds, in the order of the dataset, the same in all processes.

    Raises:
        ValueError: If names are not unique, there is none, or a recording cannot be read, is empty, or holds NaN or
            infinity; the message names it.
    """
    names = list(dataset["utterance"])
    if not 0 < len(names) == len(set(names)):
        raise ValueError(f"utterance names must be unique, got {len(names)} with {len(set(names))} different ones")
    state, column = PartialState(), dataset["audio"]
    found: dict[str, Recording] = {}
    wrong: list[str] = []
    for row in range(state.process_index, len(names), state.num_processes):
        try:
            found[names[row]] = _read(column[row])
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            wrong.append(f"utterance {names[row]!r}: {error}")
    shares = gather_object([(found, wrong)])
    wrong = [message for _, messages in shares for message in messages]
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise ValueError(
            f"recordings must be readable, hold samples, and be finite, got {'; '.join(wrong[:_SHOWN])}{more}"
        )
    everything = {name: recording for share, _ in shares for name, recording in share.items()}
    return {name: everything[name] for name in names}


def _read(audio: Any) -> Recording:
    """The recording that a row of the audio column shows."""
    samples = np.ascontiguousarray(audio["array"], dtype="<f4")
    if samples.size == 0:
        raise ValueError("it is empty")
    if not np.isfinite(samples).all():
        raise ValueError("it holds NaN or infinity")
    digest = hashlib.sha256(json.dumps([audio["sampling_rate"], samples.shape]).encode())
    digest.update(samples.data)
    return Recording(digest.hexdigest(), samples.size)
