import pytest
import torch
from conftest import speech_batch, tiny_model

from shift_ser import temporal_shift
from shift_ser.studies.mingling import branch_and_shortcut, measure_blocks, mingling, misalignment

LENGTHS = [17, 9]


@pytest.fixture
def frames():
    return torch.randn(2, 17, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def mask():
    return torch.arange(17) < torch.tensor(LENGTHS)[:, None]


@pytest.fixture
def white():
    """Frames uncorrelated in time, long enough for shares to be exact within 2 %."""
    return torch.randn(2, 2000, 16, generator=torch.Generator().manual_seed(0))


def test_without_neighbours_nothing_mingles(frames, mask):
    torch.manual_seed(0)
    layer = torch.nn.Linear(96, 5)
    assert mingling(lambda x: x, frames, mask) == mingling(lambda x: layer(x).relu(), frames, mask) == 0.0
    assert mingling(lambda x: torch.zeros_like(x) * x, frames, mask) == 0.0


def test_shifted_by_whole_frames_everything_mingles(frames, mask):
    for options in ({"stride": 1}, {"stride": 3}):
        assert mingling(lambda x, o=options: temporal_shift(x, proportion=1.0, **o), frames, mask) == 1.0


@pytest.mark.parametrize("proportion", [1 / 2, 1 / 4, 1 / 16])
def test_a_pure_shift_mingles_its_share_of_the_channels(frames, proportion):
    """Only the first frame takes nothing in: of T (1 - p) + (T - 1) p unit sensitivities, (T - 1) p are of others."""
    found = mingling(lambda x: temporal_shift(x, proportion=proportion), frames)
    assert found == pytest.approx(16 * proportion / (17 - proportion))
    both = mingling(lambda x: temporal_shift(x, proportion=proportion / 2, direction="bidirectional"), frames)
    assert both == pytest.approx(found)


def test_scale_does_not_count_and_a_mean_over_k_frames_mingles_all_but_one_kth(frames):
    def smooth(x):
        return 7 * sum(x.roll(offset, dims=1) for offset in range(-2, 3))

    assert mingling(smooth, frames) == pytest.approx(4 / 5)


@pytest.mark.parametrize("variant", ["shiftcnn", "shiftlstm", "shiftformer", "transformer"])
def test_the_estimate_is_that_of_the_whole_jacobian(variant, frames):
    block = tiny_model(variant, conv_kernel_size=3, num_head_layers=1).shift_ser.head.blocks[0]
    utterance = frames[:1, :6]

    def transform(x):
        return block(x, None, False)[0]

    jacobian = torch.autograd.functional.jacobian(transform, utterance)[0, :, :, 0]  # (t, c, s, d)
    energy = jacobian.square().sum(dim=(1, 3))
    exact = 1 - (energy.diagonal().sum() / energy.sum()).item()
    estimates = [mingling(transform, utterance, seed=seed) for seed in range(40)]
    assert sum(estimates) / len(estimates) == pytest.approx(exact, rel=0.03)
    assert mingling(transform, utterance, seed=3) == estimates[3]


def test_some_frames_stand_for_all(frames):
    def transform(x):
        return temporal_shift(x, proportion=1 / 4, padding="repeat", stride=2)

    assert mingling(transform, frames, num_frames=12) == pytest.approx(mingling(transform, frames), abs=0.04)


def test_padding_is_not_looked_at(frames, mask):
    def transform(x):
        return temporal_shift(x, proportion=1 / 4)

    other = torch.where(mask[..., None], frames, 9.0)
    assert mingling(transform, frames, mask) == mingling(transform, other, mask)
    shortcut = temporal_shift(frames, proportion=1 / 4, attention_mask=mask)
    assert misalignment(frames, shortcut, mask) == misalignment(other, shortcut + ~mask[..., None], mask)
    alone = [
        misalignment(frames[row : row + 1, :end], shortcut[row : row + 1, :end]) for row, end in enumerate(LENGTHS)
    ]
    assert min(alone) < misalignment(frames, shortcut, mask) < max(alone)


@pytest.mark.parametrize("proportion", [0.0, 1 / 16, 1 / 4, 1.0])
def test_shifting_uncorrelated_frames_misaligns_their_share(white, proportion):
    assert misalignment(white, temporal_shift(white, proportion=proportion)) == pytest.approx(proportion, abs=0.01)


def test_what_does_not_change_in_time_cannot_be_misaligned(white):
    shifted = temporal_shift(white, proportion=1 / 4)
    assert misalignment(white, white) == 0.0
    assert misalignment(white + 50, shifted + 50) == pytest.approx(misalignment(white, shifted), abs=1e-4)
    still = torch.ones(1, 8, 4)
    assert misalignment(still, temporal_shift(still, proportion=1.0, padding="repeat")) == 0.0
    slow = white.cumsum(dim=1)
    assert misalignment(slow, temporal_shift(slow, proportion=1.0, padding="repeat")) < 0.02


def test_only_the_shift_on_the_shortcut_parts_it_from_the_branch(frames, mask):
    for variant, options in {
        "cnn": {}, "shiftcnn": {"shift_placement": "in_place"}, "shiftlstm": {}, "shiftformer": {}, "transformer": {},
    }.items():  # fmt: skip
        block = tiny_model(variant, **options).shift_ser.head.blocks[-1]
        assert misalignment(*branch_and_shortcut(block, frames, mask), mask) == 0.0
    block = tiny_model("shiftcnn", shift_proportion=1 / 4).shift_ser.head.blocks[-1]
    branch, shortcut = branch_and_shortcut(block, frames, mask)
    assert torch.equal(branch, frames)
    assert torch.equal(shortcut, temporal_shift(frames, proportion=1 / 4, attention_mask=mask))


def test_a_model_is_measured_in_the_blocks_that_have_the_shift():
    speech, attention_mask = speech_batch([4000, 6400])
    inputs = {"input_values": speech, "attention_mask": attention_mask}
    cnn = {
        name: tiny_model(name, **options)
        for name, options in {"cnn": {}, "shiftcnn": {"shift_proportion": 0.5}}.items()
    }
    plain, shifted = (measure_blocks(model.train(), inputs) for model in cnn.values())
    assert not cnn["cnn"].training
    assert plain["misalignment"] == 0.0 < shifted["misalignment"]
    assert 0 < plain["mingling"] < shifted["mingling"] < 1
    assert measure_blocks(cnn["cnn"], inputs) == plain
    assert measure_blocks(tiny_model("linear"), inputs) == {}
    former = measure_blocks(tiny_model("shiftformer", shift_proportion=0.0), inputs)
    assert former == {"mingling": 0.0, "misalignment": 0.0}
