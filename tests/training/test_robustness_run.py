from pathlib import Path

import numpy as np
import pytest
from conftest import command_line

from shift_ser.evaluation.predictions import Predictions
from shift_ser.training import feature_cache
from shift_ser.training.robustness_run import evaluate_robustness


def test_held_out_utterances_in_each_condition(finished, small_corpus, encoder, cross_validate, tmp_path, monkeypatch):
    """Clean equals the run to the bit; frames of a condition are encoded once; a second call scores nothing."""
    run = cross_validate(finished[0].output_dir)
    seen, encode = [], feature_cache._Encoding.frames
    monkeypatch.setattr(feature_cache._Encoding, "frames", lambda *args: seen.append(1) or encode(*args))
    kept = sorted(Path(run.data_args.cache_dir).iterdir())
    rows = evaluate_robustness(run, conditions=["white_noise_0_dB", "cut_0.5_s"])
    assert len(seen) == 2 * 40
    assert sorted(Path(run.data_args.cache_dir).iterdir()) == kept  # frames of noise are not left behind
    assert [row["name"] for row in rows] == ["clean", "white_noise_0_dB", "cut_0.5_s"]
    folder = run.output_dir / "robustness" / "seed0"
    said = {row["name"]: Predictions.read(folder / row["name"] / "predictions.csv") for row in rows}
    plain = Predictions.read(run.output_dir / "predictions.csv")
    assert said["clean"].table["utterance"].tolist() == plain.table["utterance"].tolist()
    np.testing.assert_array_equal(said["clean"].probabilities, plain.probabilities)
    assert (said["white_noise_0_dB"].probabilities != plain.probabilities).any(axis=1).all()
    assert rows[0]["change"]["difference"] == 0
    ua = [row["ua"]["estimate"] for row in rows]
    assert rows[1]["change"]["difference"] == pytest.approx(ua[1] - ua[0])
    assert (folder / "robustness.png").stat().st_size > 10_000
    monkeypatch.setattr("shift_ser.training.fold.FoldRun.evaluate", lambda *_: pytest.fail("scored again"))
    told = command_line("evaluate", run.output_dir, "--corpus", small_corpus, "--robustness",
                        "--condition", "white_noise_0_dB")  # fmt: skip
    assert told.exit_code == 0, told.stderr
    assert "| white noise, 0 dB |" in told.stdout
    page = (run.output_dir / "report.html").read_text(encoding="utf-8")
    assert "<h2>Robustness</h2>" in page and "<td>white noise, 0 dB</td>" in page


def test_a_condition_that_is_not_known_is_told(finished, small_corpus):
    told = command_line("evaluate", finished[0].output_dir, "--corpus", small_corpus, "--robustness",
                        "--condition", "snow")  # fmt: skip
    assert told.exit_code != 0 and "conditions must be among" in told.stderr and "got 'snow'" in told.stderr
