"""Who is trained on, who selects the epoch, who tests: leave-one-session-out plans and their leak checks."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

PROTOCOLS = ("test_blind", "authors")
_PARTS = ("train", "selection", "test")


class Columns(Protocol):
    """A `datasets.Dataset` or a mapping of columns: `dataset["speaker"]` gives one value a row."""

    def __getitem__(self, column: str, /) -> Iterable[Any]: ...


@dataclass(frozen=True)
class FoldPlan:
    """One fold: the utterances of each part, in the order of the dataset.

    Attributes:
        fold: Number of the fold, from 1.
        test_session: The session that is left out and scored.
        selection_session: The session whose score selects the epoch; `None` when nothing selects.
        train: Names of the utterances trained on.
        selection: Names of the utterances that select; empty when nothing selects.
        test: Names of the utterances scored.
    """

    fold: int
    test_session: int
    selection_session: int | None
    train: tuple[str, ...]
    selection: tuple[str, ...]
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
        """The plan that `to_dict` described."""
        return cls(**dict(values, **{part: tuple(values[part]) for part in _PARTS}))


def plan_folds(dataset: Columns, *, protocol: str = "test_blind") -> list[FoldPlan]:
    """Leave one session out: one fold for each session, in ascending order of the sessions.

    Args:
        dataset: Columns `session`, `speaker`, `dialog` and `utterance`, one value a row.
        protocol: `"test_blind"`: the session after the test session (the first one after the last) selects and
            the rest train. `"authors"`: nothing selects and all sessions but the test session train.

    Returns:
        One checked plan for each session (see `check_plan`).

    Raises:
        ValueError: If the protocol is unknown, there are too few sessions for it, or a plan leaks.

    Example:
        >>> sessions = [1, 1, 2, 3]
        >>> names = ["a", "b", "c", "d"]
        >>> columns = {"session": sessions, "speaker": sessions, "dialog": names, "utterance": names}
        >>> plan = plan_folds(columns)[0]
        >>> plan.test, plan.selection, plan.train
        (('a', 'b'), ('c',), ('d',))
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {PROTOCOLS}, got {protocol!r}")
    session_of = list(zip(dataset["session"], dataset["utterance"], strict=True))
    sessions = sorted({session for session, _ in session_of})
    needed = 2 if protocol == "authors" else 3
    if len(sessions) < needed:
        raise ValueError(f"protocol {protocol!r} needs at least {needed} sessions, the dataset has {sessions}")

    def utterances(chosen: Iterable[int | None]) -> tuple[str, ...]:
        return tuple(utterance for session, utterance in session_of if session in chosen)

    plans = []
    for index, test in enumerate(sessions):
        selection = None if protocol == "authors" else sessions[(index + 1) % len(sessions)]
        train = [session for session in sessions if session not in (test, selection)]
        plan = FoldPlan(index + 1, test, selection, utterances(train), utterances([selection]), utterances([test]))
        check_plan(plan, dataset)
        plans.append(plan)
    return plans


def check_plan(plan: FoldPlan, dataset: Columns) -> None:
    """Refuse a plan that leaks between its parts or does not fit the dataset.

    Args:
        plan: The plan to check.
        dataset: Columns `speaker`, `dialog` and `utterance`, one value a row.

    Raises:
        ValueError: If a part that is needed is empty, an utterance is not (or twice) in the dataset, or an
            utterance, a dialog or a speaker is in two parts; the message names it and the parts.
    """
    rows: dict[str, tuple[str, str]] = {}
    for utterance, speaker, dialog in zip(dataset["utterance"], dataset["speaker"], dataset["dialog"], strict=True):
        if utterance in rows:
            raise ValueError(f"utterance names must be unique, the dataset has {utterance!r} twice")
        rows[utterance] = (speaker, dialog)

    parts = {"train": plan.train, "selection": plan.selection, "test": plan.test}
    if plan.selection_session is None and not plan.selection:
        del parts["selection"]
    seen: set[str] = set()
    part_of: dict[tuple[str, str], str] = {}
    for part, utterances in parts.items():
        if not utterances:
            raise ValueError(f"fold {plan.fold}: the {part} part is empty")
        for utterance in utterances:
            if utterance not in rows:
                raise ValueError(f"fold {plan.fold}: utterance {utterance!r} of {part} is not in the dataset")
            speaker, dialog = rows[utterance]
            for kind, name in (("utterance", utterance), ("dialog", dialog), ("speaker", speaker)):
                other = part_of.setdefault((kind, name), part)
                if other != part or (kind == "utterance" and utterance in seen):
                    raise ValueError(f"fold {plan.fold}: {kind} {name!r} is in both {other} and {part}")
            seen.add(utterance)
