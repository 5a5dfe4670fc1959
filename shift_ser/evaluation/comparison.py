"""Two runs over the same folds and seeds: is one better, by how much, and can the data tell?"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from .metrics import SCORES
from .predictions import Predictions
from .run_folder import PREDICTIONS, RESULTS, fold_folder, read_json
from .uncertainty import bootstrap_interval, confusion_by, scores

_EXACT = 2**14  # up to 14 speakers, all ways to flip signs are tried
_NAMES = {"wa": "WA", "ua": "UA", "f1": "macro F1"}


@dataclass(frozen=True)
class FinishedRun:
    """What a comparison needs of a run, or of predictions that another program made.

    Attributes:
        name: How the run is called in sentences.
        predictions: Of all its folds and seeds.
        plans: Hash of the plan of each fold and seed; empty where none is known.
        settings: What the run depends on; empty where it is not known.
    """

    name: str
    predictions: Predictions
    plans: Mapping[tuple[int, int], str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_path(cls, path: str | Path, *, name: str | None = None) -> "FinishedRun":
        """Read the folder of a finished run, or a file of predictions.

        Args:
            path: The run's `output_dir`, or a CSV file (see `Predictions.read`).
            name: How to call it; default: the folder's or file's name.

        Raises:
            FileNotFoundError: If there is nothing, or the folder has no results.
            ValueError: If a file does not hold predictions.
        """
        path = Path(path)
        if path.is_file():
            return cls(name or path.stem, Predictions.read(path))
        if not (path / RESULTS).is_file():
            missing = f"there is no {str(path / RESULTS)!r}"
            raise FileNotFoundError(f"a run must be the folder of a finished run or a file of predictions, {missing}")
        report = read_json(path / RESULTS)
        plans = {(result["fold"], result["seed"]): result["plan"] for result in report["folds"]}
        return cls(name or path.resolve().name, _predictions(path, report), plans, report["settings"])


def _predictions(folder: Path, report: Mapping[str, Any]) -> Predictions:
    """Those of a run; a run of an older version has them only in its folds."""
    if (folder / PREDICTIONS).is_file():
        return Predictions.read(folder / PREDICTIONS)
    parts = []
    for result in report["folds"]:
        place = folder / fold_folder(result, seeds=report["settings"].get("seeds"))
        parts.append(Predictions.read(place / PREDICTIONS).with_columns(fold=result["fold"], seed=result["seed"]))
    return Predictions.pooled(parts)


def compare(
    run: FinishedRun | Predictions | str | Path,
    other: FinishedRun | Predictions | str | Path,
    *,
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Differences between two runs that tested the same utterances, paired by speaker.

    The speaker is the unit: seeds of an utterance are averaged, and a speaker's utterances are drawn and swapped
    together. What is left out: all folds' models share training data, so that speakers are not quite independent.

    Args:
        run: The one whose name the sentence begins with: a run, its folder, or predictions or a file of them.
        other: The one it is compared with.
        level: Confidence level of the intervals.
        num_resamples: Number of resamples of an interval.
        seed: Seed of what is random.

    Returns:
        `runs` (names), `settings` (those that differ: name to `[of run, of other]`), `level`, `num_folds`,
        `num_seeds`, `num_utterances`, `num_speakers`, `smallest_p` (the least that so many speakers can give), and for
        `wa`, `ua` and `f1` a dict of the `difference` of pooled scores (run minus other), its `interval` (bootstrap
        over speakers, see `uncertainty.bootstrap_interval`), `p` (two-sided permutation test that swaps the runs'
        predictions for whole speakers; exact for up to 14 speakers) and `effect_size` (Cohen's d_z: mean over speakers
        of the difference, by its standard deviation; `None` if that is 0).

    Raises:
        ValueError: If folds, seeds, plans, utterances, or their labels or speakers differ: the first difference is
            named; or if there are fewer than two speakers.
    """
    run, other = _as_run(run, "the first"), _as_run(other, "the second")
    check_pair(run, other)
    ours_in, theirs_in = run.predictions, other.predictions
    labels = sorted({*ours_in.labels, *theirs_in.labels})
    speakers, ours = confusion_by(ours_in, unit="speaker", labels=labels)
    theirs = confusion_by(theirs_in, unit="speaker", labels=labels)[1]
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
        "settings": _different(run.settings, other.settings),
        "level": level,
        "num_folds": _count(ours_in, "fold"),
        "num_seeds": _count(ours_in, "seed"),
        "num_utterances": _count(ours_in, "utterance"),
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
    for each in (run, other):
        if "speaker" not in each.predictions.table:
            raise ValueError(f"predictions must have a column speaker to be compared, {each.name} has none")
    for (fold, seed), plan in run.plans.items():
        theirs = other.plans.get((fold, seed), plan)
        if plan != theirs:
            raise ValueError(f"runs must have the same plans, got {plan} and {theirs} in fold {fold} with seed {seed}")
    tables = [each.predictions.table for each in (run, other)]
    for column in ("fold", "seed", "speaker"):
        with_it = [each.name for each, table in zip((run, other), tables, strict=True) if column in table]
        if len(with_it) == 1:
            raise ValueError(f"predictions must have the same columns, only {with_it[0]} has {column}")
    key = [name for name in ("fold", "seed", "utterance") if name in tables[0]]
    _check_keys(run, other, key=[name for name in key if name != "utterance"] or key)
    _check_keys(run, other, key=key)
    matched = tables[1].set_index(key).loc[tables[0].set_index(key).index]
    for column in ("label", "speaker"):
        if column in tables[0]:
            ours, theirs_ = tables[0][column].to_numpy(), matched[column].to_numpy()
            if (ours != theirs_).any():
                at = int((ours != theirs_).argmax())
                where = _where(tables[0].iloc[at])
                said = (ours[at], theirs_[at])
                raise ValueError(
                    f"runs must agree on the {column} of {tables[0]['utterance'][at]!r}, got {said}{where}"
                )


def _check_keys(run: FinishedRun, other: FinishedRun, *, key: list[str]) -> None:
    """The same folds and seeds, or the same utterances in them."""
    sets = [set(each.predictions.table[key].itertuples(index=False, name=None)) for each in (run, other)]
    for only in sorted(sets[0] ^ sets[1]):
        who, found = run.name if only in sets[0] else other.name, dict(zip(key, only, strict=True))
        if "utterance" in found:
            raise ValueError(
                f"runs must have tested the same utterances, only {who} has {found['utterance']!r}{_where(found)}"
            )
        what = " with ".join(f"{name} {value}" for name, value in found.items())
        raise ValueError(f"runs must have the same folds and seeds, only {who} has {what}")


def _where(row: Mapping[str, Any]) -> str:
    """In which fold with which seed, as far as it is known."""
    told = [f"{word} {name} {row[name]}" for word, name in (("in", "fold"), ("with", "seed")) if name in row]
    return "".join(f" {part}" for part in told)


def _as_run(run: FinishedRun | Predictions | str | Path, name: str) -> FinishedRun:
    if isinstance(run, Predictions):
        return FinishedRun(name, run)
    return run if isinstance(run, FinishedRun) else FinishedRun.from_path(run)


def _count(predictions: Predictions, column: str) -> int:
    """How many different values a column has; 1 where it is not there."""
    return predictions.table[column].nunique() if column in predictions.table else 1


def _different(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Settings that differ, in the order in which they come; plans are compared on their own."""
    names = [name for name in {**ours, **theirs} if name != "plans"] if ours and theirs else []
    return {name: [ours.get(name), theirs.get(name)] for name in names if ours.get(name) != theirs.get(name)}


def settings_line(comparison: Mapping[str, Any]) -> str:
    """Which settings of two runs differ, as a sentence; empty where none does, or they are not known.

    Example:
        >>> settings_line({"runs": ["A", "B"], "settings": {"head_type": ["cnn", "lstm"], "seed": [0, 1]}})
        'Settings that differ (A, B): head_type (cnn, lstm); seed (0, 1).'
    """
    told = [f"{name} ({ours}, {theirs})" for name, (ours, theirs) in comparison["settings"].items()]
    return f"Settings that differ ({', '.join(comparison['runs'])}): {'; '.join(told)}." if told else ""


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
