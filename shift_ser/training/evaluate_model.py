"""One saved model on any corpus: its own or another one, whose labels are joined and renamed to the model's."""

import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..corpora import find_corpus
from ..evaluation.predictions import Predictions
from ..evaluation.run_folder import FOLD_RESULT, PLANS, RESULTS, SETTINGS, check_model_files, read_json
from ..model.configuration_shift_ser import ShiftConfig
from ..model.feature_extraction_shift_ser import ShiftFeatureExtractor
from ..model.model_place import check_model_place
from ..model.modeling_shift_ser import ShiftForSequenceClassification
from .arguments import DataArguments, ModelArguments, RunArguments
from .data import SpeechCorpus
from .fold import FoldRun
from .fold_plan import PARTS, FoldPlan
from .options import settings_words
from .targets import OTHER

logger = logging.getLogger(__name__)

SEEN = ("leave_out", "keep")
_PREPARATION = ("max_seconds", "cache_dtype", "encoder_dtype")  # settings of a run that change what its model reads
_READING = ("subset", "labels", "exclude", "columns", "speaker_regex", "speakers", "dataset_split", "dataset_revision")


def evaluate_model(
    model: str | os.PathLike, corpus: SpeechCorpus, *, seen: str | None = None, batch_size: int = 32
) -> Predictions:
    """What a saved model says of the utterances of a corpus.

    On the test set of its own fold these are the predictions of the run, to the bit. Frames of a frozen encoder are
    read from the corpus's cache folder if they are there, whichever model they were made for.

    Args:
        model: Folder of a saved model, such as that of a fold, or its name on the Hub.
        corpus: From `open_corpus`; it may serve several models with the same preprocessing, and is not changed.
        seen: What is done about utterances that the model was trained on or selected by, and others of the same
            speakers: `leave_out` or `keep`. They are known by their names, from the plans of the run that the model
            lies in. Default: a corpus that has some is refused.
        batch_size: Utterances in a batch.

    Returns:
        The table, with all labels of the model; `fold` and `seed` where the model is of a fold, `temperature` where it
        has one.

    Raises:
        ValueError: If the corpus has a label or lacks a dimension that the model lacks or has (both sets are told), or
            has utterances that the model was trained on and `seen` is not said, or no other ones.
        OSError: If there is no such model.
    """
    if seen not in (None, *SEEN):
        raise ValueError(f"seen must be one of {SEEN}, got {seen!r}")
    check_model_place(os.fspath(model))
    check_model_files(model)
    saved = ShiftForSequenceClassification.from_pretrained(model)
    if labels := _labels(saved.config, corpus):
        corpus = _with_labels(corpus, labels)
    if saved.config.problem.soft:  # scored by labels, which any corpus has; the outputs are those of labels anyway
        saved.config.problem_type = "single_label_classification"
    utterances = _chosen(model, corpus, seen)
    of_fold = _fold_result(model)
    with tempfile.TemporaryDirectory() as place:
        run = FoldRun(
            corpus,
            FoldPlan(of_fold.get("fold", 1), corpus.info.title, None, (), (), tuple(utterances)),
            model_args=ModelArguments(encoder=os.fspath(model)),
            run_args=RunArguments(
                output_dir=place, report_to="none", disable_tqdm=True, per_device_eval_batch_size=batch_size
            ),
            seed=of_fold.get("seed", 0),
            folder=Path(place),
            name=os.fspath(model),
        )
        _, predictions = run.score(saved)
    if "fold" not in of_fold:
        predictions = Predictions(predictions.table.drop(columns=["fold", "seed"]))
    known = {} if saved.config.temperature is None else {"temperature": saved.config.temperature}
    return predictions.with_columns(**known)


def open_corpus(model: str | os.PathLike, data_args: DataArguments, *, dataset: Dataset | None = None) -> SpeechCorpus:
    """A corpus, preprocessed as a saved model wants it.

    Args:
        model: Folder of the model, or its name on the Hub.
        data_args: Which corpus, where the cache is, to what length utterances are cut.
        dataset: A corpus that is loaded already, in place of the one that `data_args` names.

    Raises:
        ValueError: If the corpus cannot be read or an option does not fit it.
        OSError: If there is no such model or corpus.
    """
    check_model_place(os.fspath(model))
    extractor = ShiftFeatureExtractor.from_pretrained(model)
    config = ShiftConfig.from_pretrained(model)
    kind = "single_label_classification" if config.problem.soft else config.problem_type
    model_args = ModelArguments(encoder=os.fspath(model), problem_type=kind, dimensions=config.dimensions)
    return SpeechCorpus(model_args, data_args, dataset=dataset, feature_extractor=extractor)


def run_words(model: str | os.PathLike, corpus: str) -> list[str]:
    """The flags of `DataArguments` that a model's run was told: how speech is prepared, and how its corpus is read.

    Args:
        model: Folder of the model; one that does not lie in a run has no flags.
        corpus: What is to be read. The flags that concern reading are left out if it is not the run's corpus.
    """
    folder = _run_folder(model)
    if folder is None:
        return []
    settings = read_json(folder / SETTINGS)
    names = [*_PREPARATION, *(_READING if _is_corpus_of(folder, corpus) else ())]
    return settings_words({name: settings[name] for name in names if name in settings})


def plan_of(model: str | os.PathLike) -> FoldPlan | None:
    """Who trained, selected and tested the model of a fold; `None` of a model that does not lie in a run.

    The final model of a run, of no fold, was trained on everybody.
    """
    folder, result = _run_folder(model), _fold_result(model)
    if folder is None or not (folder / PLANS).is_file():
        return None
    plans = [FoldPlan.from_dict(plan) for plan in read_json(folder / PLANS)]
    everybody = dict.fromkeys(name for plan in plans for part in PARTS for name in getattr(plan, part))
    final = FoldPlan(0, "nobody", None, tuple(everybody), (), ())
    return next((plan for plan in plans if plan.hash == result.get("plan")), final)


def _fold_result(model: str | os.PathLike) -> dict[str, Any]:
    path = Path(model) / FOLD_RESULT
    return read_json(path) if path.is_file() else {}


def _run_folder(model: str | os.PathLike) -> Path | None:
    """The run in whose folder, or in whose seed's folder, a model lies."""
    return next((folder for folder in Path(model).absolute().parents[:2] if (folder / SETTINGS).is_file()), None)


def _is_corpus_of(run: Path, corpus: str) -> bool:
    """Whether a run was made with a corpus: the same known one, or the same files."""
    results: Mapping[str, Any] = read_json(run / RESULTS) if (run / RESULTS).is_file() else {}
    entry = find_corpus(corpus)
    if entry is not None:
        return entry.name == results.get("corpus", {}).get("name")
    return results.get("source") is not None and Path(corpus).absolute() == Path(results["source"]).absolute()


def _labels(config: ShiftConfig, corpus: SpeechCorpus) -> list[str]:
    """The classes of a model; not the `other` that soft labels may have, unless the corpus has it as well."""
    dimensions = config.dimensions or []
    names = [name for _, name in sorted(config.id2label.items()) if name not in dimensions]
    return names[:-1] if config.problem.soft and names[-1] == OTHER and OTHER not in corpus.targets.labels else names


def _with_labels(corpus: SpeechCorpus, labels: list[str]) -> SpeechCorpus:
    """The same corpus with the class numbers of a model."""
    there = corpus.targets.labels
    if unknown := [label for label in there if label not in labels]:
        raise ValueError(
            f"every label of the corpus must be one of the model's, {', '.join(labels)}; {corpus.info.title} has"
            f" {', '.join(there)}. --labels joins or renames labels, such as {labels[0]}={unknown[0]}, and"
            f" --exclude leaves some out"
        )
    if absent := [label for label in labels if label not in there]:
        logger.warning("%s has no %s: scores are over the labels that it has", corpus.info.title, ", ".join(absent))
    return corpus.with_labels(labels)


def _chosen(model: str | os.PathLike, corpus: SpeechCorpus, seen: str | None) -> list[str]:
    """Which utterances are scored, in the order of the corpus."""
    names = corpus.utterances
    speakers = dict(zip(names, corpus.dataset["speaker"], strict=True))
    plan = plan_of(model)
    if plan is None:
        logger.info("no plan of a run lies beside the model: whether it was trained on these utterances is not known")
        return names
    trained = {*plan.train, *plan.validation} & set(names)
    if not trained or seen == "keep":
        if trained:
            logger.warning("%d of %d utterances are scored that the model was trained on", len(trained), len(names))
        return names
    heard, test = {speakers[name] for name in trained}, set(plan.test)
    others = [name for name in names if name in test or speakers[name] not in heard]
    if seen is None:
        raise ValueError(
            f"seen must be said, since the model was trained on or selected by {len(trained)} of the {len(names)}"
            f" utterances of {corpus.info.title}, such as {next(iter(sorted(trained)))!r}: leave_out scores the"
            f" {len(others)} others, of other speakers; keep scores all"
        )
    if not others:
        raise ValueError(f"seen must be keep, since the model was trained on all speakers of {corpus.info.title}")
    return others
