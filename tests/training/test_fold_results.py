"""What a fold writes down: its numbers, its history, the checksums of its files, and what it makes of damaged ones."""

import json
import shutil

import pytest

from shift_ser.evaluation.run_folder import read_json
from shift_ser.training import fold as fold_module
from shift_ser.training.fold import history_of


def test_a_history_has_one_entry_a_step_in_one_order_and_no_clock():
    log = [
        {"loss": 1.0, "learning_rate": 0.1, "grad_norm": 2.0, "epoch": 0.5, "step": 2, "training_seconds": 9.0},
        {"eval_test_f1": 0.1, "eval_test_ua": 0.2, "eval_test_wa": 0.3, "eval_test_runtime": 3.0, "epoch": 1.0,
         "step": 4},
        {"eval_validation_ccc_valence": 0.5, "eval_validation_ccc": 0.4, "eval_validation_loss": 0.7, "epoch": 1.0,
         "step": 4, "total_flos": 5.0},
        {"train_runtime": 8.0, "total_flos": 5.0, "epoch": 1.0, "step": 5},
    ]  # fmt: skip
    first, second = history_of(log)
    assert first == {"epoch": 0.5, "step": 2, "loss": 1.0, "grad_norm": 2.0, "learning_rate": 0.1}
    assert list(first) == ["epoch", "step", "loss", "grad_norm", "learning_rate"]
    order = ["validation_loss", "validation_ccc", "validation_ccc_valence", "test_wa", "test_ua", "test_f1"]
    assert list(second) == ["epoch", "step", *(f"eval_{name}" for name in order)]
    assert history_of([second | {"eval_test_loss": 1.0}])[0]["eval_test_loss"] == 1.0 and history_of([]) == []


def test_a_fold_tells_its_sizes_groups_and_cost(finished):
    run, results = finished
    for fold, result in zip(run.fold_runs, results["folds"], strict=True):
        plan, cost = fold.plan, result["cost"]
        sizes = (result["num_train"], result["num_validation"], result["num_test"])
        assert sizes == (len(plan.train), len(plan.validation), len(plan.test)) == (24, 8, 8)
        assert (result["plan"], result["test_group"], result["last_epoch"]) == (plan.hash, plan.test_group, 2)
        assert min(cost["cpu_seconds"], cost["seconds"]) > 0
        assert cost["peak_memory_mb"] == round(cost["peak_memory_mb"], 1) > 10
        assert 0 < cost["trainable_parameters"] < cost["parameters"]
        assert read_json(fold.folder / "result.json") == result == fold.result and fold.failure is None


def test_a_refit_is_part_of_the_cost(cross_validate, tmp_path, monkeypatch):
    monkeypatch.setattr(fold_module, "training_seconds", lambda _: {"seconds": 2.0, "cpu_seconds": 0.5})
    flags = ("--folds", 1, "--num_train_epochs", 1)
    costs = [
        cross_validate(tmp_path / word, "--refit", word, *flags).run()["folds"][0]["cost"] for word in ("false", "true")
    ]
    assert [(cost["seconds"], cost["cpu_seconds"]) for cost in costs] == [(2.0, 0.5), (4.0, 1.0)]


def test_checksums_are_of_every_file_that_tells_something(finished):
    folder = finished[0].fold_runs[0].folder
    there = {path.name for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".py", ".csv")}
    assert set(read_json(folder / "checksums.json")) == there - {"checksums.json"} > {"result.json", "config.json"}


@pytest.fixture
def copy(cross_validate, finished, tmp_path):
    """The first fold of a copy of a finished run, without checksums."""
    out = shutil.copytree(finished[0].output_dir, tmp_path / "out")
    (out / "fold1" / "checksums.json").unlink()
    return cross_validate(out, "--folds", 1).fold_runs[0]


@pytest.mark.parametrize("change", [{"fold": 2}, {"seed": 7}, {"plan": "another"}])
def test_the_result_of_another_fold_seed_or_plan_is_none_of_this_one(change, copy, caplog):
    path = copy.folder / "result.json"
    assert copy.result == read_json(path)
    path.write_text(json.dumps(read_json(path) | change))
    assert copy.result is None and "with another plan" in caplog.text
    path.unlink()
    assert copy.result is None


def test_checksums_that_an_older_version_left_out_are_made_and_the_rest_is_left_alone(copy, finished):
    before = {path.name: path.read_bytes() for path in copy.folder.iterdir() if path.is_file()}
    copy.restore()
    made = read_json(copy.folder / "checksums.json")
    assert made == read_json(finished[0].fold_runs[0].folder / "checksums.json")
    assert {name: (copy.folder / name).read_bytes() for name in before} == before
    assert copy.predictions() is copy.predictions()


@pytest.mark.parametrize("part", ["test", "validation"])
def test_predictions_of_another_set_are_made_again(part, copy, caplog):
    name = {"test": "predictions.csv", "validation": "validation_predictions.csv"}
    right = (copy.folder / name[part]).read_bytes()
    other = "validation" if part == "test" else "test"
    shutil.copyfile(copy.folder / name[other], copy.folder / name[part])
    copy.restore()
    assert (copy.folder / name[part]).read_bytes() == right
    assert f"must hold the 8 utterances of the {part} set, got 8" in caplog.text
    assert not (copy.folder / "checkpoints").exists()


def test_the_reason_of_a_failure_is_read_back(copy):
    copy.note_failure("no room")
    assert copy.failure == "no room"
    for content in ("{", "[]", "{}"):
        (copy.folder / "failed.json").write_text(content)
        assert "damaged" in copy.failure
    with pytest.raises(FileNotFoundError, match="evaluate_only needs the finished"):
        (copy.folder / "result.json").unlink()
        copy.evaluate(copy.folder / "evaluation" / "predictions.csv")
