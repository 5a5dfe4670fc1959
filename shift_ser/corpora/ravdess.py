"""RAVDESS: 24 North American actors, speech and song, names such as `03-01-05-01-02-01-12.wav`."""

from .corpus import CorpusInfo
from .names import Grammar, Subset

LABELS = {
    **{"01": "neutral", "02": "calm", "03": "happy", "04": "sad", "05": "angry", "06": "fearful", "07": "disgust"},
    "08": "surprised",
}
SPEECH, SONG = {"channel": "01"}, {"channel": "02"}
SUNG = {code: label for code, label in LABELS.items() if code not in ("07", "08")}
GRAMMAR = Grammar(
    info=CorpusInfo(
        name="ravdess",
        title="RAVDESS",
        description="RAVDESS: neutral, calm, happy, sad, angry, fearful, disgust, surprised.",
        language="en",
        homepage="https://zenodo.org/records/1188976",
        citation="Livingstone, Russo: Ryerson Audio-Visual Database of Emotional Speech and Song, PLoS ONE 13, 2018",
    ),
    pattern=(r"03-(?P<channel>0[12])-(?P<label>0[1-8])-(?P<intensity>0[12])-\d\d-\d\d-(?P<speaker>0[1-9]|1\d|2[0-4])"),
    subsets={
        "speech": Subset("speech, calm kept apart", LABELS, SPEECH),
        "speech_calm_as_neutral": Subset("speech, calm counted as neutral", {**LABELS, "02": "neutral"}, SPEECH),
        "speech_without_calm": Subset("speech without calm", {c: n for c, n in LABELS.items() if c != "02"}, SPEECH),
        "song": Subset("song", SUNG, SONG),
    },
    published={"01": 96, **dict.fromkeys(("02", "03", "04", "05", "06", "07", "08"), 192)},
    total=1440,
    rate=48000,
    sex_of=lambda row: "male" if int(row["speaker"]) % 2 else "female",
    protocol="speaker groups (six folds of four actors)",
)
ENTRY = GRAMMAR.entry()
