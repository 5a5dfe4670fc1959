import itertools
import math

import pytest
import torch
from conftest import speech_batch, tiny_encoder_config, tiny_model
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import set_seed

from shift_ser import ShiftConfig, temporal_shift
from shift_ser.model import heads
from shift_ser.model.heads import HEADS, CnnBlock, LstmBlock, RelativeSelfAttention, ShiftHead, TransformerBlock

PLACES = [(head, placement) for head, entry in HEADS.items() for placement in entry.placements]
SHIFTS = [
    {"shift_direction": direction, "shift_stride": stride, "shift_padding": padding, "shift_proportion": 0.25}
    for direction, stride, padding in itertools.product(("forward", "bidirectional"), (1, 3), ("zero", "repeat"))
]


def tiny_config(**options) -> ShiftConfig:
    config = ShiftConfig(
        **{
            "encoder_config": tiny_encoder_config(hidden_size=24), "num_attention_heads": 3,
            "mask_feature_prob": 0.0, **options,
        }
    )  # fmt: skip
    config._attn_implementation = options.get("attn_implementation", "sdpa")
    return config


def padded_batch(lengths=(7, 4, 1, 2), width=24):
    """Random frames whose padding is zero, and their mask."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return torch.randn(*mask.shape, width) * mask[..., None], mask


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(("head_type", "placement"), PLACES)
@pytest.mark.parametrize("blocks", [None, 3])
def test_padded_equals_alone(head_type, placement, blocks):
    options = {} if blocks is None or head_type == "linear" else {"num_head_layers": blocks, "shift_layers": [0, 1, 2]}
    for shift in SHIFTS:
        head = ShiftHead(tiny_config(head_type=head_type, shift_placement=placement, **options, **shift)).eval()
        frames, mask = padded_batch()
        together, states, _ = head(frames, mask)
        assert (together[~mask] == 0).all()
        assert all((state[~mask] == 0).all() for state in states)
        for row, length in enumerate(mask.sum(dim=1)):
            alone, _, _ = head(frames[row : row + 1, :length], None)
            torch.testing.assert_close(together[row, :length], alone[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("position", ["absolute", "relative_key", "relative_key_query"])
@pytest.mark.parametrize("reach", [3, 50])
def test_attention_padded_equals_alone(position, reach):
    config = tiny_config(shift_placement="none", position_embedding_type=position, max_position_embeddings=reach)
    head = ShiftHead(config).eval()
    frames, mask = padded_batch()
    together, _, _ = head(frames, mask)
    for row, length in enumerate(mask.sum(dim=1)):
        alone, _, _ = head(frames[row : row + 1, :length], None)
        torch.testing.assert_close(together[row, :length], alone[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("head_type", "placement"), PLACES)
def test_padding_gets_no_gradient(head_type, placement):
    options = {} if head_type == "linear" else {"shift_layers": [0]}
    head = ShiftHead(tiny_config(head_type=head_type, shift_placement=placement, shift_proportion=0.25, **options))
    frames, mask = padded_batch()
    poisoned = frames.masked_fill(~mask[..., None], float("nan")).requires_grad_()
    out, _, _ = head(poisoned, mask)
    out.square().sum().backward()
    assert poisoned.grad.isfinite().all()
    assert (poisoned.grad[~mask] == 0).all() and (poisoned.grad[mask] != 0).any()


def test_cnn_block_is_the_formula():
    for placement in ("none", "residual", "in_place"):
        config = tiny_config(head_type="cnn", shift_placement=placement, shift_layers=[0], shift_proportion=0.25)
        block, frames = CnnBlock(config, 0), torch.randn(2, 9, 24)
        moved = temporal_shift(frames, proportion=0.25)
        source = moved if placement == "in_place" else frames
        branch = torch.stack(
            [
                sum(
                    block.depthwise.weight[:, 0, k] * source[:, t + k - 3]
                    for k in range(7)
                    if 0 <= t + k - 3 < source.shape[1]
                )
                + block.depthwise.bias
                for t in range(source.shape[1])
            ],
            dim=1,
        )
        branch = block.contract(torch.nn.functional.gelu(block.expand(block.norm(branch))))
        expected = (frames if placement == "none" else moved) + branch
        torch.testing.assert_close(block(frames, None, False)[0], expected, rtol=1e-5, atol=1e-6)


def test_transformer_block_is_the_formula():
    for placement in ("none", "residual", "in_place", "replace"):
        config = tiny_config(shift_placement=placement, shift_layers=[0])
        block, frames = TransformerBlock(config, 0), torch.randn(2, 9, 24)
        moved = temporal_shift(frames, proportion=0.25, direction="bidirectional")
        if placement == "replace":
            assert not any("attention" in name for name, _ in block.named_parameters())
            mixed = moved
        else:
            source = moved if placement == "in_place" else frames
            shortcut = frames if placement == "none" else moved
            mixed = block.attention_norm(shortcut + block.attention(source, None, False)[0])
        expected = block.mlp_norm(mixed + block.contract(torch.nn.functional.gelu(block.expand(mixed))))
        torch.testing.assert_close(block(frames, None, False)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("shift_layers", "shifted"), [([0], [True, False]), ([1], [False, True]), ([], [False] * 2)])
def test_shift_sits_in_the_layers_named(shift_layers, shifted):
    head = ShiftHead(tiny_config(shift_layers=shift_layers))
    assert [block.shift_replace is not None for block in head.blocks] == shifted
    assert [hasattr(block, "attention") for block in head.blocks] == [not there for there in shifted]
    head = ShiftHead(tiny_config(head_type="cnn", shift_layers=shift_layers))
    assert [block.shift_residual is not None for block in head.blocks] == shifted


@pytest.mark.parametrize("layers", [1, 2])
def test_lstm_equals_a_packed_bidirectional_lstm(layers):
    head = ShiftHead(tiny_config(head_type="lstm", shift_placement="none", num_head_layers=layers))
    oracle = torch.nn.LSTM(24, 24, num_layers=layers, bidirectional=True, batch_first=True)
    for layer, block in enumerate(head.blocks):
        for name, parameter in block.forward_lstm.named_parameters():
            getattr(oracle, name.replace("l0", f"l{layer}")).data.copy_(parameter.data)
        for name, parameter in block.backward_lstm.named_parameters():
            getattr(oracle, name.replace("l0", f"l{layer}_reverse")).data.copy_(parameter.data)
    frames, mask = padded_batch()
    packed = pack_padded_sequence(frames, mask.sum(dim=1), batch_first=True, enforce_sorted=False)
    expected, _ = pad_packed_sequence(oracle(packed)[0], batch_first=True)
    states = head(frames, mask)[1]
    torch.testing.assert_close(states[-1], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(head(frames, None)[1][-1], oracle(frames)[0], rtol=1e-5, atol=1e-6)


def test_lstm_block_shifts_its_input():
    config = tiny_config(head_type="lstm")
    block, frames = LstmBlock(config, 0), torch.randn(2, 5, 24)
    shifted = temporal_shift(frames, proportion=0.25)
    expected = torch.cat(
        [block.forward_lstm(shifted)[0], block.backward_lstm(shifted.flip(1))[0].flip(1)], dim=-1
    )  # fmt: skip
    torch.testing.assert_close(block(frames, None, False)[0], expected)


def naive_attention(attention, frames, lengths, reach):
    """Score by score: q·k plus the distance terms, over the root of the head's width."""
    batch, length, width = frames.shape
    heads, head_width = attention.num_heads, attention.head_width
    kind = attention.config.position_embedding_type
    query, key, value = attention.qkv(frames).split(width, dim=-1)
    out, probabilities = torch.zeros_like(frames), torch.zeros(batch, heads, length, length)
    for b, h, t in itertools.product(range(batch), range(heads), range(length)):
        part = slice(h * head_width, (h + 1) * head_width)
        scores = []
        for s in range(lengths[b]):
            score = query[b, t, part] @ key[b, s, part]
            if kind != "absolute":
                distance = max(-(reach - 1), min(reach - 1, t - s))
                embedding = attention.distance_embedding.weight[distance + reach - 1]
                score = score + query[b, t, part] @ embedding
                if kind == "relative_key_query":
                    score = score + key[b, s, part] @ embedding
            scores.append(score / math.sqrt(head_width))
        weights = torch.stack(scores).softmax(dim=0)
        probabilities[b, h, t, : lengths[b]] = weights
        out[b, t, part] = weights @ value[b, : lengths[b], part]
    return out, probabilities


@pytest.mark.parametrize("position", ["absolute", "relative_key", "relative_key_query"])
@pytest.mark.parametrize("reach", [1, 3, 20])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_equals_naive_loop(position, reach, implementation):
    config = tiny_config(
        shift_placement="none", position_embedding_type=position, max_position_embeddings=reach,
        attn_implementation=implementation,
    )  # fmt: skip
    attention = RelativeSelfAttention(config)
    assert attention.qkv.out_features == 72
    frames, mask = padded_batch((6, 3))
    for lengths, given in (((6, 3), mask), ((6, 6), None)):
        expected, expected_probabilities = naive_attention(attention, frames, lengths, reach)
        for wanted in (False, True):
            attended, probabilities = attention(frames, given, wanted)
            torch.testing.assert_close(attended, expected, rtol=1e-5, atol=1e-6)
            assert (probabilities is not None) == wanted
        torch.testing.assert_close(probabilities, expected_probabilities, rtol=1e-5, atol=1e-6)


def test_absolute_positions_join_once_and_are_clipped():
    config = tiny_config(shift_placement="none", position_embedding_type="absolute", max_position_embeddings=3)
    head = ShiftHead(config)
    frames, mask = torch.randn(1, 5, 24), torch.tensor([[True, True, True, True, False]])
    table = head.position_embedding.weight
    expected = frames + table[torch.tensor([0, 1, 2, 2, 2])]
    assert torch.equal(head(frames, None)[1][0], expected)
    assert torch.equal(head(frames, mask)[1][0], expected * mask[..., None])
    assert ShiftHead(tiny_config(position_embedding_type="absolute")).position_embedding is None


def test_linear_head_is_the_frames():
    head = ShiftHead(tiny_config(head_type="linear"))
    frames, mask = padded_batch()
    out, states, attentions = head(frames, mask)
    assert torch.equal(out, frames) and len(states) == 1 and attentions == () and not list(head.parameters())


@pytest.mark.parametrize(("head_type", "placement"), PLACES)
def test_autocast_and_half(head_type, placement):
    head = ShiftHead(tiny_config(head_type=head_type, shift_placement=placement)).eval()
    frames, mask = padded_batch()
    expected, _, _ = head(frames, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, _, _ = head(frames, mask)
    torch.testing.assert_close(out.float(), expected, rtol=0.1, atol=0.1)
    half, _, _ = head.bfloat16()(frames.bfloat16(), mask)
    assert half.dtype == torch.bfloat16 and half.isfinite().all()


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")  # not in 5.20
@pytest.mark.parametrize("variant", ["shiftcnn", "shiftlstm", "transformer", "shiftformer"])
def test_gradient_checkpointing_runs_the_blocks_again_and_changes_no_gradient(variant):
    model, frames = tiny_model(variant).train(), torch.randn(2, 21, 96, generator=torch.Generator().manual_seed(0))
    calls, gradients, block = [], {}, model.shift_ser.head.blocks[0]
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        hook = next(block.children()).register_forward_pre_hook(lambda *_: calls.append(1))
        set_seed(0)
        model(encoder_hidden_states=frames, labels=torch.tensor([0, 1])).loss.backward()
        hook.remove()
        gradients[checkpointing] = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert len(calls) == 1 + 2
    assert gradients[False].keys() == gradients[True].keys() and gradients[True]
    for name, gradient in gradients[True].items():
        torch.testing.assert_close(gradient, gradients[False][name])


def test_every_trainable_weight_gets_a_gradient():
    model = tiny_model("shiftformer", freeze_encoder=False).train()
    speech, mask = speech_batch([4000, 6000])
    model(speech, attention_mask=mask, labels=torch.tensor([0, 1])).loss.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_an_lstm_in_half_precision_leaves_its_weights_in_place(monkeypatch):
    """On a CPU without half-precision LSTMs, and while it computes: other threads may be in it."""
    monkeypatch.setattr(heads, "_has_half_precision_lstm", lambda dtype: False)
    torch.manual_seed(0)
    lstm, compute, seen = nn.LSTM(8, 8, batch_first=True), torch.lstm, []
    frames = torch.randn(2, 5, 8)
    expected, _ = lstm(frames)
    own = dict(lstm.bfloat16().named_parameters())

    def watched(*arguments):
        seen.append(all(value is own[name] for name, value in lstm.named_parameters()))
        return compute(*arguments)

    monkeypatch.setattr(torch, "lstm", watched)
    frames = frames.bfloat16()
    found, _ = heads._run_lstm(lstm, frames)
    _, state = heads._run_lstm(lstm, frames[:, :3])
    rest, _ = heads._run_lstm(lstm, frames[:, 3:], state)
    assert seen == [True] * 3 and found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.02)
    torch.testing.assert_close(rest, found[:, 3:])
    found.sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in lstm.parameters())
