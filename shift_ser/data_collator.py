"""Examples of any length -> one zero-padded batch with its mask."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

_TIME_AXIS = {("input_values", 1): 0, ("encoder_hidden_states", 2): 0, ("encoder_hidden_states", 3): 1}
_SHAPES = "input_values (samples,) or encoder_hidden_states (time, channels) or (layers, time, channels)"


@dataclass
class DataCollatorForShift:
    """Pad on the right with zeros, and say in `attention_mask` what is not padding.

    Each example holds either `input_values`, shape `(samples,)`, as the feature extractor normalised them, or
    `encoder_hidden_states`, shape `(time, channels)` or, for a weighted sum of layers, `(layers, time, channels)`;
    and `labels`, an int, unless no example has it. Values may be tensors, arrays or lists.

    Returns:
        The padded float32 tensor under its own name, shape `(batch, samples)`, `(batch, time, channels)` or
        `(batch, layers, time, channels)`; `attention_mask`, long, `(batch, samples)` or `(batch, time)`, 1 where
        the example is; `labels`, long, `(batch,)`.

    Raises:
        ValueError: If there is no example, or keys or shapes are not as above, or an example is empty.

    Example:
        >>> batch = DataCollatorForShift()([{"input_values": [1.0, 2.0]}, {"input_values": [3.0]}])
        >>> batch["input_values"].tolist(), batch["attention_mask"].tolist()
        ([[1.0, 2.0], [3.0, 0.0]], [[1, 1], [1, 0]])
    """

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Make one batch of `examples`."""
        name = _input_name(examples)
        arrays = [np.asarray(example[name]) for example in examples]
        axis = _time_axis(arrays, name=name)
        lengths = [array.shape[axis] for array in arrays]
        size = max(lengths)
        if min(lengths) == 0:
            raise ValueError(f"the length of {name} must be at least 1, got {sorted(set(lengths))}")

        shape = list(arrays[0].shape)
        shape[axis] = size
        padded = np.zeros((len(arrays), *shape), dtype=np.float32)
        mask = np.zeros((len(arrays), size), dtype=np.int64)
        for row, (array, length) in enumerate(zip(arrays, lengths, strict=True)):
            np.moveaxis(padded[row], axis, 0)[:length] = np.moveaxis(array, axis, 0)
            mask[row, :length] = 1
        batch = {name: torch.from_numpy(padded), "attention_mask": torch.from_numpy(mask)}
        if "labels" in examples[0]:
            batch["labels"] = torch.tensor([int(example["labels"]) for example in examples])
        return batch


def _input_name(examples: Sequence[Mapping[str, Any]]) -> str:
    """The one input that all examples hold, by itself or with `labels`."""
    found = sorted({tuple(sorted(example)) for example in examples})
    names = set(found[0]) - {"labels"} if len(found) == 1 else set()
    if names not in ({"input_values"}, {"encoder_hidden_states"}):
        raise ValueError(
            "examples must all hold the same keys, input_values or encoder_hidden_states, and labels or not; "
            f"got {len(examples)} examples with {found}"
        )
    return names.pop()


def _time_axis(arrays: Sequence[np.ndarray], *, name: str) -> int:
    """The axis along which examples may differ."""
    shapes = [array.shape for array in arrays]
    axis = _TIME_AXIS.get((name, len(shapes[0])))
    if axis is None or len({(len(shape), shape[:axis], shape[axis + 1 :]) for shape in shapes}) > 1:
        raise ValueError(f"an example is {_SHAPES}, alike but for samples or time; got {name} of {sorted(set(shapes))}")
    return axis
