"""SUBESCO: twenty Bangla actors, seven emotions, names such as `F_10_FAHMEE_S_6_FEAR_5.wav`."""

from .corpus import CorpusInfo
from .names import Grammar, Subset

LABELS = {name: name for name in ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")}
GRAMMAR = Grammar(
    info=CorpusInfo(
        name="subesco",
        title="SUBESCO",
        description="SUBESCO: angry, disgust, fear, happy, neutral, sad, surprise.",
        language="bn",
        homepage="https://zenodo.org/records/4526477",
        citation="Sultana et al.: SUST Bangla Emotional Speech Corpus (SUBESCO), PLoS ONE 16, 2021",
    ),
    pattern=r"(?P<speaker>(?P<letter>[FM])_\d\d)_[A-Z]+_S_\d+_(?P<label>ANGRY|DISGUST|FEAR|HAPPY|NEUTRAL|SAD|SURPRISE)_\d",
    subsets={"all": Subset("all seven emotions", LABELS)},
    published=dict.fromkeys(LABELS, 1000),
    total=7000,
    sex_of=lambda row: "female" if row["speaker"].startswith("f") else "male",
    protocol="speaker groups (five folds of four actors)",
)
ENTRY = GRAMMAR.entry()
