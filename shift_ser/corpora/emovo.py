"""EMOVO: six Italian actors, seven emotions, names such as `gio-f2-b2.wav`."""

from .corpus import CorpusInfo
from .names import Grammar, Subset

LABELS = {
    **{"dis": "disgust", "gio": "joy", "neu": "neutral", "pau": "fear", "rab": "anger", "sor": "surprise"},
    "tri": "sadness",
}
GRAMMAR = Grammar(
    info=CorpusInfo(
        name="emovo",
        title="EMOVO",
        description="EMOVO: disgust, joy, neutral, fear, anger, surprise, sadness.",
        language="it",
        citation="Costantini et al.: EMOVO corpus: an Italian emotional speech database, LREC 2014",
    ),
    pattern=r"(?P<label>dis|gio|neu|pau|rab|sor|tri)-(?P<speaker>[fm][1-3])-\w+",
    subsets={"all": Subset("all seven emotions", LABELS)},
    rate=48000,
    sex_of=lambda row: "female" if row["speaker"].startswith("f") else "male",
    protocol="leave one speaker out (six folds)",
)
ENTRY = GRAMMAR.entry()
