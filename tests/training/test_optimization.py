import itertools
import math

import pytest
import torch
from conftest import CASES, golden_model, tiny_model
from torch import nn
from torch.utils.data import Dataset
from transformers import TrainerCallback

from shift_ser.model.heads import variants
from shift_ser.model.losses import classification_loss, concordance
from shift_ser.training.arguments import RunArguments
from shift_ser.training.batching import DataCollatorForShift
from shift_ser.training.optimization import build_schedule, cosine_rate, decay_parameter_names, finetuning_rate
from shift_ser.training.trainer import FoldProgress, ShiftTrainer

COSINE = {"base": 5e-4, "num_steps": 24, "warmup_steps": 8, "warmup_start": 5e-7, "minimum": 5e-6}


class Noise(Dataset):
    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return {"encoder_hidden_states": torch.randn(3 + index % 4, 24, generator=generator), "labels": index % 4}


def make_trainer(folder, *, size=20, callbacks=(), weighted=False, **options) -> ShiftTrainer:
    if options.get("schedule") != "transformers":
        options = {"warmup_epochs": 1, **options}
    arguments = RunArguments(
        **{
            "output_dir": str(folder), "use_cpu": True, "disable_tqdm": True, "report_to": "none",
            "protocol": "authors", "num_train_epochs": 2, "per_device_train_batch_size": 4, "optim": "adamw_torch",
            "learning_rate": 5e-4, "weight_decay": 0.05, "schedule": "authors_cosine", **options,
        }
    )  # fmt: skip
    arguments.eval_strategy = arguments.save_strategy = "no"
    model = tiny_model(use_weighted_layer_sum=True) if weighted else golden_model("shiftformer")[0]
    model.shift_ser.encoder = None
    return ShiftTrainer(
        model=model, args=arguments, train_dataset=Noise(size), data_collator=DataCollatorForShift(),
        callbacks=list(callbacks),
    )  # fmt: skip


def test_authors_curve_by_their_own_loop():
    rates, rate = [], COSINE["warmup_start"]  # the rate that is set before the first step
    for step in range(24):
        rates.append(rate)
        if step < 8:
            rate = 5e-7 + step * (5e-4 - 5e-7) / 8
        else:
            rate = 5e-6 + (5e-4 - 5e-6) * (1 + math.cos(math.pi * step / 24)) / 2
    assert [cosine_rate(step, **COSINE) for step in range(24)] == pytest.approx(rates, rel=1e-12)


def test_cosine_ends_at_the_minimum_and_stays_there():
    assert cosine_rate(25, **COSINE) == cosine_rate(99, **COSINE) == pytest.approx(5e-6)
    assert max(cosine_rate(step, **COSINE) for step in range(40)) < COSINE["base"]


def test_finetuning_rate_is_constant_in_an_epoch_and_goes_through_its_three_parts():
    options = {"base": 1.0, "num_steps": 40, "steps_per_epoch": 4, "warmup_steps": 2}
    epochs = [finetuning_rate(4 * epoch, **options) for epoch in range(50)]
    assert epochs[:5] == [0.0, 0.5, 1.0, 1.0, 1.0]
    assert epochs[20] == pytest.approx(20 / 36) and epochs[40:] == [0.0] * 10
    for step in range(200):
        assert finetuning_rate(step, **options) == epochs[step // 4]


@pytest.mark.parametrize("batches", [139, 144])
def test_published_finetuning_rates(batches):
    options = {"base": 5e-4, "num_steps": 100 * batches, "steps_per_epoch": batches, "warmup_steps": 5 * batches}
    rates = [finetuning_rate(epoch * batches, **options) for epoch in range(100)]
    assert rates == CASES[f"finetune_lr_per_epoch.{batches}"]


@pytest.mark.parametrize("name", ["authors_cosine", "authors_finetuning"])
def test_schedule_state_can_be_taken_up(name):
    def build():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=5e-4)
        return build_schedule(
            name, optimizer=optimizer, num_steps=40, steps_per_epoch=4, warmup_epochs=1, warmup_start=5e-7, minimum=5e-6
        )

    def rates(schedule, steps):
        taken = []
        for _ in range(steps):
            taken.append(schedule.get_last_lr()[0])
            schedule.optimizer.step()
            schedule.step()
        return taken

    whole, first, second = build(), build(), build()
    expected = rates(whole, 40)
    start = rates(first, 13)
    second.load_state_dict(first.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    assert start + rates(second, 27) == expected


@pytest.mark.parametrize("variant", variants())
def test_vectors_and_biases_do_not_decay(variant):
    model = tiny_model(variant, freeze_encoder=False, use_weighted_layer_sum=True)
    decay = set(decay_parameter_names(model))
    for name, value in model.named_parameters():
        assert (name in decay) == (value.ndim >= 2 and not name.endswith("bias")), name
    assert "shift_ser.masked_spec_embed" not in decay and "shift_ser.layer_weights" not in decay
    assert "classifier.weight" in decay
    square = nn.ParameterDict({"weight": torch.ones(2, 2), "bias": torch.ones(2, 2)})
    assert decay_parameter_names(nn.ModuleDict({"layer": square})) == ["layer.weight"]


@pytest.mark.parametrize("weighted", [False, True])
def test_trainer_groups_parameters_and_takes_the_schedule(weighted, tmp_path):
    """The weights of the sum over layers are a vector whose name says nothing of norms or biases."""
    trainer = make_trainer(tmp_path, weighted=weighted)
    trainer.create_optimizer()
    decay, rest = trainer.optimizer.param_groups
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.05, 0.0)
    assert all(value.ndim >= 2 for value in decay["params"]) and all(value.ndim == 1 for value in rest["params"])
    schedule = trainer.create_scheduler(num_training_steps=10)
    assert schedule is trainer.lr_scheduler is trainer.create_scheduler(num_training_steps=10)
    options = {"base": 5e-4, "num_steps": 10, "warmup_steps": 5, "warmup_start": 5e-7, "minimum": 5e-6}
    factor = schedule.lr_lambdas[0]
    assert [5e-4 * factor(step) for step in range(10)] == pytest.approx([cosine_rate(s, **options) for s in range(10)])


@pytest.mark.parametrize(("value", "told"), [(float("-inf"), "inf"), (float("nan"), "nan")])
def test_a_loss_that_is_not_finite_ends_the_training(value, told, tmp_path):
    trainer = make_trainer(tmp_path, size=4)
    trainer.model.classifier.bias.data[0] = value  # one of the four utterances has this label
    with pytest.raises(FloatingPointError, match=f"loss must be finite, got {told} in epoch 1, step 1"):
        trainer.train()


class Weights(TrainerCallback):
    """The classifier's bias after each step."""

    def __init__(self):
        self.seen = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.seen.append(model.classifier.bias.detach().clone())


@pytest.mark.parametrize("overflow", [float("inf"), float("nan")])
def test_an_overflow_under_a_loss_scaler_costs_one_step_and_not_the_training(overflow, tmp_path):
    weights = Weights()
    trainer = make_trainer(tmp_path, size=16, num_train_epochs=1, callbacks=[weights], warmup_epochs=0)
    steps = iter(range(4))
    trainer.model.classifier.bias.register_hook(lambda gradient: gradient * (overflow if next(steps) == 1 else 1))
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu")  # as fp16 makes it where there is a GPU
    trainer.train()
    assert trainer.state.global_step == 4
    moved = [not torch.equal(before, after) for before, after in itertools.pairwise(weights.seen)]
    assert moved == [False, True, True]
    assert all(value.isfinite().all() for value in trainer.model.parameters())


def test_an_evaluation_takes_no_random_number_from_the_training(tmp_path):
    """Also where the model draws while it is evaluated, as LayerDrop in encoders does."""
    trainer = make_trainer(tmp_path)
    trainer.model.register_forward_hook(lambda *_: torch.rand(1) and None)
    before = torch.get_rng_state()
    trainer.evaluate(Noise(6))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("size", "accumulation", "steps_per_epoch"), [(20, 1, 5), (21, 1, 6), (21, 4, 2), (3, 4, 1)])
def test_epochs_are_counted_in_optimizer_steps(tmp_path, size, accumulation, steps_per_epoch):
    trainer = make_trainer(
        tmp_path, size=size, schedule="authors_finetuning", gradient_accumulation_steps=accumulation, num_train_epochs=3
    )
    trainer.train()
    assert trainer.state.global_step == 3 * steps_per_epoch
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert len(rates) == 3
    options = {"base": 5e-4, "num_steps": 3 * steps_per_epoch, "steps_per_epoch": steps_per_epoch}
    last = [finetuning_rate((e + 1) * steps_per_epoch - 1, **options, warmup_steps=steps_per_epoch) for e in range(3)]
    assert rates == pytest.approx(last)


def test_a_training_that_stops_early_has_the_schedule_of_the_whole_one(tmp_path):
    whole, short = make_trainer(tmp_path, num_train_epochs=6), make_trainer(tmp_path, num_train_epochs=1)
    short.schedule_epochs = 6
    taken = []
    for trainer, steps in ((whole, 30), (short, 5)):
        trainer.create_optimizer()
        schedule = trainer.create_scheduler(num_training_steps=steps)
        taken.append([])
        for _ in range(12):
            taken[-1].append(schedule.get_last_lr()[0])
            trainer.optimizer.step()
            schedule.step()
    assert taken[0] == taken[1] and len(set(taken[0])) > 10


def test_a_second_training_has_a_schedule_of_its_own(tmp_path):
    trainer = make_trainer(tmp_path, num_train_epochs=1)
    trainer.train()
    first = trainer.lr_scheduler
    trainer.train()
    assert trainer.lr_scheduler is not first and trainer.lr_scheduler.last_epoch == first.last_epoch == 5
    factors = [[schedule.lr_lambdas[0](step) for step in range(6)] for schedule in (first, trainer.lr_scheduler)]
    assert factors[0] == factors[1] and first.base_lrs == trainer.lr_scheduler.base_lrs


def test_half_an_epoch_counts_in_the_length_of_a_schedule(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.schedule_epochs = 1.5  # of 5 steps: 8 in all
    trainer.create_optimizer()
    factor = trainer.create_scheduler(num_training_steps=99).lr_lambdas[0]
    options = {"base": 5e-4, "num_steps": 8, "warmup_steps": 5, "warmup_start": 5e-7, "minimum": 5e-6}
    assert [5e-4 * factor(step) for step in range(9)] == pytest.approx([cosine_rate(s, **options) for s in range(9)])


def batch_of(count):
    return DataCollatorForShift()([Noise(count)[row] for row in range(count)])


@pytest.mark.parametrize(
    ("options", "weights"),
    [({}, None), ({}, [1.0, 2.0, 0.5, 3.0]), ({"label_smoothing_factor": 0.1}, None), ({"focal_gamma": 0.5}, None),
     ({"label_smoothing_factor": 0.2, "focal_gamma": 1.5}, [1.0, 2.0, 0.5, 3.0])],
)  # fmt: skip
def test_the_loss_of_training_has_each_of_its_options_and_that_of_an_evaluation_smoothing_alone(
    options, weights, tmp_path
):
    trainer = make_trainer(tmp_path, **options)
    weights = None if weights is None else torch.tensor(weights)
    trainer = ShiftTrainer(
        model=trainer.model, args=trainer.args, train_dataset=Noise(20), data_collator=DataCollatorForShift(),
        class_weights=weights,
    )  # fmt: skip
    batch = batch_of(6)
    with torch.no_grad():
        logits = trainer.model(**{name: value for name, value in batch.items() if name != "labels"}).logits
        found = trainer.compute_loss(trainer.model, dict(batch))
    smoothing, gamma = (options.get(name, 0.0) for name in ("label_smoothing_factor", "focal_gamma"))
    shares = nn.functional.one_hot(batch["labels"], 4) * (1 - smoothing) + smoothing / 4
    logs, weight = logits.log_softmax(-1), torch.ones(4) if weights is None else weights
    plain = -(weight * shares * (1 - logs.exp()) ** gamma * logs).sum() / weight[batch["labels"]].sum()
    torch.testing.assert_close(found, plain)
    scored = [trainer.predict(Noise(6)).metrics["test_loss"], trainer.evaluate(Noise(6))["eval_loss"]]
    assert scored == pytest.approx([float(-(shares * logs).sum() / 6)] * 2, abs=1e-6)


def test_a_mixed_batch_counts_by_its_share_of_the_step(tmp_path):
    trainer = make_trainer(tmp_path, mixup_alpha=0.4)
    batch = batch_of(6)
    batch["labels"] = torch.full((6, 4), 0.25)
    with torch.no_grad():
        logits = trainer.model(**{name: value for name, value in batch.items() if name != "labels"}).logits
        found = [float(trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=n)) for n in (None, 6, 24)]
    plain = float(-logits.log_softmax(-1).mean())
    assert found == pytest.approx([plain, plain, plain / 4])


@pytest.mark.parametrize("problem_type", ["soft_label_classification", "multi_task"])
def test_the_loss_of_training_is_that_of_the_problem(problem_type, tmp_path):
    dimensions = ["valence"] if problem_type == "multi_task" else None
    names = dict(enumerate(["angry", "happy", "sad", "valence" if dimensions else "calm"]))
    model = tiny_model("linear", problem_type=problem_type, dimensions=dimensions, id2label=names)
    model.shift_ser.encoder = None
    arguments = make_trainer(tmp_path, focal_gamma=2.0).args
    trainer = ShiftTrainer(model=model, args=arguments, train_dataset=Noise(4), data_collator=DataCollatorForShift())
    generator = torch.Generator().manual_seed(1)
    inputs = {"encoder_hidden_states": torch.randn(6, 5, 96, generator=generator),
              "attention_mask": torch.ones(6, 5, dtype=torch.long)}  # fmt: skip
    labels = torch.rand(6, 4, generator=generator)
    with torch.no_grad():
        outputs = model(**inputs).logits
        found = trainer.compute_loss(model, {**inputs, "labels": labels})
    logits, shares = (outputs[:, :3], labels[:, :3]) if dimensions else (outputs, labels)
    expected = classification_loss(logits, shares, focal_gamma=2.0)
    if dimensions:
        expected = expected + 1 - concordance(outputs[:, 3:], labels[:, 3:]).mean()
    torch.testing.assert_close(found, expected)


def test_an_epoch_of_less_than_a_batch_has_a_step(tmp_path):
    trainer = make_trainer(tmp_path, size=3, schedule="authors_finetuning", dataloader_drop_last=True)
    trainer.create_optimizer()
    assert len(trainer.get_train_dataloader()) == 0 and trainer.create_scheduler(2).get_last_lr() == [0, 0]


def test_stock_schedule(tmp_path):
    trainer = make_trainer(tmp_path, schedule="transformers", lr_scheduler_type="constant")
    trainer.create_optimizer()
    assert trainer.create_scheduler(num_training_steps=10).get_last_lr() == [5e-4, 5e-4]


def test_progress_bar_of_a_fold(tmp_path, capsys):
    progress = FoldProgress("fold 1/5")
    trainer = make_trainer(tmp_path, callbacks=[progress], num_train_epochs=3)
    trainer.args.disable_tqdm = False
    trainer.train()
    assert progress.bar.total == progress.bar.n == 3 and set(progress.seen) == {"loss"}
    assert "fold 1/5: 100%" in capsys.readouterr().err
    resumed = FoldProgress("fold 1/5")
    resumed.on_train_begin(trainer.args, trainer.state, None)
    trainer.state.epoch = 1.98  # of a training that was stopped in the third epoch
    resumed.on_epoch_end(trainer.args, trainer.state, None)
    assert resumed.bar.n == 2
    trainer.args.disable_tqdm = True
    hidden = make_trainer(tmp_path, callbacks=[FoldProgress("hidden")], num_train_epochs=1)
    hidden.train()
    assert "hidden" not in capsys.readouterr().err
    silent = FoldProgress("fold 1/5")
    silent.on_log(None, None, None)
    assert silent.seen == {}
    silent.on_log(None, None, None, logs={"eval_validation_wa": 0.51239, "eval_test_ua": 0.5})
    assert silent.seen == {"validation WA": "0.512"}
