"""The tables of a study: rows of folds, groups of seeds, and what they say in sentences."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from ..evaluation.comparison import FinishedRun, adjust, compare, sentence
from ..evaluation.metrics import SCORES
from ..evaluation.predictions import Predictions
from ..evaluation.report import summarise
from ..evaluation.run_folder import CELL, RESULTS, read_json
from ..evaluation.uncertainty import describe
from .grid import Place, fraction

SCORED = ("last", "selected", "oracle", "refit")
MEASURED = ("mingling", "misalignment", "head_parameters")
COSTS = ("trainable_parameters", "seconds", "cpu_seconds", "peak_memory_mb")
_ADAPTATION = {"scenario", "unfreeze_layers", "adapter", "adapter_rank", "adapter_targets"}
# Varied, but no question of their own: told by the line, tuned, or with folds that cannot be paired.
_UNSET = "-"  # how a table shows that an option has no value
_NO_AXIS = {"head_type", "shift_placement", "shift_proportion", "seed", "corpus", "protocol", "learning_rate"}
_COUNTED = ("fold", "test_group", "num_train", "num_test", "selected_epoch", "last_epoch")


def study_rows(output_dir: Path, places: Iterable[Place]) -> list[dict[str, Any]]:
    """One flat row for each place, seed and fold, of the cells that are whole.

    Args:
        output_dir: Folder of the study.
        places: Its grid.

    Returns:
        `cell`, the options, what is known of the fold, `test_wa`, `test_ua` and `test_f1` (the headline), the same for
        `last`, `selected`, `oracle` and `refit` (empty where a protocol has none), and what `MEASURED` names.
    """
    rows = []
    for place in places:
        folder = output_dir / place.cell
        if not (folder / CELL).exists():
            continue
        measures = read_json(folder / CELL)["folds"]
        for result in read_json(folder / RESULTS)["folds"]:
            scored = {f"test_{name}": result["test"][name] for name in SCORES}
            for column in SCORED:
                values = result["columns"].get(column) or {}
                scored |= {f"{column}_{name}": values.get(name) for name in SCORES}
            measured = {name: measures[str(result["fold"])].get(name) for name in MEASURED}
            known = {name: result.get(name) for name in _COUNTED}
            rows.append({"cell": place.cell, **place.options, **known, **scored, **measured})
    return rows


def study_groups(output_dir: Path, places: Iterable[Place]) -> list[dict[str, Any]]:
    """What is shown as one point: the seeds of a place together.

    Args:
        output_dir: Folder of the study.
        places: Its grid.

    Returns:
        A dict for each place but for its seed, in the order of the grid, of those with all seeds whole: the options,
        `cells`, `runs` (folds times seeds), `wa`, `ua` and `f1` (each `mean`, `std` over folds, and the interval's
        `low` and `high`), `validation` (mean UA on the validation sets, or `None`), the means of what `MEASURED` names
        (or `None`), `optimism` of UA, `cost` (means over folds of what `COSTS` names, or `None`), and `chance`:
        the share of the largest class for WA, one over the number of classes for UA and F1.
    """
    members: dict[str, list[Place]] = {}
    for place in places:
        options = {name: value for name, value in place.options.items() if name != "seed"}
        members.setdefault(json.dumps(options), []).append(place)
    groups = []
    for key, parts in members.items():
        folders = [output_dir / place.cell for place in parts]
        if all((folder / CELL).exists() for folder in folders):
            groups.append({**json.loads(key), "cells": [folder.name for folder in folders], **_scores(folders)})
    return groups


def _scores(folders: Sequence[Path]) -> dict[str, Any]:
    results = [result for folder in folders for result in read_json(folder / RESULTS)["folds"]]
    measures = [fold for folder in folders for fold in read_json(folder / CELL)["folds"].values()]
    predictions = _pooled(folders, "").predictions
    summary = summarise(results, num_folds=len(results))
    floor = 1 / len(predictions.labels)
    found = describe(predictions)
    group: dict[str, Any] = {
        "runs": len(results),
        **{name: summary["test"][name] | _interval(found[name]["speakers"]) for name in SCORES},
        "validation": _validation(results),
        "optimism": summary.get("optimism", {}).get("ua"),
        "chance": {"wa": float(np.bincount(predictions.references).max() / len(predictions)), "ua": floor, "f1": floor},
    }
    for name in MEASURED:
        values = [fold[name] for fold in measures if fold.get(name) is not None]
        group[name] = fmean(values) if values else None
    costs = [result.get("cost", {}) for result in results]
    group["cost"] = {name: fmean(cost[name] for cost in costs) if all(costs) else None for name in COSTS}
    return group


def _validation(results: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean UA on the validation sets; `None` where a protocol has none."""
    values = [result["validation"]["ua"] for result in results if result.get("validation")]
    return fmean(values) if len(values) == len(results) else None


def _interval(ends: Sequence[float] | None) -> dict[str, float | None]:
    low, high = ends or (None, None)
    return {"low": low, "high": high}


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    r"""Rows as CSV; lists as `0 1`, what is not there as nothing, a dict spread over `name_key` columns.

    Example:
        >>> csv_text([{"layers": [0, 1], "ua": {"mean": 0.5, "std": None}}])
        'layers,ua_mean,ua_std\n0 1,0.5,\n'
    """
    flat = []
    for row in rows:
        line: dict[str, Any] = {}
        for name, value in row.items():
            line |= {f"{name}_{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
        flat.append(
            {name: " ".join(map(str, value)) if isinstance(value, list) else value for name, value in line.items()}
        )
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(name for line in flat for name in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return file.getvalue()


def group_table(groups: Sequence[Mapping[str, Any]], *, varied: Iterable[str]) -> str:
    """The groups as a Markdown table: what varies, scores with deviation and interval, and the measures."""
    shown = ["head_type", "shift_placement", "shift_proportion"]
    shown += [name for name in varied if name not in (*shown, "seed")]
    header = [name.removeprefix("shift_").replace("_", " ") for name in shown]
    header += ["runs", "WA", "UA", "UA, 95 % interval", "F1", "optimism UA", "mingling", "misalignment", "parameters"]
    costly = bool(_ADAPTATION & set(varied))
    header += ["trained parameters", "s a fold", "CPU s", "MB"] if costly else []
    lines = [header, ["---"] * len(shown) + ["---:"] * (len(header) - len(shown))]
    for group in groups:
        wa, ua, f1 = (_percent(group[name]) for name in ("wa", "ua", "f1"))
        interval = "" if group["ua"]["low"] is None else f"{group['ua']['low']:.1%} to {group['ua']['high']:.1%}"
        optimism = "" if group["optimism"] is None else f"{100 * group['optimism']:+.1f}"
        measures = ["" if group[name] is None else f"{group[name]:.3f}" for name in ("mingling", "misalignment")]
        size = "" if group["head_parameters"] is None else f"{group['head_parameters']:,.0f}"
        lines.append(
            [told(name, group[name]) for name in shown]
            + [str(group["runs"]), wa, ua, interval, f1, optimism, *measures, size]
            + ([_amount(group["cost"][name]) for name in COSTS] if costly else [])
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _amount(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _percent(score: Mapping[str, Any]) -> str:
    spread = "" if score["std"] is None else f" ± {100 * score['std']:.1f}"
    return f"{100 * score['mean']:.1f}{spread}"


def told(name: str, value: Any) -> str:
    """The value of an option as a table shows it."""
    if name == "shift_proportion" and value is not None:
        return fraction(value)
    if isinstance(value, list):
        return "+".join(map(str, value)) or _UNSET
    if name in ("corpus", "encoder") and value is not None:
        return Path(value).name
    return _UNSET if value is None else str(value)


def sentences(
    output_dir: Path, groups: Sequence[Mapping[str, Any]], *, varied: Iterable[str] = ("shift_proportion",)
) -> list[str]:
    """What the study's own question comes to, in sentences whose p-values are adjusted over all of them.

    For each head, placement and setting: what its best proportion gives against no shift, whatever that is. Where the
    grid varies one other option and not the proportion (direction, stride, encoder, ...): what the best of its values
    gives against the first. What is best is chosen by UA on the validation sets; a tie is told.

    Args:
        output_dir: Folder of the study.
        groups: What `study_groups` returned.
        varied: Options that the grid varies.
    """
    others = [name for name in varied if name not in _NO_AXIS]
    axis = others[0] if len(others) == 1 and "shift_proportion" not in varied else None
    pairs = [*_shift_pairs(groups, quiet=axis is not None), *(_axis_pairs(groups, axis) if axis else [])]
    ends = [_against(output_dir, best, against, names) for _, best, against, names in pairs]
    compared = iter(adjust([end for end in ends if isinstance(end, dict)], score="ua"))
    told_ends = [f"; {end}." if isinstance(end, str) else f". {_capital(next(compared))}" for end in ends]
    return [start + end for (start, *_), end in zip(pairs, told_ends, strict=True)]


def _lines(groups: Sequence[Mapping[str, Any]], but: str) -> list[list[Mapping[str, Any]]]:
    """Groups that differ in one option alone, together."""
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for group in groups:
        key = {name: group[name] for name in _option_names(group) if name != but}
        lines.setdefault(json.dumps(key), []).append(group)
    return list(lines.values())


def _setting(line: Sequence[Mapping[str, Any]], lines: Sequence[Sequence[Mapping[str, Any]]], but: str) -> str:
    """How a sentence about a line begins: what tells it from the others."""
    names = [name for name in _option_names(line[0]) if name != but]
    differing = [name for name in names if len({json.dumps(each[0][name]) for each in lines}) > 1]
    rest = [name for name in differing if name not in ("head_type", "shift_placement")]
    values = {name.removeprefix("shift_"): told(name, line[0][name]) for name in rest}
    setting = "".join(f", {name} {'not set' if value == _UNSET else value}" for name, value in values.items())
    return f"**{line[0]['head_type']}, {line[0]['shift_placement']}{setting}**: "


def _shift_pairs(
    groups: Sequence[Mapping[str, Any]], *, quiet: bool
) -> Iterator[tuple[str, Any, Any, tuple[str, str]]]:
    """The best proportion of each line against no shift; `quiet`: of those alone that there is a control for."""
    lines = _lines([group for group in groups if group["shift_placement"] != "none"], "shift_proportion")
    for line in lines:
        if tried := [group for group in line if group["shift_proportion"] > 0]:
            against = _unshifted(line, groups)
            if against is not None or not quiet:
                best, start = _best(tried, "shift_proportion", sorted_by=lambda group: group["shift_proportion"])
                names = (f"proportion {fraction(best['shift_proportion'])}", "no shift")
                yield _setting(line, lines, "shift_proportion") + start, best, against, names


def _axis_pairs(groups: Sequence[Mapping[str, Any]], axis: str) -> Iterator[tuple[str, Any, Any, tuple[str, str]]]:
    """The best value of an option against the first of the grid, for each line of groups that differ in it alone."""
    lines = [line for line in _lines(groups, axis) if len(line) > 1]
    for line in lines:
        best, start = _best(line[1:], axis, sorted_by=line.index)
        named = axis.removeprefix("shift_").replace("_", " ")
        names = tuple(f"{named} {told(axis, group[axis])}" for group in (best, line[0]))
        yield _setting(line, lines, axis) + start, best, line[0], (names[0], names[1])


def _capital(comparison: Mapping[str, Any]) -> str:
    found = sentence(comparison, score="ua")
    return found[0].upper() + found[1:]


def _option_names(group: Mapping[str, Any]) -> list[str]:
    return list(group)[: list(group).index("cells")]


def _unshifted(line: Sequence[Mapping[str, Any]], groups: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """What a line is compared with: its own proportion 0, else the placement `none` of the same head and setting."""
    for group in line:
        if group["shift_proportion"] == 0:
            return group
    same = [name for name in _option_names(line[0]) if not name.startswith("shift_")]
    alike = (group for group in groups if all(group[name] == line[0][name] for name in same))
    return next((group for group in alike if group["shift_placement"] == "none"), None)


def _best(
    tried: Sequence[Mapping[str, Any]], option: str, *, sorted_by: Callable[[Mapping[str, Any]], Any]
) -> tuple[Mapping[str, Any], str]:
    """The group with the best value of an option, of equals the first, and how that is said."""
    blind = all(group["validation"] is not None for group in tried)
    values = [round(group["validation"] if blind else group["ua"]["mean"], 9) for group in tried]
    ties = sorted((g for g, value in zip(tried, values, strict=True) if value == max(values)), key=sorted_by)
    name, best = option.removeprefix("shift_").replace("_", " "), ties[0]
    value = told(option, best[option])
    if len(tried) == 1:
        return best, f"{name} {value} alone"
    where = "on the validation sets" if blind else "on the test sets, which flatters it,"
    if len(ties) > 1:
        equal = ", ".join(told(option, group[option]) for group in ties)
        return best, f"of {len(tried)} {name}s {equal} tie as the best {where}, and {value} stands for them"
    return best, f"the best of {len(tried)} {name}s {where} is {value}"


def _against(
    output_dir: Path, best: Mapping[str, Any], other: Mapping[str, Any] | None, names: tuple[str, str]
) -> str | dict[str, Any]:
    """The comparison of two groups, or why there is none."""
    if other is None:
        return "nothing without a shift is in the grid to compare it with"
    try:
        pooled = [
            _pooled([output_dir / cell for cell in group["cells"]], name)
            for group, name in zip((best, other), names, strict=True)
        ]
        return compare(*pooled)
    except ValueError as error:
        return f"it cannot be compared with {names[1]}: {error}"


def _pooled(folders: Sequence[Path], name: str) -> FinishedRun:
    """Cells that differ in their seed, as one run; each of its seeds is that of its cell."""
    runs = [FinishedRun.from_path(folder) for folder in folders]
    plans = {key: plan for run in runs for key, plan in run.plans.items()}
    return FinishedRun(name, Predictions.pooled([run.predictions for run in runs]), plans)
