"""What studies will take: cells, folds and optimizer steps, counted; hours only from steps that were timed here."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

from ..corpora import load_corpus
from ..evaluation.run_folder import CELL
from ..model.losses import DIMENSIONS, PROBLEM_TYPES
from ..model.modeling_shift_ser import ShiftForSequenceClassification
from ..training.arguments import DataArguments, ModelArguments, RunArguments, parse_arguments
from ..training.data import build_feature_extractor
from ..training.protocols import PlanOptions, plan_folds, settled
from ..training.rehearsal import Rehearsal
from .grid import StudyPlan

_TIMED = 3  # steps, after one that is not timed
# Options of the model that change what a step computes and not how long it takes.
_FREE = ("shift_proportion", "shift_direction", "shift_stride", "shift_padding", "mask_time", "mask_feature",
         "adapter_alpha", "adapter_dropout", "encoder_layerdrop")  # fmt: skip
# Options of the run that change how long it takes.
_TIMED_OPTIONS = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "bf16",
                  "fp16", "gradient_checkpointing")  # fmt: skip


@dataclass
class Cost:
    """Of the cells that are not whole yet.

    Attributes:
        cells: Runs.
        folds: Trainings.
        steps: Optimizer steps; `None` if batches are made by seconds, which takes all lengths to count.
        seconds: Of training and scoring, estimated; `None` if nothing was timed.
    """

    cells: int = 0
    folds: int = 0
    steps: int | None = 0
    seconds: float | None = None


def study_cost(plan: StudyPlan, *, timed: dict[str, tuple[float, float]] | None = None) -> Cost:
    """Count what a study has still to do; with `timed`, estimate how long it takes.

    Args:
        plan: The study's.
        timed: Seconds of a training step and of scoring a batch, by all that they depend on; what is new is timed and
            added. `None`: nothing is timed.
    """
    cost, sizes = Cost(seconds=None if timed is None else 0.0), {}
    for name, words in plan.cells.items():
        if (plan.output_dir / name / CELL).exists():
            continue
        model_args, data_args, run_args = parse_arguments([*words, "--output_dir", str(plan.output_dir / name)])
        key = str([data_args, *(getattr(run_args, name) for name in ("protocol", *_plan_names()))])
        if key not in sizes:
            sizes[key] = part_sizes(data_args, run_args)
        folds = {fold: parts for fold, parts in sizes[key].items() if not run_args.folds or fold in run_args.folds}
        cost.cells, cost.folds = cost.cells + 1, cost.folds + len(folds)
        for train, scored in folds.values():
            steps = fold_steps(train, run_args)
            cost.steps = None if steps is None or cost.steps is None else cost.steps + steps
            if timed is not None and cost.seconds is not None and steps is not None:
                step, batch = timing(timed, model_args, data_args, run_args)
                batches = math.ceil(scored / run_args.per_device_eval_batch_size) * run_args.num_train_epochs
                cost.seconds += steps * step + batches * batch
    return cost


def _plan_names() -> list[str]:
    return [field.name for field in fields(PlanOptions)]


def part_sizes(data_args: DataArguments, run_args: RunArguments) -> dict[int, tuple[int, int]]:
    """For each fold of a run: utterances trained on, and utterances scored after every epoch."""
    dataset = load_corpus(data_args.corpus, **data_args.corpus_options())
    options = {name: getattr(run_args, name) for name in _plan_names()}
    said = {name: options[name] for name in ("fold_unit", "validation")}
    plans = plan_folds(dataset, **(options | settled(dataset, protocol=run_args.protocol, **said)))
    return {plan.fold: (len(plan.train), len(plan.validation) + len(plan.test)) for plan in plans}


def fold_steps(num_train: int, run_args: RunArguments) -> int | None:
    """Optimizer steps of a fold; `None` if batches are made by seconds. A refit is not counted."""
    if run_args.max_steps > 0:
        return run_args.max_steps
    if run_args.max_batch_seconds is not None:
        return None
    size = run_args.per_device_train_batch_size
    batches = num_train // size if run_args.dataloader_drop_last else math.ceil(num_train / size)
    return math.ceil(max(1, math.ceil(batches / run_args.gradient_accumulation_steps)) * run_args.num_train_epochs)


def timing(
    timed: dict[str, tuple[float, float]], model_args: ModelArguments, data_args: DataArguments, run_args: RunArguments
) -> tuple[float, float]:
    """What `time_model` says of these arguments, or said of others that take as long.

    Args:
        timed: What was said before, by all that it depends on; what is new is added.
        model_args: As for `time_model`.
        data_args: As there.
        run_args: As there.
    """
    model = {name: value for name, value in vars(model_args).items() if not name.startswith(_FREE)}
    told = (data_args.max_seconds, data_args.do_normalize, data_args.cache_convolutions)
    key = str((model, told, *(getattr(run_args, name) for name in _TIMED_OPTIONS)))
    if key not in timed:
        timed[key] = time_model(model_args, data_args, run_args)
    return timed[key]


def time_model(
    model_args: ModelArguments, data_args: DataArguments, run_args: RunArguments, *, steps: int = _TIMED
) -> tuple[float, float]:
    """Seconds of one training step and of scoring one batch, on this machine, with noise of full length.

    Args:
        model_args: Encoder, head and scenario, with adapters if there are some; of a frozen encoder, or of frozen
            convolutions that are kept, the pass over the corpus is not timed.
        data_args: The length, and whether what the convolutions make is kept.
        run_args: Batch sizes, precision and the device.
        steps: How many are timed, after one that is not.
    """
    options = model_args.config_options()
    problem = PROBLEM_TYPES[options.get("problem_type") or "single_label_classification"]
    dimensions = (options.get("dimensions") or DIMENSIONS) if problem.dimensions else ()
    names = dict(enumerate([*(("a", "b", "c", "d") if problem.classes else ()), *dimensions]))
    model = ShiftForSequenceClassification.from_encoder_pretrained(
        model_args.encoder_path, **options, id2label=names, label2id={name: index for index, name in names.items()}
    )
    rehearsal = Rehearsal(
        model, model_args=model_args, data_args=data_args, run_args=run_args,
        feature_extractor=build_feature_extractor(model_args, data_args),
    )  # fmt: skip
    rehearsal.place()
    sizes = (run_args.per_device_train_batch_size, run_args.per_device_eval_batch_size)
    train, score = (rehearsal.batch(size, rehearsal.speech(data_args.max_seconds)) for size in sizes)
    return _seconds(rehearsal.train, train, steps), _seconds(rehearsal.score, score, steps)


def _seconds(call: Any, inputs: Mapping[str, Any], steps: int) -> float:
    call(inputs)
    _wait()
    start = time.perf_counter()
    for _ in range(steps):
        call(inputs)
    _wait()
    return (time.perf_counter() - start) / steps


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def cost_text(plans: Mapping[str, StudyPlan], *, measure: bool = False) -> str:
    """What studies have still to do, a line each and one for all.

    Args:
        plans: The studies by name.
        measure: Whether to time a few steps of each kind of model and tell hours.
    """
    timed: dict[str, tuple[float, float]] | None = {} if measure else None
    costs = {name: study_cost(plan, timed=timed) for name, plan in plans.items()}
    lines = [_line(name, cost) for name, cost in costs.items()]
    if len(costs) > 1:
        steps = [cost.steps for cost in costs.values()]
        seconds = [cost.seconds for cost in costs.values()]
        total = Cost(
            sum(cost.cells for cost in costs.values()),
            sum(cost.folds for cost in costs.values()),
            None if None in steps else sum(step or 0 for step in steps),
            None if None in seconds else sum(second or 0.0 for second in seconds),
        )
        lines.append(_line("all", total))
    if measure:
        lines.append(
            f"hours: from {_TIMED} steps of each kind of model on this machine, on noise of full length, one run at a"
            " time; without the pass of frozen encoders, reading or augmenting speech, and baselines"
        )
    return "\n".join(["to be run:", *lines])


def _line(name: str, cost: Cost) -> str:
    steps = "steps not counted (batches by seconds)" if cost.steps is None else f"{cost.steps:,} steps"
    hours = "" if cost.seconds is None else f", about {cost.seconds / 3600:.1f} hours"
    return f"  {name}: {cost.cells} cells, {cost.folds} folds, {steps}{hours}"
