import contextlib
import io
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from benchmarks import feature_extraction, profile_heads, speed, statistics, workload
from benchmarks.measure import Experiment, Line, Measured, Way, measure
from benchmarks.mutants_slips import SLIPS
from benchmarks.mutants_table import EQUIVALENT, MODULES

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module", autouse=True)
def one_thread_in_each_process():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """What one command prints and leaves, of the tiny sizes."""
    folder, printed = tmp_path_factory.mktemp("speed"), io.StringIO()
    with contextlib.redirect_stdout(printed):
        speed.main(["--smoke", "--repeats", "1", "--output", str(folder)])
    return printed.getvalue(), json.loads((folder / "speed.json").read_text()), (folder / "speed.md").read_text()


@pytest.mark.slow
def test_one_command_prints_and_saves_every_line(smoke):
    printed, results, saved = smoke
    assert printed == saved + "\n"
    assert list(results["parts"]) == [*speed.EXPERIMENTS, speed.COUNTS]
    for name, make in speed.EXPERIMENTS.items():
        experiment, part = make(workload.SMOKE), results["parts"][name]
        assert [row["title"] for row in part["rows"]] == [line.title for line in experiment.lines]
        assert set(part["seconds"]) == set(experiment.ways)
        assert all(len(rounds) == 1 and rounds[0] > 0 for rounds in part["seconds"].values())
        assert all(
            math.isfinite(row["ratio"]) and f"| {row['title']} | {row['a_words']}: " in saved for row in part["rows"]
        )
        assert part["words"] in saved
    assert "Tiny sizes" in saved


@pytest.mark.slow
def test_results_tell_neither_host_nor_path(smoke):
    _, results, saved = smoke
    for text in (json.dumps(results), saved):
        assert os.getcwd() not in text
        assert os.uname().nodename not in text.split()


@pytest.mark.slow
def test_counts_say_that_a_shift_costs_nothing(smoke):
    counts = dict(smoke[1]["parts"][speed.COUNTS]["counts"])
    assert counts["the shift, forward 1/16"] == counts["the shift, bidirectional 1/4"] == "0 parameters, 0 FLOPs"
    for variant in ("shiftcnn", "shiftlstm", "shiftformer"):
        for what in ("parameters", "FLOPs"):
            text = counts[f"{variant}, {what} of the head"]
            of_both = [int(part.split()[0].replace(",", "")) for part in text.split(" shift, ")]
            assert of_both[0] == of_both[1] > 0


@pytest.mark.parametrize("name", speed.EXPERIMENTS)
def test_lines_name_ways_that_are_measured(name):
    experiment = speed.EXPERIMENTS[name](workload.Sizes())
    used = {way for line in experiment.lines for side in (line.a, line.b) for way in side}
    assert used == set(experiment.ways)
    assert all(times > 0 for line in experiment.lines for side in (line.a, line.b) for times in side.values())


def test_ratio_is_taken_in_each_round_and_extrapolated():
    measured = Measured({"a": [1.0, 2.0, 6.0], "b": [1.0, 1.0, 2.0], "c": [0.5, 0.5, 1.0]}, {"a": 300.0, "b": 100.0})
    row = measured.row(Line("epoch", {"a": 10, "b": 10}, {"c": 4}))
    assert row["ratios"] == [10.0, 15.0, 20.0]
    assert (row["a"], row["b"], row["ratio"], row["low"], row["high"]) == (30.0, 2.0, 15.0, 10.0, 20.0)
    memory = measured.row(Line("memory", {"a": 1}, {"b": 1}, unit="MB"))
    assert (memory["a"], memory["b"], memory["ratios"]) == (300.0, 100.0, [3.0])


def test_spread_of_many_rounds_is_the_quartiles():
    ratios = [*map(float, range(1, 12))]
    row = Measured({"a": ratios, "b": [1.0] * 11}).row(Line("many", {"a": 1}, {"b": 1}))
    assert (row["low"], row["ratio"], row["high"]) == (3.0, 6.0, 9.0)


@dataclass
class Note:
    """Writes its name and process into a file: who ran, when, where."""

    name: str
    path: str
    broken: bool = False

    def prepare(self) -> None:
        self.write("prepare")

    def run(self) -> None:
        if self.broken:
            raise OSError("no such thing")
        self.write("run")

    def write(self, what: str) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{what} {self.name} {os.getpid()}\n")


def notes(path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()]


def test_ways_take_turns_each_in_its_process(tmp_path):
    path = tmp_path / "notes"
    ways = {name: Way(Note(name, str(path))) for name in "ab"}
    ways |= {name: Way(Note(name, str(path)), process="shared") for name in "cd"}
    measured = measure(Experiment("", ways, (), repeats=2), folder=str(tmp_path))
    ran = [name for what, name, _ in notes(path) if what == "run"]
    assert ran == [*"abcd"] * 3  # one round goes before those that count
    assert [name for what, name, _ in notes(path) if what == "prepare"] == [*"abcd"]
    process_of = {name: process for _, name, process in notes(path)}
    assert process_of["c"] == process_of["d"]
    assert len({str(os.getpid()), *process_of.values()}) == 4
    assert {name: len(rounds) for name, rounds in measured.seconds.items()} == dict.fromkeys("abcd", 2)


def test_a_way_that_fails_ends_the_measurement(tmp_path):
    path = tmp_path / "notes"
    ways = {"good": Way(Note("good", str(path))), "bad": Way(Note("bad", str(path), broken=True))}
    with pytest.raises(RuntimeError, match=r"a case failed:(?s:.)*OSError: no such thing"):
        measure(Experiment("", ways, ()), folder=str(tmp_path))


def test_ways_that_share_a_process_ask_for_the_same(tmp_path):
    ways = {str(keeps): Way(Note("", ""), keeps_memory=keeps, process="one") for keeps in (True, False)}
    with pytest.raises(ValueError, match="ways of the process 'one' must ask for the same of it, got"):
        measure(Experiment("", ways, ()), folder=str(tmp_path))


def test_lengths_are_like_those_of_iemocap():
    seconds = workload.lengths(5531, longest=7.5)
    assert seconds.min() == 1.0 and seconds.max() == 7.5
    assert abs(seconds.mean() - 4.5) < 0.05
    np.testing.assert_array_equal(seconds, workload.lengths(5531, longest=7.5))
    assert workload.num_frames(7.5) == 374  # as the encoders make of 120000 samples


def test_batches_that_are_run_stand_for_the_whole_epoch():
    seconds = workload.lengths(4425, longest=7.5)
    batches = workload.all_batches(seconds, batch=32)
    some = workload.some_of(batches, 8, seconds=seconds)
    assert len(some) == 8 and all(len(batch) >= 31 for batch in some)
    padded = [sum(seconds[batch].max() * len(batch) for batch in part) / len(part) for part in (batches, some)]
    assert abs(padded[1] / padded[0] - 1) < 0.02
    shuffled = workload.all_batches(seconds, batch=32, by_length=False)
    assert sorted(row for batch in shuffled for row in batch) == list(range(4425))


def test_repeats_must_be_a_number_of_rounds(capsys):
    with pytest.raises(SystemExit):
        speed.main(["--repeats", "0"])
    assert "--repeats must be at least 1, got 0" in capsys.readouterr().err


def test_profile_tells_where_a_step_goes(capsys):
    profile_heads.main(["--smoke"])
    header, _, *lines = capsys.readouterr().out.splitlines()
    assert header.count("|") == 5 and len(lines) == 1 + len(profile_heads.KINDS)
    altogether, *kinds = ([int(cell) for cell in line.split("|")[2:-1]] for line in lines)
    assert all(sum(of_head) <= whole + len(kinds) for whole, *of_head in zip(altogether, *kinds, strict=True))


def test_every_kind_of_operator_is_met_by_some_head():
    """A name that torch has changed would silently count nothing."""
    profiled = [
        profile_heads.shares(feature_extraction.HeadSteps(workload.SMOKE, head)) for head in profile_heads.HEADS
    ]
    assert all(any(of_head[kind] > 0 for of_head in profiled) for kind in profile_heads.KINDS)


def test_the_simulation_of_intervals_is_seeded_and_models_that_differ_spoil_the_test_over_speakers():
    world = statistics.World(5, 2, 1, 0.1)
    found = statistics.simulate(world, trials=60, seed=1)
    assert found == statistics.simulate(world, trials=60, seed=1)
    assert found["size, speakers"] > found["size, folds"] and found["covers, folds"] > found["covers, speakers"]
    lines = statistics.table([world], trials=5).splitlines()
    assert lines[2].startswith("| 5 x 2 | 1 | 10 | 0 | ") and len(lines) == 3


@pytest.mark.parametrize("slip", SLIPS, ids=lambda slip: slip.title)
def test_slips_can_be_made_and_name_tests_that_are_there(slip):
    source = (ROOT / "shift_ser" / slip.module).read_text(encoding="utf-8")
    assert compile(slip.made(source), slip.module, "exec") and slip.made(source) != source
    for name in slip.tests.split():
        file, _, test = name.partition("::")
        assert f"def {test}" in (ROOT / "tests" / file).read_text(encoding="utf-8")


def test_mutants_have_modules_and_tests_that_are_there():
    assert EQUIVALENT.keys() <= MODULES.keys()
    for module, tests in MODULES.items():
        source = (ROOT / "shift_ser" / module).read_text(encoding="utf-8").split()
        assert all((ROOT / "tests" / name).is_file() for name in tests.split())
        for slip in EQUIVALENT.get(module, {}):
            assert slip.partition("  ->  ")[0] in " ".join(source)
