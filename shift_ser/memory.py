"""Memory: what a computation takes, counted from shapes without running it, and what a device has left."""

import contextlib
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_CGROUP = Path("/sys/fs/cgroup")  # of a container that has a limit (Linux, version 2)
_LSTM = torch.ops.aten.mkldnn_rnn_layer.default


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make, and the most that there are at once (`peak`)."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if func is _LSTM and isinstance(made[0], FakeTensor) and torch.is_grad_enabled():
            made = (*made[:3], _kept_by_lstm(args[0], made[0]))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage())._cdata not in self.known:
                self.known[storage._cdata] = storage.nbytes()
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._gone, storage._cdata)
        return made

    def _gone(self, key: int) -> None:
        self.live -= self.known.pop(key)


def _kept_by_lstm(frames: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """What oneDNN keeps of an LSTM for the way back, as seen for many widths: without values torch keeps nothing."""
    width = output.shape[-1]
    return output.new_empty(*output.shape[:2], 9 * width + 6 * max(width, frames.shape[-1]), dtype=torch.float32)


@contextlib.contextmanager
def counting() -> Iterator[LiveBytes]:
    """Inside, tensors have shapes and no values, and their bytes are counted: nothing is computed."""
    with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes() as count:
        yield count


def free_memory(device: torch.device) -> int:
    """Bytes that a device has left for this process: of a CPU those of the machine, or of the container it runs in."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    try:
        limit, taken = ((_CGROUP / name).read_text() for name in ("memory.max", "memory.current"))
        return min(free, int(limit) - int(taken))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free
