import numpy as np
import pytest
from test_uncertainty import by_sklearn, predicted

from shift_ser.evaluation.groups import duration_groups, group_scores
from shift_ser.evaluation.predictions import Predictions


def test_groups_have_their_own_scores_and_the_gap_is_that_of_the_best_and_the_worst():
    rows = [{**row, "fold": int(row["speaker"][1:]) % 5} for row in predicted(200)]
    groups = {row["utterance"]: "ab"[index % 3 == 0] for index, row in enumerate(rows[:150])}
    found = group_scores(Predictions.from_rows(rows), groups)
    for group in found["groups"]:
        mine = [row for row in rows if groups.get(row["utterance"]) == group["name"]]
        assert [group["wa"], group["ua"]] == pytest.approx(by_sklearn(mine)[:2])
        assert group["num_utterances"] == len(mine)
    first, second = (group["wa"] for group in found["groups"])
    gap = found["gap"]
    assert gap["wa"] == pytest.approx(abs(first - second)) and gap["best"] == ("a" if first > second else "b")
    assert gap["interval"][0] < gap["wa"] < gap["interval"][1]


def test_speakers_of_one_fold_have_a_gap_without_an_interval_and_few_utterances_none():
    said = Predictions.from_rows([{**row, "fold": int(row["speaker"][1:]) % 5} for row in predicted(200)])
    by_speaker = group_scores(said, dict(zip(said.table["utterance"], said.table["speaker"], strict=True)))
    assert len(by_speaker["groups"]) == 10 and by_speaker["gap"]["interval"] is None
    assert group_scores(said, {"u0": "a", "u1": "b"})["gap"] is None
    with pytest.raises(ValueError, match=r"such as 'u0', got \['x'\]"):
        group_scores(said, {"x": "a"})


def test_seeds_share_their_utterance():
    rows = predicted(40)
    twice = Predictions.from_rows([{**row, "seed": seed} for seed in (0, 1) for row in rows])
    groups = {row["utterance"]: row["speaker"] for row in rows}
    assert group_scores(twice, groups)["groups"] == group_scores(Predictions.from_rows(rows), groups)["groups"]


def test_thirds_by_length_are_equally_large():
    seconds = dict(enumerate(np.random.default_rng(0).uniform(0.5, 7, 90)))
    told = duration_groups(seconds)
    names = sorted(set(told.values()))
    assert [sum(value == name for value in told.values()) for name in names] == [30, 30, 30]
    assert max(s for n, s in seconds.items() if told[n] == names[0]) < min(
        s for n, s in seconds.items() if told[n] == names[1]
    )
