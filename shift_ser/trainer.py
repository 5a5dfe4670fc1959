"""The Trainer with the authors' weight decay and learning rates, and one progress bar for a fold."""

from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm
from transformers import Trainer, TrainerCallback

from .arguments import RunArguments
from .optimization import build_schedule, decay_parameter_names


class ShiftTrainer(Trainer):
    """The stock Trainer with the authors' rules for weight decay and learning rate."""

    args: RunArguments
    lr_scheduler: LRScheduler | None

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """All parameters but vectors and biases."""
        return decay_parameter_names(model)

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        """The published schedule the arguments name, or the stock one."""
        if self.args.schedule == "transformers":
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            batches = len(self.get_train_dataloader())
            self.lr_scheduler = build_schedule(
                self.args.schedule,
                optimizer=optimizer or self.optimizer,
                num_steps=num_training_steps,
                steps_per_epoch=max(1, -(-batches // self.args.gradient_accumulation_steps)),
                warmup_epochs=self.args.warmup_epochs,
                warmup_start=self.args.warmup_learning_rate,
                minimum=self.args.min_learning_rate,
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler


class FoldProgress(TrainerCallback):
    """One progress bar for a fold, in epochs, with the latest loss and scores beside it."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.bar: Any = None
        self.seen: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar on the main process."""
        hidden = args.disable_tqdm or not state.is_world_process_zero
        self.bar = tqdm(total=round(state.num_train_epochs), desc=self.title, unit="epoch", disable=hidden)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Show the numbers that were just logged."""
        names = {"loss": "loss", "eval_wa": "WA", "eval_ua": "UA"}
        self.seen |= {short: f"{logs[name]:.3f}" for name, short in names.items() if logs and name in logs}
        if self.bar is not None:
            self.bar.set_postfix(self.seen)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar to where training is, also after resuming."""
        self.bar.update(round(state.epoch) - self.bar.n)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        self.bar.close()
