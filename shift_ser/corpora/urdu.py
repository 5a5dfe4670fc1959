"""URDU: speakers of talk shows, four emotions, names such as `Angry/SM1_F19_A019.wav`."""

from .corpus import CorpusInfo
from .names import Grammar, Subset

LABELS = {"a": "angry", "h": "happy", "n": "neutral", "s": "sad"}
GRAMMAR = Grammar(
    info=CorpusInfo(
        name="urdu",
        title="URDU",
        description="URDU: angry, happy, neutral, sad.",
        language="ur",
        homepage="https://github.com/siddiquelatif/URDU-Dataset",
        citation="Latif et al.: Cross lingual speech emotion recognition: Urdu vs. western languages, FIT 2018",
    ),
    pattern=r"(?P<speaker>S[FM]\d+)_F\d+_(?P<label>[AHNS])\d+",
    subsets={"all": Subset("all four emotions", LABELS)},
    published=dict.fromkeys(LABELS, 100),
    total=400,
    sex_of=lambda row: "female" if row["speaker"].startswith("sf") else "male",
    protocol="speaker groups",
)
ENTRY = GRAMMAR.entry()
