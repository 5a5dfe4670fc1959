"""IEMOCAP as a `datasets.Dataset`, read from the folder of the release."""

import logging
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import soundfile as sf
from datasets import ClassLabel, Dataset, Features, List, Value

from .check import PROBLEMS, CorpusReport, judge_recordings, listen
from .corpus import Corpus, CorpusInfo, SpeechAudio
from .votes import VOTES_FEATURE, votes_column

logger = logging.getLogger(__name__)


# Original label -> the label used: the four of the literature, "excited" counted as happy. All others are skipped.
LABEL_OF = {"ang": "angry", "hap": "happy", "exc": "happy", "neu": "neutral", "sad": "sad"}
LABELS = ("angry", "happy", "neutral", "sad")
SESSIONS = (1, 2, 3, 4, 5)
RELEASE_FOLDERS = ("IEMOCAP_full_release", "IEMOCAP_full_release_withoutVideos", "IEMOCAP")
LENGTH_TOLERANCE = 0.01  # seconds; in the release a recording is as long as its label says within 0.1 ms
SIX = {**LABEL_OF, "exc": "excited", "fru": "frustrated"}
ALL = {
    **{**SIX, "sur": "surprised", "fea": "fearful", "dis": "disgusted"},
    **{"oth": "other", "xxx": "no agreement"},
}
# Name of a subset -> its sentence, the label of each original one, and how the dialogs begin.
SUBSETS = {
    "four_classes": ("angry, happy (happy or excited), neutral, sad: 5531 utterances", LABEL_OF, ""),
    "improvised": ("the four classes, improvised dialogs only: 2943 utterances", LABEL_OF, "impro"),
    "scripted": ("the four classes, scripted dialogs only: 2588 utterances", LABEL_OF, "script"),
    "excited_only": (
        "angry, excited, neutral, sad",
        {"ang": "angry", "exc": "excited", "neu": "neutral", "sad": "sad"},
        "",
    ),
    "six_classes": ("angry, happy, excited, frustrated, neutral, sad", SIX, ""),
    "all": (f"every labelled utterance, {', '.join(sorted(set(ALL.values())))}: 10039 utterances", ALL, ""),
}

PUBLISHED_EMOTIONS = {"ang": 1103, "hap": 595, "exc": 1041, "neu": 1708, "sad": 1084}
PUBLISHED_SESSIONS = {1: 1085, 2: 1023, 3: 1151, 4: 1031, 5: 1241}

SYNTHETIC_MARKER = "synthetic_corpus.json"  # what `make_synthetic_corpus` leaves in the folder

IEMOCAP = CorpusInfo(
    name="iemocap",
    title="IEMOCAP",
    description="IEMOCAP: angry, happy (happy or excited), neutral, sad.",
    language="en",
    license="other",
    license_name="iemocap-release-terms",
    license_link="https://sail.usc.edu/iemocap/iemocap_release.htm",
    homepage="https://sail.usc.edu/iemocap/",
    citation=(
        "Busso et al.: IEMOCAP: interactive emotional dyadic motion capture database, Language Resources and"
        " Evaluation 42, 2008, doi 10.1007/s10579-008-9076-6"
    ),
    hub_dataset="iemocap",
    heading="for speech emotion recognition (IEMOCAP)",
    labels_note="An English utterance gets one of four labels: angry, happy (happy or excited), neutral, sad.",
    data=(
        "The data is [IEMOCAP](https://sail.usc.edu/iemocap/), which its owners (USC SAIL) give to researchers who sign"
        " their release form. No audio, transcript or label of it ships with this model, and the model is no way around"
        " that form. The code is Apache-2.0; whether and how weights may be shared and used follows the terms that"
        " whoever trained them signed, and the encoder's own licence."
    ),
    limits=(
        "Ten actors, English, a laboratory, close microphones: expect less on spontaneous, noisy, telephone, accented"
        " or children's speech and in other languages. Labels are majorities of raters who often disagreed; utterances"
        " without one, and all other emotions, were left out, so that everything heard gets one of the four labels."
        " Training hears only the beginning of a long utterance. Scores differ from session to session."
        " Probabilities are as the model gives them, unless `calibrated=True` asks for its fitted temperature, if it"
        " has one. Differences between groups of speakers are not on this card."
    ),
)

_ATTRIBUTES = ("valence", "arousal", "dominance")
_NUMBER = r"(-?\d+(?:\.\d+)?)"
_LABEL_LINE = re.compile(
    rf"\[{_NUMBER}\s*-\s*{_NUMBER}\]\s+(Ses\d\d[FM]_\w+_[FM]\w+)\s+([a-z]{{3}})\s+\[{_NUMBER},\s*{_NUMBER},\s*{_NUMBER}\]"
)
# Raters are E1, E2, ...; F1 and M1 are the actors themselves. A comment may lack its closing bracket.
_VOTE_LINE = re.compile(r"C-([^:]*):\s*(.*?)\s*(?:\((.*?)\)?)?")
_ATTRIBUTE_LINE = re.compile(rf"A-([^:]*):\s*val\s*{_NUMBER}?;\s*act\s*{_NUMBER}?;\s*dom\s*{_NUMBER}?;.*")
_TRANSCRIPT_LINE = re.compile(r"(Ses\w+)\s+\[[^\]]*\]:\s*(.*)")
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
        raters: What each rater said, outside raters and the actors alike: `rater`, `emotions` (one or more), `comment`,
            and `valence`, `arousal`, `dominance`, `None` where the rater gave none.
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

    def rated_by(self, rater: str) -> dict[str, Any]:
        """The entry of a rater, a new one if there is none."""
        for entry in self.raters:
            if entry["rater"] == rater:
                return entry
        self.raters.append({"rater": rater, "emotions": [], "comment": "", **dict.fromkeys(_ATTRIBUTES)})
        return self.raters[-1]


def find_release(root: str | Path) -> Path:
    """Find the folder that holds the sessions: the one given, or `IEMOCAP_full_release` in it.

    Raises:
        FileNotFoundError: If neither is there; tells what was expected and what was found.
    """
    root = Path(root).expanduser().absolute()
    for folder in (root, *(root / name for name in RELEASE_FOLDERS)):
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
                _note_vote(utterances[-1], *vote.groups())
        elif scores := _ATTRIBUTE_LINE.fullmatch(line):
            if utterances:
                given = [None if value is None else float(value) for value in scores.groups()[1:]]
                utterances[-1].rated_by(scores[1].strip()).update(zip(_ATTRIBUTES, given, strict=True))
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


def _note_vote(utterance: Utterance, rater: str, emotions: str, comment: str | None) -> None:
    named = [emotion.strip() for emotion in emotions.split(";") if emotion.strip()]
    utterance.rated_by(rater.strip()).update(emotions=named, comment=comment or "")


def read_transcripts(root: Path, *, session: int, dialog: str) -> dict[str, str]:
    """What is said in a dialog, by utterance; empty if the copy has no transcription of it."""
    path = root / f"Session{session}" / "dialog" / "transcriptions" / f"{dialog}.txt"
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return {match[1]: match[2] for match in map(_TRANSCRIPT_LINE.fullmatch, map(str.strip, lines)) if match}


_RATER = {
    "rater": Value("string"), "emotions": List(Value("string")), "comment": Value("string"),
    **dict.fromkeys(_ATTRIBUTES, Value("float64")),
}  # fmt: skip

FEATURES = Features(
    {
        "audio": SpeechAudio(),
        "label": ClassLabel(names=list(LABELS)),
        "emotion": Value("string"),
        "session": Value("int64"),
        "speaker": Value("string"),
        "sex": Value("string"),
        "dialog": Value("string"),
        "style": Value("string"),
        "utterance": Value("string"),
        "start": Value("float64"),
        "end": Value("float64"),
        "duration": Value("float64"),
        "valence": Value("float64"),
        "arousal": Value("float64"),
        "dominance": Value("float64"),
        "transcript": Value("string"),
        "raters": List(_RATER),
        "self_evaluations": List(_RATER),
        "votes": VOTES_FEATURE,
    }
)
_SHOWN = 3  # names in a message


def load_iemocap(root: str | Path, *, subset: str = "four_classes", info: CorpusInfo = IEMOCAP) -> Dataset:
    """Read the four-class task of the literature, angry, happy (happy or excited), neutral, sad, or another subset.

    Rows are sorted by session, dialog, and order in the label file. Audio is kept as a path and read when a row is
    looked at; times are in seconds; `speaker` is who speaks, which is not the letter in the dialog's name. `raters` are
    those from outside, `self_evaluations` what the actors said of themselves, `votes` the share of the outside raters
    for each label (a rater who named several gives each a part); `transcript` is `None` where the copy has
    none. Sessions that are not there are logged and left out.

    Args:
        root: The release's folder with `Session1` ... `Session5` in it, or its parent with `IEMOCAP_full_release`.
        subset: A key of `SUBSETS`.
        info: What the corpus says of itself; another one for a corpus in the same layout.

    Returns:
        Dataset with the columns of `FEATURES`.

    Raises:
        FileNotFoundError: If the folder is another one, or the recording of an utterance is missing.
        ValueError: If a label line does not parse, or no utterance has one of the labels, or the folder holds the
            synthetic corpus and `info` says that it is IEMOCAP.
    """
    root = find_release(root)
    if is_synthetic(root) != info.synthetic:
        found = "synthetic corpus" if is_synthetic(root) else "release of recorded speech"
        raise ValueError(f"root must hold {info.title}, but {root} holds a {found}; load_corpus finds out which it is")
    if subset not in SUBSETS:
        raise ValueError(f"subset must be one of {list(SUBSETS)}, got {subset!r}")
    _, label_of, style = SUBSETS[subset]
    utterances: list[Utterance] = []
    errors: list[str] = []
    said: dict[str, str] = {}
    for session, path in label_files(root):
        said |= read_transcripts(root, session=session, dialog=path.stem)
        read, bad_lines = read_label_file(path, root=root, session=session)
        utterances += [one for one in read if one.emotion in label_of and one.dialog[7:].startswith(style)]
        errors += bad_lines
    if errors:
        more = f"\n... and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
        raise ValueError("\n".join(errors[:_SHOWN]) + more)
    if not utterances:
        raise ValueError(f"{root} must hold utterances labelled {', '.join(label_of)}, got none")
    _require_recordings(utterances)
    absent = sorted(set(SESSIONS) - {utterance.session for utterance in utterances})
    if absent:
        logger.warning("%s has no utterances of session %s", root, ", ".join(map(str, absent)))
    names = sorted(set(label_of.values()))
    rows = [
        {
            **_row(one),
            "label": names.index(label_of[one.emotion]),
            "transcript": said.get(one.name),
            "votes": votes_column(_votes(one, label_of)),
        }
        for one in utterances
    ]
    features = Features({**FEATURES, "label": ClassLabel(names=names)})
    told = info.dataset_info(features)
    if subset != "four_classes":
        told.description = f"{info.description.partition(':')[0].rstrip('.')}: {SUBSETS[subset][0]}."
    return Dataset.from_dict({name: [row[name] for row in rows] for name in features}, info=told)


def _require_recordings(utterances: list[Utterance]) -> None:
    missing = [str(utterance.wav) for utterance in utterances if not utterance.wav.is_file()]
    if missing:
        shown = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        raise FileNotFoundError(
            f"{len(missing)} of {len(utterances)} recordings are missing: {shown}; "
            "check_iemocap(root) lists what else is wrong"
        )


def _votes(utterance: Utterance, label_of: dict[str, str]) -> dict[str, float]:
    """Votes of the outside raters by label; an emotion that is no label of the subset has its name in `ALL`."""
    votes: dict[str, float] = {}
    for entry in utterance.raters:
        if entry["rater"].startswith("E"):
            for emotion in entry["emotions"]:
                code = emotion[:3].lower()
                label = label_of.get(code, ALL.get(code, emotion.lower()))
                votes[label] = votes.get(label, 0.0) + 1 / len(entry["emotions"])
    return votes


def _row(utterance: Utterance) -> dict[str, Any]:
    """The columns but for label, votes and transcript."""
    outside = [entry["rater"].startswith("E") for entry in utterance.raters]
    return {
        "audio": str(utterance.wav),
        "emotion": utterance.emotion,
        "session": utterance.session,
        "speaker": utterance.speaker,
        "sex": "female" if utterance.speaker.endswith("F") else "male",
        "dialog": utterance.dialog,
        "style": "improvised" if utterance.dialog[7:].startswith("impro") else "scripted",
        "utterance": utterance.name,
        "start": utterance.start,
        "end": utterance.end,
        "duration": round(utterance.end - utterance.start, 4),
        "valence": utterance.valence,
        "arousal": utterance.arousal,
        "dominance": utterance.dominance,
        "raters": [entry for entry, is_outside in zip(utterance.raters, outside, strict=True) if is_outside],
        "self_evaluations": [
            entry for entry, is_outside in zip(utterance.raters, outside, strict=True) if not is_outside
        ],
    }


def check_iemocap(root: str | Path) -> CorpusReport:
    """Look a copy of IEMOCAP over, every recording included; takes some seconds.

    A problem is what `load_iemocap` or `read_audio` refuses, a recording too short for one frame, or a missing session
    (the published protocol has five folds). What is treated on the way (another rate, more channels), and
    counts that differ from the published ones, are notes: a part of the corpus, or another one in its layout, is fine.

    Args:
        root: The release's folder, or its parent.

    Returns:
        The report; `print` it.

    Raises:
        FileNotFoundError: If the folder is another one. Nothing else in it raises.
    """
    root = find_release(root)
    report = CorpusReport(
        "Synthetic corpus (espeak-ng voices, not IEMOCAP)" if is_synthetic(root) else IEMOCAP.title,
        root,
        unit="session",
        published_units=PUBLISHED_SESSIONS,
        published_labels=PUBLISHED_EMOTIONS,
        counts={session: Counter() for session in SESSIONS},
    )
    used: list[Utterance] = []
    for session, path in label_files(root):
        utterances, errors = read_label_file(path, root=root, session=session)
        report.problems += errors
        used += [utterance for utterance in utterances if utterance.emotion in LABEL_OF]
        report.skipped.update(utterance.emotion for utterance in utterances if utterance.emotion not in LABEL_OF)
    for utterance in used:
        report.counts[utterance.session][utterance.emotion] += 1
    report.passed_over = _count_passed_over(root)
    report.audio = listen({utterance.name: utterance.wav for utterance in used})
    report.problems += _wrong_lengths(used, heard=report.audio)
    _judge(report)
    return report


def _wrong_lengths(utterances: list[Utterance], *, heard: dict[str, list[str]]) -> list[str]:
    """A problem for recordings that are not as long as their label says: cut, or another one."""
    spoiled = {name for finding in PROBLEMS for name in heard.get(finding, ())}
    wrong = []
    for one in utterances:
        if one.name not in spoiled and one.wav.is_file():
            length = sf.info(one.wav).duration
            if abs(length - (one.end - one.start)) > LENGTH_TOLERANCE:
                wrong.append(f"{one.name} ({length:.2f} s for {one.end - one.start:.2f} s)")
    shown = ", ".join(wrong[:_SHOWN]) + (", ..." if len(wrong) > _SHOWN else "")
    return [f"{len(wrong)} recording(s) not as long as their label says: {shown}"] if wrong else []


def _count_passed_over(root: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    for session in SESSIONS:
        counts["'._' files"] += sum(1 for _ in (root / f"Session{session}").rglob("._*"))
        for path in label_folder(root, session).glob("*/"):
            counts["rater folders"] += path.is_dir()
    return counts


def _judge(report: CorpusReport) -> None:
    """Turn what was counted into problems and notes."""
    absent = [session for session in SESSIONS if not report.counts[session]]
    if absent:
        report.problems.append(f"no utterances of session {', '.join(map(str, absent))}: five folds need all five")
    judge_recordings(report)
    sessions = {session: found.total() for session, found in report.counts.items()}
    if dict(report.labels) != PUBLISHED_EMOTIONS or sessions != PUBLISHED_SESSIONS:
        report.notes.append("the counts are not those of the published task (see the table)")


def is_release(root: Path, *, synthetic: bool) -> bool:
    """Whether a folder holds a corpus in this layout, spoken by people or by a synthesiser."""
    try:
        return is_synthetic(find_release(root)) == synthetic
    except FileNotFoundError:
        return False


ENTRY = Corpus(
    info=IEMOCAP,
    is_here=partial(is_release, synthetic=False),
    read=load_iemocap,
    check=check_iemocap,
    subsets={name: sentence for name, (sentence, *_) in SUBSETS.items()},
    protocol="leave one session out (five folds)",
    published=sum(PUBLISHED_SESSIONS.values()),
)
