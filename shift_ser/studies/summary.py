"""The files that sum a study up, as texts: a function of its folder and its grid alone, so that they can be checked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..evaluation.run_folder import RESULTS, STUDY_GROUPS, STUDY_ROWS, STUDY_SUMMARY, read_json
from .baselines import baselines_of
from .grid import Place
from .table import csv_text, group_table, sentences, study_rows

_LEGEND = (
    "Scores in percent: mean over folds and seeds ± standard deviation over folds; the interval is of the pooled"
    " predictions, over folds. *Optimism*: how many points of UA the best epoch on the test fold would"
    " add. *Mingling*: share of a block's sensitivity that comes from other frames than the output's own;"
    " *misalignment*: how far shortcut and branch have drifted apart (`studies.mingling`). `study.csv` has every"
    " fold, `summary.csv` what the figures show. Rows without a placement are baselines on the same folds."
)
_CAUTION = (
    "The unit of intervals and tests is the fold, whose speakers share a model; seeds are averaged. p-values are"
    " adjusted over the sentences above (Holm); intervals are not. How often both are right: `docs/statistics.md`."
)


def summary_files(
    folder: Path,
    places: Sequence[Place],
    groups: Sequence[Mapping[str, Any]],
    *,
    varied: Sequence[str],
    title: str,
    baselines: bool,
    figures: Sequence[str] = (),
    failed: Mapping[str, str] | None = None,
    impossible: Sequence[str] = (),
) -> dict[str, str]:
    """The text of `study.csv`, `summary.csv` and `summary.md`, from the cells that are whole.

    Args:
        folder: Of the study: a sub-folder a cell.
        places: Its grid.
        groups: What `study_groups` returned for these.
        varied: Options that the grid varies.
        title: Name of the study.
        baselines: Whether those in the folder are shown.
        figures: Names of the figures that lie beside the summary.
        failed: Cells that are not whole, with the reason.
        impossible: Combinations that no run can be made of, with the reason.
    """
    files = {}
    corpora = {read_json(folder / group["cells"][0] / RESULTS)["corpus"]["description"]: None for group in groups}
    parts = [f"# Study {title}", *corpora]
    if groups:
        files[STUDY_ROWS] = csv_text(study_rows(folder, places))
        files[STUDY_GROUPS] = csv_text(groups)
        known = baselines_of(folder, groups) if baselines else []
        parts += [group_table([*groups, *known], varied=varied), _LEGEND]
        parts += [f"![{Path(name).stem}]({name})" for name in figures]
        if found := sentences(folder, groups, varied=varied):
            parts += ["## What the numbers say", "\n".join(f"- {line}" for line in found), _CAUTION]
    if failed:
        parts += ["## Failed", "\n".join(f"- `{name}`: {' '.join(why.split())}" for name, why in failed.items())]
    if impossible:
        parts += ["## Not possible", "\n".join(f"- {line}" for line in impossible)]
    return {**files, STUDY_SUMMARY: "\n\n".join(parts) + "\n"}
