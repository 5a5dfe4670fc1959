"""Two runs over the same folds and seeds: is one better, by how much, and can the data tell?"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from .metrics import SCORES
from .run_folder import fold_folder, read_json, read_predictions
from .uncertainty import bootstrap_interval, confusion_by, label_names, scores

_EXACT = 2**14  # up to 14 speakers, all ways to flip signs are tried
_NAMES = {"wa": "WA", "ua": "UA", "f1": "macro F1"}


@dataclass(frozen=True)
class FinishedRun:
    """What a comparison needs of a run.

    Attributes:
        name: How the run is called in sentences.
        plans: Hash of the plan of each fold and seed.
        rows: Predictions (see `report.read_predictions`) of each fold and seed.
    """

    name: str
    plans: dict[tuple[int, int], str]
    rows: dict[tuple[int, int], list[dict[str, Any]]]

    @classmethod
    def from_folder(cls, folder: str | Path, *, name: str | None = None) -> "FinishedRun":
        """Read `results.json` and the predictions of its folds.

        Args:
            folder: The run's `output_dir`.
            name: How to call it; default: the folder's name.

        Raises:
            FileNotFoundError: If there are no results, or predictions of a fold are missing.
        """
        folder = Path(folder)
        path = folder / "results.json"
        if not path.is_file():
            raise FileNotFoundError(f"a run must be the folder of a finished run, there is no {str(path)!r}")
        report = read_json(path)
        plans, rows = {}, {}
        for result in report["folds"]:
            place = folder / fold_folder(result, seeds=report["settings"].get("seeds"))
            plans[result["fold"], result["seed"]] = result["plan"]
            rows[result["fold"], result["seed"]] = read_predictions(place / "predictions.csv")
        return cls(name or folder.resolve().name, plans, rows)


def compare(
    run: FinishedRun, other: FinishedRun, *, level: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Differences between two runs that tested the same utterances, paired by speaker.

    The speaker is the unit: seeds of an utterance are averaged, and a speaker's utterances are drawn and swapped
    together. What is left out: all folds' models share training data, so that speakers are not quite independent.

    Args:
        run: The one whose name the sentence begins with.
        other: The one it is compared with.
        level: Confidence level of the intervals.
        num_resamples: Number of resamples of an interval.
        seed: Seed of what is random.

    Returns:
        `runs` (names), `level`, `num_folds`, `num_seeds`, `num_utterances`, `num_speakers`, `smallest_p` (the least
        that so many speakers can give), and for `wa`, `ua` and `f1` a dict of the `difference` of pooled scores (run
        minus other), its `interval` (bootstrap over speakers, see `uncertainty.bootstrap_interval`), `p` (two-sided
        permutation test that swaps the runs' predictions for whole speakers; exact for up to 14 speakers) and
        `effect_size` (Cohen's d_z: mean over speakers of the difference, by its standard deviation; `None` if that is
        0).

    Raises:
        ValueError: If folds, seeds, plans, utterances, or their labels or speakers differ: the first difference is
            named; or if there are fewer than two speakers.
    """
    check_pair(run, other)
    pooled = [[row for rows in each.rows.values() for row in rows] for each in (run, other)]
    labels = label_names(pooled[0] + pooled[1])
    speakers, ours = confusion_by(pooled[0], unit="speaker", labels=labels)
    theirs = confusion_by(pooled[1], unit="speaker", labels=labels)[1]
    if len(speakers) < 2:
        raise ValueError(f"runs must have tested at least two speakers to be compared, got {speakers}")
    pairs = np.stack([ours, theirs], axis=1)
    intervals = bootstrap_interval(
        pairs, statistic=_difference, level=level, num_resamples=num_resamples, seed=seed
    )  # fmt: skip
    assert intervals is not None  # there are two speakers
    effects = _effect_sizes(_difference(pairs))
    comparison: dict[str, Any] = {
        "runs": [run.name, other.name],
        "level": level,
        "num_folds": len({fold for fold, _ in run.plans}),
        "num_seeds": len({seed for _, seed in run.plans}),
        "num_utterances": len({row["utterance"] for row in pooled[0]}),
        "num_speakers": len(speakers),
        "smallest_p": min(1.0, 2.0 ** (1 - len(speakers))),
    }
    differences = _difference(pairs.sum(axis=0))
    for index, name in enumerate(SCORES):
        comparison[name] = {
            "difference": float(differences[index]),
            "interval": intervals[index].tolist(),
            "p": _permutation_p(ours, theirs, index=index, seed=seed),
            "effect_size": effects[index],
        }
    return comparison


def check_pair(run: FinishedRun, other: FinishedRun) -> None:
    """Refuse runs that did not test the same utterances in the same folds with the same seeds.

    Raises:
        ValueError: If they did not; the first difference is named.
    """
    if not run.plans:
        raise ValueError(f"runs must have finished folds to be compared, {run.name} has none")
    for fold, seed in sorted(run.plans.keys() ^ other.plans.keys()):
        who = run.name if (fold, seed) in run.plans else other.name
        raise ValueError(f"runs must have the same folds and seeds, only {who} has fold {fold} with seed {seed}")
    for (fold, seed), plan in run.plans.items():
        where = f"in fold {fold} with seed {seed}"
        if plan != other.plans[fold, seed]:
            raise ValueError(f"runs must have the same plans, got {plan} and {other.plans[fold, seed]} {where}")
        ours, theirs = ({row["utterance"]: row for row in each.rows[fold, seed]} for each in (run, other))
        for name in sorted(ours.keys() ^ theirs.keys()):
            who = run.name if name in ours else other.name
            raise ValueError(f"runs must have tested the same utterances, only {who} has {name!r} {where}")
        for name in ours:
            for column in ("label", "speaker"):
                values = ours[name][column], theirs[name][column]
                if values[0] != values[1]:
                    raise ValueError(f"runs must agree on the {column} of {name!r}, got {values} {where}")


def sentence(comparison: Mapping[str, Any], *, score: str = "wa") -> str:
    """What `compare` found for one score, in plain words.

    The data tell the runs apart if the interval leaves out 0 and p is at most 1 - level.

    Args:
        comparison: What `compare` returned.
        score: `wa`, `ua` or `f1`.
    """
    found, alpha = comparison[score], 1 - comparison["level"]
    points = round(100 * found["difference"], 1)
    name, other = comparison["runs"]
    relation = f"{abs(points):.1f} points {_NAMES[score]} {'above' if points > 0 else 'below'}"
    if points == 0:
        relation = f"within 0.1 points {_NAMES[score]} of"
    low, high = (100 * end for end in found["interval"])
    p = "p < 0.001" if found["p"] < 0.001 else f"p = {found['p']:.3f}"
    effect = "" if found["effect_size"] is None else f", d_z = {found['effect_size']:.2f}"
    apart = found["p"] <= alpha, not low <= 0 <= high
    verdict = {
        (True, True): "the data tell them apart",
        (False, False): "the data do not tell them apart",
    }.get(apart, "test and interval disagree, so the data do not safely tell them apart")
    speakers = f"{comparison['num_speakers']} speakers"
    if comparison["smallest_p"] > alpha:
        verdict += f" (with {speakers} p cannot be below {comparison['smallest_p']:.3f})"
    interval = f"{comparison['level']:.0%} interval {low:+.1f} to {high:+.1f} points over {speakers}"
    return f"{name} is {relation} {other} ({interval}; {p}{effect}): {verdict}."


def _difference(pairs: np.ndarray) -> np.ndarray:
    """Scores of the first minus those of the second of counts `(..., 2, labels, labels)`."""
    return scores(pairs[..., 0, :, :]) - scores(pairs[..., 1, :, :])


def _effect_sizes(differences: np.ndarray) -> list[float | None]:
    spread = differences.std(axis=0, ddof=1)
    means = differences.mean(axis=0)
    return [float(mean / std) if std > 1e-12 else None for mean, std in zip(means, spread, strict=True)]


def _permutation_p(ours: np.ndarray, theirs: np.ndarray, *, index: int, seed: int) -> float:
    """Two-sided p of one score, swapping the runs speaker by speaker; counts `(speakers, labels, labels)`."""
    both, speakers = np.concatenate([ours, theirs]), len(ours)

    def difference(first: np.ndarray, second: np.ndarray, axis: int = -1) -> np.ndarray:
        sums = np.stack([both[drawn].sum(axis=drawn.ndim - 1) for drawn in (first, second)], axis=-3)
        return _difference(sums)[..., index]

    result = stats.permutation_test(
        (np.arange(speakers), speakers + np.arange(speakers)),
        difference,
        permutation_type="samples",
        vectorized=True,
        axis=-1,
        n_resamples=_EXACT,
        batch=1024,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)
