"""CREMA-D: 91 actors, six emotions, names such as `1087_IWL_ANG_XX.wav`; the label is the intended one."""

from pathlib import Path

from .corpus import CorpusInfo
from .names import Grammar, Subset, read_csv


def sexes(root: Path) -> dict[str, str]:
    """Sex of each actor, from `VideoDemographics.csv` where a copy has it; else nothing."""
    path = root / "VideoDemographics.csv"
    if not path.is_file():
        return {}
    return {row["ActorID"].strip(): row["Sex"].strip().lower() for row in read_csv(path, "ActorID", "Sex")}


LABELS = {"ang": "anger", "dis": "disgust", "fea": "fear", "hap": "happy", "neu": "neutral", "sad": "sad"}
GRAMMAR = Grammar(
    info=CorpusInfo(
        name="crema-d",
        title="CREMA-D",
        description="CREMA-D: anger, disgust, fear, happy, neutral, sad.",
        language="en",
        homepage="https://github.com/CheyneyComputerScience/CREMA-D",
        citation="Cao et al.: CREMA-D: crowd-sourced emotional multimodal actors dataset, IEEE TAC 5, 2014",
    ),
    pattern=r"(?P<speaker>10\d\d)_[A-Z]{3}_(?P<label>ANG|DIS|FEA|HAP|NEU|SAD)_(?P<intensity>LO|MD|HI|XX?)",
    subsets={"intended": Subset("the emotion that the actor was asked for", LABELS)},
    total=7442,
    rate=16000,
    sexes=sexes,
    protocol="speaker groups",
)
ENTRY = GRAMMAR.entry()
