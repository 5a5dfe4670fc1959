"""What a run refuses before it touches its folder: flags that it would ignore, and numbers out of range."""

import math
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

from transformers.integrations.integration_utils import get_reporting_integration_callbacks

from ..model.losses import PROBLEM_TYPES

_EPOCHS = "a fold is scored and saved after every epoch"
_SELECTS = "the protocol and selection_metric say what selects the epoch"
_RESUMES = "the same command goes on from the last whole checkpoint by itself"
_SCORES = "a fold is scored by what problem_type tells"
_PUSHES = "the finished run is pushed once"
# Arguments of the Trainer that a run does not follow, each with what it does instead.
FIXED = {
    "do_train": "a run trains; evaluate_only scores it again",
    "do_eval": _EPOCHS,
    "do_predict": "every run scores its test sets",
    **dict.fromkeys(("resume_from_checkpoint", "ignore_data_skip", "restore_callback_states_from_checkpoint"),
                    _RESUMES),
    **dict.fromkeys(("eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "save_strategy", "save_steps"),
                    _EPOCHS),
    "save_only_model": "a checkpoint without the optimizer cannot be gone on from",
    **dict.fromkeys(("load_best_model_at_end", "metric_for_best_model", "greater_is_better"), _SELECTS),
    **dict.fromkeys(("prediction_loss_only", "include_for_metrics", "batch_eval_metrics", "label_names"), _SCORES),
    "remove_unused_columns": "examples hold nothing else than the model reads",
    "length_column_name": "lengths are those of the recordings",
    "auto_find_batch_size": "results depend on the size of a batch",
    **dict.fromkeys(("hub_strategy", "hub_always_push", "hub_revision"), _PUSHES),
}  # fmt: skip
# What may be said of them beside the default, since it is what the run does.
_DONE_ANYWAY: dict[str, Any] = {"eval_strategy": "epoch", "save_strategy": "epoch", "do_eval": True, "do_predict": True,
                                "greater_is_better": True}  # fmt: skip
# Which arguments each schedule of the learning rate reads.
SCHEDULE_READS = {
    "authors_cosine": ("warmup_epochs", "warmup_learning_rate", "min_learning_rate"),
    "authors_finetuning": ("warmup_epochs",),
    "transformers": ("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps"),
}
_POSITIVE, _NOT_NEGATIVE, _BELOW_ONE = (0.0, math.inf, "()"), (0.0, math.inf, "[)"), (0.0, 1.0, "[)")
_COUNT = (1, math.inf, "[)")
# Lowest and highest value of each number, and whether the ends belong to it.
RANGES = {
    **dict.fromkeys(("learning_rate", "adam_epsilon", "num_train_epochs", "max_seconds", "max_batch_seconds"),
                    _POSITIVE),
    **dict.fromkeys(("weight_decay", "max_grad_norm", "warmup_steps", "warmup_epochs", "warmup_learning_rate",
                     "min_learning_rate", "dataloader_num_workers", "neftune_noise_alpha", "focal_gamma",
                     "mixup_alpha"), _NOT_NEGATIVE),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "label_smoothing_factor"), _BELOW_ONE),
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps",
                     "eval_accumulation_steps", "save_total_limit", "dataloader_prefetch_factor",
                     "ddp_timeout", "augment_variants"), _COUNT),
    **dict.fromkeys(("seed", "data_seed", "seeds"), (0, 2**32, "[)")),
    "folds": _COUNT,
    "num_folds": (3, math.inf, "[)"),
}  # fmt: skip


def check_numbers(arguments: Any) -> None:
    """Refuse numbers of an argument class that no run can be made with; NaN and infinity are none of them."""
    for name, (low, high, ends) in RANGES.items():
        value = getattr(arguments, name, None)
        for number in value if isinstance(value, list) else [value]:
            if number is not None and not (low < number < high or (number == low and ends[0] == "[")):
                rule = f"above {low:g}" if ends[0] == "(" else f"at least {low:g}"
                below = "finite" if high == math.inf else f"below {high:g}"
                raise ValueError(f"{name} must be {rule} and {below}, got {value}")
    steps = getattr(arguments, "max_steps", -1)
    if steps != -1 and not steps >= 1:
        raise ValueError(f"max_steps must be at least 1, or -1 for none, got {steps}")


def check_ignored(arguments: Any) -> None:
    """Refuse what a run would take and ignore; `arguments` is what was said, before the run sets its own values."""
    options = {field.name: field for field in fields(arguments)}
    for name, reason in FIXED.items():
        if _is_said(arguments, options[name]) and _plain(getattr(arguments, name)) != _DONE_ANYWAY.get(name):
            raise ValueError(f"{name} must be left out: {reason}; got {_plain(getattr(arguments, name))!r}")
    if not arguments.selects and _is_said(arguments, options["selection_metric"]):
        raise ValueError(
            f"selection_metric must be left out with protocol {arguments.protocol!r}, where nothing selects; got"
            f" {arguments.selection_metric!r}"
        )
    read = SCHEDULE_READS[arguments.schedule]
    for names in SCHEDULE_READS.values():
        for name in names:
            if name not in read and _is_said(arguments, options[name]):
                raise ValueError(
                    f"{name} must be left out with schedule {arguments.schedule!r}, which reads {', '.join(read)};"
                    f" got {_plain(getattr(arguments, name))!r}"
                )


def refuse_said(arguments: Any, names: Collection[str], *, reason: str) -> None:
    """Refuse options that were said and would be ignored.

    Raises:
        ValueError: If one of `names` has another value than its default; the message gives the reason.
    """
    for option in fields(arguments):
        if option.name in names and _is_said(arguments, option):
            raise ValueError(
                f"{option.name} must be left out: {reason}; got {_plain(getattr(arguments, option.name))!r}"
            )


def check_together(model_args: Any, data_args: Any, run_args: Any) -> None:
    """Refuse what is said to one argument class and means nothing for what is said to another."""
    problem_type = model_args.problem_type or "single_label_classification"
    problem = PROBLEM_TYPES[problem_type]
    of_classes = ("class_weights", "balanced_sampling", "focal_gamma", "label_smoothing_factor")
    if (said := [name for name in of_classes if getattr(run_args, name)]) and not problem.classes:
        raise ValueError(
            f"{said[0]} must be left out with problem_type {problem_type!r}, which has no classes; got"
            f" {getattr(run_args, said[0])!r}"
        )
    if data_args.other_votes and not problem.soft:
        raise ValueError(f"other_votes must be left out with problem_type {problem_type!r}, which reads no votes")
    allowed = [*(("wa", "ua") if problem.classes else ()), *(("ccc",) if problem.dimensions else ())]
    if run_args.selection_metric not in allowed and (problem.classes or run_args.selection_metric != "ua"):
        raise ValueError(
            f"selection_metric must be one of {allowed} with problem_type {problem_type!r}, got"
            f" {run_args.selection_metric!r}"
        )
    if data_args.cache_convolutions and model_args.scenario == "feature_extraction":
        raise ValueError(
            "cache_convolutions must be left out with scenario 'feature_extraction', which keeps the frames of the"
            " whole encoder; got True"
        )
    if run_args.mixup_alpha and problem.dimensions:
        raise ValueError(
            f"mixup_alpha must be 0 with problem_type {problem_type!r}: the loss of dimensions compares the values of"
            f" a batch, and a mixed value is none that a rater gave; got {run_args.mixup_alpha:g}"
        )
    _check_kept(model_args, data_args, run_args)
    if run_args.final and model_args.encoder_of_each_fold:
        raise ValueError(
            f"final must be false with an encoder for each fold, got True with encoder {model_args.encoder!r}"
        )


def _check_kept(model_args: Any, data_args: Any, run_args: Any) -> None:
    """Refuse what needs frames that are kept where none are, and what does not go with labels of frames."""
    kept = model_args.scenario == "feature_extraction" or data_args.cache_convolutions
    if model_args.frame_labels and not kept:
        raise ValueError(
            "frame_labels must go with frames that are kept, which have a known end: scenario 'feature_extraction', or"
            " cache_convolutions; got True without"
        )
    by_length = run_args.max_batch_seconds or run_args.train_sampling_strategy == "group_by_length"
    if model_args.frame_labels and (run_args.mixup_alpha or by_length):
        raise ValueError(
            "frame_labels must be left out with mixup_alpha and with batches of utterances of like length, got True"
        )
    if not (run_args.augment and kept):
        refuse_said(run_args, ["augment_variants"], reason="it counts draws of augment where frames are kept")


def check_trackers(report_to: Any) -> None:
    """Refuse a tracker that is not known or not installed; a run would find that out in its first fold."""
    for name in [report_to] if isinstance(report_to, str) else report_to or []:
        if name not in ("none", "all"):
            try:
                for tracker in get_reporting_integration_callbacks(name):
                    tracker()
            except (ImportError, RuntimeError, ValueError) as error:
                raise ValueError(f"report_to must name trackers that are installed, got {name!r}: {error}") from error


def _is_said(arguments: Any, option: Field) -> bool:
    default = option.default_factory() if option.default_factory is not MISSING else option.default
    value = getattr(arguments, option.name)
    empty = isinstance(value, (list, Mapping)) and not value
    return not empty and _plain(value) != _plain(default)


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)
