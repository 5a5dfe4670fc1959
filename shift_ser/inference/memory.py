"""What a pass over a recording takes of memory, counted without running it, and what the machine has left."""

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..model.pipeline_shift_ser import ShiftAudioClassificationPipeline

SCRATCH = 1.5  # what a pass was seen to take, as a multiple of its tensors: 1.3 to 1.4 beyond half a minute of speech
_CGROUP = Path("/sys/fs/cgroup")  # of a container that has a limit (Linux, version 2)


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make, and the most that there are at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage())._cdata not in self.known:
                self.known[storage._cdata] = storage.nbytes()
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._gone, storage._cdata)
        return made

    def _gone(self, key: int) -> None:
        self.live -= self.known.pop(key)


def pass_memory(classifier: ShiftAudioClassificationPipeline, seconds: float) -> int:
    """Bytes that a pass over a recording takes beside the weights; its tensors have shapes here and no values.

    Args:
        classifier: What `load_classifier` gives.
        seconds: Length of the recording.
    """
    reads = classifier.feature_extractor
    name, samples = reads.model_input_names[0], max(1, round(seconds * reads.sampling_rate))
    shape: Sequence[int] = (1, samples)
    if name != "input_values":  # how many frames a spectrogram has only its extractor knows
        shape = classifier.features([np.zeros(samples, np.float32)])[name].shape
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        values = torch.empty(shape, dtype=classifier.dtype, device=classifier.device)
        with _LiveBytes() as count:
            classifier.model(**{name: values})
        return round(SCRATCH * count.peak) + values.nbytes


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
