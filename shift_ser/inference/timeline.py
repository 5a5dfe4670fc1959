"""The emotions of a recording of any length over time: labels with start and end, in constant memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..model.pipeline_shift_ser import ShiftAudioClassificationPipeline, like_lengths
from .blocks import SpeechBlocks, open_speech
from .predict import require_labels
from .speech_regions import VOICE_RATE, GivenRegions, Regions, SpeechRegions, Window
from .timeline_options import TimelineOptions, checked
from .turns import Turn, read_turns

_MOST_AHEAD = 256  # windows that wait for a batch, at most
_BAR = "{desc}: {n:.0f} s [{elapsed}]"
_BAR_OF_ALL = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"
_AHEAD = 4  # batches of windows from which those of like length are picked
_ROUNDED = 0.02  # seconds by which a turn may end after the recording: its table was rounded


@dataclass(frozen=True)
class Timeline:
    """What was heard in a recording, and when.

    Attributes:
        name: Path or address of the recording, if there is one.
        duration: How long it is, in seconds.
        labels: The model's labels, in the order of the columns of `scores`.
        segments: Dicts of `start` and `end` in seconds, `label`, its `score`, `scores` from label to score and, of a
            given turn, its `speaker`.
        times: Start and end of each frame in seconds, shape `(frames, 2)`; frames are where speech is.
        scores: Of each frame, shape `(frames, labels)`.
    """

    name: str
    duration: float
    labels: list[str]
    segments: list[dict[str, Any]]
    times: np.ndarray
    scores: np.ndarray


def timeline(
    classifier: ShiftAudioClassificationPipeline, recording: Any, *, segments: Any = None,
    calibrated: bool | None = None, progress: bool = False, allow_truncated: bool | None = None, **options: Any,
) -> Timeline:  # fmt: skip
    """The emotions of a recording of any length, and when each is heard.

    The recording is read block by block. Where somebody speaks, overlapping windows go through the model in batches of
    like length; each window's scores are those of the classifier for that clip alone (in float32 within 1e-5). What is
    kept is a few windows of samples and, for each second, the scores of a window or two.

    Args:
        classifier: What `load_classifier` gives.
        recording: One recording, as the classifier takes it: a path, a URL, a file object, bytes, an array, a dict.
        segments: Turns whose emotion is wanted, in place of voice activity: a table (a list of dicts, a DataFrame, a
            Dataset, a CSV file) with `start` and `end` in seconds and perhaps `speaker`, an RTTM or a TextGrid file.
            Each gives one segment, whatever its length, in the order in which they come.
        calibrated: Whether logits are divided by the model's temperature. Default: as told to the classifier.
        progress: Whether a bar of the seconds that were read is shown.
        allow_truncated: Whether a file that is cut is read as far as it goes. Default: as told to the classifier.
        **options: Those of `TimelineOptions`.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If the extra `timeline` is needed and not installed.
        ValueError: If an option is none or out of its range, the recording is not audio, cut or empty, or holds NaN or
            infinity, or a turn is none, or ends after the recording.
    """
    chosen = checked(TimelineOptions, options)
    rate = classifier.feature_extractor.sampling_rate
    reading = {**classifier._preprocess_params}
    if allow_truncated is not None:
        reading["allow_truncated"] = allow_truncated
    with open_speech(recording, sampling_rate=rate, **reading) as speech:
        return timeline_of(classifier, speech, chosen, segments=segments, calibrated=calibrated, progress=progress)


def timeline_of(
    classifier: ShiftAudioClassificationPipeline, speech: SpeechBlocks, chosen: TimelineOptions, *,
    segments: Any = None, calibrated: bool | None = None, progress: bool = False,
) -> Timeline:  # fmt: skip
    """The timeline of a recording that is open; arguments and errors are those of `timeline`."""
    rate = classifier.feature_extractor.sampling_rate
    turns = None if segments is None else read_turns(segments, recording=speech.name)
    if turns and speech.seconds is not None:
        _check_turns(turns, seconds=speech.seconds, name=speech.name)
    regions = _regions(chosen, turns, rate=rate)
    scored = _Scored(classifier, chosen, calibrated=calibrated)
    scored.run(_windows(speech, regions, chunk=round(chosen.chunk_length_s * rate), rate=rate, progress=progress))
    seconds = regions.length / rate
    _check_turns(turns or [], seconds=seconds, name=speech.name)
    return _assemble(scored, regions.found, turns, name=speech.name, seconds=seconds, rate=rate)


def _regions(options: TimelineOptions, turns: Sequence[Turn] | None, *, rate: int) -> Regions:
    """What finds the windows: the turns that were given, or a voice, or nothing."""

    def samples(name: str) -> int:
        return max(1, round(getattr(options, name) * rate))

    chunk, step = samples("chunk_length_s"), samples("step_s")
    if turns is not None:
        places = [
            (round(turn.start * rate), max(round(turn.end * rate), round(turn.start * rate) + 1)) for turn in turns
        ]
        return GivenRegions(places, chunk=chunk, step=step)
    if options.voice_activity and rate != VOICE_RATE:
        raise ValueError(f"voice_activity needs a model of {VOICE_RATE} Hz, got one of {rate} Hz: pass False")
    return SpeechRegions(
        chunk=chunk, step=step, detect=options.voice_activity, onset=options.onset, offset=options.offset,
        min_silence=samples("min_silence_s"), min_speech=samples("min_speech_s"),
    )  # fmt: skip


def _check_turns(turns: Sequence[Turn], *, seconds: float, name: str) -> None:
    for turn in turns:
        if turn.end > seconds + _ROUNDED:
            raise ValueError(
                f"segments must lie within {name}, which lasts {seconds:.6g} s, got one from {turn.start:g} to"
                f" {turn.end:g} s"
            )


def _windows(
    speech: SpeechBlocks, regions: Regions, *, chunk: int, rate: int, progress: bool
) -> Iterator[tuple[Window, np.ndarray]]:
    """Each window with its samples `(samples,)`; of what was read, only what windows may still need is held."""
    held, first = np.zeros(0, dtype=np.float32), 0  # the samples from place `first` on
    bar_format = _BAR if speech.seconds is None else _BAR_OF_ALL
    with tqdm(total=speech.seconds, desc="listening", disable=not progress, bar_format=bar_format) as bar:
        for block in speech.blocks:
            held = np.concatenate([held, block])
            for window in regions.advance(block):
                yield window, held[window.start - first : window.end - first].copy()
            drop = max(0, len(held) - chunk - regions.lag)
            held, first = held[drop:].copy(), first + drop
            bar.update(len(block) / rate)
        for window in regions.finish():
            yield window, held[window.start - first : window.end - first].copy()


class _Scored:
    """The scores of windows, and where these lie."""

    def __init__(
        self, classifier: ShiftAudioClassificationPipeline, options: TimelineOptions, *, calibrated: bool | None
    ) -> None:
        self.classifier, self.options = classifier, options
        self.labels = require_labels(classifier.model.config, "a timeline")
        self.windows: list[Window] = []
        self.scores: list[np.ndarray] = []
        self.of_frames = options.frame_scores and getattr(classifier.model.config, "frame_labels", False)
        _, _, given = classifier._sanitize_parameters(top_k=None, calibrated=calibrated)
        self._postprocess = {**classifier._postprocess_params, **given}

    def run(self, windows: Iterator[tuple[Window, np.ndarray]]) -> None:
        """Put windows through the model in batches of like length."""
        extractor = self.classifier.feature_extractor
        fixed, rate = getattr(extractor, "fixed_length", None), extractor.sampling_rate
        together = getattr(self.classifier.model.config, "mask_padding", True)
        seconds = self.options.batch_seconds
        batches = like_lengths(
            windows,
            length=lambda window: (fixed or len(window[1])) / rate,
            fits=lambda count, longest: together and count * longest <= seconds,
            window=_MOST_AHEAD,
            window_length=_AHEAD * seconds,
        )
        for _, batch in batches:
            self.windows += [window for window, _ in batch]
            self.scores += self._of_batch([samples for _, samples in batch])

    def _of_batch(self, speech: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Scores of each window `(labels,)`, or of the model's frames in it `(frames, labels)`."""
        if self.of_frames:
            return self.classifier.frame_scores(speech, calibrated=self._postprocess.get("calibrated", False))
        found = self.classifier.classify_batch(speech, **self._postprocess)
        told = [{entry["label"]: entry["score"] for entry in entries} for entries in found]
        return [np.array([scores[label] for label in self.labels]) for scores in told]

    def of_region(self, number: int) -> tuple[list[Window], list[np.ndarray]]:
        """A region's windows and their scores."""
        rows = self._rows.get(number, [])
        return [self.windows[row] for row in rows], [self.scores[row] for row in rows]

    @cached_property
    def _rows(self) -> dict[int, list[int]]:
        rows: dict[int, list[int]] = {}
        for row, window in enumerate(self.windows):
            rows.setdefault(window.region, []).append(row)
        return rows


def _assemble(
    scored: _Scored, regions: Sequence[tuple[int, int]], turns: Sequence[Turn] | None, *, name: str, seconds: float,
    rate: int,
) -> Timeline:  # fmt: skip
    """Frames and segments of all regions."""
    options, labels = scored.options, scored.labels
    frame = max(1, round(options.frame_s * rate))
    width = round(options.smoothing_s / options.frame_s)
    times, scores, segments = [np.zeros((0, 2))], [np.zeros((0, len(labels)))], []
    for number, (start, end) in enumerate(regions):
        windows, found = scored.of_region(number)
        places = frame_places(start, end, frame=frame)
        of_frames = smooth(overlap(places, windows, found), width)
        least = options.min_duration_s * rate if turns is None else float("inf")
        for first, last in merge(places, of_frames, least=least):
            segment = _segment(places[first:last], of_frames[first:last], labels, rate=rate)
            if turns is not None:
                segment |= {"start": turns[number].start, "end": turns[number].end}
                segment |= {} if turns[number].speaker is None else {"speaker": turns[number].speaker}
            segments.append(segment)
        times.append(places / rate)
        scores.append(of_frames)
    return Timeline(name, seconds, labels, segments, np.concatenate(times), np.concatenate(scores))


def frame_places(start: int, end: int, *, frame: int) -> np.ndarray:
    """First sample, and the one behind the last, of each frame of a region, shape `(frames, 2)`.

    Example:
        >>> frame_places(5, 10, frame=2).tolist()
        [[5, 7], [7, 9], [9, 10]]
    """
    starts = np.arange(start, end, frame)
    return np.stack([starts, np.minimum(starts + frame, end)], axis=1)


def overlap(places: np.ndarray, windows: Sequence[Window], scores: Sequence[np.ndarray]) -> np.ndarray:
    """Scores of frames: the mean of those of the windows over a frame's middle, weighted by how near is theirs.

    The weight falls from 1 in the middle of a window to 0 at its ends.

    Args:
        places: Of the frames, shape `(frames, 2)`; a window is over the middle of each.
        windows: Windows, in any order.
        scores: Of each window `(labels,)`, or of the model's frames in it `(model frames, labels)`: then of the one at
            the middle.

    Returns:
        Shape `(frames, labels)`.
    """
    middles = places.mean(axis=1)
    total, weights = np.zeros((len(places), scores[0].shape[-1])), np.zeros((len(places), 1))
    for window, row in zip(windows, scores, strict=True):
        first, last = np.searchsorted(middles, [window.start, window.end])
        half = (window.end - window.start) / 2
        if row.ndim == 2:
            within = (middles[first:last] - window.start) / (2 * half)
            row = row[np.minimum((within * len(row)).astype(int), len(row) - 1)]
        weight = 1 - np.abs(middles[first:last, None] - window.start - half) / half
        total[first:last] += weight * row
        weights[first:last] += weight
    return total / weights


def smooth(scores: np.ndarray, width: int) -> np.ndarray:
    """Mean of each frame's scores `(frames, labels)` and of those around it, `width` frames together.

    Example:
        >>> smooth(np.array([[0.0], [3.0], [0.0]]), 3).ravel().tolist()
        [1.5, 1.0, 1.5]
    """
    width = min(width, len(scores))
    if width < 2:
        return scores
    kernel = np.ones(width)
    count = np.convolve(np.ones(len(scores)), kernel, mode="same")
    return np.stack([np.convolve(column, kernel, mode="same") / count for column in scores.T], axis=1)


def merge(places: np.ndarray, scores: np.ndarray, *, least: float) -> list[tuple[int, int]]:
    """Runs of frames of one label; the shortest joins the longer of its neighbours until none is too short.

    Args:
        places: Of the frames, in samples, shape `(frames, 2)`.
        scores: Of the frames, shape `(frames, labels)`; the label of a run is that of the largest mean.
        least: Shortest run, in samples, unless it is all there is.

    Returns:
        First frame, and the one behind the last, of each run.

    Example:
        >>> places = frame_places(0, 50, frame=10)
        >>> scores = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.9, 0.1], [0.2, 0.8]])
        >>> merge(places, scores, least=0), merge(places, scores, least=20)
        ([(0, 2), (2, 3), (3, 4), (4, 5)], [(0, 5)])
    """
    labels = scores.argmax(axis=1)
    edges = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    runs = list(pairwise(edges))

    def length(run: tuple[int, int]) -> int:
        return int(places[run[1] - 1, 1] - places[run[0], 0])

    def label(run: tuple[int, int]) -> int:
        return int(_mean(places[run[0] : run[1]], scores[run[0] : run[1]]).argmax())

    while len(runs) > 1:
        row = min(range(len(runs)), key=lambda row: length(runs[row]))
        if length(runs[row]) >= least:
            break
        beside = max(
            (near for near in (row - 1, row + 1) if 0 <= near < len(runs)), key=lambda near: length(runs[near])
        )
        first = min(row, beside)
        runs[first : first + 2] = [(runs[first][0], runs[first + 1][1])]
        for near in (first, first - 1):  # what was joined may have the label of what is behind and before it
            if 0 <= near < len(runs) - 1 and label(runs[near]) == label(runs[near + 1]):
                runs[near : near + 2] = [(runs[near][0], runs[near + 1][1])]
    return runs


def _mean(places: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Mean of frames' scores `(frames, labels)`, weighted by how long the frames are."""
    return np.average(scores, axis=0, weights=places[:, 1] - places[:, 0])


def _segment(places: np.ndarray, scores: np.ndarray, labels: Sequence[str], *, rate: int) -> dict[str, Any]:
    """What is told of some frames together."""
    mean = dict(zip(labels, _mean(places, scores).tolist(), strict=True))
    ordered = dict(sorted(mean.items(), key=lambda item: -item[1]))
    label = next(iter(ordered))
    start, end = float(places[0, 0] / rate), float(places[-1, 1] / rate)
    return {"start": start, "end": end, "label": label, "score": ordered[label], "scores": ordered}
