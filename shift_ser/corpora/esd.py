"""ESD: ten Mandarin and ten English speakers, five emotions, `0011/Angry/train/0011_000351.wav`; labels by folder."""

from collections.abc import Iterator
from pathlib import Path

from .corpus import CorpusInfo
from .names import Grammar, Subset

CHINESE = {"中立": "neutral", "快乐": "happy", "生气": "angry", "伤心": "sad", "惊喜": "surprise"}
_ENCODINGS = ("utf-8-sig", "utf-16", "gb18030")


def defects(root: Path) -> Iterator[str]:
    """Tables of speakers (`0001/0001.txt`) whose emotions are in Chinese, or contradict the folders."""
    chinese: list[str] = []
    unread: list[str] = []
    other: list[str] = []
    folders = {path.stem: path.parts[len(root.parts) + 1].lower() for path in root.glob("00*/*/**/00*.wav")}
    for table in sorted(root.glob("00[0-9][0-9]/00[0-9][0-9].txt")):
        text = _decoded(table.read_bytes())
        rows = [line.split("\t") for line in (text or "").splitlines() if line.strip()]
        told = {row[0].strip(): row[2].strip() for row in rows if len(row) == 3}
        (unread if not told else chinese if set(told.values()) & set(CHINESE) else []).append(table.name)
        other += [name for name, label in told.items() if folders.get(name, _same(label)) != _same(label)]
    if chinese:
        yield f"{len(chinese)} table(s) name the emotions in Chinese ({chinese[0]}); labels are those of the folders"
    if unread:
        yield f"{len(unread)} table(s) cannot be read ({unread[0]}); labels are those of the folders"
    if other:
        yield f"{len(other)} recording(s) lie in the folder of another emotion than their table tells: {other[0]}"


def _same(label: str) -> str:
    return CHINESE.get(label, label.lower())


def _decoded(content: bytes) -> str | None:
    """The text of a table: the speakers' are in several encodings."""
    for encoding in _ENCODINGS:
        try:
            text = content.decode(encoding)
        except UnicodeError:
            continue
        if "\t" in text:
            return text
    return None


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
    defects=defects,
    protocol="speaker groups; the given partitions share speakers",
)
ENTRY = GRAMMAR.entry()
