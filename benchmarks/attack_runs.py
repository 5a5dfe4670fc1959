"""Damage every file that a run leaves, start runs at the same time, ask one model from many threads: nothing is silent.

    python -m benchmarks.attack_runs                       # all parts, a quarter of an hour on one core
    python -m benchmarks.attack_runs --only damages --count 200 --seed 1

Every answer must be that of the undisturbed run, byte for byte, or one clear error (that names the damaged file).
Prints for each part how many were tried, right, refused with a clear error, and answered wrong (0 is the aim; each is
shown). Exit status 1 if one is wrong.
"""

import argparse
import logging
import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from .attack_calls import attack_calls
from .attack_damages import attack_damages
from .attack_pairs import attack_pairs

PARTS: dict[str, Callable[[Path, int, int | None], Iterator[tuple[str, str, str]]]] = {
    "damages": attack_damages,
    "pairs": attack_pairs,
    "calls": attack_calls,
}
ANSWERS = ("right", "clear error", "wrong")


def main(words: list[str] | None = None) -> int:
    """Attack and count; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[*PARTS], help="parts to run")
    parser.add_argument("--count", type=int, help="cases of a part, drawn from all of them; default: all")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other bits and other times")
    args = parser.parse_args(words)
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for part in args.only:
            counts: Counter[str] = Counter()
            (place := Path(folder) / part).mkdir()
            for name, answer, message in PARTS[part](place, args.seed, args.count):
                counts[answer] += 1
                if answer == "wrong":
                    print(f"WRONG {part}, {name}: {message}", flush=True)
            told = ", ".join(f"{answer} {counts[answer]}" for answer in ANSWERS)
            print(f"{part}: tried {counts.total()}, {told}", flush=True)
            wrong += counts["wrong"]
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
