import json

import pytest

from shift_ser.training.protocols import PROTOCOLS, plan_folds, protocol_text, protocol_title

SPEAKERS = "abcd"


def columns(per_speaker=6) -> dict:
    names = [f"{speaker}{number:02}" for speaker in SPEAKERS for number in range(per_speaker)]
    return {"utterance": names, "speaker": [name[0] for name in names]}


def write(folder, fold, train, test, *, line=None):
    """Lists as EmoBox has them."""
    (folder / f"fold_{fold}").mkdir(parents=True, exist_ok=True)
    for part, names in (("train", train), ("test", test)):
        rows = [
            {"key": f"own-{name}", "dataset": "own", "wav": f"downloads/own/wav/{name}.wav", "sample_rate": 16000,
             "length": 2.1, "task": "category", "emo": "anger", "channel": 1} for name in names
        ]  # fmt: skip
        text = "\n".join(map(json.dumps, rows)) + "\n"
        (folder / f"fold_{fold}" / f"own_{part}_fold_{fold}.jsonl").write_text(text if line is None else line)
        (folder / f"fold_{fold}" / f"own_{part}_fold{fold}.jsonl").write_text("an older list, not read")


def test_the_published_lists_are_the_folds_and_a_fifth_of_training_selects(tmp_path):
    names = columns()["utterance"]
    for fold, speaker in enumerate(SPEAKERS, 1):
        test = [name for name in names if name[0] == speaker]
        write(tmp_path, fold, [name for name in names if name not in test], test)
    plans = plan_folds(columns(), protocol="emobox", fold_lists=str(tmp_path))
    assert [plan.fold for plan in plans] == [1, 2, 3, 4] and plans[1].test_group == "EmoBox fold 2"
    for plan, speaker in zip(plans, SPEAKERS, strict=True):
        assert {name[0] for name in plan.test} == {speaker} and len(plan.validation) == 4 and len(plan.train) == 14
        assert PROTOCOLS["emobox"].selects  # as each plan has a validation set
        assert set(plan.train) | set(plan.validation) | set(plan.test) == set(names)


def test_shared_speakers_are_refused_or_marked(tmp_path):
    names = columns()["utterance"]
    write(tmp_path, 1, names[::2], names[1::2])
    with pytest.raises(ValueError, match=r"fold 1: speaker '.' is in both"):
        plan_folds(columns(), protocol="emobox", fold_lists=str(tmp_path))
    (plan,) = plan_folds(columns(), protocol="emobox", fold_lists=str(tmp_path), allow_shared_speakers=True)
    assert plan.test_group == "EmoBox fold 1, speakers shared between parts" and set(plan.test) == set(names[1::2])
    settings = {"protocol": "emobox", "selection_metric": "ua", "refit": False, "allow_shared_speakers": True}
    assert "EmoBox" in protocol_title(settings) and "Speakers of the test list may be in training" in protocol_text(
        settings
    )


def test_what_is_wrong_with_lists_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="protocol 'emobox' needs fold_lists"):
        plan_folds(columns(), protocol="emobox")
    with pytest.raises(FileNotFoundError, match="fold_lists must hold the folders fold_1, fold_2"):
        plan_folds(columns(), protocol="emobox", fold_lists=str(tmp_path))
    write(tmp_path, 1, ["a00", "z99"], ["b00"])
    with pytest.raises(ValueError, match=r"must list recordings of the corpus, 1 are not in it: z99"):
        plan_folds(columns(), protocol="emobox", fold_lists=str(tmp_path))
    write(tmp_path, 1, [], [], line="[1]\n")
    with pytest.raises(ValueError, match=r"own_train_fold_1\.jsonl, line 1: a line must be a JSON object"):
        plan_folds(columns(), protocol="emobox", fold_lists=str(tmp_path))
    with pytest.raises(ValueError, match="fold_lists must be left out with protocol 'test_blind'"):
        plan_folds(columns(), fold_lists="lists")
