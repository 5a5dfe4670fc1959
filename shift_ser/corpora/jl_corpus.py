"""JL-corpus: four New Zealand speakers, ten emotions, names such as `male2_concerned_6b_1.wav`."""

from .corpus import CorpusInfo
from .names import Grammar, Subset

LABELS = {
    name: name
    for name in (
        *("angry", "sad", "neutral", "happy", "excited"),
        *("anxious", "apologetic", "assertive", "concerned", "encouraging"),
    )
}
GRAMMAR = Grammar(
    info=CorpusInfo(
        name="jl-corpus",
        title="JL-corpus",
        description=f"JL-corpus: {', '.join(LABELS)}.",
        language="en",
        citation="James, Tian, Watson: An open source emotional speech corpus, Interspeech 2018",
    ),
    pattern=rf"(?P<speaker>(?:fe)?male\d)_(?P<label>{'|'.join(LABELS)})_\w+",
    subsets={
        "all": Subset("five primary and five secondary emotions", LABELS),
        "primary": Subset("the five primary emotions", dict(list(LABELS.items())[:5])),
    },
    sex_of=lambda row: "female" if row["speaker"].startswith("female") else "male",
    protocol="leave one speaker out (four folds)",
)
ENTRY = GRAMMAR.entry()
