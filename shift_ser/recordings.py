"""What the recordings of a corpus hold: a hash and a length each; those that cannot be used are refused by name."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object

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
