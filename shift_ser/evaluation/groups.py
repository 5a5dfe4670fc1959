"""Who a model fails for: scores by speaker, or any other grouping of utterances, and the gap between groups."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from .predictions import Predictions
from .uncertainty import cluster_unit, families, jackknife

MIN_UTTERANCES = 5  # of a group, to be part of the gap


def group_scores(predictions: Predictions, groups: Mapping[str, Any], *, level: float = 0.95) -> dict[str, Any]:
    """Scores of each group of utterances, and the gap in the first of them between the best and the worst.

    The gap is of two groups that were chosen for being the best and the worst: it is positive also where all groups
    are alike. Its interval takes the two as given.

    Args:
        predictions: The table.
        groups: The group of each utterance (a speaker, a sex, a length); `None` where it is not known.
        level: Confidence level.

    Returns:
        `groups`: for each, sorted by name, `name`, `num_utterances` and its scores (`wa`, `ua`, `f1`; `ccc`,
        `ccc_valence`, ...); and `gap`: `best`, `worst`, the difference in `wa` (of dimensions alone: `ccc`) and its
        `interval` over folds or speakers (`None` where there can be none; see `uncertainty.cluster_unit`), or `None`
        with fewer than two groups of five utterances.

    Raises:
        ValueError: If no utterance of the table is in a group; what utterances there are is told.
    """
    told = predictions.table["utterance"].map(lambda name: groups.get(name))
    if not told.notna().any():
        some = predictions.table["utterance"].iloc[0]
        raise ValueError(f"groups must hold utterances of the predictions, such as {some!r}, got {list(groups)[:3]}")
    names = sorted({str(value) for value in told[told.notna()]})
    kept = told.notna().to_numpy()
    group = told[kept].astype(str).to_numpy()
    parts = [Predictions(predictions.table[kept][group == name]) for name in names]
    sizes = [part.table["utterance"].nunique() for part in parts]
    rows: list[dict[str, Any]] = [
        {"name": name, "num_utterances": size} for name, size in zip(names, sizes, strict=True)
    ]
    for family in families(predictions, labels=predictions.labels):
        for row, part in zip(rows, parts, strict=True):
            of_group = family.statistic(family.counts(part, "utterance").sum(axis=0)[None])[0]
            row |= dict(zip(family.names, of_group.tolist(), strict=True))
    score = families(predictions)[0].names[0]
    large = [index for index, size in enumerate(sizes) if size >= MIN_UTTERANCES]
    if len(large) < 2:
        return {"groups": rows, "gap": None}
    best = max(large, key=lambda index: rows[index][score])
    worst = min(large, key=lambda index: rows[index][score])
    gap = {"best": names[best], "worst": names[worst], score: rows[best][score] - rows[worst][score]}
    interval = _gap_interval(predictions, [parts[best], parts[worst]], level)
    return {"groups": rows, "gap": {**gap, "interval": interval}}


def _gap_interval(predictions: Predictions, pair: list[Predictions], level: float) -> list[float] | None:
    """Interval of the difference in the first score; `None` where leaving out a unit leaves a group empty."""
    unit, _ = cluster_unit(predictions)
    if unit is None or any(part.count(unit) == 1 for part in pair):
        return None
    family = families(predictions, labels=predictions.labels)[0]
    units = {name: place for place, name in enumerate(sorted(predictions.table[unit].unique()))}
    counts = []
    for part in pair:
        found = family.counts(part, unit)
        whole = np.zeros((len(units), *found.shape[1:]))
        whole[[units[name] for name in sorted(part.table[unit].unique())]] = found
        counts.append(whole)
    jackknifed = jackknife(
        np.stack(counts, axis=1), statistic=lambda sums: family.statistic(sums[:, 0]) - family.statistic(sums[:, 1])
    )
    return jackknifed.interval(level=level)[0].tolist()


def duration_groups(seconds: Mapping[str, float]) -> dict[str, str]:
    """Each utterance's third by length, named by its bounds in seconds.

    Example:
        >>> duration_groups({"a": 1.0, "b": 2.0, "c": 4.0})
        {'a': '1.0 to 1.7 s', 'b': '1.7 to 2.7 s', 'c': '2.7 to 4.0 s'}
    """
    edges = np.quantile(list(seconds.values()), [0, 1 / 3, 2 / 3, 1])
    thirds = [f"{low:.1f} to {high:.1f} s" for low, high in pairwise(edges)]
    return {name: thirds[int(np.searchsorted(edges[1:3], value, side="left"))] for name, value in seconds.items()}
