"""ShiftFeatureExtractor: speech in, normalised samples and their mask out."""

import logging
from typing import Any

import numpy as np
from transformers import BatchFeature, Wav2Vec2FeatureExtractor

from .speech_input import check_amplitude, plain_array, scale_to_float

logger = logging.getLogger(__name__)


class ShiftFeatureExtractor(Wav2Vec2FeatureExtractor):
    """Wav2Vec2FeatureExtractor that always gives the mask and refuses samples that a model answers with NaN.

    Args:
        min_length: Least number of samples; shorter speech is padded with zeros that count as speech, so that the
            encoder makes one frame of it. 400 samples (25 ms) are what wav2vec 2.0, HuBERT and their kin need.
        fixed_length: Number of samples to which all speech is cut or padded, the padding counting as speech: what
            the authors did (120000, 7.5 s). Default: every utterance keeps its length and padding is masked.
        **options: Those of `Wav2Vec2FeatureExtractor`. `do_normalize` (default True) scales every utterance to zero
            mean and unit variance: set it as the encoder was pretrained.

    Example:
        >>> extractor = ShiftFeatureExtractor()
        >>> batch = extractor([np.ones(500), np.ones(400)], sampling_rate=16000, padding=True, return_tensors="np")
        >>> batch["attention_mask"].sum(axis=1).tolist()
        [500, 400]
    """

    def __init__(self, min_length: int = 400, fixed_length: int | None = None, **options: Any) -> None:
        super().__init__(**{**options, "return_attention_mask": True})
        self.min_length = min_length
        self.fixed_length = fixed_length

    @classmethod
    def from_dict(cls, feature_extractor_dict: dict[str, Any], **options: Any) -> Any:
        """As in the base class, which would drop an option that a stock extractor's file does not name."""
        own: dict[str, Any] = {
            name: options.pop(name) for name in ("min_length", "fixed_length", "do_normalize") if name in options
        }
        return super().from_dict({**feature_extractor_dict, **own}, **options)

    def __call__(self, raw_speech: Any, **options: Any) -> BatchFeature:
        """Normalise and pad speech.

        Args:
            raw_speech: One utterance, shape `(samples,)`, or a list of them: arrays, tensors or lists of numbers, at
                the rate that `sampling_rate` names (16 kHz). Integers of 8, 16 or 32 bits are scaled to [-1, 1).
            **options: Those of `Wav2Vec2FeatureExtractor.__call__`.

        Returns:
            `input_values` and `attention_mask`, `(batch, samples)`.

        Raises:
            ValueError: If an utterance is empty, has more than one channel, holds NaN, infinity, a masked sample or one
                beyond 2**32, or is neither of floats nor of such integers; if the list is empty.
        """
        if isinstance(raw_speech, (list, tuple)) and len(raw_speech) == 0:
            raise ValueError("raw_speech must hold an utterance, got an empty list")
        one = not isinstance(raw_speech, (list, tuple)) or np.ndim(raw_speech[0]) == 0
        batch = [self._check(speech, index) for index, speech in enumerate([raw_speech] if one else raw_speech)]
        options["return_attention_mask"] = True
        if self.fixed_length is not None:
            options |= {"padding": "max_length", "max_length": self.fixed_length, "truncation": True}
        features = super().__call__(batch, **options)
        if self.fixed_length is not None:
            features["attention_mask"] = [mask * 0 + 1 for mask in features["attention_mask"]]
            features = features.convert_to_tensors(options.get("return_tensors"))
        return features

    def _check(self, speech: Any, index: int) -> np.ndarray:
        """One utterance as finite float32 samples, at least `min_length` of them."""
        samples = plain_array(speech, name=f"utterance {index}")
        if samples.ndim != 1:
            raise ValueError(
                f"raw_speech must be mono, shape (samples,), but utterance {index} has shape {samples.shape}:"
                " take the mean over its channels"
            )
        if len(samples) == 0:
            raise ValueError(f"raw_speech must hold samples, but utterance {index} is empty")
        samples = scale_to_float(samples, name=f"utterance {index}")
        if not np.isfinite(samples).all():
            raise ValueError(f"raw_speech must be finite, but utterance {index} holds NaN or infinity")
        check_amplitude(samples, name=f"utterance {index}")
        if len(samples) < self.min_length:
            logger.warning("an utterance of %d samples was padded to %d", len(samples), self.min_length)
            samples = np.pad(samples, (0, self.min_length - len(samples)))
        return samples
