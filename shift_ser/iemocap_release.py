"""IEMOCAP's release as it lies on disk: which folders and files it has, and how its label files are read."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Original label -> the label used: the four of the literature, "excited" counted as happy. All others are skipped.
LABEL_OF = {"ang": "angry", "hap": "happy", "exc": "happy", "neu": "neutral", "sad": "sad"}
LABELS = ("angry", "happy", "neutral", "sad")
SESSIONS = (1, 2, 3, 4, 5)

PUBLISHED_EMOTIONS = {"ang": 1103, "hap": 595, "exc": 1041, "neu": 1708, "sad": 1084}
PUBLISHED_SESSIONS = {1: 1085, 2: 1023, 3: 1151, 4: 1031, 5: 1241}

SYNTHETIC_MARKER = "synthetic_corpus.json"  # what `make_synthetic_corpus` leaves in the folder

_NUMBER = r"(-?\d+(?:\.\d+)?)"
_LABEL_LINE = re.compile(
    rf"\[{_NUMBER}\s*-\s*{_NUMBER}\]\s+(Ses\d\d[FM]_\w+_[FM]\w+)\s+([a-z]{{3}})\s+\[{_NUMBER},\s*{_NUMBER},\s*{_NUMBER}\]"
)
_VOTE_LINE = re.compile(r"C-([^:]*):\s*(.*?)\s*(?:\((.*)\))?")
_LABEL_FORM = "[start - end]<tab>utterance<tab>emotion<tab>[valence, arousal, dominance]"


@dataclass(frozen=True)
class Utterance:
    """One labelled utterance.

    Attributes:
        name: Such as `Ses01F_impro01_M003`.
        emotion: Original label, three letters.
        session: 1 to 5.
        dialog: Such as `Ses01F_impro01`; its letter tells who wears the markers.
        wav: Where its recording should be.
        start: Seconds into the dialog.
        end: Seconds into the dialog.
        valence: 1 to 5, mean over raters.
        arousal: 1 to 5, mean over raters.
        dominance: 1 to 5, mean over raters.
        raters: Each rater's vote: `rater`, `emotions` (one or more), `comment`.
    """

    name: str
    emotion: str
    session: int
    dialog: str
    wav: Path
    start: float
    end: float
    valence: float
    arousal: float
    dominance: float
    raters: list[dict[str, Any]]

    @property
    def speaker(self) -> str:
        """Who really speaks: the letter of the name's last part, such as `Ses01M`."""
        return self.name[:5] + self.name.rpartition("_")[2][0]


def find_release(root: str | Path) -> Path:
    """Find the folder that holds the sessions: the one given, or `IEMOCAP_full_release` in it.

    Raises:
        FileNotFoundError: If neither is there; tells what was expected and what was found.
    """
    root = Path(root).expanduser().absolute()
    for folder in (root, root / "IEMOCAP_full_release"):
        if any(label_folder(folder, session).is_dir() for session in SESSIONS):
            return folder
    if root.is_dir():
        names = sorted(path.name for path in root.iterdir())
        found = f"it holds {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else "it is empty"
    else:
        found = "it is a file" if root.exists() else "there is no such folder"
    raise FileNotFoundError(
        "root must be IEMOCAP's release, with Session1/dialog/EmoEvaluation/*.txt and "
        f"Session1/sentences/wav/<dialog>/*.wav in it (and so on to Session5); got {root}: {found}"
    )


def is_synthetic(root: Path) -> bool:
    """Whether the folder holds the synthetic corpus rather than IEMOCAP."""
    return (root / SYNTHETIC_MARKER).is_file()


def label_folder(root: Path, session: int) -> Path:
    """Folder of a session's label files."""
    return root / f"Session{session}" / "dialog" / "EmoEvaluation"


def label_files(root: Path) -> Iterator[tuple[int, Path]]:
    """Yield session and label file of each dialog; passes over `._*` files and the raters' folders."""
    for session in SESSIONS:
        for path in sorted(label_folder(root, session).glob("Ses*.txt")):
            yield session, path


def read_label_file(path: Path, *, root: Path, session: int) -> tuple[list[Utterance], list[str]]:
    """Read the utterances of a dialog.

    Returns:
        The utterances in the file's order, and a message for each label line that does not parse.
    """
    utterances: list[Utterance] = []
    errors: list[str] = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return [], [f"{path} must be a label file that can be read, got: {error}"]
    for number, line in enumerate(map(str.strip, lines), 1):
        if vote := _VOTE_LINE.fullmatch(line):
            if utterances:
                utterances[-1].raters.append(_vote(*vote.groups()))
        elif match := _LABEL_LINE.fullmatch(line):
            name, emotion = match[3], match[4]
            start, end, valence, arousal, dominance = (float(match[group]) for group in (1, 2, 5, 6, 7))
            wav = root / f"Session{session}" / "sentences" / "wav" / path.stem / f"{name}.wav"
            utterances.append(
                Utterance(name, emotion, session, path.stem, wav, start, end, valence, arousal, dominance, raters=[])
            )
        elif line.startswith("[") or re.search(r"Ses\d\d[FM]_", line):
            errors.append(f"{path}, line {number}: a label line must read {_LABEL_FORM}, got {line!r}")
    return utterances, errors


def _vote(rater: str, emotions: str, comment: str | None) -> dict[str, Any]:
    named = [emotion.strip() for emotion in emotions.split(";") if emotion.strip()]
    return {"rater": rater.strip(), "emotions": named, "comment": comment or ""}
