"""Two runs over the same folds and seeds: is one better, by how much, and can the data tell?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .metrics import score_of
from .predictions import TARGET, Predictions
from .run_folder import PREDICTIONS, RESULTS, fold_folder, read_json
from .uncertainty import Family, cluster_unit, families, holm, jackknife


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
) -> dict[str, Any]:
    """Differences between two runs that tested the same utterances, paired by fold.

    The unit is the fold, since its speakers share a model, else the speaker (`uncertainty.cluster_unit`). Seeds of an
    utterance are averaged. Standard errors leave out one unit at a time; interval and p are Student's.
    `docs/statistics.md` has the size and coverage in simulations, and what is left out.

    Args:
        run: The one whose name the sentence begins with: a run, its folder, or predictions or a file of them.
        other: The one it is compared with.
        level: Confidence level of the intervals.

    Returns:
        `runs` (names), `settings` (those that differ: name to `[of run, of other]`), `level`, `num_folds`,
        `num_seeds`, `num_utterances`, `num_speakers`, `unit`, `num_units`, and for each score that both have (`wa`,
        `ua`, `f1`; `ccc`, `ccc_valence`, ...) a dict of the
        `difference` of pooled scores (run minus other), its `interval`, `p` (two-sided), `effect_size` (mean over
        units of the difference by its standard deviation; `None` if that is 0) and `detectable` (what difference so
        many speakers and seeds would have told from 0 in 8 of 10 such comparisons).

    Raises:
        ValueError: If folds, seeds, plans, utterances, or their labels or speakers differ: the first difference is
            named; or if there are too few speakers or folds for an interval.
    """
    run, other = _as_run(run, "the first"), _as_run(other, "the second")
    check_pair(run, other)
    ours_in, theirs_in = run.predictions, other.predictions
    unit, reason = cluster_unit(ours_in)
    if unit is None:
        raise ValueError(f"runs must have enough speakers to be compared, got {reason}")
    labels = sorted({*ours_in.labels, *theirs_in.labels})
    shared = [family.names for family in families(theirs_in)]
    ours_families = [family for family in families(ours_in, labels=labels) if family.names in shared]
    if not ours_families:
        told = [[name for family in families(each) for name in family.names] for each in (ours_in, theirs_in)]
        raise ValueError(f"runs must have the same scores, got {told[0]} of {run.name} and {told[1]} of {other.name}")
    comparison: dict[str, Any] = {
        "runs": [run.name, other.name],
        "settings": _different(run.settings, other.settings),
        "level": level,
        "num_folds": ours_in.count("fold") or 1,
        "num_seeds": ours_in.count("seed") or 1,
        "num_utterances": ours_in.count("utterance"),
        "num_speakers": ours_in.count("speaker"),
        "unit": unit,
        "num_units": ours_in.count(unit),
    }
    for family in ours_families:
        comparison |= _compared(family, ours_in, theirs_in, unit=unit, level=level)
    return comparison


def _compared(
    family: Family, ours: Predictions, theirs: Predictions, *, unit: str, level: float
) -> dict[str, dict[str, Any]]:
    """What `compare` tells of each score of a family."""
    pairs = np.stack([family.counts(each, unit) for each in (ours, theirs)], axis=1)

    def difference(sums: np.ndarray) -> np.ndarray:
        """Scores of the first minus those of the second, of sums `(..., 2, ...)` with the two at axis 1."""
        return family.statistic(sums[:, 0]) - family.statistic(sums[:, 1])

    found = jackknife(pairs, statistic=difference)
    intervals, p, detectable = found.interval(level=level), found.p(), found.detectable(level=level)
    effects = _effect_sizes(difference(pairs))
    return {
        name: {
            "difference": float(found.estimate[index]),
            "interval": intervals[index].tolist(),
            "p": float(p[index]),
            "effect_size": effects[index],
            "detectable": float(detectable[index]),
        }
        for index, name in enumerate(family.names)
    }


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
    for column in ("label", "speaker", *(TARGET + name for name in run.predictions.dimensions)):
        if column in tables[0] and column in matched:
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

    The data tell the runs apart if p, adjusted where `adjust` has done so, is at most 1 - level and there are several
    seeds: of one seed nobody knows whether it was the method or the seed.

    Args:
        comparison: What `compare` returned.
        score: One that `compare` told of: `wa`, `ua`, `f1`, `ccc_valence`, ...
    """
    found, shown = comparison[score], score_of(score)
    rounded = round(found["difference"], 3)
    name, other = comparison["runs"]
    unit, least = (" points", "0.1") if shown.percent else ("", "0.001")
    title = "macro F1" if score == "f1" else shown.title

    def told(value: float, *, sign: bool = False) -> str:
        return shown.shown(value, digits=1 if shown.percent else 2, sign=sign)

    relation = f"{told(abs(rounded))}{unit} {title} {'above' if rounded > 0 else 'below'}"
    if rounded == 0:
        relation = f"within {least}{unit} {title} of"
    low, high = (told(end, sign=True) for end in found["interval"])
    p = _told_p(found["p"])
    if "p_adjusted" in found:
        p += f", {_told_p(found['p_adjusted'])} by Holm over {comparison['num_tests']} sentences"
    units = f"{comparison['num_units']} {comparison['unit']}s"
    over = units if comparison["unit"] == "speaker" else f"{units} with {comparison['num_speakers']} speakers"
    seeds = f"{comparison['num_seeds']} seed{'s' if comparison['num_seeds'] > 1 else ''}"
    interval = f"{comparison['level']:.0%} interval {low} to {high}{unit} over {over}, {seeds}"
    seen = f"{told(found['detectable'])}{unit}"
    return f"{name} is {relation} {other} ({interval}; {p}): {_verdict(comparison, found, seen)}."


def _verdict(comparison: Mapping[str, Any], found: Mapping[str, Any], seen: str) -> str:
    if found["difference"] == 0 and found["interval"] == [0, 0]:
        return "both scores are equal"
    if found.get("p_adjusted", found["p"]) > 1 - comparison["level"]:
        return f"the data do not tell them apart (a difference of {seen} would have been seen in 8 of 10 cases)"
    if comparison["num_seeds"] < 2:
        return "these two trainings differ, but one seed does not tell the methods apart"
    return "the data tell them apart"


def _told_p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def adjust(comparisons: Sequence[Mapping[str, Any]], *, score: str) -> list[dict[str, Any]]:
    """The comparisons with `p_adjusted` for one score, by Holm over all of them, and `num_tests`.

    A family is what one reads together: without this, 12 sentences at .05 have a chance of 46 % of a false one.
    """
    adjusted = holm([comparison[score]["p"] for comparison in comparisons])
    return [
        {**comparison, "num_tests": len(comparisons), score: {**comparison[score], "p_adjusted": p}}
        for comparison, p in zip(comparisons, adjusted, strict=True)
    ]


def _effect_sizes(differences: np.ndarray) -> list[float | None]:
    spread = differences.std(axis=0, ddof=1)
    means = differences.mean(axis=0)
    return [float(mean / std) if std > 1e-12 else None for mean, std in zip(means, spread, strict=True)]
