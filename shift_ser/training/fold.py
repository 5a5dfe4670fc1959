"""One fold with one seed: train, select, refit, score, save."""

import copy
import hashlib
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch.utils.data import Dataset
from transformers import set_seed
from transformers.integrations import TensorBoardCallback, is_fsdp_enabled
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from ..evaluation.calibration import temperature_of
from ..evaluation.metrics import SCORES, score_names, score_of
from ..evaluation.predictions import Predictions
from ..evaluation.report import headline
from ..evaluation.run_folder import (
    ADAPTER,
    CHECKPOINTS,
    CHECKSUMS,
    FOLD_FAILURE,
    FOLD_RESULT,
    PREDICTIONS,
    TENSORBOARD,
    VALIDATION_PREDICTIONS,
    check_file,
    check_model_files,
    read_json,
    write_checksums,
    write_json,
)
from ..matrix_products import use_matrix_products
from ..model.modeling_shift_ser import ShiftForSequenceClassification
from .adapters import Adapted
from .arguments import ModelArguments, RunArguments
from .augmentation import AUGMENTATIONS, Augmenter, EpochDataset, JoinedUtterances, TellEpoch
from .batching import DataCollatorForShift
from .checkpoints import last_whole_checkpoint
from .cost import TrainingTime, count_parameters, peak_memory_mb, reset_peak_memory, training_seconds
from .data import SpeechCorpus
from .fold_plan import FoldPlan, shared_sentences
from .saved_model import save_model
from .threads import on_threads, threads_of_head
from .trainer import FoldProgress, ShiftTrainer

logger = logging.getLogger(__name__)

_SEALED = (".json", ".safetensors", ".py", ".csv")  # files of which checksums are kept
_SAME = 1e-6  # by how much two scores of the same predictions may differ
_LOGGED = ("epoch", "step", "loss", "grad_norm", "learning_rate")
_EVALUATED = ("eval_validation_", "eval_test_")  # before the name of a score, or loss


class FoldRun:
    """One fold of a run with one seed, in a folder of its own.

    `result.json` is written last: a folder that has it holds a whole fold. Until then `run` goes on from the last
    whole checkpoint of its training, or of its refit, and ends in the same files, but for seconds and memory.

    Args:
        corpus: The run's corpus.
        plan: Who trains, selects, tests.
        model_args: Encoder, head and scenario.
        run_args: Protocol and the Trainer's arguments.
        seed: Of the run; `training_seed` is drawn from it.
        folder: Where the fold lies.
        name: What it is called in messages.
    """

    def __init__(
        self,
        corpus: SpeechCorpus,
        plan: FoldPlan,
        *,
        model_args: ModelArguments,
        run_args: RunArguments,
        seed: int,
        folder: Path,
        name: str,
    ) -> None:
        self.corpus, self.plan, self.model_args, self.run_args = corpus, plan, model_args, run_args
        self.seed, self.folder, self.name = seed, folder, name
        self.expected_memory_mb: float | None = None  # what `tell_memory` counted before the training
        self._predictions: Predictions | None = None

    @property
    def training_seed(self) -> int:
        """What draws initial weights, dropout, masks and order: the seed, or with `seed_per_fold` seed and fold."""
        if not self.run_args.seed_per_fold:
            return self.seed
        return int.from_bytes(hashlib.sha256(f"seed {self.seed} fold {self.plan.fold}".encode()).digest()[:4], "big")

    @property
    def result(self) -> dict[str, Any] | None:
        """What `run` returned, if the fold is whole."""
        if not (self.folder / FOLD_RESULT).exists():
            return None
        try:
            return self._whole_result()
        except ValueError as error:
            logger.warning("%s is run again: %s", self.name, error)
            return None

    def _whole_result(self) -> dict[str, Any]:
        """What `run` returned.

        Raises:
            ValueError: If it, or what cannot be made again from the saved model, is not as it was written.
        """
        path = self.folder / FOLD_RESULT
        result = read_json(path)
        try:
            found = (result["fold"], result["seed"], result["plan"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{str(path)!r} is damaged: {error}") from error
        if found != (self.plan.fold, self.seed, self.plan.hash):
            raise ValueError(f"{str(path)!r} is of fold {found[0]}, seed {found[1]}, with another plan")
        check_model_files(self.folder)
        if self.run_args.refit:  # the saved model is not the one that scored the validation set
            check_file(self.folder / VALIDATION_PREDICTIONS)
        return result

    def predictions(self) -> Predictions:
        """What the fold's model said of its test set: of this call, else as it was written, else scored again."""
        if self._predictions is None:
            self._predictions = self._written(PREDICTIONS)
        return self._predictions

    def restore(self) -> None:
        """Make predictions of a finished fold that are damaged again; note checksums where an older version did not."""
        self._predictions = self._written(PREDICTIONS)
        if self.run_args.selects and not self.run_args.refit:
            self._written(VALIDATION_PREDICTIONS)
        if PartialState().is_main_process and not (self.folder / CHECKSUMS).exists():
            self._seal(self._whole_result())

    def _written(self, file: str) -> Predictions:
        """Predictions on file; if they are damaged or another set's, they are made again from the saved model.

        Raises:
            ValueError: If the saved model does not give the scores that the fold had.
        """
        path, part = self.folder / file, "test" if file == PREDICTIONS else "validation"
        utterances = getattr(self.plan, part)
        try:
            written = Predictions.read(path)
            if set(written.table["utterance"]) == set(utterances):
                return written
            told = f"{str(path)!r} must hold the {len(utterances)} utterances of the {part} set, got {len(written)}"
        except (OSError, ValueError) as error:
            told = str(error)
        logger.warning("%s is scored again from its saved model: %s", self.name, told)
        result = self._whole_result()
        scores, made = self._score(
            self._scorer(ShiftForSequenceClassification.from_pretrained(self.folder)), utterances
        )
        if any(abs(scores[name] - result[part][name]) > _SAME for name in scores):
            raise ValueError(f"{told}; the saved model gives {scores} and {FOLD_RESULT} says {result[part]}")
        if PartialState().is_main_process:
            made.write(path)
            self._seal(result)
            self.tidy()  # every Trainer makes a folder
        return made

    def _seal(self, result: dict[str, Any]) -> None:
        """Note the checksums of all files of the fold, `result.json` to come included."""
        kept = (path for path in self.folder.iterdir() if path.suffix in _SEALED and path.is_file())
        names = {path.name for path in kept} - {CHECKSUMS, FOLD_RESULT, FOLD_FAILURE}
        write_checksums(self.folder, names, coming={FOLD_RESULT: result})

    @property
    def failure(self) -> str | None:
        """Why the last try failed, if it did."""
        path = self.folder / FOLD_FAILURE
        try:
            return str(read_json(path)["reason"]) if path.exists() else None
        except (ValueError, KeyError, TypeError):
            return f"failed, and {FOLD_FAILURE} is damaged"

    def run(self) -> dict[str, Any]:
        """Train, choose the epoch as the protocol says, refit if asked, score the test set, save all of it.

        The temperature is that of the selected model also after a refit, which has trained on what it is fitted to.
        """
        for file in (FOLD_FAILURE, FOLD_RESULT):
            (self.folder / file).unlink(missing_ok=True)
        trained = self._train(self.plan.train)
        trainer = trained.trainer
        result = self._describe(trained)
        result["temperature"] = None
        files: dict[str, Predictions] = {}
        if self.run_args.selects:
            trainer.load_selected()
        self._merge(trained)
        if self.run_args.selects:
            _, files[VALIDATION_PREDICTIONS] = self._score(trainer, self.plan.validation)
            if self.corpus.targets.labels:
                result["temperature"] = temperature_of(files[VALIDATION_PREDICTIONS])
        if self.run_args.refit:
            both = {*self.plan.train, *self.plan.validation}
            train = [utterance for utterance in self.corpus.utterances if utterance in both]
            trained = self._train(train, refit_epochs=_best_entry(trainer)["epoch"])
            trainer = trained.trainer
            self._merge(trained)
            result["refit_history"] = history_of(trainer.state.log_history)
            for name, seconds in training_seconds(trainer.state.log_history).items():
                result["cost"][name] += seconds
        kept = headline({"columns": {**result["columns"], "refit": self.run_args.refit}})
        result["test"], files[PREDICTIONS] = self._score(trainer, self.plan.test)
        result["columns"][kept] = result["test"]
        result["cost"] |= {"peak_memory_mb": round(peak_memory_mb(), 1), "expected_memory_mb": self.expected_memory_mb}
        weights = self._save(trained, temperature=result["temperature"])
        if (learned := weights.get("shift_ser.layer_weights")) is not None:
            result["layer_weights"] = learned.double().softmax(dim=0).tolist()
        if PartialState().is_main_process:
            for file, predictions in files.items():
                predictions.write(self.folder / file)
            self._seal(result)
            write_json(self.folder / FOLD_RESULT, result)
            self.tidy()
        self._predictions = files[PREDICTIONS]
        PartialState().wait_for_everyone()
        return result

    def _merge(self, trained: "_Trained") -> None:
        """Write the adapters down by themselves, then add them to the encoder's weights, if it has any."""
        if trained.adapted is not None:
            if PartialState().is_main_process:
                trained.adapted.save(self.folder / ADAPTER)
            trained.adapted.merge()

    def _save(self, trained: "_Trained", *, temperature: float | None) -> Mapping[str, torch.Tensor]:
        """Save a trained model with its encoder and feature extractor; all processes have to ask.

        Returns:
            The weights that were trained, by name; on the main process.
        """
        trainer, encoder = trained.trainer, trained.encoder
        weights = trainer.all_weights()
        trainer.model.shift_ser.encoder = encoder
        trainer.model.config.temperature = temperature
        if PartialState().is_main_process:
            whole = {f"shift_ser.encoder.{name}": weight for name, weight in encoder.state_dict().items()} | weights
            save_model(trainer.model, self.folder, weights=whole, run=Path(self.run_args.output_dir))
            self.corpus.feature_extractor.save_pretrained(self.folder)
        return weights

    def evaluate(self, predictions_path: Path) -> dict[str, Any]:
        """Score the saved model again on its test set.

        Args:
            predictions_path: File for the predictions.

        Raises:
            FileNotFoundError: If the fold is not done.
            ValueError: If a file of it is damaged.
        """
        if not (self.folder / FOLD_RESULT).exists():
            raise FileNotFoundError(f"evaluate_only needs the finished {self.name} in {str(self.folder)!r}")
        result = self._whole_result()
        scores, self._predictions = self.score(ShiftForSequenceClassification.from_pretrained(self.folder))
        if PartialState().is_main_process:
            predictions_path.parent.mkdir(parents=True, exist_ok=True)
            self._predictions.write(predictions_path)
            self.tidy()  # every Trainer makes a folder
        return {**result, "test": scores, "columns": {**result["columns"], headline(result): scores}}

    def score(self, model: ShiftForSequenceClassification) -> tuple[dict[str, float], Predictions]:
        """WA, UA and F1 of a saved model on the test set, and what it says of each utterance."""
        return self._score(self._scorer(model), self.plan.test)

    def _scorer(self, model: ShiftForSequenceClassification) -> ShiftTrainer:
        """A Trainer that scores with a saved model."""
        self.take_encoder(model)
        return self._trainer(model)

    def embeddings(self) -> tuple[np.ndarray, Predictions]:
        """What the saved model's classifier reads of each utterance of the test set, `(utterances, channels)`."""
        model = ShiftForSequenceClassification.from_pretrained(self.folder)
        read: list[torch.Tensor] = []
        hook = model.classifier.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].float().cpu()))
        _, predictions = self.score(model)
        hook.remove()
        self.tidy()
        return torch.cat(read).numpy(), predictions

    def note_failure(self, reason: str) -> None:
        """Write down why the fold failed, if the disk lets us."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / FOLD_FAILURE, {"fold": self.plan.fold, "seed": self.seed, "reason": reason})
        except OSError as error:
            logger.error("%s: its reason could not be written down: %s", self.name, error)

    def tidy(self) -> None:
        """Remove the checkpoints of a finished fold."""
        shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)

    def _train(self, utterances: Sequence[str], *, refit_epochs: float | None = None) -> "_Trained":
        """Train a new model, or go on where its last whole checkpoint is.

        A refit has the schedule of the training that it repeats, and is scored only at its end.
        """
        set_seed(self.training_seed)
        reset_peak_memory()
        model = self.new_model()
        model.config.update(self.corpus.targets.scale(utterances))
        encoder, options = self.take_encoder(model, augment=self.augmenter), self.model_args.adapter_options
        adapted = None if options is None else Adapted(encoder, options, name=self.model_args.encoder)
        parts = {"validation": self.plan.validation, "test": self.plan.test} if refit_epochs is None else {}
        scored = {part: self.corpus.examples(names) for part, names in parts.items() if names}
        train = self.corpus.examples(utterances, augment=self.augmenter)
        if model.config.frame_labels:
            train = EpochDataset(JoinedUtterances(train, seed=self.training_seed), like=train)
        weights = self.corpus.targets.class_weights(utterances) if self.run_args.class_weights else None
        trainer = self._trainer(model, train=train, scored=scored, refit_epochs=refit_epochs, class_weights=weights)
        with PartialState().main_process_first():
            checkpoint = last_whole_checkpoint(trainer.args.output_dir)
        threads = threads_of_head(model.config.hidden_size) if model.config.freeze_encoder else torch.get_num_threads()
        with on_threads(threads):
            trainer.train(resume_from_checkpoint=checkpoint)
        return _Trained(trainer, encoder, adapted)

    def new_model(self) -> ShiftForSequenceClassification:
        """The pretrained encoder with a new head, as the fold's options say."""
        if is_fsdp_enabled():  # of transformers: whether other processes get empty weights
            raise ValueError(
                "fsdp_cpu_ram_efficient_loading must be false, since every process encodes with the weights, got true"
            )
        return ShiftForSequenceClassification.from_encoder_pretrained(
            self.model_args.encoder_of(self.plan.fold),
            **self.model_args.config_options(),
            **self.corpus.targets.names,
        )

    @property
    def augmenter(self) -> Augmenter | None:
        """What changes the speech of training. It draws by the run's seed, so that all folds share kept frames."""
        kinds = tuple(kind for kind in AUGMENTATIONS if kind in (self.run_args.augment or ()))
        return Augmenter(kinds, self.seed) if kinds else None

    def take_encoder(
        self, model: ShiftForSequenceClassification, *, augment: Augmenter | None = None
    ) -> torch.nn.Module:
        """Feature extraction: let the frozen encoder encode the corpus, then train and keep checkpoints without it.

        The model computes with matrix products from here on, whether it is trained or scored. Layers
        that are not read are let go once the corpus is encoded: frames of all layers may be kept already.

        Args:
            model: Keeps its encoder where that is trained.
            augment: Let it encode the changed corpus as well, for training.
        """
        use_matrix_products(model)
        encoder, name = model.shift_ser.encoder, self.model_args.encoder_of(self.plan.fold)
        if model.config.freeze_encoder or self.corpus.data_args.cache_convolutions:
            output = model.config.encoder_output if model.config.freeze_encoder else "convolutions"
            self.corpus.encode(encoder.to(self.run_args.device), output=output, name=name)
            if augment is not None:
                count = self.run_args.augment_variants
                self.corpus.encode_variants(encoder, augment, count=count, output=output, name=name)
        model.shift_ser.drop_unread_layers()
        if model.config.freeze_encoder:
            model.shift_ser.encoder = None
        return encoder

    def _trainer(
        self,
        model: ShiftForSequenceClassification,
        *,
        train: Dataset | None = None,
        scored: dict[str, Dataset] | None = None,
        refit_epochs: float | None = None,
        class_weights: torch.Tensor | None = None,
    ) -> ShiftTrainer:
        run_args = copy.copy(self.run_args)
        run_args.seed = self.training_seed
        run_args.output_dir = str(self.folder / CHECKPOINTS / ("train" if refit_epochs is None else "refit"))
        run_args.push_to_hub = False  # the run is pushed, not its checkpoints
        if refit_epochs is not None:
            run_args.num_train_epochs = refit_epochs
        if not scored:
            run_args.eval_strategy, run_args.metric_for_best_model = "no", None
        trainer = ShiftTrainer(
            schedule_epochs=None if refit_epochs is None else self.run_args.num_train_epochs,
            model=model,
            args=run_args,
            train_dataset=train,
            eval_dataset=scored,
            data_collator=DataCollatorForShift(),
            targets=self.corpus.targets,
            class_weights=class_weights,
            callbacks=[
                TrainingTime(),
                FoldProgress(self.name if refit_epochs is None else f"{self.name}, refit"),
                *([TellEpoch(train)] if isinstance(train, EpochDataset) else []),
            ],
        )
        for callback in (ProgressCallback, PrinterCallback):
            trainer.remove_callback(callback)
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:  # else: with the checkpoints
                callback.logging_dir = str(self.folder / TENSORBOARD / Path(run_args.output_dir).name)
        return trainer

    def _score(self, trainer: ShiftTrainer, utterances: Sequence[str]) -> tuple[dict[str, float], Predictions]:
        """Scores of the utterances, and what was predicted for each of them."""
        output = trainer.predict(self.corpus.examples(utterances), metric_key_prefix="test")
        scores = {name: output.metrics[f"test_{name}"] for name in self.corpus.targets.score_names}
        logits = torch.from_numpy(output.predictions)
        return scores, self.corpus.predictions(utterances, logits, fold=self.plan.fold, seed=self.seed)

    def _describe(self, trained: "_Trained") -> dict[str, Any]:
        """What is known of a trained fold before its model is chosen and scored."""
        trainer = trained.trainer
        history = history_of(trainer.state.log_history)
        epochs = [scores for entry in history if (scores := _scores(entry, "test"))]
        best = _best_entry(trainer) if self.run_args.selects else None
        columns = {
            "last": epochs[-1],
            "selected": best and _scores(best, "test"),
            "oracle": {
                name: (max if score_of(name).greater_is_better else min)(scores[name] for scores in epochs)
                for name in self.corpus.targets.score_names
            },
        }
        return {
            "fold": self.plan.fold,
            "seed": self.seed,
            "training_seed": self.training_seed,
            "plan": self.plan.hash,
            "test_group": self.plan.test_group,
            "validation_group": self.plan.validation_group,
            "num_train": len(self.plan.train),
            "num_validation": len(self.plan.validation),
            "num_test": len(self.plan.test),
            "shared_sentences": shared_sentences(self.plan, self.corpus.dataset),
            "last_epoch": round(trainer.state.epoch or 0),
            "selected_epoch": best and round(best["epoch"]),
            "cost": {
                **count_parameters(trainer.model, trained.encoder),
                **training_seconds(trainer.state.log_history),
            },
            "columns": columns,
            "validation": best and _scores(best, "validation"),
            "history": history,
        }


@dataclass(frozen=True)
class _Trained:
    """A Trainer that is done, the encoder of its model, and the adapters in it."""

    trainer: ShiftTrainer
    encoder: torch.nn.Module
    adapted: Adapted | None


def _best_entry(trainer: ShiftTrainer) -> dict[str, float]:
    """What was logged at the end of the selected epoch."""
    entries = {entry["step"]: entry for entry in history_of(trainer.state.log_history)}
    return entries[trainer.state.best_global_step]


def _scores(entry: dict[str, float], part: str) -> dict[str, float]:
    """The scores of a part that were logged with an epoch; empty if it was not scored."""
    logged = {name.removeprefix(f"eval_{part}_"): value for name, value in entry.items()}
    return {name: logged[name] for name in score_names(logged)}


def history_of(log: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """The Trainer's log, one entry per logged step, without clock times: the same run gives the same history.

    Names are in one order, which the Trainer's log has only until it is read back from a checkpoint.
    """
    merged: dict[float, dict[str, float]] = {}
    for entry in log:
        merged.setdefault(entry["step"], {}).update(entry)
    entries = [{name: entry[name] for name in _kept(entry)} for entry in merged.values()]
    return [entry for entry in entries if entry.keys() - {"epoch", "step"}]


def _kept(entry: Mapping[str, float]) -> list[str]:
    """The names of an entry that a history holds, in one order: what is logged, then loss and scores of each part."""
    names = [name for name in _LOGGED if name in entry]
    for prefix in _EVALUATED:
        scored = {name.removeprefix(prefix) for name in entry if name.startswith(prefix)}
        order = [*SCORES, *sorted(scored - {*SCORES})]
        names += [f"{prefix}{name}" for name in ("loss", *score_names(order)) if name in scored]
    return names
