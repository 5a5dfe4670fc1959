"""The files of a frame cache: each holds the frames of some utterances, with a checksum."""

import os
import socket
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

_UNFINISHED = "unfinished"
_DEAD_AFTER = 24 * 60 * 60  # seconds; of writers on other machines one cannot know more
_SHARD = 32  # utterances a file, or more: what a kill loses, and what a process holds in memory
_MOST_SHARDS = 16384  # files that are mapped at once; Linux maps 65530 of a process unless it is told otherwise


def shard_name(index: int, count: int) -> str:
    """File name of a shard.

    Example:
        >>> shard_name(3, 60)
        'frames-00003-of-00060.safetensors'
    """
    return f"frames-{index:05d}-of-{count:05d}.safetensors"


def shard_size(utterances: int) -> int:
    """Utterances in a shard of a cache of so many.

    Example:
        >>> shard_size(5531), shard_size(10_000_000)
        (32, 611)
    """
    return max(_SHARD, -(-utterances // _MOST_SHARDS))


def write_shard(path: Path, frames: Mapping[str, torch.Tensor], *, input_name: str) -> None:
    """Write the frames of some utterances aside, and name the file when it is whole.

    Args:
        path: The shard.
        frames: Frames of each utterance, contiguous, on the CPU.
        input_name: Name of the model input that receives them.

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
