"""What becomes of a run when something goes wrong in it: it is stopped, killed, or one of its folds fails."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import command_line
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from shift_ser.evaluation.predictions import Predictions
from shift_ser.evaluation.run_folder import read_json
from shift_ser.inference.predict import load_classifier
from shift_ser.training import feature_cache
from shift_ser.training.checkpoints import last_whole_checkpoint, seal
from shift_ser.training.cross_validation import AllFoldsFailed
from shift_ser.training.fold import FoldRun
from shift_ser.training.run_lock import run_lock
from shift_ser.training.saved_model import HEAD_SHARD

ROOT = Path(__file__).parents[2]


@pytest.fixture
def with_callback(monkeypatch):
    """Inside, the Trainers of a fold have a callback more."""

    @contextmanager
    def patch(callback, *, fold=1):
        make_trainer = FoldRun._trainer

        def patched(self, *arguments, **options):
            trainer = make_trainer(self, *arguments, **options)
            if self.plan.fold == fold:
                trainer.add_callback(callback)
            return trainer

        with monkeypatch.context() as context:
            context.setattr(FoldRun, "_trainer", patched)
            yield

    return patch


@pytest.fixture
def with_model(monkeypatch):
    """Inside, something is done to the new model of a fold."""

    @contextmanager
    def patch(change, *, fold=2):
        make_model = FoldRun.new_model

        def patched(self):
            model = make_model(self)
            if self.plan.fold == fold:
                change(model)
            return model

        with monkeypatch.context() as context:
            context.setattr(FoldRun, "new_model", patched)
            yield

    return patch


class Stop(TrainerCallback):
    """The user stops the training in the middle of an epoch."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def without_cost(folds: list[dict]) -> list[dict]:
    """Results of folds without what their training took."""
    return [{name: value for name, value in fold.items() if name != "cost"} for fold in folds]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder; of results not what a training took, which the clock tells, nor their checksums."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != "checksums.json")
    files = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
    return {
        name: re.sub(rb'"cost": \{.*?\}', b"", content, flags=re.S) if name.endswith(".json") else content
        for name, content in files.items()
    }


@pytest.mark.parametrize("scenario", ["feature_extraction", "fine_tuning"])
def test_a_fold_that_was_stopped_goes_on_elsewhere_and_ends_like_one_that_was_not(
    scenario, cross_validate, tmp_path, with_callback
):
    """Dropout, masks, LayerDrop and the order of utterances go on where they were, best epoch and refit included."""
    flags = ["--folds", 1, "--scenario", scenario]
    flags += ["--encoder_augmentation", "true"] if scenario == "fine_tuning" else ["--refit", "true"]
    flags += ["--num_train_epochs", 2 if scenario == "fine_tuning" else 3]
    cross_validate(tmp_path / "whole" / "out", *flags).run()
    stops = (5, 8) if scenario == "feature_extraction" else (5,)
    for step in stops:
        with with_callback(Stop(step)), pytest.raises(KeyboardInterrupt):
            cross_validate(tmp_path / "stopped" / "out", *flags).run()
        assert list((tmp_path / "stopped" / "out" / "fold1" / "checkpoints" / "train").glob("checkpoint-*"))
    (tmp_path / "stopped").rename(tmp_path / "moved")
    cross_validate(tmp_path / "moved" / "out", *flags).run()
    whole, moved = contents(tmp_path / "whole" / "out"), contents(tmp_path / "moved" / "out")
    assert {name for name in whole | moved if whole.get(name) != moved.get(name)} == set()


def checkpoint(folder: Path, step: int, *, best: int | None = None) -> Path:
    """A checkpoint of two files, whole."""
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "optimizer.pt").write_bytes(bytes(range(100)))
    (path / "trainer_state.json").write_text(json.dumps({"epoch": 1.0, "best_global_step": best}) + "\n")
    seal(path)
    return path


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "no checksums": lambda path: (path / "checksums.json").unlink(),
    "checksums cut": lambda path: (path / "checksums.json").write_text("{"),
    "no optimizer": lambda path: (path / "optimizer.pt").unlink(),
    "a bit": lambda path: flip(path / "optimizer.pt"),
    "cut": lambda path: (path / "optimizer.pt").write_bytes(bytes(range(99))),
    "a bit of the state": lambda path: flip(path / "trainer_state.json"),
    "no state": lambda path: (path / "trainer_state.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_the_newest_whole_checkpoint_is_gone_on_from(damage, tmp_path):
    for step in (4, 12, 8, 16):
        checkpoint(tmp_path, step)
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-16")
    for step in (16, 12):
        damage(tmp_path / f"checkpoint-{step}")
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-4", "checkpoint-8"]
    assert last_whole_checkpoint(tmp_path / "none") is None


@pytest.mark.parametrize("damage", [shutil.rmtree, DAMAGES["a bit"]])
def test_a_checkpoint_whose_best_epoch_is_lost_is_not_gone_on_from(damage, tmp_path):
    checkpoint(tmp_path, 4, best=4)
    checkpoint(tmp_path, 8, best=8)
    checkpoint(tmp_path, 12, best=8)
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-12")
    damage(tmp_path / "checkpoint-8")
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")


class Lose(TrainerCallback):
    """The checkpoint of the selected epoch is lost at the end of the training."""

    def __init__(self, damage):
        self.damage = damage

    def on_train_end(self, args, state, control, **kwargs):
        self.damage(Path(args.output_dir, f"checkpoint-{state.best_global_step}"))


@pytest.mark.parametrize(
    "damage", [shutil.rmtree, lambda path: flip(path / "model.safetensors")], ids=["gone", "a bit"]
)
def test_the_last_epoch_is_not_taken_for_the_selected_one(damage, cross_validate, finished, tmp_path, with_callback):
    with (
        with_callback(Lose(damage)),
        pytest.raises(AllFoldsFailed, match="checkpoint of the selected epoch must be whole"),
    ):
        cross_validate(tmp_path, "--folds", 1).run()
    assert not (tmp_path / "fold1" / "result.json").exists()
    assert without_cost(cross_validate(tmp_path, "--folds", 1).run()["folds"]) == without_cost(finished[1]["folds"][:1])


@pytest.mark.parametrize("content", ["", "{", '{"fold": 2}', "[]"])
def test_a_damaged_result_is_named_and_its_fold_is_run_again(content, cross_validate, finished, tmp_path, caplog):
    shutil.copytree(finished[0].output_dir, tmp_path / "out")
    path = tmp_path / "out" / "fold1" / "result.json"
    path.write_text(content)
    assert cross_validate(tmp_path / "out").fold_runs[0].result is None
    assert str(path) in caplog.text and "fold 1 is run again" in caplog.text


def change_a_digit(path: Path) -> None:
    """Another last digit: nothing else tells."""
    text = path.read_text()
    place = re.search(r"\d(?=\D*$)", text).start()
    path.write_text(f"{text[:place]}{(int(text[place]) + 1) % 10}{text[place + 1 :]}")


@pytest.mark.parametrize("name", ["predictions.csv", "validation_predictions.csv", "result.json", HEAD_SHARD])
def test_a_changed_file_of_a_fold_is_made_again_to_the_byte(name, cross_validate, finished, tmp_path, caplog):
    out = shutil.copytree(finished[0].output_dir, tmp_path / "out")
    before = contents(out)
    path = out / "fold1" / name
    (flip if name == HEAD_SHARD else change_a_digit)(path)
    with pytest.raises(ValueError, match=f"fold1/{name}' is damaged or changed"):
        {".csv": Predictions.read, ".json": read_json}.get(path.suffix, lambda _: load_classifier(path.parent))(path)
    again = cross_validate(out, "--folds", 1).run()
    assert without_cost(again["folds"]) == without_cost(finished[1]["folds"]) and name in caplog.text
    assert {file for file in before if contents(out).get(file) != before[file]} == set()


def test_a_saved_model_that_cannot_have_made_the_scores_is_told(cross_validate, finished, tmp_path):
    out = shutil.copytree(finished[0].output_dir, tmp_path / "out")
    for name in ("fold1/checksums.json", "fold1/predictions.csv"):
        (out / name).unlink()
    weights = {name: -weight for name, weight in load_file(out / "fold1" / HEAD_SHARD).items()}
    save_file(weights, out / "fold1" / HEAD_SHARD, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"fold1/predictions\.csv'; the saved model gives .* and result\.json says"):
        cross_validate(out, "--folds", 1).run()


def test_damaged_settings_are_named(cross_validate, finished, tmp_path):
    shutil.copytree(finished[0].output_dir, tmp_path / "out")
    (tmp_path / "out" / "run.json").write_text('{"variant": "shiftf')
    with pytest.raises(ValueError, match=r"run\.json' must hold the settings of a run, it is damaged"):
        cross_validate(tmp_path / "out").run()


def test_a_second_run_in_the_folder_is_told_who_holds_it(cross_validate, finished, tmp_path):
    shutil.copytree(finished[0].output_dir, tmp_path / "out")
    told = rf"in use by another run: process {os.getpid()} on .*, since 20"
    with run_lock(tmp_path / "out"), pytest.raises(BlockingIOError, match=told):
        cross_validate(tmp_path / "out").run()
    assert cross_validate(tmp_path / "out").run() == finished[1]
    assert not (tmp_path / "out" / ".lock.json").exists()


def test_the_lock_of_a_process_that_was_killed_is_taken_over(tmp_path):
    code = "import sys, time; from pathlib import Path; from shift_ser.training.run_lock import run_lock\n"
    code += "with run_lock(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError, match=f"process {process.pid} on "), run_lock(tmp_path):
            pass
        process.kill()
    assert (tmp_path / ".lock.json").exists()
    with run_lock(tmp_path):
        assert read_json(tmp_path / ".lock.json")["pid"] == os.getpid()


@pytest.mark.parametrize("what", ["samples", "labels", "encoder"])
def test_what_changed_under_a_run_is_told(what, cross_validate, finished, small_corpus, encoder, tmp_path):
    out = shutil.copytree(finished[0].output_dir, tmp_path / "out")
    corpus, copy = (shutil.copytree(folder, tmp_path / folder.name) for folder in (small_corpus, encoder))
    flags = ("--encoder", copy)
    assert without_cost(cross_validate(out, *flags, corpus=corpus).run()["folds"]) == without_cost(finished[1]["folds"])
    if what == "samples":
        wav = next(corpus.rglob("wav/*/Ses03F_impro01_F000.wav"))
        wav.write_bytes(wav.read_bytes()[:-2] + b"\1\1")
    elif what == "labels":
        for path in (corpus / "Session2" / "dialog" / "EmoEvaluation").glob("Ses*.txt"):
            path.write_text(path.read_text().replace("\tang\t", "\tsad\t"))
    else:
        weights = load_file(copy / "model.safetensors")
        next(iter(weights.values())).view(-1)[0] += 1
        save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"must hold no other run, .* does: fingerprints of {what}: '[0-9a-f]*' there"):
        cross_validate(out, *flags, corpus=corpus).run()


def test_evaluate_only_encodes_nothing_again(cross_validate, finished, tmp_path, monkeypatch):
    out = shutil.copytree(finished[0].output_dir, tmp_path / "out")
    before = {name: content for name, content in contents(out).items() if "evaluation" not in name}
    monkeypatch.setattr(feature_cache, "_write", lambda *_: pytest.fail("encoded again"))
    results = cross_validate(out, "--evaluate_only", "true").run()
    assert [fold["test"] for fold in results["folds"]] == [fold["test"] for fold in finished[1]["folds"]]
    after = contents(out)
    assert {name: after[name] for name in before} == before  # and rewrites nothing


def test_what_a_killed_run_leaves_lying_about_is_cleared(cross_validate, finished, tmp_path):
    folder = tmp_path / "killed_at_once"
    folder.mkdir()
    (folder / "run.json.123.part").write_text("{")
    assert without_cost(cross_validate(folder, "--folds", 1).run()["folds"]) == without_cost(finished[1]["folds"][:1])
    (folder / "fold1" / "result.json.123.part").write_text("{")
    (folder / "fold1" / "checkpoints").mkdir()
    cross_validate(folder, "--folds", 1).run()
    assert not list(folder.rglob("*.part")) and not (folder / "fold1" / "checkpoints").exists()


def nan_weight(model):
    model.classifier.weight.data[0, 0] = float("nan")


def infinite_gradient_at_the_fifth_step(model):
    steps = iter(range(1, 100))
    model.classifier.bias.register_hook(lambda gradient: gradient * (float("inf") if next(steps) == 5 else 1))


@pytest.mark.parametrize(
    ("hook", "told"),
    [
        (nan_weight, "loss must be finite, got nan in epoch 1, step 1"),
        (infinite_gradient_at_the_fifth_step, "gradient norm must be finite, got inf in epoch 2, step 5"),
    ],
)
def test_a_fold_that_fails_is_told_and_the_others_go_on(
    hook, told, cross_validate, finished, tmp_path, with_model, monkeypatch
):
    first, second = finished[1]["folds"][:2]
    with with_model(hook):
        run = cross_validate(tmp_path / "out", "--folds", 2, 1)
        results = run.run()
    reason = f"FloatingPointError: {told}"
    failed = {"fold": 2, "seed": 42, "reason": reason}
    assert without_cost(results["folds"]) == without_cost([first]) and run.failed == [failed]
    assert [entry["reason"] for entry in results["missing"]] == [reason, *["not run"] * 3]
    assert results["summary"]["folds"] == 1 and results["summary"]["num_folds"] == 5
    assert "mean of | 1 of 5 folds" in run.table(results) and f"- Missing: fold 2: {reason}" in run.table(results)
    assert read_json(tmp_path / "out" / "fold2" / "failed.json")["reason"] == reason
    assert not (tmp_path / "out" / "fold2" / "result.json").exists()
    elsewhere = cross_validate(tmp_path / "out", "--folds", 1)
    assert elsewhere.run()["missing"] == results["missing"] and elsewhere.failed == []

    trained = []
    train = FoldRun.run
    monkeypatch.setattr(FoldRun, "run", lambda self: (trained.append(self.plan.fold), train(self))[1])
    again = cross_validate(tmp_path / "out", "--folds", 1, 2, figures=True).run()
    assert trained == [2] and without_cost(again["folds"]) == without_cost([first, second])
    files = contents(finished[0].output_dir).keys()
    assert contents(tmp_path / "out").keys() == {
        name for name in files if not re.match("fold[345]", name) and not name.endswith("README.md")
    }


class FullDisk(TrainerCallback):
    """There is no room for a file of the second checkpoint: `/dev/full` says what a full disk says."""

    def __init__(self, file):
        self.file = file

    def on_epoch_end(self, args, state, control, **kwargs):
        if round(state.epoch) == 2:
            folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
            folder.mkdir()
            (folder / self.file).symlink_to("/dev/full")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize("file", ["optimizer.pt", "rng_state.pth"])
def test_a_full_disk_fails_the_fold_which_goes_on_from_its_last_checkpoint(
    file, cross_validate, finished, tmp_path, with_callback
):
    with with_callback(FullDisk(file)), pytest.raises(AllFoldsFailed, match=r"no fold is done: fold 1: .*Error: "):
        cross_validate(tmp_path, "--folds", 1).run()
    assert last_whole_checkpoint(tmp_path / "fold1" / "checkpoints" / "train").endswith("checkpoint-3")
    assert without_cost(cross_validate(tmp_path, "--folds", 1).run()["folds"]) == without_cost(finished[1]["folds"][:1])


@pytest.mark.parametrize("writer", ["Predictions.write", "write_json"])
def test_a_disk_that_is_full_when_the_fold_is_saved(writer, cross_validate, finished, tmp_path, monkeypatch, caplog):
    """Nothing can be written, not even the reason."""

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"shift_ser.training.fold.{writer}", full)
        with pytest.raises(AllFoldsFailed, match=r"fold 1: OSError: \[Errno 28\] No space left on device; fold 2: not"):
            cross_validate(tmp_path, "--folds", 1).run()
    assert "Traceback" not in caplog.text and "fold 1 failed: OSError" in caplog.text
    assert ("its reason could not be written down" in caplog.text) == (writer == "write_json")
    assert without_cost(cross_validate(tmp_path, "--folds", 1).run()["folds"]) == without_cost(finished[1]["folds"][:1])


class Vanish(TrainerCallback):
    """A recording is gone while a fold trains, and back when it is over."""

    def __init__(self, wav):
        self.wav = wav

    def on_train_begin(self, args, state, control, **kwargs):
        self.wav.rename(self.wav.with_suffix(".gone"))


def test_a_recording_that_vanishes_fails_the_folds_it_is_missing_in(
    small_corpus, cross_validate, tmp_path, with_callback, monkeypatch
):
    corpus = shutil.copytree(small_corpus, tmp_path / "corpus")
    wav = next(corpus.rglob("wav/*/Ses03F_impro01_F000.wav"))
    back = FoldRun.note_failure
    monkeypatch.setattr(
        FoldRun, "note_failure", lambda self, reason: (wav.with_suffix(".gone").rename(wav), back(self, reason))
    )
    with with_callback(Vanish(wav)):
        flags = ("--scenario", "fine_tuning", "--num_train_epochs", 1, "--folds", 1, 2)
        results = cross_validate(tmp_path / "out", *flags, corpus=corpus).run()
    assert [result["fold"] for result in results["folds"]] == [2]
    assert wav.stem in results["missing"][0]["reason"] and results["missing"][0]["fold"] == 1


@pytest.mark.parametrize("what", ["recording", "encoder"])
def test_what_changes_between_two_folds_fails_the_second(
    what, small_corpus, encoder, cross_validate, tmp_path, monkeypatch
):
    corpus, copy = (shutil.copytree(folder, tmp_path / folder.name) for folder in (small_corpus, encoder))
    path = next(corpus.rglob("wav/*/Ses03F_impro01_F000.wav")) if what == "recording" else copy / "model.safetensors"

    def fail_and_change(self):
        flip(path)
        raise FloatingPointError("loss")

    monkeypatch.setattr(FoldRun, "run", fail_and_change)
    told = rf"fold 1: FloatingPointError: loss; fold 2: OSError: recordings and encoder must .*'{path}' has changed"
    with pytest.raises(AllFoldsFailed, match=told):
        cross_validate(tmp_path / "out", "--folds", 1, 2, "--encoder", copy, corpus=corpus).run()


def test_an_error_in_the_program_keeps_its_traceback(cross_validate, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(FoldRun, "_score", lambda *_: len(3))
    with pytest.raises(
        AllFoldsFailed, match=r"fold 1: TypeError: object of type 'int' has no len\(\); fold 2: not run"
    ):
        cross_validate(tmp_path, "--folds", 1).run()
    assert "Traceback" in caplog.text and "test_fold.py" in caplog.text


def test_a_recording_in_two_parts_is_refused_before_training(small_corpus, cross_validate, tmp_path):
    corpus = shutil.copytree(small_corpus, tmp_path / "corpus")
    first, second = (next(corpus.rglob(f"wav/*/Ses0{session}F_impro01_F000.wav")) for session in (1, 3))
    shutil.copyfile(first, second)
    with pytest.raises(ValueError, match=rf"fold 1: the recording of .*{second.stem}.* is in both train and test"):
        cross_validate(tmp_path / "out", corpus=corpus).run()
    assert not list((tmp_path / "out").glob("[!.]*"))  # the folder is still free for a run of another corpus


@pytest.fixture
def command(encoder, small_corpus, tmp_path):
    """Run `shift-ser train` in this process."""

    def run(*flags):
        words = ["--encoder", encoder, "--corpus", small_corpus, "--cache_dir", tmp_path / "cache"]
        words += ["--output_dir", tmp_path / "out", "--disable_tqdm", "true", "--num_train_epochs", 1, *flags]
        return command_line("train", *words)

    return run


def test_the_command_line_prints_the_table_and_then_the_reasons(command, with_model):
    with with_model(nan_weight):
        told = command("--folds", 1, 2, "--hub_token", "hf_secret")
    reason = "fold 2, seed 42: FloatingPointError: loss must be finite, got nan"
    assert told.exit_code == 1 and f"error: 1 folds failed\n{reason}" in told.stderr
    assert "run again by\n\n    shift-ser train --encoder" in told.stderr
    assert "--hub_token ..." in told.stderr and "hf_secret" not in told.output
    assert "1 of 5 folds" in told.stdout
    with with_model(nan_weight):
        told = command("--folds", 3, "--learning_rate", "1e-2")
    assert told.exit_code == 1 and "error: output_dir must hold no other run" in told.stderr


def test_the_command_line_tells_of_an_unknown_flag(command):
    told = command("--learning_rte", 1)
    assert (told.exit_code, told.stdout) == (2, "")
    assert told.stderr == "error: there is no flag '--learning_rte'; did you mean '--learning_rate'?\n"


def test_the_command_line_tells_that_all_failed_or_was_stopped(command, with_model, with_callback):
    with with_model(nan_weight):
        failed = command("--folds", 2)
    assert "error: no fold is done: fold 1: not run; fold 2: FloatingPointError: " in failed.stderr
    with with_callback(Stop(1)):
        stopped = command("--folds", 1)
    assert "stopped; this goes on from the last finished epoch:\n\n    shift-ser train " in stopped.stderr
    assert failed.exit_code == stopped.exit_code == 1 and "|" not in failed.stdout + stopped.stdout


def test_with_several_processes_a_failure_ends_the_run(cross_validate, tmp_path, monkeypatch):
    """The others would wait for the one that failed; whoever started them ends them all."""

    class TwoProcesses:
        num_processes = 2

    run = cross_validate(tmp_path, "--folds", 2)
    monkeypatch.setattr(FoldRun, "run", lambda self: (_ for _ in ()).throw(FloatingPointError("loss")))
    monkeypatch.setattr("shift_ser.training.cross_validation.PartialState", TwoProcesses)
    with pytest.raises(FloatingPointError):
        run._train(run.fold_runs[:1])
