"""MSP-IMPROV: twelve actors in six sessions, four emotions, labels in `Evaluation.txt`."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .corpus import CorpusInfo
from .names import Grammar, Subset, number

TABLE = "Evaluation.txt"
LABELS = {"A": "anger", "H": "happiness", "S": "sadness", "N": "neutral"}  # O and X are left out
_LINE = re.compile(r"UTD-(IMPROV-S\d\d[AHNS]-([FM]\d\d)-[PRST]-\w+)\.avi;\s*([A-Z]);(.*)")
_TARGETS = {"valence": "V", "arousal": "A", "dominance": "D"}


def listing(root: Path) -> Iterator[dict[str, Any]]:
    """Each label line of `Evaluation.txt`; those of raters below it are not read."""
    there = {path.stem: path for path in root.glob("session*/**/MSP-IMPROV-*.wav")}
    text = (root / TABLE).read_text(encoding="utf-8", errors="replace")
    for match in filter(None, map(_LINE.fullmatch, map(str.strip, text.splitlines()))):
        name, speaker, label, values = match.groups()
        given = dict(re.findall(r"\b([VAD]):\s*([^;\s]+)", values))
        yield {
            "audio": str(there.get(f"MSP-{name}", root / f"MSP-{name}.wav")),
            "label": label,
            "speaker": speaker,
            "session": str(int(speaker[1:])),
            **{column: number(given.get(key, "")) for column, key in _TARGETS.items()},
        }


def defects(root: Path) -> Iterator[str]:
    """Values that are none, raters that are listed twice, label lines that cannot be read."""
    empty, doubled, lines, raters = 0, 0, 0, Counter[str]()
    for line in [*map(str.strip, (root / TABLE).read_text(encoding="utf-8", errors="replace").splitlines()), ""]:
        if line.startswith("UTD-") or not line:
            doubled += any(count > 1 for count in raters.values())
            raters.clear()
            empty += bool(re.search(r"\b[VAD]:\s*nan\b", line, re.IGNORECASE))
            lines += line.startswith("UTD-") and _LINE.fullmatch(line) is None
        else:
            raters[line.partition(";")[0].strip()] += 1
    if empty:
        yield f"{empty} label line(s) have NaN for valence, arousal or dominance, which is read as no value"
    if doubled:
        yield f"{doubled} turn(s) list a rater more than once; raters are not read"
    if lines:
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
