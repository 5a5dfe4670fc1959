"""ShEMO: Persian speakers of radio plays, six emotions, names such as `F01A01.wav`."""

from .corpus import CorpusInfo
from .names import Grammar, Subset

LABELS = {"a": "anger", "f": "fear", "h": "happiness", "n": "neutral", "s": "sadness", "w": "surprise"}
GRAMMAR = Grammar(
    info=CorpusInfo(
        name="shemo",
        title="ShEMO",
        description="ShEMO: anger, fear, happiness, neutral, sadness, surprise.",
        language="fa",
        homepage="https://github.com/mansourehk/ShEMO",
        citation="Mohamad Nezami, Jamshid Lou, Karami: ShEMO, Language Resources and Evaluation 53, 2019",
    ),
    pattern=r"(?P<speaker>[FM]\d\d)(?P<label>[AFHNSW])\d\d",
    subsets={
        "all": Subset("all six emotions", LABELS),
        "without_fear": Subset("without fear, of which there is little", {c: n for c, n in LABELS.items() if c != "f"}),
    },
    total=2838,
    sex_of=lambda row: "female" if row["speaker"].startswith("f") else "male",
    protocol="speaker groups",
)
ENTRY = GRAMMAR.entry()
