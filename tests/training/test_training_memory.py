"""What training takes of memory, counted from shapes, against trainings that run, and what is said of it."""

import logging
import random

import numpy as np
import pytest
import torch

from shift_ser.memory import LiveBytes
from shift_ser.model.modeling_shift_ser import ShiftModel
from shift_ser.training import memory
from shift_ser.training.batching import LengthBatches
from shift_ser.training.memory import largest_batches, tell_memory, training_bytes

FINE = "--scenario fine_tuning --max_seconds 0.5"
WAYS = {
    "frozen, Shiftformer": "",
    "frozen, ShiftLSTM, long batches": "--variant shiftlstm --max_batch_seconds 20",
    "fine-tuned, ShiftCNN": f"{FINE} --variant shiftcnn",
    "fine-tuned, checkpointed": f"{FINE} --activation_checkpointing true",
    "kept convolutions, LoRA, bf16": f"{FINE} --cache_convolutions true --adapter lora --bf16 true",
}


@pytest.fixture
def fold_of(cross_validate, tmp_path):
    """A new fold of one epoch."""
    epoch = ("--folds", 1, "--num_train_epochs", 1)
    return lambda *flags: cross_validate(tmp_path / "out", *epoch, *flags).fold_runs[0]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft asks for it
@pytest.mark.parametrize("way", WAYS)
def test_a_training_counted_without_values_equals_one_that_runs(way, fold_of):
    """Loading, steps, scoring and saving included; SpecAugment, which is not counted, is the difference."""
    fold = fold_of(*WAYS[way].split())
    train, scored = largest_batches([fold])
    peak, weights = training_bytes(fold, train=train, scored=scored)
    with LiveBytes() as ran:
        result = fold.run()
    assert peak == pytest.approx(ran.peak, rel=0.05)
    if "--adapter" not in WAYS[way]:  # those are merged at the end
        assert weights == pytest.approx(4 * result["cost"]["parameters"], rel=1e-3)


@pytest.mark.parametrize("way", [{"batch_size": 7}, {"max_batch_seconds": 40.0}], ids=str)
def test_no_batch_that_is_drawn_is_larger_than_the_largest(way):
    seconds = np.random.default_rng(0).gamma(2.0, 2.0, size=300).clip(0.5, 15)
    batches = LengthBatches(seconds, **way)
    drawn = [
        (len(batch), seconds[batch].max()) for epoch in range(3) if not batches.set_epoch(epoch) for batch in batches
    ]
    for power in (1, 2):
        most, seen = (max(count * longest**power for count, longest in sizes) for sizes in (batches.sizes, drawn))
        assert seen <= most <= 1.3 * seen


def test_the_largest_batches_are_those_of_all_parts_that_are_trained_on(fold_of):
    """A refit trains on the validation set as well, the final model on all."""
    for option in (None, "refit", "final"):
        fold = fold_of()
        if option is not None:
            setattr(fold.run_args, option, True)
        length = {name: recording.num_samples / 16000 for name, recording in fold.corpus.recordings.items()}
        plan = fold.plan
        trained = {None: plan.train, "refit": (*plan.train, *plan.validation), "final": length}[option]
        train, scored = largest_batches([fold])
        assert train == [(8, max(length[name] for name in trained))]
        assert scored == [(8, max(length[name] for name in (*plan.validation, *plan.test)))]


def test_what_is_needed_is_told_with_what_is_there_and_warned_of_where_it_is_more(fold_of, caplog, monkeypatch):
    fold = fold_of()
    states = [torch.get_rng_state(), np.random.get_state()[1], torch.tensor(random.getstate()[1])]
    caplog.set_level(logging.INFO, logger=memory.__name__)
    for free, level in ((10**12, logging.INFO), (10**6, logging.WARNING)):
        monkeypatch.setattr(memory, "free_memory", lambda device, free=free: free)
        caplog.clear()
        tell_memory([fold])
        (told,) = caplog.records
        assert told.levelno == level and "GB" in told.message and "8 x 2.8 s" in told.message
    for lever in ("per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "bf16",
                  "max_batch_seconds", "max_seconds"):  # fmt: skip
        assert lever in told.message
    after = [torch.get_rng_state(), np.random.get_state()[1], torch.tensor(random.getstate()[1])]
    assert all(np.array_equal(one, other) for one, other in zip(states, after, strict=True))


def test_a_model_that_asks_for_a_value_is_trained_without_a_count(fold_of, caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger=memory.__name__)
    mask = ShiftModel.frame_mask
    monkeypatch.setattr(ShiftModel, "frame_mask", lambda *a, **o: None if (m := mask(*a, **o)).all() else m)
    fold = fold_of()
    tell_memory([fold])
    assert "could not be counted" in caplog.text and fold.expected_memory_mb is None
    assert fold.run()["cost"]["expected_memory_mb"] is None
