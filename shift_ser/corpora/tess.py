"""TESS: two women, seven emotions, names such as `OAF_lid_fear.wav`; folders vary in case and are not read."""

from collections.abc import Iterator
from pathlib import Path

import soundfile as sf

from .corpus import CorpusInfo
from .names import Grammar, Subset


def defects(root: Path) -> Iterator[str]:
    """The one file at 96 kHz."""
    for path in sorted(root.glob("**/[!.]*.wav")):
        try:
            if sf.info(path).samplerate == 96000:
                yield f"{path.stem} is at 96 kHz, the one such file of the published corpus; it is resampled"
        except (sf.LibsndfileError, OSError):
            continue  # told as what cannot be read


LABELS = {name: name for name in ("angry", "disgust", "fear", "happy", "neutral", "sad")} | {"ps": "surprise"}
GRAMMAR = Grammar(
    info=CorpusInfo(
        name="tess",
        title="TESS",
        description="TESS: angry, disgust, fear, happy, neutral, sad, surprise.",
        language="en",
        homepage="https://doi.org/10.5683/SP2/E8H2MF",
        citation="Pichora-Fuller, Dupuis: Toronto emotional speech set (TESS), 2020",
    ),
    pattern=r"(?P<speaker>OA|YA)F?_\w+_(?P<label>angry|disgust|fear|happy|neutral|sad|ps)",
    subsets={"all": Subset("all seven emotions", LABELS)},
    published=dict.fromkeys(LABELS, 400),
    total=2800,
    rate=24414,
    defects=defects,
    sex_of=lambda row: "female",
    protocol="leave one speaker out (two folds)",
)
ENTRY = GRAMMAR.entry()
