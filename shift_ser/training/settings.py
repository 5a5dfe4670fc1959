"""What the results of a run depend on: every argument but a named list of exceptions."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from enum import Enum
from typing import Any

from .arguments import DataArguments, ModelArguments, RunArguments

_FILES = "tells where files lie"
_FIXED = "RunArguments sets or refuses it"
_LOG = "changes what is logged"
_SPEED = "changes speed or memory, and numbers at most by rounding"
_HUB = "concerns the upload"
_PART = "tells which part of the run is done now"
# Arguments that no result depends on, each with the reason; everything else belongs to the settings of a run.
EXCEPTIONS = {
    "corpus": "the fingerprints of samples and labels stand for it",
    "baseline": "adds rows to the table and changes none",
    "final": "adds a model and changes no score",
    **dict.fromkeys(("output_dir", "cache_dir"), _FILES),
    **dict.fromkeys(("folds", "evaluate_only", "do_train", "resume_from_checkpoint"), _PART),
    **dict.fromkeys(
        ("logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node", "log_level", "disable_tqdm",
         "log_level_replica", "report_to", "run_name", "project", "trackio_space_id", "trackio_bucket_id",
         "trackio_static_space_id", "include_num_input_tokens_seen", "skip_memory_metrics", "debug"), _LOG,
    ),
    **dict.fromkeys(
        ("do_eval", "do_predict", "eval_strategy", "eval_steps", "eval_delay", "eval_on_start",
         "load_best_model_at_end", "prediction_loss_only", "include_for_metrics", "batch_eval_metrics",
         "metric_for_best_model",
         "greater_is_better", "logging_nan_inf_filter", "save_strategy", "save_steps", "save_only_model",
         "ignore_data_skip", "restore_callback_states_from_checkpoint", "remove_unused_columns", "label_names",
         "length_column_name", "auto_find_batch_size"), _FIXED,
    ),
    **dict.fromkeys(
        ("save_total_limit", "save_on_each_node", "enable_jit_checkpoint", "per_device_eval_batch_size",
         "eval_do_concat_batches", "eval_use_gather_object", "eval_accumulation_steps", "cache_convolutions",
         "torch_empty_cache_steps", "dataloader_num_workers", "dataloader_pin_memory", "dataloader_in_order",
         "dataloader_persistent_workers", "dataloader_prefetch_factor", "dataloader_multiprocessing_context",
         "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph", "ddp_backend",
         "ddp_timeout", "local_rank", "use_cpu", "parallelism_config", "fsdp", "fsdp_config", "deepspeed", "use_cache",
         "activation_checkpointing", "activation_checkpointing_kwargs", "gradient_checkpointing",
         "gradient_checkpointing_kwargs", "accelerator_config", "full_determinism", "tf32"), _SPEED,
    ),
    **dict.fromkeys(
        ("push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push",
         "hub_revision"), _HUB,
    ),
}  # fmt: skip
# Part of the settings for whoever reads them, but two runs that differ in them may be the same.
NOT_COMPARED = {
    "encoder": "the fingerprint of its weights stands for it: its folder may be named in several ways",
    "fold_lists": "the hashes of the plans stand for them",
}


def result_settings(model_args: ModelArguments, data_args: DataArguments, run_args: RunArguments) -> dict[str, Any]:
    """All arguments that the results depend on, as JSON knows them."""
    return argument_settings(model_args, data_args, run_args)


def argument_settings(*several: Any) -> dict[str, Any]:
    """The fields of argument classes that results depend on, as JSON knows them."""
    return {
        field.name: _plain(getattr(arguments, field.name))
        for arguments in several
        for field in fields(arguments)
        if field.name not in EXCEPTIONS
    }


def chosen_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of `result_settings` those that are not the default: an argument that a later release adds is not among them."""
    return {name: value for name, value in settings.items() if name not in _DEFAULTS or value != _DEFAULTS[name]}


def changed_settings(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """In what the settings of two runs differ: `name is ... there and ... here`, one entry a setting.

    An argument that `there` does not hold, since an older release wrote it, has its default there.
    """
    changed = []
    for name in (name for name in here if name not in NOT_COMPARED):
        before = there[name] if name in there else _DEFAULTS.get(name)
        if isinstance(here[name], Mapping) and isinstance(before, Mapping):
            parts = [part for part in here[name] if before.get(part) != here[name][part]]
            changed += [f"{name} of {part}: {before.get(part)!r} there and {here[name][part]!r} here" for part in parts]
            changed += [f"{name} of {part}: there and not here" for part in before if part not in here[name]]
        elif before != here[name]:
            changed.append(f"{name} is {before!r} there and {here[name]!r} here")
    return changed


def _plain(value: Any) -> Any:
    """A value as JSON gives it back."""
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value


_DEFAULTS = {
    field.name: _plain(field.default if field.default is not MISSING else None)
    for kind in (ModelArguments, DataArguments, RunArguments)
    for field in fields(kind)
}
