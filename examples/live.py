"""Emotion as it is heard, on the terminal: from a microphone, or from a file that is played at the speed of time.

python examples/live.py runs/demo/fold1                  # the microphone; pip install sounddevice "shift-ser[timeline]"
python examples/live.py runs/demo/fold1 speech.wav
python examples/live.py runs/demo/fold1 speech.wav --speed inf
"""

import argparse
import queue
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from shift_ser import load_classifier
from shift_ser.inference.blocks import open_speech
from shift_ser.inference.streaming import StreamUpdate

PIECE = 0.1  # seconds of speech that come at a time
BAR = 24  # characters of a full bar


def from_file(path: str, *, rate: int, speed: float) -> Iterator[np.ndarray]:
    """Pieces of a recording `(samples,)`, each when it would have been heard."""
    start, given, size = time.monotonic(), 0, round(PIECE * rate)
    with open_speech(path, sampling_rate=rate) as speech:
        for block in speech.blocks:
            for piece in np.split(block, range(size, len(block), size)):
                given += len(piece)
                time.sleep(max(0.0, start + given / rate / speed - time.monotonic()))
                yield piece


def from_microphone(*, rate: int, device: str | None) -> Iterator[np.ndarray]:
    """Pieces of what the microphone hears, `(samples, 1)`, until Ctrl-C."""
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: there is no PortAudio
        sys.exit(f"error: a microphone needs sounddevice: pip install sounddevice ({error})")
    heard: queue.Queue[np.ndarray] = queue.Queue()

    def listen(samples: np.ndarray, *_: Any) -> None:
        heard.put(samples.copy())

    with sounddevice.InputStream(rate, round(PIECE * rate), device, 1, "float32", callback=listen):
        while True:
            yield heard.get()


def show(update: StreamUpdate, *, labels: list[str], behind: float) -> str:
    """The lines of one update: time, and a bar for each label."""
    lines = [f"{update.heard:8.1f} s   {'speaking' if update.voice else '        '}   {behind:5.2f} s behind"]
    for label in labels:
        score = (update.scores or {}).get(label, 0.0)
        mark = "<" if label == update.label else " "
        lines.append(f"{label:>12} {'█' * round(score * BAR):{BAR}} {score:5.2f} {mark}")
    return "\n".join(lines)


def main() -> None:
    """Listen and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a saved model, or its name on the Hub")
    parser.add_argument("file", nargs="?", help="recording to play; default: the microphone")
    parser.add_argument("--speed", type=float, default=1.0, help="of the file's time; inf: as fast as it goes")
    parser.add_argument("--device", help="microphone, by name or number")
    parser.add_argument(
        "--half_life_s", type=float, default=2.0, help="seconds of speech after which a frame counts half"
    )
    parser.add_argument("--look_ahead_s", type=float, default=0.4)
    args = parser.parse_args()
    classifier = load_classifier(args.model)
    labels, rate = [*classifier.model.config.id2label.values()], classifier.feature_extractor.sampling_rate
    stream = classifier.stream(half_life_s=args.half_life_s, look_ahead_s=args.look_ahead_s)
    drawn = False

    def draw(updates: list[StreamUpdate]) -> None:
        nonlocal drawn
        for update in updates:
            if drawn and sys.stdout.isatty():
                sys.stdout.write(f"\x1b[{len(labels) + 1}A")
            print(show(update, labels=labels, behind=update.heard - update.time), flush=True)
            drawn = True

    try:
        if args.file is None:
            pieces = from_microphone(rate=rate, device=args.device)
        else:
            pieces = from_file(args.file, rate=rate, speed=args.speed)
        for piece in pieces:
            draw(stream.push(piece))
    except KeyboardInterrupt:
        pass
    draw(stream.flush())


if __name__ == "__main__":
    main()
