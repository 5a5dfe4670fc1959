"""The speed table: authors' way against ours, stock against ours, the shift against a copy, measured in turn.

    python -m benchmarks.speed [--only NAME ...] [--repeats N] [--output FOLDER] [--smoke]

Prints `speed.md` and writes it, and all that was measured as `speed.json`, into the output folder.
"""

import argparse
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from .counts import counts
from .encoder import convolutions, growth, kept_memory, matrix_rate, threads
from .feature_extraction import batching, feature_extraction
from .fine_tuning import fine_tuning
from .inference import inference
from .measure import Experiment, measure
from .shift import shift
from .workload import SMOKE, Sizes

logger = logging.getLogger("benchmarks.speed")

EXPERIMENTS: dict[str, Callable[[Sizes], Experiment]] = {
    "feature_extraction": feature_extraction,
    "fine_tuning": fine_tuning,
    "inference": inference,
    "shift": shift,
    "kept_memory": kept_memory,
    "convolutions": convolutions,
    "matrix_rate": matrix_rate,
    "threads": threads,
    "batching": batching,
    "growth": growth,
}
COUNTS = "counts"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, measure, save after every part, print."""
    parser = argparse.ArgumentParser(description="Measure the speed table.")
    parser.add_argument("--only", nargs="+", choices=[*EXPERIMENTS, COUNTS], default=[*EXPERIMENTS, COUNTS])
    parser.add_argument("--repeats", type=int, help="rounds that count; default: each part's own")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does everything run?")
    parser.add_argument("--output", type=Path, default=Path("runs/speed"), help="folder for speed.md and speed.json")
    args = parser.parse_args(arguments)
    if args.repeats is not None and args.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {args.repeats}")
    logging.basicConfig(level=logging.WARNING)
    logger.setLevel(logging.INFO)
    args.output.mkdir(parents=True, exist_ok=True)
    sizes = SMOKE if args.smoke else Sizes()
    results: dict[str, Any] = {"machine": machine(), "smoke": args.smoke, "parts": {}}
    for name in args.only:
        with tempfile.TemporaryDirectory() as folder:
            results["parts"][name] = run(name, sizes, folder=folder, repeats=args.repeats)
        text = markdown(results)
        (args.output / "speed.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (args.output / "speed.md").write_text(text, encoding="utf-8")
    print(text)


def run(name: str, sizes: Sizes, *, folder: str, repeats: int | None) -> dict[str, Any]:
    """One part: its words, its lines, and what they were computed from."""
    start = time.perf_counter()
    if name == COUNTS:
        return {"words": "Counted, not timed. FLOPs: of one utterance of the longest length.", "counts": counts(sizes)}
    experiment = EXPERIMENTS[name](sizes)
    measured = measure(
        experiment, folder=folder, repeats=repeats, told=lambda words: logger.info("%s: %s", name, words)
    )
    return {
        "words": experiment.words,
        "repeats": repeats or experiment.repeats,
        "rows": [measured.row(line) for line in experiment.lines],
        "seconds": measured.seconds,
        "peak_megabytes": measured.peaks,
        "took": time.perf_counter() - start,
    }


def machine() -> dict[str, Any]:
    """What kind of machine this is, in general words."""
    supported = {"AVX-512": "avx512", "bf16": "avx512_bf16", "AMX": "amx_tile"}
    has = {name: getattr(torch.cpu, f"_is_{test}_supported", lambda: False)() for name, test in supported.items()}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"cores": os.cpu_count(), "threads": torch.get_num_threads(), **has, **versions}


def markdown(results: dict[str, Any]) -> str:
    """The tables of all parts so far."""
    words = [f"{name} {value}" if not isinstance(value, bool) else f"{'with' if value else 'without'} {name}"
             for name, value in results["machine"].items()]  # fmt: skip
    text = [
        f"Machine: {', '.join(words)}. Random weights, noise in place of speech. All ways of a part take turns, round"
        " after round; times are medians over rounds. Ratios are taken within each round: median, and in brackets"
        " least to most, or the quartiles of 8 rounds and more. Peak memory is of a whole process.",
        *(["**Tiny sizes: these numbers say that everything runs, and nothing else.**"] if results["smoke"] else []),
    ]
    for name, part in results["parts"].items():
        text += [f"### {name.replace('_', ' ').capitalize()}", part["words"]]
        if "counts" in part:
            text.append("\n".join(["| | |", "|---|---|", *(f"| {what} | {value} |" for what, value in part["counts"])]))
            continue
        rounds = part["repeats"]
        rows = [f"| {rounds} rounds | A | B | A / B |", "|---|---|---|---|"]
        for row in part["rows"]:
            a, b = (f"{row[f'{side}_words']}: {quantity(row[side], row['unit'])}" for side in "ab")
            spread = f" ({row['low']:.3g} to {row['high']:.3g})" if len(row["ratios"]) > 1 else ""
            rows.append(f"| {row['title']} | {a} | {b} | **{row['ratio']:.3g}**{spread} |")
        text.append("\n".join(rows))
    return "\n\n".join(text) + "\n"


def quantity(value: float, unit: str) -> str:
    """A number with a unit that suits it.

    Example:
        >>> quantity(7200.0, "s"), quantity(0.5, "s"), quantity(1234.5, "MB")
        ('2.0 h', '500 ms', '1.23 GB')
    """
    if unit == "MB":
        return f"{value / 1000:.3g} GB" if value >= 1000 else f"{value:.3g} MB"
    if value >= 3600:
        return f"{value / 3600:,.1f} h"
    if value >= 120:
        return f"{value / 60:.1f} min"
    return f"{value:.3g} s" if value >= 1 else f"{value * 1000:.3g} ms"


if __name__ == "__main__":
    main()
