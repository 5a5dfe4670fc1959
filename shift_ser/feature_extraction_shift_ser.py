"""ShiftFeatureExtractor: speech in, normalised samples and their mask out."""

import logging
from typing import Any

import numpy as np
from transformers import BatchFeature, Wav2Vec2FeatureExtractor

logger = logging.getLogger(__name__)


class ShiftFeatureExtractor(Wav2Vec2FeatureExtractor):
    """Wav2Vec2FeatureExtractor that always gives the mask and lets nothing through that a model would choke on.

    Args:
        min_length: Least number of samples; shorter speech is padded with zeros that count as speech, so that the
            encoder makes one frame of it. 400 samples (25 ms) are what wav2vec 2.0, HuBERT and their kin need.
        **options: Those of `Wav2Vec2FeatureExtractor`. `do_normalize` (default True) scales every utterance to zero
            mean and unit variance: as the encoder was pretrained.
    """

    def __init__(self, min_length: int = 400, **options: Any) -> None:
        super().__init__(**{**options, "return_attention_mask": True})
        self.min_length = min_length

    def __call__(self, raw_speech: Any, **options: Any) -> BatchFeature:
        """Normalise and pad speech.

        Args:
            raw_speech: One utterance, shape `(samples,)`, or a list of them: arrays, tensors or lists of floats, at
                the rate `sampling_rate` names (16 kHz).
            **options: Those of `Wav2Vec2FeatureExtractor.__call__`.

        Returns:
            `input_values` and `attention_mask`, `(batch, samples)`.

        Raises:
            ValueError: If an utterance is empty, has more than one channel, or holds NaN or infinity.
        """
        one = not isinstance(raw_speech, (list, tuple)) or (len(raw_speech) > 0 and np.ndim(raw_speech[0]) == 0)
        batch = [raw_speech] if one else list(raw_speech)
        options["return_attention_mask"] = True
        return super().__call__([self._check(speech, index) for index, speech in enumerate(batch)], **options)

    def _check(self, speech: Any, index: int) -> np.ndarray:
        samples = np.asarray(speech)
        if samples.ndim != 1:
            raise ValueError(
                f"raw_speech must be mono, shape (samples,), but utterance {index} has shape {samples.shape}:"
                " take the mean over its channels"
            )
        if len(samples) == 0:
            raise ValueError(f"raw_speech must hold samples, but utterance {index} is empty")
        scale = 1.0 if samples.dtype.kind == "f" else float(np.iinfo(samples.dtype).max)
        samples = samples.astype(np.float32) / np.float32(scale)
        if not np.isfinite(samples).all():
            raise ValueError(f"raw_speech must be finite, but utterance {index} holds NaN or infinity")
        if len(samples) < self.min_length:
            logger.warning("an utterance of %d samples was padded to %d", len(samples), self.min_length)
            samples = np.pad(samples, (0, self.min_length - len(samples)))
        return samples
