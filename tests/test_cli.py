"""The command line: each command on tiny runs, and what is said to who mistypes something."""

import os
import runpy
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from click.testing import CliRunner
from conftest import command_line

from shift_ser.cli import cli
from shift_ser.cli.group import Folder
from shift_ser.evaluation.run_folder import read_json
from shift_ser.recipes import recipe_names

COMMANDS = [
    "adapt",
    "app",
    "check",
    "compare",
    "convert",
    "cross",
    "demo",
    "evaluate",
    "export",
    "predict",
    "push",
    "study",
    "timeline",
    "train",
]


@pytest.fixture(scope="module")
def run_dir(finished):
    return finished[0].output_dir


def test_the_commands_and_their_help():
    assert sorted(cli.commands) == COMMANDS
    for name in COMMANDS:
        told = command_line(name, "--help")
        assert told.exit_code == 0 and f"shift-ser {name}" in told.stdout, told.output
        assert "Example:" in told.stdout
    assert all(name in command_line("--help").stdout for name in [*COMMANDS, "Exit codes"])
    assert command_line("--version").stdout.startswith("shift-ser ")


def test_the_help_of_train_shows_the_values_that_apply():
    own, everything = (command_line("train", "demo", "--learning_rate", "2e-3", flag) for flag in ("-h", "--help-all"))
    assert own.exit_code == everything.exit_code == 0
    lines = {line.split()[0]: line for line in own.stdout.splitlines() if line.startswith("  --")}
    for flag, value in {"--encoder": "demo_encoder", "--cache_dir": "cache/demo", "--shift_stride": "1"}.items():
        assert f"[{value}]" in lines[flag]
    assert "--learning_rate" not in lines and "[0.002]" in everything.stdout
    assert own.stdout.index("Encoder and head:") < own.stdout.index("Run:") and "Trainer of" in everything.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("trian", "No such command 'trian'. Did you mean 'train'?"),
        ("predict --modle x a.wav", "No such option '--modle'. Did you mean '--model'?"),
        ("predict a.wav", "Missing option '--model'."),
        ("train shiftformer_feature_extractoin", "did you mean 'shiftformer_feature_extraction'?"),
        ("train demo --lerning_rate 1", "there is no flag '--lerning_rate'; did you mean '--learning_rate'?"),
        ("train demo --seed one", "argument --seed: invalid int value: 'one'"),
        ("train demo --variant shiftfomer", "did you mean 'shiftformer'?"),
        ("train demo other", "there must be at most one recipe, got demo, other"),
        ("train --help dmeo", "did you mean 'demo'?"),
        ("study demo_haeds", "did you mean 'demo_heads'?"),
        ("convert a.pth out --variant shiftcn", "did you mean 'shiftcnn'?"),
    ],
)
def test_a_mistyped_word_is_answered_in_one_line_with_the_likely_one(words, message):
    told = command_line(*words.split())
    assert (told.exit_code, told.stdout) == (2, "")
    assert told.stderr.startswith("error: ") and told.stderr.endswith(f"{message}\n")
    assert told.stderr.count("\n") == 1


def test_a_mistyped_folder_is_answered_with_the_likely_one(run_dir, encoder):
    for given in (run_dir, run_dir / "flod1"):
        told = command_line("predict", "--model", given, "a.wav")
        assert told.exit_code == 2 and told.stderr.endswith(f"did you mean '{run_dir / 'fold1'}'?\n")
    for given in (run_dir / "fold1", run_dir.with_name("ou")):
        told = command_line("compare", given, run_dir)
        assert told.exit_code == 2 and told.stderr.endswith(f"did you mean '{run_dir}'?\n")
    told = command_line("train", "demo", "--encoder", f"{encoder}_")
    assert told.exit_code == 2 and told.stderr.startswith("error: --encoder ")
    assert told.stderr.endswith(f"did you mean '{encoder}'?\n")
    nothing = command_line("compare", "no/such/run", run_dir)
    assert nothing.stderr.endswith(
        "is not the folder of a finished run or a CSV file of predictions: there is no 'no/such/run/results.json'\n"
    )


def test_a_model_that_is_not_here_may_be_on_the_hub():
    told = command_line("predict", "--model", "nobody/nothing", "a.wav")
    assert told.exit_code == 1 and "error: --model 'nobody/nothing' is no folder here" in told.stderr
    assert Folder("a model", "config.json", hub=True).convert("nobody/nothing", None, None) == "nobody/nothing"


def test_the_recipe_may_stand_behind_the_flags(encoder, small_corpus, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"encoder: {encoder}\ncorpus: {small_corpus}\nvariant: linear\nnum_train_epochs: 2\n")
    flags = ["--num_train_epochs", 1, "--folds", 1, "--cache_dir", tmp_path / "cache"]
    runs = [
        command_line("train", recipe, *flags, "--output_dir", tmp_path / "one"),
        command_line("train", *flags, "--output_dir", tmp_path / "two", recipe),
    ]
    assert [run.exit_code for run in runs] == [0, 0], runs[0].stderr
    first, second = (read_json(tmp_path / name / "fold1" / "result.json") for name in ("one", "two"))
    assert first["test"] == second["test"] and len(first["history"]) == 1
    assert "1 of 5 folds" in runs[0].stdout and (tmp_path / "one" / "fold1" / "README.md").is_file()


def test_train_predict_compare_and_evaluate(run_dir, small_corpus, tmp_path):
    copy = shutil.copytree(run_dir, tmp_path / "other")
    told = command_line("evaluate", copy)
    assert told.exit_code == 0 and told.stdout == (copy / "results.md").read_text(encoding="utf-8")
    with (copy / "fold1" / "README.md").open("a", encoding="utf-8") as card:
        card.write("A note of our own.\n")
    again = command_line("evaluate", copy, "--corpus", small_corpus)
    assert again.exit_code == 0, again.stderr
    assert (copy / "fold1" / "README.md").read_text(encoding="utf-8").endswith("A note of our own.\n")
    summary = read_json(copy / "results.json")["summary"]
    assert read_json(copy / "evaluation" / "results.json")["summary"]["test"] == summary["test"]
    table = command_line("evaluate", copy / "predictions.csv")
    assert table.exit_code == 0 and table.stdout.startswith("40 utterances, 4 labels, 10 speakers")
    told = command_line("compare", run_dir, copy)
    assert told.exit_code == 0 and told.stdout.count("both scores are equal") == 3


def test_a_run_that_is_not_complete_does_not_exit_with_0(run_dir, tmp_path):
    copy = shutil.copytree(run_dir, tmp_path / "other")
    results = read_json(copy / "results.json")
    text = (
        (copy / "results.json")
        .read_text()
        .replace('"missing": []', '"missing": [{"fold": 5, "seed": 42, "reason": "x"}]')
    )
    (copy / "results.json").write_text(text)
    assert "results.json' is damaged or changed" in command_line("evaluate", copy).stderr
    (copy / "checksums.json").unlink()  # the change is meant
    told = command_line("evaluate", copy)
    assert not results["missing"] and told.exit_code == 1 and told.stderr == "error: 1 folds are missing\n"
    told = command_line("push", copy)
    assert told.exit_code == 1 and "must hold a finished run, got 1 missing folds" in told.stderr


def test_push_needs_the_hub(run_dir):
    told = command_line("push", run_dir)
    assert told.exit_code == 1 and "HF_HUB_OFFLINE is set" in told.stderr


@pytest.mark.slow
def test_the_demo_from_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = command_line("demo", "--num_utterances", 40, "--num_train_epochs", 1, "--disable_tqdm", "true")
    assert told.exit_code == 0, told.stderr
    assert "|    5 | session 5 |" in told.stdout
    last = told.stdout.splitlines()[-1]
    assert last.startswith("corpora/demo/Session1/sentences/wav/") and all(label in last for label in ("angry", "sad"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "corpora", "runs"]
    model = tmp_path / "runs" / "demo" / "fold1"
    sf.write("one.wav", np.zeros(8000), 8000)
    assert command_line("predict", "--model", model, "one.wav").exit_code == 0


def test_python_m_and_the_example_are_the_same_command(monkeypatch, capsys):
    example = Path(__file__).parents[1] / "examples" / "run_ser.py"
    for run, words in (
        (partial(runpy.run_module, "shift_ser.cli", run_name="__main__"), ["shift_ser.cli", "train", "dmeo"]),
        (partial(runpy.run_path, str(example), run_name="__main__"), [str(example), "dmeo"]),
    ):
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as left:
            run()
        assert left.value.code == 2 and capsys.readouterr().err.endswith("did you mean 'demo'?\n")
    listed = CliRunner().invoke(cli, ["train", "nothing_like_it"]).stderr
    assert all(name in listed for name in recipe_names())


def test_accelerate_that_starts_one_process_of_two_is_told(encoder, small_corpus, tmp_path):
    """Without an accelerator it does so silently; the launch that is told is one that the tests of processes start."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--mixed_precision", "no"]
    words = ["train", "demo", "--encoder", encoder, "--corpus", tmp_path / "none", "--use_cpu", "true"]
    done = subprocess.run(
        [*map(str, [*launch, "-m", "shift_ser.cli", *words])], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "HF_HOME": str(tmp_path)},
    )  # fmt: skip
    told = [line for line in done.stderr.splitlines() if line.startswith("accelerate launch was told")]
    assert len(told) == 1, done.stderr
    assert "this starts two: accelerate launch --multi_gpu --num_processes 2 -m shift_ser.cli train demo" in told[0]
    assert "error: corpus must be" in done.stderr and done.returncode != 0
