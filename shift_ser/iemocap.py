"""IEMOCAP as a `datasets.Dataset`, read from the folder of the release.

`python -m shift_ser.iemocap FOLDER` asks the doctor whether a copy is whole.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetInfo, Features, List, Value

from .audio import SpeechAudio
from .iemocap_doctor import CorpusReport, check_iemocap
from .iemocap_release import (
    LABEL_OF,
    LABELS,
    SESSIONS,
    Utterance,
    find_release,
    is_synthetic,
    label_files,
    read_label_file,
)

__all__ = ["FEATURES", "CorpusReport", "check_iemocap", "load_iemocap"]

logger = logging.getLogger(__name__)

FEATURES = Features(
    {
        "audio": SpeechAudio(),
        "label": ClassLabel(names=list(LABELS)),
        "emotion": Value("string"),
        "session": Value("int64"),
        "speaker": Value("string"),
        "dialog": Value("string"),
        "utterance": Value("string"),
        "start": Value("float64"),
        "end": Value("float64"),
        "duration": Value("float64"),
        "valence": Value("float64"),
        "arousal": Value("float64"),
        "dominance": Value("float64"),
        "raters": List({"rater": Value("string"), "emotions": List(Value("string")), "comment": Value("string")}),
    }
)
_SHOWN = 3  # names in a message


def load_iemocap(root: str | Path) -> Dataset:
    """Read the four-class task of the literature: angry, happy (happy or excited), neutral, sad.

    Rows are sorted by session, dialog, and order in the label file. Audio is kept as a path and read when a row is
    looked at; times are in seconds; `speaker` is who speaks, which is not the letter in the dialog's name. Sessions
    that are not there are logged and left out.

    Args:
        root: The release's folder with `Session1` ... `Session5` in it, or its parent with `IEMOCAP_full_release`.

    Returns:
        Dataset with the columns of `FEATURES`; its `info.description` tells IEMOCAP from the synthetic corpus.

    Raises:
        FileNotFoundError: If the folder is another one, or the recording of an utterance is missing.
        ValueError: If a label line does not parse, or no utterance has one of the labels.
    """
    root = find_release(root)
    utterances: list[Utterance] = []
    errors: list[str] = []
    for session, path in label_files(root):
        found, bad_lines = read_label_file(path, root=root, session=session)
        utterances += [utterance for utterance in found if utterance.emotion in LABEL_OF]
        errors += bad_lines
    if errors:
        more = f"\n... and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
        raise ValueError("\n".join(errors[:_SHOWN]) + more)
    if not utterances:
        raise ValueError(f"{root} must hold utterances labelled {', '.join(LABEL_OF)}, got none")
    _require_recordings(utterances)
    absent = sorted(set(SESSIONS) - {utterance.session for utterance in utterances})
    if absent:
        logger.warning("%s has no utterances of session %s", root, ", ".join(map(str, absent)))
    rows = [_row(utterance) for utterance in utterances]
    columns = {name: [row[name] for row in rows] for name in FEATURES}
    return Dataset.from_dict(columns, info=DatasetInfo(description=_describe(root), features=FEATURES))


def _require_recordings(utterances: list[Utterance]) -> None:
    missing = [str(utterance.wav) for utterance in utterances if not utterance.wav.is_file()]
    if missing:
        shown = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        raise FileNotFoundError(
            f"{len(missing)} of {len(utterances)} recordings are missing: {shown}; "
            "check_iemocap(root) lists what else is wrong"
        )


def _row(utterance: Utterance) -> dict[str, Any]:
    return {
        "audio": str(utterance.wav),
        "label": LABELS.index(LABEL_OF[utterance.emotion]),
        "emotion": utterance.emotion,
        "session": utterance.session,
        "speaker": utterance.speaker,
        "dialog": utterance.dialog,
        "utterance": utterance.name,
        "start": utterance.start,
        "end": utterance.end,
        "duration": round(utterance.end - utterance.start, 4),
        "valence": utterance.valence,
        "arousal": utterance.arousal,
        "dominance": utterance.dominance,
        "raters": utterance.raters,
    }


def _describe(root: Path) -> str:
    if is_synthetic(root):
        logger.warning("%s is the synthetic corpus, spoken by espeak-ng, not IEMOCAP", root)
        return "Synthetic corpus in IEMOCAP's layout, spoken by espeak-ng voices, not by people."
    return "IEMOCAP: angry, happy (happy or excited), neutral, sad."


def main(argv: list[str] | None = None) -> int:
    """Print the doctor's report; the exit code is 1 if something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m shift_ser.iemocap", description="Check a copy of IEMOCAP.")
    parser.add_argument("root", help="the release's folder")
    args = parser.parse_args(argv)
    try:
        report = check_iemocap(args.root)
    except FileNotFoundError as error:
        parser.error(str(error))
    print(report)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
