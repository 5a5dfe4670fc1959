"""PROTOCOLS: the ways to divide a corpus into folds, each with its plans and its words for the card."""

import hashlib
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from .fold_lists import read_fold_lists
from .fold_plan import PARTS, RANDOM, SHARED, Columns, FoldPlan, Row, check_plan, left_out, read_rows

FOLD_UNITS = ("session", "speaker")
VALIDATIONS = ("session", "speaker", "random")
_SPLITS = {"train": "train", "training": "train", "validation": "validation", "dev": "validation",
           "development": "validation", "valid": "validation", "val": "validation", "test": "test"}  # fmt: skip

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlanOptions:
    """What a protocol may be told.

    Attributes:
        fold_unit: Who is left out and tests, one of `FOLD_UNITS`; `None` until the corpus has decided.
        validation: Who selects the epoch, one of `VALIDATIONS`; `None` until the corpus has decided.
        seed: Draws a random validation set.
        num_folds: Number of speaker groups.
        allow_shared_speakers: Whether a given split may have a speaker or dialog in two parts.
        fold_lists: Folder of fold lists in EmoBox's form.
    """

    fold_unit: str | None = None
    validation: str | None = None
    seed: int = 0
    num_folds: int = 5
    allow_shared_speakers: bool = False
    fold_lists: str | None = None


def plan_folds(
    dataset: Columns,
    *,
    protocol: str = "test_blind",
    fold_unit: str | None = None,
    validation: str | None = None,
    seed: int = 0,
    num_folds: int = 5,
    allow_shared_speakers: bool = False,
    fold_lists: str | None = None,
) -> list[FoldPlan]:
    """The folds of a protocol, in ascending order.

    A dialog is never divided: what others say to a test or validation speaker is left out of the fold (and logged). In
    IEMOCAP, whose dialogs have two speakers, folds by speaker train on four sessions at most. An utterance of an
    unknown speaker (`None` or "unknown") is in no validation and no test set.

    Args:
        dataset: Columns `utterance` and `speaker`, and where there are any `session`, `dialog`, `fold` and `split`, one
            value a row.
        protocol: An entry of `PROTOCOLS`.
        fold_unit: Who is left out and tested, a `"session"` or a `"speaker"`; by default what `chosen_units` says.
        validation: Who selects. `"session"`: the one after the test fold's (the first after the last). `"speaker"`:
            one speaker of that session, in turn from fold to fold; in a corpus without sessions the next speaker.
            `"random"`: a fifth of the remaining utterances, as in SUPERB, for comparison; train and validation then
            share speakers and dialogs, and only the test part is held apart from both. By default what `chosen_units`
            says.
        seed: Which random fifth.
        num_folds: Number of speaker groups.
        allow_shared_speakers: With protocol `"given"`: take a split that has speakers or dialogs in two parts, and say
            so in the name of the test group.
        fold_lists: With protocol `"emobox"`: the folder of a corpus's fold lists, `fold_1`, `fold_2`, ... in it.

    Returns:
        One checked plan for each fold (see `check_plan`).

    Raises:
        ValueError: If an option is unknown or the protocol does not read it, a column is missing, there are too few
            sessions or speakers, a speaker or a dialog is in two sessions, or a plan leaks.

    Example:
        >>> sessions, names = [1, 1, 2, 3], ["a", "b", "c", "d"]
        >>> columns = {"session": sessions, "speaker": sessions, "dialog": names, "utterance": names}
        >>> plan = plan_folds(columns)[0]
        >>> plan.test, plan.validation, plan.train
        (('a', 'b'), ('c',), ('d',))
    """
    units = chosen_units(dataset, protocol=protocol, fold_unit=fold_unit, validation=validation)
    options = PlanOptions(
        **units, seed=seed, num_folds=num_folds, allow_shared_speakers=allow_shared_speakers, fold_lists=fold_lists
    )
    rows = read_rows(dataset)
    entry = _check_options(protocol, options, usual=chosen_units(dataset, protocol=protocol))
    columns = {name: [getattr(row, name) for row in rows] for name in Row._fields}
    plans = list(entry.plan(rows, options))
    for plan in plans:
        check_plan(plan, columns)
        if count := left_out(plan, rows):
            logger.info("fold %d: %d of %d utterances are left out for their dialogs", plan.fold, count, len(rows))
    return plans


def chosen_units(
    dataset: Columns, *, protocol: str, fold_unit: str | None = None, validation: str | None = None
) -> dict[str, str]:
    """Who tests and who selects where nobody said it: sessions if the corpus has any, else speakers.

    With protocols `speaker_groups` and `given`, `"session"` means that the next group or fold validates.

    Args:
        dataset: Columns as in `plan_folds`.
        protocol: An entry of `PROTOCOLS`.
        fold_unit: What was said; kept.
        validation: What was said; kept.

    Returns:
        `fold_unit` and `validation`.

    Example:
        >>> chosen_units({"utterance": ["a"], "speaker": ["x"]}, protocol="test_blind", validation="random")
        {'fold_unit': 'speaker', 'validation': 'random'}
    """
    names: Any = dataset
    there = getattr(dataset, "column_names", None) or list(names)
    has_sessions = "session" in there and any(session is not None for session in dataset["session"])
    unit = "session" if has_sessions else "speaker"
    grouped = protocol in PROTOCOLS and "fold_unit" not in PROTOCOLS[protocol].reads
    return {"fold_unit": fold_unit or unit, "validation": validation or ("session" if grouped else unit)}


MANY_SPEAKERS = 12  # more of them are divided into groups, unless a protocol or who tests is asked for


def settled(
    dataset: Columns, *, protocol: str, fold_unit: str | None = None, validation: str | None = None
) -> dict[str, str]:
    """`protocol`, `fold_unit` and `validation` of a run: what was said, and what the corpus decides where it was not.

    With many speakers and no sessions, groups of speakers take the place of one fold for each speaker.

    Args:
        dataset: Columns as in `plan_folds`.
        protocol: What was said, or the default.
        fold_unit: What was said; `"speaker"` keeps a fold for each speaker.
        validation: What was said; kept.

    Example:
        >>> names = [f"speaker {number}" for number in range(40)]
        >>> settled({"utterance": names, "speaker": names}, protocol="test_blind")["protocol"]
        'speaker_groups'
    """
    if protocol == "test_blind" and not fold_unit and not validation:
        rows = read_rows(dataset)
        many = len({row.speaker for row in rows if row.has_speaker}) > MANY_SPEAKERS
        protocol = "speaker_groups" if many and all(row.session is None for row in rows) else protocol
    return {"protocol": protocol} | chosen_units(dataset, protocol=protocol, fold_unit=fold_unit, validation=validation)


def _check_options(protocol: str, options: PlanOptions, *, usual: Mapping[str, str]) -> "FoldProtocol":
    for name, value, allowed in (
        ("protocol", protocol, tuple(PROTOCOLS)),
        ("fold_unit", options.fold_unit, FOLD_UNITS),
        ("validation", options.validation, VALIDATIONS),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, got {value!r}")
    entry = PROTOCOLS[protocol]
    for field in fields(PlanOptions):
        value = getattr(options, field.name)
        default = usual.get(field.name, field.default)
        if field.name != "seed" and field.name not in entry.reads and value != default:
            raise ValueError(f"{field.name} must be left out with protocol {protocol!r}: {entry.help}; got {value!r}")
    return entry


def leave_one_out(rows: list[Row], options: PlanOptions) -> Iterator[FoldPlan]:
    """Each session or speaker tests once; the others train and select."""
    yield from _leave_one_out(rows, options, how=options.validation)


def leave_one_out_without_validation(rows: list[Row], options: PlanOptions) -> Iterator[FoldPlan]:
    """Each session or speaker tests once; all others train."""
    yield from _leave_one_out(rows, options, how=None)


def leave_speaker_group_out(rows: list[Row], options: PlanOptions) -> Iterator[FoldPlan]:
    """Each of `num_folds` groups of speakers with about as many utterances tests once; the next one selects."""
    counts = Counter(row.speaker for row in rows if row.has_speaker)
    if not 3 <= options.num_folds <= len(counts):
        raise ValueError(f"num_folds must be from 3 to the number of speakers, {len(counts)}, got {options.num_folds}")
    sizes: list[int] = [0] * options.num_folds
    group_of: dict[str | None, int] = {}
    for speaker, count in sorted(counts.items(), key=lambda item: (-item[1], str(item[0]))):
        smallest = sizes.index(min(sizes))
        group_of[speaker] = smallest + 1
        sizes[smallest] += count
    grouped = [row._replace(session=group_of.get(row.speaker)) for row in rows]
    yield from _leave_one_out(grouped, options, how=options.validation, title="speaker group")


def given_parts(rows: list[Row], options: PlanOptions) -> Iterator[FoldPlan]:
    """The folds of the column `fold`, or the one fold of the column `split` (train, validation, test)."""
    if any(row.fold is not None for row in rows):
        yield from _given_folds(rows, options)
    elif any(row.split is not None for row in rows):
        yield _given_split(rows, options)
    else:
        raise ValueError("protocol 'given' needs a column `fold` or `split` in the dataset, it has neither")


def _given_folds(rows: list[Row], options: PlanOptions) -> Iterator[FoldPlan]:
    folded = [row._replace(session=row.fold) for row in rows]
    if not options.allow_shared_speakers:
        yield from _leave_one_out(folded, options, how=options.validation, title="fold")
        return
    alone = [row._replace(speaker=row.utterance, dialog=None) if row.has_speaker else row for row in folded]
    for plan in _leave_one_out(alone, options, how=options.validation, title="fold"):
        yield _marked(plan, rows)


def _given_split(rows: list[Row], options: PlanOptions) -> FoldPlan:
    found = sorted({str(row.split) for row in rows})
    if unknown := [name for name in found if name.lower() not in _SPLITS]:
        raise ValueError(f"the column split must hold {', '.join(_SPLITS)}, got {unknown[0]!r}")
    part = {name: [row for row in rows if _SPLITS[str(row.split).lower()] == name] for name in PARTS}
    for name in ("validation", "test"):
        part[name] = [row for row in part[name] if row.has_speaker]
    group = "split validation"
    if not part["validation"]:
        if options.validation != RANDOM:
            raise ValueError(f"the column split has no validation set; validation must be 'random', got {found}")
        part["validation"], part["train"] = _select_random(part["train"], fold=1, seed=options.seed)
        group = f"{RANDOM} 20 %, seed {options.seed}"
    names = (tuple(row.utterance for row in part[name]) for name in PARTS)
    plan = FoldPlan(1, "split test", group, *names)
    return _marked(plan, rows) if options.allow_shared_speakers else plan


def listed_folds(rows: list[Row], options: PlanOptions) -> Iterator[FoldPlan]:
    """The folds of EmoBox's lists, a random fifth of each training list selects; shared speakers are marked."""
    if options.fold_lists is None:
        raise ValueError("protocol 'emobox' needs fold_lists, the folder of a corpus's fold_1, fold_2, ..., got None")
    for fold, parts in read_fold_lists(options.fold_lists, [row.utterance for row in rows]).items():
        train, test = ([row for row in rows if row.utterance in parts[part]] for part in ("train", "test"))
        chosen, train = _select_random(train, fold=fold, seed=options.seed)
        test = [row for row in test if row.has_speaker]
        names = (tuple(row.utterance for row in part) for part in (train, chosen, test))
        plan = FoldPlan(fold, f"EmoBox fold {fold}", f"{RANDOM} 20 %, seed {options.seed}", *names)
        yield _marked(plan, rows) if options.allow_shared_speakers else plan


def _marked(plan: FoldPlan, rows: Iterable[Row]) -> FoldPlan:
    """The plan, with a note in the name of its test group if a speaker or dialog really is in two parts."""
    of = {row.utterance: row for row in rows}
    met = [{getattr(of[name], kind) for name in getattr(plan, part)} - {None}
           for kind in ("speaker", "dialog") for part in PARTS]  # fmt: skip
    by_design = (plan.validation_group or "").startswith(RANDOM)  # it shares with train, which its name says
    pairs = [pair for pair in itertools.combinations(range(3), 2) if not (by_design and pair == (0, 1))]
    shared = any(parts[first] & parts[second] for parts in (met[:3], met[3:]) for first, second in pairs)
    return replace(plan, test_group=plan.test_group + SHARED) if shared else plan


def _leave_one_out(
    rows: list[Row], options: PlanOptions, *, how: str | None, title: str = "session"
) -> Iterator[FoldPlan]:
    unit = (options.fold_unit if title == "session" else None) or "session"
    has_sessions = _check_sessions(rows, unit=unit, how=how, title=title)
    known = [row for row in rows if row.has_speaker]
    groups = sorted({(row.session if has_sessions else None, row.speaker if unit == "speaker" else None)
                     for row in known}, key=_sort_key)  # fmt: skip
    sessions = sorted({row.session for row in known}, key=_sort_key) if has_sessions else []
    _check_number(groups, sessions, title=title, unit=unit, how=how)
    for index, (session, speaker) in enumerate(groups):
        taken = [row for row in rows if row.session == session and speaker in (None, row.speaker)]
        test = [row for row in taken if row.has_speaker]
        others = _apart(rows, taken)
        following = sessions[(sessions.index(session) + 1) % len(sessions)] if sessions else None
        beyond = groups[(index + 1) % len(groups)][1] if not sessions else None
        name: str | None
        if how == RANDOM:
            drawn = _select_random(others, fold=index + 1, seed=options.seed)
            name, (chosen, train) = f"{RANDOM} 20 %, seed {options.seed}", drawn
        else:
            name, chosen = _select(others, how, session=following, speaker=beyond, fold=index + 1, title=title)
            train = _apart(others, chosen)
        parts = (tuple(row.utterance for row in part) for part in (train, chosen, test))
        yield FoldPlan(index + 1, f"{title} {session}" if speaker is None else f"speaker {speaker}", name, *parts)


def _sort_key(value: Any) -> Any:
    """Numbers by size and before names; tuples part by part."""
    if isinstance(value, tuple):
        return tuple(map(_sort_key, value))
    return (False, value) if isinstance(value, (int, float)) else (True, str(value))


def _check_sessions(rows: list[Row], *, unit: str, how: str | None, title: str) -> bool:
    """Whether there are sessions; session is the coarser unit, so a speaker or dialog of two of them would leak."""
    if all(row.session is None for row in rows):
        if rows and "session" in (unit, how):
            raise ValueError(
                "fold_unit and validation 'session' need a column `session`, which the dataset lacks: give fold_unit"
                f" and validation as 'speaker', or validation as 'random'; got {unit!r} and {how!r}"
            )
        return False
    session_of: dict[tuple[str, str], Any] = {}
    for row in rows:
        for kind in ("speaker", "dialog") if title == "session" else ("speaker",):
            name = getattr(row, kind)
            if name is None or (kind == "speaker" and not row.has_speaker):
                continue
            there = session_of.setdefault((kind, name), row.session)
            if there != row.session:
                raise ValueError(
                    f"{kind} {name!r} must be in one {title}, is in {there} and {row.session}"
                    + ("; allow_shared_speakers takes it so, and marks the results" if title == "fold" else "")
                )
    return True


def _check_number(groups: list[Any], sessions: list[Any], *, title: str, unit: str, how: str | None) -> None:
    by_session = bool(sessions) and (unit == "session" or how in FOLD_UNITS)
    found = sessions if by_session else [speaker for _, speaker in groups]
    needed = 3 if how is not None and how == unit and (unit == "session" or not sessions) else 2
    if len(found) < needed:
        units = ("sessions" if title == "session" else f"{title}s") if by_session else "speakers"
        instead = "; validation 'random' or protocol 'authors' needs 2" if len(found) == needed - 1 == 2 else ""
        raise ValueError(
            f"protocol with fold_unit {unit!r} and validation {how!r} needs at least {needed} {units}, the dataset has"
            f" {found}{instead}"
        )


def _apart(rows: Iterable[Row], taken: Iterable[Row]) -> list[Row]:
    """The rows that are none of those taken, and have no known speaker and no dialog with them in common."""
    taken = list(taken)
    names = {row.utterance for row in taken}
    speakers = {row.speaker for row in taken if row.has_speaker}
    dialogs = {row.dialog for row in taken} - {None}
    return [
        row for row in rows if row.utterance not in names and row.speaker not in speakers and row.dialog not in dialogs
    ]


def _select(
    rows: list[Row], how: str | None, *, session: Any, speaker: str | None, fold: int, title: str
) -> tuple[str | None, list[Row]]:
    """Name and rows, in order, of who selects: a session, or a speaker of a session, or the given speaker."""
    if how is None:
        return None, []
    rows = [row for row in rows if row.has_speaker and row.session == session]
    if how == "session":
        return f"{title} {session}", rows
    if session is not None:
        speakers = sorted({row.speaker for row in rows}, key=_sort_key)
        speaker = speakers[(fold - 1) % len(speakers)] if speakers else None
    return f"speaker {speaker}", [row for row in rows if row.speaker == speaker]


def _select_random(rows: list[Row], *, fold: int, seed: int) -> tuple[list[Row], list[Row]]:
    """A fifth of the known speakers' rows, and the others; a hash draws the same fifth everywhere, in any order."""
    known = [row for row in rows if row.has_speaker]
    draws = sorted(known, key=lambda row: hashlib.sha256(f"{seed}/{fold}/{row.utterance}".encode()).digest())
    drawn = set(draws[: len(known) - len(known) * 4 // 5])
    return [row for row in rows if row in drawn], [row for row in rows if row not in drawn]


@dataclass(frozen=True)
class FoldProtocol:
    """A way to divide a corpus into folds: one entry of `PROTOCOLS`.

    Attributes:
        name: What the option `protocol` says.
        help: What it does, for the command line.
        plan: Makes the folds, from all utterances and the options.
        selects: Whether each plan has a validation set, which selects the epoch.
        reads: Which of `PlanOptions` count.
        title: In a few words for a table of results; `{fold_unit}` and other settings are filled in.
        text: For the card: who trains, selects and tests, as a function of a run's settings.
    """

    name: str
    help: str
    plan: Callable[[list[Row], PlanOptions], Iterable[FoldPlan]]
    selects: bool
    reads: tuple[str, ...]
    title: str
    text: Callable[[Mapping[str, Any]], str]


_SELECTORS = {
    "session": "the next session (after the last, the first) selects the epoch",
    "speaker": "one speaker of the next session selects the epoch",
    "random": "a random fifth of the other utterances (of speakers that train as well) selects the epoch",
}
_REFIT = (
    " Then a new model is trained on the train and the validation set, with the same schedule, and stopped after the"
    " selected number of epochs; that model is kept and scored."
)
_APART = "No speaker, dialog or recording of the test set is in another part. It is"
_ORACLE = (
    " also scored after every epoch, which"
    " changes nothing in the training: this gives the scores of the last epoch, and the best over all epochs"
    " (*oracle*). The latter are chosen on the test set and never the result; how much they exceed it is the *optimism"
    " gap*."
)


def _selected(settings: Mapping[str, Any], selector: str) -> str:
    metric, refit = settings["selection_metric"].upper(), _REFIT if settings["refit"] else ""
    result = f"The result is the test score of the selected epoch.{refit}"
    return f"{selector} by its {metric}, and the others train. {result}"


def _test_blind_text(settings: Mapping[str, Any]) -> str:
    unit, told = settings["fold_unit"], _selected(settings, _SELECTORS[settings["validation"]])
    return f"*Test-blind, leave one {unit} out.* In each fold one {unit} tests, {told} {_APART}{_ORACLE}"


def _authors_text(settings: Mapping[str, Any]) -> str:
    unit = settings["fold_unit"]
    return (
        f"*As the authors of the paper, leave one {unit} out.* In each fold one {unit} tests and all others train;"
        f" nothing selects, so the result is the test score of the last epoch. {_APART}{_ORACLE}"
    )


def _groups_text(settings: Mapping[str, Any]) -> str:
    told = _selected(settings, _SELECTORS[settings["validation"]].replace("session", "group"))
    return (
        f"*Test-blind, {settings['num_folds']} groups of speakers.* Speakers are divided into groups with about as many"
        f" utterances each. In each fold one group tests, {told} {_APART}{_ORACLE}"
    )


def _given_text(settings: Mapping[str, Any]) -> str:
    told = _selected(settings, "the given validation set, the next fold, or a part of the others selects the epoch")
    apart = _APART
    if settings.get("allow_shared_speakers"):
        apart = (
            "**Speakers or dialogs may be in several parts: the test group says where they are.** No recording of the"
            " test set is in another part. It is"
        )
    return f"*The corpus's own division.* In each fold the given part tests, {told} {apart}{_ORACLE}"


def _emobox_text(settings: Mapping[str, Any]) -> str:
    told = _selected(settings, "a random fifth of the training list (of speakers that train as well) selects the epoch")
    apart = (
        "**Speakers of the test list may be in training: the test group says where they are.** It is"
        if settings.get("allow_shared_speakers")
        else _APART
    )
    return f"*The published fold lists of EmoBox, for comparison.* The test list tests, {told} {apart}{_ORACLE}"


PROTOCOLS = {
    entry.name: entry
    for entry in (
        FoldProtocol(
            "test_blind", "leave one session or speaker out, a validation set selects the epoch", leave_one_out,
            selects=True, reads=("fold_unit", "validation"), title="leave one {fold_unit} out", text=_test_blind_text,
        ),
        FoldProtocol(
            "authors", "leave one session or speaker out, nothing selects", leave_one_out_without_validation,
            selects=False, reads=("fold_unit",), title="leave one {fold_unit} out", text=_authors_text,
        ),
        FoldProtocol(
            "speaker_groups", "leave one of num_folds groups of speakers out, the next one selects",
            leave_speaker_group_out, selects=True, reads=("validation", "num_folds"),
            title="leave one of {num_folds} speaker groups out", text=_groups_text,
        ),
        FoldProtocol(
            "emobox", "the published fold lists of EmoBox, for comparison", listed_folds, selects=True,
            reads=("allow_shared_speakers", "fold_lists"), title="EmoBox's fold lists", text=_emobox_text,
        ),
        FoldProtocol(
            "given", "the dataset's own column fold, or split", given_parts, selects=True,
            reads=("validation", "allow_shared_speakers"), title="the corpus's own division", text=_given_text,
        ),
    )
}  # fmt: skip


def protocol_text(settings: Mapping[str, Any]) -> str:
    """How a run with these settings (`protocol`, `fold_unit`, `validation`, ...) trains, selects and tests."""
    return PROTOCOLS[settings["protocol"]].text(settings)


def protocol_title(settings: Mapping[str, Any]) -> str:
    """The same in a few words.

    Example:
        >>> protocol_title({"protocol": "authors", "fold_unit": "speaker"})
        'leave one speaker out'
    """
    return PROTOCOLS[settings["protocol"]].title.format(**settings)
