"""CREMA-D: 91 actors, six emotions, `1087_IWL_ANG_XX.wav`; intended labels, or those that raters heard."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .corpus import CorpusInfo
from .names import Grammar, Subset, read_csv


def sexes(root: Path) -> dict[str, str]:
    """Sex of each actor, from `VideoDemographics.csv` where a copy has it; else nothing."""
    path = root / "VideoDemographics.csv"
    if not path.is_file():
        return {}
    return {row["ActorID"].strip(): row["Sex"].strip().lower() for row in read_csv(path, "ActorID", "Sex")}


VOICE = "1"  # queryType of the raters who heard the voice alone; 2 is the face, 3 both
SILENT = "1076_MTI_SAD_XX"  # a recording without a signal in every copy


def perceived(root: Path, subset: str) -> dict[str, dict[str, Any]] | None:
    """What the raters heard in each recording, voice alone: the winner and the votes; `None` for other subsets.

    The winner is `VoiceVote` of `processedResults/summaryTable.csv`, and where that has none, two labels are equal and
    the recording is left out. Votes are those of `finishedResponses.csv`, if it is there.

    Raises:
        FileNotFoundError: If the summary is not there.
    """
    if subset != "perceived":
        return None
    summary = root / "processedResults" / "summaryTable.csv"
    if not summary.is_file():
        raise FileNotFoundError(f"subset 'perceived' needs {summary}, which is not there")
    code_of = {code[0].upper(): code for code in LABELS}
    winners = {row["FileName"].strip(): row["VoiceVote"].strip() for row in read_csv(summary, "FileName", "VoiceVote")}
    votes = _votes(root, code_of)
    return {
        name: {"label": code_of[vote], **({"votes": votes.get(name, {})} if votes else {})}
        for name, vote in winners.items()
        if vote in code_of
    }


def _votes(root: Path, code_of: dict[str, str]) -> dict[str, Counter[str]]:
    """The votes for the voice of each recording."""
    path = root / "finishedResponses.csv"
    counts: dict[str, Counter[str]] = {}
    for row in read_csv(path, "clipName", "queryType", "respEmo") if path.is_file() else ():
        if row["queryType"].strip() == VOICE and row["respEmo"].strip() in code_of:
            counts.setdefault(row["clipName"].strip(), Counter())[LABELS[code_of[row["respEmo"].strip()]]] += 1
    return counts


def defects(root: Path) -> Iterator[str]:
    """The silent recording."""
    if any(root.glob(f"**/{SILENT}.wav")):
        yield f"{SILENT} has no signal in any copy: its label is read, and nothing is to be heard"


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
    subsets={
        "intended": Subset("the emotion that the actor was asked for", LABELS),
        "perceived": Subset("the emotion that most raters heard in the voice alone, with their votes; no ties", LABELS),
    },
    relabel=perceived,
    defects=defects,
    total=7442,
    rate=16000,
    sexes=sexes,
    protocol="speaker groups",
)
ENTRY = GRAMMAR.entry()
