"""How often intervals and tests are right: simulated coverage and size, for the method of the package and plainer ones.

python -m benchmarks.statistics
python -m benchmarks.statistics --trials 200
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shift_ser.evaluation.uncertainty import bootstrap_interval, jackknife, scores

CLASSES, PER_CLASS = 4, 25  # utterances of a speaker: 100
RIGHT, SPEAKERS_DIFFER, METHODS_DIFFER = 0.65, 0.06, 0.02  # mean accuracy; SD over speakers; of speaker and method
LEVEL = 0.95


@dataclass(frozen=True)
class World:
    """What is simulated.

    Attributes:
        folds: Number of folds.
        speakers: Speakers a fold.
        seeds: Trainings of each fold.
        model: SD of a model's accuracy, one draw for each method, fold and seed.
        seed: SD of a seed's accuracy, one draw for each method and seed, the same in all folds.
    """

    folds: int
    speakers: int
    seeds: int
    model: float
    seed: float = 0.0

    def draw(self, rng: np.random.Generator, *, difference: float = 0.0) -> np.ndarray:
        """Counts of two methods, mean over seeds, `(methods, folds, speakers, labels, labels)`."""
        folds, speakers, seeds = self.folds, self.speakers, self.seeds
        people = rng.normal(0, SPEAKERS_DIFFER, (1, folds, speakers, 1))
        method = rng.normal(0, METHODS_DIFFER, (2, folds, speakers, 1))
        models = rng.normal(0, self.model, (2, folds, 1, seeds)) + rng.normal(0, self.seed, (2, 1, 1, seeds))
        better = np.array([difference / 2, -difference / 2]).reshape(2, 1, 1, 1)
        right = np.clip(RIGHT + people + method + models + better, 0, 1)[..., None]
        hits = rng.binomial(PER_CLASS, np.broadcast_to(right, (*right.shape[:-1], CLASSES))).mean(axis=3)
        counts = np.einsum("...c,cd->...cd", (PER_CLASS - hits) / (CLASSES - 1), np.ones((CLASSES, CLASSES)))
        index = np.arange(CLASSES)
        counts[..., index, index] = hits
        return counts


def _difference(pairs: np.ndarray) -> np.ndarray:
    return scores(pairs[..., 0, :, :]) - scores(pairs[..., 1, :, :])


def sign_flip_p(pairs: np.ndarray, *, rng: np.random.Generator, flips: int = 2000) -> float:
    """Two-sided p of the UA when the methods are swapped speaker by speaker, `(speakers, 2, labels, labels)`."""
    signs = np.vstack([np.ones(len(pairs)), rng.choice([-1.0, 1.0], (flips, len(pairs)))])
    ours, theirs = pairs[:, 0], pairs[:, 1]
    middle, half = (ours + theirs) / 2, (ours - theirs) / 2
    swapped = [middle.sum(axis=0) + way * np.einsum("rs,sij->rij", signs, half) for way in (1, -1)]
    values = abs(scores(swapped[0])[:, 1] - scores(swapped[1])[:, 1])
    return float((values >= values[0] - 1e-12).mean())


def simulate(world: World, *, trials: int, seed: int) -> dict[str, float]:
    """Coverage of intervals of UA, and size of tests of no difference, for speakers and for folds as the unit."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[bool]] = {name: [] for name in ("covers, speakers", "covers, folds", "size, speakers",
                                                          "size, folds")}  # fmt: skip
    for trial in range(trials):
        counts = world.draw(rng)
        by_fold = counts.sum(axis=2)
        by_speaker = counts.reshape(2, -1, CLASSES, CLASSES)
        drawn = bootstrap_interval(by_speaker[0], level=LEVEL, num_resamples=500, seed=trial)
        assert drawn is not None  # there are several speakers
        low, high = drawn[1]
        found["covers, speakers"].append(bool(low <= RIGHT <= high))
        low, high = jackknife(by_fold[0]).interval(level=LEVEL)[1]
        found["covers, folds"].append(bool(low <= RIGHT <= high))
        found["size, speakers"].append(sign_flip_p(by_speaker.swapaxes(0, 1), rng=rng) <= 1 - LEVEL)
        p = jackknife(by_fold.swapaxes(0, 1), statistic=_difference).p()[1]
        found["size, folds"].append(bool(p <= 1 - LEVEL))
    return {name: float(np.mean(values)) for name, values in found.items()}


def power(world: World, *, difference: float, trials: int, seed: int) -> float:
    """How often the test over folds tells a true difference apart."""
    rng = np.random.default_rng(seed)
    pairs = [world.draw(rng, difference=difference).sum(axis=2).swapaxes(0, 1) for _ in range(trials)]
    return float(np.mean([jackknife(pair, statistic=_difference).p()[1] <= 1 - LEVEL for pair in pairs]))


WORLDS = (
    *(World(5, 2, seeds, model) for model in (0.0, 0.01, 0.02, 0.03) for seeds in (1, 3)),
    World(10, 1, 1, 0.02),
    World(10, 1, 3, 0.02),
    World(5, 2, 1, 0.02, seed=0.01),
    World(5, 2, 3, 0.02, seed=0.01),
)


def table(worlds: Sequence[World], *, trials: int, seed: int = 0) -> str:
    """The simulations as a Markdown table, shares in percent."""
    header = ["folds x speakers", "seeds", "SD of models", "SD of seeds", "covers, speakers", "covers, folds",
              "size, speakers", "size, folds", "power for 5 points, folds"]  # fmt: skip
    lines = [header, ["---:"] * len(header)]
    for number, world in enumerate(worlds):
        found = simulate(world, trials=trials, seed=seed + number)
        seen = power(world, difference=0.05, trials=trials, seed=seed + number)
        told = [
            f"{world.folds} x {world.speakers}",
            str(world.seeds),
            f"{100 * world.model:g}",
            f"{100 * world.seed:g}",
        ]
        lines.append([*told, *(f"{100 * share:.1f}" for share in (*found.values(), seen))])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=2000, help="simulated studies for each line (default: 2000)")
    args = parser.parse_args()
    print(table(WORLDS, trials=args.trials))


if __name__ == "__main__":
    main()
