"""The doctor: looks a copy of IEMOCAP over and tells what is there, what differs and what is broken."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile as sf
from tqdm.auto import tqdm

from .audio import SAMPLING_RATE
from .iemocap_release import (
    LABEL_OF,
    PUBLISHED_EMOTIONS,
    PUBLISHED_SESSIONS,
    SESSIONS,
    Utterance,
    find_release,
    is_synthetic,
    label_files,
    label_folder,
    read_label_file,
)

LEAST_SAMPLES = 400  # one frame of a wav2vec2-like encoder at 16 kHz
_PROBLEMS = ("missing", "not audio", "empty", "shorter than one frame", "NaN or infinite")
_NOTES = {"another rate": "is resampled", "more than one channel": "is averaged to mono"}
_SHOWN = 3  # names in a message


@dataclass
class CorpusReport:
    """What the doctor found.

    Attributes:
        root: Folder that holds the sessions.
        synthetic: Whether it is the synthetic corpus.
        counts: Utterances per session and original label (those that are used).
        skipped: Utterances per original label that is not used.
        passed_over: Files and folders beside the label files that are not read, and how many.
        audio: Names of the utterances whose recording shows something, per finding.
        problems: What stops or spoils a training; empty for a good copy.
        notes: What differs from the release but is harmless, such as other counts.
    """

    root: Path
    synthetic: bool = False
    counts: dict[int, Counter[str]] = field(default_factory=dict)
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
    def emotions(self) -> Counter[str]:
        """Utterances per original label over all sessions."""
        return sum(self.counts.values(), Counter())

    def __str__(self) -> str:
        """Readable table: counts beside the published ones, what was skipped, problems and notes."""
        name = "synthetic corpus (espeak-ng voices, not IEMOCAP)" if self.synthetic else "IEMOCAP"
        rows: list[tuple[object, ...]] = [("session", *LABEL_OF, "used", "published")]
        for session in SESSIONS:
            found = self.counts.get(session, Counter())
            rows.append((session, *(found[key] for key in LABEL_OF), found.total(), PUBLISHED_SESSIONS[session]))
        found, published = self.emotions, sum(PUBLISHED_SESSIONS.values())
        rows.append(("all", *(found[key] for key in LABEL_OF), found.total(), published))
        rows.append(("published", *(PUBLISHED_EMOTIONS[key] for key in LABEL_OF), published, ""))
        lines = [f"{name} in {self.root}"] + ["".join(f"{cell:>10}" for cell in row) for row in rows]
        lines.append(f"skipped labels: {_listed(self.skipped)}")
        lines.append(f"passed over: {_listed(self.passed_over)}")
        lines += [f"note: {note}" for note in self.notes] + [f"PROBLEM: {problem}" for problem in self.problems]
        lines.append("ok" if self.ok else f"not ok: {len(self.problems)} problem(s)")
        return "\n".join(lines)


def check_iemocap(root: str | Path) -> CorpusReport:
    """Look a copy of IEMOCAP over, every recording included; takes some seconds.

    A problem is what `load_iemocap` or `read_audio` refuses, a recording too short for one frame, or a missing session
    (the published protocol has five folds). What is treated on the way (another rate, more channels), and
    counts that differ from the published ones, are notes: a part of the corpus, or another one in its layout, is fine.

    Args:
        root: The release's folder, or its parent.

    Returns:
        The report; `print` it.

    Raises:
        FileNotFoundError: If the folder is another one. Nothing else in it raises.
    """
    root = find_release(root)
    report = CorpusReport(root, synthetic=is_synthetic(root), counts={session: Counter() for session in SESSIONS})
    used: list[Utterance] = []
    for session, path in label_files(root):
        utterances, errors = read_label_file(path, root=root, session=session)
        report.problems += errors
        used += [utterance for utterance in utterances if utterance.emotion in LABEL_OF]
        report.skipped.update(utterance.emotion for utterance in utterances if utterance.emotion not in LABEL_OF)
    for utterance in used:
        report.counts[utterance.session][utterance.emotion] += 1
    report.passed_over = _count_passed_over(root)
    report.audio = _listen(used)
    _judge(report)
    return report


def _count_passed_over(root: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    for session in SESSIONS:
        counts["'._' files"] += sum(1 for _ in (root / f"Session{session}").rglob("._*"))
        for path in label_folder(root, session).glob("*/"):
            counts["rater folders"] += path.is_dir()
    return counts


def _listen(utterances: list[Utterance]) -> dict[str, list[str]]:
    """Names of the utterances per finding about their recording."""
    findings: dict[str, list[str]] = defaultdict(list)
    for utterance in tqdm(utterances, desc="listening", unit="wav", disable=None):
        for finding in inspect_recording(utterance.wav):
            findings[finding].append(utterance.name)
    return dict(findings)


def inspect_recording(path: Path) -> list[str]:
    """Tell what is wrong with, or unusual about, a recording; an empty list for 16 kHz mono that can be read."""
    if not path.is_file():
        return ["missing"]
    try:
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


def _judge(report: CorpusReport) -> None:
    """Turn what was counted into problems and notes."""
    absent = [session for session in SESSIONS if not report.counts[session]]
    if absent:
        report.problems.append(f"no utterances of session {', '.join(map(str, absent))}: five folds need all five")
    for finding in _PROBLEMS:
        if names := report.audio.get(finding):
            report.problems.append(f"{len(names)} recording(s) {finding}: {_first(names)}")
    for finding, treatment in _NOTES.items():
        if names := report.audio.get(finding):
            report.notes.append(f"{len(names)} recording(s) of {finding} ({treatment}): {_first(names)}")
    sessions = {session: found.total() for session, found in report.counts.items()}
    if dict(report.emotions) != PUBLISHED_EMOTIONS or sessions != PUBLISHED_SESSIONS:
        report.notes.append("the counts are not those of the published task (see the table)")


def _first(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items() if number) or "none"
