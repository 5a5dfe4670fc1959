"""SAVEE: four English men, seven emotions, `DC/a01.wav` or `DC_a01.wav`."""

from .corpus import CorpusInfo
from .names import Grammar, Subset

LABELS = {
    **{"a": "anger", "d": "disgust", "f": "fear", "h": "happiness", "n": "neutral", "sa": "sadness", "su": "surprise"}
}
GRAMMAR = Grammar(
    info=CorpusInfo(
        name="savee",
        title="SAVEE",
        description="SAVEE: anger, disgust, fear, happiness, neutral, sadness, surprise.",
        language="en",
        homepage="http://kahlan.eps.surrey.ac.uk/savee/",
        citation="Haq, Jackson: Multimodal emotion recognition, in: Machine Audition, IGI Global, 2010",
    ),
    pattern=r"(?P<speaker>DC|JE|JK|KL)[/_](?P<label>sa|su|[adfhn])\d\d",
    subsets={"all": Subset("all seven emotions", LABELS)},
    published={code: 120 if code == "n" else 60 for code in LABELS},
    total=480,
    rate=44100,
    sex_of=lambda row: "male",
    protocol="leave one speaker out (four folds)",
)
ENTRY = GRAMMAR.entry()
