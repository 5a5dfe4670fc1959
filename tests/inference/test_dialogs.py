"""Each fold's model on the dialogs of its held-out session."""

import shutil

import pytest
from conftest import command_line

from shift_ser.evaluation.run_folder import PLANS, read_json, write_json
from shift_ser.inference.dialogs import TURNS, evaluate_dialogs, read_dialogs

GIVEN = {"voice_activity": False, "frame_s": 0.25, "min_duration_s": 0.0}


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished[0].output_dir, tmp_path / "run")


def test_every_fold_hears_the_dialogs_of_its_session(run, small_corpus):
    rows = evaluate_dialogs(run, small_corpus, chunk_lengths_s=[2.0], **GIVEN)
    assert [row["fold"] for row in rows] == ["1", "2", "3", "4", "5", "all"] * 2
    assert [row["setting"] for row in rows] == ["2 s every 0.5 s"] * 6 + [TURNS] * 6
    windows, turns = rows[5]["scores"], rows[11]["scores"]
    dialogs = read_dialogs(small_corpus)
    assert len(dialogs) == 20 and windows["seconds"] == turns["seconds"]
    assert turns["false_alarm"] < windows["false_alarm"], "without voice activity pauses get a label"
    assert 0 <= turns["ua"] <= 1 and windows["eder"] > 0
    assert read_json(run / "dialogs" / "results.json")["rows"] == rows
    assert "| turns given | all |" in (run / "dialogs" / "dialogs.md").read_text()


def test_what_cannot_be_evaluated_is_told(run, small_corpus, tmp_path):
    plans = read_json(run / PLANS)
    for plan in plans:
        plan["train"], plan["test"] = plan["train"] + plan["test"][::2], plan["test"][1::2]
    write_json(run / PLANS, plans)
    (run / "checksums.json").unlink()  # as older releases left a run
    with pytest.raises(ValueError, match="a fold of the run must leave out a whole dialog, got none"):
        evaluate_dialogs(run, small_corpus, **GIVEN)
    with pytest.raises(FileNotFoundError, match="root must be IEMOCAP's release"):
        read_dialogs(tmp_path)
    part = shutil.copytree(small_corpus, tmp_path / "part")
    (part / "Session2" / "dialog" / "wav" / "Ses02F_impro01.wav").unlink()
    with pytest.raises(FileNotFoundError, match=r"recordings of whole dialogs, .*Ses02F_impro01\.wav is missing"):
        read_dialogs(part)
    told = command_line("evaluate", run, "--dialogs")
    assert told.exit_code == 2 and "--dialogs needs --corpus" in told.output
