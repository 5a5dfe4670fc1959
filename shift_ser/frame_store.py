"""Frames on disk: a folder of shards in safetensors, memory-mapped, each written aside, named when whole, and checked.

A shard `frames-00003-of-00060.safetensors` holds a tensor for each of its utterances, and in its metadata the
checksum of all of them. Several processes, and several runs at once, may write into one folder: what they write under
one name has one content.
"""

import os
import socket
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

_UNFINISHED = "unfinished"
_DEAD_AFTER = 24 * 60 * 60  # seconds; of writers on other machines one cannot know more


class FrameCache:
    """The frames of each utterance, memory-mapped: nothing is read before it is asked for. Made by `open`.

    Attributes:
        path: The folder.
        input_name: As what a model takes the frames: `encoder_hidden_states` or `extract_features`.
        layer: The one layer that is looked at in a cache of all layers.
    """

    def __init__(self, path: Path, *, layer: int | None = None) -> None:
        self.path, self.layer = path, layer
        shards = sorted(path.glob("frames-*-of-*.safetensors"))
        expected = int(shards[0].stem.rsplit("-", 1)[1]) if shards else 1
        if [shard.name for shard in shards] != [shard_name(index, expected) for index in range(expected)]:
            raise ValueError(f"{len(shards)} of {expected} shards are there")
        self._shard_of: dict[str, Any] = {}
        for shard in shards:
            opened = safe_open(shard, framework="pt")
            self._shard_of |= dict.fromkeys(opened.keys(), opened)
        self.input_name: str = opened.metadata()["input_name"]

    @classmethod
    def open(cls, path: str | Path, *, layer: int | None = None) -> "FrameCache":
        """Map the cache in a folder that `encode_dataset` wrote; checksums are not compared here.

        Args:
            path: The folder.
            layer: Look at one layer of a cache of all layers.

        Returns:
            The cache.

        Raises:
            ValueError: If the folder does not hold a whole cache; the message tells what is wrong.
        """
        try:
            return cls(Path(path), layer=layer)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ValueError(f"{path} is not a whole frame cache: {error!r}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path alone: each data loader worker maps the files itself."""
        return _open, (self.path, self.layer)

    def __len__(self) -> int:
        return len(self._shard_of)

    def __contains__(self, utterance: object) -> bool:
        return utterance in self._shard_of

    def frames(self, utterance: str) -> torch.Tensor:
        """Frames of one utterance, 20 ms each for the usual encoders.

        Args:
            utterance: Its name.

        Returns:
            View of the mapped file in the dtype of the cache, shape `(time, channels)`, or `(layers, time, channels)`
            of all layers. Do not write to it: later reads would see it (the file would not).

        Raises:
            KeyError: If the cache does not hold the utterance.
        """
        if utterance not in self:
            raise KeyError(f"utterance {utterance!r} is not in the frame cache {self.path} of {len(self)} utterances")
        frames = self._shard_of[utterance].get_tensor(utterance)
        return frames if self.layer is None else frames[self.layer]


class FrameDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Cached frames with their labels, as `DataCollatorForShift` takes them.

    Args:
        cache: Where the frames are.
        utterances: Names of the utterances, in the order of the dataset.
        labels: Class number of each.
        seconds: Length of each, for batches that are sorted by it.

    Raises:
        ValueError: If there are not as many labels, or lengths, as utterances.
        KeyError: If the cache lacks an utterance.
    """

    def __init__(
        self,
        cache: FrameCache,
        utterances: Sequence[str],
        labels: Sequence[int],
        *,
        seconds: Sequence[float] | None = None,
    ) -> None:
        self.cache, self.utterances, self.labels, self.seconds = cache, utterances, labels, seconds
        if len(utterances) != len(labels):
            raise ValueError(f"there must be one label an utterance, got {len(labels)} and {len(utterances)}")
        if seconds is not None and len(seconds) != len(utterances):
            raise ValueError(f"there must be one length an utterance, got {len(seconds)} and {len(utterances)}")
        if missing := [utterance for utterance in utterances if utterance not in cache]:
            raise KeyError(f"{len(missing)} utterances are not in the frame cache {cache.path}: {missing[0]!r}, ...")

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The frames under the cache's `input_name`, not to be written to, and `labels`, an int."""
        return {self.cache.input_name: self.cache.frames(self.utterances[index]), "labels": self.labels[index]}


def shard_name(index: int, count: int) -> str:
    """File name of a shard.

    Example:
        >>> shard_name(3, 60)
        'frames-00003-of-00060.safetensors'
    """
    return f"frames-{index:05d}-of-{count:05d}.safetensors"


def write_shard(path: Path, frames: Mapping[str, torch.Tensor], *, input_name: str) -> None:
    """Write the frames of some utterances aside, and name the file when it is whole.

    Args:
        path: The shard.
        frames: Frames of each utterance, contiguous, on the CPU.
        input_name: As what a model takes them.

    Raises:
        OSError: If the disk does not take it; nothing is left then.
    """
    aside = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}.{_UNFINISHED}")
    metadata = {"input_name": input_name, "crc32": _checksum(frames)}
    try:
        save_file(dict(frames), aside, metadata=metadata)
        os.replace(aside, path)
    except SafetensorError as error:
        raise OSError(f"{path} could not be written: {error}") from error
    finally:
        aside.unlink(missing_ok=True)


def check_shard(path: Path, utterances: Sequence[str]) -> None:
    """Read a shard through.

    Args:
        path: The shard.
        utterances: Names of what it has to hold.

    Raises:
        ValueError: If it is damaged or holds something else; the message tells what is wrong.
    """
    try:
        with safe_open(path, framework="pt") as shard:
            frames = {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118
            written = (shard.metadata() or {}).get("crc32")
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if set(frames) != set(utterances):
        raise ValueError(f"{path} is damaged: it holds {len(frames)} utterances, not the {len(utterances)} expected")
    if _checksum(frames) != written:
        raise ValueError(f"{path} is damaged: its frames have another checksum than was written")


def remove_leftovers(folder: Path) -> None:
    """Remove what runs that are dead have left unfinished in a folder."""
    for aside in folder.glob(f"*.{_UNFINISHED}"):
        name, process, _ = aside.name.rsplit(".", 2)
        here = name.endswith(f".{socket.gethostname()}")
        try:
            dead = not psutil.pid_exists(int(process)) if here else time.time() - aside.stat().st_mtime > _DEAD_AFTER
        except FileNotFoundError:  # its writer was faster
            continue
        if dead:
            aside.unlink(missing_ok=True)


def _checksum(frames: Mapping[str, torch.Tensor]) -> str:
    """CRC-32 over names, shapes and numbers, whatever their order."""
    value = 0
    for name, tensor in sorted(frames.items()):
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def _open(path: Path, layer: int | None) -> FrameCache:
    return FrameCache.open(path, layer=layer)
