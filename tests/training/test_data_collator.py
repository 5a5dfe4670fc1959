import numpy as np
import pytest
import torch

from shift_ser.training.batching import DataCollatorForShift

CASES = [
    ("input_values", [(5,), (3,), (8,)], 0),
    ("extract_features", [(5, 4), (3, 4), (8, 4)], 0),
    ("encoder_hidden_states", [(5, 4), (3, 4), (8, 4)], 0),
    ("encoder_hidden_states", [(2, 5, 4), (2, 3, 4), (2, 8, 4)], 1),
]


def make(name, shapes, *, kind=lambda tensor: tensor) -> list[dict]:
    torch.manual_seed(0)
    return [{name: kind(torch.randn(shape)), "labels": row} for row, shape in enumerate(shapes)]


@pytest.mark.parametrize("kind", [torch.Tensor.clone, torch.Tensor.numpy, torch.Tensor.tolist])
@pytest.mark.parametrize(("name", "shapes", "axis"), CASES)
def test_rows_hold_the_examples_then_zeros(name, shapes, axis, kind):
    batch = DataCollatorForShift()(make(name, shapes, kind=kind))
    padded, mask = batch[name], batch["attention_mask"]
    lengths = [shape[axis] for shape in shapes]
    assert padded.dtype == torch.float32 and mask.dtype == batch["labels"].dtype == torch.long
    assert mask.shape == (3, 8) and padded.shape[1 + axis] == 8
    assert mask.sum(1).tolist() == lengths
    assert batch["labels"].tolist() == [0, 1, 2]
    for row, example in enumerate(make(name, shapes)):
        inside, outside = padded[row].split([lengths[row], padded.shape[1 + axis] - lengths[row]], dim=axis)
        assert torch.equal(inside, example[name])
        assert not outside.any()
        assert mask[row].tolist() == sorted(mask[row].tolist(), reverse=True)


def test_examples_are_not_changed_nor_shared():
    values = np.ones(3, dtype=np.float32)
    values.flags.writeable = False
    batch = DataCollatorForShift()([{"input_values": values}])
    batch["input_values"] += 1
    assert values.tolist() == [1, 1, 1]


def test_labels_are_absent_when_the_examples_have_none():
    assert set(DataCollatorForShift()([{"input_values": [1.0]}])) == {"input_values", "attention_mask"}


def test_float64_and_int_inputs_become_float32_and_array_labels_long():
    batch = DataCollatorForShift()([{"input_values": np.arange(3), "labels": np.int8(1)}])
    assert batch["input_values"].dtype == torch.float32 and batch["labels"].tolist() == [1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("name", "shapes", "axis"), CASES)
def test_half_precision_stays_half_unless_it_is_mixed(name, shapes, axis, dtype):
    examples = make(name, shapes, kind=lambda tensor: tensor.to(dtype))
    batch = DataCollatorForShift()(examples)
    assert batch[name].dtype == dtype
    assert torch.equal(batch[name][1].narrow(axis, 0, shapes[1][axis]), examples[1][name])
    examples[2][name] = examples[2][name].float()
    assert DataCollatorForShift()(examples)[name].dtype == torch.float32


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], r"got 0 examples with \[\]"),
        ([{"labels": 1}], r"got 1 examples with \[\('labels',\)\]"),
        ([{"input_values": [1.0], "encoder_hidden_states": [[1.0]]}], "'encoder_hidden_states', 'input_values'"),
        ([{"input_values": [1.0]}, {"encoder_hidden_states": [[1.0]]}], "must all hold the same keys"),
        ([{"input_values": [1.0], "labels": 1}, {"input_values": [1.0]}], "must all hold the same keys"),
        ([{"input_values": [1.0], "utterance": "a"}], "'utterance'"),
        ([{"input_values": [[1.0]]}], r"got input_values of \[\(1, 1\)\]"),
        ([{"input_values": 1.0}], r"got input_values of \[\(\)\]"),
        ([{"encoder_hidden_states": [1.0]}], r"got encoder_hidden_states of \[\(1,\)\]"),
        ([{"encoder_hidden_states": np.ones((2, 3))}, {"encoder_hidden_states": np.ones((2, 4))}], r"\(2, 3\), \(2, 4"),
        ([{"encoder_hidden_states": np.ones((2, 3))}, {"encoder_hidden_states": np.ones((1, 2, 3))}], "alike but for"),
        ([{"input_values": []}], r"length of input_values must be at least 1, got \[0\]"),
    ],
)
def test_refuses_and_says_what_it_got(examples, message):
    with pytest.raises(ValueError, match=message):
        DataCollatorForShift()(examples)
