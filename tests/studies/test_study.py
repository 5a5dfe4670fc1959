import csv
import io
import itertools
import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import matplotlib.image
import pytest
import yaml
from conftest import command_line
from transformers import TrainerCallback

from shift_ser.evaluation.run_folder import read_json
from shift_ser.recipes import find_study, study_names
from shift_ser.studies.figures import draw_figures, plot_layers, plot_mingling, plot_proportion
from shift_ser.studies.grid import plan_study
from shift_ser.studies.study import run_study
from shift_ser.studies.table import csv_text, group_table, study_groups
from shift_ser.training import feature_cache as frame_cache
from shift_ser.training.cross_validation import CrossValidation
from shift_ser.training.fold import FoldRun

ROOT = Path(__file__).parents[2]
CNN = {"variant": "cnn", "shift_placement": ["residual", "in_place"], "shift_proportion": [0, "1/4"]}


@pytest.fixture(scope="module")
def base(encoder, small_corpus, tmp_path_factory):
    """Two folds of one epoch on the small corpus."""
    return {
        "encoder": str(encoder), "corpus": str(small_corpus), "cache_dir": str(tmp_path_factory.mktemp("frames")),
        "num_train_epochs": 1, "learning_rate": "1e-3", "per_device_train_batch_size": 8, "folds": [1, 2],
        "disable_tqdm": True,
    }  # fmt: skip


@pytest.fixture
def write(base, tmp_path):
    """Write a study's file: a grid, or further keys of it."""

    def make(grid=None, *, name="study", **keys):
        path = tmp_path / f"{name}.yaml"
        grids = {} if grid is None else {"grid": grid}
        path.write_text(yaml.safe_dump({"base": base, **grids, **keys}), encoding="utf-8")
        return path

    return make


@pytest.fixture(scope="module")
def studied(base, tmp_path_factory):
    """A study that has run: its file, what came of it, and how often the encoder saw an utterance. Read only."""
    folder = tmp_path_factory.mktemp("studies")
    path = folder / "placement.yaml"
    path.write_text(yaml.safe_dump({"base": base, "grid": CNN, "output_dir": str(folder / "out")}), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        seen = count_encoded(patch)
        study = run_study(path)
    return path, study, len(seen)


def count_encoded(monkeypatch):
    """A list that grows with every utterance that an encoder sees."""
    seen, encode = [], frame_cache._Encoding.frames
    monkeypatch.setattr(frame_cache._Encoding, "frames", lambda *args: seen.append(1) or encode(*args))
    return seen


def rows_of(folder):
    return list(csv.DictReader(io.StringIO((folder / "study.csv").read_text(encoding="utf-8"))))


def snapshot(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(folder.rglob("*")) if path.is_file()}


# The grid


def test_every_combination_is_a_place_and_the_same_model_is_one_cell(write):
    plan = plan_study(write(CNN))
    asked = [(place.options["shift_placement"], place.options["shift_proportion"]) for place in plan.places]
    assert asked == [("residual", 0), ("residual", 0.25), ("in_place", 0), ("in_place", 0.25)]
    cells = [place.cell for place in plan.places]
    assert cells[0] == cells[2] and len(set(cells)) == len(plan.cells) == 3
    assert plan.varied == ["shift_placement", "shift_proportion"] and not plan.impossible
    assert "cnn-residual-1of4-seed42" in cells[1]
    words = plan.cells[cells[0]]
    assert words[words.index("--variant") + 1] == "cnn" and "--shift_proportion" not in words


@pytest.mark.parametrize(
    "one, other",
    [
        ({"variant": "shiftcnn"}, {"head_type": "cnn"}),
        ({"variant": "shiftcnn"}, {"variant": "cnn", "shift_placement": "residual", "shift_proportion": 1 / 16}),
        ({"variant": "cnn"}, {"variant": "shiftcnn", "shift_proportion": "1/128"}),  # no channel of 96 moves
        ({"variant": "lstm"}, {"head_type": "lstm", "shift_proportion": 0, "shift_stride": 3}),
        ({"variant": "transformer"}, {"variant": "transformer", "shift_placement": "residual", "shift_proportion": 0}),
        ({"variant": "cnn"}, {"variant": "shiftcnn", "shift_layers": [0], "shift_proportion": 0}),
        ({"variant": "cnn", "seed": 3}, {"variant": "cnn", "seeds": [3]}),
        ({"variant": "cnn"}, {"variant": "cnn", "num_head_layers": 2, "learning_rate": 0.001}),
    ],
)
def test_two_ways_to_say_a_model_are_one_cell(write, one, other):
    first, second = (list(plan_study(write(grid)).cells) for grid in (one, other))
    assert first == second and len(first) == 1


@pytest.mark.parametrize(
    "one, other",
    [
        ({"variant": "transformer"}, {"variant": "shiftformer", "shift_proportion": 0}),  # attention or none
        ({"variant": "shiftcnn", "shift_layers": 0}, {"variant": "shiftcnn", "shift_layers": 1}),
        ({"variant": "shiftcnn", "shift_stride": 1}, {"variant": "shiftcnn", "shift_stride": 2}),
        ({"variant": "cnn", "learning_rate": 0.001}, {"variant": "cnn", "learning_rate": 0.002}),
        ({"variant": "cnn", "max_seconds": 1.0}, {"variant": "cnn"}),
        ({"variant": "cnn", "encoder_layer": 0}, {"variant": "cnn"}),
    ],
)
def test_two_models_are_two_cells(write, one, other):
    names = [*plan_study(write(one)).cells, *plan_study(write(other)).cells]
    assert len(set(names)) == 2


def test_seeds_are_runs_of_their_own_and_lists_of_blocks_are_values(write):
    plan = plan_study(write({"variant": "shiftcnn", "seeds": [0, 1], "shift_layers": [0, [0, 1]]}))
    assert [(place.options["seed"], place.options["shift_layers"]) for place in plan.places] == [
        (0, [0]), (0, [0, 1]), (1, [0]), (1, [0, 1]),
    ]  # fmt: skip
    assert plan.varied == ["shift_layers", "seed"] and len(plan.cells) == 4


def test_another_corpus_takes_the_place_of_the_files(write, small_corpus, tmp_path):
    own = tmp_path / "copy"
    own.symlink_to(small_corpus)
    here, there = plan_study(write(CNN)), plan_study(write(CNN), corpus=own)
    assert {place.options["corpus"] for place in there.places} == {str(own)}
    assert all(words[words.index("--corpus") + 1] == str(own) for words in there.cells.values())
    assert not here.cells.keys() & there.cells.keys()
    with pytest.raises(ValueError, match="corpus must not be given where the grid varies it"):
        plan_study(write({"variant": "linear", "corpus": [str(small_corpus), str(own)]}), corpus=own)


def test_an_option_at_its_default_changes_no_cell(write):
    """Or every argument that a release adds would run all cells again."""
    (said,), (silent,) = (plan_study(write({"variant": "linear", **o})).cells for o in ({"refit": False}, {}))
    assert said == silent
    assert set(plan_study(write({"variant": "linear", "refit": True})).cells) != {said}


def test_grids_add_up_and_a_base_may_start_from_a_recipe(write, base, tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**base, "seeds": [5, 6], "shift_stride": 2}))
    grids = [{"variant": "shiftlstm"}, {"variant": ["shiftlstm", "shiftcnn"], "learning_rate": 0.5}]
    plan = plan_study(write(None, base={"recipe": str(tmp_path / "recipe.yaml"), "shift_stride": 3}, grids=grids))
    assert len(plan.places) == len(plan.cells) == 6
    assert {place.options["shift_stride"] for place in plan.places} == {3}
    assert {place.options["learning_rate"] for place in plan.places} == {0.001, 0.5}
    assert plan.varied == ["head_type", "shift_placement", "seed", "learning_rate"]
    assert len(plan_study(write({"variant": "lstm"}, base=str(tmp_path / "recipe.yaml"))).cells) == 2


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"grid": {"shift_proportoin": [0]}}, "unknown key 'shift_proportoin'; did you mean 'shift_proportion'"),
        ({"gird": {}}, "unknown key 'gird'; did you mean 'grid'"),
        ({"grid": {"variant": []}}, "must have a value"),
        ({"grid": [1]}, "must hold a grid of"),
        ({"grid": {"seed": 1}, "grids": [{"seed": 1}]}, "got both"),
        ({"grid": {"folds": [1]}}, "folds cannot vary"),
        ({"grid": {"output_dir": ["a"]}}, "output_dir cannot vary"),
        ({"grid": {"variant": "linear", "shift_proportion": "a/b"}}, "must be a number, or written as 1/16, got 'a/b'"),
        ({"grid": {"variant": "shiftcnn", "shift_proportion": "1/0"}}, "got '1/0'"),
        ({"grid": {"shift_stride": "x"}}, "shift_stride=x: argument --shift_stride.*: invalid int value: 'x'"),
        ({"grid": {"head_type": "cnm"}}, "head_type must be one of .* got 'cnm'"),
        ({"grid": {"corpus": "nowhere"}}, "corpus=nowhere: .*nowhere"),
        ({"grid": {"protocol": "best"}}, "protocol must be one of .* got 'best'"),
    ],
)
def test_what_is_wrong_is_told_before_anything_runs(write, keys, message):
    path = write(**keys)
    with pytest.raises(ValueError, match=message):
        plan_study(path)


def test_files_that_are_no_studies(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        plan_study(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ValueError, match="`key: value` lines, got list"):
        plan_study(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(ValueError, match="must be YAML"):
        plan_study(tmp_path / "broken.yaml")


def test_impossible_combinations_are_all_named_or_left_out(write):
    grid = {"head_type": ["cnn", "lstm"], "shift_placement": ["residual", "replace"], "shift_proportion": [0.25, 2]}
    with pytest.raises(ValueError, match="grid must hold possible combinations") as caught:
        plan_study(write(grid))
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 7
    assert "head_type=cnn, shift_placement=residual, shift_proportion=2" in lines[0] and "from 0 to 1" in lines[0]
    assert all("shift_placement of head_type='lstm' must be one of" in line for line in lines[3:])
    plan = plan_study(write(grid, skip_impossible=True))
    assert len(plan.cells) == 1 and len(plan.impossible) == 7
    with pytest.raises(ValueError, match="head_type=linear"):
        plan_study(write({"head_type": "linear", "shift_placement": "replace"}, skip_impossible=True))


@pytest.mark.parametrize(
    "path",
    [find_study(name) for name in study_names() if not name.startswith("reproduce_")],
    ids=lambda path: path.stem,
)
def test_the_studies_of_the_examples_hold_possible_grids(path, encoder, small_corpus, tmp_path, monkeypatch):
    """With their encoders and corpora, which are not here, replaced."""
    study = yaml.safe_load(path.read_text(encoding="utf-8"))
    for part in [study["base"], *study.get("grids", [study.get("grid", {})])]:
        part |= {"encoder": str(encoder), "corpus": str(small_corpus)}
        if "encoder_layer" in part:
            part["encoder_layer"] = 1 if part is study["base"] else [0, 1, 2]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    plan = plan_study(tmp_path / "study.yaml")
    assert len(plan.cells) > 3 and not plan.impossible and plan.varied


# The run


def test_the_encoder_sees_each_utterance_once_in_a_whole_study(studied, small_corpus):
    assert studied[2] == 40


def test_all_layers_of_the_encoder_come_from_one_pass(write, base, tmp_path, monkeypatch):
    seen = count_encoded(monkeypatch)
    own = {**base, "cache_dir": str(tmp_path / "frames"), "folds": [1]}
    study = run_study(write({"variant": "linear", "encoder_layer": [0, 2, 1]}, base=own), output_dir=tmp_path / "out")
    assert len(seen) == 40 and not study.failed
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["encoder_layer.png"]
    losses = [read_json(tmp_path / "out" / cell / "results.json")["folds"][0]["history"] for cell in study.plan.cells]
    assert all(one != other for one, other in itertools.combinations(losses, 2))


def test_every_place_fold_and_score_is_in_the_table(studied):
    _, study, _ = studied
    assert not study.failed
    rows = rows_of(study.plan.output_dir)
    assert len(rows) == 4 * 2
    for row in rows:
        result = read_json(study.plan.output_dir / row["cell"] / f"fold{row['fold']}" / "result.json")
        for column in ("last", "selected", "oracle"):
            for name in ("wa", "ua", "f1"):
                assert float(row[f"{column}_{name}"]) == result["columns"][column][name]
        assert float(row["test_ua"]) == result["test"]["ua"] and row["refit_ua"] == ""
        assert row["selected_epoch"] == row["last_epoch"] == "1" and row["seed"] == "42"
        shifted = row["shift_placement"] == "residual" and row["shift_proportion"] == "0.25"
        assert (float(row["misalignment"]) > 0) == shifted
        assert 0 < float(row["mingling"]) < 1
        assert int(row["head_parameters"]) == 2 * (96 * 7 + 96 + 192 + 96 * 384 + 384 + 384 * 96 + 96) + 192 + 388


def test_the_summary_says_what_the_numbers_say(studied):
    _, study, _ = studied
    folder, plan = study.plan.output_dir, study.plan
    groups = study_groups(folder, plan.places)
    assert [group["runs"] for group in groups] == [2] * 4
    for group in groups:
        results = [read_json(folder / cell / "results.json") for cell in group["cells"]]
        assert group["ua"]["mean"] == pytest.approx(results[0]["summary"]["test"]["ua"]["mean"])
        assert group["ua"]["low"] is group["ua"]["high"] is None  # four speakers are too few for an interval
        validation = [fold["validation"]["ua"] for result in results for fold in result["folds"]]
        assert group["validation"] == pytest.approx(sum(validation) / len(validation))
        assert group["chance"]["ua"] == 0.25 <= group["chance"]["wa"] < 1
    assert study.summary == (folder / "summary.md").read_text(encoding="utf-8")
    assert group_table(groups, varied=plan.varied) in study.summary and "Synthetic corpus" in study.summary
    rows = [row for rows in read_json(folder / "baselines.json").values() for row in rows]
    kinds = 3 + (find_spec("opensmile") is not None)
    assert len(rows) == kinds  # computed once, for three cells
    for row in rows:
        (line,) = [line for line in study.summary.splitlines() if line.startswith(f"| {row['name']} | - | - | 2 |")]
        assert f" {100 * row['ua']['mean']:.1f} ± " in line
    refused = "proportion 1/4 alone; it cannot be compared with no shift: runs must have enough speakers to be compared"
    assert study.summary.count(f"{refused}, got 4 speakers") == 2
    assert len((folder / "summary.csv").read_text(encoding="utf-8").splitlines()) == 5


def test_figures_show_what_varies(studied):
    folder = studied[1].plan.output_dir
    assert sorted(path.name for path in folder.glob("*.png")) == ["mingling.png", "proportion.png"]
    for path in folder.glob("*.png"):
        image = matplotlib.image.imread(path)
        assert min(image.shape[:2]) > 400 and image[..., :3].std() > 0.05


def test_finished_cells_are_left_alone_and_only_new_ones_are_run(studied, write, tmp_path, monkeypatch):
    path, study, _ = studied
    folder = Path(shutil.copytree(study.plan.output_dir, tmp_path / "out", copy_function=shutil.copy2))
    before = {name: snapshot(folder / name) for name in study.plan.cells}
    text = {name: (folder / name).read_bytes() for name in ("study.csv", "summary.csv", "summary.md")}
    with monkeypatch.context() as patch:
        patch.setattr(CrossValidation, "__init__", lambda *_: pytest.fail("a finished cell was touched"))
        run_study(path, output_dir=folder)
    assert {name: (folder / name).read_bytes() for name in text} == text
    longer = run_study(write({**CNN, "shift_proportion": [0, "1/4", "1/2"]}, name="placement"), output_dir=folder)
    assert len(longer.plan.cells) == 5 and not longer.failed
    assert {name: snapshot(folder / name) for name in study.plan.cells} == before
    assert len(rows_of(folder)) == 12


class StopAfter(TrainerCallback):
    def on_epoch_end(self, args, state, control, **kwargs):
        raise KeyboardInterrupt


def test_a_study_that_was_stopped_goes_on_to_the_same_numbers(studied, tmp_path, monkeypatch):
    path, study, _ = studied
    make, made = FoldRun._trainer, []

    def impatient(self, *arguments, **options):
        trainer = make(self, *arguments, **options)
        made.append(self.name)
        if len(made) == 4:  # in the second cell
            trainer.add_callback(StopAfter())
        return trainer

    with monkeypatch.context() as patch:
        patch.setattr(FoldRun, "_trainer", impatient)
        with pytest.raises(KeyboardInterrupt):
            run_study(path, output_dir=tmp_path)
    whole = {name: snapshot(tmp_path / name) for name in study.plan.cells if (tmp_path / name / "cell.json").exists()}
    assert len(whole) == 1
    run_study(path, output_dir=tmp_path)
    assert {name: snapshot(tmp_path / name) for name in whole} == whole
    assert (tmp_path / "study.csv").read_bytes() == (study.plan.output_dir / "study.csv").read_bytes()


@pytest.mark.slow
def test_several_processes_give_the_same_numbers_from_the_command_line(studied, tmp_path):
    path, study, _ = studied
    told = command_line("study", path, "--output_dir", tmp_path, "--jobs", 2)
    assert told.exit_code == 0, told.stderr
    assert (tmp_path / "study.csv").read_bytes() == (study.plan.output_dir / "study.csv").read_bytes()
    assert study.summary in told.stdout


def test_a_cell_that_fails_is_told_and_the_others_go_on(write, tmp_path, monkeypatch):
    grid = {"variant": "linear", "learning_rate": [0.001, 1e30]}
    study = run_study(write(grid, keep_models=False), output_dir=tmp_path / "out")
    good, bad = study.plan.cells
    assert list(study.failed) == [bad]
    assert bad in study.summary and "## Failed" in study.summary
    assert {row["cell"] for row in rows_of(tmp_path / "out")} == {good}
    assert read_json(tmp_path / "out" / good / "cell.json")["folds"]["1"] == {"head_parameters": 4 * 97}
    assert not list((tmp_path / "out" / good).rglob("model*.safetensors"))
    tried = []
    monkeypatch.setattr("shift_ser.studies.study.run_cell", lambda words, folder, **_: tried.append(folder.name))
    run_study(write(grid, keep_models=False), output_dir=tmp_path / "out")
    assert tried == [bad]


def test_a_corpus_that_cannot_be_read_fails_its_cells_alone(write, small_corpus, tmp_path, monkeypatch):
    broken = Path(shutil.copytree(small_corpus, tmp_path / "broken"))
    next(broken.glob("Session1/sentences/wav/*/Ses01*.wav")).write_bytes(b"")
    monkeypatch.setattr("shift_ser.studies.study.run_cell", lambda *_, **__: None)
    grid = {"variant": ["linear", "cnn"], "corpus": [str(broken), str(small_corpus)]}
    study = run_study(write(grid), output_dir=tmp_path / "out")
    assert sorted(study.failed) == sorted(name for name in study.plan.cells if name.startswith("broken"))
    assert all("Ses01" in reason for reason in study.failed.values())


def test_jobs_must_be_one_or_more(write):
    with pytest.raises(ValueError, match="jobs must be at least 1, got 0"):
        run_study(write(CNN), jobs=0)


# Tables and figures by themselves


def make_group(**options):
    score = {"mean": 0.5, "std": 0.1, "low": 0.4, "high": 0.7}
    return {
        "head_type": "cnn", "shift_placement": "residual", "shift_proportion": 0.25, "encoder_layer": None,
        "encoder": "e", "corpus": "corpora/a", "cells": ["x"], "runs": 5, "wa": score, "ua": score, "f1": score,
        "chance": {"wa": 0.3, "ua": 0.25, "f1": 0.25}, "optimism": 0.01, "mingling": 0.5, "misalignment": 0.1,
        "head_parameters": 10.0, **options,
    }  # fmt: skip


def test_a_panel_a_corpus_a_line_a_placement_and_proportions_as_fractions():
    groups = [
        make_group(corpus=corpus, shift_placement=placement, shift_proportion=proportion)
        for corpus in ("corpora/a", "corpora/b")
        for placement in ("residual", "in_place")
        for proportion in (0.0, 1 / 16, 1 / 2)
    ] + [make_group(head_type="lstm", shift_placement="none", shift_proportion=0.0)]
    figure = plot_proportion(groups, varied=["head_type", "shift_placement", "shift_proportion", "corpus"])
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "", ""]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0", "1/16", "1/2"]
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"dashed: the same without a shift", "ShiftCNN", "CNN, shift in place", "LSTM"} < set(told)
    assert "95 % confidence intervals over folds" in figure._suptitle.get_text()
    assert len(plot_mingling(groups, varied=["corpus"]).axes) == 6  # two panels and a colour bar in each row


def test_layers_in_their_order_from_local_features_to_the_last_frames():
    groups = [make_group(encoder_layer=layer) for layer in (None, 3, "feature_projection", 0)]
    axes = plot_layers(groups, varied=["encoder_layer"]).axes
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["local", "0", "3", "last"]
    assert [axes[1].get_ylabel(), len(axes)] == ["UA (test folds)", 2]


def test_panels_name_their_layer_and_no_two_lines_look_alike():
    layers = ("feature_projection", 3, None)
    groups = [make_group(encoder_layer=layer, seed=seed) for layer in layers for seed in range(10)]
    figure = plot_proportion(groups, varied=["shift_proportion", "encoder_layer"])
    assert [axes.get_title() for axes in figure.axes[:3]] == [
        "local frames (feature projection)",
        "layer 3",
        "last layer",
    ]
    for figure in (plot_layers(groups, varied=["seed"]), plot_proportion(groups, varied=["shift_proportion", "seed"])):
        lines = [line for line, *_ in figure.axes[0].containers]
        assert len({(line.get_color(), line.get_marker()) for line in lines}) == len(lines) == 10


def test_where_wa_and_ua_are_equal_they_share_a_panel():
    groups = [make_group(shift_proportion=value, chance={"wa": 0.25, "ua": 0.25}) for value in (0.25, 0.5)]
    figure = plot_proportion(groups, varied=["shift_proportion"])
    assert [axes.get_ylabel() for axes in figure.axes] == ["WA = UA (test folds)"]


def test_a_figure_of_what_no_longer_varies_is_not_left_behind(tmp_path):
    groups = [make_group(shift_proportion=value) for value in (0.25, 0.5)]
    assert [path.name for path in draw_figures(tmp_path, groups, varied=["shift_proportion"])] == [
        "proportion.png", "mingling.png",
    ]  # fmt: skip
    layers = [make_group(encoder_layer=value, mingling=None) for value in (0, 1)]
    draw_figures(tmp_path, layers, varied=["encoder_layer", "seed"])
    assert [path.name for path in tmp_path.iterdir()] == ["encoder_layer.png"]


def test_csv_reads_back():
    rows = [{"a": [0, 1], "b": {"low": None, "high": 0.1}}, {"a": "x, y", "c": 1}]
    read = list(csv.DictReader(io.StringIO(csv_text(rows))))
    assert read[0] == {"a": "0 1", "b_low": "", "b_high": "0.1", "c": ""}
    assert read[1] == {"a": "x, y", "b_low": "", "b_high": "", "c": "1"}


def test_cells_keep_what_they_were_asked(studied):
    study = studied[1]
    for name, words in study.plan.cells.items():
        kept = json.loads((study.plan.output_dir / name / "cell.json").read_text(encoding="utf-8"))
        assert kept["words"] == words and sorted(kept["folds"]) == ["1", "2"]
