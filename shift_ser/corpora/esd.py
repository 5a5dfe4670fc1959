"""ESD: ten Mandarin and ten English speakers, five emotions, `0011/Angry/train/0011_000351.wav`; labels by folder."""

from .corpus import CorpusInfo
from .names import Grammar, Subset

LABELS = {name: name for name in ("neutral", "happy", "angry", "sad", "surprise")}
GRAMMAR = Grammar(
    info=CorpusInfo(
        name="esd",
        title="ESD",
        description="ESD: neutral, happy, angry, sad, surprise.",
        language="en,zh",
        homepage="https://github.com/HLTSingapore/Emotional-Speech-Data",
        citation="Zhou et al.: Emotional voice conversion: theory, databases and ESD, Speech Communication 137, 2022",
    ),
    pattern=(
        r"00\d\d/(?P<label>Neutral|Happy|Angry|Sad|Surprise)/(?:(?P<split>train|test|evaluation)/)?"
        r"(?P<speaker>00(?:(?P<english>1[1-9]|20)|0[1-9]|10))_\d{6}"
    ),
    subsets={
        "all": Subset("Mandarin and English", LABELS),
        "english": Subset("speakers 0011 to 0020", LABELS, {"english": ".+"}),
        "mandarin": Subset("speakers 0001 to 0010", LABELS, {"english": ""}),
    },
    published=dict.fromkeys(LABELS, 7000),
    total=35000,
    rate=16000,
    protocol="speaker groups; the given partitions share speakers",
)
ENTRY = GRAMMAR.entry()
