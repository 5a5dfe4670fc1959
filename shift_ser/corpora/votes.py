"""The raters' votes of an utterance, in whatever form a corpus has them, as shares of labels."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import List, Value

VOTES_FEATURE = List({"label": Value("string"), "share": Value("float64")})
_FORM = (
    'votes must be a mapping from label to number such as {"angry": 2, "sad": 1}, a list of labels, or a text such as'
    " 'angry:2 sad:1' or 'angry;angry;sad'"
)


def read_votes(value: Any) -> dict[str, float]:
    """Number of votes of each label, as they are written; a label with none is left out.

    Args:
        value: A mapping from label to number (`None` counts as 0), a list of labels, a list of dicts with `label` and
            `share`, or a text: JSON of one of these, `label:number` words, or labels with `;` or `,` between.

    Raises:
        ValueError: If it is none of these, or a number is negative or not finite.

    Example:
        >>> read_votes("angry:2 sad:1"), read_votes(["angry", "sad", "angry"])
        ({'angry': 2.0, 'sad': 1.0}, {'angry': 2.0, 'sad': 1.0})
    """
    if isinstance(value, str):
        value = _from_text(value)
    if value is None:
        value = []
    if isinstance(value, Mapping):
        entries = list(value.items())
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        entries = [(each["label"], each["share"]) if isinstance(each, Mapping) else (each, 1) for each in value]
    else:
        raise ValueError(f"{_FORM}, got {value!r}")
    votes: dict[str, float] = {}
    for label, number in entries:
        try:
            count = 0.0 if number is None else float(number)
        except (TypeError, ValueError):
            raise ValueError(f"{_FORM}, got {value!r}") from None
        if not 0 <= count < math.inf:
            raise ValueError(f"votes must be finite and 0 or more, got {count} for {label!r}")
        if count > 0:
            votes[str(label).strip()] = votes.get(str(label).strip(), 0.0) + count
    return votes


def _from_text(text: str) -> Any:
    text = text.strip()
    if text.startswith(("{", "[")):
        try:
            return json.loads(text)
        except ValueError as error:
            raise ValueError(f"{_FORM}, got {text!r}: {error}") from None
    words = [word for word in re.split(r"[;,|\s]+" if ":" in text else r"[;,|]", text) if word.strip()]
    if ":" not in text:
        return words
    if not all(re.fullmatch(r"[^:]+:[^:]+", word) for word in words):
        raise ValueError(f"{_FORM}, got {text!r}")
    return [{"label": label, "share": share} for label, share in (word.split(":") for word in words)]


# The adjective that a rater chooses, and the noun that is the label.
_NOUNS = {"angry": "anger", "sad": "sadness", "happy": "happiness", "surprised": "surprise", "fearful": "fear",
          "afraid": "fear", "disgusted": "disgust"}  # fmt: skip


def vote_for(word: str, labels: Mapping[str, str]) -> str:
    """The label that a rater's word stands for.

    Args:
        word: As it stands in a table of raters.
        labels: The label of each code; a word may be a code, too.

    Returns:
        A label, or where it is none the word in small letters.

    Example:
        >>> [vote_for(word, {"A": "anger", "N": "neutral"}) for word in ("Angry", "neutral", "A", "Other: bored")]
        ['anger', 'neutral', 'anger', 'other: bored']
    """
    word = word.strip()
    return labels.get(word) or _NOUNS.get(word.lower(), word.lower())


def votes_column(votes: Mapping[str, float]) -> list[dict[str, Any]]:
    """Votes as a row of a column `VOTES_FEATURE`: shares that sum to 1, empty where nobody voted.

    Example:
        >>> votes_column({"angry": 3.0, "sad": 1.0})
        [{'label': 'angry', 'share': 0.75}, {'label': 'sad', 'share': 0.25}]
    """
    total = math.fsum(votes.values())
    return [{"label": label, "share": count / total} for label, count in votes.items()]


def renamed(votes: Mapping[str, float], new_of: Mapping[str, str]) -> dict[str, float]:
    """Votes with some labels renamed; those that get one name are added."""
    found: dict[str, float] = {}
    for label, count in votes.items():
        name = new_of.get(label, label)
        found[name] = found.get(name, 0.0) + count
    return found
