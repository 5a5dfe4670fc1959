"""What became of the scores in each condition: a table, and curves with intervals."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from .comparison import compare
from .metrics import SCORES
from .predictions import Predictions
from .robustness import CLEAN, CONDITIONS
from .run_folder import save_figure
from .uncertainty import cluster_unit, describe


def describe_robustness(predictions: Mapping[str, Predictions]) -> list[dict[str, Any]]:
    """Scores of each condition with intervals, and how far UA is from the clean recordings.

    Args:
        predictions: For each name of `CONDITIONS` what was said; `clean` must be among them.

    Returns:
        In the order of the table: `name`, `kind`, `value`, `unit`, for `wa`, `ua` and `f1` `estimate`, `utterances` and
        `speakers` (see `uncertainty.describe`), and `change`: `difference` in UA from clean, paired, and its `interval`
        (`None` with too few speakers; for clean both are 0).
    """
    if CLEAN not in predictions:
        raise ValueError(f"predictions must hold the condition {CLEAN!r}, got {list(predictions)}")
    clean = predictions[CLEAN]
    paired = cluster_unit(clean)[0] is not None
    rows = []
    for name in (name for name in CONDITIONS if name in predictions):
        said, condition = describe(predictions[name]), CONDITIONS[name]
        change: dict[str, Any] = {"difference": said["ua"]["estimate"] - describe(clean)["ua"]["estimate"]}
        change["interval"] = compare(predictions[name], clean)["ua"]["interval"] if paired else None
        told = {"name": name, "kind": condition.kind, "value": condition.value, "unit": condition.unit}
        rows.append({**told, **{score: said[score] for score in SCORES}, "change": change})
    return rows


def robustness_table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table, in percent."""
    lines = [
        "| condition | WA | UA | UA, 95 % interval | UA against clean | interval |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        ends, change = row["ua"]["speakers"] or row["ua"]["utterances"], row["change"]["interval"]
        told = f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}" if ends else "-"
        against = f"{100 * change[0]:+.1f} to {100 * change[1]:+.1f}" if change else "-"
        cells = [_title(row), f"{100 * row['wa']['estimate']:.1f}", f"{100 * row['ua']['estimate']:.1f}", told]
        if row["name"] == CLEAN:
            against = "-"
        lines.append(f"| {' | '.join([*cells, format(100 * row['change']['difference'], '+.1f'), against])} |")
    unit = "over folds or speakers" if any(row["ua"]["speakers"] for row in rows) else "over utterances"
    return "\n".join(
        [*lines, "", f"- Intervals {unit}; those against clean are paired and not adjusted for their number."]
    )


def _title(row: Mapping[str, Any]) -> str:
    scale = "" if row["value"] is None else f", {row['value']:g} {row['unit']}"
    return row["unit"] if row["value"] is None and row["unit"] else f"{row['kind']}{scale}"


def plot_robustness(path: str | Path, rows: list[dict[str, Any]], *, title: str) -> None:
    """Draw UA over the strength of each kind of change as PNG, with intervals; the dashed line is clean speech.

    Args:
        path: File to write.
        rows: What `describe_robustness` returned.
        title: Headline.
    """
    kinds = list(dict.fromkeys(row["kind"] for row in rows if row["kind"] != CLEAN))
    clean = next(row for row in rows if row["name"] == CLEAN)
    figure = Figure(figsize=(13, 3.4 * -(-len(kinds) // 4) + 1), layout="constrained")
    grid = figure.subplots(-(-len(kinds) // 4), min(4, max(1, len(kinds))), squeeze=False, sharey=True).ravel()
    for axes, kind in zip(grid, kinds, strict=False):
        points = [row for row in rows if row["kind"] == kind]
        values = [row["ua"]["estimate"] for row in points]
        bars = [_arms(row["ua"]) for row in points]
        axes.errorbar(
            range(len(points)), [100 * value for value in values], yerr=list(zip(*bars, strict=True)), fmt="o-",
            color="#0072B2", capsize=3,
        )  # fmt: skip
        axes.axhline(100 * clean["ua"]["estimate"], color="0.4", linestyle="--")
        names = [row["unit"] if row["value"] is None else f"{row['value']:g}" for row in points]
        axes.set_xticks(range(len(points)), names, rotation=0 if points[0]["value"] is not None else 30)
        scale = f" ({points[0]['unit']})" if points[0]["value"] is not None else ""
        axes.set(title=f"{kind}{scale}", xlim=(-0.5, len(points) - 0.5))
        axes.grid(axis="y", alpha=0.25)
    for axes in grid[len(kinds) :]:
        axes.set_visible(False)
    grid[0].set_ylabel("UA (%)")
    figure.suptitle(f"{title}\nbars: 95 % confidence intervals; dashed: clean speech")
    save_figure(path, figure)


def _arms(score: Mapping[str, Any]) -> tuple[float, float]:
    low, high = score["speakers"] or score["utterances"] or [score["estimate"]] * 2
    return 100 * max(0.0, score["estimate"] - low), 100 * max(0.0, high - score["estimate"])
