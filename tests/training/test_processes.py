"""What takes several processes: encoding, training and scoring that they share, and what happens when they are killed.

The processes are forked from one that has imported everything; one group of two does all that is looked at in
`shared`. The launchers themselves are started once.
"""

import itertools
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env
from conftest import tiny_encoder_config, tiny_model
from test_batching import Waveforms, losses, make_trainer
from transformers import AutoModel, set_seed

from shift_ser import ShiftFeatureExtractor
from shift_ser.evaluation.metrics import compute_metrics
from shift_ser.evaluation.predictions import Predictions
from shift_ser.evaluation.run_folder import read_json
from shift_ser.training import shards
from shift_ser.training.arguments import RunArguments
from shift_ser.training.feature_cache import encode_dataset

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "examples" / "accelerate_configs"
GROUP = 2
NAMES = ["Ses01F_impro01_F000", "Ses01F_impro01_M000", "Ses02F_impro01_F000"]
NO_DROPOUT = {
    name: 0.0 for name in ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout")
}  # fmt: skip
# Of eight utterances in batches of four, so that two processes are given what one is.
TRAININGS = {
    "frozen": {},
    "by size": {"train_sampling_strategy": "group_by_length"},
    "by seconds": {"max_batch_seconds": 1.5},
    "fine-tuned": {"fine_tuned": True},
    "checkpointed": {"fine_tuned": True, "activation_checkpointing": True},
    "unused layer, checkpointed": {"fine_tuned": True, "encoder_layer": 1, "activation_checkpointing": True},
}
COUNTS = (1, 2, 3, 5, 21)  # of utterances to score in batches of four


@pytest.fixture(scope="module")
def forked():
    """Context whose processes start with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_processes"])
    patch = pytest.MonkeyPatch()
    patch.setenv("OMP_NUM_THREADS", "1")
    patch.setenv("PYTHONWARNINGS", "ignore::UserWarning")
    patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (Path(__file__).parent, ROOT / "tests", ROOT))))
    patch.syspath_prepend(str(ROOT))
    yield context
    patch.undo()


@pytest.fixture(scope="module")
def launch(forked):
    """Run a function in two processes that are one group; it fails if one of them does."""

    def run(function, *arguments, **environment):
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            port = server.getsockname()[1]
        torch.multiprocessing.start_processes(
            member, args=(port, environment, function, arguments), nprocs=GROUP, start_method="forkserver"
        )

    return run


def member(rank, port, environment, function, arguments):
    """One of the group, as torchrun starts it."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(GROUP), **environment}
    os.environ |= {"LOCAL_WORLD_SIZE": str(GROUP), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    function(*arguments)
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()


def rank_of() -> int:
    return int(os.environ.get("RANK", 0))


# What each of the group does; a process alone does the same, and the numbers are compared


def train(folder: Path, *, fine_tuned: bool = False, encoder_layer: int | None = None, **options) -> dict:
    """Losses of two epochs of eight utterances, and what was read."""
    config = tiny_encoder_config(**NO_DROPOUT, layerdrop=0.0)
    masks = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0, "encoder_layer": encoder_layer}
    model, dataset = tiny_model("linear", freeze_encoder=not fine_tuned, encoder_config=config, **masks), Waveforms(8)
    return {"losses": losses(model, dataset, folder, **options), "seen": list(dataset.seen)}


def score(folder: Path, count: int) -> dict:
    """Logits and labels of some utterances, and the mean loss."""
    trainer = make_trainer(tiny_model("shiftcnn"), None, folder)
    trainer.compute_metrics = compute_metrics
    output = trainer.predict(Waveforms(count))
    return {"logits": output.predictions.tolist(), "labels": output.label_ids.tolist(), "metrics": output.metrics}


def encode(folder: Path, *, hook=None) -> dict:
    """What a process encoded itself of three utterances in as many files, and a sum over all frames."""
    set_seed(0)
    encoder, calls = AutoModel.from_config(tiny_encoder_config()), []
    first = encoder.feature_extractor.conv_layers[0].conv
    first.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs)))
    if hook is not None:
        first.register_forward_pre_hook(hook)
    audio = [{"array": array, "sampling_rate": 16000} for array in Waveforms(3).audio]
    columns = {"utterance": NAMES, "audio": audio}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "_SHARD", 1)
        cache = encode_dataset(encoder, columns, feature_extractor=ShiftFeatureExtractor(), cache_dir=folder)
    return {"calls": len(calls), "sum": sum(cache.frames(name).double().sum().item() for name in NAMES)}


def fail_in_the_second(*_) -> None:
    if rank_of() == 1:
        raise ValueError("out of order")


def everything(folder: Path) -> None:
    """All of the above; what each process saw goes into a file of its own."""
    RunArguments(output_dir=str(folder))
    with pytest.raises(ValueError, match=f"utterance {NAMES[1]!r}: out of order") as failure:
        encode(folder / "frames", hook=fail_in_the_second)
    told = {"failure": str(failure.value), "encode": encode(folder / "frames")}
    told["train"] = {name: train(folder / name, **options) for name, options in TRAININGS.items()}
    told["score"] = [score(folder, count) for count in COUNTS]
    (folder / f"told{rank_of()}.json").write_text(json.dumps(told))


@pytest.fixture(scope="module")
def shared(launch, tmp_path_factory):
    """What the two processes told."""
    folder = tmp_path_factory.mktemp("shared")
    launch(everything, folder)
    return [read_json(folder / f"told{rank}.json") for rank in range(GROUP)]


def test_two_processes_encode_their_shares_and_fail_together(shared, tmp_path):
    assert all(NAMES[1] in told["failure"] for told in shared)
    assert [told["encode"]["calls"] for told in shared] == [0, 1]  # the first had done its two before the other failed
    alone = encode(tmp_path)
    assert alone["calls"] == 3
    assert [told["encode"]["sum"] for told in shared] == pytest.approx([alone["sum"]] * GROUP, abs=1e-4)


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_train_as_one(name, shared, tmp_path):
    alone, both = train(tmp_path, **TRAININGS[name]), [told["train"][name] for told in shared]
    assert both[0]["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    assert sorted(both[0]["seen"] + both[1]["seen"]) == sorted(alone["seen"]) == sorted([*range(8), *range(8)])


@pytest.mark.parametrize(("place", "count"), list(enumerate(COUNTS)))
def test_each_utterance_is_scored_once_however_many_there_are(place, count, shared, tmp_path):
    alone = score(tmp_path, count)
    for told in shared:
        both = told["score"][place]
        assert both["labels"] == [row % 4 for row in range(count)] == alone["labels"]
        assert np.abs(np.array(both["logits"]) - alone["logits"]).max() < 1e-5
        logits, labels = torch.tensor(both["logits"]), torch.tensor(both["labels"])
        assert both["metrics"]["test_loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item())
        assert {name: both["metrics"][name] for name in ("test_wa", "test_ua", "test_f1")} == {
            name: alone["metrics"][name] for name in ("test_wa", "test_ua", "test_f1")
        }


# The configurations of accelerate


def launch_options(name: str):
    words = ["--config_file", str(CONFIGS / f"{name}.yaml"), "examples/run_ser.py"]
    return _validate_launch_command(launch_command_parser().parse_args(words))[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ddp", {"multi_gpu": True, "use_fsdp": False, "use_deepspeed": False}),
        ("fsdp", {"use_fsdp": True, "fsdp_version": 2, "fsdp_cpu_ram_efficient_loading": False}),
        ("deepspeed", {"use_deepspeed": True, "zero_stage": 2}),
    ],
)
def test_accelerate_reads_the_configurations(name, expected):
    options = vars(launch_options(name))
    assert {key: options[key] for key in expected} == expected
    assert options["num_processes"] == GROUP and options["mixed_precision"] == "no"


def train_in_shards(folder: Path) -> None:
    """Fine-tune under the FSDP of torch, which accelerate gives only to GPUs, and write down all weights."""
    as_it_is = PartialState.__init__

    def as_on_gpus(self, *arguments, **options):
        as_it_is(self, *arguments, **options)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self._shared_state["distributed_type"] = DistributedType.MULTI_GPU

    PartialState.__init__ = as_on_gpus
    set_seed(0)
    trainer = make_trainer(sharded_model(), Waveforms(8), folder)
    trainer.train()
    weights = trainer.all_weights()
    local = sum(weight.to_local().numel() for weight in trainer.model.parameters())
    told = {"fsdp": trainer.is_fsdp_enabled, "local": local, "log": trainer.state.log_history}
    if rank_of() == 0:
        torch.save(dict(weights), folder / "weights.pt")
    (folder / f"told{rank_of()}.json").write_text(json.dumps(told))


def sharded_model():
    config = tiny_encoder_config(**NO_DROPOUT, layerdrop=0.0)
    masks = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    return tiny_model("linear", freeze_encoder=False, encoder_config=config, **masks)


def test_training_in_shards_ends_in_the_weights_of_training_without(launch, tmp_path):
    environment = prepare_multi_gpu_env(launch_options("fsdp"))
    launch(train_in_shards, tmp_path, **{name: environment[name] for name in environment if "FSDP" in name})
    both = [read_json(tmp_path / f"told{rank}.json") for rank in range(GROUP)]
    model = sharded_model()
    count = sum(weight.numel() for weight in model.parameters())
    assert all(told["fsdp"] and told["local"] < 0.6 * count for told in both)
    assert sum(told["local"] for told in both) == count
    expected = losses(model, Waveforms(8), tmp_path)
    assert [entry["loss"] for entry in both[0]["log"] if "loss" in entry] == pytest.approx(expected, abs=1e-5)
    weights = torch.load(tmp_path / "weights.pt")
    assert weights.keys() == model.state_dict().keys()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=2e-4, msg=name)


def test_weights_that_only_one_process_would_have_are_refused(cross_validate, tmp_path, monkeypatch):
    monkeypatch.setattr("shift_ser.training.fold.is_fsdp_enabled", lambda: True)
    with pytest.raises(ValueError, match="fsdp_cpu_ram_efficient_loading must be false"):
        cross_validate(tmp_path / "out", "--folds", 1).fold_runs[0].run()


@pytest.mark.slow
def test_the_launcher_runs_the_script_in_two_processes_with_the_results_of_one(
    cross_validate, encoder, small_corpus, tmp_path
):
    flags = ["--folds", 1, "--variant", "linear", "--mask_time_prob", 0, "--mask_feature_prob", 0]
    flags += ["--per_device_eval_batch_size", 6, "--refit", "true"]
    one = cross_validate(tmp_path / "one", *flags).run()["folds"][0]
    paths = ["--encoder", encoder, "--corpus", small_corpus, "--cache_dir", tmp_path, "--output_dir", tmp_path / "two"]
    settings = ["--num_train_epochs", 2, "--learning_rate", "1e-3", "--per_device_train_batch_size", 8]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", CONFIGS / "ddp.yaml"]
    command += ["examples/run_ser.py", *paths, *settings, *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("1 of 5 folds") == 1
    two = read_json(tmp_path / "two" / "fold1" / "result.json")
    for name in ("selected_epoch", "columns", "test"):
        assert two[name] == one[name]
    for first, second in zip(one["history"] + one["refit_history"], two["history"] + two["refit_history"], strict=True):
        assert first == pytest.approx(second, abs=1e-4)
    for file in ("predictions.csv", "validation_predictions.csv"):
        rows = [Predictions.read(tmp_path / run / "fold1" / file).rows for run in ("one", "two")]
        assert [row["utterance"] for row in rows[0]] == [row["utterance"] for row in rows[1]]
        for first, second in zip(*rows, strict=True):
            assert first["probabilities"] == pytest.approx(second["probabilities"], abs=1e-4)


# SIGKILL


def encode_until_killed(folder: Path) -> None:
    """Encode three utterances into as many files; the third one takes for ever."""
    calls = itertools.count(1)
    encode(folder, hook=lambda *_: time.sleep(600) if next(calls) == len(NAMES) else None)


def test_encoding_that_was_killed_goes_on_with_the_next_file(forked, tmp_path):
    process = forked.Process(target=encode_until_killed, args=(tmp_path / "killed",))
    process.start()
    while process.is_alive() and len(list(tmp_path.rglob("frames-*.safetensors"))) < 2:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    again, whole = encode(tmp_path / "killed"), encode(tmp_path / "whole")
    assert (again["calls"], whole["calls"]) == (1, 3) and again["sum"] == whole["sum"]


@pytest.mark.slow
def test_a_kill_leaves_no_trace(forked, encoder, small_corpus, monkeypatch, capsys):
    """Of a run, at seeded random moments of encoding, training, refitting and saving."""
    from benchmarks import kill_and_resume

    words = ["--kills", "2", "--seed", "1", "--encoder", encoder, "--corpus", small_corpus]
    words += ["--run", "--folds 1 --refit true --num_train_epochs 2"]
    monkeypatch.setattr(sys, "argv", ["kill_and_resume.py", *map(str, words)])
    assert kill_and_resume.main() == 0
    assert "files that differ: none" in capsys.readouterr().out
