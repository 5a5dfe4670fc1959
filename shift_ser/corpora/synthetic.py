"""A small spoken corpus in exactly IEMOCAP's layout, for everybody who does not hold IEMOCAP.

It is synthetic, and a number obtained on it says nothing about emotions: it tells whether the software works and
whether a model uses the order of the frames (see `synthetic_speech` for the recipe).
`python -m shift_ser.corpora.synthetic FOLDER` makes one.
"""

import argparse
import json
import logging
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import soundfile as sf
from tqdm.auto import tqdm

from .corpus import Corpus, CorpusInfo
from .iemocap import SUBSETS, SYNTHETIC_MARKER, check_iemocap, is_release, load_iemocap
from .synthetic_speech import OTHER_VOICES, SAMPLING_RATE, SENTENCES, VOICES, Espeak, Expression, draw_expression, say

logger = logging.getLogger(__name__)

SYNTHETIC = CorpusInfo(
    name="synthetic",
    title="Synthetic speech of espeak-ng voices",
    description="Synthetic corpus in IEMOCAP's layout, spoken by espeak-ng voices, not by people.",
    language="en",
    license="apache-2.0",
    synthetic=True,
    heading="trained on synthetic speech",
    labels_note=(
        "**A demonstration, trained on synthetic speech: espeak-ng voices, no people.** Its four labels are named"
        " angry, happy, neutral and sad after ways in which rate, pitch and sweep were set; they are not emotions."
    ),
    data=(
        "The corpus is made by `python -m shift_ser.corpora.synthetic` with espeak-ng; no recording of a person is in"
        " it, and no audio ships with the model. Code and weights are Apache-2.0."
    ),
    intended="Trying the software: training, saving, loading and evaluation without a download. Nothing else.",
    misuse="Do not use it on people at all: it has learned nothing about them.",
    limits=(
        "It tells apart ways in which a synthesiser was set, on sentences and voices of one program, with a tiny"
        " encoder that has heard only that program. Its labels on recordings of people mean nothing."
    ),
)
ENTRY = Corpus(
    info=SYNTHETIC,
    is_here=partial(is_release, synthetic=True),
    read=partial(load_iemocap, info=SYNTHETIC),
    check=check_iemocap,
    subsets={name: sentence.partition(":")[0] for name, (sentence, *_) in SUBSETS.items()},
    protocol="leave one session out (five folds)",
)

RECIPE = 2  # raise it when the same arguments would give another corpus
SAME_UTTERANCES = (1, 2)  # recipes with the same utterances; 1 has no self-evaluations and no dialog recordings
LEAST_UTTERANCES = 40  # each of the ten speakers says each of the four labels once
CATEGORIES = {
    "ang": "Anger",
    "hap": "Happiness",
    "exc": "Excited",
    "sad": "Sadness",
    "neu": "Neutral",
    "fru": "Frustration",
}
HEADER = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]"
APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        \xff\xfe\x00"  # what a Mac leaves beside each file


@dataclass(frozen=True)
class Turn:
    """One utterance still to be spoken: `Ses01F_impro01_M003` of dialog `Ses01F_impro01`, its label, what is heard."""

    dialog: str
    name: str
    emotion: str
    heard: str

    @property
    def speaker(self) -> str:
        """Who speaks: the session with the letter of the last part, such as `Ses01M`."""
        return self.dialog[:5] + self.name.rpartition("_")[2][0]


def make_synthetic_corpus(
    root: str | Path,
    *,
    num_utterances: int = 400,
    seed: int = 0,
    order_cue: bool = True,
    label_cue: bool = True,
    other_voices: bool = False,
) -> Path:
    """Speak a corpus: ten espeak-ng voices in five sessions, read by `load_iemocap` like the release itself.

    It is written aside and renamed, so a folder is either whole or absent. A folder that already holds the corpus of
    the same arguments is used as it is. The same arguments give the same samples.

    Args:
        root: Folder to make; it may exist if it is empty.
        num_utterances: Utterances of the four labels, spread evenly over speakers and labels. Some with labels to be
            skipped (fru, xxx) come on top.
        seed: Seed of everything that is drawn.
        order_cue: Whether the order of the frames tells the valence; without it, the control, it tells nothing.
        label_cue: Whether the voice tells the label at all; without it, what is heard is permuted over the utterances
            of each speaker, and no honest score is above chance.
        other_voices: Whether ten other voices with another accent speak it.

    Returns:
        The folder.

    Raises:
        ImportError: If espeak-ng is not installed (extra `demo`).
        FileExistsError: If the folder holds anything else.
        ValueError: If there are too few utterances for the ten speakers.
    """
    if num_utterances < LEAST_UTTERANCES:
        raise ValueError(
            f"num_utterances must be at least {LEAST_UTTERANCES} (ten speakers, four labels), got {num_utterances!r}"
        )
    root = Path(root).expanduser().absolute()
    voices = OTHER_VOICES if other_voices else VOICES
    marker = {
        "synthetic": True,
        "about": "Spoken by espeak-ng voices, not by people: a score on it is no result on emotion.",
        "recipe": RECIPE,
        "num_utterances": num_utterances,
        "seed": seed,
        "order_cue": order_cue,
        "label_cue": label_cue,
        "voices": voices,
    }
    if _holds(root, marker):
        logger.info("the synthetic corpus in %s is already there and is used as it is", root)
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=".synthetic-corpus-") as aside:
        whole = Path(aside) / "corpus"
        rng = np.random.default_rng(seed)
        dialogs = _plan(num_utterances, rng)
        _write_corpus(whole, dialogs if label_cue else _permuted(dialogs, rng), order_cue, rng, voices)
        (whole / SYNTHETIC_MARKER).write_text(json.dumps(marker, indent=2) + "\n")
        if root.exists():
            root.rmdir()
        os.rename(whole, root)
    logger.info("a synthetic corpus of %d utterances was spoken to %s", num_utterances, root)
    return root


def _holds(root: Path, marker: dict) -> bool:
    """Whether the corpus is there already; False if there is room for it."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    found = json.loads((root / SYNTHETIC_MARKER).read_text()) if (root / SYNTHETIC_MARKER).is_file() else {}
    known = {"recipe": SAME_UTTERANCES}
    different = {key: found.get(key) for key in marker if found.get(key) not in known.get(key, (marker[key],))}
    if not found:
        raise FileExistsError(f"root must be a new or an empty folder, but {root} holds something else")
    if different:
        wanted = {key: marker[key] for key in different}
        raise FileExistsError(f"{root} holds another synthetic corpus: it has {different}, asked for was {wanted}")
    return True


def _write_corpus(
    root: Path, dialogs: dict[str, list[Turn]], order_cue: bool, rng: np.random.Generator, voices: Mapping[str, str]
) -> None:
    espeak = Espeak()
    with tqdm(total=sum(map(len, dialogs.values())), desc="speaking", unit="utt", disable=None) as progress:
        for dialog, turns in dialogs.items():
            session = root / f"Session{int(dialog[3:5])}"
            _write_dialog(session, dialog, _spoken(session, turns, espeak, order_cue, rng, progress, voices), rng)
    _write(root / "._Session1", APPLE_DOUBLE)


def _plan(num_utterances: int, rng: np.random.Generator) -> dict[str, list[Turn]]:
    """Deal the utterances out to dialogs: labels in turn, speakers in turn, and one fru and one xxx a dialog."""
    entries_of: dict[str, list[tuple[str, str]]] = {}
    for session in range(1, 6):
        for marked in "FM":  # the letter in a dialog's name tells who wears the markers
            for scene in ("impro01", "script01_1"):
                skipped = [("FM"[rng.integers(2)], emotion) for emotion in ("fru", "xxx")]
                entries_of[f"Ses{session:02d}{marked}_{scene}"] = skipped
    names = list(entries_of)
    for index in range(num_utterances):
        turn, session = divmod(index, 5)
        letter = "FM"[turn // 4 % 2]
        emotion = ("ang", rng.choice(["hap", "exc", "exc"]), "neu", "sad")[turn % 4]
        dialog = names[4 * session + (turn + turn // 4 + turn // 16) % 4]
        entries_of[dialog].append((letter, str(emotion)))
    return {dialog: _in_turn(dialog, entries, rng) for dialog, entries in entries_of.items()}


def _in_turn(dialog: str, entries: list[tuple[str, str]], rng: np.random.Generator) -> list[Turn]:
    counts = {"F": 0, "M": 0}
    turns = []
    for index in rng.permutation(len(entries)):
        letter, emotion = entries[index]
        turns.append(Turn(dialog, f"{dialog}_{letter}{counts[letter]:03d}", emotion, heard=emotion))
        counts[letter] += 1
    return turns


def _permuted(dialogs: dict[str, list[Turn]], rng: np.random.Generator) -> dict[str, list[Turn]]:
    """The same dialogs; what is heard is dealt out anew among each speaker's utterances of the four labels."""
    turns = [turn for dialog in dialogs.values() for turn in dialog if turn.emotion not in ("fru", "xxx")]
    heard: dict[str, str] = {}
    for speaker in sorted({turn.speaker for turn in turns}):
        own = [turn for turn in turns if turn.speaker == speaker]
        heard |= {turn.name: own[index].emotion for turn, index in zip(own, rng.permutation(len(own)), strict=True)}
    return {
        dialog: [replace(turn, heard=heard.get(turn.name, turn.heard)) for turn in turns]
        for dialog, turns in dialogs.items()
    }


def _spoken(
    session: Path,
    turns: list[Turn],
    espeak: Espeak,
    order_cue: bool,
    rng: np.random.Generator,
    progress: tqdm,
    voices: Mapping[str, str],
) -> Iterator[tuple[Turn, Expression, str, np.ndarray]]:
    """Write the wav of each turn (16 kHz, mono, 16 bit) and yield it with its expression, text and samples."""
    for turn in turns:
        expression = draw_expression(turn.heard, order_cue=order_cue, rng=rng)
        text = str(rng.choice(SENTENCES))
        speech = say(espeak, text, voice=voices[turn.speaker], expression=expression, rng=rng)
        path = session / "sentences" / "wav" / turn.dialog / f"{turn.name}.wav"
        _write(path.with_name(f"._{path.name}"), APPLE_DOUBLE)
        samples = np.round(speech * 32767).astype(np.int16)
        sf.write(path, samples, SAMPLING_RATE, subtype="PCM_16")
        progress.update()
        yield turn, expression, text, samples


def _write_dialog(
    session: Path, dialog: str, spoken: Iterator[tuple[Turn, Expression, str, np.ndarray]], rng: np.random.Generator
) -> None:
    """Write a dialog's recording, labels, transcription, rater folders, and what a Mac leaves beside them."""
    blocks, said, categorical, attribute, own = [HEADER + "\n"], [], [], [], []
    clock, heard = 5.0, np.zeros(0, np.int16)
    for turn, expression, text, samples in spoken:
        start, end = clock, clock + len(samples) / SAMPLING_RATE
        clock = end + float(rng.uniform(0.2, 1.5))
        heard = np.concatenate([heard, np.zeros(round(start * SAMPLING_RATE) - len(heard), np.int16), samples])
        votes, scores = _votes(turn.emotion, rng), _scores(expression, rng)
        valence, arousal, dominance = scores.mean(axis=0)
        actor, felt, of_self = _self_evaluation(turn, expression)
        v, a, d = of_self
        blocks.append(
            f"[{start:.4f} - {end:.4f}]\t{turn.name}\t{turn.emotion}\t[{valence:.4f}, {arousal:.4f}, {dominance:.4f}]\n"
            + "".join(f"C-E{rater}:\t{vote};\t()\n" for rater, vote in enumerate(votes, 1))
            + f"C-{actor}:\t{felt};\t()\n"
            + "".join(f"A-E{rater}:\tval {v}; act {a}; dom  {d};\t()\n" for rater, (v, a, d) in enumerate(scores, 1))
            + f"A-{actor}:\tval {v}; act {a}; dom  {d};\t()\n"
        )
        said.append(f"{turn.name} [{start:08.4f}-{end:08.4f}]: {text}\n")
        categorical.append(f"{turn.name} :{votes[0]}; ()\n")
        own.append(f"{turn.name} :{felt}; ()\n")
        attribute.append(f"{turn.name} :act {scores[0][1]}; :val {scores[0][0]}; :dom {scores[0][2]}; ()\n")
    labels = session / "dialog" / "EmoEvaluation"
    for path, lines in {
        labels / f"{dialog}.txt": "\n".join(blocks),
        labels / "Categorical" / f"{dialog}_e1_cat.txt": "".join(categorical),
        labels / "Attribute" / f"{dialog}_e1_atr.txt": "".join(attribute),
        labels / "Self-evaluation" / f"{dialog}_{dialog[5].lower()}1_cat.txt": "".join(own),
        session / "dialog" / "transcriptions" / f"{dialog}.txt": "".join(said),
    }.items():
        _write(path, lines.encode())
        _write(path.with_name(f"._{path.name}"), APPLE_DOUBLE)
    recording = session / "dialog" / "wav" / f"{dialog}.wav"
    _write(recording.with_name(f"._{recording.name}"), APPLE_DOUBLE)
    silence = np.zeros(round(clock * SAMPLING_RATE) - len(heard), np.int16)
    sf.write(recording, np.concatenate([heard, silence]), SAMPLING_RATE, subtype="PCM_16")


def _self_evaluation(turn: Turn, expression: Expression) -> tuple[str, str, np.ndarray]:
    """What the actor says of the turn: name such as `F1`, an emotion, valence, arousal and dominance.

    Drawn from the turn's name alone, so that what is drawn elsewhere, and thus every sample, stays as it is without it.
    """
    rng = np.random.default_rng(zlib.crc32(turn.name.encode()))
    return f"{turn.speaker[-1]}1", str(_votes(turn.emotion, rng)[2]), _scores(expression, rng)[0]


def _votes(emotion: str, rng: np.random.Generator) -> list[str]:
    """Three raters: two or three of them for the label; for xxx, all different."""
    others = [name for name in CATEGORIES.values() if name != CATEGORIES.get(emotion)]
    drawn = [str(name) for name in rng.permutation(others)[:3]]
    return drawn if emotion == "xxx" else [CATEGORIES[emotion]] * 2 + [rng.choice([CATEGORIES[emotion], drawn[0]])]


def _scores(expression: Expression, rng: np.random.Generator) -> np.ndarray:
    """Valence, arousal and dominance of three raters, integers 1 to 5, shape `(3 raters, 3)`."""
    meant = np.array([expression.valence, expression.arousal, 0.5 * expression.arousal])
    return np.clip(np.round(3 + meant + 0.4 * rng.standard_normal((3, 3))), 1, 5).astype(int)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def main(argv: list[str] | None = None) -> None:
    """Speak a corpus from the command line."""
    parser = argparse.ArgumentParser(prog="python -m shift_ser.corpora.synthetic", description=__doc__.splitlines()[0])
    parser.add_argument("root", help="folder to make")
    parser.add_argument("--num_utterances", type=int, default=400, help="of the four labels together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no_order_cue", action="store_true", help="control: the sweep's direction tells nothing")
    parser.add_argument("--other_voices", action="store_true", help="ten other voices, with another accent")
    parser.add_argument("--no_label_cue", action="store_true", help="control: the voice tells nothing of the label")
    args = parser.parse_args(argv)
    root = make_synthetic_corpus(
        args.root,
        num_utterances=args.num_utterances,
        seed=args.seed,
        order_cue=not args.no_order_cue,
        label_cue=not args.no_label_cue,
        other_voices=args.other_voices,
    )
    print(f"synthetic corpus (espeak-ng voices, not people): {root}")


if __name__ == "__main__":
    main()
