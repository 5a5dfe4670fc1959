"""AESDD: actors of Greek, five emotions, `anger/a03 (3).wav`, the speaker in brackets."""

from .corpus import CorpusInfo
from .names import Grammar, Subset

LABELS = {"a": "anger", "d": "disgust", "f": "fear", "h": "happiness", "s": "sadness"}
GRAMMAR = Grammar(
    info=CorpusInfo(
        name="aesdd",
        title="AESDD",
        description="AESDD: anger, disgust, fear, happiness, sadness.",
        language="el",
    ),
    pattern=r"(?P<label>[adfhs])\d\d \((?P<speaker>\d+)\)",
    subsets={"all": Subset("all five emotions", LABELS)},
)
ENTRY = GRAMMAR.entry()
