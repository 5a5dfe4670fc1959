"""One pass of the frozen encoder over a dataset, kept on disk.

Layout of a cache folder: `frames.bin`, the float32 frames of all utterances one after the other, and `index.json`,
which tells where each utterance starts. The folder is named after everything that its numbers depend on.
"""

import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import tqdm
from transformers import PreTrainedModel, SequenceFeatureExtractor

logger = logging.getLogger(__name__)

_FRAMES, _INDEX, _DTYPE = "frames.bin", "index.json", "<f4"


class Columns(Protocol):
    """A `datasets.Dataset` or a mapping of columns."""

    def __getitem__(self, column: str, /) -> Sequence[Any]: ...


class FrameCache:
    """The frames of each utterance, memory-mapped: nothing is read before it is asked for. Made by `open`."""

    def __init__(self, path: Path, index: Mapping[str, Any]) -> None:
        self.path = path
        self._spans: dict[str, tuple[int, int]] = index["spans"]
        self._layers: int | None = index["layers"]
        self._channels: int = index["channels"]
        self._flat = np.memmap(path / _FRAMES, dtype=_DTYPE, mode="r")
        if self._flat.nbytes != index["bytes"]:
            raise ValueError(f"{_FRAMES} has {self._flat.nbytes} bytes, {_INDEX} says {index['bytes']}")

    @classmethod
    def open(cls, path: str | Path) -> "FrameCache":
        """Map the cache in a folder that `encode_dataset` wrote.

        Args:
            path: The folder.

        Returns:
            The cache.

        Raises:
            ValueError: If the folder does not hold a whole cache; the message tells what is wrong.
        """
        path = Path(path)
        try:
            return cls(path, json.loads((path / _INDEX).read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a whole frame cache: {error!r}") from error

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        """Pickle the path alone: each data loader worker maps the file itself."""
        return FrameCache.open, (self.path,)

    def __len__(self) -> int:
        return len(self._spans)

    def __contains__(self, utterance: object) -> bool:
        return utterance in self._spans

    def frames(self, utterance: str) -> np.ndarray:
        """Frames of one utterance, 20 ms each for the usual encoders.

        Args:
            utterance: Its name.

        Returns:
            Read-only float32 view, shape `(time, channels)`, or `(layers, time, channels)` for a cache of all layers.

        Raises:
            KeyError: If the cache does not hold the utterance.
        """
        if utterance not in self:
            raise KeyError(f"utterance {utterance!r} is not in the frame cache {self.path} of {len(self)} utterances")
        start, time = self._spans[utterance]
        shape = (time, self._channels) if self._layers is None else (self._layers, time, self._channels)
        return self._flat[start : start + math.prod(shape)].reshape(shape)


class FrameDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Cached frames with their labels, as `DataCollatorForShift` takes them.

    Args:
        cache: Where the frames are.
        utterances: Names of the utterances, in the order of the dataset.
        labels: Class number of each.

    Raises:
        ValueError: If there are not as many labels as utterances.
        KeyError: If the cache lacks an utterance.
    """

    def __init__(self, cache: FrameCache, utterances: Iterable[str], labels: Iterable[int]) -> None:
        self.cache, self.utterances, self.labels = cache, list(utterances), list(labels)
        if len(self.utterances) != len(self.labels):
            raise ValueError(f"there must be one label an utterance, got {len(self.labels)} and {len(self.utterances)}")
        if missing := [utterance for utterance in self.utterances if utterance not in cache]:
            raise KeyError(f"{len(missing)} utterances are not in the frame cache {cache.path}: {missing[0]!r}, ...")

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`encoder_hidden_states`, float32, `(time, channels)` or `(layers, time, channels)`, and `labels`, an int."""
        frames = torch.from_numpy(self.cache.frames(self.utterances[index]).copy())
        return {"encoder_hidden_states": frames, "labels": self.labels[index]}


def encode_dataset(
    encoder: PreTrainedModel,
    dataset: Columns,
    *,
    feature_extractor: SequenceFeatureExtractor,
    cache_dir: str | Path,
    all_layers: bool = False,
    max_seconds: float | None = None,
) -> FrameCache:
    """Run the frozen encoder once over every utterance, or reuse the run that is on disk.

    Utterances go through one at a time, padded by nothing but the feature extractor, so no number depends on what an
    utterance is batched with. With several processes (`accelerate`) the main one encodes, the others wait, and all map
    the same file.

    Args:
        encoder: Any wav2vec2-like `AutoModel`; run in eval mode, on the device it is on.
        dataset: Columns `utterance` (unique names) and `audio` (`array`, mono float samples, and `sampling_rate`).
        feature_extractor: Normalises the samples; refuses another sampling rate than its own.
        cache_dir: Folder that holds one sub-folder for each combination of encoder, data and options.
        all_layers: Keep the input of the encoder's first layer and the output of each, not the last one alone.
        max_seconds: Cut longer audio to its first seconds.

    Returns:
        The cache of the whole dataset.

    Raises:
        ValueError: If an option or the dataset makes no sense, or an utterance cannot be read or encoded, or has
            frames that are not finite; the message names it. What was cached before stays.
    """
    if max_seconds is not None and not max_seconds > 0:
        raise ValueError(f"max_seconds must be above 0, got {max_seconds}")
    names = list(dataset["utterance"])
    if not 0 < len(names) == len(set(names)):
        raise ValueError(f"utterance names must be unique, got {len(names)} with {len(set(names))} different ones")

    max_samples = None if max_seconds is None else round(max_seconds * feature_extractor.sampling_rate)
    encoding = _Encoding(encoder, feature_extractor, all_layers, max_samples)
    with PartialState().main_process_first():
        audio_hash, lengths = _scan(dataset)
        path = Path(cache_dir) / encoding.key(audio_hash)
        cache = _reuse(path)
        if cache is None:
            logger.info("Encoding %d utterances into %s, about %.1f MB", len(names), path, encoding.megabytes(lengths))
            with _eval_mode(encoder):
                _write(path, encoding, dataset)
            cache = FrameCache.open(path)
    return cache


@dataclass(frozen=True)
class _Encoding:
    """Everything but the audio that the frames depend on; `max_samples` is in samples of the feature extractor."""

    encoder: PreTrainedModel
    feature_extractor: Any
    all_layers: bool
    max_samples: int | None

    def key(self, audio_hash: str) -> str:
        """Sixteen digits; where the encoder was loaded from, and by which release, changes no frame."""
        weights = hashlib.sha256()
        for name, weight in sorted(self.encoder.state_dict().items()):
            weights.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            weights.update(weight.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        config = self.encoder.config.to_dict()
        config = {name: config[name] for name in config.keys() - {"_name_or_path", "transformers_version"}}
        options = [self.all_layers, self.max_samples]
        parts = [weights.hexdigest(), config, self.feature_extractor.to_dict(), options, audio_hash]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def megabytes(self, lengths: Iterable[int]) -> float:
        """About how much the frames of utterances of these lengths (samples) take on disk."""
        limit, fixed = self.max_samples or math.inf, getattr(self.feature_extractor, "fixed_length", None)
        samples = sum(fixed or min(length, limit) for length in lengths)
        config = self.encoder.config
        layers = config.num_hidden_layers + 1 if self.all_layers else 1
        return samples / config.inputs_to_logits_ratio * layers * config.hidden_size * 4 / 1e6

    @torch.inference_mode()
    def frames(self, audio: Mapping[str, Any]) -> np.ndarray:
        """Frames of one utterance, shape `(time, channels)` or `(layers, time, channels)`."""
        samples = np.asarray(audio["array"], dtype=np.float32)[: self.max_samples]
        features = self.feature_extractor(samples, sampling_rate=audio["sampling_rate"], return_tensors="pt")
        values = features["input_values"].to(self.encoder.device, self.encoder.dtype)
        output = self.encoder(values, output_hidden_states=self.all_layers, return_dict=True)
        frames = torch.cat(output.hidden_states) if self.all_layers else output.last_hidden_state[0]
        if not frames.isfinite().all():
            raise ValueError("the encoder's frames are not finite")
        return frames.float().cpu().numpy()


def _scan(dataset: Columns) -> tuple[str, list[int]]:
    """Hash of every utterance's name and audio, and the number of samples of each."""
    digest, lengths, column = hashlib.sha256(), [], dataset["audio"]
    for row, utterance in enumerate(dataset["utterance"]):
        with _naming(utterance):
            audio = column[row]
            samples = np.ascontiguousarray(audio["array"], dtype=_DTYPE)
            digest.update(json.dumps([utterance, audio["sampling_rate"], samples.shape]).encode())
            digest.update(samples.data)
            lengths.append(samples.size)
    return digest.hexdigest(), lengths


def _reuse(path: Path) -> FrameCache | None:
    """The cache in `path`, if a whole one is there; a damaged one is removed."""
    if not path.exists():
        return None
    try:
        cache = FrameCache.open(path)
    except ValueError as error:
        logger.warning("Encoding again: %s", error)
        shutil.rmtree(path)
        return None
    logger.info("Reusing the frames of %d utterances in %s", len(cache), path)
    return cache


def _write(path: Path, encoding: _Encoding, dataset: Columns) -> None:
    """Write the cache aside and name it when it is whole, so that a half-written one is never taken for it."""
    spans, column = {}, dataset["audio"]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{path.name}.unfinished-", dir=path.parent) as aside:
        whole = Path(aside) / path.name
        whole.mkdir()
        with open(whole / _FRAMES, "wb") as file:
            for row, utterance in enumerate(tqdm(list(dataset["utterance"]), desc="Encoding", unit="utterance")):
                with _naming(utterance):
                    frames = encoding.frames(column[row])
                spans[utterance] = (file.tell() // frames.itemsize, frames.shape[-2])
                file.write(np.ascontiguousarray(frames, dtype=_DTYPE).data)
            size = file.tell()
        layers = frames.shape[0] if encoding.all_layers else None
        index = {"channels": frames.shape[-1], "layers": layers, "bytes": size, "spans": spans}
        (whole / _INDEX).write_text(json.dumps(index), encoding="utf-8")
        try:
            os.rename(whole, path)
        except OSError:  # another run was first, with the same frames
            FrameCache.open(path)


@contextmanager
def _naming(utterance: str) -> Iterator[None]:
    """Put the utterance's name into whatever its audio goes wrong with."""
    try:
        yield
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"utterance {utterance!r}: {error}") from error


@contextmanager
def _eval_mode(encoder: PreTrainedModel) -> Iterator[None]:
    """Eval mode inside; afterwards each module is back in its own."""
    training = [module for module in encoder.modules() if module.training]
    encoder.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
