import dataclasses
import json

import datasets
import pytest

from shift_ser.folds import FoldPlan, check_plan, plan_folds


def corpus(sessions=(1, 2, 3, 4, 5)) -> dict[str, list]:
    """Two speakers a session, a dialog each, three utterances a dialog."""
    columns: dict[str, list] = {"session": [], "speaker": [], "dialog": [], "utterance": []}
    for session in sessions:
        for letter in "FM":
            speaker = f"Ses{session:02d}{letter}"
            for turn in range(3):
                row = (session, speaker, f"{speaker}_impro01", f"{speaker}_impro01_{letter}{turn:03d}")
                for name, value in zip(columns, row, strict=True):
                    columns[name].append(value)
    return columns


def test_each_utterance_is_tested_once_and_is_in_one_part_of_each_fold():
    columns = corpus()
    plans = plan_folds(columns)
    assert [plan.fold for plan in plans] == [1, 2, 3, 4, 5]
    assert [name for plan in plans for name in plan.test] == columns["utterance"]
    for plan in plans:
        assert sorted(plan.train + plan.selection + plan.test) == sorted(columns["utterance"])


def test_test_blind_selects_on_the_next_session():
    sessions = [(plan.test_session, plan.selection_session) for plan in plan_folds(corpus((1, 3, 5)))]
    assert sessions == [(1, 3), (3, 5), (5, 1)]
    plan = plan_folds(corpus((1, 3, 5)))[2]
    assert {name[:5] for name in plan.selection} == {"Ses01"}
    assert {name[:5] for name in plan.train} == {"Ses03"}


def test_authors_train_on_all_other_sessions():
    for plan in plan_folds(corpus(), protocol="authors"):
        assert plan.selection_session is None and plan.selection == ()
        assert len(plan.train) == 24 and len(plan.test) == 6


def test_parts_keep_the_order_of_the_dataset():
    columns = {name: values[::-1] for name, values in corpus().items()}
    for plan in plan_folds(columns):
        assert list(plan.train) == [name for name in columns["utterance"] if name in plan.train]


def test_a_dataset_gives_the_same_plans_as_its_columns():
    assert plan_folds(datasets.Dataset.from_dict(corpus())) == plan_folds(corpus())


def test_plan_survives_json_and_its_hash_tells_plans_apart():
    plans = plan_folds(corpus()) + plan_folds(corpus(), protocol="authors")
    assert [FoldPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) for plan in plans] == plans
    assert len({plan.hash for plan in plans}) == 10
    assert all(len(plan.hash) == 16 for plan in plans)
    assert dataclasses.replace(plans[0], train=plans[0].train[::-1]).hash != plans[0].hash


def test_hash_does_not_change_between_releases():
    assert FoldPlan(1, 1, None, ("b",), (), ("a",)).hash == "a29d208910274e52"


@pytest.mark.parametrize(
    ("sessions", "protocol", "message"),
    [
        ((1, 2, 3), "oracle", r"protocol must be one of \('test_blind', 'authors'\), got 'oracle'"),
        ((1, 2), "test_blind", r"'test_blind' needs at least 3 sessions, the dataset has \[1, 2\]"),
        ((4,), "authors", r"'authors' needs at least 2 sessions, the dataset has \[4\]"),
    ],
)
def test_plan_folds_refuses(sessions, protocol, message):
    with pytest.raises(ValueError, match=message):
        plan_folds(corpus(sessions), protocol=protocol)


def test_utterance_names_must_be_unique():
    columns = corpus()
    columns["utterance"][7] = columns["utterance"][6]
    with pytest.raises(ValueError, match="unique, the dataset has 'Ses02F_impro01_F000' twice"):
        plan_folds(columns)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("speaker", "fold 1: speaker 'Ses01F' is in both train and test"),
        ("dialog", "fold 1: dialog 'Ses01F_impro01' is in both train and test"),
    ],
)
def test_a_speaker_or_dialog_of_two_sessions_is_a_leak(column, message):
    columns = corpus()
    columns[column][-1] = columns[column][0]
    with pytest.raises(ValueError, match=message):
        plan_folds(columns)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": ()}, "fold 1: the train part is empty"),
        ({"selection": ()}, "fold 1: the selection part is empty"),
        ({"test": ()}, "fold 1: the test part is empty"),
        ({"test": ("nobody",)}, "fold 1: utterance 'nobody' of test is not in the dataset"),
        ({"test": ("Ses03F_impro01_F000",)}, "utterance 'Ses03F_impro01_F000' is in both train and test"),
        ({"test": ("Ses02F_impro01_F000",)}, "utterance 'Ses02F_impro01_F000' is in both selection and test"),
        ({"test": ("Ses01F_impro01_F000",) * 2}, "utterance 'Ses01F_impro01_F000' is in both test and test"),
    ],
)
def test_check_plan_names_the_offender_and_the_parts(change, message):
    plan = plan_folds(corpus())[0]
    check_plan(plan, corpus())
    with pytest.raises(ValueError, match=message):
        check_plan(dataclasses.replace(plan, **change), corpus())
