"""ShiftAudioClassificationPipeline: labels and scores of speech in whatever form someone holds it."""

import logging
import os
from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import GeneratorType
from typing import Any

import numpy as np
import torch
from huggingface_hub.utils import httpx
from transformers import AudioClassificationPipeline, BatchFeature
from transformers.modeling_outputs import SequenceClassifierOutput

from .speech_input import load_speech, log_once

logger = logging.getLogger(__name__)

_WINDOW = 16  # batches from which recordings of like length are picked


class ShiftAudioClassificationPipeline(AudioClassificationPipeline):
    """The `audio-classification` pipeline, reading audio without ffmpeg and torchaudio, and always with the mask.

    One recording may be all that `load_speech` takes: a path (`str`, `Path`, or a URL), the bytes of a file, an array,
    tensor or list of numbers, a dict of an array and its sampling rate. Lists and tuples of recordings give a list;
    generators, datasets and other iterables an iterator. The scores do not depend on `batch_size`; the batches of a
    list are made of recordings of like length. A recording is classified whole, however long it is.

    Example:
        classify = pipeline("audio-classification", model="runs/demo/fold1",
                            pipeline_class=ShiftAudioClassificationPipeline)
        classify("speech.wav")
        classify([{"array": samples, "sampling_rate": 48000}, "speech.wav"], batch_size=8, top_k=1)
        classify("speech.wav", calibrated=True)
    """

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Classify one recording or many.

        Args:
            inputs: One recording, or a list, generator or dataset of them.
            **options: Those of the stock pipeline, `top_k`, `function_to_apply`, `batch_size`, `num_workers`, and
                `calibrated`: logits are divided by the model's temperature, if one was fitted, so that scores are
                nearer to how often they are right; the order of labels stays. Default: as told to `pipeline`, else
                `False`.

        Returns:
            `label` and `score` of the `top_k` likeliest classes; for many recordings a list or an iterator of that.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If a recording is not audio, is empty, or holds NaN or infinity.
        """
        if not getattr(self.model.config, "mask_padding", True):
            if options.get("batch_size", self._batch_size) not in (None, 1):
                log_once("mask_padding=False lets padding into the scores: recordings are taken one by one")
            options["batch_size"] = 1
        inputs = _recordings(inputs)
        return [] if isinstance(inputs, list) and not inputs else super().__call__(inputs, **options)

    def check_model_type(self, supported_models: Any) -> None:
        """Whatever `AutoModelForAudioClassification` loads will do; the stock list holds no model from outside."""

    def _sanitize_parameters(self, calibrated: bool | None = None, **options: Any) -> tuple[dict, dict, dict]:
        preprocess, forward, postprocess = super()._sanitize_parameters(**options)
        return preprocess, forward, postprocess if calibrated is None else {**postprocess, "calibrated": calibrated}

    def postprocess(self, model_outputs: Any, calibrated: bool = False, **options: Any) -> list[dict[str, Any]]:
        """`label` and `score` of the likeliest classes, from logits `(1, labels)`."""
        temperature = getattr(self.model.config, "temperature", None)
        model_outputs["logits"] = model_outputs["logits"].float()
        if calibrated and temperature is None:
            log_once("the model holds no fitted temperature: its scores are not calibrated")
        elif calibrated:
            model_outputs["logits"] = model_outputs["logits"] / temperature
        return super().postprocess(model_outputs, **options)

    def preprocess(self, inputs: Any) -> BatchFeature:
        """Features of one recording, with their mask, shapes `(1, samples)`."""
        return self.features([self.read(inputs)])

    def read(self, recording: Any) -> np.ndarray:
        """The samples of one recording at the model's rate, float32, shape `(samples,)`."""
        if isinstance(recording, str) and recording.startswith(("http://", "https://")):
            recording = httpx.get(recording, follow_redirects=True).raise_for_status().content
        samples = load_speech(recording, sampling_rate=self.feature_extractor.sampling_rate)
        if not samples.any():
            logger.warning("a recording is digital silence: its scores say nothing")
        return samples

    def features(self, speech: Sequence[np.ndarray]) -> BatchFeature:
        """Features of several recordings, padded to the longest, with their mask, shapes `(batch, samples)`."""
        features = self.feature_extractor(
            list(speech), sampling_rate=self.feature_extractor.sampling_rate, padding=True, return_attention_mask=True,
            return_tensors="pt",
        )  # fmt: skip
        return features.to(dtype=self.dtype)

    def classify_batch(self, speech: Sequence[np.ndarray], **options: Any) -> list[Any]:
        """What `postprocess` makes of each of several recordings that go through the model together."""
        logits = self.forward(self.features(speech))["logits"]
        return [self.postprocess(SequenceClassifierOutput(logits=row[None]), **options) for row in logits]

    def get_iterator(
        self, inputs: Any, num_workers: int, batch_size: int, preprocess_params: dict, forward_params: dict,
        postprocess_params: dict,
    ) -> Iterator[Any]:  # fmt: skip
        """As the stock pipeline's, but the batches of a list are made of recordings of like length."""
        if not isinstance(inputs, list) or batch_size == 1 or num_workers > 0:
            return super().get_iterator(
                inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params
            )
        batches = like_lengths(
            map(self.read, inputs), length=len, fits=lambda count, _: count <= batch_size, window=_WINDOW * batch_size
        )
        return in_order((places, self.classify_batch(speech, **postprocess_params)) for places, speech in batches)


def like_lengths(
    recordings: Iterable[Any],
    *,
    length: Callable[[Any], float],
    fits: Callable[[int, float], bool],
    window: int,
    window_length: float = float("inf"),
) -> Iterator[tuple[list[int], list[Any]]]:
    """Batches of recordings of like length, picked from a window that is filled up before each batch.

    Each batch holds the recording that has waited longest, so results come soon and nearly in order, and those next to
    it in length; no recording stays in the window for more than `window` batches.

    Args:
        recordings: Whatever `length` takes; no more of them are held than the window.
        length: Length of a recording, in any unit.
        fits: Whether so many recordings, the longest of this length, may be one batch; one alone always may.
        window: Most recordings in the window.
        window_length: The window is full, too, when its recordings are as long as this together.

    Yields:
        The places of a batch's recordings among all, counted from 0, and the recordings.

    Example:
        >>> speech = ["aaa", "b", "ccc", "d"]
        >>> list(like_lengths(speech, length=len, fits=lambda count, longest: count * longest <= 6, window=4))
        [([0, 2], ['aaa', 'ccc']), ([1, 3], ['b', 'd'])]
    """
    numbered = enumerate(recordings)
    waiting: list[tuple[float, int, Any]] = []  # sorted; places differ, so recordings are never compared
    while True:
        while len(waiting) < window and sum(entry[0] for entry in waiting) < window_length:
            place, recording = next(numbered, (-1, None))
            if place < 0:
                break
            insort(waiting, (length(recording), place, recording))
        if not waiting:
            return
        chosen = _around(min(range(len(waiting)), key=lambda row: waiting[row][1]), waiting, fits)
        batch, waiting[chosen] = waiting[chosen], []
        yield [entry[1] for entry in batch], [entry[2] for entry in batch]


def in_order(batches: Iterable[tuple[Sequence[int], Sequence[Any]]]) -> Iterator[Any]:
    """What belongs to the places 0, 1, 2 and so on, each as soon as all before it are there.

    Example:
        >>> list(in_order([([0, 2], ["a", "c"]), ([1], ["b"])]))
        ['a', 'b', 'c']
    """
    early: dict[int, Any] = {}
    following = 0
    for places, results in batches:
        early.update(zip(places, results, strict=True))
        while following in early:
            yield early.pop(following)
            following += 1


def _around(row: int, waiting: Sequence[tuple[float, int, Any]], fits: Callable[[int, float], bool]) -> slice:
    """The rows of a batch around one of those sorted by length: each time the neighbour that adds less padding."""
    start, end = row, row + 1
    while True:
        count, longest = end - start, waiting[end - 1][0]
        shorter = longest - waiting[start - 1][0] if start > 0 and fits(count + 1, longest) else None
        longer = None
        if end < len(waiting) and fits(count + 1, waiting[end][0]):
            longer = count * (waiting[end][0] - longest)
        if shorter is None and longer is None:
            return slice(start, end)
        if longer is None or (shorter is not None and shorter <= longer):
            start -= 1
        else:
            end += 1


def _recordings(inputs: Any) -> Any:
    """One recording as it is; several as a list, or as what the stock pipeline iterates over without keeping it."""
    one = (str, os.PathLike, bytes, np.ndarray, torch.Tensor, Mapping)
    if isinstance(inputs, one) or hasattr(inputs, "get_all_samples"):
        return inputs
    if isinstance(inputs, (list, tuple)):
        is_number = len(inputs) > 0 and np.ndim(inputs[0]) == 0 and isinstance(inputs[0], (int, float, np.number))
        return np.asarray(inputs) if is_number else list(inputs)
    if isinstance(inputs, (GeneratorType, torch.utils.data.Dataset)):
        return inputs
    if not hasattr(inputs, "__iter__"):
        raise ValueError(f"inputs must be a recording or several, got {type(inputs).__name__}")
    return (recording for recording in inputs)
