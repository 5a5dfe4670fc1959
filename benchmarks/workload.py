"""What is measured on: sizes, lengths of utterances like IEMOCAP's, noise in place of speech, random frames."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from shift_ser import ShiftConfig, ShiftForSequenceClassification
from shift_ser.corpora.corpus import SAMPLING_RATE
from shift_ser.training.batching import LengthBatches
from shift_ser.training.feature_cache import FrameCache, FrameDataset
from shift_ser.training.shards import shard_name, write_shard

NUM_LABELS = 4


def _small() -> dict[str, Any]:
    return {
        "hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 768,
        "conv_dim": (64,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
    }  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """How large everything is; the defaults are the published ones, or what 20 minutes on two cores leave room for.

    Attributes:
        encoder: Options of `HubertConfig` and `Wav2Vec2Config`; none: the base shapes.
        small_encoder: The same where growth is measured.
        longest: Seconds that speech is cut at, and padded to in the authors' way.
        corpus: Utterances of IEMOCAP.
        epoch: Utterances of them that train in a fold, on average.
        batch: Utterances in a batch of feature extraction.
        head_batches: Batches of an epoch that are run, of all lengths.
        encoded: Utterances that are encoded where the pass over the corpus is extrapolated.
        tuning_batch: Utterances in a batch of fine-tuning.
        tuning_batches: Batches of it that are run, of all lengths.
        files: Recordings in the folder that is classified.
        growth: Utterances of the smallest corpus that grows.
        shift_calls: Shifts, or copies, that are timed together.
    """

    encoder: Mapping[str, Any] = field(default_factory=dict)
    small_encoder: Mapping[str, Any] = field(default_factory=_small)
    longest: float = 7.5
    corpus: int = 5531
    epoch: int = 4425
    batch: int = 32
    head_batches: int = 8
    encoded: int = 24
    tuning_batch: int = 8
    tuning_batches: int = 4
    files: int = 24
    growth: int = 32
    shift_calls: int = 5

    @property
    def steps(self) -> int:
        """Batches of an epoch of feature extraction."""
        return -(-self.epoch // self.batch)


_TINY = {
    "hidden_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64,
    "conv_dim": (16, 16, 16), "conv_stride": (5, 8, 8), "conv_kernel": (10, 8, 8),
    "num_conv_pos_embeddings": 15, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
SMOKE = Sizes(_TINY, _TINY, 0.5, 40, 32, 4, 2, 4, 4, 2, 4, 2, 1)


def lengths(count: int, *, longest: float, seed: int = 0) -> np.ndarray:
    """Seconds of `count` utterances: normal, and cut off at both ends.

    For a `longest` of 7.5 s: of mean 4.5 s and deviation 2 s, cut to 1 to 7.5 s, which leaves a mean of 4.5 s.
    """
    scale = longest / 7.5
    drawn = np.random.default_rng(seed).normal(4.5 * scale, 2.0 * scale, count)
    return drawn.clip(1.0 * scale, longest)


def num_frames(seconds: float) -> int:
    """Frames that an encoder makes of so much speech."""
    return max(1, int(seconds * 50) - 1)


def noise(seconds: Sequence[float], *, seed: int = 0) -> list[np.ndarray]:
    """White noise in place of speech, `(samples,)` each, at 16 kHz."""
    generator = np.random.default_rng(seed)
    return [0.1 * generator.standard_normal(int(length * SAMPLING_RATE), dtype=np.float32) for length in seconds]


def write_recordings(seconds: Sequence[float]) -> list[Path]:
    """A new folder of wav files of noise."""
    folder = Path(tempfile.mkdtemp())
    paths = [folder / f"{index:03d}.wav" for index in range(len(seconds))]
    for path, samples in zip(paths, noise(seconds), strict=True):
        soundfile.write(path, samples, SAMPLING_RATE)
    return paths


def all_batches(seconds: np.ndarray, *, batch: int, by_length: bool = True) -> list[list[int]]:
    """An epoch's batches, of utterances of like length or not."""
    if by_length:
        return list(LengthBatches(seconds.tolist(), batch_size=batch))
    order = np.random.default_rng(0).permutation(len(seconds))
    return [part.tolist() for part in np.array_split(order, -(-len(seconds) // batch))]


def some_of(batches: list[list[int]], count: int, *, seconds: np.ndarray) -> list[list[int]]:
    """So many whole batches of all lengths: of all ordered by length, the middle one of each n-th part; shuffled."""
    whole = max(map(len, batches))
    ordered = sorted((b for b in batches if len(b) >= whole - 1), key=lambda batch: seconds[batch].max())
    places = np.random.default_rng(0).permutation(count)
    return [ordered[int((place + 0.5) * len(ordered) / count)] for place in places]


def cached_batches(
    sizes: Sizes,
    *,
    batch: int,
    count: int,
    channels: int,
    dtype: torch.dtype,
    input_name: str = "encoder_hidden_states",
    by_length: bool = True,
) -> tuple[FrameDataset, list[list[int]]]:
    """A data set of random frames on disk for some of an epoch's batches, and these batches, in random order."""
    seconds = lengths(sizes.epoch, longest=sizes.longest)
    batches = some_of(all_batches(seconds, batch=batch, by_length=by_length), count, seconds=seconds)
    rows = [row for rows in batches for row in rows]
    generator, folder = torch.Generator().manual_seed(0), Path(tempfile.mkdtemp())
    for index, part in enumerate(batches):
        frames = {
            str(row): torch.randn(num_frames(seconds[row]), channels, generator=generator).to(dtype) for row in part
        }
        write_shard(folder / shard_name(index, len(batches)), frames, input_name=input_name)
    place = iter(range(len(rows)))
    names, labels = [str(row) for row in rows], [row % NUM_LABELS for row in rows]
    dataset = FrameDataset(FrameCache.open(folder), names, labels, seconds=seconds[rows].tolist())
    return dataset, [[next(place) for _ in part] for part in batches]


def shift_model(variant: str, encoder_config: Any, **options: Any) -> ShiftForSequenceClassification:
    """A model of random weights, always the same."""
    torch.manual_seed(0)
    return ShiftForSequenceClassification(
        ShiftConfig.from_variant(variant, encoder_config=encoder_config, num_labels=NUM_LABELS, **options)
    )
