"""Who a model fails for: scores by speaker, or any other grouping of utterances, and the gap between groups."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from .predictions import Predictions
from .uncertainty import cluster_unit, jackknife, scores

MIN_UTTERANCES = 5  # of a group, to be part of the gap


def group_scores(predictions: Predictions, groups: Mapping[str, Any], *, level: float = 0.95) -> dict[str, Any]:
    """WA and UA of each group of utterances, and the gap in WA between the best and the worst.

    The gap is of two groups that were chosen for being the best and the worst: it is positive also where all groups
    are alike. Its interval takes the two as given.

    Args:
        predictions: The table.
        groups: The group of each utterance (a speaker, a sex, a length); `None` where it is not known.
        level: Confidence level.

    Returns:
        `groups`: for each, sorted by name, `name`, `num_utterances`, `wa` and `ua`; and `gap`: `best`, `worst`, `wa`
        and its `interval` over folds or speakers (`None` where there can be none; see `uncertainty.cluster_unit`), or
        `None` with fewer than two groups of five utterances.

    Raises:
        ValueError: If no utterance of the table is in a group; what utterances there are is told.
    """
    told = predictions.table["utterance"].map(lambda name: groups.get(name))
    if not told.notna().any():
        some = predictions.table["utterance"].iloc[0]
        raise ValueError(f"groups must hold utterances of the predictions, such as {some!r}, got {list(groups)[:3]}")
    names = sorted({str(value) for value in told[told.notna()]})
    unit, _ = cluster_unit(predictions)
    by_unit = _counts(predictions, told, names, unit)  # (units, groups, labels, labels)
    total = by_unit.sum(axis=0)
    sizes, values = total.sum(axis=(1, 2)), scores(total)
    rows = [
        {"name": name, "num_utterances": round(float(size)), "wa": float(value[0]), "ua": float(value[1])}
        for name, size, value in zip(names, sizes, values, strict=True)
    ]
    large = [index for index, size in enumerate(sizes) if size >= MIN_UTTERANCES]
    if len(large) < 2:
        return {"groups": rows, "gap": None}
    best = max(large, key=lambda index: values[index, 0])
    worst = min(large, key=lambda index: values[index, 0])
    gap = {"best": names[best], "worst": names[worst], "wa": float(values[best, 0] - values[worst, 0])}
    return {"groups": rows, "gap": {**gap, "interval": _gap_interval(by_unit[:, [best, worst]], unit, level)}}


def _counts(predictions: Predictions, told: Any, names: list[str], unit: str | None) -> np.ndarray:
    number = {name: index for index, name in enumerate(names)}
    kept = told.notna().to_numpy()
    group = np.array([number[str(value)] for value in told[told.notna()]])
    _, repeats = np.unique(predictions.table["utterance"], return_inverse=True)
    weights = (1.0 / np.bincount(repeats))[repeats][kept]
    units = np.zeros(len(kept), dtype=int)
    if unit is not None:
        units = np.unique(predictions.table[unit], return_inverse=True)[1]
    num = len(predictions.labels)
    counts = np.zeros((units.max() + 1, len(names), num, num))
    np.add.at(counts, (units[kept], group, predictions.references[kept], predictions.predicted[kept]), weights)
    return counts


def _gap_interval(pair: np.ndarray, unit: str | None, level: float) -> list[float] | None:
    """Interval of the difference in WA; `None` where leaving out a unit leaves a group empty."""
    sizes = pair.sum(axis=(2, 3))
    if unit is None or (sizes.sum(axis=0) - sizes <= 0).any():
        return None
    found = jackknife(pair, statistic=lambda sums: scores(sums[..., 0, :, :]) - scores(sums[..., 1, :, :]))
    return found.interval(level=level)[0].tolist()


def duration_groups(seconds: Mapping[str, float]) -> dict[str, str]:
    """Each utterance's third by length, named by its bounds in seconds.

    Example:
        >>> duration_groups({"a": 1.0, "b": 2.0, "c": 4.0})
        {'a': '1.0 to 1.7 s', 'b': '1.7 to 2.7 s', 'c': '2.7 to 4.0 s'}
    """
    edges = np.quantile(list(seconds.values()), [0, 1 / 3, 2 / 3, 1])
    thirds = [f"{low:.1f} to {high:.1f} s" for low, high in pairwise(edges)]
    return {name: thirds[int(np.searchsorted(edges[1:3], value, side="left"))] for name, value in seconds.items()}
