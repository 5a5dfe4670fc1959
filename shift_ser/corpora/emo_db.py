"""EMO-DB: ten German actors, seven emotions, names such as `03a01Wa.wav`."""

from .corpus import CorpusInfo
from .names import Grammar, Subset

LABELS = {
    **{"w": "anger", "l": "boredom", "e": "disgust", "a": "fear", "f": "happiness", "n": "neutral", "t": "sadness"}
}
WOMEN = ("08", "09", "13", "14", "16")
GRAMMAR = Grammar(
    info=CorpusInfo(
        name="emo-db",
        title="EMO-DB",
        description="EMO-DB: anger, boredom, disgust, fear, happiness, neutral, sadness.",
        language="de",
        homepage="http://emodb.bilderbar.info/",
        citation="Burkhardt et al.: A database of German emotional speech, Interspeech 2005",
    ),
    pattern=r"(?P<speaker>03|08|09|1[0-6])[ab]\d\d(?P<label>[WLEAFTN])[a-z]?",
    subsets={"all": Subset("all seven emotions", LABELS)},
    published={"w": 127, "l": 81, "e": 46, "a": 69, "f": 71, "n": 79, "t": 62},
    total=535,
    rate=16000,
    sex_of=lambda row: "female" if row["speaker"] in WOMEN else "male",
    protocol="leave one speaker out (ten folds)",
)
ENTRY = GRAMMAR.entry()
