"""Batches of utterances that are alike in length, so that little of a batch is padding."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Sampler

_TIME_AXIS = {
    ("input_values", 1): 0,
    ("input_features", 2): 0,
    ("extract_features", 2): 0,
    ("encoder_hidden_states", 2): 0,
    ("encoder_hidden_states", 3): 1,
}
_NAMES = tuple(dict.fromkeys(name for name, _ in _TIME_AXIS))
_SHAPES = (
    "input_values (samples,), input_features (time, bins), extract_features (time, channels), encoder_hidden_states"
    " ([layers,] time, channels)"
)
NO_LABEL = -100  # of frames that are padding, as for torch's cross-entropy
_KEPT = (torch.float16, torch.bfloat16)


@dataclass
class DataCollatorForShift:
    """Pad on the right with zeros, and say in `attention_mask` what is not padding.

    Each example holds one input: `input_values`, shape `(samples,)`, as the feature extractor normalised them,
    `input_features`, shape `(time, bins)`, as it made them,
    `extract_features`, shape `(time, channels)`, or `encoder_hidden_states`, shape `(time, channels)` or, for a
    weighted sum of layers, `(layers, time, channels)`; and `labels`, an int, floats `(outputs,)` or long `(time,)`, one
    for each frame, unless no example has it. Values may be tensors, arrays or lists.

    Returns:
        The padded tensor under its own name, shape `(batch, samples)`, `(batch, time, channels)` or
        `(batch, layers, time, channels)`, float32 unless all examples are float16 or all bfloat16, which they stay;
        `attention_mask`, long, `(batch, samples)` or `(batch, time)`, 1 where the example is; `labels`, long
        `(batch,)`, float32 `(batch, outputs)`, or of frames long `(batch, time)`, -100 where there is none.

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
            batch["labels"] = _labels([example["labels"] for example in examples])
        return batch


def join_examples(examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One example of several utterances' frames one behind the other, with the class number of each frame.

    Example:
        >>> frames = [{"encoder_hidden_states": torch.zeros(n, 2), "labels": label} for n, label in ((2, 0), (1, 3))]
        >>> joined = join_examples(frames)
        >>> joined["encoder_hidden_states"].shape, joined["labels"].tolist()
        (torch.Size([3, 2]), [0, 0, 3])
    """
    name = _input_name(examples)
    values = [_tensor(example[name]) for example in examples]
    axis = _time_axis(values, name=name)
    labels = [torch.full((v.shape[axis],), int(e["labels"])) for v, e in zip(values, examples, strict=True)]
    return {name: torch.cat(values, dim=axis), "labels": torch.cat(labels)}


def _labels(labels: Sequence[Any]) -> torch.Tensor:
    """Class numbers as long `(batch,)`, of frames `(batch, time)`; distributions and values as float32."""
    if np.ndim(labels[0]) == 0:
        return torch.tensor([int(label) for label in labels])
    if isinstance(labels[0], torch.Tensor) and labels[0].dtype == torch.long:
        return pad_sequence(list(labels), batch_first=True, padding_value=NO_LABEL)
    return torch.stack([torch.as_tensor(label, dtype=torch.float32) for label in labels])


class BalancedSampler(Sampler[int]):
    """As many utterances as there are, drawn with replacement, each class equally likely; anew in every epoch.

    The order depends on nothing but `seed` and the epoch.

    Args:
        classes: Class number of each utterance.
        seed: Of all that is random.

    Example:
        >>> drawn = list(BalancedSampler([0] * 90 + [1] * 10))
        >>> len(drawn), 35 < sum(row >= 90 for row in drawn) < 65
        (100, True)
    """

    def __init__(self, classes: Sequence[int], *, seed: int = 0) -> None:
        counts = np.bincount(classes)
        self._chances = 1.0 / counts[classes] / (counts > 0).sum()
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._chances)

    def __iter__(self) -> Iterator[int]:
        """The rows of the epoch."""
        generator = np.random.default_rng([self.seed, self.epoch])
        yield from generator.choice(len(self), size=len(self), p=self._chances).tolist()


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


_CHUNK = 50  # batches that are sorted together at most, and a quarter of all, as in transformers' LengthGroupedSampler
_BUCKET = 4  # batches that draw from the same lengths, where a batch's size depends on them


class LengthBatches(Sampler[list[int]]):
    """Random batches of utterances of like length; every utterance once in an epoch, every epoch the same number.

    With `batch_size`: utterances are shuffled, sorted by length within chunks of 50 batches (a quarter of all, if that
    is less), cut into batches, and the batches are shuffled. With `max_batch_seconds`: utterances are sorted once into
    buckets of like length, shuffled in their bucket, cut into as many batches as its longest one asks for, and the
    batches of all buckets are shuffled.

    The order depends on nothing but `seed` and the epoch. Of several processes each takes every n-th utterance of
    every batch; together they see each utterance once, but for a batch of less utterances than processes, whose first
    one is seen by those who would have none.

    Args:
        seconds: Length of each utterance.
        batch_size: Utterances in a batch, all processes together; the last one of an epoch's may be smaller.
        max_batch_seconds: In place of `batch_size`: seconds at most in a batch with padding, all processes together.
        seed: Of all that is random.
        num_processes: How many share the batches.
        process_index: Which of them this is.

    Raises:
        ValueError: If an option makes no sense, or a batch could hold less utterances than there are processes.

    Example:
        >>> batches = LengthBatches([1.0, 4.0, 2.0, 1.0, 4.0, 2.0], max_batch_seconds=8.0)
        >>> len(batches), sorted(sorted(batch) for batch in batches)
        (3, [[0, 3], [1, 4], [2, 5]])
    """

    def __init__(
        self,
        seconds: Sequence[float],
        *,
        batch_size: int | None = None,
        max_batch_seconds: float | None = None,
        seed: int = 0,
        num_processes: int = 1,
        process_index: int = 0,
    ) -> None:
        if (batch_size is None) == (max_batch_seconds is None):
            raise ValueError(
                f"give batch_size or max_batch_seconds, one of them, got {batch_size} and {max_batch_seconds}"
            )
        self.seconds = np.asarray(seconds, dtype=np.float64)
        if batch_size is not None and not num_processes <= batch_size:
            raise ValueError(f"batch_size must be at least the number of processes {num_processes}, got {batch_size}")
        longest = self.seconds.max(initial=0.0)
        if max_batch_seconds is not None and not max_batch_seconds >= longest * num_processes:
            raise ValueError(
                f"max_batch_seconds must be at least the longest utterance's, {longest:.2f}, times the"
                f" {num_processes} processes, got {max_batch_seconds}"
            )
        if len(self.seconds) < num_processes:
            raise ValueError(
                f"there must be an utterance for each process, got {len(self.seconds)} for {num_processes}"
            )
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0
        self.num_processes, self.process_index = num_processes, process_index
        self._buckets = [] if max_batch_seconds is None else self._make_buckets(max_batch_seconds)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.batch_size is not None:
            return math.ceil(len(self.seconds) / self.batch_size)
        return sum(count for _, count in self._buckets)

    @property
    def sizes(self) -> list[tuple[int, float]]:
        """How many utterances at most, and of how many seconds, the batches of each kind have, of all processes."""
        if self.batch_size is not None:
            return [(min(self.batch_size, len(self.seconds)), float(self.seconds.max()))]
        return [(math.ceil(len(bucket) / count), float(self.seconds[bucket[0]])) for bucket, count in self._buckets]

    def __iter__(self) -> Iterator[list[int]]:
        """This process's share of each batch of the epoch."""
        generator = np.random.default_rng([self.seed, self.epoch])
        batches = self._of_size(generator) if self.batch_size is not None else self._of_buckets(generator)
        for place in generator.permutation(len(batches)):
            share = batches[place][self.process_index :: self.num_processes]
            yield (share if len(share) else batches[place][:1]).tolist()

    def _of_size(self, generator: np.random.Generator) -> list[np.ndarray]:
        order = generator.permutation(len(self.seconds))
        chunks = np.array_split(order, max(4, math.ceil(len(self) / _CHUNK)))
        # Falling and rising in turn: a batch that two chunks share is of like length, too.
        signs = [(-1) ** (number + 1) for number in range(len(chunks))]
        order = np.concatenate([c[np.argsort(s * self.seconds[c])] for s, c in zip(signs, chunks, strict=True)])
        return np.array_split(order, len(self))

    def _of_buckets(self, generator: np.random.Generator) -> list[np.ndarray]:
        return [
            part for bucket, count in self._buckets for part in np.array_split(generator.permutation(bucket), count)
        ]

    def _make_buckets(self, max_batch_seconds: float) -> list[tuple[np.ndarray, int]]:
        """Utterances of like length, the longest first, and in how many batches they go."""
        order = iter(np.argsort(-self.seconds, kind="stable"))
        buckets = []
        while bucket := list(islice(order, 1)):
            fit = max(int(max_batch_seconds / max(self.seconds[bucket[0]], 1e-9)), 1)
            bucket += islice(order, fit * _BUCKET - 1)
            buckets.append((np.array(bucket), math.ceil(len(bucket) / fit)))
        return buckets
