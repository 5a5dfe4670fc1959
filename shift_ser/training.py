"""From a recipe to results: one fold with the Trainer, all folds with their table, models and figures."""

import copy
import logging
import platform
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import get_last_checkpoint

from .arguments import DataArguments, ModelArguments, RunArguments
from .corpus import SpeechCorpus
from .data_collator import DataCollatorForShift
from .folds import FoldPlan, plan_folds
from .metrics import compute_metrics
from .model_card import write_fold_cards
from .modeling_shift_ser import ShiftForSequenceClassification
from .report import (
    fold_table,
    plot_confusion,
    read_json,
    read_predictions,
    summarise,
    write_json,
    write_predictions,
    write_text,
)
from .trainer import FoldProgress, ShiftTrainer

logger = logging.getLogger(__name__)

# What of the Trainer's arguments a result depends on; a folder takes up only a run with the same.
# fmt: off
RESULT_ARGUMENTS = (
    "protocol", "selection_metric", "schedule", "warmup_epochs", "warmup_learning_rate", "min_learning_rate",
    "lr_scheduler_type", "warmup_steps", "learning_rate", "optim", "weight_decay", "adam_beta1", "adam_beta2",
    "adam_epsilon", "max_grad_norm", "num_train_epochs", "max_steps", "per_device_train_batch_size",
    "gradient_accumulation_steps", "label_smoothing_factor", "train_sampling_strategy", "seed", "data_seed", "bf16",
    "fp16",
)
# fmt: on
HISTORY = ("epoch", "step", "loss", "grad_norm", "learning_rate", "eval_loss", "eval_wa", "eval_ua")


class CrossValidation:
    """A run over the folds of a corpus: who trains and tests, the data in the form the scenario asks, what is kept.

    Args:
        model_args: Encoder, head and scenario.
        data_args: Corpus and cache.
        run_args: Protocol and the Trainer's arguments.

    Raises:
        ValueError: If an option breaks its rule, or `output_dir` holds a run with other settings.
        FileNotFoundError: If the corpus is not where it is said to be.
    """

    def __init__(self, model_args: ModelArguments, data_args: DataArguments, run_args: RunArguments) -> None:
        self.model_args, self.data_args, self.run_args = model_args, data_args, run_args
        self.output_dir = Path(run_args.output_dir)
        self.corpus = SpeechCorpus(model_args, data_args)
        model_args.check()
        self.plans = plan_folds(self.corpus.dataset, protocol=run_args.protocol)
        known = [plan.fold for plan in self.plans]
        if not set(run_args.folds or []) <= set(known):
            raise ValueError(f"folds must be among {known}, got {run_args.folds}")

    @property
    def settings(self) -> dict[str, Any]:
        """Everything the results depend on, but for where files lie."""
        said = vars(self.model_args) | {"max_seconds": self.data_args.max_seconds}
        said |= {name: getattr(self.run_args, name) for name in RESULT_ARGUMENTS}
        extractor = {name: getattr(self.corpus.feature_extractor, name) for name in ("do_normalize", "fixed_length")}
        plans = {str(plan.fold): plan.hash for plan in self.plans}
        plain = {name: getattr(value, "value", value) for name, value in (said | extractor).items()}
        return {**plain, "plans": plans}

    def run(self) -> dict[str, Any]:
        """Run, or score again, the folds asked for; folds that are done are kept.

        Returns:
            What `results.json` holds: `corpus`, `settings`, `versions`, `summary`, and a result per fold.
        """
        self._claim_output_dir()
        folds = self.run_args.folds or [plan.fold for plan in self.plans]
        results = []
        for plan in self.plans:
            if plan.fold in folds:
                results.append(self.evaluate_fold(plan) if self.run_args.evaluate_only else self._fold(plan))
        if not self.run_args.evaluate_only:  # folds of earlier calls belong to the run as well
            results = [
                read_json(path) for plan in self.plans if (path := self._fold_dir(plan) / "result.json").exists()
            ]
        return self._report(results)

    def table(self, results: dict[str, Any]) -> str:
        """The fold table of what `run` returned."""
        return fold_table(results["folds"], protocol=self.run_args.protocol, num_folds=len(self.plans))

    def run_fold(self, plan: FoldPlan) -> dict[str, Any]:
        """Train one fold, choose the epoch as the protocol says, score the test session, save all of it."""
        set_seed(self.run_args.seed)
        model = self._new_model()
        select = plan.selection if self.run_args.protocol == "test_blind" else plan.test
        encoder = self._take_encoder(model)
        trainer = self._trainer(model, plan, train=plan.train, select=select)
        trainer.train(resume_from_checkpoint=_last_checkpoint(trainer.args.output_dir))
        result = self._describe(plan, trainer)
        result["test"], rows = self._score(trainer, plan.test)
        model.shift_ser.encoder = encoder
        if self.run_args.process_index == 0:
            folder = self._fold_dir(plan)
            model.save_pretrained(folder)
            self.corpus.feature_extractor.save_pretrained(folder)
            write_predictions(self._predictions_path(plan.fold), rows=rows)
            write_json(folder / "result.json", result)
            shutil.rmtree(trainer.args.output_dir, ignore_errors=True)
        PartialState().wait_for_everyone()
        return result

    def evaluate_fold(self, plan: FoldPlan) -> dict[str, Any]:
        """Score the saved model of a fold again on its test session.

        Raises:
            FileNotFoundError: If the fold is not done.
        """
        folder = self._fold_dir(plan)
        if not (folder / "result.json").exists():
            raise FileNotFoundError(f"evaluate_only needs the finished fold {plan.fold} in {str(folder)!r}")
        model = ShiftForSequenceClassification.from_pretrained(folder)
        self._take_encoder(model)
        trainer = self._trainer(model, plan, train=(), select=plan.test)
        scores, rows = self._score(trainer, plan.test)
        if self.run_args.process_index == 0:
            write_predictions(self._predictions_path(plan.fold), rows=rows)
            shutil.rmtree(trainer.args.output_dir, ignore_errors=True)  # every Trainer makes one
        return {**read_json(folder / "result.json"), "test": scores}

    def _fold(self, plan: FoldPlan) -> dict[str, Any]:
        """The result of a fold: the one that is there, or a new one."""
        done = self._fold_dir(plan) / "result.json"
        if done.exists():
            logger.info("fold %d is done, its result is kept: %s", plan.fold, done)
            return read_json(done)
        return self.run_fold(plan)

    def _fold_dir(self, plan: FoldPlan) -> Path:
        return self.output_dir / f"fold{plan.fold}"

    def _predictions_path(self, fold: int) -> Path:
        if self.run_args.evaluate_only:
            return self.results_dir / f"predictions_fold{fold}.csv"
        return self.output_dir / f"fold{fold}" / "predictions.csv"

    @property
    def results_dir(self) -> Path:
        """Where tables and figures go."""
        folder = self.output_dir / "evaluation" if self.run_args.evaluate_only else self.output_dir
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _claim_output_dir(self) -> None:
        """Note the run's settings in its folder, or refuse a folder that holds another run."""
        settings, path = self.settings, self.output_dir / "run.json"
        with PartialState().main_process_first():
            if not path.exists():
                if self.output_dir.exists() and any(self.output_dir.iterdir()):
                    raise ValueError(
                        f"output_dir must be empty or hold a run of this program, got {str(path.parent)!r}"
                    )
                self.output_dir.mkdir(parents=True, exist_ok=True)
                write_json(path, settings)
        there = read_json(path)
        other = [name for name in settings if there.get(name) != settings[name]]
        if other:
            told = "; ".join(f"{name} is {there.get(name)!r} there and {settings[name]!r} here" for name in other[:3])
            raise ValueError(f"output_dir must hold no other run, but {str(path.parent)!r} does: {told}")

    def _new_model(self) -> ShiftForSequenceClassification:
        names = dict(enumerate(self.corpus.labels))
        return ShiftForSequenceClassification.from_encoder_pretrained(
            self.model_args.encoder,
            **self.model_args.config_options(),
            id2label=names,
            label2id={name: index for index, name in names.items()},
        )

    def _take_encoder(self, model: ShiftForSequenceClassification) -> torch.nn.Module:
        """Feature extraction: let the frozen encoder encode the corpus, then train and keep checkpoints without it."""
        encoder = model.shift_ser.encoder
        if model.config.freeze_encoder:
            self.corpus.encode(encoder.to(self.run_args.device), all_layers=model.config.use_weighted_layer_sum)
            model.shift_ser.encoder = None
        return encoder

    def _trainer(
        self, model: ShiftForSequenceClassification, plan: FoldPlan, *, train: Sequence[str], select: Sequence[str]
    ) -> ShiftTrainer:
        run_args = copy.copy(self.run_args)
        run_args.output_dir = str(self._fold_dir(plan) / "checkpoints")
        run_args.push_to_hub = False  # the run is pushed, not its checkpoints
        trainer = ShiftTrainer(
            model=model,
            args=run_args,
            train_dataset=self.corpus.examples(train) if train else None,
            eval_dataset=self.corpus.examples(select),
            data_collator=DataCollatorForShift(),
            compute_metrics=compute_metrics,
            callbacks=[FoldProgress(f"fold {plan.fold}/{len(self.plans)}")],
        )
        for callback in (ProgressCallback, PrinterCallback):
            trainer.remove_callback(callback)
        return trainer

    def _score(self, trainer: ShiftTrainer, utterances: Sequence[str]) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """WA and UA of the utterances, and a row for each of them."""
        output = trainer.predict(self.corpus.examples(utterances), metric_key_prefix="test")
        scores = {name: output.metrics[f"test_{name}"] for name in ("wa", "ua")}
        return scores, self.corpus.prediction_rows(utterances, torch.from_numpy(output.predictions))

    def _describe(self, plan: FoldPlan, trainer: ShiftTrainer) -> dict[str, Any]:
        """What is known of a trained fold before its test session is scored."""
        result: dict[str, Any] = {
            "fold": plan.fold,
            "plan": plan.hash,
            "test_session": plan.test_session,
            "selection_session": plan.selection_session,
            "num_train": len(plan.train),
            "num_selection": len(plan.selection),
            "num_test": len(plan.test),
            "last_epoch": round(trainer.state.epoch or 0),
            "selected_epoch": None,
            "selection": None,
            "oracle": None,
            "history": _history(trainer.state.log_history),
        }
        epochs = [entry for entry in result["history"] if "eval_wa" in entry]
        if self.run_args.protocol == "test_blind":
            best = next(entry for entry in epochs if entry["step"] == trainer.state.best_global_step)
            result["selected_epoch"] = round(best["epoch"])
            result["selection"] = {name: best[f"eval_{name}"] for name in ("wa", "ua")}
        else:
            result["oracle"] = {name: max(entry[f"eval_{name}"] for entry in epochs) for name in ("wa", "ua")}
        return result

    def _report(self, results: list[dict[str, Any]]) -> dict[str, Any]:
        """Write `results.json`, the table and the confusion matrix, pooled over folds."""
        summary = summarise(results, num_folds=len(self.plans))
        corpus = self.corpus.description
        report = {
            "corpus": corpus,
            "settings": self.settings,
            "versions": versions(),
            "summary": summary,
            "folds": results,
        }
        if self.run_args.process_index == 0:
            write_json(self.results_dir / "results.json", report)
            write_text(self.results_dir / "results.md", f"{corpus}\n\n{self.table(report)}\n")
            if not self.run_args.evaluate_only:
                write_fold_cards(self.output_dir, report)
            rows = [row for result in results for row in read_predictions(self._predictions_path(result["fold"]))]
            pooled = f"{self.model_args.variant}, {len(results)} of {len(self.plans)} folds pooled"
            plot_confusion(
                self.results_dir / "confusion.png",
                references=[row["label"] for row in rows],
                predictions=[row["prediction"] for row in rows],
                label_names=self.corpus.labels,
                title=f"{pooled}\n{corpus.split(',')[0]}",
            )
        PartialState().wait_for_everyone()
        return report


def versions() -> dict[str, str]:
    """Releases of what a result rests on."""
    packages = ("shift-ser", "torch", "transformers", "datasets", "evaluate", "accelerate", "numpy")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def _history(log: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """The Trainer's log, one entry per logged step, without clock times: the same run gives the same history."""
    merged: dict[float, dict[str, float]] = {}
    for entry in log:
        kept = {name: value for name, value in entry.items() if name in HISTORY}
        if kept.keys() - {"epoch", "step"}:
            merged.setdefault(entry["step"], {}).update(kept)
    return list(merged.values())


def _last_checkpoint(folder: str) -> str | None:
    return get_last_checkpoint(folder) if Path(folder).is_dir() else None
