"""The model to ship: trained on every utterance, for as many epochs as cross-validation chose."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from accelerate import PartialState

from ..evaluation.run_folder import CHECKPOINTS, FOLD_RESULT, check_model_files, read_json, write_json
from .fold import FoldRun, history_of
from .fold_plan import FoldPlan, read_rows

logger = logging.getLogger(__name__)

_ASKED = "asked.json"  # beside the checkpoints: what they are those of


def describe_final(results: Mapping[str, Any]) -> dict[str, Any]:
    """How the final model of a run is trained, by the results of its folds.

    The number of epochs is the median of those that the validation sets selected, over folds and seeds (half an epoch
    counts as one): the mean would follow a single fold that selected very late. Where nothing selects, it is the last
    epoch. The temperature is the median of those of the folds' models, since no speaker is left to fit one to.

    Args:
        results: `folds`: the result of every fold and seed.

    Returns:
        `epochs`; `of_folds`, the epochs that it is the median of; `temperature` or `None`.

    Example:
        >>> folds = [{"selected_epoch": epoch, "temperature": 1.5} for epoch in (3, 4, 20)]
        >>> describe_final({"folds": folds})
        {'epochs': 4, 'of_folds': [3, 4, 20], 'temperature': 1.5}
    """
    folds = results["folds"]
    epochs = [fold["selected_epoch"] or fold["last_epoch"] for fold in folds]
    temperatures = [fold["temperature"] for fold in folds if fold["temperature"] is not None]
    return {
        "epochs": math.floor(median(epochs) + 0.5),
        "of_folds": epochs,
        "temperature": median(temperatures) if temperatures else None,
    }


class FinalRun(FoldRun):
    """The training of the final model of a run: goes on from its last whole checkpoint, as a fold does.

    Its epochs have the learning rate of the first epochs of a fold's training. Nothing of it is scored: it saw every
    speaker.
    """

    @classmethod
    def after(cls, fold: FoldRun, *, folder: Path) -> "FinalRun":
        """The final model of the run that a fold belongs to, with that fold's seed.

        Args:
            fold: Any fold of the run.
            folder: Where the final model goes.
        """
        plan = FoldPlan(0, "nobody", None, tuple(fold.corpus.utterances), (), ())
        return cls(
            fold.corpus, plan, model_args=fold.model_args, run_args=fold.run_args, seed=fold.seed, folder=folder,
            name="the final model",
        )  # fmt: skip

    def trained(self, results: Mapping[str, Any]) -> dict[str, Any] | None:
        """What `train` returned, if the folder holds the final model of just these results."""
        try:
            there = read_json(self.folder / FOLD_RESULT)
            check_model_files(self.folder)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            logger.warning("%s is trained again: %s", self.name, error)
            return None
        wanted = self._describe_run(results)
        return there if {name: there.get(name) for name in wanted} == wanted else None

    def train(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """Train the final model and save it, unless that is done.

        Args:
            results: Those of all folds and seeds.

        Returns:
            What `describe_final` told, and `seed`, `plan` (hash), `num_train`, `num_speakers`, `history`.
        """
        if (there := self.trained(results)) is not None:
            logger.info("%s is done and kept: %s", self.name, self.folder)
            return there
        result = self._describe_run(results)
        self._start_over_if_other(result)
        logger.info("%s: %d epochs, the median of %s", self.name, result["epochs"], result["of_folds"])
        trained = self._train(self.plan.train, refit_epochs=result["epochs"])
        self._merge(trained)
        result["history"] = history_of(trained.trainer.state.log_history)
        self._save(trained, temperature=result["temperature"])
        if self.run_args.process_index == 0:
            self._seal(result)
            write_json(self.folder / FOLD_RESULT, result)
            self.tidy()
        PartialState().wait_for_everyone()
        return result

    def _start_over_if_other(self, wanted: Mapping[str, Any]) -> None:
        """Forget an earlier final model and its checkpoints; only those of this very training are gone on from."""
        asked = self.folder / CHECKPOINTS / _ASKED
        with PartialState().main_process_first():
            if self.run_args.process_index == 0:
                (self.folder / FOLD_RESULT).unlink(missing_ok=True)
                if not asked.exists() or read_json(asked) != wanted:
                    self.tidy()
                    asked.parent.mkdir(parents=True)
                    write_json(asked, wanted)

    def _describe_run(self, results: Mapping[str, Any]) -> dict[str, Any]:
        speakers = {row.speaker for row in read_rows(self.corpus.dataset) if row.has_speaker}
        counts = {"num_train": len(self.plan.train), "num_speakers": len(speakers)}
        return {**describe_final(results), "seed": self.seed, "plan": self.plan.hash, **counts}
