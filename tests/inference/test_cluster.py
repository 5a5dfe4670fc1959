import csv
import os
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from conftest import tiny_model

from shift_ser import ShiftFeatureExtractor

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

RATE = 16000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model and a folder of recordings, of which one is broken."""
    folder = tmp_path_factory.mktemp("cluster")
    tiny_model("shiftformer", seed=3).save_pretrained(folder / "model")
    ShiftFeatureExtractor().save_pretrained(folder / "model")
    (folder / "calls").mkdir()
    random = np.random.default_rng(0)
    for place in range(12):
        sf.write(folder / "calls" / f"{place:02d}.wav", 0.1 * random.normal(size=random.integers(800, 9000)), RATE)
    (folder / "calls" / "broken.wav").write_text("not a recording")
    return folder


def predict(folder, *words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "shift_ser.cli", "predict", "--model", str(folder / "model"), "--dtype", "float32"]
    return subprocess.run([*command, *map(str, words)], env=environment, capture_output=True, text=True, timeout=300)


def rows_of(output):
    return [row for part in sorted(output.glob("*.parquet")) for row in pq.read_table(part).to_pylist()]


def test_rows_are_those_of_this_machine_and_the_same_command_goes_on(folder, tmp_path):
    local = predict(folder, folder / "calls", "--output", tmp_path / "scores.csv")
    address = f"file://{folder / 'calls'}"
    ray = predict(folder, address, "--output", tmp_path / "rows", "--engine", "ray", "--workers", 2)
    assert local.returncode == ray.returncode == 1 and "Traceback" not in ray.stderr
    with open(tmp_path / "scores.csv", newline="") as file:
        expected = {row["recording"]: row for row in csv.DictReader(file)}
    rows = {row["recording"].removeprefix("file://"): row for row in rows_of(tmp_path / "rows")}
    broken = rows.pop(str(folder / "calls" / "broken.wav"))
    assert broken["label"] is None and broken["error"] and broken["error"] in ray.stderr
    assert set(rows) == set(expected) and len(rows) == 12
    for name, row in rows.items():
        assert (
            row["error"] is None and row["label"] == expected[name]["label"] and row["model"] == expected[name]["model"]
        )
        for column in (column for column in row if column.startswith("score_")):
            assert row[column] == pytest.approx(float(expected[name][column]), abs=1e-5)

    before = {part.name: part.stat().st_mtime_ns for part in (tmp_path / "rows").iterdir()}
    sf.write(folder / "calls" / "later.wav", np.full(3000, 0.1), RATE)
    again = predict(folder, address, "--output", tmp_path / "rows", "--engine", "ray")
    (folder / "calls" / "later.wav").unlink()
    after = {part.name: part.stat().st_mtime_ns for part in (tmp_path / "rows").iterdir()}
    assert again.returncode == 1 and before.items() < after.items() and len(rows_of(tmp_path / "rows")) == 14

    other = predict(folder, address, "--output", tmp_path / "rows", "--engine", "ray", "--calibrated")
    assert other.returncode != 0 and "output must hold scores of" in other.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["file:///no/such/bucket", "--output", "rows"], "places must be files or folders that are there, got"),
        (["nowhere", "--output", "rows"], "places must be files or folders that are there, got 'nowhere'"),
        (["calls"], "--engine ray must stand with --output"),
        (["calls", "--output", "rows", "--workers", "0"], "workers must be at least 1, got 0"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(folder, tmp_path, words, told):
    words = [
        str(folder / word) if word == "calls" else str(tmp_path / word) if word == "rows" else word for word in words
    ]
    done = predict(folder, *words, "--engine", "ray")
    assert done.returncode != 0 and told in done.stderr and "Traceback" not in done.stderr


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_worker_that_is_killed_loses_nothing(folder, tmp_path):
    from shift_ser.inference.cluster import ClusterModel, classify_on_cluster, find_anywhere

    recordings = [name for name in find_anywhere(str(folder / "calls")) if "broken" not in name]
    calls = []
    for place in range(50):  # the same ones under many names
        for name in recordings:
            link = tmp_path / f"{place}-{os.path.basename(name)}"
            link.symlink_to(name)
            calls.append(str(link))
    killed = []

    def kill():
        parts = tmp_path / "rows"
        for _ in range(12000):
            time.sleep(0.01)
            if any(parts.glob("*.parquet")):
                workers = [one for one in psutil.process_iter(["name", "cmdline"]) if _is_worker(one)]
                for one in workers[:1]:
                    one.kill()
                    killed.append(one.pid)
                return

    thread = threading.Thread(target=kill)
    thread.start()
    labels = list(tiny_model("shiftformer").config.id2label.values())
    model = ClusterModel(str(folder / "model"), {"dtype": "float32"})
    failed = classify_on_cluster(calls, str(tmp_path / "rows"), model, labels=labels, name="model", workers=2, block=4)
    thread.join()
    assert killed and not failed
    rows = rows_of(tmp_path / "rows")
    assert sorted(row["recording"] for row in rows) == sorted(calls)
    by_clip = {}
    for row in rows:
        by_clip.setdefault(row["recording"].split("-")[-1], []).append([row[f"score_{label}"] for label in labels])
    assert all(np.ptp(scores, axis=0).max() < 1e-5 for scores in by_clip.values())


def _is_worker(process):
    words = " ".join(process.info["cmdline"] or [])
    return "ray::" in words and "Map" in words
