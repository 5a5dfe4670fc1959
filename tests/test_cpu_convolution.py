import pytest
import torch
from conftest import HOP, speech_batch, tiny_encoder_config, tiny_model
from torch import nn

from shift_ser.cpu import MatrixConv1d, use_matrix_convolutions
from shift_ser.model.encoders import masked_group_norm


@pytest.mark.parametrize(("kernel", "stride"), [(10, 5), (3, 2), (2, 2), (8, 8), (7, 3), (4, 1), (1, 1), (2, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_convolution(kernel, stride, bias):
    torch.manual_seed(0)
    plain = nn.Conv1d(6, 16, kernel, stride=stride, bias=bias)
    matrix = MatrixConv1d(6, 16, kernel, stride=stride, bias=bias)
    matrix.load_state_dict(plain.state_dict())
    for samples in (kernel, kernel + stride, 61, 64):
        speech = torch.randn(3, 6, samples)
        assert torch.equal(matrix(speech), plain(speech)), "float32 is left alone"
        with torch.autocast("cpu", torch.bfloat16):
            fast, slow = matrix(speech), plain(speech)
        assert fast.dtype == slow.dtype and fast.shape == slow.shape
        torch.testing.assert_close(fast.float(), plain(speech), rtol=0, atol=0.04)  # bfloat16 has 8 bits
        assert fast.transpose(1, 2).is_contiguous()
    half = matrix.bfloat16()
    torch.testing.assert_close(half(speech.bfloat16()), fast, rtol=0, atol=0)


def test_is_differentiable():
    plain, matrix = nn.Conv1d(4, 8, 3, stride=2), MatrixConv1d(4, 8, 3, stride=2)
    matrix.load_state_dict(plain.state_dict())
    speech = torch.randn(2, 4, 31, generator=torch.Generator().manual_seed(0))
    for module in (plain, matrix):
        with torch.autocast("cpu", torch.bfloat16):
            module(speech).sum().backward()
    torch.testing.assert_close(matrix.weight.grad, plain.weight.grad, rtol=0.02, atol=0.1)


@pytest.mark.parametrize("lengths", [None, [40, 17, 1]])
def test_group_norm_of_channels_last_equals_its_own_float32(lengths):
    torch.manual_seed(0)
    norm = nn.GroupNorm(8, 8, eps=0.1)  # an epsilon that is seen
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    values = torch.randn(3, 40, 8).mul(3).add(1).bfloat16().transpose(1, 2)
    ends = None if lengths is None else torch.tensor(lengths)
    fast, exact = masked_group_norm(norm, values, ends), masked_group_norm(norm, values.float(), ends)
    for row, end in enumerate(lengths or [40, 40, 40]):
        torch.testing.assert_close(fast[row, :, :end].float(), exact[row, :, :end], rtol=0.01, atol=0.02)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_bfloat16_model_stays_near_float32_alone_and_padded(norm):
    model = tiny_model(encoder_config=tiny_encoder_config(feat_extract_norm=norm, do_stable_layer_norm=norm == "layer"))
    use_matrix_convolutions(model.shift_ser.encoder)
    layers = model.shift_ser.encoder.feature_extractor.conv_layers
    assert all(isinstance(layer.conv, MatrixConv1d) for layer in layers)
    lengths = [400, HOP * 30, HOP * 17 + 3]
    speech, mask = speech_batch(lengths)
    with torch.inference_mode():
        exact = model(speech, attention_mask=mask).logits
        with torch.autocast("cpu", torch.bfloat16):
            fast = model(speech, attention_mask=mask).logits.float()
            alone = [model(speech[row : row + 1, :length]).logits[0] for row, length in enumerate(lengths)]
    torch.testing.assert_close(fast, exact, rtol=0, atol=0.03)
    torch.testing.assert_close(torch.stack(alone).float(), fast, rtol=0, atol=0.03)
