"""One HTML page of a run that works from the disk: scores, intervals, figures, groups, errors, settings, versions."""

import base64
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from .groups import group_scores
from .metrics import score_names, score_of, shown_names
from .predictions import Predictions
from .report import fold_table, intervals_text
from .run_folder import (
    CONFUSION,
    CURVES,
    EMBEDDING,
    LAYER_WEIGHTS,
    RELIABILITY,
    RISK_COVERAGE,
    ROBUSTNESS,
    ROBUSTNESS_TABLE,
    VALUES,
)

_FIGURES = {
    CONFUSION: "confusion",
    RELIABILITY: "reliability",
    RISK_COVERAGE: "risk and coverage",
    VALUES: "predicted against true values",
    EMBEDDING: "map of utterances",
    LAYER_WEIGHTS: "weights of the encoder's layers",
}


def report_page(
    results: Mapping[str, Any],
    predictions: Predictions,
    *,
    folder: str | Path,
    groups: Mapping[str, Mapping[str, Any]] | None = None,
    title: str = "Report",
    command: str | None = None,
    num_errors: int = 20,
) -> str:
    """The page as text; figures are embedded, nothing is loaded from elsewhere.

    Args:
        results: What `results.json` holds.
        predictions: Of all folds and seeds.
        folder: Where the run's figures lie; one that is not there is left out.
        groups: For each column (speaker, sex, length) the group of each utterance.
        title: Headline.
        command: The command line that made the run.
        num_errors: How many of the surest errors are listed.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string((files(__package__) / "page.html").read_text(encoding="utf-8"))
    num_folds = results["summary"]["num_folds"]
    table, _, notes = fold_table(results["folds"], num_folds=num_folds, missing=results["missing"]).partition("\n\n")
    lines = [*notes.splitlines(), *intervals_text(results).splitlines()]
    return template.render(
        title=title,
        description=results["corpus"]["description"],
        synthetic=results["corpus"]["synthetic"],
        fold_rows=_cells(table),
        notes=[line.removeprefix("- ") for line in lines],
        baselines=_baselines(results.get("baselines")),
        figures=_figures(Path(folder)),
        figures_title="Confusion, calibration and abstaining" if predictions.labels else "Predicted and true values",
        robustness=_robustness(Path(folder)),
        groups=[_group(column, predictions, told) for column, told in (groups or {}).items()],
        errors=surest_errors(predictions, num=num_errors),
        command=command,
        settings=[["setting", "value"], *sorted([name, str(value)] for name, value in results["settings"].items())],
        versions=[["package", "version"], *([name, value] for name, value in results["versions"].items())],
    )


def surest_errors(predictions: Predictions, *, num: int) -> list[list[str]]:
    """The wrong predictions with the highest probability as rows of a table; empty without probabilities or errors."""
    if predictions.probabilities is None or "label" not in predictions.table:
        return []
    confidence = predictions.probabilities.max(axis=1)
    wrong = [
        index for index in range(len(predictions)) if predictions.predicted[index] != predictions.references[index]
    ]
    columns = [
        name for name in ("utterance", "speaker", "fold", "seed", "label", "prediction") if name in predictions.table
    ]
    rows = []
    for index in sorted(wrong, key=lambda index: -confidence[index])[:num]:
        cells = [str(predictions.table[name].iloc[index]) for name in columns]
        rows.append([*cells, f"{100 * confidence[index]:.1f} %"])
    return [[*columns, "probability"], *rows] if rows else []


def _cells(table: str) -> list[list[str]]:
    """A Markdown table's cells without its rule."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [lines[0], *lines[2:]]


def _baselines(rows: Sequence[Mapping[str, Any]] | None) -> list[list[str]]:
    if not rows:
        return []
    names = shown_names(score_names(rows[0]))
    told = [[row["name"], *(score_of(name).shown(row[name]["mean"]) for name in names)] for row in rows]
    return [["baseline", *(score_of(name).title for name in names)], *told]


def _figures(folder: Path) -> list[dict[str, str]]:
    return [
        {"name": name, "data": _embedded(folder / file)} for file, name in _FIGURES.items() if (folder / file).is_file()
    ]


def _embedded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _robustness(folder: Path) -> list[dict[str, Any]]:
    """Table, note and curves of each seed of the conditions that were scored."""
    found = []
    for path in sorted((folder / ROBUSTNESS).glob(f"*/{ROBUSTNESS_TABLE}")):
        _, table, note = path.read_text(encoding="utf-8").strip().split("\n\n")
        found.append({"rows": _cells(table), "note": note.removeprefix("- "), "data": _embedded(path.parent / CURVES)})
    return found


def _group(column: str, predictions: Predictions, told: Mapping[str, Any]) -> dict[str, Any]:
    found = group_scores(predictions, told)
    names = [name for name in shown_names(score_names(found["groups"][0])) if name != "f1"]
    rows = [
        [row["name"], str(row["num_utterances"]), *(score_of(name).shown(row[name], digits=1) for name in names)]
        for row in found["groups"]
    ]
    titles = [score_of(name).title for name in names]
    return {"column": column, "rows": [[column, "n", *titles], *rows], "gap": _gap_text(found["gap"])}


def _gap_text(gap: Mapping[str, Any] | None) -> str:
    if gap is None:
        return "Too few utterances for a gap."
    (name,) = score_names(gap)
    score, unit = score_of(name), " points" if score_of(name).percent else ""
    between = f"between the best ({gap['best']}) and the worst ({gap['worst']})"
    text = f"Gap in {score.title} {between}: {score.shown(gap[name], digits=1)}{unit}"
    if gap["interval"]:
        low, high = (score.shown(end, digits=1, sign=True) for end in gap["interval"])
        text += f" (95% interval {low} to {high}, the two groups taken as given)"
    return (
        f"{text}. The two groups were chosen after the fact, for their scores: also groups that are alike have a gap."
    )
