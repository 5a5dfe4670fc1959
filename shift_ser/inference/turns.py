"""Turns that somebody else has found, such as a diarisation: from a table, an RTTM file or a Praat TextGrid."""

import csv
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Turn:
    """Who speaks from when to when.

    Attributes:
        start: In seconds.
        end: In seconds, above `start`.
        speaker: None where nobody says.
    """

    start: float
    end: float
    speaker: str | None = None


def read_turns(segments: Any, *, recording: str) -> list[Turn]:
    """Turns, in the order in which they come.

    Args:
        segments: A list of dicts (or another iterable of them, such as a Dataset) or a DataFrame with `start` and
            `end` in seconds and perhaps `speaker`; or the path of such a CSV, of an RTTM or of a TextGrid file. In a
            TextGrid, each interval with a text is a turn, and the tier's name its speaker.
        recording: Path of the recording: of an RTTM file that tells of several, the turns of its name are taken.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If a TextGrid is to be read and praatio is not installed.
        ValueError: If there is no turn, one that cannot be read, starts before 0 or does not end after its start; the
            message names the place.
    """
    if isinstance(segments, (str, os.PathLike)):
        path = Path(segments)
        reader = READERS.get(path.suffix.lower())
        if reader is None:
            raise ValueError(f"segments must be a file {' or '.join(READERS)}, got {str(path)!r}")
        if not path.is_file():
            raise FileNotFoundError(f"segments must be an existing file, got {str(path)!r}")
        turns = list(reader(path, recording))
        source = f"segments {str(path)!r}"
    else:
        turns, source = list(_from_rows(_rows(segments))), "segments"
    if not turns:
        raise ValueError(f"{source} must hold a turn of {recording}, got none")
    return turns


def _rows(segments: Any) -> Iterable[Any]:
    if hasattr(segments, "to_dict") and hasattr(segments, "columns"):  # a DataFrame
        return segments.to_dict("records")
    if isinstance(segments, Mapping) or not isinstance(segments, Iterable):
        raise ValueError(f"segments must be a list of dicts with start and end, a table or a file, got {segments!r}")
    return segments


def _from_rows(rows: Iterable[Any]) -> Iterator[Turn]:
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(f"segments[{number}] must be a dict with start and end, got {row!r}")
        yield _turn(row.get("start"), row.get("end"), row.get("speaker"), where=f"segments[{number}]")


def _turn(start: Any, end: Any, speaker: Any, *, where: str) -> Turn:
    """A turn, checked; `where` begins the message."""
    try:
        turn = Turn(float(start), float(end), _speaker(speaker))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} must have a start and an end in seconds, got {start!r} and {end!r}") from error
    if not 0 <= turn.start < turn.end < math.inf:
        raise ValueError(f"{where} must have 0 <= start < end, got start {turn.start:g} and end {turn.end:g}")
    return turn


def _speaker(value: Any) -> str | None:
    missing = value is None or value == "" or (isinstance(value, float) and math.isnan(value))
    return None if missing else str(value)


def _read_csv(path: Path, recording: str) -> Iterator[Turn]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not {"start", "end"} <= set(rows.fieldnames or ()):
            raise ValueError(f"{path} must have the columns start and end, got {rows.fieldnames}")
        for row in rows:
            yield _turn(row["start"], row["end"], row.get("speaker"), where=f"{path} line {rows.line_num}")


def _read_rttm(path: Path, recording: str) -> Iterator[Turn]:
    """SPEAKER lines: type, file, channel, start, duration, two fields that are not read, the speaker."""
    found: list[tuple[str, Turn]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split()
        if not fields or fields[0] != "SPEAKER":
            continue
        where = f"{path} line {number}"
        if len(fields) < 8:
            raise ValueError(f"{where} must have at least 8 fields, as RTTM has, got {line!r}")
        try:
            end: Any = round(float(fields[3]) + float(fields[4]), 6)
        except ValueError:
            end = fields[4]
        speaker = None if fields[7] == "<NA>" else fields[7]
        found.append((fields[1], _turn(fields[3], end, speaker, where=where)))
    names = {name for name, _ in found}
    if len(names) > 1:
        found = [(name, turn) for name, turn in found if name == Path(recording).stem]
        if not found:
            raise ValueError(f"{path} must tell of {Path(recording).stem!r}, got {', '.join(sorted(names))}")
    yield from (turn for _, turn in found)


def _read_textgrid(path: Path, recording: str) -> Iterator[Turn]:
    textgrid = praat_textgrid()
    try:
        grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False)
    except Exception as error:  # whatever praatio meets in a file that is none
        raise ValueError(f"{path} must be a TextGrid of Praat, got what praatio cannot read: {error}") from error
    for tier in grid.tiers:
        if isinstance(tier, textgrid.IntervalTier):
            for start, end, _ in tier.entries:
                yield _turn(start, end, tier.name, where=f"{path} tier {tier.name!r}")


def praat_textgrid() -> Any:
    """The module of praatio that reads and writes TextGrid files.

    Raises:
        ImportError: If praatio is not installed.
    """
    try:
        from praatio import textgrid
    except ImportError as error:
        raise ImportError('a TextGrid needs praatio: pip install "shift-ser[timeline]"') from error
    return textgrid


READERS = {".csv": _read_csv, ".rttm": _read_rttm, ".textgrid": _read_textgrid}
