"""Classify audio files of any rate and channel count.

python examples/predict.py --model runs/demo/fold1 one.wav two.flac
"""

import argparse
import sys

from transformers import pipeline
from transformers.utils import logging as transformers_logging

from shift_ser import ShiftAudioClassificationPipeline


def main() -> None:
    """Print a line per file: its label and the scores of all labels; files that cannot be read come last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", help="audio files")
    parser.add_argument("--model", default="runs/demo/fold1", help="Hub name or folder of a saved model")
    args = parser.parse_args()
    transformers_logging.disable_progress_bar()
    classify = pipeline(
        "audio-classification", model=args.model, pipeline_class=ShiftAudioClassificationPipeline, top_k=None
    )
    failed = []
    for path in args.files:
        try:
            scores = classify(path)
        except (OSError, ValueError) as error:
            failed.append(f"{path}: {error}")
            continue
        print(f"{path}: {scores[0]['label']}  (" + ", ".join(f"{s['label']} {s['score']:.3f}" for s in scores) + ")")
    if failed:
        sys.exit("\n".join(["could not be classified:", *failed]))


if __name__ == "__main__":
    main()
