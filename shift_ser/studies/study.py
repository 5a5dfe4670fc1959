"""A study: its cells run as ordinary runs, one pass of the encoder for all; tables, figures and a summary of them."""

import hashlib
import logging
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cpu import keep_freed_memory
from ..evaluation.run_folder import (
    CELL,
    STUDY_SUMMARY,
    write_json,
    write_text,
)
from ..model.modeling_shift_ser import ShiftForSequenceClassification
from ..training.arguments import parse_arguments
from ..training.batching import DataCollatorForShift
from ..training.cross_validation import CrossValidation
from ..training.threads import on_threads
from .baselines import add_baselines
from .figures import draw_figures
from .grid import StudyPlan, plan_study
from .mingling import measure_blocks
from .summary import summary_files
from .table import study_groups

logger = logging.getLogger(__name__)

MEASURED_UTTERANCES = 16


@dataclass(frozen=True)
class Study:
    """What a study came to.

    Attributes:
        plan: What was asked for.
        failed: Cells that are not whole, with the reason.
        summary: The text of `summary.md`.
    """

    plan: StudyPlan
    failed: dict[str, str]
    summary: str


def run_study(
    study: str | Path | StudyPlan,
    *,
    output_dir: str | Path | None = None,
    jobs: int = 1,
    corpus: str | Path | None = None,
    title: str | None = None,
) -> Study:
    """Run what a study asks for and what is not there yet, and report all of it.

    Cells are folders of ordinary runs in `output_dir`. A finished one is never touched again, one that was stopped
    goes on, one that fails is reported with its reason and tried again in the next call. Every cell runs on one
    thread of the CPU, however many run at once, so that `jobs` changes no number; the encoder's pass takes all threads.

    Args:
        study: YAML file, see `plan_study`, or its plan.
        output_dir: Folder of the study, in place of the one in the file.
        jobs: Cells that run at the same time, each in a process of its own.
        corpus: Where the corpus lies, in place of what the file says.
        title: Headline of the summary; default: the file's name.

    Returns:
        The plan, what failed, and the summary. `output_dir` holds `study.csv` (a row for each place of the grid, seed
        and fold), `summary.csv` (one for each point of the figures), `summary.md` and the figures.

    Raises:
        ValueError: If `jobs` is below 1, or the file breaks a rule of `plan_study`.
        FileNotFoundError: If there is no such file.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    plan = study if isinstance(study, StudyPlan) else plan_study(study, output_dir=output_dir, corpus=corpus)
    title = title or (plan.output_dir.name if isinstance(study, StudyPlan) else Path(study).stem)
    todo = [name for name in plan.cells if not (plan.output_dir / name / CELL).exists()]
    logger.info(
        "%d places, %d cells, %d of them to run: %s", len(plan.places), len(plan.cells), len(todo), plan.output_dir
    )
    failed = _encode(plan, todo)
    ready = [name for name in todo if name not in failed]
    for number, (name, reason) in enumerate(_run_cells(plan, ready, jobs), 1):
        logger.info("cell %d of %d: %s %s", number, len(ready), name, reason or "is done")
        failed |= {name: reason} if reason else {}
    if plan.baselines:
        failed |= add_baselines(plan)
    return Study(plan, failed, _report(plan, failed, title=title))


def run_cell(words: Sequence[str], folder: Path, *, keep_models: bool) -> None:
    """Run one cell, measure its models, and note that it is whole.

    Args:
        words: Its options, as `parse_arguments` takes them.
        folder: Where it lies.
        keep_models: Whether the folds' weights stay.

    Raises:
        RuntimeError: If a fold is missing; the message has the reasons.
    """
    run = CrossValidation(*parse_arguments([*words, "--output_dir", str(folder)]))
    with on_threads(1):
        results = run.run()
        asked = run.run_args.folds or [plan.fold for plan in run.plans]
        missing = [entry for entry in results["missing"] if entry["fold"] in asked]
        if missing:
            raise RuntimeError("; ".join(f"fold {entry['fold']}: {entry['reason']}" for entry in missing))
        measures = {str(fold.plan.fold): _measure(run, fold) for fold in run.fold_runs if fold.plan.fold in asked}
    weights = {str(path.relative_to(folder)): _digest(path) for path in sorted(folder.glob("**/*model*.safetensors"))}
    write_json(folder / CELL, {"words": list(words), "folds": measures, "weights": weights})
    if not keep_models:
        for path in folder.glob("**/*model*.safetensors"):
            path.unlink()


def _digest(path: Path) -> str:
    """SHA-256 of a file, by which weights are known that are not kept."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _measure(run: CrossValidation, fold: Any) -> dict[str, float]:
    """Mingling, misalignment and size of a fold's model, on utterances of its test set."""
    model = ShiftForSequenceClassification.from_pretrained(fold.folder)
    fold.take_encoder(model)
    every = max(1, len(fold.plan.test) // MEASURED_UTTERANCES)
    names = fold.plan.test[::every][:MEASURED_UTTERANCES]
    examples = run.corpus.examples(names)
    inputs = DataCollatorForShift()([examples[index] for index in range(len(names))])
    inputs.pop("labels")
    size = sum(weight.numel() for part in (model.shift_ser.head, model.classifier) for weight in part.parameters())
    return {**measure_blocks(model.cpu(), inputs), "head_parameters": size}


def _encode(plan: StudyPlan, names: Sequence[str]) -> dict[str, str]:
    """Let each encoder encode each corpus once, before cells start that share what it gives.

    Returns:
        The cells whose corpus or encoder cannot be read, with the reason: they are not started.
    """
    wanted: dict[tuple[Any, ...], dict[int | str, Any]] = {}
    cells: dict[str, tuple[Any, ...]] = {}
    for name in names:
        arguments = parse_arguments([*plan.cells[name], "--output_dir", str(plan.output_dir / name)])
        model_args, data_args, _ = arguments
        cells[name] = (model_args.encoder, model_args.scenario, model_args.mask_padding, *vars(data_args).values())
        layer = "last" if model_args.encoder_layer is None else model_args.encoder_layer
        wanted.setdefault(cells[name], {})["all" if model_args.use_weighted_layer_sum else layer] = arguments
    reasons = {}
    for key, outputs in wanted.items():
        layers = [output for output in outputs if isinstance(output, int)]
        if len(layers) > 1:  # one pass for all of them
            others = {output: outputs[output] for output in outputs if output not in layers}
            outputs = {"all": outputs[layers[0]], **others}
        try:
            for output, arguments in outputs.items():
                run = CrossValidation(*arguments)
                model = run.fold_runs[0].new_model()
                if output == "all":
                    encoder, name = model.shift_ser.encoder.to(run.run_args.device), run.model_args.encoder_of(1)
                    run.corpus.encode(encoder, output=output, name=name)
                else:
                    run.fold_runs[0].take_encoder(model)
        except Exception as error:
            reasons[key] = _reason(error)
    return {name: reasons[key] for name, key in cells.items() if key in reasons}


def _run_cells(plan: StudyPlan, names: Sequence[str], jobs: int) -> Iterator[tuple[str, str | None]]:
    """Run cells, `jobs` at a time, and tell of each as it ends: its name, and the reason if it failed."""
    calls = {name: (plan.cells[name], plan.output_dir / name, plan.keep_models) for name in names}
    if jobs == 1 or len(names) < 2:
        yield from ((name, _try_cell(*call)) for name, call in calls.items())
        return
    level = logging.getLogger().getEffectiveLevel()
    context = multiprocessing.get_context("spawn")  # torch's threads do not outlive a fork
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin_worker, initargs=(level,)) as pool:
        futures = {pool.submit(_try_cell, *call): name for name, call in calls.items()}
        for future in as_completed(futures):
            error = future.exception()  # only if the process itself died
            yield futures[future], _reason(error) if error else future.result()


def _try_cell(words: Sequence[str], folder: Path, keep_models: bool) -> str | None:
    try:
        run_cell(words, folder, keep_models=keep_models)
    except Exception as error:
        logger.debug("%s failed", folder.name, exc_info=True)
        return _reason(error)
    return None


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _begin_worker(level: int) -> None:
    """Log as the main process does, and end with it: a worker left behind would go on writing into its cell."""
    logging.basicConfig(level=level, format="%(message)s")
    keep_freed_memory()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _report(plan: StudyPlan, failed: dict[str, str], *, title: str) -> str:
    """Write tables, figures and summary from the cells that are whole; gives the summary."""
    plan.output_dir.mkdir(parents=True, exist_ok=True)
    groups = study_groups(plan.output_dir, plan.places)
    figures = draw_figures(plan.output_dir, groups, varied=plan.varied) if groups else []
    texts = summary_files(
        plan.output_dir,
        plan.places,
        groups,
        varied=plan.varied,
        title=title,
        baselines=plan.baselines,
        figures=[path.name for path in figures],
        failed=failed,
        impossible=plan.impossible,
    )
    for name, text in texts.items():
        write_text(plan.output_dir / name, text)
    return texts[STUDY_SUMMARY]
