"""From a recipe to results: all folds of a corpus with all seeds, their table, models and figures."""

import copy
import difflib
import itertools
import logging
import os
import platform
import shlex
from collections.abc import Sequence
from dataclasses import asdict, fields
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset

from ..corpora.corpus import SAMPLING_RATE
from ..evaluation.calibration import describe as describe_calibration
from ..evaluation.embedding import plot_embedding
from ..evaluation.groups import duration_groups
from ..evaluation.page import report_page
from ..evaluation.predictions import Predictions
from ..evaluation.report import (
    baseline_table,
    fold_table,
    intervals_text,
    name_of,
    plot_confusion,
    plot_layer_weights,
    plot_reliability,
    plot_risk_coverage,
    plot_values,
    summarise,
)
from ..evaluation.run_folder import (
    CONFUSION,
    EMBEDDING,
    EVALUATION,
    FINAL,
    FOLD_RESULT,
    LAYER_WEIGHTS,
    PLANS,
    PREDICTIONS,
    RELIABILITY,
    REPORT,
    RESULTS,
    RISK_COVERAGE,
    SETTINGS,
    TABLE,
    VALUES,
    fold_folder,
    read_json,
    write_checksums,
    write_json,
    write_text,
)
from ..evaluation.uncertainty import describe as describe_uncertainty
from ..model.encoders import load_encoder
from ..model.heads import variants
from ..model.model_place import check_model_place
from .argument_checks import check_together
from .arguments import DataArguments, ModelArguments, RunArguments
from .baselines import run_baselines
from .data import SpeechCorpus
from .feature_cache import encoder_fingerprint
from .final import FinalRun
from .fold import FoldRun
from .fold_plan import FoldPlan, check_heard, check_plan, shared_sentences
from .memory import tell_memory
from .options import settings_words
from .protocols import PROTOCOLS, PlanOptions, plan_folds, settled
from .run_lock import HOLDER, LOCK, run_lock
from .settings import changed_settings, result_settings
from .targets import fingerprint

logger = logging.getLogger(__name__)

NOT_RUN = "not run"
# What is no programming error: a fold that ends so says why in a line, any other one with its traceback.
FORESEEN = (OSError, FloatingPointError)


class AllFoldsFailed(RuntimeError):
    """A run that has no fold to report."""


class CrossValidation:
    """A run over the folds of a corpus, each with every seed.

    Args:
        model_args: Encoder, head and scenario.
        data_args: Corpus and cache.
        run_args: Protocol and the Trainer's arguments.
        dataset: A corpus that is loaded already, in place of the one that `data_args` names.

    Attributes:
        plans: Who trains, selects and tests in each fold; the same for all seeds (`seed` draws random validations).
        final: The model to ship, which `run` trains if `final` was asked for.
        failed: `fold`, `seed` and `reason` of what failed in the last call of `run`.

    Raises:
        ValueError: If an option breaks its rule, or `output_dir` holds a run with other settings.
        FileNotFoundError: If the corpus is not where it is said to be.
    """

    def __init__(
        self,
        model_args: ModelArguments,
        data_args: DataArguments,
        run_args: RunArguments,
        *,
        dataset: Dataset | None = None,
    ) -> None:
        self.model_args, self.data_args, self.run_args = model_args, data_args, copy.copy(run_args)
        self.output_dir = Path(run_args.output_dir)
        check_together(model_args, data_args, run_args)
        self.corpus = SpeechCorpus(model_args, data_args, dataset=dataset)
        model_args.check()
        if run_args.selects and not self.corpus.targets.labels:
            self.run_args.selection_metric, self.run_args.metric_for_best_model = "ccc", "eval_validation_ccc"
        self._choose_units()
        self.plans = plan_folds(
            self.corpus.dataset,
            protocol=self.run_args.protocol,
            **{field.name: getattr(self.run_args, field.name) for field in fields(PlanOptions)},
        )
        known = [plan.fold for plan in self.plans]
        if not set(run_args.folds or []) <= set(known):
            raise ValueError(f"folds must be among {known}, got {run_args.folds}")
        self._check_classes()
        self.fold_runs = self._fold_runs()
        self.final = FinalRun.after(self.fold_runs[0], folder=self.output_dir / FINAL)
        self.failed: list[dict[str, Any]] = []

    def _check_classes(self) -> None:
        """Refuse a fold whose models could never learn a class that they are scored on."""
        for plan in self.plans:
            asked = not self.run_args.folds or plan.fold in self.run_args.folds
            if asked and (absent := self.corpus.targets.absent_from(plan.train)):
                raise ValueError(
                    f"every class must be in the training part of every fold, but that of fold {plan.fold} (protocol"
                    f" {self.run_args.protocol}, test {plan.test_group}) has no {absent[0]!r}: --exclude {absent[0]},"
                    " or divide the corpus otherwise"
                )

    def _choose_units(self) -> None:
        """Settle by the corpus who tests and who selects, where nobody said it, and tell."""
        said = {name: getattr(self.run_args, name) for name in ("fold_unit", "validation")}
        chosen = settled(self.corpus.dataset, protocol=self.run_args.protocol, **said)
        if chosen["protocol"] != self.run_args.protocol:
            count = len(set(self.corpus.dataset["speaker"]))
            logger.info(
                "protocol %s: %s has %d speakers, who are divided into %d groups; --fold_unit speaker makes a fold for"
                " each speaker", chosen["protocol"], self.corpus.info.title, count, self.run_args.num_folds,
            )  # fmt: skip
        for name, value in chosen.items():
            setattr(self.run_args, name, value)
        if None in said.values() and "fold_unit" in PROTOCOLS[self.run_args.protocol].reads:
            told = ", ".join(f"{name} {chosen[name]}" for name, value in said.items() if value is None)
            count = len(set(self.corpus.dataset["speaker"]))
            logger.info("chosen by what %s has (%d speakers): %s", self.corpus.info.title, count, told)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything the results depend on, but for where files lie."""
        settings = result_settings(self.model_args, self.data_args, self.run_args)
        extractor = {name: getattr(self.corpus.feature_extractor, name) for name in ("do_normalize", "fixed_length")}
        plans = {str(plan.fold): plan.hash for plan in self.plans}
        return {**settings, **extractor, "plans": plans, "fingerprints": self.fingerprints}

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Sixteen digits each that change with what is read: all samples, all targets, the encoder's weights."""
        samples = fingerprint(sorted(self.corpus.content_hashes.items()))
        hashes = {"samples": samples, **self.corpus.targets.fingerprints}
        paths = {plan.fold: self.model_args.encoder_of(plan.fold) for plan in self.plans}
        if not self.model_args.encoder_of_each_fold:
            return {**hashes, "encoder": encoder_fingerprint(load_encoder(self.model_args.encoder_path)[0])}
        for fold, path in paths.items():  # of folds that are not asked for, too: a later call may ask for them
            check_model_place(path, option=f"the encoder of fold {fold}, which is in the plan,")
        encoders = {fold: encoder_fingerprint(load_encoder(path)[0]) for fold, path in paths.items()}
        return {**hashes, **{f"encoder of fold {fold}": value for fold, value in encoders.items()}}

    def run(self) -> dict[str, Any]:
        """Run, or score again, the folds asked for; folds that are done are kept.

        A fold that fails is noted with its reason and the others go on; with several processes, of which the others
        would wait for one that failed, the run ends instead.

        Returns:
            What `results.json` holds: `corpus`, `settings`, `versions`, `summary`, `folds` (a result for each fold and
            seed), `missing` (`fold`, `seed` and `reason` of those that are not done), `final` (the model to ship or
            `None`).

        Raises:
            AllFoldsFailed: If none is done.
            BlockingIOError: If another run is at work in `output_dir`.
        """
        with run_lock(self.output_dir):
            return self._run()

    def _run(self) -> dict[str, Any]:
        folds = self.run_args.folds or [plan.fold for plan in self.plans]
        asked = [run for run in self.fold_runs if run.plan.fold in folds]
        self.corpus.check_batch_seconds(self.run_args.max_batch_seconds)
        self._check_plans([plan for plan in self.plans if plan.fold in folds])
        self._claim_output_dir()
        if self.run_args.evaluate_only:
            return self._report([run.evaluate(self._predictions_path(run)) for run in asked], missing=[])
        self._train(asked)
        done = [run for run in self.fold_runs if run.result]  # folds of earlier calls belong to the run as well
        reasons = {(entry["fold"], entry["seed"]): entry["reason"] for entry in self.failed}
        missing = [
            _entry(run, reasons.get((run.plan.fold, run.seed)) or run.failure or NOT_RUN)
            for run in self.fold_runs
            if run not in done
        ]
        if not done:
            told = "; ".join(f"{name_of(entry, seeds=self.run_args.all_seeds)}: {entry['reason']}" for entry in missing)
            raise AllFoldsFailed(f"no fold is done: {told}")
        report = self._report([run.result for run in done if run.result], missing=missing)
        return self._with_final(report) if self.run_args.final and not missing else report

    def _with_final(self, report: dict[str, Any]) -> dict[str, Any]:
        """Train the final model; the results of the folds are on disk already, whatever becomes of it."""
        self.corpus.check_unchanged()
        try:
            report = {**report, "final": self.final.train(report)}
        except FloatingPointError as error:
            raise ValueError(f"the final model cannot be trained: {error}") from error
        if self.run_args.process_index == 0:
            write_json(self.results_dir / RESULTS, report)
            self._seal()
        return report

    def table(self, results: dict[str, Any]) -> str:
        """The fold table of what `run` returned, and how far its numbers can be trusted."""
        table = fold_table(results["folds"], num_folds=len(self.fold_runs), missing=results["missing"])
        baselines = f"\n\n{baseline_table(results['baselines'])}" if "baselines" in results else ""
        return f"{table}\n{intervals_text(results)}{baselines}"

    def _fold_runs(self) -> list[FoldRun]:
        runs = []
        seeds = self.run_args.all_seeds
        for seed in seeds:
            for plan in self.plans:
                result = {"fold": plan.fold, "seed": seed}
                runs.append(
                    FoldRun(
                        self.corpus,
                        plan,
                        model_args=self.model_args,
                        run_args=self.run_args,
                        seed=seed,
                        folder=self.output_dir / fold_folder(result, seeds=seeds),
                        name=name_of(result, seeds=seeds),
                    )
                )
        return runs

    def _train(self, asked: Sequence[FoldRun]) -> None:
        """Run the folds that are not done."""
        self.failed = []
        if todo := [run for run in asked if not run.result]:
            tell_memory(todo)
        for run in asked:
            if run not in todo:
                logger.info("%s is done, its result is kept: %s", run.name, run.folder)
                run.tidy()
                run.restore()
                continue
            try:
                self.corpus.check_unchanged()
                run.run()
            except Exception as error:
                if PartialState().num_processes > 1:
                    raise
                reason = f"{type(error).__name__}: {error}"
                logger.error("%s failed: %s", run.name, reason, exc_info=not isinstance(error, FORESEEN))
                run.note_failure(reason)
                self.failed.append(_entry(run, reason))

    def _check_plans(self, plans: Sequence[FoldPlan]) -> None:
        """Refuse leaks that names do not show, and tell of sentences that are spoken in several parts."""
        for plan in plans:
            check_plan(plan, self.corpus.dataset, content_hashes=self.corpus.content_hashes)
            check_heard(self.model_args.encoder_of(plan.fold), plan, self.corpus.content_hashes)
            counts = shared_sentences(plan, self.corpus.dataset)
            logger.info("fold %d: test utterances whose script is in another part: %s", plan.fold, counts)

    def _predictions_path(self, run: FoldRun) -> Path:
        return self.results_dir / run.folder.relative_to(self.output_dir) / PREDICTIONS

    @property
    def results_dir(self) -> Path:
        """Where tables and figures go."""
        folder = self.output_dir / EVALUATION if self.run_args.evaluate_only else self.output_dir
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def check_output_dir(self) -> None:
        """Refuse a folder that holds another run, or none.

        Raises:
            FileNotFoundError: If there is no run.
            ValueError: If its settings or its corpus differ; the first differences are named.
        """
        if not (self.output_dir / SETTINGS).exists():
            raise FileNotFoundError(f"output_dir must hold a finished run, there is none at {str(self.output_dir)!r}")
        self._claim_output_dir()

    def _claim_output_dir(self) -> None:
        """Note the run's settings and plans in its folder, or refuse a folder that holds another run."""
        settings, path = self.settings, self.output_dir / SETTINGS
        with PartialState().main_process_first():
            if self.run_args.process_index == 0:
                for part in self.output_dir.rglob("*.part"):  # of a run that was killed while it wrote
                    if part.is_file():
                        part.unlink()
            if not path.exists():
                if any(entry.name not in (LOCK, HOLDER) for entry in self.output_dir.iterdir()):
                    raise ValueError(
                        f"output_dir must be empty or hold a run of this program, got {str(path.parent)!r}"
                    )
                write_json(path, settings)
        try:
            there = read_json(path)
        except ValueError as error:
            raise ValueError(f"{str(path)!r} must hold the settings of a run, it is damaged: {error}") from error
        if other := changed_settings(there, settings):
            told = "; ".join(other[:3])
            raise ValueError(f"output_dir must hold no other run, but {str(path.parent)!r} does: {told}")
        if self.run_args.process_index == 0:
            write_json(self.output_dir / PLANS, [plan.to_dict() for plan in self.plans])

    def _report(self, results: list[dict[str, Any]], *, missing: list[dict[str, Any]]) -> dict[str, Any]:
        """Write `results.json`, the table and the figures, over the predictions of all folds and seeds."""
        predictions = self._pooled(results)
        report = {
            "corpus": asdict(self.corpus.info),
            "source": self.data_args.corpus,
            "settings": self.settings,
            "versions": versions(),
            "summary": summarise(results, num_folds=len(self.fold_runs)),
            "uncertainty": describe_uncertainty(predictions),
            "calibration": describe_calibration(predictions) if predictions.labels else None,
            "folds": results,
            "missing": missing,
            "final": None if missing else self.final.trained({"folds": results}),
        }
        if self.run_args.baseline:
            report["baselines"] = [
                {name: value for name, value in row.items() if name != "predicted"} for row in self.baselines()
            ]
        if self.run_args.process_index == 0:
            predictions.write(self.results_dir / PREDICTIONS)
            write_json(self.results_dir / RESULTS, report)
            write_text(self.results_dir / TABLE, f"{self.corpus.info.description}\n\n{self.table(report)}\n")
            self._plot(predictions, results)
            self.write_page(report, predictions)
            self._seal()
        PartialState().wait_for_everyone()
        return report

    def _seal(self) -> None:
        """Note the checksums of what was written for the whole run."""
        figures = (CONFUSION, RELIABILITY, RISK_COVERAGE, VALUES, LAYER_WEIGHTS)
        kept = (SETTINGS, PLANS, PREDICTIONS, RESULTS, TABLE, *figures)
        write_checksums(self.results_dir, [name for name in kept if (self.results_dir / name).exists()])

    def _pooled(self, results: list[dict[str, Any]]) -> Predictions:
        """The predictions of all folds and seeds, each with the temperature that its model was given."""
        PartialState().wait_for_everyone()  # the main process has written them
        known = {(run.plan.fold, run.seed): run for run in self.fold_runs}
        parts = []
        for result in results:
            of_fold = known[result["fold"], result["seed"]].predictions()
            told = result["temperature"]
            parts.append(of_fold.with_columns(temperature=float("nan") if told is None else told))
        return Predictions.pooled(parts)

    def baselines(self, *, folds: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Scores of the baselines on the same folds (default: all), see `run_baselines`; of frames only if frozen."""
        frozen = self.model_args.scenario == "feature_extraction" and not self.model_args.encoder_of_each_fold
        if frozen and self.corpus.cache is None:  # all folds were done before
            self.fold_runs[0].take_encoder(self.fold_runs[0].new_model())
        plans = [plan for plan in self.plans if folds is None or plan.fold in folds]
        return run_baselines(self.corpus, plans, frames=frozen)

    def write_page(self, report: dict[str, Any], predictions: Predictions) -> None:
        """The run as one HTML page, with scores by speaker, length, and what the corpus tells of its utterances."""
        names = self.corpus.dataset["utterance"]
        lengths = {name: recording.num_samples / SAMPLING_RATE for name, recording in self.corpus.recordings.items()}
        groups: dict[str, dict[str, Any]] = {"length": duration_groups(lengths)}
        for column in ("speaker", "sex", "style", "language"):
            if column in self.corpus.dataset.column_names:
                groups[column] = dict(zip(names, self.corpus.dataset[column], strict=True))
        page = report_page(
            report,
            predictions,
            folder=self.results_dir,
            groups=groups,
            title=f"{self.model_title} on {self.corpus.info.title}",
            command=shlex.join(["shift-ser", "train", *settings_words(self.settings)]),
        )
        write_text(self.results_dir / REPORT, page)

    @property
    def model_title(self) -> str:
        """The head's name for people."""
        return variants()[self.model_args.variant][1].title

    def _plot(self, predictions: Predictions, results: list[dict[str, Any]]) -> None:
        pooled = f"{self.model_title}, {len(results)} of {len(self.fold_runs)} folds pooled"
        title = f"{pooled}\n{self.corpus.info.title}"
        if predictions.labels:
            plot_confusion(self.results_dir / CONFUSION, predictions, title=title)
            plot_reliability(self.results_dir / RELIABILITY, predictions, title=title)
            plot_risk_coverage(self.results_dir / RISK_COVERAGE, predictions, title=title)
        if predictions.dimensions:
            plot_values(self.results_dir / VALUES, predictions, title=title)
        if all("layer_weights" in result for result in results):
            plot_layer_weights(self.results_dir / LAYER_WEIGHTS, results, title=title)
        whole = [run for run in self.fold_runs if run.result and any(run.folder.glob("model*.safetensors"))]
        path = self.results_dir / EMBEDDING
        if predictions.labels and whole and self.run_args.world_size == 1 and not _is_newer(path, whole[0].folder):
            vectors, said = whole[0].embeddings()
            plot_embedding(
                path,
                vectors,
                labels=said.table["label"].tolist(),
                predictions=said.table["prediction"].tolist(),
                title=f"{self.model_title}: mean over its frames, test set of {whole[0].name}",
            )


def _is_newer(figure: Path, fold: Path) -> bool:
    """Whether a figure was drawn after its fold was whole: it needs frames, and would be the same."""
    return figure.exists() and figure.stat().st_mtime_ns >= (fold / FOLD_RESULT).stat().st_mtime_ns


def cross_validate(
    dataset: Dataset | str | os.PathLike, *, output_dir: str | os.PathLike, **options: Any
) -> dict[str, Any]:
    """Train and evaluate over the folds of a corpus; the same call goes on where it was stopped.

    Args:
        dataset: Columns `audio`, `label`, `speaker` and what else `load_corpus` knows, or where such a corpus lies.
        output_dir: Folder of the run: results, and a saved model per fold.
        **options: Anything that `shift-ser train` takes, such as `encoder`, `variant`, `num_train_epochs`.

    Returns:
        What `results.json` holds.

    Raises:
        TypeError: If there is no such option.
        ValueError: If an option breaks its rule, or `output_dir` holds another run.
        AllFoldsFailed: If no fold is done.
    """
    kinds: tuple[Any, ...] = (ModelArguments, DataArguments, RunArguments)
    names = [[field.name for field in fields(kind) if field.init] for kind in kinds]
    for name in options:
        if name not in itertools.chain(*names):
            close = difflib.get_close_matches(name, itertools.chain(*names), n=1)
            raise TypeError(f"there is no option {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
    options["output_dir"] = os.fspath(output_dir)
    if not isinstance(dataset, Dataset):
        options["corpus"] = os.fspath(dataset)
    arguments = [
        kind(**{name: options[name] for name in known if name in options})
        for kind, known in zip(kinds, names, strict=True)
    ]
    return CrossValidation(*arguments, dataset=dataset if isinstance(dataset, Dataset) else None).run()


def versions() -> dict[str, str]:
    """Releases of what a result rests on."""
    packages = ("shift-ser", "torch", "transformers", "datasets", "evaluate", "accelerate", "numpy")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def _entry(run: FoldRun, reason: str) -> dict[str, Any]:
    return {"fold": run.plan.fold, "seed": run.seed, "reason": reason}
