"""EmoV-DB: four English speakers, five styles, `jenie_Amused/amused_57-84_0057.wav` or `jenie/Amused/...`."""

from .corpus import CorpusInfo
from .names import Grammar, Subset

LABELS = {name: name for name in ("amused", "angry", "disgusted", "neutral", "sleepy")} | {"disgust": "disgusted"}
GRAMMAR = Grammar(
    info=CorpusInfo(
        name="emov-db",
        title="EmoV-DB",
        description="EmoV-DB: amused, angry, disgusted, neutral, sleepy.",
        language="en",
        homepage="https://github.com/numediart/EmoV-DB",
        citation="Adigwe et al.: The emotional voices database, arXiv 1806.09514, 2018",
    ),
    pattern=r"(?P<speaker>bea|jenie|josh|sam)[_/](?P<label>amused|angry|disgusted|disgust|neutral|sleepy)/[^/]+",
    subsets={"all": Subset("all five styles", LABELS)},
    total=6887,
    rate=16000,
    sex_of=lambda row: "female" if row["speaker"] in ("bea", "jenie") else "male",
    protocol="leave one speaker out (four folds; josh has three styles only)",
)
ENTRY = GRAMMAR.entry()
