"""Each fold's model on the dialogs of its held-out speakers, against the times of the labels."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile as sf

from ..corpora.iemocap import find_release, label_files, read_label_file
from ..evaluation.dialogs import DialogTime, Span, dialogs_table
from ..evaluation.predictions import Predictions
from ..evaluation.run_folder import (
    DIALOGS,
    DIALOGS_TABLE,
    PLANS,
    PREDICTIONS,
    RESULTS,
    fold_folder,
    read_json,
    write_json,
    write_text,
)
from .predict import load_classifier, model_classes

logger = logging.getLogger(__name__)

TURNS = "turns given"  # in place of windows: the times of the labels, and silence elsewhere


@dataclass(frozen=True)
class Dialog:
    """A dialog's recording and who says what when.

    Attributes:
        path: Of the recording.
        names: Of its utterances, in the order of `spans`.
        spans: Start and end of each utterance in seconds.
    """

    path: Path
    names: list[str]
    spans: list[tuple[float, float]]


def read_dialogs(corpus: str | Path) -> list[Dialog]:
    """The dialogs of a corpus in IEMOCAP's layout, `dialog/wav` beside `dialog/EmoEvaluation`.

    Raises:
        FileNotFoundError: If the folder is none, or a recording is missing.
        ValueError: If a label line does not parse.
    """
    root, dialogs = find_release(corpus), []
    for session, path in label_files(root):
        utterances, errors = read_label_file(path, root=root, session=session)
        if errors:
            raise ValueError(errors[0])
        wav = root / f"Session{session}" / "dialog" / "wav" / f"{path.stem}.wav"
        if not wav.is_file():
            raise FileNotFoundError(f"the corpus must hold the recordings of whole dialogs, {wav} is missing")
        dialogs.append(Dialog(wav, [one.name for one in utterances], [(one.start, one.end) for one in utterances]))
    return dialogs


def evaluate_dialogs(
    run: str | Path,
    corpus: str | Path,
    *,
    chunk_lengths_s: Sequence[float] = (4.0,),
    step: float = 0.25,
    **options: Any,
) -> list[dict[str, Any]]:
    """Score the timelines of a finished run's models; the folder `dialogs` of the run gets the table.

    A fold's model hears the dialogs of which every labelled utterance is in its test set. An utterance whose label the
    run left out is not scored.

    Args:
        run: Folder of the run.
        corpus: Folder of the corpus that it was trained on.
        chunk_lengths_s: Lengths of the window, each of which is tried.
        step: From window to window, as a share of the window's length.
        **options: Others of `timeline`.

    Returns:
        For each length (of models trained with `frame_labels` once with scores of windows and once with scores of their
        frames), and for the times of the labels in place of windows, a row for each fold and one for all:
        `setting`, `fold` (a number or `all`), `scores` (see `DialogTime.scores`).

    Raises:
        FileNotFoundError: If there is no finished run, no such corpus or a recording is missing.
        ValueError: If no fold leaves out a whole dialog, or an option is out of its range.
    """
    run = Path(run)
    results, dialogs = read_json(run / RESULTS), read_dialogs(corpus)
    counted: dict[str, dict[Any, DialogTime]] = {}
    for fold, classifier, known, heard in _folds(run, results, dialogs):
        labels = model_classes(classifier.model.config)
        frames = getattr(classifier.model.config, "frame_labels", False)
        for setting, given in _settings(chunk_lengths_s, step, frames=frames):
            time = counted.setdefault(setting, {}).setdefault(fold, DialogTime(labels))
            for dialog in heard:
                _score(classifier, dialog, known, time, {**options, **given}, turns=setting == TURNS)
        logger.info("fold %s: %d dialogs", fold, len(heard))
    if not counted:
        raise ValueError("a fold of the run must leave out a whole dialog, got none: its folds must be of sessions")
    rows = [row for setting, of_folds in counted.items() for row in _rows(setting, of_folds)]
    (run / DIALOGS).mkdir(exist_ok=True)
    write_json(run / DIALOGS / RESULTS, {"rows": rows, "options": {**options, "step": step}})
    write_text(run / DIALOGS / DIALOGS_TABLE, f"{results['corpus']['description']}\n\n{dialogs_table(rows)}\n")
    return rows


def _settings(chunk_lengths_s: Sequence[float], step: float, *, frames: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Windows of each length, of a model of frame labels with scores of windows and of frames, and given turns."""
    for length in chunk_lengths_s:
        name, window = f"{length:g} s every {step * length:g} s", {"chunk_length_s": length, "step_s": step * length}
        yield name, {**window, "frame_scores": False}
        if frames:
            yield f"frames of {name}", {**window, "frame_scores": True}
    yield TURNS, {}


def _folds(
    run: Path, results: Mapping[str, Any], dialogs: Sequence[Dialog]
) -> Iterator[tuple[Any, Any, dict[str, str], list[Dialog]]]:
    """Number, model, labels by utterance and dialogs of each fold that has any."""
    plans = read_json(run / PLANS)
    tested = {plan["fold"]: set(plan["test"]) for plan in plans}
    everyone = set().union(*(set(plan["test"]) | set(plan["train"]) for plan in plans))
    for result in results["folds"]:
        folder = run / fold_folder(result, seeds=results["settings"]["seeds"])
        table = Predictions.read(folder / PREDICTIONS).table
        if "label" not in table:
            raise ValueError("dialogs need a run of labels, got one of dimensions alone")
        known = dict(zip(table["utterance"], table["label"], strict=True))
        labelled = [(dialog, everyone & set(dialog.names)) for dialog in dialogs]
        heard = [dialog for dialog, names in labelled if names and names <= tested[result["fold"]]]
        if heard:
            seed = f", seed {result['seed']}" if len(results["settings"]["seeds"] or []) > 1 else ""
            yield f"{result['fold']}{seed}", load_classifier(folder), known, heard


def _score(
    classifier: Any, dialog: Dialog, known: Mapping[str, str], time: DialogTime, options: dict[str, Any], *, turns: bool
) -> None:
    truth = [Span(*span, known.get(name)) for name, span in zip(dialog.names, dialog.spans, strict=True)]
    segments = None
    if turns:
        segments = [{"start": span.start, "end": span.end} for span in truth if span.label is not None]
    found = classifier.timeline(dialog.path, segments=segments, **options)
    heard = [Span(segment["start"], segment["end"], segment["label"]) for segment in found]
    time.add(truth, heard, duration=sf.info(dialog.path).duration)


def _rows(setting: str, of_folds: Mapping[Any, DialogTime]) -> Iterator[dict[str, Any]]:
    """One for each fold, and one for all their time."""
    everything = None
    for fold, time in of_folds.items():
        everything = everything or DialogTime(time.labels)
        everything.merge(time)
        yield {"setting": setting, "fold": fold, "scores": time.scores()}
    assert everything is not None
    yield {"setting": setting, "fold": "all", "scores": everything.scores()}
