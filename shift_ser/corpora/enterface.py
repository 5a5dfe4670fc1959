"""eNTERFACE'05: 43 people, six emotions, `subject 1/anger/sentence 1/s1_an_1.avi`; needs the extra `av`."""

from collections.abc import Mapping

from .corpus import CorpusInfo
from .names import Grammar, Subset

LABELS = {name: name for name in ("anger", "disgust", "fear", "happiness", "sadness", "surprise")}


def defect(told: Mapping[str, str]) -> str:
    """What is known of a recording by its path."""
    return "" if told.get("sentence") else "unsegmented sessions of subject 6 (no folder `sentence`)"


# The folders tell speaker and emotion: the files of subject 11 are called s12_..., some of subject 3 s_3_..., and one
# of subject 16 s16_su_3avi.
GRAMMAR = Grammar(
    info=CorpusInfo(
        name="enterface",
        title="eNTERFACE'05",
        description=f"eNTERFACE'05: {', '.join(LABELS)}.",
        language="en",
        license="mit",
        homepage="https://enterface.net/enterface05/",
        citation="Martin et al.: The eNTERFACE'05 audio-visual emotion database, 2006",
    ),
    pattern=(
        r"subject (?P<speaker>\d+)/(?P<label>anger|disgust|fear|happiness|sadness|surprise)/"
        r"(?:(?P<sentence>sentence \d)/)?s_?\d+_\w+"
    ),
    suffixes=(".avi", ".wav"),
    subsets={"all": Subset("all six emotions, without subject 6, whose sessions are not cut into sentences", LABELS)},
    total=1287,  # 42 people with 30 recordings, and subject 23 with 27
    defect=defect,
    protocol="speaker groups",
)
ENTRY = GRAMMAR.entry()
