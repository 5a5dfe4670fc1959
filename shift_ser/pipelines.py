"""ShiftAudioClassificationPipeline: labels and scores of speech in whatever form someone holds it."""

import logging
import os
from collections.abc import Mapping
from types import GeneratorType
from typing import Any

import numpy as np
import torch
from huggingface_hub.utils import httpx
from transformers import AudioClassificationPipeline, BatchFeature

from .speech_input import load_speech, log_once

logger = logging.getLogger(__name__)


class ShiftAudioClassificationPipeline(AudioClassificationPipeline):
    """The `audio-classification` pipeline, reading audio without ffmpeg and torchaudio, and always with the mask.

    One recording may be all that `load_speech` takes: a path (`str`, `Path`, or a URL), the bytes of a file, an array,
    tensor or list of numbers, a dict of an array and its sampling rate. Lists and tuples of recordings give a list;
    generators, datasets and other iterables an iterator. The scores do not depend on `batch_size`.

    Example:
        classify = pipeline("audio-classification", model="runs/demo/fold1",
                            pipeline_class=ShiftAudioClassificationPipeline)
        classify("speech.wav")
        classify([{"array": samples, "sampling_rate": 48000}, "speech.wav"], batch_size=8, top_k=1)
    """

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Classify one recording or many.

        Args:
            inputs: One recording, or a list, generator or dataset of them.
            **options: Those of the stock pipeline: `top_k`, `function_to_apply`, `batch_size`, `num_workers`.

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

    def preprocess(self, inputs: Any) -> BatchFeature:
        """Features of one recording, with their mask, shapes `(1, samples)`."""
        if isinstance(inputs, str) and inputs.startswith(("http://", "https://")):
            inputs = httpx.get(inputs, follow_redirects=True).raise_for_status().content
        rate = self.feature_extractor.sampling_rate
        samples = load_speech(inputs, sampling_rate=rate)
        if not samples.any():
            logger.warning("a recording is digital silence: its scores say nothing")
        features = self.feature_extractor(
            samples, sampling_rate=rate, return_attention_mask=True, return_tensors="pt"
        )  # fmt: skip
        return features.to(dtype=self.dtype)


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
