"""Audio in the containers that libsndfile does not read, such as a phone's m4a or the sound of a video: by PyAV."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np

try:  # needed for these containers only
    import av
except (ImportError, OSError):
    av = None  # type: ignore[assignment]

MEDIA_SUFFIXES = (
    ".3gp", ".aac", ".amr", ".avi", ".flv", ".m4a", ".m4b", ".m4v", ".mkv", ".mov", ".mp4", ".weba", ".webm", ".wma",
    ".wmv",
)  # fmt: skip
_ISO_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_SLACK = 0.25  # seconds by which the header of a whole file and its packets may differ
_ESTIMATED = ("aac", "amr")  # containers without a header that knows the length


def media_kind(file: BinaryIO) -> str | None:
    """Which of these containers a file is, by its first bytes, in FFmpeg's name; None: another kind of file.

    The name is what FFmpeg is told to read: a file cannot choose a format that opens other files or addresses, as a
    playlist does.

    Args:
        file: Opened for reading, seekable; its position is moved.

    Example:
        >>> import io
        >>> media_kind(io.BytesIO(bytes(4) + b"ftypM4A ")), media_kind(io.BytesIO(b"RIFF    WAVE"))
        ('mov', None)
    """
    file.seek(0)
    head = file.read(16)
    if head[4:8] in _ISO_BOXES:
        return "mov"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head[:4] == bytes.fromhex("3026b275"):
        return "asf"
    if head[:4] == b"FLV\x01":
        return "flv"
    if head[:5] == b"#!AMR":
        return "amr"
    return "aac" if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0 else None


@contextmanager
def open_media(file: BinaryIO, *, kind: str, name: str) -> Iterator[tuple[int, Iterator[np.ndarray | Exception]]]:
    """Open the first audio track of a file.

    Args:
        file: Opened for reading, seekable.
        kind: What `media_kind` found.
        name: What it is called in messages.

    Yields:
        Its sampling rate in Hz; its samples block by block, float32, `(samples, channels)`, and last an exception if
        the decoder stopped or the file ends before its header says so.

    Raises:
        ImportError: If PyAV is not installed.
        ValueError: If it cannot be opened, has no audio track, or nothing in it can be decoded.
    """
    if av is None:
        raise ImportError(f'reading {name} needs PyAV: pip install "shift-ser[av]" (or av)')
    missing = _cut_avi(file) if kind == "avi" else None
    file.seek(0)
    try:
        container = av.open(file, format=kind, metadata_errors="replace")
    except (av.FFmpegError, ValueError, OSError) as error:
        raise ValueError(f"{name} must be a file that FFmpeg reads as {kind}, got: {_said(error)}") from error
    with container:
        if not container.streams.audio:
            raise ValueError(f"{name} must have an audio track, got: {_tracks(container)}")
        blocks = _decoded(container, kind=kind)
        first = next(blocks, None)
        if not isinstance(first, av.AudioFrame):
            raise ValueError(f"{name} must have an audio track that can be decoded, got: {_said(first)}")
        yield first.sample_rate, _as_float(first, blocks, missing=missing)


def _cut_avi(file: BinaryIO) -> EOFError | None:
    """What an AVI's first chunk promises beyond the end of the file; FFmpeg reads a cut one without a word."""
    size = file.seek(0, os.SEEK_END)
    file.seek(4)
    promised = int.from_bytes(file.read(4), "little") + 8
    return EOFError(f"{promised} bytes promised, {size} held") if promised > size else None


def _tracks(container: Any) -> str:
    return ", ".join(f"{stream.type}" for stream in container.streams) or "no track"


def _said(error: Any) -> str:
    if error is None:
        return "no samples"
    return str(getattr(error, "strerror", None) or error)


def _decoded(container: Any, *, kind: str) -> Iterator[Any]:
    """Frames of the first audio track; packets of the others are counted to see whether the file is whole."""
    promised = None if kind in _ESTIMATED or container.duration is None else container.duration / av.time_base
    track, reached, start = container.streams.audio[0], 0.0, (container.start_time or 0) / av.time_base
    try:
        for packet in container.demux():
            if packet.pts is not None:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                reached = max(reached, end - min(start, 0.0))
            if packet.stream is track:
                yield from packet.decode()
    except av.FFmpegError as error:
        yield EOFError(_said(error))
        return
    if promised is not None and reached + _SLACK < promised:
        yield EOFError(f"{promised:.2f} s promised, {reached:.2f} s held")


def _as_float(first: Any, frames: Iterator[Any], *, missing: Exception | None) -> Iterator[np.ndarray | Exception]:
    """Samples of frames, all at the rate and with the channels of the first one."""
    convert = av.AudioResampler(format="fltp", layout=first.layout, rate=first.sample_rate)
    stopped = missing
    try:
        for frame in itertools.chain([first], frames):
            if isinstance(frame, av.AudioFrame):
                yield from _samples(convert.resample(frame))
            else:
                stopped = frame
        yield from _samples(convert.resample(None))
    except (av.FFmpegError, ValueError) as error:
        stopped = EOFError(_said(error))
    if stopped is not None:
        yield stopped


def _samples(frames: list[Any]) -> Iterator[np.ndarray]:
    for frame in frames:
        if frame.samples:
            yield np.ascontiguousarray(frame.to_ndarray().T, dtype=np.float32)
