import dataclasses
import json
import logging
import random
import subprocess
import sys

import datasets
import pytest

from shift_ser.hub.model_card import run_card
from shift_ser.model.speech_input import log_once
from shift_ser.training import data
from shift_ser.training.fold_plan import FoldPlan, check_plan, shared_sentences
from shift_ser.training.protocols import PROTOCOLS, FoldProtocol, chosen_units, plan_folds, protocol_text

COLUMNS = ("session", "speaker", "dialog", "utterance")
WAYS = [
    {"protocol": "authors", "fold_unit": unit} for unit in ("session", "speaker")
] + [
    {"fold_unit": unit, "validation": validation}
    for unit in ("session", "speaker")
    for validation in ("session", "speaker", "random")
]  # fmt: skip


@pytest.fixture(autouse=True)
def forget_what_was_logged():
    log_once.cache_clear()


def columns_of(rows) -> dict[str, list]:
    return {name: [row[index] for row in rows] for index, name in enumerate(COLUMNS)}


def corpus(sessions=(1, 2, 3, 4, 5)) -> dict[str, list]:
    """Two speakers a session, a monologue each, three utterances a monologue."""
    rows = []
    for session in sessions:
        for letter in "FM":
            speaker = f"Ses{session:02d}{letter}"
            rows += [(session, speaker, f"{speaker}_impro01", f"{speaker}_impro01_{letter}{n:03d}") for n in range(3)]
    return columns_of(rows)


def dyads(sessions=(1, 2, 3, 4, 5)) -> dict[str, list]:
    """IEMOCAP's layout: two dialogs a session, both speakers in each, two utterances of each in it."""
    rows = []
    for session in sessions:
        for wearer, scene in (("F", "impro01"), ("M", "script01_1b" if session == 5 else "script01_1")):
            dialog = f"Ses{session:02d}{wearer}_{scene}"
            rows += [(session, f"Ses{session:02d}{letter}", dialog, f"{dialog}_{letter}{n:03d}") for letter in "FM"
                     for n in range(2)]  # fmt: skip
    return columns_of(rows)


def random_corpus(seed: int) -> dict[str, list]:
    """Three to six sessions of one to four speakers and dialogs of any of them, in no order."""
    rng = random.Random(seed)
    rows = []
    for session in rng.sample(range(1, 20), rng.randint(3, 6)):
        for speaker in range(rng.randint(1, 4)):
            rows += [
                (session, f"s{session}-{speaker}", f"d{session}-{rng.randrange(4)}", f"u{len(rows) + n}")
                for n in range(rng.randint(1, 6))
            ]
            rows = [(*row[:3], f"u{index}") for index, row in enumerate(rows)]
    rng.shuffle(rows)
    return columns_of(rows)


def traces(columns, utterances, *, kinds=("speaker", "dialog", "utterance")):
    rows = zip(*(columns[name] for name in COLUMNS), strict=True)
    chosen = [dict(zip(COLUMNS, row, strict=True)) for row in rows if row[3] in utterances]
    return {(kind, row[kind]) for row in chosen for kind in kinds}


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("seed", range(25))
def test_every_utterance_is_tested_once_and_nothing_leaks(way, seed):
    columns = random_corpus(seed)
    try:
        plans = plan_folds(columns, **way)
    except ValueError as error:  # everybody left may share a dialog with the test or validation speaker
        assert "part is empty" in str(error)
        return
    assert sorted(name for plan in plans for name in plan.test) == sorted(columns["utterance"])
    for plan in plans:
        train, validation, test = (traces(columns, part) for part in (plan.train, plan.validation, plan.test))
        assert not test & (train | validation)
        shared = {kind for kind, _ in train & validation}
        assert shared <= {"speaker", "dialog"} if way.get("validation") == "random" else not shared
        for part in (plan.train, plan.validation, plan.test):
            assert list(part) == [name for name in columns["utterance"] if name in part]
        # What is left out has a reason, and by session nobody is left out for the test session.
        named = set(plan.train + plan.validation + plan.test)
        by_random = way.get("validation") == "random"
        apart_from = test if by_random else test | validation
        for name in set(columns["utterance"]) - named:
            assert {kind for kind, _ in traces(columns, [name]) & apart_from} == {"dialog"}
            assert way["fold_unit"] == "speaker" or way.get("validation") == "speaker"


def test_the_random_corpora_are_not_all_refused():
    for way in WAYS:
        planned = 0
        for seed in range(25):
            try:
                planned += bool(plan_folds(random_corpus(seed), **way))
            except ValueError:
                continue
        assert planned >= 10, way


def test_by_default_sessions_are_whole_and_nothing_is_left_out():
    columns = dyads()
    for number, plan in enumerate(plan_folds(columns), start=1):
        following = number % 5 + 1
        assert plan.fold == number
        assert (plan.test_group, plan.validation_group) == (f"session {number}", f"session {following}")
        of_session = {
            session: tuple(name for name in columns["utterance"] if name.startswith(f"Ses{session:02d}"))
            for session in range(1, 6)
        }
        assert plan.test == of_session[number] and plan.validation == of_session[following]
        assert plan.train == sum((of_session[s] for s in range(1, 6) if s not in (number, following)), ())


def test_validation_is_by_the_next_session_there_is():
    plans = plan_folds(corpus((1, 3, 5)))
    groups = [(plan.test_group, plan.validation_group) for plan in plans]
    assert groups == [("session 1", "session 3"), ("session 3", "session 5"), ("session 5", "session 1")]


@pytest.mark.parametrize(
    ("fold_unit", "validation", "groups", "sizes"),
    [
        ("speaker", "session", {1: ("speaker Ses01F", "session 2"), 10: ("speaker Ses05M", "session 1")}, (24, 8, 4)),
        ("speaker", "speaker", {1: ("speaker Ses01F", "speaker Ses02F"), 2: ("speaker Ses01M", "speaker Ses02M")},
         (24, 4, 4)),
        ("speaker", "random", {3: ("speaker Ses02F", "random 20 %, seed 7")}, (25, 7, 4)),
        ("session", "speaker", {1: ("session 1", "speaker Ses02F"), 2: ("session 2", "speaker Ses03M")}, (24, 4, 8)),
        ("session", "random", {5: ("session 5", "random 20 %, seed 7")}, (25, 7, 8)),
    ],
)  # fmt: skip
def test_the_partner_in_a_dialog_is_left_out(fold_unit, validation, groups, sizes, caplog):
    with caplog.at_level(logging.INFO):
        plans = plan_folds(dyads(), fold_unit=fold_unit, validation=validation, seed=7)
    for fold, names in groups.items():
        assert (plans[fold - 1].test_group, plans[fold - 1].validation_group) == names
    for plan in plans:
        assert (len(plan.train), len(plan.validation), len(plan.test)) == sizes
    left_out = 40 - sum(sizes)
    logged = [f"fold {plan.fold}: {left_out} of 40 utterances are left out for their dialogs" for plan in plans]
    assert caplog.messages == (logged if left_out else [])


def test_a_partner_in_other_dialogs_may_train():
    plan = plan_folds(corpus(), fold_unit="speaker")[0]
    assert {name[:6] for name in plan.train} >= {"Ses01M"}
    assert len(plan.train + plan.validation + plan.test) == 30


@pytest.mark.parametrize("fold_unit", ["session", "speaker"])
def test_authors_train_on_all_others(fold_unit):
    for plan in plan_folds(dyads(), protocol="authors", fold_unit=fold_unit):
        assert plan.validation_group is None and plan.validation == ()
        assert len(plan.train) == 32


def test_the_random_share_changes_with_seed_and_fold_and_not_with_the_order_of_rows():
    columns = dyads()
    backwards = {name: values[::-1] for name, values in columns.items()}
    plans = plan_folds(columns, validation="random")
    for plan, other, reverse in zip(
        plans, plan_folds(columns, validation="random", seed=1), plan_folds(backwards, validation="random"), strict=True
    ):
        assert set(plan.validation) != set(other.validation) and plan.test == other.test
        assert plan.validation == reverse.validation[::-1]
    drawn = [{name[5:] for name in plan.validation if name[:5] == "Ses05"} for plan in plans[:4]]
    assert any(share != drawn[0] for share in drawn)


def test_a_dataset_gives_the_same_plans_as_its_columns():
    for way in WAYS:
        assert plan_folds(datasets.Dataset.from_dict(dyads()), **way) == plan_folds(dyads(), **way)


def test_plan_survives_json_and_its_hash_tells_plans_apart():
    plans = [plan for way in WAYS for plan in plan_folds(dyads(), **way)]
    assert [FoldPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) for plan in plans] == plans
    assert len({plan.hash for plan in plans}) == len(plans) == 60
    assert all(len(plan.hash) == 16 for plan in plans)
    with pytest.raises(ValueError, match=r"a plan must have the keys \['fold', 'test_group', .*\], got \['fold'\]"):
        FoldPlan.from_dict({"fold": 1})


@pytest.mark.parametrize(
    "change",
    [
        {"fold": 2}, {"test_group": "session 4"}, {"validation_group": None}, {"train": ("b", "c", "x")},
        {"train": ("c", "b")}, {"validation": ("a",)}, {"validation": ()}, {"test": ("a", "e")}, {"train": ("bc",)},
    ],
)  # fmt: skip
def test_hash_changes_with_anything_in_the_plan(change):
    plan = FoldPlan(1, "session 1", "session 2", ("b", "c"), ("d",), ("a",))
    assert dataclasses.replace(plan, **change).hash != plan.hash
    assert dataclasses.replace(plan).hash == plan.hash


def test_hash_does_not_change_between_releases_and_processes():
    assert FoldPlan(1, "session 1", None, ("b",), (), ("a",)).hash == "469d25a73f06d3bb"
    program = (
        "import json, sys; from shift_ser.training.protocols import plan_folds; columns, ways = json.load(sys.stdin);"
        "print(json.dumps([plan.hash for way in ways for plan in plan_folds(columns, **way)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps([dyads(), WAYS]), capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [plan.hash for way in WAYS for plan in plan_folds(dyads(), **way)]


@pytest.mark.parametrize(
    ("sessions", "options", "message"),
    [
        ((1, 2, 3), {"protocol": "oracle"}, r"protocol must be one of \('test_blind', .*\), got 'oracle'"),
        ((1, 2, 3), {"fold_unit": "dialog"}, r"fold_unit must be one of \('session', 'speaker'\), got 'dialog'"),
        ((1, 2, 3), {"validation": "test"}, r"validation must be one of .*, got 'test'"),
        ((1, 2, 3), {"protocol": "authors", "validation": "random"}, "must be left out with .*'authors'.*got 'random'"),
        ((1, 2), {}, r"fold_unit 'session' and validation 'session' needs at least 3 sessions, the "
                     r"dataset has \[1, 2\]"),
        ((4,), {"protocol": "authors"}, r"validation None needs at least 2 sessions, the dataset has \[4\]$"),
        ((4,), {}, r"needs at least 3 sessions, the dataset has \[4\]$"),  # two would not do either
        ((4,), {"validation": "random"}, r"validation 'random' needs at least 2 sessions, the dataset has \[4\]$"),
        ((4,), {"fold_unit": "speaker"}, r"needs at least 2 sessions, the dataset has \[4\]$"),
        ((), {"protocol": "authors", "fold_unit": "speaker"}, r"needs at least 2 speakers, the dataset has \[\]$"),
    ],
)  # fmt: skip
def test_plan_folds_refuses(sessions, options, message):
    with pytest.raises(ValueError, match=message):
        plan_folds(corpus(sessions), **options)


def test_where_dialogs_leave_nobody_to_train_it_is_said():
    message = (
        r"fold 1: the train part is empty \(test speaker Ses01F, validation speaker Ses02F, 8 utterances left out for"
    )
    with pytest.raises(ValueError, match=message):
        plan_folds(dyads((1, 2)), fold_unit="speaker", validation="speaker")
    assert len(plan_folds(corpus((1,)), protocol="authors", fold_unit="speaker")) == 2


def test_sessions_decide_who_tests_where_nobody_said_it():
    assert plan_folds(corpus()) == plan_folds(corpus(), fold_unit="session", validation="session")
    untold = {**corpus(), "session": [None] * len(corpus()["utterance"])}
    assert plan_folds({**untold, "dialog": untold["utterance"]})[0].test_group == "speaker Ses01F"
    for name in ("speaker_groups", "given"):
        assert chosen_units(by_speaker(), protocol=name)["validation"] == "session"  # the next group, the next fold
    two = {"speaker": list("aaaaabbbbb"), "utterance": list("0123456789")}
    with pytest.raises(ValueError, match=r"needs at least 3 speakers, .* validation 'random' or protocol 'authors'"):
        plan_folds(two)
    assert len(plan_folds(two, validation="random")) == len(plan_folds(two, protocol="authors")) == 2


def test_utterance_names_must_be_unique():
    columns = corpus()
    columns["utterance"][7] = columns["utterance"][6]
    with pytest.raises(ValueError, match="unique, the dataset has 'Ses02F_impro01_F000' twice"):
        plan_folds(columns)


@pytest.mark.parametrize("fold_unit", ["session", "speaker"])
@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("speaker", "speaker 'Ses01F' must be in one session, is in 1 and 5"),
        ("dialog", "dialog 'Ses01F_impro01' must be in one session, is in 1 and 5"),
    ],
)
def test_a_speaker_or_dialog_of_two_sessions_is_refused(column, message, fold_unit):
    columns = corpus()
    columns[column][-1] = columns[column][0]
    with pytest.raises(ValueError, match=message):
        plan_folds(columns, fold_unit=fold_unit)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": ()}, "fold 1: the train part is empty"),
        ({"validation": ()}, "fold 1: the validation part is empty"),
        ({"test": ()}, "fold 1: the test part is empty"),
        ({"test": ("nobody",)}, "fold 1: utterance 'nobody' of test is not in the dataset"),
        ({"test": ("Ses03F_impro01_F000",)}, "utterance 'Ses03F_impro01_F000' is in both train and test"),
        ({"test": ("Ses02F_impro01_F000",)}, "utterance 'Ses02F_impro01_F000' is in both validation and test"),
        ({"test": ("Ses01F_impro01_F000",) * 2}, "utterance 'Ses01F_impro01_F000' is in both test and test"),
        ({"train": ("Ses02F_impro01_M000",), "validation": ("Ses02F_impro01_F000",)},
         "dialog 'Ses02F_impro01' is in both train and validation"),
        ({"train": ("Ses01M_script01_1_F000",), "test": ("Ses01F_impro01_F000",)},
         "speaker 'Ses01F' is in both train and test"),
        ({"validation": ("Ses01F_impro01_F001",), "validation_group": None}, "is in both validation and test"),
        ({"validation": ("Ses01F_impro01_F001",), "validation_group": "random 20 %, seed 0"},
         "is in both validation and test"),
        ({"train": ("Ses01F_impro01_F001",), "validation_group": "random 20 %, seed 0"}, "is in both train and test"),
        ({"validation": ("Ses01F_impro01_F001",), "validation_group": "random 20 %, seed 0",
          "test": ("Ses01M_script01_1_F000",)}, "speaker 'Ses01F' is in both validation and test"),
        ({"validation": ("Ses01F_impro01_F001",), "validation_group": "random 20 %, seed 0",
          "test": ("Ses01F_impro01_M000",)}, "dialog 'Ses01F_impro01' is in both validation and test"),
    ],
)  # fmt: skip
def test_check_plan_names_the_offender_and_the_parts(change, message):
    plan = plan_folds(dyads())[0]
    check_plan(plan, dyads())
    with pytest.raises(ValueError, match=message):
        check_plan(dataclasses.replace(plan, **change), dyads())


@pytest.mark.parametrize("validation", ["session", "random"])
def test_a_recording_is_in_one_part_whatever_its_name(validation, caplog):
    columns = dyads()
    plan = plan_folds(columns, validation=validation)[0]
    unique = {name: name for name in columns["utterance"]}
    check_plan(plan, columns, content_hashes=unique)
    for first, second in (("train", "test"), ("validation", "test"), ("train", "validation")):
        one, other = getattr(plan, first)[0], getattr(plan, second)[-1]
        message = f"fold 1: the recording of {one!r} and {other!r} is in both {first} and {second}"
        with pytest.raises(ValueError, match=message):
            check_plan(plan, columns, content_hashes=unique | {one: "same", other: "same"})
    with pytest.raises(ValueError, match="must hold every utterance, got none for 'Ses03F_impro01_F000'"):
        check_plan(plan_folds(columns)[0], columns, content_hashes={})
    caplog.clear()
    one, other = plan.train[:2]
    for _ in range(2):
        check_plan(plan, columns, content_hashes=unique | {other: one})
    assert caplog.messages == [f"recordings that are copies of another one: 1, e.g. {other!r} of {one!r}"]


def test_a_recording_twice_is_no_leak_if_one_of_them_is_left_out():
    columns = dyads()
    hashes = {name: name for name in columns["utterance"]} | {"Ses01F_impro01_M000": "Ses01F_impro01_F000"}
    check_plan(plan_folds(columns, fold_unit="speaker")[0], columns, content_hashes=hashes)


def test_sentences_of_scripts_are_counted():
    columns = dyads()
    for plan in plan_folds(columns):  # script01_1b of session 5 is another take of script01_1
        assert shared_sentences(plan, columns) == {"train_and_test": 4, "validation_and_test": 4}
    for plan in plan_folds(columns, protocol="authors", fold_unit="speaker"):
        assert shared_sentences(plan, columns) == {"train_and_test": 2, "validation_and_test": 0}
    columns["dialog"] = [dialog.replace("script01_1", f"script0{dialog[4]}_1") for dialog in columns["dialog"]]
    for plan in plan_folds(columns):
        assert shared_sentences(plan, columns) == {"train_and_test": 0, "validation_and_test": 0}


def by_speaker(count: int = 6) -> dict[str, list]:
    """A corpus that knows only its speakers, with one to three utterances each."""
    rows = [(f"s{speaker}", f"s{speaker}-{n}") for speaker in range(count) for n in range(1 + speaker % 3)]
    return {"speaker": [row[0] for row in rows], "utterance": [row[1] for row in rows]}


def speakers_of(names) -> set[str]:
    return {name.partition("-")[0] for name in names}


def test_a_corpus_of_speakers_alone_needs_no_session_and_no_dialog():
    columns = by_speaker()
    plans = plan_folds(columns, fold_unit="speaker", validation="speaker")
    assert [(plan.test_group, plan.validation_group) for plan in plans] == [
        (f"speaker s{n}", f"speaker s{(n + 1) % 6}") for n in range(6)
    ]
    for plan in plans:
        parts = [speakers_of(part) for part in (plan.train, plan.validation, plan.test)]
        assert [len(part) for part in parts] == [4, 1, 1] and len(set.union(*parts)) == 6
    assert len(plan_folds(columns, protocol="authors", fold_unit="speaker")) == 6
    assert len(plan_folds(columns, fold_unit="speaker", validation="random")) == 6
    assert plan_folds(columns) == plans == plan_folds(columns, fold_unit="speaker")
    for options in ({"fold_unit": "session"}, {"validation": "session"}):
        with pytest.raises(ValueError, match="'session' need a column `session`, which the dataset lacks"):
            plan_folds(columns, **options)
    with pytest.raises(ValueError, match=r"must have the column 'speaker', it has \['utterance'\]"):
        plan_folds({"utterance": ["a"]})


def test_sessions_may_be_named_and_have_an_order():
    names = {1: "b", 2: "a", 3: 10, 4: 9, 5: "c"}
    columns = corpus()
    columns["session"] = [names[session] for session in columns["session"]]
    groups = [plan.test_group for plan in plan_folds(columns)]
    assert groups == ["session 9", "session 10", "session a", "session b", "session c"]


@pytest.mark.parametrize("nobody", [None, "unknown", "Unknown", ""])
@pytest.mark.parametrize(
    "way",
    [{}, {"fold_unit": "speaker", "validation": "speaker"}, {"validation": "random"},
     {"protocol": "speaker_groups", "num_folds": 4}],
    ids=str,
)  # fmt: skip
def test_who_is_not_known_is_in_no_evaluation_part(way, nobody):
    columns = corpus()
    hidden = [0, 7, 20]
    for row in hidden:
        columns["speaker"][row] = nobody
    names = {columns["utterance"][row] for row in hidden}
    plans = plan_folds(columns, **way)
    for plan in plans:
        assert not names & {*plan.validation, *plan.test}
    assert any(names & set(plan.train) for plan in plans)
    known = set(columns["utterance"]) - names
    assert {name for plan in plans for name in plan.test} == known
    with pytest.raises(ValueError, match=r"the speaker of utterance .* of test is unknown"):
        check_plan(dataclasses.replace(plans[0], test=(columns["utterance"][0],)), columns)


@pytest.mark.parametrize("num_folds", [3, 5, 6])
def test_groups_of_speakers_share_nobody_and_have_about_as_many_utterances(num_folds):
    columns = by_speaker(24)
    plans = plan_folds(columns, protocol="speaker_groups", num_folds=num_folds)
    assert len(plans) == num_folds
    tests = [speakers_of(plan.test) for plan in plans]
    assert sum(map(len, tests)) == len(set.union(*tests)) == 24
    sizes = [len(plan.test) for plan in plans]
    assert max(sizes) - min(sizes) <= 3 and sum(sizes) == len(columns["utterance"])
    for plan, following in zip(plans, [*plans[1:], plans[0]], strict=True):
        assert plan.validation == following.test
        assert not speakers_of(plan.train) & (speakers_of(plan.validation) | speakers_of(plan.test))
    for wrong in (2, 25):
        with pytest.raises(ValueError, match=f"num_folds must be from 3 to the number of speakers, 24, got {wrong}"):
            plan_folds(columns, protocol="speaker_groups", num_folds=wrong)


def test_folds_that_the_corpus_gives():
    columns = by_speaker() | {"fold": [int(name[1]) // 2 for name in by_speaker()["speaker"]]}
    plans = plan_folds(columns, protocol="given")
    assert [plan.test_group for plan in plans] == ["fold 0", "fold 1", "fold 2"]
    assert speakers_of(plans[0].test) == {"s0", "s1"} and speakers_of(plans[0].validation) == {"s2", "s3"}
    columns["fold"][1] = 2  # of s1, who is in fold 0 otherwise
    with pytest.raises(ValueError, match="speaker 's1' must be in one fold, is in 2 and 0; allow_shared_speakers"):
        plan_folds(columns, protocol="given")
    marked = plan_folds(columns, protocol="given", allow_shared_speakers=True)
    assert [plan.test_group for plan in marked] == [f"fold {n}, speakers shared between parts" for n in range(3)]
    settings = {"protocol": "given", "selection_metric": "ua", "refit": False, "allow_shared_speakers": True}
    assert "Speakers or dialogs may be in several parts" in protocol_text(settings)


def test_the_split_that_the_corpus_gives():
    split = {"s0": "test", "s1": "dev", "s2": "Train", "s3": "train", "s4": "train", "s5": "Test"}
    columns = by_speaker() | {"split": [split[name] for name in by_speaker()["speaker"]]}
    (plan,) = plan_folds(columns, protocol="given")
    parts = [speakers_of(part) for part in (plan.train, plan.validation, plan.test)]
    assert parts == [{"s2", "s3", "s4"}, {"s1"}, {"s0", "s5"}] and plan.test_group == "split test"
    assert plan_folds(columns, protocol="given", allow_shared_speakers=True) == [plan]
    columns["split"][-1] = "train"
    with pytest.raises(ValueError, match="speaker 's5' is in both train and test"):
        plan_folds(columns, protocol="given")
    (shared,) = plan_folds(columns, protocol="given", allow_shared_speakers=True)
    assert shared.test_group == "split test, speakers shared between parts"
    columns["split"] = ["train" if name == "dev" else name for name in columns["split"][:-1]] + ["test"]
    with pytest.raises(ValueError, match="has no validation set; validation must be 'random'"):
        plan_folds(columns, protocol="given")
    (drawn,) = plan_folds(columns, protocol="given", validation="random")
    assert drawn.validation and not set(drawn.validation) & {*drawn.train, *drawn.test}
    columns["split"][0] = "test1"
    with pytest.raises(ValueError, match=r"column split must hold train, .* got 'test1'"):
        plan_folds(columns, protocol="given")
    with pytest.raises(ValueError, match="needs a column `fold` or `split`"):
        plan_folds(by_speaker(), protocol="given")


def test_every_protocol_tells_of_itself_and_refuses_what_it_does_not_read():
    settings = {"fold_unit": "session", "validation": "random", "selection_metric": "wa", "refit": True, "num_folds": 7}
    told = [protocol_text(settings | {"protocol": name}) for name in PROTOCOLS]
    assert len(set(told)) == len(PROTOCOLS) and all("*oracle*" in text for text in told)
    others = {"fold_unit": "speaker", "validation": "random", "num_folds": 3, "allow_shared_speakers": True}
    for name, entry in PROTOCOLS.items():
        assert entry.name == name
        for option in others.keys() - set(entry.reads):
            with pytest.raises(ValueError, match=f"{option} must be left out with protocol '{name}'"):
                plan_folds(corpus(), protocol=name, **{option: others[option]})


def plan_first_alone(rows, options):
    """A made-up protocol: the first session tests, all others train."""
    test = tuple(row.utterance for row in rows if row.session == 1)
    yield FoldPlan(1, "the first", None, tuple(row.utterance for row in rows if row.session != 1), (), test)


MADE_UP = FoldProtocol(
    "first_alone", help="the first session tests", plan=plan_first_alone, selects=False, reads=(),
    title="one fold", text=lambda settings: f"Session 1 tests, {settings['max_seconds']} s of it.",
)  # fmt: skip


def test_a_protocol_is_one_function_and_one_entry(cross_validate, tmp_path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "first_alone", MADE_UP)
    run = cross_validate(tmp_path / "out", "--protocol", "first_alone", "--num_train_epochs", 1)
    results = run.run()
    assert [(result["test_group"], result["num_test"]) for result in results["folds"]] == [("the first", 8)]
    assert 0 <= results["summary"]["test"]["ua"]["mean"] <= 1
    assert "## Protocol\n\nSession 1 tests, 7.5 s of it." in run_card(results, model="m", figure=None)


def test_a_corpus_of_speakers_alone_runs_to_scores(cross_validate, tmp_path, monkeypatch, caplog):
    flags = ("--folds", 2, "--num_train_epochs", 1)
    load = data.load_corpus
    dropped = ["session", "dialog"]
    monkeypatch.setattr(data, "load_corpus", lambda *args, **options: load(*args, **options).remove_columns(dropped))
    with caplog.at_level("INFO"):
        results = cross_validate(tmp_path / "out", *flags).run()
    assert "(10 speakers): fold_unit speaker, validation speaker" in caplog.text
    assert results["settings"]["fold_unit"] == results["settings"]["validation"] == "speaker"
    (result,) = results["folds"]
    assert (result["test_group"], result["validation_group"]) == ("speaker Ses01M", "speaker Ses02F")
