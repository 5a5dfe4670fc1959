"""The check of a copy of a corpus: what is there, what differs from the release, and what is broken."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from datasets import Dataset, Value
from tqdm.auto import tqdm

from ..model.audio_container import what_is_missing
from ..model.media_container import media_kind
from ..model.speech_input import SAMPLING_RATE, read_audio

LEAST_SAMPLES = 400  # one frame of a wav2vec2-like encoder at 16 kHz
PROBLEMS = ("missing", "not audio", "cut", "empty", "shorter than one frame", "NaN or infinite")
_NOTES = {"another rate": "is resampled", "more than one channel": "is averaged to mono"}
_SHOWN = 3  # names in a message


@dataclass
class CorpusReport:
    """What a check found.

    Attributes:
        title: Name of the corpus.
        root: Folder that was looked at.
        unit: What utterances are counted by, such as `session`.
        published_units: Utterances of each unit in the published task; its keys are the units that have to be there.
        published_labels: Utterances of each original label in the published task, in the order of the table; empty if
            nothing is published.
        counts: Utterances per unit and original label (those that are used).
        skipped: Utterances per original label that is not used.
        passed_over: Files and folders that are not read, and how many.
        audio: Names of the utterances whose recording shows something, per finding.
        problems: What stops or spoils a training; empty for a good copy.
        notes: What differs from the release but is harmless, such as other counts.
    """

    title: str
    root: Path
    unit: str
    published_units: dict[Any, int]
    published_labels: dict[str, int]
    counts: dict[Any, Counter[str]] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    passed_over: Counter[str] = field(default_factory=Counter)
    audio: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is no problem; notes do not count."""
        return not self.problems

    @property
    def labels(self) -> Counter[str]:
        """Utterances per original label over all units."""
        return sum(self.counts.values(), Counter())

    def __str__(self) -> str:
        """Readable table: counts beside the published ones, what was skipped, problems and notes."""
        columns = list(self.published_labels or self.labels)
        total = sum(self.published_units.values())
        rows: list[tuple[object, ...]] = [(self.unit, *columns, "used", "published" if total else "")]
        for unit, published in self.published_units.items():
            found = self.counts.get(unit, Counter())
            rows.append((unit, *(found[key] for key in columns), found.total(), published))
        found = self.labels
        rows.append(("all", *(found[key] for key in columns), found.total(), total or ""))
        if total:
            rows.append(("published", *self.published_labels.values(), total, ""))
        lines = [f"{self.title} in {self.root}"] + ["".join(f"{cell:>10}" for cell in row) for row in rows]
        lines.append(f"skipped labels: {_listed(self.skipped)}")
        lines.append(f"passed over: {_listed(self.passed_over)}")
        lines += [f"note: {note}" for note in self.notes] + [f"PROBLEM: {problem}" for problem in self.problems]
        lines.append("ok" if self.ok else f"not ok: {len(self.problems)} problem(s)")
        return "\n".join(lines)


def check_dataset(dataset: Dataset, *, title: str, root: Path) -> CorpusReport:
    """Count what was read of a corpus, and read every recording.

    Args:
        dataset: With columns `audio`, `label` and `utterance`.
        title: Name of the corpus.
        root: Folder that it was read from.
    """
    names = dataset.features["label"].names
    counts = Counter(names[label] for label in dataset["label"])
    report = CorpusReport(title, root, unit="corpus", published_units={}, published_labels={}, counts={"": counts})
    paths = dataset.cast_column("audio", Value("string"))["audio"]
    report.audio = listen(dict(zip(dataset["utterance"], map(Path, paths), strict=True)))
    judge_recordings(report)
    return report


def listen(recordings: Mapping[str, Path]) -> dict[str, list[str]]:
    """Names of the utterances per finding about their recording."""
    findings: dict[str, list[str]] = defaultdict(list)
    for name, path in tqdm(recordings.items(), desc="listening", unit="wav", disable=None):
        for finding in inspect_recording(path):
            findings[finding].append(name)
    return dict(findings)


def inspect_recording(path: Path) -> list[str]:
    """Tell what is wrong with, or unusual about, a recording; an empty list for 16 kHz mono that can be read."""
    if not path.is_file():
        return ["missing"]
    try:
        with open(path, "rb") as file:
            if media_kind(file) is not None:
                return _inspect_media(path)
            if what_is_missing(file) is not None:
                return ["cut"]
        samples, rate = sf.read(path, dtype="float32", always_2d=True)
    except (sf.LibsndfileError, OSError):
        return ["not audio"]
    found = {
        "empty": len(samples) == 0,
        "shorter than one frame": 0 < len(samples) * SAMPLING_RATE < LEAST_SAMPLES * rate,
        "NaN or infinite": not np.isfinite(samples).all(),
        "another rate": rate != SAMPLING_RATE,
        "more than one channel": samples.shape[1] > 1,
    }
    return [name for name, is_so in found.items() if is_so]


def _inspect_media(path: Path) -> list[str]:
    """The same of a video or another container that PyAV reads; its rate and channels are not looked at."""
    try:
        samples = read_audio(path)
    except ValueError as error:
        return ["cut" if "header promises" in str(error) else "not audio"]
    return ["shorter than one frame"] if len(samples) < LEAST_SAMPLES else []


def judge_recordings(report: CorpusReport) -> None:
    """Turn what the recordings showed into problems and notes."""
    for finding in PROBLEMS:
        if names := report.audio.get(finding):
            report.problems.append(f"{len(names)} recording(s) {finding}: {_first(names)}")
    for finding, treatment in _NOTES.items():
        if names := report.audio.get(finding):
            report.notes.append(f"{len(names)} recording(s) of {finding} ({treatment}): {_first(names)}")


def _first(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items() if number) or "none"
