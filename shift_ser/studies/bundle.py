"""The bundle of a set of studies: everything needed to check its numbers, without audio, transcripts or weights.

bundle.json                      corpus, versions, hardware, commands, grids, and the SHA-256 of every other file
README.md                        our numbers beside the reported ones
STUDY/study.csv, summary.csv, summary.md, figures
STUDY/CELL/predictions.csv       a row for each utterance, fold and seed
STUDY/CELL/plans.json, results.json, cell.json
"""

import hashlib
import os
import platform
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..corpora import CORPORA, check_corpus, find_corpus
from ..evaluation.predictions import Predictions
from ..evaluation.public import public_name
from ..evaluation.run_folder import (
    CELL,
    PLANS,
    PREDICTIONS,
    RESULTS,
    STUDY_BASELINES,
    read_json,
    write_json,
    write_text,
)
from ..training.cross_validation import versions
from ..training.fold_plan import FoldPlan
from .bundle_page import page_text
from .figures import draw_figures
from .grid import Place, StudyPlan
from .summary import summary_files
from .table import study_groups

FORMAT = 1
BUNDLE = "bundle.json"
PAGE = "README.md"
_CORPUS = ("name", "title", "description", "language", "license", "synthetic")


def write_bundle(
    folder: str | Path, plans: Mapping[str, StudyPlan], *, title: str, corpus: str | Path, command: str
) -> Path:
    """Write the bundle of the cells that are whole; one that is there is replaced.

    Args:
        folder: Where to.
        plans: The studies by name.
        title: Name of the set.
        corpus: Where the corpus lies, to be checked against its published counts.
        command: The command line, without paths of this machine.

    Raises:
        ValueError: If no cell is whole, or the folder holds something else.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / BUNDLE).is_file():
        raise ValueError(f"a bundle must go to a new folder or replace a bundle, got {str(folder)!r}")
    whole = {name: [cell for cell in plan.cells if _is_whole(plan, cell)] for name, plan in plans.items()}
    if not any(whole.values()):
        raise ValueError("a bundle must hold at least one whole cell, no cell of these studies is")
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        groups: dict[str, list[dict[str, Any]]] = {}
        studies = {name: _write_study(part / name, plan, whole[name], groups) for name, plan in plans.items()}
        bundle = {
            "format": FORMAT,
            "title": title,
            "corpus": describe_corpus(part, studies, corpus),
            "commands": [command],
            "versions": versions(),
            "hardware": hardware(),
            "studies": studies,
        }
        write_text(part / PAGE, page_text(part, bundle, groups))
        write_json(part / BUNDLE, bundle | {"files": file_hashes(part)})
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _is_whole(plan: StudyPlan, cell: str) -> bool:
    return (plan.output_dir / cell / CELL).exists()


def _write_study(
    folder: Path, plan: StudyPlan, whole: Sequence[str], known: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """Copy what may be shown of each cell, sum the study up from the copies; gives its entry of `bundle.json`.

    Its groups are added to those that are known, by the folder's name.
    """
    folder.mkdir(parents=True)
    for cell in whole:
        _copy_cell(plan.output_dir / cell, folder / cell)
    baselines = plan.baselines and (plan.output_dir / STUDY_BASELINES).exists()
    if baselines:
        shutil.copyfile(plan.output_dir / STUDY_BASELINES, folder / STUDY_BASELINES)
    places = [Place({key: _shown(key, value) for key, value in p.options.items()}, p.cell) for p in plan.places]
    groups = known[folder.name] = study_groups(folder, places)
    figures = [path.name for path in draw_figures(folder, groups, varied=plan.varied)] if groups else []
    entry: dict[str, Any] = {
        "places": [asdict(place) for place in places],
        "varied": plan.varied,
        "baselines": baselines,
        "figures": figures,
        "missing": [cell for cell in plan.cells if cell not in whole],
    }
    for file, text in study_texts(folder, entry, groups).items():
        write_text(folder / file, text)
    return entry


def study_texts(folder: Path, entry: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Tables and sentences of a study in a bundle, from its cells, its entry of `bundle.json`, and its groups."""
    return summary_files(
        folder,
        entry_places(entry),
        groups,
        varied=entry["varied"],
        title=folder.name,
        baselines=entry["baselines"],
        figures=entry["figures"],
    )


def entry_places(entry: Mapping[str, Any]) -> list[Place]:
    """The grid of a study in a bundle."""
    return [Place(**place) for place in entry["places"]]


def _copy_cell(source: Path, target: Path) -> None:
    """Predictions and plans as they are; results and options without paths of this machine."""
    target.mkdir()
    for file in (PREDICTIONS, PLANS):
        shutil.copyfile(source / file, target / file)
    results = {name: value for name, value in read_json(source / RESULTS).items() if name != "source"}
    results["settings"] = {name: _shown(name, value) for name, value in results["settings"].items()}
    write_json(target / RESULTS, results)
    cell = read_json(source / CELL)
    write_json(target / CELL, cell | {"words": _public_words(cell["words"])})


def _public_words(words: Sequence[str]) -> list[str]:
    shown, option = [], ""
    for word in words:
        option = word if word.startswith("--") else option
        if option != "--cache_dir":
            shown.append(_shown(option.removeprefix("--"), word))
    return shown


def _shown(option: str, value: Any) -> Any:
    return public_name(value) if option in ("corpus", "encoder", "fold_lists") and isinstance(value, str) else value


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a bundle but `bundle.json`, by its path within."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / BUNDLE)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def describe_corpus(folder: Path, studies: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
    """What a bundle tells of its corpus: counts of the predictions, fingerprints, and the published counts."""
    results, counted = counts(folder, studies)
    entry = find_corpus(source)
    published, problems = None, []
    if entry is not None and entry.published:
        report = check_corpus(None, source)
        problems = list(report.problems)
        published = {
            "utterances": entry.published,
            "by_session": {str(unit): count for unit, count in report.published_units.items()},
            "by_original_label": dict(report.published_labels),
            "found_by_original_label": dict(report.labels),
        }
    told = {name: results["corpus"][name] for name in _CORPUS}
    fingerprints = {name: results["settings"]["fingerprints"][name] for name in ("samples", "labels")}
    known = {"counts": counted, "published": published, "counts_are_published": are_published(counted, published)}
    return {**told, "fingerprints": fingerprints, **known, "problems": problems}


def counts(folder: Path, studies: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The results of the first whole cell, and how many utterances its predictions are of, by session and label."""
    for name, entry in studies.items():
        for cell in dict.fromkeys(place["cell"] for place in entry["places"]):
            if cell not in entry["missing"]:
                table = Predictions.read(folder / name / cell / PREDICTIONS).table.drop_duplicates("utterance")
                counted: dict[str, Any] = {"utterances": len(table), "speakers": int(table["speaker"].nunique())}
                for column, key in (("session", "by_session"), ("label", "by_label")):
                    values = table.get(column, [])
                    counted[key] = {str(value): count for value, count in sorted(Counter(values).items())}
                plans = map(FoldPlan.from_dict, read_json(folder / name / cell / PLANS))
                counted["all_tested"] = set().union(*(plan.utterances for plan in plans)) <= set(table["utterance"])
                return read_json(folder / name / cell / RESULTS), counted
    raise ValueError("a bundle must hold at least one whole cell, this one holds none")


def are_published(counted: Mapping[str, Any], published: Mapping[str, Any] | None) -> bool | None:
    """Whether the counts are the published ones; `None` where none are published."""
    if published is None:
        return None
    same = counted["utterances"] == published["utterances"]
    for found, there in (
        (counted["by_session"], published["by_session"]),
        (published["found_by_original_label"], published["by_original_label"]),
    ):
        same = same and (not there or dict(found) == dict(there))
    return same


def published_total(name: str) -> int | None:
    """Utterances of the published corpus of that name; `None` if it is not known."""
    return CORPORA[name].published if name in CORPORA else None


def hardware() -> dict[str, Any]:
    """Processor, threads and accelerators; nothing that names this machine."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerators": gpus,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "not known")
