"""MSP-Podcast: `Labels/labels_consensus.csv` with `Audios/*.wav`; eight emotions, given partitions, raters' means.

Where `labels_detailed.csv` lies beside it, the raters' votes for the emotion that each heard most.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .corpus import CorpusInfo
from .names import Grammar, Subset, number, read_csv
from .votes import vote_for

TABLE = "Labels/labels_con*ensus.csv"  # older releases spell it labels_concensus
RATERS = "Labels/labels_detailed.csv"  # a row a rater
# The names that the letters stand for are from memory; O (other) and X (no agreement) are left out.
LABELS = {
    **{"A": "anger", "S": "sadness", "H": "happiness", "U": "surprise", "F": "fear", "D": "disgust"},
    **{"C": "contempt", "N": "neutral"},
}
STEREO = "MSP-PODCAST_1023_0235"
PARTS = {"train": "train", "validation": "validation", "development": "validation", "test1": "test"}


def listing(root: Path) -> Iterator[dict[str, Any]]:
    """Each row of the table of labels; an unknown speaker stays "unknown", which is nobody."""
    folder = root / ("Audios" if (root / "Audios").is_dir() else "Audio")
    columns = ("FileName", "EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Gender", "Split_Set")
    votes = _votes(root)
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
            **({"votes": votes.get(row["FileName"].strip(), {})} if votes else {}),
        }


def _votes(root: Path) -> dict[str, Counter[str]]:
    """The raters' votes for each recording; nothing without their table."""
    path, counts = root / RATERS, dict[str, Counter[str]]()
    for row in read_csv(path, "FileName", "EmoClass_Major") if path.is_file() else ():
        counts.setdefault(row["FileName"].strip(), Counter())[vote_for(row["EmoClass_Major"], LABELS)] += 1
    return counts


def defects(root: Path) -> Iterator[str]:
    """The misspelt table, unknown speakers, parts that are not read, and the stereo file."""
    table = sorted(root.glob(TABLE))[0]
    if "concensus" in table.name:
        yield f"the table is spelt {table.name}, as in older releases"
    rows = list(listing(root))
    if nobody := sum(row["speaker"].lower() == "unknown" for row in rows):
        yield f"{nobody} recording(s) of unknown speakers: they train, and are in no validation or test set"
    if parts := Counter(row["split"] for row in rows if row["split"] not in PARTS.values()):
        yield "not read: " + ", ".join(f"{count} of {part}" for part, count in sorted(parts.items()))
    if any(Path(row["audio"]).stem == STEREO for row in rows):
        yield f"{STEREO} is stereo at 44.1 kHz in release 1.8; it is averaged and resampled"


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
    defects=defects,
    protocol="the given partitions (protocol given)",
)
ENTRY = GRAMMAR.entry()
