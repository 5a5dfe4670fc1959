"""A timeline as a file: JSON, CSV, RTTM, Praat TextGrid, WebVTT, SRT."""

import csv
import io
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .timeline import Timeline
from .turns import praat_textgrid

_TIER = "emotion"


def write_timeline(timeline: Timeline, path: str | os.PathLike) -> None:
    """Write a timeline in the format that the file's suffix names, one of `WRITERS`.

    Args:
        timeline: What `timeline` gives.
        path: File to write.

    Raises:
        ImportError: If it is a TextGrid and praatio is not installed.
        ValueError: If no format has that suffix.
    """
    path = Path(path)
    check_suffix(path)
    text = WRITERS[path.suffix.lower()](timeline)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")


def check_suffix(path: str | os.PathLike) -> None:
    """A timeline can be written to such a file.

    Raises:
        ValueError: If no format has its suffix.
    """
    if Path(path).suffix.lower() not in WRITERS:
        raise ValueError(f"a timeline is written to a file {', '.join(WRITERS)}, got {os.fspath(path)!r}")


def to_json(timeline: Timeline) -> str:
    """An object with `recording`, `duration`, `labels`, `segments`, and the `frames`' `times` and `scores`."""
    content = {
        "recording": timeline.name,
        "duration": timeline.duration,
        "labels": timeline.labels,
        "segments": timeline.segments,
        "frames": {"times": timeline.times.round(6).tolist(), "scores": timeline.scores.round(6).tolist()},
    }
    return json.dumps(content, ensure_ascii=False) + "\n"


def to_csv(timeline: Timeline) -> str:
    """A line for each segment: `start`, `end`, `label`, `score`, `speaker` if one is known, each `score_<label>`."""
    speakers = ["speaker"] if any("speaker" in segment for segment in timeline.segments) else []
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["start", "end", "label", "score", *speakers, *(f"score_{label}" for label in timeline.labels)])
    for segment in timeline.segments:
        told = [segment["start"], segment["end"], segment["label"], segment["score"]]
        told += [segment.get(name, "") for name in speakers]
        rows.writerow([*told, *(segment["scores"][label] for label in timeline.labels)])
    return text.getvalue()


def to_rttm(timeline: Timeline) -> str:
    """A SPEAKER line for each segment: its label in the field of the name, its score in that of the confidence.

    Of a turn whose speaker is known, the speaker is the name and the label the subtype. Spaces become underscores.
    """
    recording = _word(Path(timeline.name).stem)
    lines = []
    for segment in timeline.segments:
        label, speaker = _word(segment["label"]), segment.get("speaker")
        kind, name = ("<NA>", label) if speaker is None else (label, _word(speaker))
        when = f"{segment['start']:.3f} {segment['end'] - segment['start']:.3f}"
        lines.append(f"SPEAKER {recording} 1 {when} <NA> {kind} {name} {segment['score']:.4f} <NA>")
    return "".join(f"{line}\n" for line in lines)


def _word(text: str) -> str:
    """A field of RTTM: spaces part fields."""
    return "_".join(text.split()) or "<NA>"


def to_textgrid(timeline: Timeline) -> str:
    """A TextGrid with a tier `emotion`, or one named after each speaker; turns that overlap go to further tiers."""
    textgrid = praat_textgrid()
    duration = max([timeline.duration, *(segment["end"] for segment in timeline.segments)])
    grid = textgrid.Textgrid(0.0, duration)
    for name, segments in _tiers(timeline.segments).items():
        entries = [(segment["start"], segment["end"], segment["label"]) for segment in segments]
        grid.addTier(textgrid.IntervalTier(name, entries, 0.0, duration))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "timeline.TextGrid"
        grid.save(str(path), format="long_textgrid", includeBlankSpaces=True)
        return path.read_text(encoding="utf-8")


def _tiers(segments: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Segments by tier: that of their speaker, or one named after it with a number where they overlap."""
    tiers: dict[str, list[Mapping[str, Any]]] = {} if segments else {_TIER: []}
    for segment in sorted(segments, key=lambda segment: segment["start"]):
        first = name = str(segment.get("speaker", _TIER))
        number = 1
        while tiers.get(name) and tiers[name][-1]["end"] > segment["start"]:
            number += 1
            name = f"{first} {number}"
        tiers.setdefault(name, []).append(segment)
    return tiers


def to_vtt(timeline: Timeline) -> str:
    """Subtitles for a player in a browser: label and score of each segment, and who speaks where it is known."""
    cues = ["WEBVTT\n"]
    for segment in timeline.segments:
        label, speaker = _escaped(segment["label"]), segment.get("speaker")
        voice = "" if speaker is None else f"<v {_escaped(speaker)}>"
        cues.append(f"{_clock(segment, '.')}\n{voice}{label} {segment['score']:.2f}\n")
    return "\n".join(cues)


def to_srt(timeline: Timeline) -> str:
    """Subtitles for any player: label and score of each segment, and who speaks where it is known."""
    cues = []
    for number, segment in enumerate(timeline.segments, 1):
        speaker = f"{segment['speaker']}: " if "speaker" in segment else ""
        cues.append(f"{number}\n{_clock(segment, ',')}\n{speaker}{segment['label']} {segment['score']:.2f}\n")
    return "\n".join(cues)


def _escaped(text: str) -> str:
    """Text that WebVTT does not take for a tag."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(segment: Mapping[str, Any], point: str) -> str:
    """Start and end as hours, minutes, seconds and milliseconds."""
    told = []
    for seconds in (segment["start"], segment["end"]):
        thousandths = round(seconds * 1000)
        minutes, rest = divmod(thousandths, 60_000)
        told.append(f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}")
    return " --> ".join(told)


WRITERS: dict[str, Callable[[Timeline], str]] = {
    ".json": to_json,
    ".csv": to_csv,
    ".rttm": to_rttm,
    ".textgrid": to_textgrid,
    ".vtt": to_vtt,
    ".srt": to_srt,
}
