"""Speaker-independence of every protocol, over random corpora."""

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
    [(12, {}, "test_blind"), (13, {}, "speaker_groups"), (13, {"fold_unit": "speaker"}, "test_blind")],
)
def test_many_speakers_are_divided_into_groups_unless_a_fold_for_each_is_asked_for(number, options, expected):
    names = [f"{place}" for place in range(number)]
    columns = {"utterance": names, "speaker": names}
    assert settled(columns, protocol="test_blind", **options)["protocol"] == expected
    assert settled({**columns, "session": names}, protocol="test_blind", **options)["protocol"] == "test_blind"
    assert settled(columns, protocol="authors", **options)["protocol"] == "authors"
