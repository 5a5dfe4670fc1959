"""Emozionalmente: 431 Italian speakers, `audio/*.wav` with `metadata/samples.csv`; the label is the intended one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .corpus import CorpusInfo
from .names import Grammar, Subset, read_csv

TABLE = "metadata/samples.csv"
NAMES = ("anger", "disgust", "fear", "joy", "neutrality", "sadness", "surprise")  # from memory; the check tells others
LABELS = {name: name for name in NAMES}


def listing(root: Path) -> Iterator[dict[str, Any]]:
    """Each row of `samples.csv`."""
    for row in read_csv(root / TABLE, "file_name", "actor", "emotion_expressed", "sentence"):
        yield {
            "audio": str(root / "audio" / row["file_name"]),
            "label": row["emotion_expressed"].strip().lower(),
            "speaker": row["actor"].strip(),
            "transcript": row["sentence"],
        }


GRAMMAR = Grammar(
    info=CorpusInfo(
        name="emozionalmente",
        title="Emozionalmente",
        description=f"Emozionalmente: {', '.join(NAMES)}.",
        language="it",
    ),
    table=TABLE,
    listing=listing,
    subsets={"intended": Subset("the emotion that the speaker was asked for", LABELS)},
    total=6902,
    protocol="speaker groups",
)
ENTRY = GRAMMAR.entry()
