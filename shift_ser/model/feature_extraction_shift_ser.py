"""ShiftFeatureExtractor: speech in, normalised samples or a spectrogram and their mask out."""

import json
import logging
from functools import lru_cache
from typing import Any

import numpy as np
from transformers import BatchFeature, SeamlessM4TFeatureExtractor, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from .speech_input import check_amplitude, plain_array, scale_to_float

logger = logging.getLogger(__name__)


SPECTROGRAMS = {
    "WhisperFeatureExtractor": WhisperFeatureExtractor,
    "SeamlessM4TFeatureExtractor": SeamlessM4TFeatureExtractor,
}
# Entries of their files that follow from the others, or say nothing of the spectrogram.
_FOLLOWS = (
    "mel_filters",
    "n_samples",
    "nb_max_frames",
    "window",
    "processor_class",
    "auto_map",
    "image_processor_type",
)
_WINDOW, _HOP = 400, 160  # samples, of both


class ShiftFeatureExtractor(Wav2Vec2FeatureExtractor):
    """Wav2Vec2FeatureExtractor that always gives the mask and refuses samples that a model answers with NaN.

    Args:
        min_length: Least number of samples; shorter speech is padded with zeros that count as speech, so that the
            encoder makes one frame of it. 400 samples (25 ms) are what wav2vec 2.0, HuBERT and their kin need.
        fixed_length: Number of samples to which all speech is cut or padded, the padding counting as speech: what
            the authors did (120000, 7.5 s). Default: every utterance keeps its length and padding is masked.
        spectrogram: For encoders of spectrograms what `preprocessor_config.json` of the encoder holds, its
            `feature_extractor_type` a key of `SPECTROGRAMS`. Whisper's log-mel has a frame for each 10 ms of the
            utterance, equal to those that the stock extractor gives of it, which goes on to 30 s; w2v-BERT's has one
            for 20 ms, two of 80 bins each, and is the stock one.
        **options: Those of `Wav2Vec2FeatureExtractor`. `do_normalize` (default True) scales every utterance to zero
            mean and unit variance: set it as the encoder was pretrained.

    Example:
        >>> extractor = ShiftFeatureExtractor()
        >>> batch = extractor([np.ones(500), np.ones(400)], sampling_rate=16000, padding=True, return_tensors="np")
        >>> batch["attention_mask"].sum(axis=1).tolist()
        [500, 400]
    """

    def __init__(
        self,
        min_length: int = 400,
        fixed_length: int | None = None,
        spectrogram: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if spectrogram is not None:
            kind = spectrogram.get("feature_extractor_type")
            if kind not in SPECTROGRAMS:
                raise ValueError(f"spectrogram must be of one of {', '.join(SPECTROGRAMS)}, got {kind!r}")
            options |= {"sampling_rate": spectrogram.get("sampling_rate", 16000), "do_normalize": False}
            least = 2 * _HOP + _WINDOW if kind == "SeamlessM4TFeatureExtractor" else _WINDOW
            min_length = max(min_length, least)
        super().__init__(**{**options, "return_attention_mask": True})
        self.min_length = min_length
        self.fixed_length = fixed_length
        self.spectrogram = spectrogram
        if spectrogram is not None:
            self.model_input_names = ["input_features", "attention_mask"]

    @classmethod
    def from_dict(cls, feature_extractor_dict: dict[str, Any], **options: Any) -> Any:
        """As in the base class, which would drop an option that a stock extractor's file does not name.

        Raises:
            ValueError: If `do_normalize` is given beside a spectrogram, which is made as its encoder was pretrained.
        """
        own: dict[str, Any] = {
            name: options.pop(name) for name in ("min_length", "fixed_length", "do_normalize") if name in options
        }
        if feature_extractor_dict.get("feature_extractor_type") in SPECTROGRAMS:
            spectrogram = {name: value for name, value in feature_extractor_dict.items() if name not in _FOLLOWS}
            feature_extractor_dict = {"spectrogram": spectrogram}
        if feature_extractor_dict.get("spectrogram") and "do_normalize" in own:
            raise ValueError(f"do_normalize must be left out with a spectrogram, got {own['do_normalize']}")
        return super().from_dict({**feature_extractor_dict, **own}, **options)

    def __call__(self, raw_speech: Any, **options: Any) -> BatchFeature:
        """Normalise and pad speech.

        Args:
            raw_speech: One utterance, shape `(samples,)`, or a list of them: arrays, tensors or lists of numbers, at
                the rate that `sampling_rate` names (16 kHz). Integers of 8, 16 or 32 bits are scaled to [-1, 1).
            **options: Those of `Wav2Vec2FeatureExtractor.__call__`.

        Returns:
            `input_values` and `attention_mask`, `(batch, samples)`; or `input_features` `(batch, time, bins)` and
            `attention_mask` `(batch, time)`.

        Raises:
            ValueError: If an utterance is empty, has more than one channel, holds NaN, infinity, a masked sample or one
                beyond 2**32, or is neither of floats nor of such integers; if the list is empty; if one is longer than
                the 30 s that Whisper takes.
        """
        if isinstance(raw_speech, (list, tuple)) and len(raw_speech) == 0:
            raise ValueError("raw_speech must hold an utterance, got an empty list")
        one = not isinstance(raw_speech, (list, tuple)) or np.ndim(raw_speech[0]) == 0
        batch = [self._check(speech, index) for index, speech in enumerate([raw_speech] if one else raw_speech)]
        if self.spectrogram is not None:
            return self._spectrograms(batch, **options)
        options["return_attention_mask"] = True
        if self.fixed_length is not None:
            options |= {"padding": "max_length", "max_length": self.fixed_length, "truncation": True}
        features = super().__call__(batch, **options)
        if self.fixed_length is not None:
            features["attention_mask"] = [mask * 0 + 1 for mask in features["attention_mask"]]
            features = features.convert_to_tensors(options.get("return_tensors"))
        return features

    def input_lengths(self, samples: Any) -> Any:
        """Length of what the model reads of so many samples: the samples, or frames of a spectrogram."""
        if self.spectrogram is None:
            return samples
        if self.spectrogram["feature_extractor_type"] == "WhisperFeatureExtractor":
            return (samples + _HOP - 1) // _HOP
        return (1 + (samples - _WINDOW) // _HOP) // 2

    def _spectrograms(
        self, batch: list[np.ndarray], *, padding: Any = False, return_tensors: Any = None,
        sampling_rate: int | None = None, **options: Any,
    ) -> BatchFeature:  # fmt: skip
        """The spectrogram of each utterance by itself, padded with zeros if asked for."""
        if sampling_rate not in (None, self.sampling_rate):
            raise ValueError(f"sampling_rate must be {self.sampling_rate}, got {sampling_rate}")
        if ignored := [name for name in ("max_length", "truncation", "pad_to_multiple_of") if options.get(name)]:
            raise ValueError(f"{ignored[0]} must be left out with a spectrogram: cut the samples, or set fixed_length")
        if self.fixed_length is not None:
            batch = [np.pad(each[: self.fixed_length], (0, max(0, self.fixed_length - len(each)))) for each in batch]
        frames = [self._spectrogram(samples) for samples in batch]
        masks = [np.ones(len(each), dtype=np.int64) for each in frames]
        if padding or return_tensors is not None:
            longest = max(map(len, frames))
            frames = [np.pad(each, ((0, longest - len(each)), (0, 0))) for each in frames]
            masks = [np.pad(each, (0, longest - len(each))) for each in masks]
        return BatchFeature({"input_features": frames, "attention_mask": masks}, tensor_type=return_tensors)

    def _spectrogram(self, samples: np.ndarray) -> np.ndarray:
        """Float32 `(time, bins)` of one utterance."""
        assert self.spectrogram is not None
        stock = _stock(json.dumps(self.spectrogram, sort_keys=True))
        if isinstance(stock, WhisperFeatureExtractor):
            if len(samples) > stock.n_samples:
                raise ValueError(
                    f"raw_speech must be at most {stock.chunk_length} s with Whisper's encoder, got"
                    f" {len(samples) / self.sampling_rate:.1f} s: cut it (in training max_seconds), or go over it in"
                    " windows (classifier.timeline)"
                )
            length = self.input_lengths(len(samples))
            padded = min((length + 2) * _HOP, stock.n_samples)  # zeros behind the end, as the stock extractor has them
            made = stock(
                samples, sampling_rate=self.sampling_rate, padding="max_length", max_length=padded, return_tensors="np"
            )
            return np.ascontiguousarray(made["input_features"][0, :, :length].T, dtype=np.float32)
        made = stock(samples, sampling_rate=self.sampling_rate, return_tensors="np")
        return made["input_features"][0][made["attention_mask"][0].astype(bool)].astype(np.float32)

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


@lru_cache(maxsize=8)
def _stock(description: str) -> Any:
    """The extractor of transformers that a `spectrogram`, as JSON, describes."""
    options = json.loads(description)
    return SPECTROGRAMS[options.pop("feature_extractor_type")](**options)
