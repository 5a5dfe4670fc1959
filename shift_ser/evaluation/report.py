"""Scores of a run over its folds and seeds: means, spreads, the optimism gap, and the table of all folds."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from .calibration import (
    NUM_BINS,
    apply_temperature,
    calibration_error,
    probabilities_of,
    reliability_table,
    risk_coverage,
)
from .metrics import ccc_rmse, score_names, score_of, shown_names
from .predictions import Predictions
from .run_folder import save_figure

COLUMNS = ("last", "selected", "oracle", "refit")
_HEADLINES = {
    "last": "of the last epoch",
    "selected": "of the epoch that the validation set chose",
    "refit": "trained anew with the validation set, up to the epoch that it chose",
}


def headline(result: Mapping[str, Any]) -> str:
    """Which column of a fold's result is its score: `refit`, else `selected`, else `last`; the oracle never is."""
    return next(name for name in ("refit", "selected", "last") if result["columns"].get(name))


def summarise(results: Sequence[Mapping[str, Any]], *, num_folds: int) -> dict[str, Any]:
    """Mean and spread over the folds that are done: every one counts the same, however many utterances it has.

    Args:
        results: One dict for each fold and seed, with `fold`, `seed`, and `columns` from a column's name to its
            scores, `{"wa": ..., "ua": ..., "f1": ...}` or `{"ccc": ..., "ccc_valence": ...}`, or to `None`.
        num_folds: How many results the whole run has: folds times seeds.

    Returns:
        `folds` (how many are done) and `num_folds`; for each column and for `test`, the headline, `None` or for each
        score `mean` and `std`, the sample deviation over folds of the mean over seeds (`None` for a single fold). With
        several seeds also `std_seeds`, the deviation over seeds of the mean over folds (`None` while a fold of a seed
        is missing), and `seeds`, the headline's mean over folds for each seed. `optimism`: for each score by how much
        the mean of the oracle exceeds that of the headline; with a refit, of the selected epoch of the same training.
        `layer_weights`: where all models learned a weighted sum of the encoder's layers, the mean weight of each.

    Raises:
        ValueError: If there is no result.

    Example:
        >>> columns = [{"last": {"wa": wa, "ua": wa, "f1": wa}} for wa in (0.5, 0.75)]
        >>> results = [{"fold": i, "seed": 0, "columns": column} for i, column in enumerate(columns)]
        >>> summarise(results, num_folds=5)["test"]["wa"]
        {'mean': 0.625, 'std': 0.1767766952966369}
    """
    if not results:
        raise ValueError("results must hold at least one fold, got none")
    summary: dict[str, Any] = {"folds": len(results), "num_folds": num_folds}
    kind = headline(results[0])
    names = score_names(results[0]["columns"][kind])
    for column in COLUMNS:
        whole = all(result["columns"].get(column) for result in results)
        summary[column] = {name: _spread(results, column, name) for name in names} if whole else None
    summary["test"] = summary[kind]
    if oracle := summary["oracle"]:  # chosen among the epochs of one training: a refit is another one
        chosen = summary["selected" if kind == "refit" and summary["selected"] else kind]
        summary["optimism"] = {name: oracle[name]["mean"] - chosen[name]["mean"] for name in names}
    if all("layer_weights" in result for result in results):
        summary["layer_weights"] = np.mean([result["layer_weights"] for result in results], axis=0).tolist()
    seeds = {result["seed"] for result in results}
    if len(seeds) > 1:
        by_seed = {name: _means(results, kind, name, by="seed") for name in names}
        summary["seeds"] = {str(seed): {name: by_seed[name][seed] for name in names} for seed in sorted(seeds)}
    return summary


def _means(results: Iterable[Mapping[str, Any]], column: str, name: str, *, by: str) -> dict[int, float]:
    """The mean of a score for each fold, or for each seed."""
    values: dict[int, list[float]] = {}
    for result in results:
        values.setdefault(result[by], []).append(result["columns"][column][name])
    return {key: fmean(values[key]) for key in sorted(values)}


def _spread(results: Sequence[Mapping[str, Any]], column: str, name: str) -> dict[str, float | None]:
    folds = list(_means(results, column, name, by="fold").values())
    seeds = list(_means(results, column, name, by="seed").values())
    spread = {"mean": fmean(folds), "std": stdev(folds) if len(folds) > 1 else None}
    if len(seeds) > 1:
        spread["std_seeds"] = stdev(seeds) if len(results) == len(folds) * len(seeds) else None
    return spread


def fold_table(
    results: Sequence[Mapping[str, Any]], *, num_folds: int, missing: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Scores of each fold, averaged over its seeds, and their mean, as a Markdown table that reads well on a terminal.

    Args:
        results: As in `summarise`, with `test_group`, `num_test`, `selected_epoch` and `last_epoch`.
        num_folds: How many results the whole run has: folds times seeds.
        missing: `fold`, `seed` and `reason` of those that are not there.

    Returns:
        The table and the notes below it, without a line feed at the end; scores in percent.
    """
    summary = summarise(results, num_folds=num_folds)
    kind = headline(results[0])
    names = shown_names(score_names(summary["test"]))
    beside = _beside(summary)
    title = "/".join(score_of(name).title for name in beside)
    columns = [score_of(name).title for name in names]
    rows = [["fold", "test", "n", "epoch", *columns, f"last {title}", f"oracle {title}"]]
    for fold in sorted({result["fold"] for result in results}):
        seeds = [result for result in results if result["fold"] == fold]
        epochs = [str(result["last_epoch" if kind == "last" else "selected_epoch"]) for result in seeds]
        row = [str(fold), seeds[0]["test_group"], str(seeds[0]["num_test"]), ", ".join(epochs)]
        rows.append([*row, *_cells(summarise(seeds, num_folds=num_folds))])
    mean = ["mean", ""] if len(results) == num_folds else ["mean of", f"{len(results)} of {num_folds} folds"]
    rows.append([*mean, "", "", *_cells(summary)])

    widths = [max(2, *(len(row[column]) for row in rows)) for column in range(len(rows[0]))]
    rows.insert(1, ["-" * (width - 1) + ":" for width in widths])
    lines = [[cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    planned = {result["seed"] for result in [*results, *missing]}
    told = [f"- Missing: {name_of(result, seeds=planned)}: {result['reason']}" for result in missing]
    return "\n".join([table, "", *_notes(summary, kind), *told])


def _beside(summary: Mapping[str, Any]) -> list[str]:
    """The scores of the last and the oracle's epoch that have a column."""
    return [name for name in ("wa", "ua", "ccc") if name in summary["test"]][:2]


def _cells(summary: Mapping[str, Any]) -> list[str]:
    """The headline with its deviation over folds; last and oracle without."""
    pairs = [
        "/".join(score_of(name).shown(summary[kind][name]["mean"]) for name in _beside(summary))
        for kind in ("last", "oracle")
    ]
    return [spread_text(name, summary["test"][name]) for name in shown_names(score_names(summary["test"]))] + pairs


def spread_text(name: str, spread: Mapping[str, float | None]) -> str:
    """The mean of a score with its deviation over folds, where there is one.

    Example:
        >>> spread_text("ua", {"mean": 0.5, "std": 0.0123}), spread_text("ccc", {"mean": 0.5, "std": None})
        ('50.00 ± 1.23', '0.500')
    """
    parts = [spread["mean"], spread["std"]]
    return " ± ".join(score_of(name).shown(part) for part in parts if part is not None)


def _notes(summary: Mapping[str, Any], kind: str) -> list[str]:
    """What the numbers are, as lines of a list."""
    names = shown_names(score_names(summary["test"]))

    def told(values: Mapping[str, float | None], *, sign: bool = False) -> str:
        shown = [(score_of(name), values[name]) for name in names]
        return ", ".join(f"{s.title} {s.shown(value, sign=sign)}" for s, value in shown if value is not None)

    titles, percent = ", ".join(score_of(name).title for name in names), any(score_of(n).percent for n in names)
    gap = told(summary["optimism"], sign=True)
    against = "the selected epoch of the same training" if kind == "refit" else "these"
    notes = [
        f"- {titles}: {_HEADLINES[kind]}; {'percent, ' if percent else ''}± over folds.",
        f"- Optimism gap, oracle (best epoch on the test set; not a result) minus {against}: {gap}.",
    ]
    if "seeds" in summary:
        over = told({name: summary["test"][name]["std_seeds"] for name in names})
        notes.append(
            f"- Mean over seeds {', '.join(summary['seeds'])}; deviation over seeds: {over or 'some missing'}."
        )
    if "layer_weights" in summary:
        shares = ", ".join(f"{layer}: {100 * share:.1f}" for layer, share in enumerate(summary["layer_weights"]))
        notes.append(
            f"- Weights of the encoder's layers, mean over the models, percent (0: before the first): {shares}."
        )
    return notes


def intervals_text(results: Mapping[str, Any]) -> str:
    """Confidence intervals and calibration as lines of a Markdown list.

    Args:
        results: What `results.json` or `evaluate_predictions` holds: `uncertainty` and `calibration`.
    """
    said, calibration = results["uncertainty"], results["calibration"]
    units = f"{said['num_units']} {said['unit']}s"
    speakers = units if said["unit"] == "speaker" else f"{units} with {said['num_speakers']} speakers"
    utterances = f"{said['num_utterances']} utterances of the same speakers and models"
    lines = [f"- No interval over speakers: {said['no_interval']}."] if said["unit"] is None else []
    for kind, over in (("speakers", speakers), ("utterances", utterances)):
        ends = {score_of(name): said[name][kind] for name in shown_names(score_names(said)) if said[name][kind]}
        if ends:
            intervals = [
                f"{s.title} {s.shown(low, digits=1)} to {s.shown(high, digits=1)}" for s, (low, high) in ends.items()
            ]
            lines.append(f"- {said['level']:.0%} confidence interval over {over}: {', '.join(intervals)}.")
    if calibration is None:
        classes = "ua" in said
        return "\n".join([*lines, "- No probabilities: calibration is not known."] if classes else lines)
    error = f"- Calibration error (ECE) {100 * calibration['ece_before']:.1f}"
    if calibration["ece_after"] is not None:
        error += f", with the temperature of the validation set {100 * calibration['ece_after']:.1f}"
    band = calibration["ece_calibrated"]
    error += f" (perfect calibration would show {100 * band['mean']:.1f}, below {100 * band['quantile']:.1f} in 95%)"
    named = {"nll": "negative log-likelihood", "brier": "Brier score"}
    after = "before" if calibration["ece_after"] is None else "after"
    told = []
    for name, words in named.items():
        ends = calibration["intervals"][name]
        told.append(
            f"{words} {calibration[f'{name}_{after}']:.3f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else "")
        )
    lines.append(f"- {told[0][0].upper()}{told[0][1:]}; {told[1]}.")
    answered = ", ".join(f"{100 * value:.1f} of {share}" for share, value in calibration["accuracy_at"].items())
    return "\n".join([*lines, f"{error}; right among the most confident: {answered}."])


def baseline_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """What `baseline.baseline_scores` returned, as a Markdown table; percent, ± over folds."""
    names = shown_names(score_names(rows[0]))
    lines = [["baseline, same folds", *(score_of(name).title for name in names)], ["---", *["---:"] * len(names)]]
    lines += [[row["name"], *(spread_text(name, row[name]) for name in names)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def name_of(result: Mapping[str, Any], *, seeds: Collection[int]) -> str:
    """What a result is called among those of a run with these seeds.

    Example:
        >>> name_of({"fold": 1, "seed": 7}, seeds=[7]), name_of({"fold": 1, "seed": 7}, seeds=[0, 7])
        ('fold 1', 'fold 1 of seed 7')
    """
    return f"fold {result['fold']}" + (f" of seed {result['seed']}" if len(seeds) > 1 else "")


def plot_confusion(path: str | Path, predictions: Predictions, *, title: str) -> None:
    """Draw the confusion matrix as PNG: each row in percent of its true label, with the counts.

    Args:
        path: File to write.
        predictions: The table; its labels are in the order of rows and columns.
        title: Headline of the figure.
    """
    label_names = predictions.labels
    counts = confusion_matrix(predictions.table["label"], predictions.table["prediction"], labels=label_names)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)  # an absent label is a row of zeros
    size = 2.2 + 0.95 * len(label_names)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for (row, column), share in np.ndenumerate(shares):
        color = "white" if share > 55 else "black"
        axes.text(column, row - 0.06, f"{share:.1f}%", ha="center", va="center", color=color, fontsize=12)
        axes.text(column, row + 0.18, f"{counts[row, column]}", ha="center", va="center", color=color, fontsize=9)
    totals = counts.sum(axis=1)
    axes.set_xticks(range(len(totals)), label_names)
    axes.set_yticks(range(len(totals)), [f"{name}\n(n={n})" for name, n in zip(label_names, totals, strict=True)])
    axes.set(xlabel="Predicted", ylabel="True", title=title)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.8, label="Share of the true label (%)")
    save_figure(path, figure)


def plot_reliability(path: str | Path, predictions: Predictions, *, title: str) -> None:
    """Draw accuracy against confidence as PNG, before and after the temperature, over how many utterances are where.

    Args:
        path: File to write.
        predictions: With probabilities; without a temperature one curve is drawn.
        title: Headline of the figure.
    """
    probabilities, references, temperature = (
        probabilities_of(predictions), predictions.references, predictions.temperature,
    )  # fmt: skip
    curves = {"as trained": (probabilities, "#4c72b0")}
    if temperature is not None:
        curves["with temperature"] = (apply_temperature(probabilities, temperature), "#dd8452")
    figure = Figure(figsize=(5, 6), layout="constrained")
    axes, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color="gray", linestyle=":", label="calibrated")
    for name, (shares, color) in curves.items():
        table = [entry for entry in reliability_table(shares, references=references) if entry["count"]]
        error = calibration_error(shares, references=references)
        points = [[entry[key] for entry in table] for key in ("confidence", "accuracy")]
        axes.plot(*points, color=color, label=f"{name}, ECE {error:.1%} (size: utterances in the bin)")
        axes.scatter(*points, s=[8 * entry["count"] ** 0.5 for entry in table], color=color)
        edges = np.linspace(0, 1, NUM_BINS + 1)
        below.hist(shares.max(axis=1), bins=edges, histtype="step", color=color, linewidth=1.5)
    axes.set(ylabel="Accuracy", title=title, xlim=(0, 1), ylim=(0, 1))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", frameon=False)
    below.set(xlabel="Confidence (top probability)", ylabel="Utterances")
    save_figure(path, figure)


def plot_risk_coverage(path: str | Path, predictions: Predictions, *, title: str) -> None:
    """Draw the share of errors against the share of utterances answered, most confident first, as PNG.

    Args:
        path: File to write.
        predictions: With probabilities.
        title: Headline of the figure.
    """
    coverage, risk = risk_coverage(probabilities_of(predictions), references=predictions.references)
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(100 * coverage, 100 * risk, color="#4c72b0", label=f"AURC {risk.mean():.3f}")
    axes.axhline(100 * risk[-1], color="gray", linestyle=":", label=f"all utterances: {risk[-1]:.1%}")
    axes.set(xlabel="Utterances answered (%)", ylabel="Errors among them (%)", title=title, xlim=(0, 100))
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    save_figure(path, figure)


def plot_values(path: str | Path, predictions: Predictions, *, title: str) -> None:
    """Draw predicted against true values of each dimension as PNG, one panel a dimension.

    Args:
        path: File to write.
        predictions: With dimensions.
        title: Headline of the figure.
    """
    names, scores = predictions.dimensions, ccc_rmse(
        predictions.values, targets=predictions.targets, dimensions=predictions.dimensions
    )  # fmt: skip
    figure = Figure(figsize=(4 * len(names), 4.4), layout="constrained")
    for index, (axes, name) in enumerate(zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True)):
        true, said = predictions.targets[:, index], predictions.values[:, index]
        ends = [min(true.min(), said.min()), max(true.max(), said.max())]
        axes.plot(ends, ends, color="gray", linestyle=":")
        axes.scatter(true, said, s=8, alpha=0.4, color="#4c72b0", linewidths=0)
        axes.set(xlabel=f"True {name}", ylabel=f"Predicted {name}", title=f"CCC {scores[f'ccc_{name}']:.3f}")
    figure.suptitle(title)
    save_figure(path, figure)


def plot_layer_weights(path: str | Path, results: Sequence[Mapping[str, Any]], *, title: str) -> None:
    """Draw the learned weights of the encoder's layers as PNG: their mean as bars, a point for each model.

    Args:
        path: File to write.
        results: Of each fold and seed, with `layer_weights`.
        title: Headline of the figure.
    """
    shares = 100 * np.array([result["layer_weights"] for result in results])
    layers = np.arange(shares.shape[1])
    figure = Figure(figsize=(max(4.0, 2.5 + 0.3 * len(layers)), 4), layout="constrained")
    axes = figure.add_subplot()
    axes.bar(layers, shares.mean(axis=0), color="#4c72b0", label="mean")
    places = np.tile(layers, len(shares))
    axes.scatter(places, shares.ravel(), s=12, color="#dd8452", zorder=2, label="each model")
    axes.axhline(100 / len(layers), color="gray", linestyle=":", label="all alike, as at first")
    axes.set(xlabel="Layer (0: input of the first)", ylabel="Weight (%)", title=title)
    axes.set_xticks(layers)
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    save_figure(path, figure)
