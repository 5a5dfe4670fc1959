"""Each fold's model on its held-out utterances, in every condition of `CONDITIONS`."""

import copy
import dataclasses
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from ..corpora.corpus import SAMPLING_RATE, SpeechAudio
from ..evaluation.predictions import Predictions
from ..evaluation.robustness import CLEAN, CONDITIONS, NUM_TALKERS, Condition
from ..evaluation.robustness_report import describe_robustness, plot_robustness, robustness_table
from ..evaluation.run_folder import (
    CURVES,
    PREDICTIONS,
    RESULTS,
    ROBUSTNESS,
    ROBUSTNESS_TABLE,
    read_json,
    write_checksums,
    write_json,
    write_text,
)
from .cross_validation import CrossValidation
from .data import SpeechCorpus
from .fold import FoldRun
from .run_lock import run_lock

logger = logging.getLogger(__name__)

_DRAWN = 4 * NUM_TALKERS  # utterances of other speakers from which an utterance's babble is drawn


def evaluate_robustness(
    run: CrossValidation, *, conditions: Sequence[str] | None = None, seed: int = 0
) -> list[dict[str, Any]]:
    """Score a finished run's models in each condition; a condition that is done is read, not scored again.

    Changed recordings, and the frames that a frozen encoder makes of them, lie in a temporary folder that is gone when
    the condition is scored; each is made once for all folds. The folder `robustness` of the run gets predictions, table
    and curves.

    Args:
        run: A run whose folds are done.
        conditions: Names of `CONDITIONS`; default: all. `clean` is always among them.
        seed: Draws noise, babble and reverberation, each utterance's from its own name.

    Returns:
        What `describe_robustness` returns.

    Raises:
        ValueError: If a condition is not known, or the run has no classes.
        FileNotFoundError: If a fold is not done.
    """
    names = list(CONDITIONS) if conditions is None else [CLEAN, *(name for name in conditions if name != CLEAN)]
    if unknown := [name for name in names if name not in CONDITIONS]:
        raise ValueError(f"conditions must be among {list(CONDITIONS)}, got {unknown[0]!r}")
    if not run.corpus.targets.labels:
        raise ValueError(f"robustness is told in UA, but the run tells {', '.join(run.corpus.targets.dimensions)}")
    folder = run.output_dir / ROBUSTNESS / f"seed{seed}"
    run.check_output_dir()
    with run_lock(run.output_dir):
        told = {name: _said(run, CONDITIONS[name], folder / name, seed) for name in names}
    rows = describe_robustness(told)
    title = f"{run.model_title} on {run.corpus.info.title}"
    write_json(folder / RESULTS, {"seed": seed, "corpus": run.corpus.info.name, "conditions": rows})
    write_text(folder / ROBUSTNESS_TABLE, f"{run.corpus.info.description}\n\n{robustness_table(rows)}\n")
    plot_robustness(folder / CURVES, rows, title=title)
    report = read_json(run.output_dir / RESULTS)
    run.write_page(report, Predictions.read(run.output_dir / PREDICTIONS))  # which now shows the conditions
    return rows


def _said(run: CrossValidation, condition: Condition, folder: Path, seed: int) -> Predictions:
    """The predictions of all folds in one condition."""
    path = folder / PREDICTIONS
    wanted = sum(len(fold.plan.test) for fold in run.fold_runs)
    try:
        if path.exists() and len(done := Predictions.read(path)) == wanted:
            logger.info("%s is done: %s", condition.name, path)
            return done
    except ValueError as error:
        logger.warning("%s is scored again: %s", condition.name, error)
    logger.info("%s: %s", condition.name, condition.help)
    with tempfile.TemporaryDirectory() as place:
        corpus = (
            run.corpus if condition.name == CLEAN else changed_corpus(run.corpus, condition, Path(place), seed=seed)
        )
        parts = [_score(run, fold, corpus, folder) for fold in run.fold_runs]
    pooled = Predictions.pooled(parts)
    pooled.write(path)
    write_checksums(folder, [PREDICTIONS])
    return pooled


def _score(run: CrossValidation, fold: FoldRun, corpus: SpeechCorpus, folder: Path) -> Predictions:
    other = copy.copy(fold)
    other.corpus = corpus
    other.evaluate(folder / fold.folder.relative_to(run.output_dir) / PREDICTIONS)
    return other.predictions()


def changed_corpus(corpus: SpeechCorpus, condition: Condition, folder: Path, *, seed: int) -> SpeechCorpus:
    """The corpus with every recording changed, as float32 files in a folder.

    Args:
        corpus: As it is.
        condition: What to do to it.
        folder: Where the files go.
        seed: See `evaluate_robustness`.
    """
    names, speakers = list(corpus.dataset["utterance"]), list(corpus.dataset["speaker"])
    audio, paths = corpus.dataset["audio"], []
    for row, name in enumerate(names):
        others = _others(audio, speakers, row, seed) if condition.kind == "babble" else []
        samples = condition(audio[row]["array"], sampling_rate=SAMPLING_RATE, utterance=name, seed=seed, others=others)
        paths.append(str(folder / f"{row}.wav"))
        sf.write(paths[-1], samples, SAMPLING_RATE, subtype="FLOAT")
    changed = copy.copy(corpus)
    changed.cache = None
    changed.data_args = dataclasses.replace(corpus.data_args, cache_dir=str(folder / "frames"))
    changed.__dict__.pop("recordings", None)
    rows = corpus.dataset.remove_columns("audio").add_column("audio", paths)
    changed.dataset = rows.cast_column("audio", SpeechAudio())
    return changed


def _others(audio: Any, speakers: Sequence[Any], row: int, seed: int) -> list[np.ndarray]:
    """Utterances of other speakers, drawn for this one; those alone are read."""
    rows = [index for index, speaker in enumerate(speakers) if speaker != speakers[row]]
    rng = np.random.default_rng([seed, row])
    drawn: Sequence[int] = rng.choice(rows, size=min(_DRAWN, len(rows)), replace=False).tolist() if rows else []
    return [audio[index]["array"] for index in drawn]
