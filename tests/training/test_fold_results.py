"""What a fold writes down: its numbers, its history, the checksums of its files, and what it makes of damaged ones."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from shift_ser.evaluation.predictions import Predictions
from shift_ser.evaluation.run_folder import read_json
from shift_ser.training import fold as fold_module
from shift_ser.training.batching import BalancedSampler
from shift_ser.training.fold import FoldRun, history_of
from shift_ser.training.trainer import FoldProgress


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
        assert 50 < cost["expected_memory_mb"] < 20000
        assert 0 < cost["trainable_parameters"] < cost["parameters"]
        assert read_json(fold.folder / "result.json") == result == fold.result and fold.failure is None

    assert any(result["cost"]["peak_memory_mb"] % 1 for result in results["folds"])


@pytest.mark.parametrize("flags", [("--class_weights", "balanced", "--refit", "true"), ()])
def test_classes_weigh_as_the_training_set_says_where_that_is_asked_for(flags, cross_validate, tmp_path, monkeypatch):
    given, make_trainer = [], FoldRun._trainer

    def noting(self, *arguments, **options):
        given.append(options.get("class_weights"))
        return make_trainer(self, *arguments, **options)

    monkeypatch.setattr(FoldRun, "_trainer", noting)
    run = cross_validate(tmp_path / "out", "--folds", 1, "--num_train_epochs", 1, *flags)
    run.run()
    plan, weights = run.plans[0], run.corpus.targets.class_weights
    expected = [weights(plan.train), weights(plan.train + plan.validation)] if flags else [None]
    assert len(given) == len(expected)
    assert all(
        one is other is None or one.tolist() == other.tolist() for one, other in zip(given, expected, strict=True)
    )


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
    told = {"fold": 1, "seed": 42} | change
    assert copy.result is None and f"is of fold {told['fold']}, seed {told['seed']}, with another plan" in caplog.text
    path.unlink()
    assert copy.result is None


def test_checksums_that_an_older_version_left_out_are_made_and_the_rest_is_left_alone(copy, finished):
    before = {path.name: path.read_bytes() for path in copy.folder.iterdir() if path.is_file()}
    copy.restore()
    made = read_json(copy.folder / "checksums.json")
    assert made == read_json(finished[0].fold_runs[0].folder / "checksums.json")
    assert {name: (copy.folder / name).read_bytes() for name in before} == before
    assert copy.predictions() is copy.predictions()


@pytest.mark.parametrize("number", [4, 8, 16])
@pytest.mark.parametrize("part", ["test", "validation"])
def test_predictions_of_another_set_are_made_again(part, number, copy, caplog):
    name = {"test": "predictions.csv", "validation": "validation_predictions.csv"}
    right = (copy.folder / name[part]).read_bytes()
    other = Predictions.read(copy.folder / name["validation" if part == "test" else "test"])
    both = Predictions.pooled([other, Predictions.read(copy.folder / name[part])])
    wrong = {4: Predictions(both.table[8:12]), 8: other, 16: both}[number]  # a part, another set, too much
    wrong.write(copy.folder / name[part])
    copy.restore()
    assert (copy.folder / name[part]).read_bytes() == right
    assert f"must hold the 8 utterances of the {part} set, got {number}" in caplog.text
    assert not (copy.folder / "checkpoints").exists()


@pytest.mark.parametrize(("off", "taken"), [(5e-7, True), (-5e-7, True), (2e-6, False), (-2e-6, False)])
def test_a_score_that_is_made_again_may_be_off_by_a_millionth(off, taken, copy):
    path = copy.folder / "result.json"
    result = read_json(path)
    path.write_text(json.dumps(result | {"test": result["test"] | {"ua": result["test"]["ua"] + off}}))
    (copy.folder / "predictions.csv").unlink()
    with contextlib.nullcontext() if taken else pytest.raises(ValueError, match=r"the saved model gives .* says"):
        copy.restore()
    assert (copy.folder / "predictions.csv").exists() == taken


def test_an_evaluation_is_written_where_it_is_asked_for_as_often_as_it_is(copy):
    for _ in range(2):
        again = copy.evaluate(copy.folder / "evaluation" / "of" / "today.csv")
    assert again == copy.result | {"test": again["test"], "columns": again["columns"]}
    assert again["test"] == pytest.approx(copy.result["test"]) and again["columns"]["selected"] == again["test"]
    assert again["columns"].keys() == copy.result["columns"].keys()
    assert len(Predictions.read(copy.folder / "evaluation" / "of" / "today.csv")) == 8


def test_the_trainer_of_a_fold_and_that_of_its_refit(cross_validate, tmp_path):
    flags = ("--num_train_epochs", 5, "--balanced_sampling", "true", "--data_seed", 5)
    fold = cross_validate(tmp_path / "out", *flags).fold_runs[1]
    model = fold.new_model()
    fold.take_encoder(model)
    train = fold.corpus.examples(fold.plan.train)
    first = fold._trainer(model, train=train, scored={"test": train})
    refit = fold._trainer(model, train=train, refit_epochs=2)
    assert [(Path(each.args.output_dir).name, each.args.num_train_epochs) for each in (first, refit)] == [
        ("train", 5), ("refit", 2),
    ]  # fmt: skip
    assert (first.schedule_epochs, refit.schedule_epochs) == (None, 5)
    bars = [[callback for callback in each.callback_handler.callbacks if isinstance(callback, FoldProgress)]
            for each in (first, refit)]  # fmt: skip
    assert [[bar.title for bar in each] for each in bars] == [["fold 2"], ["fold 2, refit"]]
    stock = (ProgressCallback, PrinterCallback)
    assert not [each for each in first.callback_handler.callbacks if isinstance(each, stock)]
    classes = [fold.corpus.targets.class_of[name] for name in fold.plan.train]
    assert list(first._get_train_sampler()) == list(BalancedSampler(classes, seed=5))


def test_a_trainer_inside_never_pushes(cross_validate, tmp_path):
    run = cross_validate(tmp_path / "out", "--push_to_hub", "true").fold_runs[0]
    trainer = run._trainer(run.new_model())
    assert trainer.args.push_to_hub is False and trainer.hub_model_id is None


def test_the_reason_of_a_failure_is_read_back(copy):
    copy.note_failure("no room")
    assert copy.failure == "no room"
    folder, copy.folder = copy.folder, copy.folder / "seed1" / "fold1"
    assert copy.failure is None
    for reason in ("not yet made", "there already"):
        copy.note_failure(reason)
        assert copy.failure == reason
    copy.folder = folder
    for content in ("{", "[]", "{}"):
        (copy.folder / "failed.json").write_text(content)
        assert "damaged" in copy.failure
    with pytest.raises(FileNotFoundError, match="evaluate_only needs the finished"):
        (copy.folder / "result.json").unlink()
        copy.evaluate(copy.folder / "evaluation" / "predictions.csv")
