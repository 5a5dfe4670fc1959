import random
import warnings

import pytest
import torch
from conftest import CASES, FIXTURES
from safetensors.torch import load_file

from shift_ser import TemporalShift, temporal_shift
from shift_ser.model.temporal_shift import shifted_channels, zero_padding

OPTIONS = [
    {"proportion": proportion, "direction": direction, "padding": padding, "stride": stride}
    for direction, proportion in (("forward", 0.5), ("bidirectional", 0.25))
    for padding in ("zero", "repeat")
    for stride in (1, 3)
]
BOTH_WAYS = [options for options in OPTIONS if options["direction"] == "bidirectional" and options["stride"] == 3]


def naive_shift(frames, *, fold, stride, direction, padding, lengths):
    """Frame by frame and channel by channel, on nested lists."""
    shifted = [[[0.0] * len(frame) for frame in utterance] for utterance in frames]
    for b, utterance in enumerate(frames):
        for t in range(lengths[b]):
            for c in range(len(utterance[t])):
                source = t
                if c < fold:
                    source = t - stride
                elif c < 2 * fold and direction == "bidirectional":
                    source = t + stride
                if padding == "repeat":
                    source = min(max(source, 0), lengths[b] - 1)
                shifted[b][t][c] = utterance[source][c] if 0 <= source < lengths[b] else 0.0
    return shifted


@pytest.mark.parametrize("case", [name for name in CASES if name.startswith("shift_op")])
def test_golden_exact(case):
    options, tensors = CASES[case], load_file(FIXTURES / "shift_op.safetensors")
    index = case.split(".")[1]
    shifted = temporal_shift(
        tensors[f"{index}.input"],
        proportion=1 / options["n_div"],
        stride=options["stride"],
        direction="bidirectional" if options["bidirectional"] else "forward",
        padding=options["padding"],
    )
    assert torch.equal(shifted, tensors[f"{index}.output"])


@pytest.mark.parametrize("seed", range(8))
def test_equals_naive_loop(seed):
    draw = random.Random(seed)
    for _ in range(60):
        batch, length, channels = draw.randint(1, 3), draw.randint(1, 9), draw.randint(1, 13)
        direction = draw.choice(["forward", "bidirectional"])
        n_div = draw.randint(2 if direction == "bidirectional" else 1, 15)
        stride, padding, masked = draw.randint(1, 12), draw.choice(["zero", "repeat"]), draw.random() < 0.6
        lengths = [draw.randint(1, length) if masked else length for _ in range(batch)]
        frames = torch.randn(batch, length, channels)
        mask = torch.arange(length) < torch.tensor(lengths)[:, None]
        mask = draw.choice([mask, mask.long(), mask.float()]) if masked else None
        before = frames.clone()
        shifted = temporal_shift(
            frames, proportion=1 / n_div, stride=stride, direction=direction, padding=padding, attention_mask=mask
        )
        expected = naive_shift(
            frames.tolist(), fold=channels // n_div, stride=stride, direction=direction, padding=padding,
            lengths=lengths,
        )  # fmt: skip
        assert torch.equal(shifted, torch.tensor(expected)), (direction, n_div, stride, padding, lengths)
        assert torch.equal(frames, before)
        assert shifted.data_ptr() != frames.data_ptr()


def test_shifted_channels_is_floor_division():
    for channels in (1, 7, 13, 24, 96, 512, 768, 1024, 1280):
        for n_div in range(1, channels + 2):
            assert shifted_channels(channels, proportion=1 / n_div) == channels // n_div


def test_nothing_moves_below_one_channel_and_the_output_is_new():
    frames = torch.randn(2, 5, 8)
    for proportion in (0, 0.0, 1 / 9):
        shifted = temporal_shift(frames, proportion=proportion)
        assert torch.equal(shifted, frames)
        shifted.zero_()
        assert frames.abs().min() > 0


@pytest.mark.parametrize("options", OPTIONS)
def test_nan_in_padding_never_flows_and_padding_is_zero(options):
    frames = torch.randn(3, 6, 8)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    poisoned = frames.masked_fill(mask[..., None] == 0, float("nan"))
    shifted = temporal_shift(poisoned, **options, attention_mask=mask)
    assert shifted.isfinite().all()
    assert (shifted[mask == 0] == 0).all()
    assert torch.equal(shifted, temporal_shift(frames, **options, attention_mask=mask))


@pytest.mark.parametrize("options", OPTIONS)
def test_padded_equals_alone(options):
    frames = torch.randn(1, 4, 8)
    padded = torch.cat([frames, torch.randn(1, 5, 8)], dim=1)
    mask = (torch.arange(9) < 4).unsqueeze(0)
    assert torch.equal(temporal_shift(padded, **options, attention_mask=mask)[:, :4], temporal_shift(frames, **options))


@pytest.mark.parametrize("options", OPTIONS)
def test_constant_stays_constant_with_repeat_and_no_frames_stay_none(options):
    frames = torch.full((2, 5, 8), 3.0)
    shifted = temporal_shift(frames, **{**options, "padding": "repeat"})
    assert torch.equal(shifted, frames)
    assert temporal_shift(torch.zeros(2, 0, 8), **options).shape == (2, 0, 8)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("masked", [False, True])
def test_gradients(options, masked):
    frames = torch.randn(2, 5, 8, dtype=torch.double, requires_grad=True)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]) if masked else None
    shift = TemporalShift(**options)
    assert torch.autograd.gradcheck(lambda x: shift(x, mask), frames)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_keeps_dtype_also_under_autocast(dtype):
    frames, mask = torch.randn(1, 4, 8, dtype=dtype), torch.tensor([[1, 1, 1, 0]])
    assert temporal_shift(frames, proportion=0.25, attention_mask=mask).dtype == dtype
    with torch.autocast("cpu", dtype=torch.bfloat16):
        linear = torch.nn.Linear(8, 8, dtype=torch.float32)
        assert temporal_shift(linear(frames.float()), proportion=0.25, padding="repeat").dtype == torch.bfloat16


@pytest.mark.parametrize("options", BOTH_WAYS)
def test_compile_equals_eager(options):
    torch._dynamo.reset()
    shift = TemporalShift(**options)
    compiled = torch.compile(shift, fullgraph=True, dynamic=True, backend="eager")
    for length in (5, 2, 11):
        frames, mask = torch.randn(2, length, 8), torch.ones(2, length, dtype=torch.long)
        mask[1, length // 2 + 1 :] = 0
        frames.requires_grad_()
        weight = torch.randn_like(frames)
        for arguments in ((frames, mask), (frames,)):
            shifted, expected = compiled(*arguments), shift(*arguments)
            assert torch.equal(shifted, expected)
            gradients = [torch.autograd.grad((out * weight).sum(), frames)[0] for out in (shifted, expected)]
            assert torch.equal(*gradients)


@pytest.mark.parametrize("options", BOTH_WAYS)
def test_export_at_one_length_runs_at_others(options):
    shift = TemporalShift(**options)
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
    frames, mask = torch.randn(3, 7, 8), torch.ones(3, 7, dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = torch.export.export(shift, (frames,), dynamic_shapes=({0: batch, 1: time},)).module()
        masked = torch.export.export(
            shift, (frames, mask), dynamic_shapes=({0: batch, 1: time}, {0: batch, 1: time})
        ).module()
    for size, length in ((2, 4), (5, 12), (3, 7)):
        frames, mask = torch.randn(size, length, 8), torch.ones(size, length, dtype=torch.long)
        mask[0, length // 2 :] = 0
        assert torch.equal(plain(frames), shift(frames))
        assert torch.equal(masked(frames, mask), shift(frames, mask))


def test_module_has_no_parameters_and_tells_its_options():
    shift = TemporalShift(proportion=0.125, stride=2, direction="bidirectional", padding="repeat")
    assert not list(shift.parameters()) and not shift.state_dict()
    assert repr(shift) == (
        "TemporalShift(proportion=0.125, stride=2, direction='bidirectional', padding='repeat')"
    )  # fmt: skip
    frames = torch.randn(2, 5, 16)
    expected = temporal_shift(frames, proportion=0.125, stride=2, direction="bidirectional", padding="repeat")
    assert torch.equal(shift(frames), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "back"}, r"direction must be one of \('forward', 'bidirectional'\), got 'back'"),
        ({"padding": "mirror"}, r"padding must be one of \('zero', 'repeat'\), got 'mirror'"),
        ({"proportion": 1.5}, r"from 0 to 1 for a forward shift, got 1\.5"),
        ({"proportion": -0.1}, r"from 0 to 1 for a forward shift, got -0\.1"),
        ({"proportion": float("nan")}, r"from 0 to 1 for a forward shift, got nan"),
        ({"proportion": 0.6, "direction": "bidirectional"}, r"from 0 to 0\.5 for a bidirectional shift, got 0\.6"),
        ({"stride": 0}, r"stride must be a whole number of frames of at least 1, got 0"),
        ({"stride": 1.0}, r"stride must be a whole number of frames of at least 1, got 1\.0"),
        ({"stride": True}, r"stride must be a whole number of frames of at least 1, got True"),
    ],
)
def test_options_that_make_no_shift(options, message):
    options = {"proportion": 0.25, **options}
    with pytest.raises(ValueError, match=message):
        temporal_shift(torch.zeros(1, 2, 4), **options)
    with pytest.raises(ValueError, match=message):
        TemporalShift(**options)


def test_shapes_that_make_no_shift():
    with pytest.raises(ValueError, match=r"hidden_states must have shape \(batch, time, channels\), got \(2, 4\)"):
        temporal_shift(torch.zeros(2, 4), proportion=0.5)
    with pytest.raises(ValueError, match=r"attention_mask must have shape \(batch, time\) = \(1, 2\), got \(1, 3\)"):
        temporal_shift(torch.zeros(1, 2, 4), proportion=0.5, attention_mask=torch.ones(1, 3))


def test_zero_padding_without_mask_is_the_input():
    frames = torch.randn(1, 2, 3)
    assert zero_padding(frames, None) is frames


# torch's own forward mode
forward_mode = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


@forward_mode
@pytest.mark.parametrize(("proportion", "direction"), [(0.125, "forward"), (0.5, "forward"), (0.25, "bidirectional")])
def test_derivatives_of_every_kind_are_those_of_the_plain_operations(proportion, direction):
    """A linear map: its Jacobian does not depend on the input, and forward, reverse and batched modes agree."""
    options = {"proportion": proportion, "direction": direction}
    frames = torch.randn(2, 5, 8, dtype=torch.float64)

    def shift(x):
        return temporal_shift(x, **options)

    columns = [shift(basis.view(2, 5, 8)).flatten() for basis in torch.eye(80, dtype=torch.float64)]
    jacobian = torch.stack(columns, dim=1)
    for mode in (torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(mode(shift)(frames).reshape(80, 80), jacobian, rtol=0, atol=0)
    batched = torch.stack([frames, 2 * frames])
    assert torch.equal(torch.func.vmap(shift)(batched), torch.stack([shift(frames), shift(2 * frames)]))
    assert torch.autograd.gradgradcheck(shift, frames.requires_grad_())


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("proportion", [1 / 16, 1 / 8, 1 / 4, 1 / 2])
def test_a_view_of_other_memory_layout_shifts_the_same(direction, proportion):
    frames = torch.randn(16, 9, 3).transpose(0, 2)  # (3, 9, 16), channels far apart
    assert not frames.is_contiguous()
    options = {"proportion": proportion, "direction": direction, "stride": 2}
    assert torch.equal(temporal_shift(frames, **options), temporal_shift(frames.contiguous(), **options))


def test_whole_runs_of_channels_are_shifted_like_single_ones_in_every_mode():
    """At 64 channels and more that move, rows are fetched by an index that is kept between calls."""
    frames = torch.randn(2, 5, 256)
    options = {"proportion": 0.25, "direction": "bidirectional"}
    expected = torch.zeros_like(frames)
    expected[:, 1:, :64], expected[:, :-1, 64:128] = frames[:, :-1, :64], frames[:, 1:, 64:128]
    expected[..., 128:] = frames[..., 128:]
    with torch.inference_mode():
        assert torch.equal(temporal_shift(frames, **options), expected)
    trained = frames.clone().requires_grad_()
    shifted = temporal_shift(trained, **options)
    assert torch.equal(shifted, expected)
    weight = torch.randn_like(frames)
    (shifted * weight).sum().backward()
    back = torch.zeros_like(frames)
    back[:, :-1, :64], back[:, 1:, 64:128], back[..., 128:] = (
        weight[:, 1:, :64],
        weight[:, :-1, 64:128],
        weight[..., 128:],
    )
    assert torch.equal(trained.grad, back)
    jacobian = torch.func.jacrev(lambda x: temporal_shift(x, proportion=0.25))(frames[:1])
    assert jacobian.sum() == 5 * 256 - 64


@forward_mode
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_hessian_through_the_shift(direction):
    """Of a sum of cubes it is diagonal: six times what arrives of each value."""
    values = torch.arange(1.0, 25.0)

    def cubes(flat):
        return temporal_shift(flat.view(1, 4, 6), proportion=0.25, direction=direction).pow(3).sum()

    kept = torch.func.grad(lambda flat: temporal_shift(flat.view(1, 4, 6), proportion=0.25, direction=direction).sum())
    hessian = torch.func.hessian(cubes)(values)
    torch.testing.assert_close(hessian, torch.diag(6 * values * kept(values)))


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_frames_that_are_not_contiguous_with_runs_of_64_channels(direction):
    frames = torch.randn(2, 256, 9, generator=torch.Generator().manual_seed(0)).transpose(1, 2)
    assert not frames.is_contiguous()
    shifted = temporal_shift(frames, proportion=0.25, direction=direction)
    assert torch.equal(shifted, temporal_shift(frames.contiguous(), proportion=0.25, direction=direction))
    assert torch.equal(shifted[:, 1:, :64], frames[:, :-1, :64])
