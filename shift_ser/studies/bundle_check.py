"""The check of a bundle: every score, interval and sentence is computed again from the predictions."""

import csv
import hashlib
import io
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from ..evaluation.calibration import describe as describe_calibration
from ..evaluation.metrics import SCORES, wa_ua_f1
from ..evaluation.predictions import Predictions
from ..evaluation.report import headline, summarise
from ..evaluation.run_folder import (
    CELL,
    PLANS,
    PREDICTIONS,
    RESULTS,
    STUDY_BASELINES,
    STUDY_GROUPS,
    STUDY_ROWS,
    STUDY_SUMMARY,
    read_json,
)
from ..evaluation.uncertainty import describe as describe_uncertainty
from ..model.heads import variants
from ..training.fold_plan import FoldPlan
from ..training.targets import label_fingerprint
from .baselines import baseline_key
from .bundle import BUNDLE, FORMAT, PAGE, are_published, counts, entry_places, published_total, study_texts
from .bundle_page import page_text
from .grid import SHIFT_OPTIONS
from .table import study_groups

_CLOSE = 1e-9


class BundleError(ValueError):
    """A bundle that does not add up; the message names the file."""


def verify_bundle(folder: str | Path) -> dict[str, int]:
    """Check that a bundle adds up.

    Files are what `bundle.json` says they are; predictions are those of the plans' test sets, once each, with the same
    labels everywhere, which have the corpus's fingerprint where every utterance was tested; scores of folds, means,
    intervals and calibration, tables, sentences and the page are what comes of the predictions; counts of the corpus
    are those of the predictions.

    Args:
        folder: The bundle.

    Returns:
        How many `studies`, `cells`, `folds` and `predictions` were checked.

    Raises:
        BundleError: If something does not fit; the file is named.
        FileNotFoundError: If there is no bundle.
    """
    folder = Path(folder)
    if not (folder / BUNDLE).is_file():
        raise FileNotFoundError(f"a bundle must hold {BUNDLE}, there is none in {str(folder)!r}")
    with _blamed(BUNDLE):  # and whichever file says so itself
        bundle = read_json(folder / BUNDLE)
        if bundle["format"] != FORMAT:
            raise ValueError(f"its format must be {FORMAT}, got {bundle['format']}")
        _check_files(folder, bundle)
        done = {"studies": 0, "cells": 0, "folds": 0, "predictions": 0}
        known: dict[str, tuple[Any, ...]] = {}
        groups: dict[str, list[dict[str, Any]]] = {}
        for name, entry in bundle["studies"].items():
            tested: set[str] = set()
            for cell in _whole(entry):
                folds, said = _check_cell(folder, f"{name}/{cell}", bundle["corpus"]["fingerprints"], known)
                done = {**done, "cells": done["cells"] + 1, "folds": done["folds"] + folds}
                done["predictions"] += len(said)
                tested = tested or said
                if said != tested:
                    raise BundleError(f"{name}/{cell}/{PREDICTIONS}: it must be of the utterances of the other cells")
            groups[name] = _check_study(folder, name, entry)
            done["studies"] += 1
        _check_corpus(folder, bundle)
        _same_text(page_text(folder, bundle, groups), folder, PAGE)
    return done


def _whole(entry: Mapping[str, Any]) -> list[str]:
    """The cells of a study that are there."""
    return [cell for cell in dict.fromkeys(place["cell"] for place in entry["places"]) if cell not in entry["missing"]]


@contextmanager
def _blamed(file: str) -> Iterator[None]:
    """Say which file is at fault for what goes wrong inside."""
    try:
        yield
    except BundleError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        told = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise BundleError(f"{file}: {told}") from error


def _check_files(folder: Path, bundle: Mapping[str, Any]) -> None:
    """The files that a bundle has, no others, each with the hash that is listed."""
    files, expected = bundle["files"], {PAGE}
    for name, entry in bundle["studies"].items():
        own = [STUDY_ROWS, STUDY_GROUPS] if _whole(entry) else []
        own += [STUDY_SUMMARY, *entry["figures"], *([STUDY_BASELINES] if entry["baselines"] else [])]
        own += [f"{cell}/{file}" for cell in _whole(entry) for file in (PREDICTIONS, PLANS, RESULTS, CELL)]
        expected |= {f"{name}/{file}" for file in own}
    for name in sorted(set(files) - expected):
        raise BundleError(f"{name}: a bundle has no such file")
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {BUNDLE}
    for name in sorted(there ^ set(files)):
        raise BundleError(f"{name}: " + ("it is not listed in bundle.json" if name in there else "it is missing"))
    for name, digest in files.items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            raise BundleError(f"{name}: it has changed, its SHA-256 is not the one in {BUNDLE}")


def _check_cell(
    folder: Path, cell: str, fingerprints: Mapping[str, str], known: dict[str, tuple[Any, ...]]
) -> tuple[int, set[str]]:
    """Predictions against plans and results; gives the number of folds, and whose predictions there are."""
    names = {file: f"{cell}/{file}" for file in (PREDICTIONS, PLANS, RESULTS)}
    with _blamed(names[PLANS]):
        plans = {plan.fold: plan for plan in map(FoldPlan.from_dict, read_json(folder / names[PLANS]))}
    with _blamed(names[RESULTS]):
        results = read_json(folder / names[RESULTS])
        for name, value in fingerprints.items():
            if results["settings"]["fingerprints"][name] != value:
                raise ValueError(f"it is of another corpus: the fingerprint of its {name} is another one")
        _check_folds(results, plans)
        for result in results["folds"]:
            _check_log(result, metric=results["settings"]["selection_metric"])
    with _blamed(names[PREDICTIONS]):
        said = Predictions.read(folder / names[PREDICTIONS])
        _check_rows(said, plans, results["folds"], known)
        _check_labels(said, plans, fingerprints["labels"])
    with _blamed(names[RESULTS]):
        _check_scores(said, plans, results)
    return len(results["folds"]), set(said.table["utterance"])


def _check_folds(results: Mapping[str, Any], plans: Mapping[int, FoldPlan]) -> None:
    """Every fold of the plans is there, or said to be missing."""
    if {str(fold): plan.hash for fold, plan in plans.items()} != results["settings"]["plans"]:
        raise ValueError(f"its settings name other plans than {PLANS}")
    told = sorted((entry["fold"], entry["seed"]) for entry in [*results["folds"], *results["missing"]])
    if told != [(fold, results["settings"]["seed"]) for fold in sorted(plans)]:
        raise ValueError(f"every fold of {PLANS} must be there or missing, once, got (fold, seed) {told}")
    if results["summary"]["num_folds"] != len(plans):
        raise ValueError(f"num_folds must be {len(plans)}, as in {PLANS}, got {results['summary']['num_folds']}")


def _check_rows(
    said: Predictions, plans: Mapping[int, FoldPlan], folds: list[Any], known: dict[str, tuple[Any, ...]]
) -> None:
    """The test set of each fold, once; labels and speakers as in all other cells; the top label is the prediction."""
    wanted = {(fold["fold"], fold["seed"]) for fold in folds}
    found = {key: set(rows["utterance"]) for key, rows in said.table.groupby(["fold", "seed"])}
    for fold, seed in sorted(wanted ^ set(found)):
        raise ValueError(f"fold {fold} with seed {seed} must be in predictions and results, it is in one of them")
    for (fold, seed), utterances in found.items():
        for name in sorted(utterances ^ set(plans[fold].test)):
            where = "is missing" if name not in utterances else "is not in its plan"
            raise ValueError(f"fold {fold} with seed {seed}: utterance {name!r} {where}")
    for utterance, label, speaker in said.table[["utterance", "label", "speaker"]].itertuples(index=False):
        if known.setdefault(utterance, (label, speaker)) != (label, speaker):
            told = f"{(label, speaker)} and {known[utterance]}"
            raise ValueError(f"utterance {utterance!r} must have one label and speaker, got {told} in two cells")
    if said.probabilities is not None:
        top = said.probabilities.max(axis=1)
        chosen = said.probabilities[np.arange(len(said)), said.predicted]
        if (wrong := chosen < top).any():
            name = said.table["utterance"][int(wrong.argmax())]
            raise ValueError(f"the prediction of {name!r} must be the label with the highest probability")


def _check_labels(said: Predictions, plans: Mapping[int, FoldPlan], expected: str) -> None:
    """The fingerprint of all labels, where every utterance was tested and so has a row."""
    class_of = dict(zip(said.table["utterance"], said.references.tolist(), strict=True))
    if set().union(*(plan.utterances for plan in plans.values())) <= class_of.keys():
        found = label_fingerprint(said.labels, class_of)
        if found != expected:
            raise ValueError(f"its labels have the fingerprint {found}, those of the corpus {expected}")


def _check_log(result: Mapping[str, Any], *, metric: str) -> None:
    """The columns of a fold, and the epoch that was selected, against the scores logged after each epoch."""
    epochs = [entry for entry in result["history"] if "eval_test_wa" in entry]
    tested = [{name: entry[f"eval_test_{name}"] for name in SCORES} for entry in epochs]
    columns = {"last": tested[-1], "oracle": {name: max(scores[name] for scores in tested) for name in SCORES}}
    for column, scores in columns.items():
        if column != headline(result):
            _same(scores, result["columns"][column], f"fold {result['fold']}, {column}, of the logged epochs")
    if result["validation"]:
        logged = [entry for entry in result["history"] if f"eval_validation_{metric}" in entry]
        best = max(logged, key=lambda entry: entry[f"eval_validation_{metric}"])
        _same(round(best["epoch"]), result["selected_epoch"], f"fold {result['fold']}, epoch selected by {metric}")
        scores = {name: best[f"eval_validation_{name}"] for name in SCORES}
        _same(scores, result["validation"], f"fold {result['fold']}, validation, of the logged epochs")


def _check_scores(said: Predictions, plans: Mapping[int, FoldPlan], results: Mapping[str, Any]) -> None:
    """Scores of folds, their means, intervals and calibration, from the predictions."""
    table = said.table.assign(true=said.references, guess=said.predicted)
    for result in results["folds"]:
        where = f"fold {result['fold']} with seed {result['seed']}"
        if plans[result["fold"]].hash != result["plan"]:
            raise ValueError(f"{where}: its plan is another one than that in {PLANS}")
        rows = table[(table["fold"] == result["fold"]) & (table["seed"] == result["seed"])]
        scores = wa_ua_f1(rows["guess"].to_numpy(), references=rows["true"].to_numpy())
        _same(scores, result["test"], f"{where}, scores of the predictions")
        _same(scores, result["columns"][headline(result)], f"{where}, {headline(result)}")
    _same(summarise(results["folds"], num_folds=results["summary"]["num_folds"]), results["summary"], "summary")
    _same(describe_uncertainty(said), results["uncertainty"], "uncertainty")
    _same(describe_calibration(said), results["calibration"], "calibration")


def _check_study(folder: Path, name: str, entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Baselines from their predictions; tables to the last digit that counts; sentences to the letter.

    Returns:
        What `study_groups` says of the study.
    """
    with _blamed(BUNDLE):
        for place in entry["places"]:
            if place["cell"] not in entry["missing"]:
                _check_place(folder / name / place["cell"], place)
    if entry["baselines"]:
        with _blamed(f"{name}/{STUDY_BASELINES}"):
            _check_baselines(folder / name, entry)
    with _blamed(BUNDLE):
        groups = study_groups(folder / name, entry_places(entry))
        texts = study_texts(folder / name, entry, groups)
    for file, text in texts.items():
        if file.endswith(".csv"):
            _same_table(text, folder, f"{name}/{file}")
        else:
            _same_text(text, folder, f"{name}/{file}")
    return groups


def _check_place(cell: Path, place: Mapping[str, Any]) -> None:
    """The options that a place of the grid shows against the settings of its cell."""
    said, there = place["options"], read_json(cell / RESULTS)["settings"]
    without = there["shift_placement"] == "none"  # what moves nothing is one cell, however it was said
    head = variants()[there["variant"]][0]
    if said["head_type"] != head or (without and said["shift_placement"] != "none" and said["shift_proportion"] != 0):
        raise ValueError(f"{cell.name} is of another model than its place in the grid says")
    left = {"corpus"} | ({"shift_placement", *SHIFT_OPTIONS} if without else set())
    if there["shift_proportion"] == 0:  # how nothing would move is not said
        left |= {*SHIFT_OPTIONS} - {"shift_proportion", "shift_layers"}
    for name in (said.keys() & there.keys()) - left:
        chosen = name == "protocol" and (said[name], there[name]) == ("test_blind", "speaker_groups")
        if said[name] is not None and str(said[name]) != str(there[name]) and not chosen:
            raise ValueError(f"{cell.name} has {name} {there[name]!r}, its place in the grid says {said[name]!r}")


def _check_baselines(folder: Path, entry: Mapping[str, Any]) -> None:
    """Scores of the baselines from their predictions, on the folds of the first cell that shows them."""
    known, checked = read_json(folder / STUDY_BASELINES), set()
    for cell in (place["cell"] for place in entry["places"] if place["cell"] not in entry["missing"]):
        key = baseline_key(folder / cell)
        if key in checked or key not in known:
            continue
        checked.add(key)
        table = Predictions.read(folder / cell / PREDICTIONS).table
        labels = dict(zip(table["utterance"], table["label"], strict=True))
        tests = [plan["test"] for plan in read_json(folder / cell / PLANS) if set(plan["test"]) <= labels.keys()]
        for row in known[key]:
            scores = [
                wa_ua_f1([row["predicted"][n] for n in test], references=[labels[n] for n in test]) for test in tests
            ]
            for name in SCORES:
                values = [score[name] for score in scores]
                spread = {"mean": fmean(values), "std": stdev(values) if len(values) > 1 else None}
                _same(spread, row[name], f"{row['name']}, {name}")


def _check_corpus(folder: Path, bundle: Mapping[str, Any]) -> None:
    told = bundle["corpus"]
    results, counted = counts(folder, bundle["studies"])
    _same(counted, told["counts"], "counts of the corpus")
    for name in ("name", "title", "description", "synthetic"):
        _same(results["corpus"][name], told[name], f"{name} of the corpus")
    if (told["published"] or {}).get("utterances") != published_total(told["name"]):
        raise ValueError(f"{published_total(told['name'])} utterances of the corpus are published, not as it says")
    _same(are_published(counted, told["published"]), told["counts_are_published"], "counts_are_published")


def _same(here: Any, there: Any, what: str) -> None:
    """Refuse numbers that differ by more than rounding, and anything else that differs."""
    for path, ours, theirs in _differences(json.loads(json.dumps(here)), there, what):
        raise ValueError(f"{path} must be {ours!r} by the rest of the bundle, got {theirs!r}")


def _differences(ours: Any, theirs: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for name in {**ours, **theirs}:
            yield from _differences(ours.get(name), theirs.get(name), f"{path}, {name}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from _differences(one, other, f"{path}, {index}")
    elif not _equal(ours, theirs):
        yield path, ours, theirs


def _equal(ours: Any, theirs: Any) -> bool:
    numbers = [isinstance(value, (int, float)) and not isinstance(value, bool) for value in (ours, theirs)]
    return math.isclose(ours, theirs, rel_tol=_CLOSE, abs_tol=_CLOSE) if all(numbers) else ours == theirs


def _same_table(text: str, folder: Path, file: str) -> None:
    ours, theirs = (list(csv.reader(io.StringIO(each))) for each in (text, _read(folder, file)))
    nothing: list[str] = []
    for line, (one, other) in enumerate(itertools.zip_longest(ours, theirs, fillvalue=nothing), 1):
        if len(one) != len(other) or not all(_equal(_number(a), _number(b)) for a, b in zip(one, other, strict=True)):
            raise BundleError(
                f"{file}: line {line} must be {','.join(one)!r} by the predictions, got {','.join(other)!r}"
            )


def _number(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell


def _same_text(text: str, folder: Path, file: str) -> None:
    for line, (one, other) in enumerate(
        itertools.zip_longest(text.splitlines(), _read(folder, file).splitlines(), fillvalue=""), 1
    ):
        if one != other:
            raise BundleError(f"{file}: line {line} must be {one!r} by the predictions, got {other!r}")


def _read(folder: Path, file: str) -> str:
    try:
        return (folder / file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{file}: {error}") from error
