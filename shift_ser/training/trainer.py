"""The Trainer with the authors' weight decay and learning rates, and one progress bar for a fold."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput, rotate_checkpoints

from ..evaluation.metrics import score_of
from ..model.losses import PROBLEM_TYPES, classification_loss, labelled_frames, problem_loss
from .arguments import RunArguments
from .augmentation import mix_up
from .batching import BalancedSampler, LengthBatches
from .checkpoints import is_whole, seal
from .optimization import build_schedule, decay_parameter_names
from .targets import Targets


class ShiftTrainer(Trainer):
    """The stock Trainer with the authors' rules for weight decay and learning rate, and stricter about what goes wrong.

    Args:
        schedule_epochs: Length of the learning rate's schedule; default: `num_train_epochs`. A longer one is that of a
            training that stops before its end.
        targets: Scores what the model says of utterances; default: `compute_metrics` does.
        class_weights: Weight of each class in the loss of training, shape `(classes,)`; default: all are 1.
        options: The Trainer's own.
    """

    args: RunArguments
    lr_scheduler: LRScheduler | None

    def __init__(
        self,
        *,
        schedule_epochs: float | None = None,
        targets: Targets | None = None,
        class_weights: torch.Tensor | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.schedule_epochs, self.targets, self.class_weights = schedule_epochs, targets, class_weights
        self.label_smoother = None  # the loss itself smooths, distributions as well
        options_of_loss = (self.args.focal_gamma, self.args.label_smoothing_factor, self.args.mixup_alpha)
        if class_weights is not None or any(options_of_loss):
            self.compute_loss_func = self._training_loss

    def _training_loss(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        """The model's loss with what only training has: weights, smoothing, focus on what is not sure, mixed labels."""
        logits, config = outputs.logits, self.model.config
        options = {
            "weight": None if self.class_weights is None else self.class_weights.to(logits),
            "label_smoothing": self.args.label_smoothing_factor,
            "focal_gamma": self.args.focal_gamma,
        }
        if not labels.is_floating_point():  # class numbers of utterances or frames
            logits, labels = labelled_frames(logits, labels)
        if labels.is_floating_point() and config.problem_type == "single_label_classification":
            loss = classification_loss(logits, labels.to(logits), **options)
            return loss if num_items_in_batch is None else loss * (len(labels) / num_items_in_batch)
        return problem_loss(logits, labels, config=config, num_items_in_batch=num_items_in_batch, **options)

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """All parameters but vectors and biases."""
        return decay_parameter_names(model)

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        """The published schedule the arguments name, or the stock one."""
        if self.schedule_epochs is not None:
            num_training_steps = math.ceil(self.schedule_epochs * self._steps_per_epoch())
        if self.args.schedule == "transformers":
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            self.lr_scheduler = build_schedule(
                self.args.schedule,
                optimizer=optimizer or self.optimizer,
                num_steps=num_training_steps,
                steps_per_epoch=self._steps_per_epoch(),
                warmup_epochs=self.args.warmup_epochs,
                warmup_start=self.args.warmup_learning_rate,
                minimum=self.args.min_learning_rate,
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _steps_per_epoch(self) -> int:
        return max(1, -(-len(self.get_train_dataloader()) // self.args.gradient_accumulation_steps))

    def get_train_dataloader(self) -> DataLoader:
        """Batches of utterances of like length where the arguments ask for them, else the stock ones."""
        args = self.args
        if args.max_batch_seconds is None and args.train_sampling_strategy != "group_by_length":
            return super().get_train_dataloader()
        batches = LengthBatches(
            self.train_dataset.seconds,
            batch_size=self._train_batch_size if args.max_batch_seconds is None else None,
            max_batch_seconds=args.max_batch_seconds,
            seed=args.seed if args.data_seed is None else args.data_seed,
            num_processes=args.world_size,
            process_index=args.process_index,
        )
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
        )
        # As if of one process: the batches are shared out already.
        return prepare_data_loader(
            loader, self.accelerator.device, num_processes=1, process_index=0, put_on_device=True
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Each class equally often where the arguments ask for it, else the stock order."""
        if not self.args.balanced_sampling or self.targets is None:
            return super()._get_train_sampler(train_dataset)
        dataset = self.train_dataset if train_dataset is None else train_dataset
        classes = [self.targets.class_of[name] for name in dataset.utterances]
        return BalancedSampler(classes, seed=self.args.seed if self.args.data_seed is None else self.args.data_seed)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """The longest utterances first: what is not trained on needs no order, and so it is padded least."""
        return _longest_first(eval_dataset)

    def evaluation_loop(
        self, dataloader: DataLoader, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """Predictions and scores; the loss is that of all utterances together, without weights and focus.

        That of the stock loop is the mean over what the processes were given, and some are given an utterance again
        where they do not divide the last batch.
        """
        kwargs["prediction_loss_only"] = False  # which `evaluate` sets where nothing computes metrics
        output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        if output.predictions is not None and output.label_ids is not None:
            logits, labels = torch.from_numpy(output.predictions).double(), torch.from_numpy(output.label_ids)
            options = {}
            if PROBLEM_TYPES[self.model.config.problem_type].classes:
                options["label_smoothing"] = self.args.label_smoothing_factor
            loss = problem_loss(logits, labels, config=self.model.config, **options)
            output.metrics[f"{metric_key_prefix}_loss"] = loss.item()
            if self.targets is not None:
                dataset: Any = dataloader.dataset
                names = [dataset.utterances[row] for row in _longest_first(dataset)]
                scores = self.targets.scores(names, output.predictions)
                output.metrics.update({f"{metric_key_prefix}_{name}": score for name, score in scores.items()})
        return output

    def predict(self, test_dataset: Any, *args: Any, **kwargs: Any) -> PredictionOutput:
        """Logits and labels in the order of the data set, and its scores."""
        output = super().predict(test_dataset, *args, **kwargs)
        place = np.argsort(_longest_first(test_dataset))
        labels = None if output.label_ids is None else output.label_ids[place]
        return PredictionOutput(output.predictions[place], labels, output.metrics)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Scores, without drawing from the random numbers of training: what is evaluated cannot change it."""
        with torch.random.fork_rng(devices=[]):
            return super().evaluate(*args, **kwargs)

    def training_step(self, model: torch.nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Loss of a batch, mixed up where the arguments ask for it, and its gradients added.

        Raises:
            FloatingPointError: If it is not finite; the Trainer would hide that in its averages.
        """
        if self.args.mixup_alpha > 0:
            inputs = mix_up(inputs, alpha=self.args.mixup_alpha, classes=self.model.config.num_labels)
        if self.targets is not None and self.model.config.frame_labels:
            inputs = {**inputs, "output_frame_logits": True}
        loss = super().training_step(model, inputs, *args, **kwargs)
        self._check_finite("loss", loss)
        return loss

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        """Norm of the gradients before the step is made; only a loss scaler of fp16 may let them overflow."""
        norm = super()._get_grad_norm(*args, **kwargs)
        if norm is not None and self.accelerator.scaler is None:
            self._check_finite("gradient norm", norm)
        return norm

    def _check_finite(self, name: str, value: Any) -> None:
        if not math.isfinite(value):
            epoch, step = int(self.state.epoch or 0) + 1, self.state.global_step + 1
            raise FloatingPointError(f"{name} must be finite, got {float(value)} in epoch {epoch}, step {step}")

    def _save_rng_state(self, output_dir: str) -> None:
        """Wait for all processes: the Trainer's state, written next, then says that a checkpoint is whole."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def all_weights(self) -> dict[str, torch.Tensor]:
        """The model's weights on the main process, also where each process has but a shard of them; all have to ask."""
        return self.accelerator.get_state_dict(self.model_wrapped)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Write a checkpoint, then its checksums, and only then delete older ones."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            folder = self.args.output_dir
            seal(Path(folder) / f"checkpoint-{self.state.global_step}")
            best = self.state.best_model_checkpoint
            rotate_checkpoints(output_dir=folder, save_total_limit=limit, best_model_checkpoint=best, use_mtime=True)

    def load_selected(self) -> None:
        """Take the weights of the best epoch so far, wherever the run's folder has been moved to since.

        Raises:
            FileNotFoundError: If its checkpoint is gone or damaged.
        """
        best = Path(self.args.output_dir) / f"checkpoint-{self.state.best_global_step}"
        if not is_whole(best):
            raise FileNotFoundError(
                f"the checkpoint of the selected epoch must be whole, {str(best)!r} is gone or damaged; the same"
                " command trains the fold again"
            )
        self.state.best_model_checkpoint = str(best)
        self._load_best_model()


def _longest_first(dataset: Any) -> list[int]:
    """Rows of a data set by falling length; one that does not tell lengths keeps its order."""
    if not hasattr(dataset, "seconds"):
        return list(range(len(dataset)))
    return np.argsort(-np.asarray(dataset.seconds), kind="stable").tolist()


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
        scores = [name for name in (logs or {}) if name in ("eval_validation_wa", "eval_validation_ua",
                                                            "eval_validation_ccc")]  # fmt: skip
        names = {"loss": "loss"}
        names |= {name: f"validation {score_of(name.removeprefix('eval_validation_')).title}" for name in scores}
        self.seen |= {short: f"{logs[name]:.3f}" for name, short in names.items() if logs and name in logs}
        if self.bar is not None:
            self.bar.set_postfix(self.seen)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar to where training is, also after resuming."""
        self.bar.update(round(state.epoch) - self.bar.n)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        self.bar.close()
