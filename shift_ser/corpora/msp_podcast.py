"""MSP-Podcast: `Labels/labels_consensus.csv` with `Audios/*.wav`; eight emotions, given partitions, raters' means."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .corpus import CorpusInfo
from .names import Grammar, Subset, number, read_csv

TABLE = "Labels/labels_con*ensus.csv"  # older releases spell it labels_concensus
# The names that the letters stand for are from memory; O (other) and X (no agreement) are left out.
LABELS = {
    **{"A": "anger", "S": "sadness", "H": "happiness", "U": "surprise", "F": "fear", "D": "disgust"},
    **{"C": "contempt", "N": "neutral"},
}
PARTS = {"train": "train", "validation": "validation", "development": "validation", "test1": "test"}


def listing(root: Path) -> Iterator[dict[str, Any]]:
    """Each row of the table of labels; an unknown speaker stays "unknown", which is nobody."""
    folder = root / ("Audios" if (root / "Audios").is_dir() else "Audio")
    columns = ("FileName", "EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Gender", "Split_Set")
    for row in read_csv(sorted(root.glob(TABLE))[0], *columns):
        part = row["Split_Set"].strip().lower()
        yield {
            "audio": str(folder / row["FileName"].strip()),
            "label": row["EmoClass"].strip(),
            "speaker": row["SpkrID"].strip() or "unknown",
            "sex": row["Gender"].strip().lower(),
            "split": PARTS.get(part, part),
            **{name: number(row[f"Emo{name[:3].capitalize()}"]) for name in ("valence", "dominance")},
            "arousal": number(row["EmoAct"]),
        }


GRAMMAR = Grammar(
    info=CorpusInfo(
        name="msp-podcast",
        title="MSP-Podcast",
        description=f"MSP-Podcast: {', '.join(LABELS.values())}.",
        language="en",
    ),
    table=TABLE,
    listing=listing,
    subsets={
        "test1": Subset("eight emotions; train, validation and Test1", LABELS, {"split": "train|validation|test"}),
        "anger_sadness_happiness_neutral": Subset(
            "four emotions; train, validation and Test1",
            {code: LABELS[code] for code in "ASHN"},
            {"split": "train|validation|test"},
        ),
    },
    protocol="the given partitions (protocol given)",
)
ENTRY = GRAMMAR.entry()
