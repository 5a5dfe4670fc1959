"""Examples of any length -> one zero-padded batch with its mask."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

_TIME_AXIS = {
    ("input_values", 1): 0,
    ("extract_features", 2): 0,
    ("encoder_hidden_states", 2): 0,
    ("encoder_hidden_states", 3): 1,
}
_NAMES = tuple(dict.fromkeys(name for name, _ in _TIME_AXIS))
_SHAPES = "input_values (samples,), extract_features (time, channels), encoder_hidden_states ([layers,] time, channels)"
_KEPT = (torch.float16, torch.bfloat16)


@dataclass
class DataCollatorForShift:
    """Pad on the right with zeros, and say in `attention_mask` what is not padding.

    Each example holds one input: `input_values`, shape `(samples,)`, as the feature extractor normalised them,
    `extract_features`, shape `(time, channels)`, or `encoder_hidden_states`, shape `(time, channels)` or, for a
    weighted sum of layers, `(layers, time, channels)`; and `labels`, an int, unless no example has it. Values may be
    tensors, arrays or lists.

    Returns:
        The padded tensor under its own name, shape `(batch, samples)`, `(batch, time, channels)` or
        `(batch, layers, time, channels)`, float32 unless all examples are float16 or all bfloat16, which they stay;
        `attention_mask`, long, `(batch, samples)` or `(batch, time)`, 1 where the example is; `labels`, long,
        `(batch,)`.

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
        values = [_tensor(example[name]) for example in examples]
        axis = _time_axis(values, name=name)
        lengths = torch.tensor([value.shape[axis] for value in values])
        if lengths.min() == 0:
            raise ValueError(f"the length of {name} must be at least 1, got {sorted(set(lengths.tolist()))}")

        dtypes = {value.dtype for value in values}
        dtype = dtypes.pop() if len(dtypes) == 1 and dtypes <= set(_KEPT) else torch.float32
        padded = pad_sequence([value.to(dtype).movedim(axis, 0) for value in values], batch_first=True)
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        batch = {name: padded.movedim(1, 1 + axis), "attention_mask": mask.long()}
        if "labels" in examples[0]:
            batch["labels"] = torch.tensor([int(example["labels"]) for example in examples])
        return batch


def _input_name(examples: Sequence[Mapping[str, Any]]) -> str:
    """The one input that all examples hold, by itself or with `labels`."""
    found = sorted({tuple(sorted(example)) for example in examples})
    names = set(found[0]) - {"labels"} if len(found) == 1 else set()
    if len(names) != 1 or not names <= set(_NAMES):
        raise ValueError(
            f"examples must all hold the same keys, one of {', '.join(_NAMES)}, and labels or not; "
            f"got {len(examples)} examples with {found}"
        )
    return names.pop()


def _tensor(value: Any) -> torch.Tensor:
    """A tensor or array as it is, a list as floats."""
    if isinstance(value, torch.Tensor):
        return value
    array = np.asarray(value)
    return torch.from_numpy(array if array.flags.writeable else array.copy())  # torch warns of what it may not change


def _time_axis(values: Sequence[torch.Tensor], *, name: str) -> int:
    """The axis along which examples may differ."""
    shapes = [tuple(value.shape) for value in values]
    axis = _TIME_AXIS.get((name, len(shapes[0])))
    if axis is None or len({(len(shape), shape[:axis], shape[axis + 1 :]) for shape in shapes}) > 1:
        raise ValueError(f"an example is {_SHAPES}, alike but for samples or time; got {name} of {sorted(set(shapes))}")
    return axis
