"""FoldPlan: who is trained on, who selects the epoch, who tests; and the checks that no plan leaks."""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, Protocol

from transformers.utils import cached_file

from ..evaluation.run_folder import ADAPTATION, read_json
from ..model.speech_input import log_once

PARTS = ("train", "validation", "test")
RANDOM = "random"  # how the name of a random validation group begins
SHARED = ", speakers shared between parts"  # how the name of a test group ends where this was allowed


class Columns(Protocol):
    """A `datasets.Dataset` or a mapping of columns: `dataset["speaker"]` gives one value a row."""

    def __getitem__(self, column: str, /) -> Iterable[Any]: ...


class Row(NamedTuple):
    """What a plan knows of an utterance; a column that the dataset lacks is `None` in every row."""

    utterance: str
    speaker: str | None
    session: Any = None
    dialog: str | None = None
    fold: Any = None
    split: str | None = None

    @property
    def has_speaker(self) -> bool:
        """Whether the speaker is known; a missing name, `""` and `"unknown"` are nobody."""
        return self.speaker is not None and str(self.speaker).strip().lower() not in ("", "unknown")


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
    def utterances(self) -> set[str]:
        """Names of the utterances of all parts."""
        return {*self.train, *self.validation, *self.test}

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that change with anything in the plan."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON knows it: lists in place of tuples."""
        return dict(asdict(self), **{part: list(getattr(self, part)) for part in PARTS})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "FoldPlan":
        """The plan that `to_dict` described; `ValueError` if the keys are others."""
        names = [field.name for field in fields(cls)]
        if sorted(values) != sorted(names):
            raise ValueError(f"a plan must have the keys {names}, got {list(values)}")
        return cls(**dict(values, **{part: tuple(values[part]) for part in PARTS}))


def read_rows(dataset: Columns) -> list[Row]:
    """What plans know of each utterance, in the order of the dataset."""
    names: Any = dataset  # of a mapping its keys are the columns
    there = getattr(dataset, "column_names", None) or list(names)
    if missing := {"utterance", "speaker"} - set(there):
        raise ValueError(f"the dataset must have the column {sorted(missing)[0]!r}, it has {sorted(there)}")
    columns = {name: list(dataset[name]) for name in Row._fields if name in there}
    rows = [Row(**dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]
    seen: set[str] = set()
    for row in rows:
        if row.utterance in seen:
            raise ValueError(f"utterance names must be unique, the dataset has {row.utterance!r} twice")
        seen.add(row.utterance)
    return rows


def check_plan(plan: FoldPlan, dataset: Columns, *, content_hashes: Mapping[str, str] | None = None) -> None:
    """Refuse a plan that leaks between its parts or does not fit the dataset.

    With a random validation group, speakers and dialogs of train and validation may be the same, those of test not.

    Args:
        plan: The plan to check.
        dataset: Columns as in `plan_folds`.
        content_hashes: Hash of the samples of each utterance. If given, no two parts may hold the same recording,
            under whatever names; copies inside one part are allowed, and logged.

    Raises:
        ValueError: If a part that is needed is empty, an utterance is not in the dataset or has no hash, or an
            utterance, a dialog, a speaker or a recording is in two parts; the message names it and the parts.
    """
    rows = {row.utterance: row for row in read_rows(dataset)}
    _log_copies(content_hashes or {})
    first: dict[tuple[str, str], tuple[str, str]] = {}
    for part in PARTS:
        utterances = getattr(plan, part)
        if not utterances and (part != "validation" or plan.validation_group is not None):
            raise ValueError(
                f"fold {plan.fold}: the {part} part is empty (test {plan.test_group}, validation"
                f" {plan.validation_group}, {left_out(plan, rows)} utterances left out for their dialogs or"
                " unknown speakers)"
            )
        for utterance in utterances:
            if utterance not in rows:
                raise ValueError(f"fold {plan.fold}: utterance {utterance!r} of {part} is not in the dataset")
            if part != "train" and not rows[utterance].has_speaker:
                raise ValueError(f"fold {plan.fold}: the speaker of utterance {utterance!r} of {part} is unknown")
            for kind, name in _traces(rows[utterance], content_hashes):
                met = (kind, name) in first
                there, other = first.setdefault((kind, name), (part, utterance))
                if not met or (there == part and kind != "utterance") or _by_design(plan, kind, there, part):
                    continue
                what = f"{kind} {name!r}" if kind != "recording" else f"the recording of {other!r} and {utterance!r}"
                raise ValueError(f"fold {plan.fold}: {what} is in both {there} and {part}")


def check_heard(encoder: str, plan: FoldPlan, content_hashes: Mapping[str, str]) -> None:
    """Refuse an adapted encoder (`shift-ser adapt`) that has heard what it is to be evaluated on.

    Args:
        encoder: Hub name or folder of an encoder; one that was not adapted has no `adaptation.json` and passes.
        plan: The fold.
        content_hashes: Hash of the samples of each utterance.

    Raises:
        ValueError: If a recording of the validation or test set is among those that it has heard.
    """
    options = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    record = cached_file(encoder, ADAPTATION, **options)
    if record is None:
        return
    heard = set(read_json(record)["heard"])
    for part in ("validation", "test"):
        for utterance in getattr(plan, part):
            if content_hashes[utterance] in heard:
                raise ValueError(
                    f"fold {plan.fold}: the encoder must not have heard the {part} set, but {encoder!r} was adapted"
                    f" on {utterance!r}; adapt one for each fold and name it with {{fold}}"
                )


def shared_sentences(plan: FoldPlan, dataset: Columns) -> dict[str, int]:
    """Count test utterances whose text the model may have met, spoken by others, in another part.

    IEMOCAP's scripted dialogs (`Ses01F_script01_1`, `Ses03M_script01_1b`) hold the same sentences in every session.

    Args:
        plan: The fold.
        dataset: Columns as in `plan_folds`.

    Returns:
        `train_and_test` and `validation_and_test`: the utterances of test from a scripted dialog whose script is in
        train, or in validation, as well.

    Example:
        >>> dialogs = ["Ses01F_script01_1", "Ses02F_impro01", "Ses03M_script01_1b"]
        >>> columns = {"session": [1, 2, 3], "speaker": "abc", "dialog": dialogs, "utterance": "abc"}
        >>> shared_sentences(FoldPlan(1, "session 1", "session 2", ("c",), ("b",), ("a",)), columns)
        {'train_and_test': 1, 'validation_and_test': 0}
    """
    script = {row.utterance: _script(row.dialog or "") for row in read_rows(dataset)}
    known = {part: {script[utterance] for utterance in getattr(plan, part)} - {None} for part in PARTS}
    return {
        f"{part}_and_test": sum(script[utterance] in known[part] for utterance in plan.test)
        for part in ("train", "validation")
    }


def _traces(row: Row, content_hashes: Mapping[str, str] | None) -> Iterator[tuple[str, str]]:
    """Everything by which an utterance could be recognised in another part."""
    yield "utterance", row.utterance
    if row.dialog is not None:
        yield "dialog", row.dialog
    if row.has_speaker:
        yield "speaker", str(row.speaker)
    if content_hashes is not None:
        if row.utterance not in content_hashes:
            raise ValueError(f"content_hashes must hold every utterance, got none for {row.utterance!r}")
        yield "recording", content_hashes[row.utterance]


def _by_design(plan: FoldPlan, kind: str, *parts: str) -> bool:
    """A random share divides dialogs and speakers between train and validation; a split marked so, between any."""
    is_random = (plan.validation_group or "").startswith(RANDOM) and "test" not in parts
    return kind in ("dialog", "speaker") and (is_random or plan.test_group.endswith(SHARED))


def left_out(plan: FoldPlan, rows: Collection[Any]) -> int:
    """How many utterances are in no part."""
    return len(rows) - sum(len(getattr(plan, part)) for part in PARTS)


def _script(dialog: str) -> str | None:
    found = re.search(r"script\d+_\d+|script.*", dialog)  # a letter after the number is another take of the same text
    return found and found.group()


def _log_copies(content_hashes: Mapping[str, str]) -> None:
    first: dict[str, str] = {}
    twins = [(first.setdefault(content, name), name) for name, content in content_hashes.items()]
    copies = [(name, copy) for name, copy in twins if name != copy]
    if copies:
        log_once(f"recordings that are copies of another one: {len(copies)}, e.g. {copies[0][1]!r} of {copies[0][0]!r}")
