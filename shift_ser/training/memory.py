"""What training takes of memory, counted from shapes before it begins."""

import gc
import logging
from collections.abc import Iterable, Sequence

import psutil
import torch
from transformers import AutoConfig
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_enabled

from ..memory import counting, free_memory
from ..model.configuration_shift_ser import ShiftConfig
from ..model.modeling_shift_ser import ShiftForSequenceClassification
from .augmentation import MOST_JOINED
from .batching import LengthBatches
from .fold import FoldRun
from .rehearsal import Rehearsal

logger = logging.getLogger(__name__)

SCRATCH = 1.2  # what training was seen to take, as a multiple of its tensors
# Masks are drawn by lengths, which a count does not know; without LayerDrop all layers are run.
_NO_DRAWS = {"mask_time_prob": 0.0, "mask_time_min_masks": 0, "mask_feature_prob": 0.0, "mask_feature_min_masks": 0,
             "encoder_layerdrop": 0.0, "encoder_augmentation": False}  # fmt: skip

Size = tuple[int, float]  # utterances in a batch, and the seconds of the longest


def tell_memory(runs: Sequence[FoldRun]) -> None:
    """Say what the largest batch of these folds takes, and warn where that is more than there is.

    Each fold notes the peak that is expected of it. Nothing is counted where weights are sharded, or where the code of
    a head or an optimizer asks for values.

    Args:
        runs: Folds of one run that are to be trained.
    """
    args = runs[0].run_args
    if args.process_index or is_fsdp_enabled() or is_deepspeed_zero3_enabled():
        return
    try:
        train, scored = largest_batches(runs)
        peak, weights = training_bytes(runs[0], train=train, scored=scored)
    except Exception as error:  # a head's or an optimizer's code may ask for values; no count may end a training
        logger.info("what training takes of memory could not be counted: %s", error)
        return
    gc.collect()
    needed, held, processes = round(SCRATCH * peak), 0, 1
    if args.device.type == "cpu":  # where the files that weights are read from count as well
        needed, held, processes = needed + weights, psutil.Process().memory_info().rss, args.world_size
    for run in runs:
        run.expected_memory_mb = round((held + needed) / 1e6, 1)
    free, (count, seconds) = free_memory(args.device), train[0]
    told = (
        f"training takes about {processes * needed / 1e9:.1f} GB at its peak, in batches of {count} x {seconds:.1f} s"
    )
    if processes * needed <= free:
        logger.info("%s; %.1f GB are free", told, free / 1e9)
    else:
        logger.warning(
            "%s, and only %.1f GB are free. Less is taken with a lower per_device_train_batch_size (or"
            " max_batch_seconds), with a higher gradient_accumulation_steps to make up for it, with"
            " gradient_checkpointing, with bf16, or with a lower max_seconds", told, free / 1e9,
        )  # fmt: skip


def largest_batches(runs: Sequence[FoldRun]) -> tuple[list[Size], list[Size]]:
    """The batches of a process that may take the most memory, of training and of scoring.

    Args:
        runs: Folds of one run.
    """
    args, corpus, augment = runs[0].run_args, runs[0].corpus, runs[0].augmenter
    size = args.per_device_train_batch_size if args.max_batch_seconds is None else None
    sizes, scored = set(), set()
    for plan in {run.plan.fold: run.plan for run in runs}.values():
        train = [*plan.train, *(plan.validation if args.refit else ())]
        lengths = corpus.seconds(corpus.utterances if args.final else train, augment=augment)
        sizes |= {*LengthBatches(lengths, batch_size=size, max_batch_seconds=args.max_batch_seconds).sizes}
        for part in filter(None, (plan.validation, plan.test)):
            scored.add((min(args.per_device_eval_batch_size, len(part)), max(corpus.seconds(part))))
    return _largest(sizes, args.world_size), _largest(scored, args.world_size)


def _largest(sizes: Iterable[Size], processes: int) -> list[Size]:
    """A process's share of the batch with most samples, and of that with most pairs of them, which attention takes."""
    largest = {max(sizes, key=lambda size: size[0] * size[1] ** power) for power in (1, 2)}
    return [(-(-count // processes), seconds) for count, seconds in sorted(largest)]


def training_bytes(run: FoldRun, *, train: Sequence[Size], scored: Sequence[Size]) -> tuple[int, int]:
    """Bytes of a fold's tensors at their peak: weights, gradients, optimizer, what a batch leaves until its way back.

    Args:
        run: Any fold; its model is made anew, of shapes alone.
        train: Batches of training.
        scored: Batches of scoring.

    Returns:
        The peak, and the bytes of all weights alone.

    Raises:
        RuntimeError: If something asks for a value, which a tensor does not have here.
    """
    args, options = run.run_args, run.model_args.config_options() | _NO_DRAWS | run.corpus.targets.names
    encoder_config = AutoConfig.from_pretrained(run.model_args.encoder_of(run.plan.fold))
    config = ShiftConfig.from_variant(options.pop("variant"), encoder_config=encoder_config, **options)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # some initial values are drawn even so
        rehearsal = Rehearsal(
            ShiftForSequenceClassification(config), model_args=run.model_args, data_args=run.corpus.data_args,
            run_args=args, feature_extractor=run.corpus.feature_extractor,
        )  # fmt: skip
    joined = MOST_JOINED if config.frame_labels else 1
    heard = {seconds: rehearsal.speech(seconds) for _, seconds in (*train, *scored)}
    with counting() as count:
        rehearsal.place()
        weights = count.live
        buckets = [torch.empty_like(weight) for weight in rehearsal.weights if args.world_size > 1]  # of DDP
        _add_gradients(rehearsal)
        rehearsal.update()
        for size, seconds in train:
            batch = rehearsal.batch(size, heard[seconds], joined=joined)
            ahead = [value.clone() for value in batch.values()]  # the next batch is read while this one is at work
            if args.gradient_accumulation_steps > 1:
                _add_gradients(rehearsal)
            rehearsal.backward(batch)
            rehearsal.update()
            del ahead
        del batch
        for size, seconds in scored:
            rehearsal.score(rehearsal.batch(size, heard[seconds]))
        del buckets
    return count.peak, weights


def _add_gradients(rehearsal: Rehearsal) -> None:
    """Gradients as an earlier batch leaves them."""
    for weight in rehearsal.weights:
        weight.grad = torch.zeros_like(weight)
