"""Who is trained on, who selects the epoch, who tests: plans by session or by speaker, and their leak checks."""

import hashlib
import json
import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, Protocol

from ..model.speech_input import log_once

PROTOCOLS = ("test_blind", "authors")
FOLD_UNITS = ("session", "speaker")
VALIDATIONS = ("session", "speaker", "random")
_PARTS = ("train", "validation", "test")
_RANDOM = "random"  # how the name of a random validation group begins

logger = logging.getLogger(__name__)


class Columns(Protocol):
    """A `datasets.Dataset` or a mapping of columns: `dataset["speaker"]` gives one value a row."""

    def __getitem__(self, column: str, /) -> Iterable[Any]: ...


class _Row(NamedTuple):
    session: int
    speaker: str
    dialog: str
    utterance: str


@dataclass(frozen=True)
class FoldPlan:
    """One fold: the utterances of each part, in the order of the dataset.

    What is in no part is left out of the fold: what someone else says in a dialog of the test or validation speaker. A
    random validation group (`random 20 %, seed 0`) shares speakers and dialogs with train, by design.

    Attributes:
        fold: Number of the fold, from 1.
        test_group: Who is left out and scored: `session 1`, `speaker Ses01F`.
        validation_group: Whose score selects the epoch, or which share; `None` when nothing selects.
        train: Names of the utterances trained on.
        validation: Names of the utterances that select; empty when nothing selects.
        test: Names of the utterances scored.
    """

    fold: int
    test_group: str
    validation_group: str | None
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that change with anything in the plan."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON knows it: lists in place of tuples."""
        return dict(asdict(self), **{part: list(getattr(self, part)) for part in _PARTS})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "FoldPlan":
        """The plan that `to_dict` described; `ValueError` if the keys are others."""
        names = [field.name for field in fields(cls)]
        if sorted(values) != sorted(names):
            raise ValueError(f"a plan must have the keys {names}, got {list(values)}")
        return cls(**dict(values, **{part: tuple(values[part]) for part in _PARTS}))


def plan_folds(
    dataset: Columns,
    *,
    protocol: str = "test_blind",
    fold_unit: str = "session",
    validation: str = "session",
    seed: int = 0,
) -> list[FoldPlan]:
    """Leave one session or one speaker out: one fold for each, in ascending order.

    A dialog is never divided: what others say to a test or validation speaker is left out of the fold (and logged). In
    IEMOCAP, whose dialogs have two speakers, folds by speaker train on four sessions at most.

    Args:
        dataset: Columns `session`, `speaker`, `dialog` and `utterance`, one value a row.
        protocol: `"test_blind"`: some utterances select and the rest train. `"authors"`: nothing selects and all
            utterances but the test fold's train.
        fold_unit: Who is left out and tested, a `"session"` or a `"speaker"`.
        validation: Who selects (test_blind). `"session"`: the one after the test fold's (the first after the last).
            `"speaker"`: one speaker of that session, in turn from fold to fold. `"random"`: a fifth of the remaining
            utterances, as in SUPERB, for comparison; train and validation then share speakers and dialogs, and only
            the test part is held apart from both.
        seed: Which random fifth.

    Returns:
        One checked plan for each session or speaker (see `check_plan`).

    Raises:
        ValueError: If an option is unknown or `validation` is said to a protocol that has none, there are too few
            sessions or speakers, a speaker or a dialog is in two sessions, or a plan leaks.

    Example:
        >>> sessions = [1, 1, 2, 3]
        >>> names = ["a", "b", "c", "d"]
        >>> columns = {"session": sessions, "speaker": sessions, "dialog": names, "utterance": names}
        >>> plan = plan_folds(columns)[0]
        >>> plan.test, plan.validation, plan.train
        (('a', 'b'), ('c',), ('d',))
    """
    _check_options(protocol=protocol, fold_unit=fold_unit, validation=validation)
    dataset = {name: list(dataset[name]) for name in _Row._fields}  # read once
    rows = _rows(dataset)
    _check_sessions(rows)
    how = None if protocol == "authors" else validation
    groups = sorted({(row.session, row.speaker if fold_unit == "speaker" else None) for row in rows})
    sessions = sorted({row.session for row in rows})
    needed = 3 if fold_unit == how == "session" else 2
    by_session = fold_unit == "session" or how in FOLD_UNITS
    found = sessions if by_session else [speaker for _, speaker in groups]
    if len(found) < needed:
        what = f"protocol {protocol!r} with fold_unit {fold_unit!r} and validation {how!r}"
        units = "sessions" if by_session else "speakers"
        raise ValueError(f"{what} needs at least {needed} {units}, the dataset has {found}")

    plans = []
    for index, (session, speaker) in enumerate(groups):
        test = [row for row in rows if row.session == session and speaker in (None, row.speaker)]
        others = _apart(rows, test)
        following = sessions[(sessions.index(session) + 1) % len(sessions)]
        name, chosen = _select(others, how, session=following, fold=index + 1, seed=seed)
        drawn = set(chosen)
        train = [row for row in others if row not in drawn] if how == _RANDOM else _apart(others, chosen)
        parts = (tuple(row.utterance for row in part) for part in (train, chosen, test))
        plan = FoldPlan(index + 1, f"session {session}" if speaker is None else f"speaker {speaker}", name, *parts)
        check_plan(plan, dataset)
        if left_out := _left_out(plan, rows):
            logger.info("fold %d: %d of %d utterances are left out for their dialogs", plan.fold, left_out, len(rows))
        plans.append(plan)
    return plans


def check_plan(plan: FoldPlan, dataset: Columns, *, content_hashes: Mapping[str, str] | None = None) -> None:
    """Refuse a plan that leaks between its parts or does not fit the dataset.

    With a random validation group, speakers and dialogs of train and validation may be the same, those of test not.

    Args:
        plan: The plan to check.
        dataset: Columns `session`, `speaker`, `dialog` and `utterance`, one value a row.
        content_hashes: Hash of the samples of each utterance. If given, no two parts may hold the same recording,
            under whatever names; copies inside one part are allowed, and logged.

    Raises:
        ValueError: If a part that is needed is empty, an utterance is not in the dataset or has no hash, or an
            utterance, a dialog, a speaker or a recording is in two parts; the message names it and the parts.
    """
    rows = {row.utterance: row for row in _rows(dataset)}
    _log_copies(content_hashes or {})
    first: dict[tuple[str, str], tuple[str, str]] = {}
    for part in _PARTS:
        utterances = getattr(plan, part)
        if not utterances and (part != "validation" or plan.validation_group is not None):
            raise ValueError(
                f"fold {plan.fold}: the {part} part is empty (test {plan.test_group}, validation"
                f" {plan.validation_group}, {_left_out(plan, rows)} utterances left out for their dialogs)"
            )
        for utterance in utterances:
            if utterance not in rows:
                raise ValueError(f"fold {plan.fold}: utterance {utterance!r} of {part} is not in the dataset")
            for kind, name in _traces(rows[utterance], content_hashes):
                met = (kind, name) in first
                there, other = first.setdefault((kind, name), (part, utterance))
                if not met or (there == part and kind != "utterance") or _by_design(plan, kind, there, part):
                    continue
                what = f"{kind} {name!r}" if kind != "recording" else f"the recording of {other!r} and {utterance!r}"
                raise ValueError(f"fold {plan.fold}: {what} is in both {there} and {part}")


def shared_sentences(plan: FoldPlan, dataset: Columns) -> dict[str, int]:
    """Count test utterances whose text the model may have met, spoken by others, in another part.

    IEMOCAP's scripted dialogs (`Ses01F_script01_1`, `Ses03M_script01_1b`) hold the same sentences in every session.

    Args:
        plan: The fold.
        dataset: Columns `session`, `speaker`, `dialog` and `utterance`, one value a row.

    Returns:
        `train_and_test` and `validation_and_test`: the utterances of test from a scripted dialog whose script is in
        train, or in validation, as well.

    Example:
        >>> dialogs = ["Ses01F_script01_1", "Ses02F_impro01", "Ses03M_script01_1b"]
        >>> columns = {"session": [1, 2, 3], "speaker": "abc", "dialog": dialogs, "utterance": "abc"}
        >>> shared_sentences(FoldPlan(1, "session 1", "session 2", ("c",), ("b",), ("a",)), columns)
        {'train_and_test': 1, 'validation_and_test': 0}
    """
    script = {row.utterance: _script(row.dialog) for row in _rows(dataset)}
    known = {part: {script[utterance] for utterance in getattr(plan, part)} - {None} for part in _PARTS}
    return {
        f"{part}_and_test": sum(script[utterance] in known[part] for utterance in plan.test)
        for part in ("train", "validation")
    }


def _check_options(**options: str) -> None:
    allowed = {"protocol": PROTOCOLS, "fold_unit": FOLD_UNITS, "validation": VALIDATIONS}
    for name, value in options.items():
        if value not in allowed[name]:
            raise ValueError(f"{name} must be one of {allowed[name]}, got {value!r}")
    if options["protocol"] == "authors" and options["validation"] != "session":
        raise ValueError(
            f"validation must be left out with protocol 'authors', where nothing selects, got {options['validation']!r}"
        )


def _rows(dataset: Columns) -> list[_Row]:
    rows = [_Row(*values) for values in zip(*(dataset[name] for name in _Row._fields), strict=True)]
    seen: set[str] = set()
    for row in rows:
        if row.utterance in seen:
            raise ValueError(f"utterance names must be unique, the dataset has {row.utterance!r} twice")
        seen.add(row.utterance)
    return rows


def _check_sessions(rows: Iterable[_Row]) -> None:
    """Session is the coarser unit: without this, folds by it would leak."""
    session_of: dict[tuple[str, str], int] = {}
    for row in rows:
        for kind in ("speaker", "dialog"):
            name = getattr(row, kind)
            there = session_of.setdefault((kind, name), row.session)
            if there != row.session:
                raise ValueError(f"{kind} {name!r} must be in one session, is in {there} and {row.session}")


def _apart(rows: Iterable[_Row], taken: Iterable[_Row]) -> list[_Row]:
    """The rows that have no speaker and no dialog with those taken in common."""
    taken = list(taken)
    speakers, dialogs = {row.speaker for row in taken}, {row.dialog for row in taken}
    return [row for row in rows if row.speaker not in speakers and row.dialog not in dialogs]


def _select(rows: list[_Row], how: str | None, *, session: int, fold: int, seed: int) -> tuple[str | None, list[_Row]]:
    """Name and rows, in order, of who selects."""
    if how is None:
        return None, []
    if how == _RANDOM:
        # Ranking by a hash draws the same share on every machine and release, in whatever order the rows come.
        draws = sorted(rows, key=lambda row: hashlib.sha256(f"{seed}/{fold}/{row.utterance}".encode()).digest())
        drawn = set(draws[: len(rows) - len(rows) * 4 // 5])
        return f"{_RANDOM} 20 %, seed {seed}", [row for row in rows if row in drawn]
    rows = [row for row in rows if row.session == session]
    if how == "session":
        return f"session {session}", rows
    speakers = sorted({row.speaker for row in rows})
    speaker = speakers[(fold - 1) % len(speakers)]
    return f"speaker {speaker}", [row for row in rows if row.speaker == speaker]


def _traces(row: _Row, content_hashes: Mapping[str, str] | None) -> Iterator[tuple[str, str]]:
    """Everything by which an utterance could be recognised in another part."""
    yield "utterance", row.utterance
    yield "dialog", row.dialog
    yield "speaker", row.speaker
    if content_hashes is not None:
        if row.utterance not in content_hashes:
            raise ValueError(f"content_hashes must hold every utterance, got none for {row.utterance!r}")
        yield "recording", content_hashes[row.utterance]


def _by_design(plan: FoldPlan, kind: str, *parts: str) -> bool:
    """A random share divides dialogs and speakers between train and validation, but nothing else."""
    is_random = (plan.validation_group or "").startswith(_RANDOM)
    return is_random and kind in ("dialog", "speaker") and "test" not in parts


def _left_out(plan: FoldPlan, rows: Collection[Any]) -> int:
    return len(rows) - sum(len(getattr(plan, part)) for part in _PARTS)


def _script(dialog: str) -> str | None:
    found = re.search(r"script\d+_\d+|script.*", dialog)  # a letter after the number is another take of the same text
    return found and found.group()


def _log_copies(content_hashes: Mapping[str, str]) -> None:
    first: dict[str, str] = {}
    twins = [(first.setdefault(content, name), name) for name, content in content_hashes.items()]
    copies = [(name, copy) for name, copy in twins if name != copy]
    if copies:
        log_once(f"recordings that are copies of another one: {len(copies)}, e.g. {copies[0][1]!r} of {copies[0][0]!r}")
