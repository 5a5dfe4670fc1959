"""One pass of the frozen encoder over a dataset, kept on disk (`frame_store`).

The folder is named after everything that its numbers depend on, so folds, heads, seeds and studies share one pass.
"""

import copy
import errno
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object, tqdm
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, SequenceFeatureExtractor

from ..corpora.corpus import Columns, Recording, scan_recordings
from ..matrix_products import use_matrix_products
from ..model.encoders import (
    FEATURE_PROJECTION,
    convolution_width,
    convolutions_of,
    encode,
    frame_lengths,
    input_name,
    unread_layers,
)
from .shards import check_shard, remove_leftovers, shard_name, shard_size, write_shard

logger = logging.getLogger(__name__)


class FrameCache:
    """The frames of each utterance, memory-mapped: nothing is read before it is asked for. Made by `open`.

    Attributes:
        path: The folder.
        input_name: Name of the model input that receives the frames: `encoder_hidden_states` or `extract_features`.
        layer: The one layer that is looked at in a cache of all layers.
    """

    def __init__(self, path: Path, *, layer: int | None = None) -> None:
        self.path, self.layer = path, layer
        shards = sorted(path.glob("frames-*-of-*.safetensors"))
        expected = int(shards[0].stem.rsplit("-", 1)[1]) if shards else 1
        if [shard.name for shard in shards] != [shard_name(index, expected) for index in range(expected)]:
            raise ValueError(f"{len(shards)} of {expected} shards are there")
        self._shard_of: dict[str, Any] = {}
        for shard in shards:
            opened = safe_open(shard, framework="pt")
            self._shard_of |= dict.fromkeys(opened.keys(), opened)
        self.input_name: str = opened.metadata()["input_name"]

    @classmethod
    def open(cls, path: str | Path, *, layer: int | None = None) -> "FrameCache":
        """Map the cache in a folder that `encode_dataset` wrote; checksums are not compared here.

        Args:
            path: The folder.
            layer: Look at one layer of a cache of all layers.

        Returns:
            The cache.

        Raises:
            ValueError: If the folder does not hold a whole cache; the message tells what is wrong.
        """
        try:
            return cls(Path(path), layer=layer)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ValueError(f"{path} is not a whole frame cache: {error!r}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path alone: each data loader worker maps the files itself."""
        return _open, (self.path, self.layer)

    def __len__(self) -> int:
        return len(self._shard_of)

    def __contains__(self, utterance: object) -> bool:
        return utterance in self._shard_of

    def frames(self, utterance: str) -> torch.Tensor:
        """Frames of one utterance, 20 ms each for the usual encoders.

        Args:
            utterance: Its name.

        Returns:
            View of the mapped file in the dtype of the cache, shape `(time, channels)`, or `(layers, time, channels)`
            of all layers. Do not write to it: later reads would see it (the file would not).

        Raises:
            KeyError: If the cache does not hold the utterance.
        """
        if utterance not in self:
            raise KeyError(f"utterance {utterance!r} is not in the frame cache {self.path} of {len(self)} utterances")
        frames = self._shard_of[utterance].get_tensor(utterance)
        return frames if self.layer is None else frames[self.layer]


class FrameDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Cached frames with their labels, as `DataCollatorForShift` takes them.

    Args:
        cache: Where the frames are.
        utterances: Names of the utterances, in the order of the dataset.
        labels: Of each: a class number, or floats `(outputs,)`.
        seconds: Length of each, for batches that are sorted by it.

    Raises:
        ValueError: If there are not as many labels, or lengths, as utterances.
        KeyError: If the cache lacks an utterance.
    """

    def __init__(
        self,
        cache: FrameCache,
        utterances: Sequence[str],
        labels: Sequence[Any],
        *,
        seconds: Sequence[float] | None = None,
    ) -> None:
        self.cache, self.utterances, self.labels, self.seconds = cache, utterances, labels, seconds
        if len(utterances) != len(labels):
            raise ValueError(f"there must be one label an utterance, got {len(labels)} and {len(utterances)}")
        if seconds is not None and len(seconds) != len(utterances):
            raise ValueError(f"there must be one length an utterance, got {len(seconds)} and {len(utterances)}")
        if missing := [utterance for utterance in utterances if utterance not in cache]:
            raise KeyError(f"{len(missing)} utterances are not in the frame cache {cache.path}: {missing[0]!r}, ...")

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The frames under the cache's `input_name`, not to be written to, and `labels`."""
        return {self.cache.input_name: self.cache.frames(self.utterances[index]), "labels": self.labels[index]}


def _open(path: Path, layer: int | None) -> FrameCache:
    return FrameCache.open(path, layer=layer)


DTYPES = ("float32", "float16", "bfloat16")
# Entries of a configuration or of a preprocessor that change no frame: names, code, what only training or a head reads.
# fmt: off
_NO_FRAMES = frozenset((
    "_name_or_path", "transformers_version", "architectures", "auto_map", "dtype", "torch_dtype", "processor_class",
    "feature_extractor_type", "id2label", "label2id", "num_labels", "problem_type", "return_dict",
    "output_hidden_states", "output_attentions", "is_encoder_decoder", "apply_spec_augment", "layerdrop",
    "mask_time_prob", "mask_time_length", "mask_time_min_masks", "mask_feature_prob", "mask_feature_length",
    "mask_feature_min_masks", "attention_dropout", "activation_dropout", "hidden_dropout", "feat_proj_dropout",
    "feat_quantizer_dropout", "final_dropout", "initializer_range", "gradient_checkpointing", "vocab_size",
    "pad_token_id", "bos_token_id", "eos_token_id", "ctc_loss_reduction", "ctc_zero_infinity", "classifier_proj_size",
    "use_weighted_layer_sum", "tdnn_dim", "tdnn_kernel", "tdnn_dilation", "xvector_output_dim", "num_ctc_classes",
    "diversity_loss_weight", "num_codevector_groups", "codevector_dim", "num_codevectors_per_group", "num_negatives",
    "contrastive_logits_temperature", "proj_codevector_dim",
))
# fmt: on
_PRECISION = 0.1  # most that a coarser dtype may change frames, as a share of their norm; rounding changes about 0.01


def encode_dataset(
    encoder: PreTrainedModel,
    dataset: Columns,
    *,
    feature_extractor: SequenceFeatureExtractor,
    cache_dir: str | Path,
    output: int | str = "last",
    dtype: str = "float32",
    encoder_dtype: str = "float32",
    max_seconds: float | None = None,
    recordings: Mapping[str, Recording] | None = None,
) -> FrameCache:
    """Run the frozen encoder once over every utterance, or reuse what earlier runs left on disk.

    Utterances go through one at a time, padded by nothing but the feature extractor, so no number depends on what an
    utterance is batched with. With several processes (`accelerate`) each encodes its share. A run that was killed goes
    on with the next shard; a shard that is damaged is encoded again.

    Args:
        encoder: Any wav2vec2-like `AutoModel`; run in eval mode, on the device it is on.
        dataset: Columns `utterance` (unique names) and `audio` (`array`, mono float samples, and `sampling_rate`).
        feature_extractor: Normalises the samples; refuses another sampling rate than its own.
        cache_dir: Folder that holds one sub-folder for each combination of encoder, data and options.
        output: `"last"`: the encoder's last frames; a number: one of its `hidden_states`; `"all"`: all of these, the
            input of its first layer and the output of each; `"feature_projection"`: what comes before positions and
            attention; `"convolutions"`: what its convolutions make of speech.
        dtype: Of what is kept: float32, float16 or bfloat16.
        encoder_dtype: What the encoder computes in: one of the same; another one than float32 is compared with it.
        max_seconds: Cut longer audio to its first seconds.
        recordings: What `scan_recordings` found in the dataset, if it is known already.

    Returns:
        The cache of the whole dataset.

    Raises:
        ValueError: If an option or the dataset makes no sense, or an utterance cannot be read or encoded, or has
            frames that are not finite; the message names it. What was cached before stays.
        OSError: If the disk has no room for the frames.
    """
    if max_seconds is not None and not max_seconds > 0:
        raise ValueError(f"max_seconds must be above 0, got {max_seconds}")
    recordings = scan_recordings(dataset) if recordings is None else recordings
    max_samples = None if max_seconds is None else round(max_seconds * feature_extractor.sampling_rate)
    encoding = _Encoding(encoder, feature_extractor, output, max_samples, dtype, encoder_dtype)
    encoding.check()
    layer, path = None, encoding.path(cache_dir, recordings)
    all_layers = replace(encoding, output="all")
    if isinstance(output, int) and _is_there(there := all_layers.path(cache_dir, recordings)):
        encoding, layer, path = all_layers, output, there
    _fill(path, encoding, dataset, recordings)
    return FrameCache.open(path, layer=layer)


@dataclass(frozen=True)
class _Encoding:
    """Everything but the audio that the frames depend on; `max_samples` is in samples of the feature extractor."""

    encoder: PreTrainedModel
    feature_extractor: Any
    output: int | str
    max_samples: int | None
    dtype: str
    encoder_dtype: str

    def check(self) -> None:
        """Refuse what cannot be done."""
        for name in ("dtype", "encoder_dtype"):
            if getattr(self, name) not in DTYPES:
                raise ValueError(f"{name} must be one of {DTYPES}, got {getattr(self, name)!r}")
        layers = range(self.encoder.config.num_hidden_layers + 1)
        named = ("last", "all", FEATURE_PROJECTION, "convolutions")
        if self.output not in (*named, *layers):
            raise ValueError(f"output must be one of {named} or a layer from 0 to {layers[-1]}, got {self.output!r}")

    @property
    def input_name(self) -> str:
        """Name of the model input that receives the frames."""
        return "extract_features" if self.output == "convolutions" else "encoder_hidden_states"

    def path(self, cache_dir: str | Path, recordings: Mapping[str, Recording]) -> Path:
        """The folder, by sixteen digits; where the encoder was loaded from, and by which release, changes no frame."""
        convolutions = convolutions_of(self.encoder) if self.output == "convolutions" else None
        encoder = encoder_fingerprint(self.encoder, part=convolutions, output=self.output)
        audio = {name: recording.content_hash for name, recording in recordings.items()}
        extractor = {name: value for name, value in self.feature_extractor.to_dict().items() if name not in _NO_FRAMES}
        parts = [encoder, extractor, [self.max_samples, self.dtype, self.encoder_dtype, list(audio)], audio]
        key = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
        return Path(cache_dir) / f"{key}-{self.output}"

    def num_bytes(self, lengths: Sequence[int]) -> int:
        """What the frames of utterances of these lengths (samples) take on disk, but for names."""
        fixed = getattr(self.feature_extractor, "fixed_length", None)
        least = getattr(self.feature_extractor, "min_length", 1)
        samples = torch.tensor([fixed or max(min(length, self.max_samples or length), least) for length in lengths])
        read = getattr(self.feature_extractor, "input_lengths", None)  # stock ones of waveforms have none
        frames = int(frame_lengths(self.encoder, read(samples) if read else samples).sum())
        config = self.encoder.config
        channels = convolution_width(config) if self.output == "convolutions" else config.hidden_size
        layers = config.num_hidden_layers + 1 if self.output == "all" else 1
        return frames * channels * layers * getattr(torch, self.dtype).itemsize

    @contextmanager
    def ready(self) -> Iterator["_Encoding"]:
        """With the encoder in eval mode and in the dtype it computes in; afterwards each module is in its own mode."""
        dtype, training = getattr(torch, self.encoder_dtype), [m for m in self.encoder.modules() if m.training]
        encoder = self.encoder
        if dtype == torch.bfloat16:
            encoder = copy.deepcopy(encoder).to(dtype)
            use_matrix_products(encoder)  # an encoder outside a ShiftModel does not have them yet
        elif encoder.dtype != dtype:
            encoder = copy.deepcopy(encoder).to(dtype)
        encoder.eval()
        self.encoder.eval()
        try:
            if self.encoder_dtype != "float32":
                self._check_precision(encoder)
            yield replace(self, encoder=encoder)
        finally:
            for module in training:
                module.training = True

    def _check_precision(self, coarse: PreTrainedModel) -> None:
        """Refuse a dtype in which this machine computes something else: some products are wrong on some processors."""
        rate = self.feature_extractor.sampling_rate
        noise = 0.1 * torch.randn(2 * rate, generator=torch.Generator().manual_seed(0)).numpy()
        audio = {"array": noise, "sampling_rate": rate}
        exact, rounded = (replace(self, encoder=e, dtype="float32").frames(audio) for e in (self.encoder, coarse))
        change = float((rounded - exact).norm() / exact.norm())
        if not change <= _PRECISION:
            raise ValueError(
                f"encoder_dtype must give nearly the frames of float32, but here {self.encoder_dtype} changes those of"
                f" noise by {change:.2g} of their norm (at most {_PRECISION:g}): take float32"
            )

    @torch.inference_mode()
    def frames(self, audio: Mapping[str, Any]) -> torch.Tensor:
        """Frames of one utterance, shape `(time, channels)` or `(layers, time, channels)`."""
        samples = np.asarray(audio["array"], dtype=np.float32)[: self.max_samples]
        features = self.feature_extractor(samples, sampling_rate=audio["sampling_rate"], return_tensors="pt")
        values = features[input_name(self.encoder.config)].to(self.encoder.device, self.encoder.dtype)
        frames = encode(self.encoder, values, output=self.output)[0]
        frames = frames.to("cpu", getattr(torch, self.dtype)).contiguous()
        if not frames.isfinite().all():
            raise ValueError(f"the encoder's frames are not finite in {self.dtype}")
        return frames


def encoder_fingerprint(
    encoder: PreTrainedModel, *, part: torch.nn.Module | None = None, output: int | str = "last"
) -> str:
    """Sixteen digits that change with an encoder's weights, and with what of its configuration changes its frames.

    Args:
        encoder: The encoder.
        part: The part of it whose weights count; default: all of it.
        output: What is read, as in `encode`: layers above it count for nothing, whether they are there or not.
    """
    weights, unread = hashlib.sha256(), ("masked_spec_embed", *unread_layers(encoder, output))
    for name, weight in sorted((part or encoder).state_dict().items()):
        if not name.startswith(unread):  # the mask: read in training alone, and drawn where a checkpoint lacks it
            weights.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            weights.update(weight.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    no_frames = _NO_FRAMES if output in ("last", "all") else _NO_FRAMES | {"num_hidden_layers", "encoder_layers"}
    config = {name: value for name, value in encoder.config.to_dict().items() if name not in no_frames}
    parts = json.dumps([weights.hexdigest(), config], sort_keys=True, default=str)
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def _is_there(path: Path) -> bool:
    try:
        FrameCache.open(path)
    except ValueError:
        return False
    return True


def _fill(path: Path, encoding: _Encoding, dataset: Columns, recordings: Mapping[str, Recording]) -> None:
    """Write what is missing of a cache, every process its shards; all of them raise if one has to."""
    names, state = list(recordings), PartialState()
    if names != list(dataset["utterance"]):
        raise ValueError(f"recordings must be those of the dataset, got {len(names)}, the first is {names[0]!r}")
    path.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    size = shard_size(len(names))
    shards = [names[start : start + size] for start in range(0, len(names), size)]
    todo = {}
    for index in range(state.process_index, len(shards), state.num_processes):
        if not _is_whole(path / shard_name(index, len(shards)), shards[index]):
            todo[path / shard_name(index, len(shards))] = shards[index]
    mine = [recordings[name].num_samples for utterances in todo.values() for name in utterances]
    shares = gather_object([(len(mine), encoding.num_bytes(mine), shutil.disk_usage(path).free)])
    count, size = sum(share[0] for share in shares), sum(share[1] for share in shares)
    if not count:
        logger.info("Reusing the frames of %d utterances in %s", len(names), path)
        return
    _check_room(path, size, free=min(share[2] for share in shares))
    logger.info("Encoding %d of %d utterances into %s, %.1f MB", count, len(names), path, size / 1e6)
    error = None
    try:
        _write(todo, encoding, dataset, {name: row for row, name in enumerate(names)})
    except (OSError, ValueError) as problem:
        error = problem
    told = [message for message in gather_object([str(error or "")]) if message]
    if told:
        raise error or ValueError(told[0])


def _is_whole(path: Path, utterances: Sequence[str]) -> bool:
    """Whether a shard is there; one that is damaged is removed."""
    if not path.exists():
        return False
    try:
        check_shard(path, utterances)
    except ValueError as problem:
        logger.warning("Encoding again: %s", problem)
        path.unlink(missing_ok=True)
        return False
    return True


def _check_room(path: Path, size: int, *, free: int) -> None:
    """Refuse to begin what the disk cannot take."""
    if size > free:
        raise OSError(
            errno.ENOSPC,
            f"cache_dir must be on a disk with room for {size} bytes of frames, but {free} are free at {str(path)!r}",
        )


def _write(
    todo: Mapping[Path, Sequence[str]], encoding: _Encoding, dataset: Columns, row_of: Mapping[str, int]
) -> None:
    """Encode shard after shard; one that another run has finished meanwhile is kept."""
    column = dataset["audio"]
    bar = tqdm(total=sum(map(len, todo.values())), desc="Encoding", unit="utterance")
    with encoding.ready() as ready, bar:
        for path, utterances in todo.items():
            frames = {}
            for utterance in [] if path.exists() else utterances:
                try:
                    frames[utterance] = ready.frames(column[row_of[utterance]])
                except (OSError, RuntimeError, TypeError, ValueError) as error:
                    raise ValueError(f"utterance {utterance!r}: {error}") from error
                bar.update()
            if frames:
                write_shard(path, frames, input_name=encoding.input_name)
