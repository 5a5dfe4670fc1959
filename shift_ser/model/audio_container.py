"""Whether an audio file holds as much audio as its header promises: libsndfile reads most cut files without a word."""

import os
from collections.abc import Iterator
from typing import BinaryIO

_STREAMED = 0x7FFFF000  # sizes from here on are what programs write that cannot know: sox, arecord, ffmpeg to a pipe
_MPEG_KBITS = {  # by (MPEG 1, layer), kbit/s by index; layers 2 and 3 of MPEG 2 and 2.5 share a row
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MPEG_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # Hz, by version bits


def what_is_missing(file: BinaryIO) -> str | None:
    """What an audio file promises and does not hold, in words; None if nothing is known to be missing.

    WAV, RF64, W64, AIFF, 8SVX, AU, CAF and NIST say how many bytes of audio follow; the last page of an Ogg stream is
    marked; an MPEG frame has the length that its header gives. A size that a streaming program writes because it
    cannot know (0xFFFFFFFF and the like) promises nothing. Other containers are not judged here, nor FLAC, which
    libsndfile judges itself.

    Args:
        file: Opened for reading, seekable; its position is moved.

    Example:
        >>> import io, struct
        >>> header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 136, b"WAVE", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16,
        ...                      b"data", 100)
        >>> what_is_missing(io.BytesIO(header + bytes(60)))
        '100 bytes of audio promised, 60 held'
        >>> what_is_missing(io.BytesIO(header + bytes(100)))
    """
    size = file.seek(0, os.SEEK_END)
    head = _at(file, 0, 16)
    if head[:4] == b"OggS":
        return _cut_ogg(file, size)
    if is_mpeg(file):
        return _cut_mpeg(file, size)
    found = _promise(file, head, size)
    if found is None:
        return None
    start, promised = found
    if promised == 0 and size > start and not _is_chunk_name(_at(file, start, 4)):
        return f"0 bytes of audio promised, {size - start} held: a recording that was not finished"
    held = max(0, size - start)
    return f"{promised} bytes of audio promised, {held} held" if promised > held else None


def unfinished_size(file: BinaryIO) -> int | None:
    """Where a little-endian WAV that was not finished says that it holds 0 bytes of audio; None for any other file."""
    size = file.seek(0, os.SEEK_END)
    head = _at(file, 0, 16)
    found = _promise(file, head, size) if head[:4] == b"RIFF" else None
    if found is None or found[1] > 0 or size <= found[0] or _is_chunk_name(_at(file, found[0], 4)):
        return None
    return found[0] - 4


def is_mpeg(file: BinaryIO) -> bool:
    """Whether it begins as MPEG audio does, with a frame or an ID3v2 tag."""
    head = _at(file, 0, 4)
    return head[:3] == b"ID3" or _mpeg_frame_length(head) > 0


def _promise(file: BinaryIO, head: bytes, size: int) -> tuple[int, int] | None:
    """Where the audio begins and how many bytes of it the header promises; None if it says nothing."""
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return _riff_promise(file, head[:4], size)
    if head[:4] == b"FORM":
        found = {name: place for name, *place in _chunks(file, 12, size, "big")}
        place = found.get(b"SSND", found.get(b"BODY"))
        return None if place is None else (place[0], place[1])
    if head[:4] == b"riff" and len(head) == 16:
        return _first(_w64_chunks(file, size), b"data")
    if head[:4] in (b".snd", b"dns."):
        order = "big" if head[:4] == b".snd" else "little"
        start, length = (int.from_bytes(head[at : at + 4], order) for at in (4, 8))  # type: ignore[arg-type]
        return None if length >= _STREAMED else (start, length)
    if head[:4] == b"caff":
        return _caf_promise(file, size)
    return _nist_promise(_at(file, 0, 1024)) if head[:7] == b"NIST_1A" else None


def _riff_promise(file: BinaryIO, kind: bytes, size: int) -> tuple[int, int] | None:
    wide = None
    for name, start, length in _chunks(file, 12, size, "big" if kind == b"RIFX" else "little"):
        if name == b"ds64":
            wide = int.from_bytes(_at(file, start + 8, 8), "little")
        elif name == b"data":
            if length == 0xFFFFFFFF and wide is not None:
                return start, wide
            return None if length >= _STREAMED else (start, length)
    return None


def _caf_promise(file: BinaryIO, size: int) -> tuple[int, int] | None:
    at = 8
    while at + 12 <= size:
        name, length = _at(file, at, 4), int.from_bytes(_at(file, at + 4, 8), "big", signed=True)
        if name == b"data" or length < 0:
            return None if length < 0 else (at + 12, length)
        at += 12 + length
    return None


def _nist_promise(header: bytes) -> tuple[int, int] | None:
    """NIST SPHERE: a text header of fields such as `sample_count -i 16000`."""
    lines = header.decode("latin-1").splitlines()
    said = {words[0]: words[2] for words in (line.split() for line in lines) if len(words) == 3}
    try:
        start = int(lines[1])
        count, width = int(said["sample_count"]), int(said["sample_n_bytes"])
        coded = "pcm" not in said.get("sample_coding", "pcm") or "shorten" in said.get("sample_coding", "")
        return None if coded else (start, count * width * int(said.get("channel_count", "1")))
    except (KeyError, ValueError, IndexError):
        return None


def _chunks(file: BinaryIO, at: int, size: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and length of each chunk of a file of the IFF family, which begin at even places."""
    while at + 8 <= size:
        head = _at(file, at, 8)
        length = int.from_bytes(head[4:], order)  # type: ignore[arg-type]
        yield head[:4], at + 8, length
        at += 8 + length + length % 2


def _w64_chunks(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    """The same of a W64 file: names of 16 bytes, lengths of 8 that count the chunk's head, places divisible by 8."""
    at = 40
    while at + 24 <= size:
        head = _at(file, at, 24)
        length = int.from_bytes(head[16:], "little")
        yield head[:4], at + 24, length - 24
        at += max(24, length + -length % 8)


def _first(chunks: Iterator[tuple[bytes, int, int]], wanted: bytes) -> tuple[int, int] | None:
    return next(((start, length) for name, start, length in chunks if name == wanted), None)


def _cut_ogg(file: BinaryIO, size: int) -> str | None:
    """Walk the pages: the last of each stream is marked."""
    at = 0
    open_streams: set[bytes] = set()
    while (head := _at(file, at, 27))[:4] == b"OggS":
        lengths = _at(file, at + 27, head[26]) if len(head) == 27 else b""
        end = at + 27 + len(lengths) + sum(lengths)
        if len(head) < 27 or len(lengths) < head[26] or end > size:
            return "an Ogg page that is cut"
        stream, is_last = head[14:18], head[5] & 4
        (open_streams.discard if is_last else open_streams.add)(stream)
        at = end
    if at < size and b"OggS".startswith(head[:4]):
        return "an Ogg page that is cut"
    return "an Ogg stream without its last page" if open_streams else None


def _cut_mpeg(file: BinaryIO, size: int) -> str | None:
    """Walk the frames up to the first thing that is none, such as a tag; the last may run over the end of the file."""
    head, at = _at(file, 0, 10), 0
    if head[:3] == b"ID3":  # its length has 7 bits a byte
        at = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=False))
        at += 10 * bool(len(head) > 5 and head[5] & 0x10)
    if at >= size:
        return f"a tag of {at} bytes promised, {size} held"
    while length := _mpeg_frame_length(_at(file, at, 4)):
        if at + length > size:
            return f"an MPEG frame of {length} bytes promised, {size - at} held"
        at += length
    return None


def _mpeg_frame_length(head: bytes) -> int:
    """Bytes of the MPEG audio frame that begins with these four; 0 if none does, or if it does not say."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return 0
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    kbits_index, rate_index, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version == 1 or layer == 4 or kbits_index in (0, 15) or rate_index == 3:
        return 0
    kbits, rate = _MPEG_KBITS[version == 3, layer][kbits_index], _MPEG_RATES[version][rate_index]
    if layer == 1:
        return (12000 * kbits // rate + padding) * 4
    return (72000 if layer == 3 and version != 3 else 144000) * kbits // rate + padding


def _is_chunk_name(name: bytes) -> bool:
    return len(name) == 4 and name.isascii() and name.decode("ascii").isprintable() and name[:1].isalpha()


def _at(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)
