"""The authors' numbers: what their code computes and how it trains, from our code."""

import pytest
import torch
from conftest import CASES, GOLDEN_HEADS, golden_model
from torch.utils.data import Dataset
from transformers import TrainerCallback

from shift_ser.training.arguments import RunArguments
from shift_ser.training.batching import DataCollatorForShift
from shift_ser.training.optimization import build_schedule
from shift_ser.training.trainer import ShiftTrainer


class Examples(Dataset):
    def __init__(self, frames, labels):
        self.frames, self.labels = frames, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"encoder_hidden_states": self.frames[index], "labels": self.labels[index]}


class Recorder(TrainerCallback):
    """Gradient norm and learning rate of every step, unrounded."""

    def __init__(self):
        self.rates, self.norms = [], []

    def on_pre_optimizer_step(self, args, state, control, optimizer, **kwargs):
        self.rates.append([group["lr"] for group in optimizer.param_groups])

    def on_log(self, args, state, control, logs, **kwargs):
        if "grad_norm" in logs:
            self.norms.append(logs["grad_norm"])


class RecordingTrainer(ShiftTrainer):
    """Keeps every loss, unrounded, and scores nothing."""

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        self.losses = [*getattr(self, "losses", []), loss.item()]
        return loss


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", GOLDEN_HEADS)
def test_logits_and_input_gradients(name, masked):
    model, tensors = golden_model(name)
    frames = tensors["input"].clone().requires_grad_()
    mask = torch.ones(frames.shape[:2], dtype=torch.long) if masked else None
    logits = model(encoder_hidden_states=frames, attention_mask=mask).logits
    logits.square().sum().backward()
    torch.testing.assert_close(logits.detach(), tensors["logits"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(frames.grad, tensors["grad_input"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", GOLDEN_HEADS)
def test_learning_curve(tmp_path, name):
    recipe = CASES[name]["train"]
    model, tensors = golden_model(name)
    model.shift_ser.encoder = None
    frames, labels = tensors["train.features"], tensors["train.labels"]
    recorder = Recorder()
    arguments = RunArguments(
        output_dir=str(tmp_path), use_cpu=True, disable_tqdm=True, report_to="none", protocol="authors",
        optim="adamw_torch_fused", learning_rate=5e-4, weight_decay=0.05, schedule="authors_cosine",
        warmup_epochs=recipe["warmup_epochs"], num_train_epochs=recipe["epochs"],
        per_device_train_batch_size=recipe["batch_size"], train_sampling_strategy="sequential",
        max_grad_norm=recipe["clip_grad_norm"], logging_steps=1, logging_strategy="steps",
    )  # fmt: skip
    arguments.eval_strategy = arguments.save_strategy = "no"
    trainer = RecordingTrainer(
        model=model, args=arguments, train_dataset=Examples(frames, labels), data_collator=DataCollatorForShift(),
        callbacks=[recorder],
    )  # fmt: skip
    trainer.train()

    close = {"rtol": 1e-4, "atol": 0}
    torch.testing.assert_close(torch.tensor(trainer.losses), tensors["train.losses"], **close)
    torch.testing.assert_close(torch.tensor(recorder.norms), tensors["train.grad_norms"], **close)
    rates = torch.tensor(recorder.rates, dtype=torch.double)
    assert rates.shape == (24, 2)
    for group in rates.T:
        torch.testing.assert_close(group.float(), tensors["train.lrs"], rtol=2e-7, atol=0)
    for part in ("weight", "bias"):
        trained = getattr(model.classifier, part).detach()
        torch.testing.assert_close(trained, tensors[f"trained.head.{part}"], rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("batches", [139, 144])
def test_finetuning_rates_are_exact(batches):
    expected = CASES[f"finetune_lr_per_epoch.{batches}"]
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=5e-4)
    schedule = build_schedule(
        "authors_finetuning", optimizer=optimizer, num_steps=100 * batches, steps_per_epoch=batches, warmup_epochs=5,
        warmup_start=5e-7, minimum=5e-6,
    )  # fmt: skip
    rates = []
    for _ in range(100 * batches):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert [rates[epoch * batches] for epoch in range(100)] == expected
    assert all(rate == expected[step // batches] for step, rate in enumerate(rates))
