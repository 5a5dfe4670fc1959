import hashlib
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import command_line

from shift_ser.evaluation.calibration import describe as calibration
from shift_ser.evaluation.metrics import wa_ua_f1
from shift_ser.evaluation.predictions import Predictions
from shift_ser.evaluation.report import headline, summarise
from shift_ser.evaluation.run_folder import read_json, write_json
from shift_ser.evaluation.uncertainty import describe as uncertainty
from shift_ser.recipes import find_study, study_names
from shift_ser.studies.bundle import counts, entry_places, study_texts
from shift_ser.studies.bundle_check import BundleError, verify_bundle
from shift_ser.studies.bundle_page import page_text
from shift_ser.studies.cost import study_cost
from shift_ser.studies.grid import plan_study
from shift_ser.studies.reproduction import plan_set, run_set
from shift_ser.studies.table import study_groups

FOLDS = [1, 2, 3]  # of the study `heads`; `directions` has all five, so that every utterance is tested


@pytest.fixture(scope="module")
def made(encoder, small_corpus, tmp_path_factory):
    """A set of two tiny studies that was run whole, and its bundle; read only."""
    folder = tmp_path_factory.mktemp("set")
    base = {
        "encoder": str(encoder), "cache_dir": str(folder / "frames"), "num_train_epochs": 1, "learning_rate": "1e-3",
        "per_device_train_batch_size": 8, "disable_tqdm": True, "corpus": "nowhere", "seed": 0,
    }  # fmt: skip
    grids = {
        "heads": {"variant": "shiftlstm", "protocol": ["test_blind", "authors"]},
        "directions": {"variant": "shiftcnn", "shift_direction": ["forward", "bidirectional"]},
    }
    for name, grid in grids.items():
        study = {
            "base": {**base, "folds": FOLDS if name == "heads" else None},
            "grid": grid,
            "keep_models": False,
            "baselines": name == "heads",
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({"studies": ["heads.yaml", "directions.yaml"]}), encoding="utf-8")
    planned = plan_set(path, output_dir=folder / "out", corpus=small_corpus)
    before = {name: study_cost(plan) for name, plan in planned.plans.items()}
    return path, before, run_set(planned)


@pytest.fixture
def bundle(made, tmp_path):
    return Path(shutil.copytree(made[2].bundle, tmp_path / "bundle"))


def list_again(bundle):
    """What somebody who changes a file would do next: write its new hash into the list."""
    told = read_json(bundle / "bundle.json")
    files = {name: hashlib.sha256((bundle / name).read_bytes()).hexdigest() for name in told["files"]}
    write_json(bundle / "bundle.json", told | {"files": files})


def change(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_a_bundle_holds_every_prediction_and_adds_up(made, small_corpus):
    _, _, done = made
    bundle = done.bundle
    assert not any(study.failed for study in done.studies.values())
    assert verify_bundle(bundle) == {"studies": 2, "cells": 4, "folds": 16, "predictions": 2 * (24 + 40)}
    told = command_line("study", "--verify", bundle)
    assert told.exit_code == 0 and "adds up: 2 studies, 4 cells, 16 folds, 128 predictions" in told.stdout
    page = (bundle / "README.md").read_text(encoding="utf-8")
    assert "**The speech is synthetic" in page and "| ShiftLSTM | feature extraction |" in page
    assert page.count("69.8 / 70.6") == 2  # beside either protocol
    assert "numbers are of IEMOCAP, ours of" in page and "reported on IEMOCAP" in page
    corpus = read_json(bundle / "bundle.json")["corpus"]
    assert "since some were tested by no fold" in page
    assert corpus["synthetic"] and corpus["counts"]["utterances"] == 24 and corpus["counts_are_published"] is None
    weights = [read_json(path)["weights"] for path in bundle.rglob("cell.json")]
    assert len(weights) == 4
    assert sorted(len({name.split("/")[0] for name in each}) for each in weights) == [3, 3, 5, 5]


def test_nothing_in_a_bundle_is_audio_a_transcript_or_a_path(made, small_corpus):
    files = [path for path in made[2].bundle.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".csv", ".json", ".md", ".png"}
    text = "".join(path.read_text(encoding="utf-8") for path in files if path.suffix != ".png")
    assert str(small_corpus) not in text and str(made[0].parent) not in text and "cache_dir" not in text
    spoken = next(small_corpus.glob("Session1/dialog/transcriptions/Ses*.txt")).read_text().split(": ")[1].strip()
    assert spoken.split("\n")[0] not in text


def test_what_it_takes_was_told_before(made):
    _, before, done = made
    for name, cost in before.items():
        cells = list(done.studies[name].plan.cells)
        folds = [
            fold
            for cell in cells
            for fold in read_json(done.studies[name].plan.output_dir / cell / "results.json")["folds"]
        ]
        assert (cost.cells, cost.folds) == (len(cells), len(folds))
        assert cost.steps == sum(fold["history"][-1]["step"] for fold in folds) and cost.seconds is None
        assert study_cost(done.studies[name].plan).cells == 0
    summary = done.studies["directions"].summary
    assert "direction bidirectional alone. Direction bidirectional is" in summary


@pytest.mark.parametrize("listed", [False, True], ids=["as it lies", "with its new hash in the list"])
@pytest.mark.parametrize("what", ["digit", "row", "sentence", "page", "score", "count", "table", "baseline"])
def test_a_bundle_that_does_not_add_up_is_refused(what, listed, bundle):
    cell = next(path.parent for path in sorted(bundle.glob("heads/*/cell.json")))
    name = cell.relative_to(bundle).as_posix()
    if what == "digit":
        at = f"{name}/predictions.csv"
        lines = (bundle / at).read_text().splitlines()
        cells = lines[1].split(",")
        label = lines[0].split(",").index("prediction")
        others = [column[2:] for column in lines[0].split(",") if column.startswith("p_")]
        wrong = next(other for other in others if other != cells[label])
        change(bundle / at, f",{cells[label]},", f",{wrong},")
    elif what == "row":
        at = f"{name}/predictions.csv"
        (bundle / at).write_text("".join((bundle / at).read_text().splitlines(keepends=True)[:-1]))
    elif what == "sentence":
        at = "directions/summary.md"
        change(bundle / at, "Direction bidirectional is", "Direction bidirectional is clearly")
    elif what == "page":
        at = "README.md"
        change(bundle / at, "**The speech is synthetic", "**The speech is real")
    elif what == "score":
        at = f"{name}/results.json"
        told = read_json(bundle / at)
        told["folds"][1]["test"]["ua"] += 0.01
        write_json(bundle / at, told)
    elif what == "table":
        at = "heads/summary.csv"
        change(bundle / at, ",3,", ",4,")
    elif what == "count":
        at = "bundle.json"
        change(bundle / at, '"utterances": 24', '"utterances": 25')
    else:
        at = "heads/baselines.json"
        told = read_json(bundle / at)
        next(iter(told.values()))[0]["ua"]["mean"] = 0.9
        write_json(bundle / at, told)
    if listed:
        list_again(bundle)
    with pytest.raises(BundleError, match=f"^{at}: "):
        verify_bundle(bundle)
    told = command_line("study", "--verify", bundle)
    assert told.exit_code == 1 and at in told.stderr


def sum_up_again(bundle):
    """Tables, sentences, page and hashes, made anew from a bundle that was changed."""
    told = read_json(bundle / "bundle.json")
    groups = {name: study_groups(bundle / name, entry_places(entry)) for name, entry in told["studies"].items()}
    for name, entry in told["studies"].items():
        for file, text in study_texts(bundle / name, entry, groups[name]).items():
            (bundle / name / file).write_text(text, encoding="utf-8")
    (bundle / "README.md").write_text(page_text(bundle, told, groups), encoding="utf-8")
    list_again(bundle)


def drop_a_fold(cell, *, plans):
    """Leave out what speaks against a cell: its last fold, of predictions and results; of the plans, too."""
    results = read_json(cell / "results.json")
    kept = [fold for fold in results["folds"] if fold["fold"] != FOLDS[-1]]
    said = Predictions.read(cell / "predictions.csv")
    said = Predictions(said.table[said.table["fold"] != FOLDS[-1]].reset_index(drop=True))
    said.write(cell / "predictions.csv")
    results |= {"folds": kept, "uncertainty": uncertainty(said), "calibration": calibration(said)}
    if plans:
        left = [plan for plan in read_json(cell / "plans.json") if plan["fold"] != FOLDS[-1]]
        write_json(cell / "plans.json", left)
        results["settings"]["plans"].pop(str(FOLDS[-1]))
    results["summary"] = summarise(kept, num_folds=results["summary"]["num_folds"] - plans)
    write_json(cell / "results.json", results)


def label_anew(cell):
    """Call an utterance's label by its prediction, in a cell and in all that is computed from its rows."""
    said, results = Predictions.read(cell / "predictions.csv"), read_json(cell / "results.json")
    table = said.table
    wrong = int((table["label"] != table["prediction"]).to_numpy().argmax())
    table.loc[wrong, "label"] = table.loc[wrong, "prediction"]
    said = Predictions(table)
    said.write(cell / "predictions.csv")
    for fold in results["folds"]:
        rows = (said.table["fold"] == fold["fold"]).to_numpy()
        scores = wa_ua_f1(said.predicted[rows], references=said.references[rows])
        fold |= {"test": scores, "columns": fold["columns"] | {headline(fold): scores}}
    results |= {"uncertainty": uncertainty(said), "calibration": calibration(said)}
    results["summary"] = summarise(results["folds"], num_folds=results["summary"]["num_folds"])
    write_json(cell / "results.json", results)


def test_a_label_changed_wherever_it_stands_is_refused(bundle):
    """The fingerprint of the labels was taken from the corpus; here it is computed from the rows."""
    told = read_json(bundle / "bundle.json")
    entry = told["studies"]["directions"]
    (gone, kept), left = (place["cell"] for place in entry["places"]), told["studies"].pop("heads")
    entry |= {"places": entry["places"][1:]}
    shutil.rmtree(bundle / "directions" / gone), shutil.rmtree(bundle / "heads")
    for what in (None, label_anew):
        if what:
            what(bundle / "directions" / kept)
        told["corpus"]["counts"] = counts(bundle, told["studies"])[1]
        told["files"] = {name: "" for name in told["files"] if (bundle / name).exists()}
        write_json(bundle / "bundle.json", told)
        sum_up_again(bundle)
        if not what:
            assert left and told["corpus"]["counts"]["all_tested"] and verify_bundle(bundle)["predictions"] == 40
    with pytest.raises(BundleError, match=r"predictions\.csv: its labels have the fingerprint"):
        verify_bundle(bundle)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("cells", "has shift_direction '.*', its place in the grid says"),
        ("fold", "every fold of plans.json must be there or missing"),
        ("fold and plan", "it must be of the utterances of the other cells"),
        ("epoch", "epoch selected by ua"),
        ("validation", "validation, of the logged epochs"),
        ("published", "utterances of the corpus are published"),
        ("file", "a bundle has no such file"),
        ("history", "results.json: list index out of range"),
    ],
)
def test_a_bundle_that_was_made_to_add_up_is_refused(what, message, bundle):
    """Somebody changes what speaks against a claim and writes all that follows from it anew."""
    told = read_json(bundle / "bundle.json")
    places = told["studies"]["directions"]["places"]
    cell = bundle / "directions" / places[-1]["cell"]
    results = read_json(cell / "results.json")
    if what == "cells":
        places[0]["cell"], places[1]["cell"] = places[1]["cell"], places[0]["cell"]
    elif what.startswith("fold"):
        drop_a_fold(cell, plans=what == "fold and plan")
    elif what == "epoch":
        results["folds"][0]["selected_epoch"] = 2
    elif what == "validation":
        results["folds"][0]["validation"]["ua"] = 0.99
    elif what == "published":
        told["corpus"]["name"] = "iemocap"
        for path in bundle.rglob("results.json"):
            of_cell = read_json(path)
            of_cell["corpus"]["name"] = "iemocap"
            write_json(path, of_cell)
    elif what == "file":
        (bundle / "directions" / "talk.wav").write_bytes(b"RIFF")
        told["files"]["directions/talk.wav"] = ""
    else:
        results["folds"][0]["history"] = []
    if what in ("epoch", "validation", "history"):
        write_json(cell / "results.json", results)
    write_json(bundle / "bundle.json", told)
    (list_again if what in ("file", "history") else sum_up_again)(bundle)
    with pytest.raises(BundleError, match=message):
        verify_bundle(bundle)


def test_files_that_are_added_or_gone_are_named(bundle):
    (bundle / "extra.csv").write_text("a\n")
    with pytest.raises(BundleError, match=r"^extra\.csv: it is not listed"):
        verify_bundle(bundle)
    (bundle / "extra.csv").unlink()
    (bundle / "heads" / "study.csv").unlink()
    with pytest.raises(BundleError, match=r"^heads/study\.csv: it is missing"):
        verify_bundle(bundle)
    with pytest.raises(FileNotFoundError, match=r"must hold bundle\.json"):
        verify_bundle(bundle / "heads")


def test_a_part_is_run_by_itself_and_the_bundle_tells_what_is_missing(made, small_corpus, tmp_path, monkeypatch):
    path, _, done = made
    shutil.copytree(done.studies["heads"].plan.output_dir, tmp_path / "out" / "heads")
    monkeypatch.setattr("shift_ser.studies.study.run_cell", lambda *_, **__: pytest.fail("another part was run"))
    told = command_line("study", path, "--corpus", small_corpus, "--output_dir", tmp_path / "out", "--part", "heads")
    assert told.exit_code == 0, told.stderr
    assert "directions: 2 cells, 10 folds" in told.stdout and "heads: 0 cells, 0 folds, 0 steps" in told.stdout
    bundle = tmp_path / "out" / "bundle"
    assert "0 of 2 cells; **2 are missing**" in (bundle / "README.md").read_text(encoding="utf-8")
    assert verify_bundle(bundle)["cells"] == 2
    told = command_line("study", path, "--corpus", small_corpus, "--part", "tails")
    assert told.exit_code == 1 and "part must be one of ['heads', 'directions'], got 'tails'" in told.stderr


def test_hours_are_told_from_steps_that_were_timed(made, small_corpus, tmp_path):
    folder = made[0].parent
    plan = plan_study(folder / "directions.yaml", output_dir=tmp_path, corpus=small_corpus)
    timed = {}
    cost = study_cost(plan, timed=timed)
    assert len(timed) == 1 and cost.seconds > 0
    (seconds,) = timed.values()
    assert cost.seconds == pytest.approx(cost.steps * seconds[0] + cost.folds * 1 * seconds[1])


@pytest.mark.parametrize("name", [name for name in study_names() if name.startswith("reproduce_")])
def test_the_sets_that_ship_are_of_studies_that_ship(name):
    content = yaml.safe_load(find_study(name).read_text(encoding="utf-8"))
    assert set(content["studies"]) <= set(study_names()) - {name}


def test_a_control_that_moves_nothing_fits_its_place_whatever_the_direction(encoder, small_corpus, tmp_path):
    study = {
        "base": {
            "encoder": str(encoder), "cache_dir": str(tmp_path / "frames"), "num_train_epochs": 1, "corpus": "nowhere",
            "disable_tqdm": True, "seed": 0, "folds": [1], "shift_direction": "forward",
        },
        "grid": {"variant": "shiftformer", "shift_proportion": [0, "1/4"]},
        "keep_models": False,
        "baselines": False,
    }  # fmt: skip
    (tmp_path / "shares.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    (tmp_path / "set.yaml").write_text(yaml.safe_dump({"studies": ["shares.yaml"]}), encoding="utf-8")
    done = run_set(plan_set(tmp_path / "set.yaml", output_dir=tmp_path / "out", corpus=small_corpus))
    assert verify_bundle(done.bundle)["cells"] == 2
