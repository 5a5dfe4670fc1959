"""A timeline against the truth: a dialog of two espeak-ng voices with known labels, at two lengths.

python -m benchmarks.timeline runs/demo/fold1
python -m benchmarks.timeline runs/demo/fold1 --minutes 10 60

Prints agreement over time where somebody speaks, the share of speech and of pauses that was found as such, time as a
fraction of real time, and the peak memory of a process that makes the timeline and nothing else.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile as sf

from shift_ser.corpora.synthetic_speech import SAMPLING_RATE, SENTENCES, VOICES, Espeak, draw_expression, say

EMOTIONS = {"ang": "angry", "hap": "happy", "neu": "neutral", "sad": "sad"}
FRAME = 0.1  # seconds of the grid on which timeline and truth are compared


def speak_dialog(path: Path, *, minutes: float, seed: int) -> list[tuple[float, float, str]]:
    """Write a dialog of at least so many minutes; start, end and label of each turn."""
    espeak, rng = Espeak(), np.random.default_rng(seed)
    turns: list[tuple[float, float, str]] = []
    clock = 0.0
    with sf.SoundFile(path, "w", SAMPLING_RATE, 1, subtype="PCM_16") as file:
        while clock < 60 * minutes:
            pause = np.zeros(int(rng.uniform(0.5, 1.5) * SAMPLING_RATE), np.float32)
            emotion = str(rng.choice(list(EMOTIONS)))
            speech = say(
                espeak, str(rng.choice(SENTENCES)), voice=list(VOICES.values())[len(turns) % 2],
                expression=draw_expression(emotion, rng=rng), rng=rng,
            )  # fmt: skip
            file.write(np.concatenate([pause, speech]))
            start = clock + len(pause) / SAMPLING_RATE
            clock = start + len(speech) / SAMPLING_RATE
            turns.append((start, clock, EMOTIONS[emotion]))
    return turns


def on_grid(spans: list[tuple[float, float, str]], count: int) -> np.ndarray:
    """The label at the middle of each of so many frames; empty where there is none."""
    labels = np.full(count, "", dtype=object)
    middles = (np.arange(count) + 0.5) * FRAME
    for start, end, label in spans:
        labels[(middles >= start) & (middles < end)] = label
    return labels


def listen(model: str, path: str, *, dtype: str) -> dict:
    """Make the timeline; segments, seconds it took, and the peak memory of this process in MB."""
    from shift_ser import load_classifier

    classifier = load_classifier(model, dtype=dtype)
    start = time.perf_counter()
    segments = classifier.timeline(path)
    seconds = time.perf_counter() - start
    spans = [(segment["start"], segment["end"], segment["label"]) for segment in segments]
    return {"spans": spans, "seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main() -> None:
    """Speak, listen in a process of its own, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of a saved model with the labels angry, happy, neutral, sad")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 4.0], help="lengths of the dialogs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="auto", help="of the model, as for load_classifier")
    parser.add_argument("--listen", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.listen:
        print(json.dumps(listen(args.model, args.listen, dtype=args.dtype)))
        return
    print(
        "| minutes | agreement | speech found | pauses kept | of real time | peak MB |\n|---:|---:|---:|---:|---:|---:|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for minutes in args.minutes:
            path = Path(folder) / "dialog.wav"
            turns = speak_dialog(path, minutes=minutes, seed=args.seed)
            words = [sys.executable, "-m", "benchmarks.timeline", args.model, "--listen", str(path)]
            words += ["--dtype", args.dtype]
            found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
            count = int(turns[-1][1] / FRAME)
            truth, heard = on_grid(turns, count), on_grid(found["spans"], count)
            both = (truth != "") & (heard != "")
            agreement, speech, pauses = (
                (truth == heard)[both].mean(), (heard != "")[truth != ""].mean(), (heard == "")[truth == ""].mean(),
            )  # fmt: skip
            real = found["seconds"] / turns[-1][1]
            shares = f"{agreement:.1%} | {speech:.1%} | {pauses:.1%} | {real:.3f}"
            print(f"| {turns[-1][1] / 60:.1f} | {shares} | {found['peak']:.0f} |")


if __name__ == "__main__":
    main()
