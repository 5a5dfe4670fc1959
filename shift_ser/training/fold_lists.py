"""Fold lists in EmoBox's form: `fold_1/<corpus>_train_fold_1.jsonl`, `..._test_fold_1.jsonl`, a recording a line."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_PARTS = ("train", "test")
_SHOWN = 3  # names in a message


def read_fold_lists(folder: str | Path, utterances: Iterable[str]) -> dict[int, dict[str, set[str]]]:
    """The utterances of each list, by fold and part (`train`, `test`).

    A line is a JSON object with the path of a recording as `wav`, or a `key` of the corpus's name and the recording's.
    An utterance is recognised by the end of the path, without suffix, as far as its own name goes. Recordings of the
    corpus that are in no list are left out of the folds.

    Args:
        folder: Holds `fold_1`, `fold_2`, ...
        utterances: Names of those that there are.

    Raises:
        FileNotFoundError: If there is no such folder, or no list of a part.
        ValueError: If a line cannot be read, or lists a recording that the corpus does not have.
    """
    folder, known = Path(folder), set(utterances)
    folds = {int(match[1]): path for path in folder.glob("fold_*") if (match := re.fullmatch(r"fold_(\d+)", path.name))}
    if not folds:
        raise FileNotFoundError(f"fold_lists must hold the folders fold_1, fold_2, ..., {str(folder)!r} has none")
    return {
        fold: {part: _utterances(_list_of(folds[fold], part, fold), known) for part in _PARTS} for fold in sorted(folds)
    }


def _list_of(folder: Path, part: str, fold: int) -> Path:
    """The list of a part; where there are several, the one that is named as all corpora name theirs."""
    found = sorted(folder.glob(f"*_{part}_fold_{fold}.jsonl")) or sorted(folder.glob(f"*_{part}*.jsonl"))
    if not found:
        raise FileNotFoundError(f"{str(folder)!r} must hold a list *_{part}_fold_{fold}.jsonl")
    return found[0]


def _utterances(path: Path, known: set[str]) -> set[str]:
    listed: set[str] = set()
    unknown: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            names = _names(row)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: a line must be a JSON object with key or wav: {error}") from error
        found = next((name for name in names if name in known), None)
        (listed.add(found) if found else unknown.append(names[-1]))
    if unknown:
        shown = ", ".join(unknown[:_SHOWN])
        raise ValueError(f"{path} must list recordings of the corpus, {len(unknown)} are not in it: {shown}")
    return listed


def _names(row: Mapping[str, Any]) -> list[str]:
    """What an utterance may be called: its path from the back, the longest first, or its key."""
    parts = list(Path(row["wav"]).with_suffix("").parts) if "wav" in row else []
    names = ["/".join(parts[start:]) for start in range(len(parts))]
    return names or [str(row["key"]), str(row["key"]).partition("-")[2]]
