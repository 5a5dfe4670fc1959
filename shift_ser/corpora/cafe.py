"""CaFE: twelve actors of Quebec, seven emotions, names such as `12-P-2-5.wav`."""

from .corpus import CorpusInfo
from .names import Grammar, Subset

LABELS = {
    **{"c": "anger", "d": "disgust", "j": "happiness", "n": "neutral", "p": "fear", "s": "surprise", "t": "sadness"}
}
GRAMMAR = Grammar(
    info=CorpusInfo(
        name="cafe",
        title="CaFE",
        description="CaFE: anger, disgust, happiness, neutral, fear, surprise, sadness.",
        language="fr",
        homepage="https://zenodo.org/records/1478765",
        citation="Gournay, Lahaie, Lefebvre: A Canadian French emotional speech dataset, ACM MMSys 2018",
    ),
    pattern=r"(?P<speaker>0[1-9]|1[0-2])-(?P<label>[CDJNPST])-(?P<intensity>[12])-[1-6]",
    subsets={"all": Subset("all seven emotions", LABELS)},
    rate=48000,
    protocol="speaker groups",
)
ENTRY = GRAMMAR.entry()
