"""The matrix of corpora: trained on the row's, tested on the column's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .metrics import SCORES
from .predictions import Predictions
from .run_folder import save_figure
from .uncertainty import describe

_MARK = "†"  # of an interval over utterances


def describe_cross(said: Mapping[tuple[str, str], Predictions]) -> list[dict[str, Any]]:
    """Scores of each pair with intervals.

    Within a corpus the unit of the interval is the fold, since the speakers of a fold share a model. On another corpus
    every model scores every speaker, so the unit is the speaker there: the interval is over speakers of that corpus,
    for the mean over these models.

    Args:
        said: For each pair of names, trained on and tested on, the predictions.

    Returns:
        For each pair `train`, `test`, `labels`, `chance` (one over their number), `unit`, `num_utterances`, and for
        `wa`, `ua` and `f1` `estimate`, `speakers` and `utterances` (see `uncertainty.describe`).
    """
    rows = []
    for (train, test), predictions in said.items():
        found = describe(predictions)
        labels = predictions.labels
        told = {"train": train, "test": test, "labels": labels, "chance": 1 / len(labels), "unit": found["unit"]}
        rows.append({**told, "num_utterances": found["num_utterances"], **{score: found[score] for score in SCORES}})
    return rows


def cross_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """UA with its interval as a Markdown table: a row for each corpus trained on, a column for each tested on."""
    names = list(dict.fromkeys(row["train"] for row in rows))
    cells = {(row["train"], row["test"]): _cell(row["ua"]) for row in rows}
    lines = [["trained on, tested on", *names], ["---", *["---:"] * len(names)]]
    lines += [[train, *(cells[train, test] for test in names)] for train in names]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    over = "over folds on the diagonal and over speakers elsewhere"
    note = (
        f"- UA in percent over {', '.join(rows[0]['labels'])}, with its 95 % interval, {over}; chance is"
        f" {rows[0]['chance']:.1%}. On the diagonal folds of the corpus test; elsewhere the models of all folds score"
        " the whole corpus."
    )
    if any(_narrow(row["ua"]) for row in rows):
        note += (
            f"\n- {_MARK} There are too few folds or speakers for that interval. This one is over utterances of the"
            " same speakers and models: it is narrower, and says nothing of other speakers."
        )
    same = [f"{row['train']} and {row['test']}: {n}" for row in rows if (n := row.get("shared_recordings"))]
    warning = (
        f"\n- Recordings that both corpora hold, so that these scores are too high: {'; '.join(same)}." if same else ""
    )
    return f"{table}\n\n{note}{warning}"


def _cell(score: Mapping[str, Any]) -> str:
    ends = score["speakers"] or score["utterances"]
    told = f"{100 * score['estimate']:.1f}"
    mark = f" {_MARK}" if _narrow(score) else ""
    return f"{told} ({100 * ends[0]:.1f} to {100 * ends[1]:.1f}){mark}" if ends else told


def _narrow(score: Mapping[str, Any]) -> bool:
    """Whether the interval that is shown is one over utterances alone."""
    return not score["speakers"] and bool(score["utterances"])


def plot_cross(path: str | Path, rows: Sequence[Mapping[str, Any]], *, title: str) -> None:
    """Draw the matrix as PNG: UA in percent with its interval, shaded from chance to 100 %.

    Args:
        path: File to write.
        rows: What `describe_cross` returned.
        title: Headline.
    """
    names = list(dict.fromkeys(row["train"] for row in rows))
    values = np.zeros((len(names), len(names)))
    size = 2.5 + 1.5 * len(names)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.add_subplot()
    for row in rows:
        place = names.index(row["train"]), names.index(row["test"])
        values[place] = 100 * row["ua"]["estimate"]
        told, _, ends = _cell(row["ua"]).partition(" ")
        color = "white" if values[place] > 50 + 50 * rows[0]["chance"] else "black"
        axes.text(place[1], place[0] - 0.08, told, ha="center", va="center", color=color, fontsize=13)
        axes.text(place[1], place[0] + 0.2, ends, ha="center", va="center", color=color, fontsize=8)
    image = axes.imshow(values, cmap="Blues", vmin=100 * rows[0]["chance"], vmax=100)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    marked = f" ({_MARK} over utterances)" if any(_narrow(row["ua"]) for row in rows) else ""
    axes.set(xlabel="tested on", ylabel="trained on", title=f"{title}\nUA (%) and its 95 % interval{marked}")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.7, label=f"UA (%), from chance ({rows[0]['chance']:.0%})")
    save_figure(path, figure)
