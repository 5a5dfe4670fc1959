"""MELD: clips of a series by its own three parts; `dia0_utt0.mp4` with `train_sent_emo.csv`; needs the extra `av`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .corpus import CorpusInfo
from .names import Grammar, Subset, read_csv

LABELS = {name: name for name in ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")}
FOLDERS = {
    "train": "train/train_splits",
    "dev": "dev/dev_splits_complete",
    "test": "test/output_repeated_splits_test",
}
SPLITS = {"train": "train", "dev": "validation", "test": "test"}
KNOWN = {  # clips that no copy has whole, each with what is known of it
    ("train", "125", "3"): "a broken clip of every copy (train dia125_utt3)",
    ("train", "309", "0"): "a clip that users report as broken (train dia309_utt0)",
    ("dev", "110", "7"): "a clip missing in every copy (dev dia110_utt7)",
    ("test", "38", "4"): "a clip of 305 s (test dia38_utt4)",
    ("test", "220", "0"): "a clip of 235 s (test dia220_utt0)",
}


def listing(root: Path) -> Iterator[dict[str, Any]]:
    """Each row of the three tables, which lie in the root or in the folders of the parts."""
    needed = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")
    for part, folder in FOLDERS.items():
        name = f"{part}_sent_emo.csv"
        table = next((path for path in (root / name, root / part / name) if path.is_file()), None)
        if table is None:
            raise FileNotFoundError(f"root must hold {name}, or {part}/{name}; {root} does not")
        for row in read_csv(table, *needed):
            dialog, number = row["Dialogue_ID"].strip(), row["Utterance_ID"].strip()
            yield {
                "audio": str(root / folder / f"dia{dialog}_utt{number}.mp4"),
                "utterance": f"{part}/dia{dialog}_utt{number}",
                "label": row["Emotion"].strip().lower(),
                "speaker": row["Speaker"].strip(),
                "dialog": f"{part}/dia{dialog}",
                "split": SPLITS[part],
                "transcript": row["Utterance"].strip(),
                "defect": KNOWN.get((part, dialog, number), ""),
            }


GRAMMAR = Grammar(
    info=CorpusInfo(
        name="meld",
        title="MELD",
        description=f"MELD: {', '.join(LABELS)}.",
        language="en",
        homepage="https://github.com/declare-lab/MELD",
        citation="Poria et al.: MELD: a multimodal multi-party dataset for emotion recognition in conversations, 2019",
    ),
    table="[!.]*_sent_emo.csv",
    listing=listing,
    subsets={"all": Subset("all seven emotions; the five clips known to be bad are left out", LABELS)},
    total=9989 + 1109 + 2610 - len(KNOWN),
    protocol="the given partitions, which share speakers (protocol given, allow_shared_speakers true)",
)
ENTRY = GRAMMAR.entry()
