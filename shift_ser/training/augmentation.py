"""What training may do to speech so that a model hears more than its corpus: `AUGMENTATIONS`, and mixup."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import soxr
import torch
from scipy.signal import istft, stft
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import TrainerCallback

from ..corpora.corpus import SAMPLING_RATE
from ..evaluation.robustness import CONDITIONS, change_level, change_speed, fit, reverberate, white_noise
from .batching import join_examples

MOST_JOINED = 4  # utterances, for frame labels
PROBABILITY = 0.5  # of each kind, for each utterance and draw
_WINDOW, _HOP = 512, 128  # samples of the pitch's spectra


@dataclass(frozen=True)
class Augmentation:
    """An entry of `AUGMENTATIONS`.

    Attributes:
        help: One sentence for the documentation.
        change: What it does to samples: called as the `change` of a `Condition`, with the strength as keyword.
        option: Name of the strength.
        least: Of the strengths, which are drawn evenly.
        most: Of the strengths.
    """

    help: str
    change: Callable[..., np.ndarray]
    option: str
    least: float
    most: float


def shift_pitch(samples: np.ndarray, rate: int, rng: object, others: object, *, semitones: float) -> np.ndarray:
    """Higher or lower at the same speed: stretched by a phase vocoder, then played faster or slower."""
    factor = 2 ** (semitones / 12)
    padded = np.pad(samples, (0, max(0, 2 * _WINDOW - len(samples))))
    _, _, spectra = stft(padded, nperseg=_WINDOW, noverlap=_WINDOW - _HOP)
    places = np.arange(0, spectra.shape[1] - 1, 1 / factor)
    before, share = places.astype(int), places % 1
    sizes = (1 - share) * abs(spectra[:, before]) + share * abs(spectra[:, before + 1])
    turns = np.angle(spectra[:, before + 1]) - np.angle(spectra[:, before])
    phases = np.angle(spectra[:, :1]) + np.cumsum(turns, axis=1) - turns
    _, stretched = istft(sizes * np.exp(1j * phases), nperseg=_WINDOW, noverlap=_WINDOW - _HOP)
    return fit(soxr.resample(stretched, rate * factor, rate), len(samples))


def _any_codec(
    samples: np.ndarray, rate: int, rng: np.random.Generator, others: Sequence[np.ndarray], *, place: float
) -> np.ndarray:
    """Through one of the codecs of `CONDITIONS`, chosen by a number from 0 to below 1."""
    codecs = [condition for condition in CONDITIONS.values() if condition.kind == "telephone and codecs"]
    return codecs[int(place * len(codecs))].change(samples, rate, rng, others)


AUGMENTATIONS = {
    "noise": Augmentation("white noise, 10 to 30 dB below the speech", white_noise, "snr", 10, 30),
    "room": Augmentation("a synthetic echo that falls by 60 dB in 0.1 to 0.6 s", reverberate, "t60", 0.1, 0.6),
    "speed": Augmentation("0.9 to 1.1 times as fast, with its pitch", change_speed, "factor", 0.9, 1.1),
    "pitch": Augmentation("up to two semitones lower or higher", shift_pitch, "semitones", -2, 2),
    "gain": Augmentation("up to 10 dB softer or louder", change_level, "db", -10, 10),
    "codec": Augmentation("one of the codecs and telephone bands of `--robustness`", _any_codec, "place", 0, 1),
}
SLOWEST = AUGMENTATIONS["speed"].least


@dataclass(frozen=True)
class Augmenter:
    """Changes utterances, each by its name and the number of the draw: nothing depends on order, batch or process.

    Args:
        kinds: Keys of `AUGMENTATIONS`; they are applied in the order of the table.
        seed: Of all that is random.
    """

    kinds: tuple[str, ...]
    seed: int

    def __call__(self, samples: np.ndarray, *, utterance: str, draw: int) -> np.ndarray:
        """The changed samples, float32.

        Args:
            samples: At 16 kHz, shape `(samples,)`.
            utterance: Its name.
            draw: Epoch, or number of the variant.
        """
        for kind, entry in AUGMENTATIONS.items():
            digest = hashlib.sha256(f"{self.seed} {draw} {kind} {utterance}".encode()).digest()
            rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
            if kind in self.kinds and rng.random() < PROBABILITY:
                strength = {entry.option: rng.uniform(entry.least, entry.most)}
                samples = entry.change(np.asarray(samples, np.float32), SAMPLING_RATE, rng, (), **strength)
        return np.ascontiguousarray(samples, dtype=np.float32)

    @property
    def recipe(self) -> str:
        """What the changed samples depend on beside an utterance and the draw."""
        strengths = [(kind, AUGMENTATIONS[kind].least, AUGMENTATIONS[kind].most) for kind in self.kinds]
        return f"{self.seed} {PROBABILITY} {strengths}"

    def longest(self, samples: int) -> float:
        """How long an utterance of so many samples can become."""
        return samples / SLOWEST if "speed" in self.kinds else samples


class AugmentedAudio(Sequence[dict[str, Any]]):
    """The audio column of a corpus in one draw; a recording is read when its row is looked at.

    Args:
        audio: The column as it is.
        utterances: Names of its rows.
        augment: Changes them.
        draw: Which draw.
    """

    def __init__(self, audio: Sequence[Any], utterances: Sequence[str], augment: Augmenter, *, draw: int) -> None:
        self.audio, self.utterances, self.augment, self.draw = audio, utterances, augment, draw

    def __len__(self) -> int:
        return len(self.audio)

    def __getitem__(self, row: Any) -> Any:
        """The recording of a row."""
        recording = self.audio[row]
        return {**recording, "array": self.augment(recording["array"], utterance=self.utterances[row], draw=self.draw)}


class EpochDataset(Dataset[dict[str, Any]]):
    """A training set whose examples depend on the epoch, which workers that are kept alive hear of, too.

    Args:
        of_epoch: Makes the example of a row; the number of the epoch, from 0, is its keyword `draw`.
        like: Has `utterances` and `seconds` of the rows.
    """

    def __init__(self, of_epoch: Callable[..., dict[str, Any]], *, like: Any) -> None:
        self.of_epoch, self.utterances, self.seconds = of_epoch, like.utterances, like.seconds
        self._epoch = torch.zeros(1, dtype=torch.long).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose examples come next."""
        self._epoch[0] = epoch

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.of_epoch(index, draw=int(self._epoch))


class JoinedUtterances:
    """Makes examples of each utterance with others behind it, as many and which drawn anew in each epoch.

    Args:
        examples: Frames of utterances with their class numbers.
        seed: Of what is drawn.
    """

    def __init__(self, examples: Any, *, seed: int) -> None:
        self.examples, self.seed = examples, seed

    def __call__(self, index: int, *, draw: int) -> dict[str, Any]:
        """The example that begins with the utterance of a row."""
        rng = np.random.default_rng([self.seed, draw, index])
        rows = [index, *rng.integers(len(self.examples), size=rng.integers(MOST_JOINED)).tolist()]
        if not isinstance(self.examples, EpochDataset):
            return join_examples([self.examples[row] for row in rows])
        return join_examples([self.examples.of_epoch(row, draw=draw) for row in rows])


class TellEpoch(TrainerCallback):
    """Tells an `EpochDataset` which epoch begins, also after resuming."""

    def __init__(self, dataset: EpochDataset) -> None:
        self.dataset = dataset

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The epochs that are done are the number of the one that begins."""
        self.dataset.set_epoch(round(state.epoch or 0))


def mix_up(batch: Mapping[str, Any], *, alpha: float, classes: int) -> dict[str, Any]:
    """A batch whose utterances are each mixed with another one of it (mixup, Zhang et al. 2018).

    One share for the batch is drawn from Beta(alpha, alpha), by numpy's generator as all that it draws for training.
    Speech ends where the longer of the two ends; `labels` become distributions over the classes.

    Args:
        batch: Of `DataCollatorForShift`: one input, zero where it is padding, its mask, and labels.
        alpha: Above 0; the greater, the nearer to halves.
        classes: Number of classes.
    """
    labels, mask = batch["labels"], batch["attention_mask"]
    share, order = float(np.random.beta(alpha, alpha)), torch.from_numpy(np.random.permutation(len(labels)))
    order = order.to(labels.device)
    shares = labels if labels.is_floating_point() else functional.one_hot(labels, classes).float()
    mixed = {name: values for name, values in batch.items() if name not in ("labels", "attention_mask")}
    mixed = {name: share * values + (1 - share) * values[order] for name, values in mixed.items()}
    return {**mixed, "attention_mask": mask | mask[order], "labels": share * shares + (1 - share) * shares[order]}
