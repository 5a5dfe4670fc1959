"""The shift against one copy of its tensor."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch._inductor.config
from transformers import HubertConfig

from shift_ser import temporal_shift

from .measure import Experiment, Line, Way
from .workload import Sizes, num_frames

SETTINGS: dict[str, dict[str, Any]] = {
    "forward 1/16": {"proportion": 1 / 16, "direction": "forward"},
    "bidirectional 1/4": {"proportion": 1 / 4, "direction": "bidirectional"},
}


@dataclass
class Calls:
    """Some calls of the shift, or of `clone`, one after the other, on one tensor."""

    sizes: Sizes
    dtype: str
    setting: str | None
    backward: bool = False
    compiled: bool = False

    def prepare(self) -> None:
        """Make the tensor, and compile."""
        channels = HubertConfig(**self.sizes.encoder).hidden_size
        shape = (self.sizes.batch, num_frames(self.sizes.longest), channels)
        self.frames = torch.randn(shape).to(getattr(torch, self.dtype)).requires_grad_(self.backward)
        self.gradient = torch.randn(shape).to(self.frames.dtype)
        torch._inductor.config.compile_threads = 1  # no pool of compilers, which would go on beside what is timed
        function = torch.compile(self._function()) if self.compiled else self._function()
        self.function: Callable[[torch.Tensor], torch.Tensor] = function

    def _function(self) -> Callable[[torch.Tensor], torch.Tensor]:
        if self.setting is None:
            return torch.clone
        options = SETTINGS[self.setting]
        return lambda frames: temporal_shift(frames, **options)

    def run(self) -> None:
        """All calls."""
        for _ in range(self.sizes.shift_calls):
            moved = self.function(self.frames)
            if self.backward:
                moved.backward(self.gradient)
                self.frames.grad = None


def shift(sizes: Sizes) -> Experiment:
    """Ways in one process, all on tensors of one size."""
    ways, lines, each = {}, [], 1 / sizes.shift_calls
    kinds: dict[str, dict[str, bool]] = {"": {}, ", forward and backward": {"backward": True}}
    both = [(dtype, *kind) for kind in kinds.items() for dtype in ("float32", "bfloat16")]
    for dtype, kind, options in [*both, ("float32", ", compiled", {"compiled": True})]:
        copy = f"clone, {dtype}{kind}"
        ways[copy] = Way(Calls(sizes, dtype, None, backward="backward" in options), process="one")
        for setting in SETTINGS:
            name = f"{setting}, {dtype}{kind}"
            ways[name] = Way(Calls(sizes, dtype, setting, **options), process="one")
            lines.append(Line(name, {name: each}, {copy: each}, "shift", "clone"))
    shape = (sizes.batch, num_frames(sizes.longest), HubertConfig(**sizes.encoder).hidden_size)
    return Experiment(
        f"The shift against one copy, `clone`, of its tensor {shape}, in one process with kept memory;"
        f" {sizes.shift_calls} calls a round. The copy is never compiled.",
        ways,
        tuple(lines),
        repeats=50,
    )
