"""What is counted and not timed: parameters, operations, padding, and losses with the cache and without."""

import tempfile
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import HubertConfig

from shift_ser import ShiftFeatureExtractor, TemporalShift
from shift_ser.corpora.corpus import SAMPLING_RATE
from shift_ser.training.batching import DataCollatorForShift, LengthBatches
from shift_ser.training.feature_cache import FrameDataset, encode_dataset

from .feature_extraction import Training
from .shift import SETTINGS
from .workload import NUM_LABELS, Sizes, all_batches, lengths, noise, num_frames, shift_model

Row = tuple[str, str]
# How a head is left without its shift: a Shiftformer's shift stands for attention, so it shifts no channel instead.
WITHOUT: dict[str, dict[str, Any]] = {
    "shiftcnn": {"shift_placement": "none"},
    "shiftlstm": {"shift_placement": "none"},
    "shiftformer": {"shift_proportion": 0.0},
}
_BOUND = 1e-5  # of a float32 loss near 1.4


def counts(sizes: Sizes) -> list[Row]:
    """All that is counted: what, and how much.

    Raises:
        RuntimeError: If a count is not what the package promises.
    """
    return [*_shift(), *_heads(sizes), *_padding(sizes), _losses(sizes)]


def _shift() -> list[Row]:
    """Parameters and operations of the shift by itself."""
    frames, rows = torch.randn(1, 8, 768), []
    for name, options in SETTINGS.items():
        module = TemporalShift(**options)
        with FlopCounterMode(display=False) as counter:
            module(frames)
        parameters = sum(parameter.numel() for parameter in module.parameters())
        rows.append((f"the shift, {name}", f"{parameters} parameters, {counter.get_total_flops()} FLOPs"))
    return rows


def _heads(sizes: Sizes) -> list[Row]:
    """Parameters and operations of each head with its shift and without, on one utterance of the longest length."""
    rows: list[Row] = []
    for variant, without in WITHOUT.items():
        (parameters, flops), (bare_parameters, bare_flops) = (_count(sizes, variant, o) for o in ({}, without))
        if (parameters, flops) != (bare_parameters, bare_flops):
            raise RuntimeError(f"the shift of {variant} must cost nothing, got {parameters, flops, bare_parameters}")
        rows.append(
            (f"{variant}, parameters of the head", f"{parameters:,} with its shift, {bare_parameters:,} without")
        )
        rows.append((f"{variant}, FLOPs of the head", f"{flops:,} with its shift, {bare_flops:,} without"))
    return rows


def _count(sizes: Sizes, variant: str, options: dict[str, Any]) -> tuple[int, int]:
    """Parameters and floating-point operations of a head, without running it."""
    with torch.device("meta"):
        model = shift_model(variant, HubertConfig(**{**sizes.encoder, "num_hidden_layers": 1}), **options)
        model.shift_ser.encoder = None
        frames = torch.empty(1, num_frames(sizes.longest), model.config.hidden_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(encoder_hidden_states=frames)
    return sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops()


def _padding(sizes: Sizes) -> list[Row]:
    """Share of an epoch's frames that is padding."""
    seconds = lengths(sizes.epoch, longest=sizes.longest)
    limit = sizes.batch * seconds.mean()
    ways = {
        f"all padded to {sizes.longest} s": [[row] for row in range(len(seconds))],
        f"shuffled batches of {sizes.batch}": all_batches(seconds, batch=sizes.batch, by_length=False),
        f"batches of {sizes.batch} of like length": all_batches(seconds, batch=sizes.batch),
        f"batches of like length, {limit:.0f} s each": list(LengthBatches(seconds.tolist(), max_batch_seconds=limit)),
    }
    rows = []
    for index, (name, batches) in enumerate(ways.items()):
        frames = sum(len(b) * (sizes.longest if index == 0 else seconds[b].max()) for b in batches)
        rows.append((f"padding, {name}", f"{1 - seconds.sum() / frames:.1%}"))
    return rows


def _losses(sizes: Sizes) -> Row:
    """Train a Shiftformer in float32 with the cache and without, on the same batches; the losses must agree."""
    config, steps = HubertConfig(**sizes.small_encoder), 6
    values = noise(lengths(8, longest=min(sizes.longest, 2.0)).tolist())
    dataset: dict[str, list[Any]] = {
        "utterance": [str(row) for row in range(len(values))],
        "audio": [{"array": samples, "sampling_rate": SAMPLING_RATE} for samples in values],
    }
    labels, collate, losses = [row % NUM_LABELS for row in range(len(values))], DataCollatorForShift(), {}
    with tempfile.TemporaryDirectory() as folder:
        for cached in (True, False):
            # No SpecAugment: the encoder draws random numbers, so masks would fall elsewhere.
            model = shift_model("shiftformer", config, mask_time_prob=0.0, mask_feature_prob=0.0)
            if cached:
                extractor = ShiftFeatureExtractor(do_normalize=False)
                encoder = model.shift_ser.encoder
                cache = encode_dataset(encoder, dataset, feature_extractor=extractor, cache_dir=folder)
                data: Any = FrameDataset(cache, dataset["utterance"], labels)
            else:
                pairs = zip(values, labels, strict=True)
                data = [{"input_values": samples, "labels": label} for samples, label in pairs]
            training, order = (
                Training(model, optimizer=torch.optim.AdamW, bf16=False, fused=True),
                np.random.default_rng(0),
            )
            batches = [order.permutation(len(values))[:4] for _ in range(steps)]
            losses[cached] = [training.step(collate([data[int(row)] for row in batch])) for batch in batches]
    apart = max(abs(a - b) for a, b in zip(losses[True], losses[False], strict=True))
    if not apart <= _BOUND:
        raise RuntimeError(f"float32 losses with and without the cache must agree within {_BOUND}, got {apart}")
    return f"largest difference of {steps} losses with and without the cache, float32, small encoder", f"{apart:.1e}"
