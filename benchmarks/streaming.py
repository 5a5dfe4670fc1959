"""What a stream costs: compute for each second of audio, and how far scores are behind.

python -m benchmarks.streaming runs/demo/fold1 runs/demo_causal/fold1
python -m benchmarks.streaming --base                    # shapes of HuBERT base, random weights
"""

import argparse
import time

import numpy as np
import torch
from transformers import HubertConfig, pipeline

from shift_ser import (
    ShiftAudioClassificationPipeline,
    ShiftConfig,
    ShiftFeatureExtractor,
    ShiftForSequenceClassification,
    load_classifier,
)
from shift_ser.cpu import keep_freed_memory

SETTINGS = [(2.0, 0.2, 0.5), (4.0, 0.4, 0.5), (4.0, 0.4, 1.0), (8.0, 0.4, 1.0)]  # context, look-ahead, step in seconds
PIECE = 1600  # samples that are pushed at a time


def base_classifier() -> ShiftAudioClassificationPipeline:
    """A causal ShiftCNN on an encoder of HuBERT base's shape, with random weights."""
    torch.manual_seed(0)
    model = ShiftForSequenceClassification(
        ShiftConfig.from_variant("shiftcnn", causal=True, encoder_config=HubertConfig())
    )
    return pipeline(
        "audio-classification", model=model.eval(), feature_extractor=ShiftFeatureExtractor(), device="cpu",
        pipeline_class=ShiftAudioClassificationPipeline, top_k=None,
    )  # fmt: skip


def measure(classifier: ShiftAudioClassificationPipeline, *, seconds: float, setting: tuple) -> dict[str, float]:
    """Wall and processor time for a stream of noise; how long the pushes took that gave an update."""
    context, look_ahead, step = setting
    stream = classifier.stream(context_s=context, look_ahead_s=look_ahead, step_s=step, voice_activity=False)
    speech = 0.1 * np.random.default_rng(0).standard_normal(round(16000 * seconds)).astype(np.float32)
    waits, start, used = [], time.perf_counter(), time.process_time()
    for piece in np.split(speech, range(PIECE, len(speech), PIECE)):
        before = time.perf_counter()
        if stream.push(piece):
            waits.append(time.perf_counter() - before)
    stream.flush()
    return {
        "wall": (time.perf_counter() - start) / seconds, "processor": (time.process_time() - used) / seconds,
        "median": float(np.median(waits)), "p99": float(np.quantile(waits, 0.99)), "updates": len(waits),
    }  # fmt: skip


def main() -> None:
    """Print a row for each model and setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="folders of saved models")
    parser.add_argument("--base", action="store_true", help="also a random model of HuBERT base's shape")
    parser.add_argument("--seconds", type=float, default=30.0, help="of audio in each stream")
    args = parser.parse_args()
    keep_freed_memory()
    classifiers = {name: load_classifier(name, dtype="float32") for name in args.models}
    classifiers |= {"HuBERT base, causal ShiftCNN": base_classifier()} if args.base else {}
    print(
        "| model | context, look-ahead, step (s) | s of wall time for 1 s of audio | s of processor time |"
        " a step takes: median, p99 (ms) | scores are behind by, at most (s) |\n|---|---|---:|---:|---:|---:|"
    )
    for name, classifier in classifiers.items():
        measure(classifier, seconds=2.0, setting=SETTINGS[0])  # the first steps are slower
        for setting in SETTINGS:
            found = measure(classifier, seconds=args.seconds, setting=setting)
            behind = setting[1] + setting[2] + found["p99"]
            step = f"{1000 * found['median']:.0f}, {1000 * found['p99']:.0f}"
            where = ", ".join(f"{value:g}" for value in setting)
            print(f"| {name} | {where} | {found['wall']:.3f} | {found['processor']:.3f} | {step} | {behind:.2f} |")


if __name__ == "__main__":
    main()
