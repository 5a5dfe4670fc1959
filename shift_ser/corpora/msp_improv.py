"""MSP-IMPROV: twelve actors in six sessions, four emotions, labels and the raters' votes in `Evaluation.txt`."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .corpus import CorpusInfo
from .names import Grammar, Subset, number
from .votes import vote_for

TABLE = "Evaluation.txt"
LABELS = {"A": "anger", "H": "happiness", "S": "sadness", "N": "neutral"}  # O and X are left out
_LINE = re.compile(r"UTD-(IMPROV-S\d\d[AHNS]-([FM]\d\d)-[PRST]-\w+)\.avi;\s*([A-Z]);(.*)")
_TARGETS = {"valence": "V", "arousal": "A", "dominance": "D"}


def listing(root: Path) -> Iterator[dict[str, Any]]:
    """Each label line of `Evaluation.txt`, with the votes of the raters below it where any line has some."""
    there = {path.stem: path for path in root.glob("session*/**/MSP-IMPROV-*.wav")}
    turns = _turns(root)
    rated = any(raters for _, raters in turns)
    for line, raters in turns:
        if (match := _LINE.fullmatch(line)) is None:
            continue
        name, speaker, label, values = match.groups()
        given = dict(re.findall(r"\b([VAD]):\s*([^;\s]+)", values))
        yield {
            "audio": str(there.get(f"MSP-{name}", root / f"MSP-{name}.wav")),
            "label": label,
            "speaker": speaker,
            "session": str(int(speaker[1:])),
            **{column: number(given.get(key, "")) for column, key in _TARGETS.items()},
            **({"votes": _votes(raters)} if rated else {}),
        }


def _turns(root: Path) -> list[tuple[str, list[list[str]]]]:
    """Each label line, with what its raters said: who, the emotion, and further fields."""
    text = (root / TABLE).read_text(encoding="utf-8", errors="replace")
    turns: list[tuple[str, list[list[str]]]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("UTD-"):
            turns.append((line, []))
        elif turns and ";" in line:
            turns[-1][1].append([part.strip() for part in line.split(";")])
    return turns


def _votes(raters: list[list[str]]) -> Counter[str]:
    """The vote of each rater for one emotion; one who is listed again is counted once."""
    said = {who: emotion for who, emotion, *_ in reversed(raters)}
    return Counter(vote_for(emotion, LABELS) for emotion in said.values())


def defects(root: Path) -> Iterator[str]:
    """Values that are none, raters that are listed twice, label lines that cannot be read."""
    turns = _turns(root)
    if empty := sum(bool(re.search(r"\b[VAD]:\s*nan\b", line, re.IGNORECASE)) for line, _ in turns):
        yield f"{empty} label line(s) have NaN for valence, arousal or dominance, which is read as no value"
    if doubled := sum(len({who for who, *_ in raters}) < len(raters) for _, raters in turns):
        yield f"{doubled} turn(s) list a rater more than once: the first vote counts"
    if lines := sum(_LINE.fullmatch(line) is None for line, _ in turns):
        yield f"{lines} label line(s) are not written as the others and are not read"


GRAMMAR = Grammar(
    info=CorpusInfo(
        name="msp-improv",
        title="MSP-IMPROV",
        description=f"MSP-IMPROV: {', '.join(LABELS.values())}.",
        language="en",
    ),
    table=TABLE,
    listing=listing,
    subsets={"four_classes": Subset("anger, happiness, sadness, neutral", LABELS)},
    sex_of=lambda row: "female" if row["speaker"].startswith("F") else "male",
    defects=defects,
    protocol="leave one session out (six folds)",
)
ENTRY = GRAMMAR.entry()
