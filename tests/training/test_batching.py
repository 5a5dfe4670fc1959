import itertools

import numpy as np
import pytest
import torch
from conftest import tiny_encoder_config, tiny_model
from transformers import set_seed
from transformers.trainer_callback import PrinterCallback

from shift_ser import ShiftFeatureExtractor
from shift_ser.training.arguments import RunArguments
from shift_ser.training.batching import DataCollatorForShift, LengthBatches
from shift_ser.training.feature_cache import FrameDataset, encode_dataset
from shift_ser.training.trainer import ShiftTrainer

WIDE = {"conv_dim": (32, 32, 32)}  # oneDNN gets bfloat16 convolutions of 16 channels wrong at some lengths
SHORT = {"num_train_epochs": 1}
WAYS = [{"batch_size": 32}, {"max_batch_seconds": 144.0}]


def lengths(count: int = 3300, seed: int = 0) -> np.ndarray:
    """Seconds spread like IEMOCAP's: mean 4.5, cut at 7.5."""
    return np.random.default_rng(seed).gamma(2.0, 2.27, size=count).clip(0.6, 7.5)


def padding(batches, seconds) -> float:
    """Share of padding in batches."""
    return 1 - seconds.sum() / sum(len(batch) * seconds[batch].max() for batch in batches)


def epoch_of(batches: LengthBatches, epoch: int) -> list[list[int]]:
    batches.set_epoch(epoch)
    return list(batches)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_every_utterance_once_an_epoch_in_the_same_number_of_batches(way):
    for count in (1, 31, 33, 64, 500, 1601):
        seconds = lengths(count)
        batches = LengthBatches(seconds, **way)
        for epoch in range(3):
            drawn = epoch_of(batches, epoch)
            assert len(drawn) == len(batches)
            assert sorted(itertools.chain(*drawn)) == list(range(count))
            for batch in drawn:
                assert len(batch) <= way.get("batch_size", count)
                assert len(batch) * seconds[batch].max() <= way.get("max_batch_seconds", np.inf)


@pytest.mark.parametrize(("way", "most"), [(WAYS[0], 0.05), (WAYS[1], 0.05)], ids=str)
def test_little_of_a_batch_is_padding(way, most):
    seconds = lengths()
    shuffled = np.array_split(np.random.default_rng(0).permutation(len(seconds)), len(seconds) // 32)
    assert padding(shuffled, seconds) > 0.4
    assert padding(LengthBatches(seconds, **way), seconds) < most


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_an_epoch_is_shuffled_anew_and_the_same_again_for_its_number_and_seed(way):
    seconds = lengths(1000)
    first, second = epoch_of(LengthBatches(seconds, **way), 0), epoch_of(LengthBatches(seconds, **way), 1)
    assert epoch_of(LengthBatches(seconds, **way), 1) == second
    assert epoch_of(LengthBatches(seconds, seed=1, **way), 0) != first
    together = [
        {frozenset(pair) for batch in epoch for pair in itertools.combinations(batch, 2)} for epoch in (first, second)
    ]
    assert len(together[0] & together[1]) < 0.5 * len(together[0])
    longest = [seconds[batch].max() for batch in first]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.5  # no order from long to short


@pytest.mark.parametrize("way", [{"batch_size": 4}, {"max_batch_seconds": 30.0}], ids=str)
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_a_batch_and_see_each_utterance_once(way, processes):
    for count in (40, 41, 42, 43):
        whole = list(LengthBatches(lengths(count), **way))
        shares = [
            list(LengthBatches(lengths(count), num_processes=processes, process_index=index, **way))
            for index in range(processes)
        ]
        for batch, *parts in zip(whole, *shares, strict=True):
            assert all(parts) and max(map(len, parts)) - min(map(len, parts)) <= 1
            once = len(batch) >= processes  # else no process may be without an utterance
            assert sorted(itertools.chain(*parts)) == sorted(batch) if once else {*itertools.chain(*parts)} == {*batch}
    lonely = [list(LengthBatches([1.0] * 3, batch_size=2, num_processes=2, process_index=index)) for index in range(2)]
    assert {len(batch) for share in lonely for batch in share} == {1}
    assert set(itertools.chain(*itertools.chain(*lonely))) == {0, 1, 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give batch_size or max_batch_seconds, one of them, got None and None"),
        ({"batch_size": 2, "max_batch_seconds": 9.0}, "got 2 and 9.0"),
        ({"batch_size": 0}, "batch_size must be at least the number of processes 1, got 0"),
        ({"batch_size": 1, "num_processes": 2}, "number of processes 2, got 1"),
        (
            {"max_batch_seconds": 2.9},
            r"must be at least the longest utterance's, 3\.00, times the 1 processes, got 2\.9",
        ),
        ({"max_batch_seconds": 5.0, "num_processes": 2}, "times the 2 processes, got 5.0"),
        ({"max_batch_seconds": float("nan")}, "got nan"),
        ({"batch_size": 9, "num_processes": 4}, "an utterance for each process, got 3 for 4"),
    ],
)
def test_impossible_batches_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LengthBatches([1.0, 2.0, 3.0], **options)


# In the Trainer


class Waveforms(torch.utils.data.Dataset):
    """Noise of many lengths, with the row's number as its label, and a note of what was asked for."""

    def __init__(self, count: int = 21) -> None:
        generator = np.random.default_rng(0)
        extractor = ShiftFeatureExtractor()
        self.samples = [generator.integers(800, 6000) for _ in range(count)]
        self.seconds = [samples / 16000 for samples in self.samples]
        self.audio = [generator.normal(size=samples).astype(np.float32) for samples in self.samples]
        self.values = [extractor(audio, sampling_rate=16000)["input_values"][0] for audio in self.audio]
        self.seen: list[int] = []

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> dict:
        self.seen.append(index)
        return {"input_values": self.values[index], "labels": index % 4}

    def cached(self, model, folder, **options) -> FrameDataset:
        names = [f"utterance{row}" for row in range(len(self))]
        audio = [{"array": array, "sampling_rate": 16000} for array in self.audio]
        encoder, extractor = model.shift_ser.encoder, ShiftFeatureExtractor()
        cache = encode_dataset(
            encoder, {"utterance": names, "audio": audio}, feature_extractor=extractor, cache_dir=folder, **options
        )
        return FrameDataset(cache, names, [row % 4 for row in range(len(self))], seconds=self.seconds)


def make_trainer(model, dataset, folder, **options) -> ShiftTrainer:
    settings = {
        "output_dir": str(folder), "num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-3,
        "per_device_eval_batch_size": 4, "disable_tqdm": True, "report_to": "none", "logging_strategy": "steps",
        "logging_steps": 1,
    }  # fmt: skip
    arguments = RunArguments(**{**settings, **options})
    arguments.eval_strategy = arguments.save_strategy = "no"
    trainer = ShiftTrainer(model=model, args=arguments, train_dataset=dataset, data_collator=DataCollatorForShift())
    trainer.remove_callback(PrinterCallback)
    return trainer


def losses(model, dataset, folder, **options) -> list[float]:
    set_seed(0)
    trainer = make_trainer(model, dataset, folder, **options)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


TRAINER_WAYS = {"sizes": {"train_sampling_strategy": "group_by_length"}, "seconds": {"max_batch_seconds": 1.5}}


@pytest.mark.parametrize("way", TRAINER_WAYS.values(), ids=TRAINER_WAYS)
def test_the_trainer_takes_batches_of_like_length_and_the_same_after_a_resume(way, tmp_path):
    model, whole = tiny_model("linear"), Waveforms()
    losses(model, whole, tmp_path, **way)
    assert sorted(whole.seen[:21]) == sorted(whole.seen[21:]) == list(range(21))
    assert whole.seen[:21] != whole.seen[21:]
    again = Waveforms()
    trainer = make_trainer(tiny_model("linear"), again, tmp_path, **way)
    steps = len(trainer.get_train_dataloader())
    assert steps == {"train_sampling_strategy": 6}.get(next(iter(way)), steps) > 2
    trainer.args.save_strategy, trainer.args.save_steps, trainer.args.max_steps = "steps", 1, steps + 2
    trainer.train()
    again.seen.clear()
    later = make_trainer(tiny_model("linear"), again, tmp_path, **way)
    later.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{steps + 1}"))
    batches = LengthBatches(
        again.seconds, batch_size=None if "max_batch_seconds" in way else 4,
        max_batch_seconds=way.get("max_batch_seconds"), seed=later.args.seed,
    )  # fmt: skip
    assert again.seen == list(itertools.chain(*epoch_of(batches, 1)[1:])) == whole.seen[-len(again.seen) :]


def test_the_order_of_batches_is_drawn_by_the_seed_of_the_data_where_there_is_one(tmp_path):
    data, way = Waveforms(), TRAINER_WAYS["sizes"]
    for seeds, drawn in (({"seed": 5}, 5), ({"seed": 5, "data_seed": 0}, 0), ({"seed": 0, "data_seed": 5}, 5)):
        sampler = (
            make_trainer(tiny_model("linear"), data, tmp_path, **way, **seeds).get_train_dataloader().batch_sampler
        )
        assert list(sampler) == list(LengthBatches(data.seconds, batch_size=4, seed=drawn))


def test_predictions_come_longest_first_and_are_back_in_order(tmp_path):
    model, dataset = tiny_model("shiftcnn"), Waveforms()
    trainer = make_trainer(model, None, tmp_path)
    output = trainer.predict(dataset)
    assert dataset.seen == sorted(range(21), key=lambda row: -dataset.seconds[row])
    assert output.label_ids.tolist() == [row % 4 for row in range(21)]
    with torch.no_grad():
        alone = [model(torch.from_numpy(values)[None]).logits[0].numpy() for values in dataset.values]
    assert np.abs(output.predictions - np.stack(alone)).max() < 1e-5
    assert trainer.evaluate(dataset)["eval_loss"] == pytest.approx(output.metrics["test_loss"], abs=1e-6)


class Unlabelled(Waveforms):
    """The same noise, of which nobody knows the labels."""

    def __getitem__(self, index: int) -> dict:
        return {"input_values": super().__getitem__(index)["input_values"]}


def test_what_has_no_labels_is_predicted_and_not_scored(tmp_path):
    trainer = make_trainer(tiny_model("shiftcnn"), None, tmp_path)
    output, labelled = trainer.predict(Unlabelled()), trainer.predict(Waveforms())
    assert output.label_ids is None and not {"test_loss", "test_ua"} & output.metrics.keys()
    np.testing.assert_array_equal(output.predictions, labelled.predictions)


@pytest.mark.parametrize("layer", [None, 1])
def test_training_from_cached_frames_has_the_losses_of_training_without(layer, tmp_path):
    def model():
        return tiny_model("shiftformer", encoder_layer=layer, encoder_config=tiny_encoder_config(**WIDE))

    output = "last" if layer is None else layer
    dataset = Waveforms()
    expected = losses(model(), dataset, tmp_path, **SHORT)
    assert len(expected) == 6
    cached = losses(model(), dataset.cached(model(), tmp_path, output=output), tmp_path, **SHORT)
    assert cached == pytest.approx(expected, abs=1e-5)
    for dtype, bound in (("float16", 2e-3), ("bfloat16", 1e-2)):
        coarse = dataset.cached(model(), tmp_path, output=output, dtype=dtype, encoder_dtype="bfloat16")
        assert losses(model(), coarse, tmp_path, **SHORT) == pytest.approx(expected, abs=2 * bound + 1e-2)
        coarse = dataset.cached(model(), tmp_path, output=output, dtype=dtype)
        assert losses(model(), coarse, tmp_path, **SHORT) == pytest.approx(expected, abs=bound)
        assert losses(model(), coarse, tmp_path, bf16=True, **SHORT) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("model_type", ["hubert", "data2vec-audio"])
def test_fine_tuning_from_cached_convolutions_has_the_losses_of_fine_tuning_without(model_type, tmp_path):
    def model():
        config = tiny_encoder_config(model_type, feat_extract_norm="group", do_stable_layer_norm=False, **WIDE)
        return tiny_model("shiftformer", freeze_encoder=False, encoder_config=config)

    dataset = Waveforms()
    expected = losses(model(), dataset, tmp_path, **SHORT)
    cached = dataset.cached(model(), tmp_path, output="convolutions")
    assert losses(model(), cached, tmp_path, **SHORT) == pytest.approx(expected, abs=1e-4)
    checkpointing = {"activation_checkpointing": True, **SHORT}
    for data in (dataset, cached):
        assert losses(model(), data, tmp_path, **checkpointing) == pytest.approx(expected, abs=1e-4)
        mixed = losses(model(), data, tmp_path, bf16=True, **SHORT)
        assert mixed[:3] == pytest.approx(expected[:3], abs=0.02)
