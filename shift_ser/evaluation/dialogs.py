"""A timeline against the truth: frame accuracy, UA over time and emotion diarization error of whole dialogs.

The emotion diarization error rate (EDER) is that of Wang et al. 2023, Speech Emotion Diarization: Which Emotion Appears
When? (ASRU, arXiv 2306.12991), as SpeechBrain computes it for one event in an utterance: the sum of false alarm, missed
emotion, confusion and overlap, divided by the duration; neutral speech and silence are no emotion. Here any number of
events may be in a recording, and speakers may overlap.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

FRAME = 0.01  # seconds
NEUTRAL = "neutral"
ERRORS = ("false_alarm", "missed", "confusion", "overlap")


@dataclass(frozen=True)
class Span:
    """A stretch of a recording, times in seconds; `label` is None where somebody speaks whose label is not scored."""

    start: float
    end: float
    label: str | None


@dataclass
class DialogTime:
    """Frames that were counted, over any number of recordings; `add` adds those of another.

    Attributes:
        labels: The model's labels.
        right: Frames of each true label that have it, shape `(labels,)`.
        total: Frames of each true label; frames with two of them are left out.
        errors: Frames of each of `ERRORS`; where emotions overlap, each counts.
        scored: Frames on which the errors are counted: all but those of speech whose label is not scored.
    """

    labels: Sequence[str]
    right: np.ndarray = field(init=False)
    total: np.ndarray = field(init=False)
    errors: dict[str, int] = field(init=False)
    scored: int = 0

    def __post_init__(self) -> None:
        """Nothing is counted yet."""
        self.right, self.total = np.zeros(len(self.labels), int), np.zeros(len(self.labels), int)
        self.errors = dict.fromkeys(ERRORS, 0)

    def add(self, truth: Iterable[Span], found: Iterable[Span], *, duration: float) -> None:
        """Count the frames of one recording.

        Args:
            truth: What was said; spans may overlap.
            found: What a model heard.
            duration: Of the recording, in seconds.

        Raises:
            ValueError: If a label is none of the model's.

        Example:
            >>> time = DialogTime(["angry", "neutral"])
            >>> truth = [Span(0, 1, "angry"), Span(1, 2, "neutral")]
            >>> time.add(truth, [Span(0, 0.5, "angry"), Span(1, 1.25, "angry")], duration=4.0)
            >>> time.errors, time.scores()["eder"]
            ({'false_alarm': 25, 'missed': 50, 'confusion': 0, 'overlap': 0}, 0.1875)
        """
        truth = list(truth)
        frames = round(duration / FRAME)
        said, heard = self._active(truth, frames), self._active(found, frames)
        scored = ~_spoken([span for span in truth if span.label is None], frames)
        said, heard = said[scored], heard[scored]
        one = said.sum(axis=1) == 1
        self.total += said[one].sum(axis=0)
        self.right += (said & heard & (heard.sum(axis=1) == 1)[:, None])[one].sum(axis=0)
        emotional = [label != NEUTRAL for label in self.labels]
        said, heard = said[:, emotional], heard[:, emotional]
        both = (said & heard).sum(axis=1)
        said, heard = said.sum(axis=1), heard.sum(axis=1)
        more = np.maximum(heard - said, 0)
        self.errors["false_alarm"] += int(more[said == 0].sum())
        self.errors["overlap"] += int(more[said > 0].sum())
        self.errors["missed"] += int(np.maximum(said - heard, 0).sum())
        self.errors["confusion"] += int((np.minimum(said, heard) - both).sum())
        self.scored += int(scored.sum())

    def merge(self, other: "DialogTime") -> None:
        """Add what another has counted."""
        self.right, self.total, self.scored = (
            self.right + other.right,
            self.total + other.total,
            self.scored + other.scored,
        )
        self.errors = {name: count + other.errors[name] for name, count in self.errors.items()}

    def scores(self) -> dict[str, Any]:
        """`frame_accuracy`, `ua` (mean over the labels that occur), `eder`, its parts, and `seconds` that were scored.

        Raises:
            ValueError: If no frame has a label.
        """
        if not self.total.any():
            raise ValueError("the dialogs must hold labelled speech, got none")
        recall = self.right[self.total > 0] / self.total[self.total > 0]
        parts = {name: count / self.scored for name, count in self.errors.items()}
        return {
            "frame_accuracy": float(self.right.sum() / self.total.sum()), "ua": float(recall.mean()),
            "eder": sum(self.errors.values()) / self.scored, **parts, "seconds": round(self.scored * FRAME, 2),
        }  # fmt: skip

    def _active(self, spans: Iterable[Span], frames: int) -> np.ndarray:
        """Whether a label is there, shape `(frames, labels)`."""
        spans = list(spans)
        if unknown := sorted({span.label for span in spans if span.label is not None} - set(self.labels)):
            raise ValueError(f"labels must be among {list(self.labels)}, got {unknown[0]!r}")
        return np.stack(
            [_spoken([span for span in spans if span.label == label], frames) for label in self.labels], axis=1
        )


def _spoken(spans: Iterable[Span], frames: int) -> np.ndarray:
    """Which frames have their middle in a span, shape `(frames,)`."""
    spoken = np.zeros(frames, dtype=bool)
    for span in spans:
        first, last = (max(0, int(np.ceil(time / FRAME - 0.5))) for time in (span.start, span.end))
        spoken[first:last] = True
    return spoken


def dialogs_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of `setting`, `fold` (`all`: over all folds) and `scores` as a Markdown table, in percent."""
    names = ("windows", "fold", "minutes", "frame accuracy", "UA over time", "EDER", *map(str, ERRORS))
    lines = [f"| {' | '.join(names)} |".replace("_", " "), f"|---|---|{'---:|' * (len(names) - 2)}"]
    for row in rows:
        scores = row["scores"]
        shares = [f"{100 * scores[name]:.1f}" for name in ("frame_accuracy", "ua", "eder", *ERRORS)]
        lines.append(f"| {row['setting']} | {row['fold']} | {scores['seconds'] / 60:.1f} | {' | '.join(shares)} |")
    return "\n".join(
        [
            *lines,
            "",
            "- Frames of 10 ms; accuracy and UA over those with one scored label, silence found there counts as wrong.",
            "- EDER after Wang et al. 2023 (SpeechBrain): false alarm, missed, confused and overlapping emotion, by the"
            " time that is scored; neutral and silence are no emotion. Speech without one of the model's labels is not"
            " scored.",
        ]
    )
