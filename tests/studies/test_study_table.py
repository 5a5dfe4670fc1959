import numpy as np
import pytest

from shift_ser.evaluation.comparison import compare
from shift_ser.evaluation.predictions import Predictions
from shift_ser.evaluation.run_folder import RESULTS, STUDY_BASELINES, write_json
from shift_ser.studies.baselines import baseline_key, baselines_of
from shift_ser.studies.table import group_table, sentences

LABELS = ["angry", "happy", "neutral", "sad"]


def write_cell(folder, right, *, seed):
    """Five folds of two speakers each, without models."""
    rng, rows = np.random.default_rng(seed), []
    for number in range(400):
        speaker, true = number % 10, LABELS[number // 10 % 4]
        guess = true if rng.random() < right else LABELS[rng.integers(4)]
        rows.append({"utterance": f"u{number}", "speaker": f"s{speaker}", "fold": speaker // 2 + 1, "seed": seed % 2,
                     "label": true, "prediction": guess})  # fmt: skip
    folder.mkdir()
    Predictions.from_rows(rows).write(folder / "predictions.csv")
    folds = [{"fold": fold, "seed": seed % 2, "plan": f"p{fold}"} for fold in range(1, 6)]
    write_json(folder / "results.json", {"folds": folds, "settings": {"seeds": None, "seed": seed % 2}})
    return folder.name


@pytest.fixture
def group(tmp_path):
    def make(proportion, *, right, validation, ua=0.0, placement="residual", head="cnn", seeds=2):
        name = f"{head}_{placement}_{proportion}"
        start = 2 * (hash(right) % 1000)
        cells = [write_cell(tmp_path / f"{name}_{seed}", right, seed=start + seed) for seed in range(seeds)]
        options = {"head_type": head, "shift_placement": placement, "shift_proportion": proportion}
        return {**options, "cells": cells, "validation": validation, "ua": {"mean": ua}}

    return make


def test_the_best_proportion_is_that_of_the_validation_set_and_p_is_adjusted(group, tmp_path):
    groups = [
        group(0.0, right=0.3, validation=0.3),
        group(0.25, right=0.8, validation=0.9, ua=0.5),
        group(0.5, right=0.6, validation=0.4, ua=0.7),  # better on the test sets
        group(0.0, right=0.5, validation=0.3, head="lstm"),
        group(0.25, right=0.51, validation=0.5, head="lstm"),
    ]
    cnn, lstm = sentences(tmp_path, groups)
    start = "**cnn, residual**: the best of 2 proportions on the validation sets is 1/4. Proportion 1/4 is "
    assert cnn.startswith(start) and "by Holm over 2 sentences" in cnn and cnn.endswith("the data tell them apart.")
    assert lstm.startswith("**lstm, residual**: proportion 1/4 alone. Proportion 1/4 is ")
    assert "do not tell them apart" in lstm and "5 folds with 10 speakers, 2 seeds" in lstm


def test_ties_are_told_and_a_choice_on_the_test_set_as_well(group, tmp_path):
    tie = [group(proportion, right=0.5, validation=0.5, placement="replace") for proportion in (0.25, 0.125)]
    alone = [group(proportion, right=0.5, validation=None, ua=proportion) for proportion in (0.125, 0.25)]
    assert sentences(tmp_path, tie) == [
        "**cnn, replace**: of 2 proportions 1/8, 1/4 tie as the best on the validation sets, and 1/8 stands for them;"
        " nothing without a shift is in the grid to compare it with."
    ]
    assert "the best of 2 proportions on the test sets, which flatters it, is 1/4;" in sentences(tmp_path, alone)[0]


def test_one_seed_tells_nothing_apart(group, tmp_path):
    groups = [group(0.0, right=0.3, validation=0.3, seeds=1), group(0.25, right=0.8, validation=0.9, seeds=1)]
    assert sentences(tmp_path, groups)[0].endswith("but one seed does not tell the methods apart.")
    assert compare(*(tmp_path / each["cells"][0] for each in groups))["ua"]["p"] < 0.05


def test_baselines_of_two_divisions_are_told_apart_and_of_two_heads_are_one(tmp_path):
    known, groups = {}, []
    for protocol, plans, ua in (("test_blind", {"1": "a"}, 0.4), ("authors", {"1": "b"}, 0.5)):
        for head in ("cnn", "lstm"):
            cell = tmp_path / f"{head}-{protocol}"
            cell.mkdir()
            write_json(cell / RESULTS, {"settings": {"plans": plans}, "folds": [{"fold": 1}]})
            scores = {name: {"mean": ua, "std": None} for name in ("wa", "ua", "f1")}
            known[baseline_key(cell)] = [{"name": "statistics", **scores}]
            options = {"head_type": head, "shift_placement": "none", "shift_proportion": 0.0, "protocol": protocol}
            groups.append({**options, "cells": [cell.name]})
    write_json(tmp_path / STUDY_BASELINES, known)
    rows = baselines_of(tmp_path, groups)
    assert [(row["head_type"], row["protocol"], row["ua"]["mean"]) for row in rows] == [
        ("statistics", "test_blind", 0.4), ("statistics", "authors", 0.5),
    ]  # fmt: skip
    table = group_table(rows, varied=("shift_proportion", "protocol"))
    assert "| statistics | - | - | test_blind | 1 | 40.0 |" in table and "| authors | 1 | 50.0 |" in table
