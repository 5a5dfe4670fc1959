"""Speaker-independence of every protocol, over random corpora; and what a corpus decides."""

import hashlib
import random

import pytest

from shift_ser.training.fold_plan import PARTS
from shift_ser.training.protocols import PROTOCOLS, plan_folds, settled

OPTIONS = {
    "test_blind": [{"fold_unit": "speaker", "validation": how} for how in ("speaker", "random")],
    "authors": [{"fold_unit": "speaker"}],
    "speaker_groups": [{"num_folds": number, "validation": how} for number in (3, 4) for how in ("session", "random")],
    "given": [{}, {"validation": "random"}],
}


def corpus(seed: int, *, sessions: bool, dialogs: bool) -> dict:
    """Utterances in any order: speakers of one session, some unknown, with very unlike numbers of them."""
    draw = random.Random(seed)
    speakers = [f"s{number}" for number in range(draw.randint(4, 14))]
    rows = []
    for place, speaker in enumerate(speakers):
        for number in range(draw.choice((1, 2, 5, 20))):
            rows.append(
                {"utterance": f"{speaker}-{number}", "speaker": speaker, "session": place % 4, "fold": place % 4}
            )
            if dialogs:  # two speakers of a session talk in it
                rows[-1]["dialog"] = f"d{place % 4}-{number % 3}"
    for number in range(draw.randint(0, 5)):
        rows.append(
            {"utterance": f"who-{number}", "speaker": draw.choice((None, "", "Unknown")), "session": 0, "fold": 0}
        )
    draw.shuffle(rows)
    names = ["utterance", "speaker", "fold", *(["session"] if sessions else []), *(["dialog"] if dialogs else [])]
    return {name: [row.get(name) for row in rows] for name in names}


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("protocol", OPTIONS)
def test_no_protocol_shares_a_speaker_or_dialog_with_its_test_set(protocol, seed):
    for options in OPTIONS[protocol]:
        for sessions, dialogs in ((False, False), (True, False), (True, True)):
            columns = corpus(seed, sessions=sessions, dialogs=dialogs)
            try:
                plans = plan_folds(columns, protocol=protocol, **options)
            except ValueError as error:  # refused as a whole: dialogs may leave nobody to train
                assert dialogs and "part is empty" in str(error), error
                continue
            row_of = {name: place for place, name in enumerate(columns["utterance"])}
            tested = [name for plan in plans for name in plan.test]
            known = {name for name in row_of if not name.startswith("who")}
            assert sorted(tested) == sorted(known)  # everyone whose speaker is known, once
            for plan in plans:
                assert bool(plan.validation) == PROTOCOLS[protocol].selects
                for kind in ("speaker", *(["dialog"] if dialogs else [])):
                    parts = [{columns[kind][row_of[name]] for name in getattr(plan, part)} for part in PARTS]
                    train, validation, test = ({value for value in part if value in known_values} for part in parts
                                               if (known_values := _known(part)) is not None)  # fmt: skip
                    assert not test & (train | validation)
                    assert "random" in (plan.validation_group or "") or not train & validation
                assert not {name for name in (*plan.test, *plan.validation) if name.startswith("who")}


def _known(values: set) -> set:
    return {value for value in values if value not in (None, "", "Unknown")}


def test_every_protocol_that_makes_folds_is_among_them():
    assert {*OPTIONS, "emobox"} == set(PROTOCOLS)  # lists are somebody else's: see test_fold_lists


@pytest.mark.parametrize(
    ("number", "options", "expected"),
    [
        (12, {}, "test_blind"),
        (13, {}, "speaker_groups"),
        (13, {"fold_unit": "speaker"}, "test_blind"),
        (13, {"validation": "random"}, "test_blind"),
    ],
)
def test_many_speakers_are_divided_into_groups_unless_a_fold_for_each_is_asked_for(number, options, expected):
    names = [f"{place}" for place in range(number)]
    columns = {"utterance": names, "speaker": names}
    assert settled(columns, protocol="test_blind", **options)["protocol"] == expected
    assert settled({**columns, "session": names}, protocol="test_blind", **options)["protocol"] == "test_blind"
    assert settled(columns, protocol="authors", **options)["protocol"] == "authors"
    nobody = {name: [*names, f"{number}"] for name in columns} | {"speaker": [*names, "unknown"]}
    assert settled(nobody, protocol="test_blind", **options)["protocol"] == expected


@pytest.mark.parametrize("count", [5, 6, 9, 10, 11])
@pytest.mark.parametrize("options", [{}, {"seed": 3}])
def test_a_random_validation_set_is_the_fifth_of_least_hash_rounded_up(count, options):
    names = [f"{speaker}{number}" for speaker in "abc" for number in range(count)]
    columns = {"utterance": names, "speaker": [name[0] for name in names]}
    for fold, plan in enumerate(plan_folds(columns, validation="random", **options), 1):
        draw = {name: hashlib.sha256(f"{options.get('seed', 0)}/{fold}/{name}".encode()).digest() for name in names}
        others = sorted({*names} - {*plan.test}, key=draw.get)
        assert {*plan.validation} == {*others[: -(-len(others) // 5)]}
        assert plan.validation_group == f"random 20 %, seed {options.get('seed', 0)}" and plan.fold == fold


def test_the_largest_speakers_are_dealt_out_first_and_five_groups_are_the_default():
    sizes = {"e": 3, "d": 3, "c": 3, "b": 4, "a": 5}
    names = [f"{speaker}{number}" for speaker, size in sizes.items() for number in range(size)]
    columns = {"utterance": names, "speaker": [name[0] for name in names]}
    plans = plan_folds(columns, protocol="speaker_groups", num_folds=3)
    told = [(plan.test_group, "".join(sorted({name[0] for name in plan.test}))) for plan in plans]
    assert told == [("speaker group 1", "a"), ("speaker group 2", "be"), ("speaker group 3", "cd")]
    for default in (plan_folds(columns, protocol="speaker_groups", num_folds=5),
                    plan_folds(columns, protocol="speaker_groups")):  # fmt: skip
        assert ["".join({name[0] for name in plan.test}) for plan in default] == [*"abcde"]


def test_sessions_come_in_the_order_of_numbers_and_then_of_names():
    sessions = ["b", 10, 9.5, "a", 2]
    columns = {name: [f"{session}" for session in sessions] for name in ("utterance", "speaker")}
    plans = plan_folds(columns | {"session": sessions})
    assert [plan.test_group for plan in plans] == [f"session {name}" for name in (2, 9.5, 10, "a", "b")]
