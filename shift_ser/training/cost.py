"""What a training takes: trained parameters, seconds, peak memory."""

import contextlib
import resource
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

# Names in the Trainer's log, which its checkpoints keep: by the clock, and of this process's processors.
_CLOCKS = {"seconds": time.perf_counter, "cpu_seconds": time.process_time}
_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")  # Linux


class TrainingTime(TrainerCallback):
    """Adds the seconds since training began to each entry of the Trainer's log; a resumed training counts on."""

    def __init__(self) -> None:
        self._start: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start where the last checkpoint stopped."""
        before = training_seconds(state.log_history)
        self._start = {name: clock() - before[name] for name, clock in _CLOCKS.items()}

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the time in the entry that was just made."""
        for name, start in self._start.items():
            state.log_history[-1][f"training_{name}"] = _CLOCKS[name]() - start


def training_seconds(log: Iterable[dict[str, float]]) -> dict[str, float]:
    """`seconds` and `cpu_seconds` of the epochs in a Trainer's log, scoring included; not what a kill threw away."""
    entries = list(log)
    return {name: max((entry.get(f"training_{name}", 0.0) for entry in entries), default=0.0) for name in _CLOCKS}


def count_parameters(*modules: nn.Module) -> dict[str, int]:
    """`trainable_parameters` and all `parameters` of modules that share none; a missing encoder counts by itself."""
    parameters = {id(value): value for module in modules for value in module.parameters()}.values()
    trainable = sum(value.numel() for value in parameters if value.requires_grad)
    return {"trainable_parameters": trainable, "parameters": sum(value.numel() for value in parameters)}


def reset_peak_memory() -> None:
    """Forget the highest memory so far, where the system lets us (CUDA, Linux)."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # then the peak is that of the whole process
        _RESET.write_text("5", encoding="ascii")


def peak_memory_mb() -> float:
    """Highest memory since `reset_peak_memory`, in 10**6 bytes: of the GPU if there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
