"""Train on each corpus of a list, test on each: within a corpus over its folds, elsewhere on the whole of it."""

import copy
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..corpora import load_corpus
from ..corpora.table import pairs
from ..evaluation.cross_report import cross_table, describe_cross, plot_cross
from ..evaluation.predictions import Predictions
from ..evaluation.run_folder import CROSS, CROSS_FIGURE, CROSS_TABLE, RESULTS, write_json, write_text
from .arguments import DataArguments, ModelArguments, RunArguments
from .cross_validation import CrossValidation, versions
from .data import SpeechCorpus
from .evaluate_model import evaluate_model

logger = logging.getLogger(__name__)


def cross_corpora(
    sources: Sequence[str], model_args: ModelArguments, data_args: DataArguments, run_args: RunArguments
) -> list[dict[str, Any]]:
    """The matrix of scores of every corpus' models on every corpus, over the labels that all of them have.

    A run over the folds of each corpus gives the diagonal; its folds' models then each score the whole of every other
    corpus. The same call goes on where it was stopped, and scores nothing twice.

    Args:
        sources: At least two corpora, named by their folders' last parts, which must differ.
        model_args: Encoder, head and scenario, the same for all.
        data_args: `labels` is applied to each corpus as far as it has the labels that are joined.
        run_args: Protocol and training; `output_dir` gets a run for each corpus, and the matrix.

    Returns:
        What `describe_cross` returns, with `shared_recordings`, how many the two corpora have in common.

    Raises:
        ValueError: If there are not two corpora or not two common labels; what each has is told.
        RuntimeError: If a fold failed.
    """
    names = [Path(source).name for source in sources]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"corpora must be two or more folders of different names, got {list(sources)}")
    folder = Path(run_args.output_dir)
    options = common_labels(sources, data_args)
    runs = {}
    for name, source in zip(names, sources, strict=True):
        own = copy.copy(run_args)
        own.output_dir = str(folder / name)
        runs[name] = CrossValidation(model_args, dataclasses.replace(data_args, corpus=source, **options[source]), own)
    said: dict[tuple[str, str], Predictions] = {}
    for name, run in runs.items():
        results = run.run()
        if results["missing"]:
            raise RuntimeError(f"{name}: {results['missing'][0]['reason']}")
        for other, there in runs.items():
            path = folder / CROSS / f"{name}_on_{other}.csv"
            said[name, other] = run._pooled(results["folds"]) if name == other else _said(run, there.corpus, path)
    shared = {(name, other): 0 if name == other else _shared(runs[name], runs[other]) for name, other in said}
    rows = [row | {"shared_recordings": shared[row["train"], row["test"]]} for row in describe_cross(said)]
    titles = {name: run.corpus.info.title for name, run in runs.items()}
    told = {"corpora": titles, "labels": runs[names[0]].corpus.targets.labels, "versions": versions(), "pairs": rows}
    write_json(folder / RESULTS, told)
    write_text(folder / CROSS_TABLE, f"{cross_table(rows)}\n")
    plot_cross(folder / CROSS_FIGURE, rows, title=f"{model_args.variant}: trained on one corpus, tested on another")
    return rows


def common_labels(sources: Sequence[str], data_args: DataArguments) -> dict[str, dict[str, Any]]:
    """For each corpus the `labels` that it can be told, and the labels to `exclude` that not all have.

    Raises:
        ValueError: If fewer than two labels are common.
    """
    asked = {new: olds.split(",") for new, olds in pairs(data_args.labels or [], option="labels").items()}
    plain = data_args.corpus_options() | {"labels": None, "exclude": ()}
    joined: dict[str, dict[str, list[str]]] = {}
    after: dict[str, dict[str, str]] = {}
    for source in sources:
        there = load_corpus(source, **plain).features["label"].names
        joined[source] = {new: kept for new, olds in asked.items() if (kept := [old for old in olds if old in there])}
        new_of = {old: new for new, olds in joined[source].items() for old in olds}
        after[source] = {old: new_of.get(old, old) for old in there}
    excluded = set(data_args.exclude or [])
    common = set.intersection(*(set(labels.values()) for labels in after.values())) - excluded
    if len(common) < 2:
        told = "; ".join(f"{source} has {', '.join(dict.fromkeys(after[source].values()))}" for source in sources)
        raise ValueError(f"corpora must have two labels in common (labels joins and renames them), got: {told}")
    return {
        source: {
            "labels": [f"{new}={','.join(olds)}" for new, olds in joined[source].items() if new in common],
            "exclude": [old for old, new in after[source].items() if new not in common],
        }
        for source in sources
    }


def _said(run: CrossValidation, corpus: SpeechCorpus, path: Path) -> Predictions:
    """What the models of all folds say of the whole of another corpus; read if it was written before."""
    names = list(corpus.dataset["utterance"])
    if path.exists() and len(done := Predictions.read(path)) == len(names) * len(run.fold_runs):
        return done
    logger.info("%s: models of %d folds on %d utterances", path.stem, len(run.fold_runs), len(names))
    path.parent.mkdir(parents=True, exist_ok=True)
    # Utterances of two corpora may have the same names: what both hold is told by what is in the recordings.
    (pooled := Predictions.pooled([evaluate_model(fold.folder, corpus, seen="keep") for fold in run.fold_runs])).write(
        path
    )
    return pooled


def _shared(run: CrossValidation, other: CrossValidation) -> int:
    """How many recordings of one corpus are in the other as well, by their samples."""
    theirs = set(other.corpus.content_hashes.values())
    return sum(content in theirs for content in run.corpus.content_hashes.values())
