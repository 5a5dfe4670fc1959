"""Causal heads: later frames change nothing, steps of any length give what all frames at once give."""

import numpy as np
import pytest
import torch
from conftest import tiny_encoder_config, tiny_model
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import nn

from shift_ser import ShiftConfig, ShiftForSequenceClassification, TemporalShift
from shift_ser.model.heads import HEADS, Head, ShiftHead, Variant

CAUSAL = [
    ("linear", {}),
    ("cnn", {}),
    ("shiftcnn", {"num_head_layers": 3, "shift_layers": [0, 2]}),
    ("shiftcnn", {"shift_placement": "in_place", "shift_stride": 3, "shift_padding": "repeat"}),
    ("shiftlstm", {"num_head_layers": 2}),
    ("shiftformer", {"shift_stride": 2}),
]
IDS = [f"{variant}{number}" for number, (variant, _) in enumerate(CAUSAL)]


def causal_head(variant, **options):
    torch.manual_seed(0)
    config = ShiftConfig.from_variant(
        variant, causal=True, encoder_config=tiny_encoder_config(hidden_size=24), mask_feature_prob=0.0,
        **{"shift_proportion": 0.25, **options},
    )  # fmt: skip
    return ShiftHead(config).eval()


def frames_of(length, *, batch=2):
    return torch.randn(batch, length, 24, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize(("variant", "options"), CAUSAL, ids=IDS)
def test_steps_of_any_length_give_what_all_frames_at_once_give(variant, options):
    head, frames, rng = causal_head(variant, **options), frames_of(14), np.random.default_rng(0)
    whole, _, _ = head(frames, None)
    for _ in range(200):
        cuts = np.flatnonzero(rng.random(13) < rng.random()) + 1
        state, parts = None, []
        for part in torch.tensor_split(frames, cuts.tolist(), dim=1):
            out, state = head.step(part, state)
            parts.append(out)
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("variant", "options"), CAUSAL, ids=IDS)
def test_later_frames_change_nothing_and_padding_is_zero(variant, options):
    head, frames = causal_head(variant, **options), frames_of(9)
    changed = frames.clone()
    changed[:, 5:] += 1
    torch.testing.assert_close(head(changed, None)[0][:, :5], head(frames, None)[0][:, :5], rtol=0, atol=0)
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    padded, _, _ = head(frames * mask[..., None], mask)
    assert (padded[1, 4:] == 0).all()
    torch.testing.assert_close(padded[1, :4], head(frames[1:, :4], None)[0][0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_state_can_be_gone_on_from_twice():
    head, frames = causal_head("shiftcnn"), frames_of(8)
    _, state = head.step(frames[:, :5], None)
    first, _ = head.step(frames[:, 5:], state)
    again, _ = head.step(frames[:, 5:], state)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not any(isinstance(value, torch.Tensor) for module in head.modules() for value in vars(module).values())


def test_what_causal_changes():
    config = ShiftConfig.from_variant("shiftformer", causal=True)
    assert (config.shift_direction, config.attention_layers) == ("forward", [])
    assert not ShiftConfig().causal
    lstm = causal_head("lstm")
    assert lstm.output_width == 24 and lstm.blocks[0].backward_lstm is None
    cnn, kernel = causal_head("cnn", num_head_layers=1), torch.zeros(24, 1, 7)
    kernel[:, 0, -1] = 1.0  # the last tap is the present frame
    cnn.blocks[0].depthwise.weight.data, cnn.blocks[0].depthwise.bias.data = kernel, torch.zeros(24)
    frames, block = frames_of(5), cnn.blocks[0]
    torch.testing.assert_close(
        block(frames, None, False)[0], frames + block._convolve(nn.functional.pad(frames, (0, 0, 6, 0)))
    )


@pytest.mark.parametrize(
    ("variant", "options", "message"),
    [
        ("transformer", {}, r"causal must be False where a block has attention.*blocks \[0, 1\] have it"),
        ("shiftformer", {"shift_layers": [0]}, r"blocks \[1\] have it"),
        ("shiftcnn", {"shift_direction": "bidirectional"}, "shift_direction must be 'forward' with causal=True"),
    ],
)
def test_what_cannot_be_causal_is_refused(variant, options, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        ShiftConfig.from_variant(variant, causal=True, **options)


def test_a_block_without_step_is_refused(monkeypatch):
    plain = Head(nn.Identity, ("none",), {"num_head_layers": 1, "shift_proportion": 0.0, "shift_direction": "forward"},
                 {"plain": Variant("none", "Plain", "a block")})  # fmt: skip
    monkeypatch.setitem(HEADS, "plain", plain)
    with pytest.raises(StrictDataclassClassValidationError, match="head_type='plain': its block has no `step`"):
        ShiftConfig.from_variant("plain", causal=True)


def test_wrong_steps_are_refused():
    with pytest.raises(ValueError, match="a head must be causal to step, got one with causal=False"):
        tiny_model("cnn").base_model.head.step(torch.zeros(1, 2, 96))
    head = causal_head("cnn")
    with pytest.raises(ValueError, match=r"frames must have shape .* got \(1, 0, 24\)"):
        head.step(torch.zeros(1, 0, 24))
    with pytest.raises(ValueError, match="direction must be 'forward' to shift a stream, got 'bidirectional'"):
        TemporalShift(proportion=0.25, direction="bidirectional").step(torch.zeros(1, 2, 4), None)


def test_saved_equals_loaded_and_gradients_flow(tmp_path):
    model = tiny_model("shiftlstm", causal=True)
    model.save_pretrained(tmp_path)
    loaded = ShiftForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.config.causal
    frames = torch.randn(1, 6, 96, generator=torch.Generator().manual_seed(0), requires_grad=True)
    logits = loaded(encoder_hidden_states=frames).logits
    torch.testing.assert_close(logits, model(encoder_hidden_states=frames).logits, rtol=0, atol=1e-6)
    logits.sum().backward()
    assert frames.grad.abs().sum() > 0
