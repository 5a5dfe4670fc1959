"""How a timeline is made. It imports little: the command line's help is made from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class TimelineOptions:
    """How a timeline is made; times are in seconds.

    Attributes:
        chunk_length_s: Length of the window that the model scores as one clip.
        step_s: From the start of one window to that of the next, at most `chunk_length_s`.
        frame_s: Resolution of the timeline. A frame's scores are the mean of those of the windows around it, weighted
            by how near it is to their middle.
        voice_activity: Whether silence and noise are left out (Silero VAD, extra `timeline`).
        onset: Probability of a voice from which on speech begins.
        offset: Probability below which it ends, at most `onset`.
        min_silence_s: Shortest pause that parts two stretches of speech.
        min_speech_s: Shortest stretch of speech that is kept.
        smoothing_s: Frames' scores are averaged over so long; 0: as they are.
        min_duration_s: Shortest segment; a shorter one joins the longer of its neighbours, unless silence is around it.
        frame_scores: Whether a model that was trained with `frame_labels` tells the scores of each of its frames, in
            place of one for each window.
        batch_seconds: Seconds in a batch with its padding, as for `classify_recordings`.
    """

    chunk_length_s: float = 4.0
    step_s: float = 1.0
    frame_s: float = 0.1
    voice_activity: bool = True
    onset: float = 0.5
    offset: float = 0.35
    min_silence_s: float = 0.3
    min_speech_s: float = 0.25
    smoothing_s: float = 0.0
    min_duration_s: float = 0.5
    frame_scores: bool = True
    batch_seconds: float = 15.0

    def __post_init__(self) -> None:
        """Check what was given.

        Raises:
            ValueError: If a time is not above 0 (0 does for smoothing and durations), `step_s` is larger than
                `chunk_length_s`, or `offset` and `onset` are not 0 <= offset <= onset <= 1.
        """
        for name in ("chunk_length_s", "step_s", "frame_s", "batch_seconds"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a number above 0, got {getattr(self, name)}")
        for name in ("min_silence_s", "min_speech_s", "smoothing_s", "min_duration_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a number of at least 0, got {getattr(self, name)}")
        if self.step_s > self.chunk_length_s:
            raise ValueError(
                f"step_s must be at most chunk_length_s ({self.chunk_length_s:g}), or speech between two windows is"
                f" not heard, got {self.step_s:g}"
            )
        if not 0 <= self.offset <= self.onset <= 1:
            raise ValueError(f"0 <= offset <= onset <= 1 must hold, got offset {self.offset} and onset {self.onset}")


def checked(kind: type[T], options: Mapping[str, Any]) -> T:
    """Options of a dataclass such as `TimelineOptions`, by name.

    Raises:
        ValueError: If one is not known or out of its range.
    """
    known = list(getattr(kind, "__dataclass_fields__"))  # noqa: B009 (a type checker sees no dataclass)
    if unknown := [name for name in options if name not in known]:
        raise ValueError(f"options must be some of {', '.join(known)}, got {', '.join(unknown)}")
    return kind(**options)
