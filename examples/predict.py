"""Classify audio files, and all those in folders, of any rate and channel count.

    python examples/predict.py --model runs/demo/fold1 one.wav two.flac
    python examples/predict.py --model runs/demo/fold1 recordings/ --output scores.csv

With `--output`, the same command goes on where it was stopped.
"""

import argparse
import logging
import sys
from collections.abc import Iterator

from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from shift_ser import ShiftAudioClassificationPipeline
from shift_ser.cpu import keep_freed_memory
from shift_ser.inference.predict import (
    DTYPES,
    Classified,
    ScoreFile,
    classify_recordings,
    find_recordings,
    load_classifier,
)


def show(classifier: ShiftAudioClassificationPipeline, paths: list[str]) -> Iterator[Classified]:
    """Print a line per file; yield what could not be classified."""
    for result in classify_recordings(classifier, paths):
        if result.scores is None:
            yield result
            continue
        scores = ", ".join(f"{label} {score:.3f}" for label, score in result.scores.items())
        print(f"{result.name}: {result.label}  ({scores})", flush=True)


def write(
    classifier: ShiftAudioClassificationPipeline, paths: list[str], args: argparse.Namespace
) -> Iterator[Classified]:
    """Write a line per file that is not there yet, with a progress bar; yield what could not be classified."""
    model = f"{args.model} {str(classifier.dtype).removeprefix('torch.')}{' calibrated' if args.calibrated else ''}"
    with ScoreFile(args.output, labels=[*classifier.model.config.id2label.values()], model=model) as file:
        todo = [path for path in paths if path not in file.done]
        bar = tqdm(classify_recordings(classifier, todo), total=len(paths), initial=len(paths) - len(todo), unit="file")
        for result in bar:
            if result.scores is None:
                yield result
            else:
                file.write(result)


def main() -> None:
    """Print or write a line per file: its label and the scores of all labels; files that cannot be read come last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", help="audio files, and folders of them")
    parser.add_argument("--model", default="runs/demo/fold1", help="Hub name or folder of a saved model")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="auto: bfloat16 where the machine has it")
    parser.add_argument("--calibrated", action="store_true", help="divide logits by the model's temperature")
    parser.add_argument("--output", help="CSV file to write, or to go on with, instead of printing")
    args = parser.parse_args()
    keep_freed_memory()
    logging.basicConfig(format="%(message)s")
    transformers_logging.disable_progress_bar()
    try:
        classifier = load_classifier(args.model, dtype=args.dtype, calibrated=args.calibrated)
        paths = list(find_recordings(args.files))
        failed = list(show(classifier, paths) if args.output is None else write(classifier, paths, args))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    if not paths:
        sys.exit(f"error: no audio files in {', '.join(args.files)}")
    if failed:
        sys.exit("\n".join(["could not be classified:", *(f"{result.name}: {result.error}" for result in failed)]))


if __name__ == "__main__":
    main()
