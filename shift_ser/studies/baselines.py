"""The baselines of a study: computed once for each corpus, encoder, layer and division into folds, and kept."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..evaluation.metrics import SCORES
from ..evaluation.run_folder import CELL, RESULTS, STUDY_BASELINES, read_json, write_json
from ..training.arguments import parse_arguments
from ..training.cross_validation import CrossValidation
from .grid import StudyPlan
from .table import COSTS

logger = logging.getLogger(__name__)

# What a row of the study's table tells of the corpus, its folds and the frames, as opposed to the head.
_KEPT = ("encoder", "encoder_layer", "corpus", "protocol", "fold_unit", "validation", "num_folds")
_READ = ("fingerprints", "plans", "scenario", "encoder_layer", "use_weighted_layer_sum", "max_seconds", "mask_padding")


def add_baselines(plan: StudyPlan) -> dict[str, str]:
    """Compute the baselines that are not there yet, for the cells that are whole.

    Args:
        plan: The study's.

    Returns:
        What failed, with the reason.
    """
    path = plan.output_dir / STUDY_BASELINES
    known = read_json(path) if path.exists() else {}
    failed = {}
    for name, words in plan.cells.items():
        if not (plan.output_dir / name / CELL).exists():
            continue
        key = baseline_key(plan.output_dir / name)
        if key in known:
            continue
        try:
            run = CrossValidation(*parse_arguments([*words, "--output_dir", str(plan.output_dir / name)]))
            known[key] = run.baselines(folds=run.run_args.folds)
        except (OSError, ValueError) as error:
            failed[f"baselines of {name}"] = f"{type(error).__name__}: {error}"
            continue
        write_json(path, known)
    return failed


def baselines_of(output_dir: Path, groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows for `group_table`, in place of groups: those of the baselines of all groups, each once.

    Args:
        output_dir: Folder of the study.
        groups: What `study_groups` returned.
    """
    path = output_dir / STUDY_BASELINES
    known = read_json(path) if path.exists() else {}
    rows: dict[str, dict[str, Any]] = {}
    for group in groups:
        first = output_dir / group["cells"][0]
        options = {name: group[name] if name in _KEPT else None for name in list(group)[: list(group).index("cells")]}
        for row in known.get(baseline_key(first), []):
            scores = {name: {**row[name], "low": None, "high": None} for name in SCORES}
            empty = dict.fromkeys(("optimism", "mingling", "misalignment", "head_parameters"))
            empty["cost"] = dict.fromkeys(COSTS)
            told = {**options, **scores, **empty, "head_type": row["name"], "runs": _num_folds(first)}
            rows.setdefault(json.dumps(told, default=str), told)
    return list(rows.values())


def baseline_key(folder: Path) -> str:
    """What the baselines of a cell depend on; cells with the same key share them."""
    settings = read_json(folder / RESULTS)["settings"]
    asked = sorted({result["fold"] for result in read_json(folder / RESULTS)["folds"]})
    return json.dumps([*(settings.get(name) for name in _READ), asked], sort_keys=True)


def _num_folds(folder: Path) -> int:
    return len({result["fold"] for result in read_json(folder / RESULTS)["folds"]})
