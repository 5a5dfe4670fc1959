"""Two runs in one folder, the second one some time after the first."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .kill_and_resume import FINE_TUNING, RUN, Rounds, make_corpus, make_encoder

OFFSETS = 12


def attack_pairs(folder: Path, seed: int, count: int | None) -> Iterator[tuple[str, str, str]]:
    """At most one is at work, the other one is refused and told by whom; what is left is what one run leaves.

    Args:
        folder: For the runs.
        seed: Moves the offsets.
        count: Offsets; default: `OFFSETS`, in turn with feature extraction and with fine-tuning.
    """
    corpus, encoder = make_corpus(folder / "corpus"), make_encoder(folder / "encoder")
    rng = np.random.default_rng(seed)
    kinds = []
    for name, flags in (("feature extraction", RUN), ("fine-tuning", FINE_TUNING)):
        (place := folder / name).mkdir()
        rounds = Rounds(place, ["--encoder", str(encoder), "--corpus", str(corpus), *flags.split()])
        rounds.attempt("warm up", seconds=0)
        kinds.append((name, rounds, rounds.timed("undisturbed"), rounds.files("undisturbed")))
    for number in range(count or OFFSETS):
        name, rounds, seconds, expected = kinds[number % 2]
        offset = seconds * (number + rng.random()) / (count or OFFSETS)
        codes, said = rounds.pair(f"pair {number}", offset)
        title = f"{name}, the second {offset:.2f} s after the first"
        if rounds.files(f"pair {number}") != expected:
            yield title, "wrong", f"other files, exit codes {codes}"
        elif codes == [0, 0]:  # the first was done before the second looked
            yield title, "right", ""
        elif sorted(codes) == [0, 1] and "is in use by another run: " in said:
            yield title, "clear error", said
        else:
            yield title, "wrong", f"exit codes {codes}: {said}"
