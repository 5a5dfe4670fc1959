import copy
import os

import pytest
import torch
from conftest import HOP, speech_batch, tiny_encoder_config, tiny_model
from torch import nn

from shift_ser.matrix_products import MatrixConv1d, MatrixLinear, use_matrix_products
from shift_ser.model.masked_norm import masked_group_norm, normed_convolution


@pytest.mark.parametrize(("kernel", "stride"), [(10, 5), (3, 2), (2, 2), (8, 8), (7, 3), (4, 1), (1, 1), (2, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_convolution(kernel, stride, bias):
    torch.manual_seed(0)
    plain = nn.Conv1d(6, 16, kernel, stride=stride, bias=bias)
    matrix = MatrixConv1d(6, 16, kernel, stride=stride, bias=bias)
    matrix.load_state_dict(plain.state_dict())
    for samples in (kernel, kernel + stride, 61, 64):
        speech = torch.randn(3, 6, samples)
        assert torch.equal(matrix(speech), plain(speech)), "with gradients float32 is left alone"
        with torch.autocast("cpu", torch.bfloat16):
            fast, slow = matrix(speech), plain(speech)
        assert fast.dtype == slow.dtype and fast.shape == slow.shape
        torch.testing.assert_close(fast.float(), plain(speech), rtol=0, atol=0.04)  # bfloat16 has 8 bits
        assert fast.transpose(1, 2).is_contiguous()
    half = matrix.bfloat16()
    torch.testing.assert_close(half(speech.bfloat16()), fast, rtol=0, atol=0)


@pytest.mark.parametrize(("kernel", "stride"), [(10, 5), (3, 2), (2, 2), (4, 1), (2, 5)])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_without_gradients_one_product_equals_the_convolution(kernel, stride, dtype, bound):
    torch.manual_seed(0)
    plain = nn.Conv1d(96, 128, kernel, stride=stride)
    matrix = MatrixConv1d(96, 128, kernel, stride=stride)
    matrix.load_state_dict(plain.state_dict())
    for samples in (kernel, 61):
        speech = torch.randn(3, 96, samples).to(dtype)
        with torch.inference_mode():
            fast, exact = matrix.to(dtype)(speech), plain(speech.float())
        assert fast.dtype == dtype and fast.transpose(1, 2).is_contiguous()
        torch.testing.assert_close(fast.float(), exact, rtol=bound, atol=bound)


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_equals_the_stock_one_with_its_gradients(bias):
    torch.manual_seed(0)
    plain = nn.Linear(128, 130, bias=bias)
    matrix = copy.deepcopy(plain)
    use_matrix_products(nn.Sequential(matrix))
    values, weights = torch.randn(2, 7, 128, requires_grad=True), torch.randn(2, 7, 130)
    taken = [], []
    for layer, all_of_it in zip((plain, matrix), taken, strict=True):
        of = (values, *layer.parameters())
        output = layer(values)
        first = torch.autograd.grad((output * weights).square().sum(), of, create_graph=True)
        second = torch.autograd.grad(sum(gradient.square().sum() for gradient in first), of)
        with torch.inference_mode():
            all_of_it += [output, *first, *second, layer(values), layer(values[:, :0])]
    assert type(matrix) is MatrixLinear and len(taken[0]) == (9 if bias else 7)
    for expected, got in zip(*taken, strict=True):
        scale = float(expected.detach().abs().max()) if expected.numel() else 0.0
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * scale)


def test_any_layout_in_memory_gives_the_same_product():
    torch.manual_seed(0)
    wide = torch.randn(2, 6, 256)
    layer = nn.Linear(128, 128)
    use_matrix_products(nn.Sequential(layer))
    for weight in (torch.randn(128, 128), torch.randn(128, 128).T, torch.randn(128, 256)[:, ::2]):
        layer.weight = nn.Parameter(weight)
        for values in (wide[..., ::2], wide[..., :128], wide[:, :1, :128].expand(-1, 5, -1), wide[0, 0, :128]):
            torch.testing.assert_close(layer(values), values @ weight.T + layer.bias, rtol=0, atol=1e-4)


def test_an_encoder_of_some_width_keeps_its_frames_and_its_gradients():
    config = tiny_encoder_config("hubert", hidden_size=128, intermediate_size=256, num_attention_heads=4)
    model = tiny_model(encoder_config=config, freeze_encoder=False).eval()
    fast = copy.deepcopy(model)
    use_matrix_products(fast)
    assert any(type(module) is MatrixLinear for module in fast.modules())
    speech, mask = speech_batch([50 * HOP, 31 * HOP])
    batch = {"input_values": speech, "attention_mask": mask}
    labels = torch.tensor([0, 1])
    with torch.inference_mode():
        torch.testing.assert_close(fast(**batch).logits, model(**batch).logits, rtol=0, atol=1e-5)
    for module in (model, fast):
        module(**batch, labels=labels).loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert len(gradients) > 20
    for name, parameter in fast.named_parameters():
        if name in gradients:
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-5)


def test_an_exported_layer_holds_stock_operations():
    layer = nn.Linear(128, 128)
    use_matrix_products(nn.Sequential(layer))
    with torch.no_grad():
        graph = str(torch.export.export(layer, (torch.randn(3, 128),)).graph)
    assert "aten.linear" in graph and "mkldnn" not in graph


def test_kept_code_of_shapes_is_bounded_unless_somebody_says_otherwise(monkeypatch):
    names = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    use_matrix_products(nn.Sequential())
    assert [os.environ[name] for name in names] == ["256", "256"]
    monkeypatch.setenv(names[1], "7")
    use_matrix_products(nn.Sequential())
    assert os.environ[names[1]] == "7"


def test_is_differentiable():
    plain, matrix = nn.Conv1d(4, 8, 3, stride=2), MatrixConv1d(4, 8, 3, stride=2)
    matrix.load_state_dict(plain.state_dict())
    speech = torch.randn(2, 4, 31, generator=torch.Generator().manual_seed(0))
    for module in (plain, matrix):
        with torch.autocast("cpu", torch.bfloat16):
            module(speech).sum().backward()
    torch.testing.assert_close(matrix.weight.grad, plain.weight.grad, rtol=0.02, atol=0.1)


@pytest.mark.parametrize(("channels", "groups", "kernel"), [(12, 3, 8), (16, 4, 5), (8, 2, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_positional_convolution_equals_its_float32(channels, groups, kernel, bias):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=groups, bias=bias))
    nn.utils.parametrizations.weight_norm(encoder[0], dim=2)
    names = list(encoder.state_dict())
    use_matrix_products(encoder)
    assert isinstance(encoder[0], MatrixConv1d) and list(encoder.state_dict()) == names
    for time in (1, 3, 40):
        frames = torch.randn(2, channels, time)
        with torch.inference_mode():
            exact = encoder(frames)
            with torch.autocast("cpu", torch.bfloat16):
                fast = encoder(frames)
        assert fast.dtype == torch.bfloat16 and fast.shape == exact.shape
        torch.testing.assert_close(fast.float(), exact, rtol=0.01, atol=0.02)
    with torch.autocast("cpu", torch.bfloat16):  # with gradients it is the plain convolution
        encoder(frames).sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


@pytest.mark.parametrize("offset", [0.0, 30.0])
@pytest.mark.parametrize("lengths", [None, [40, 17, 1]])
def test_convolution_and_norm_in_one_product_equal_float32(lengths, offset):
    torch.manual_seed(0)
    convolution, norm = nn.Conv1d(1, 8, 10, stride=5), nn.GroupNorm(8, 8, eps=0.1)  # an epsilon that is seen
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    speech = (torch.randn(3, 1, 5 * 39 + 10) + offset).bfloat16().float()
    ends = None if lengths is None else torch.tensor(lengths)
    exact = normed_convolution(convolution, norm, speech, ends)
    torch.testing.assert_close(exact, masked_group_norm(norm, convolution(speech), ends), rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        fast = normed_convolution(convolution, norm, speech, ends)
    assert fast.dtype == torch.bfloat16
    for row, end in enumerate(lengths or [40, 40, 40]):
        torch.testing.assert_close(fast[row, :, :end].float(), exact[row, :, :end], rtol=0.01, atol=0.03)
    fast.float().square().sum().backward()
    assert convolution.weight.grad.abs().sum() > 0 and norm.weight.grad.abs().sum() > 0
    use_matrix_products(nn.Sequential(convolution))
    with torch.inference_mode():
        one = normed_convolution(convolution, norm, speech, ends)
    assert one.transpose(1, 2).is_contiguous(), "in memory as a product leaves it"
    for row, end in enumerate(lengths or [40, 40, 40]):
        torch.testing.assert_close(one[row, :, :end], exact[row, :, :end], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_bfloat16_model_stays_near_float32_alone_and_padded(norm):
    model = tiny_model(encoder_config=tiny_encoder_config(feat_extract_norm=norm, do_stable_layer_norm=norm == "layer"))
    use_matrix_products(model.shift_ser.encoder)
    layers = model.shift_ser.encoder.feature_extractor.conv_layers
    assert all(isinstance(layer.conv, MatrixConv1d) for layer in layers)
    assert isinstance(model.shift_ser.encoder.encoder.pos_conv_embed.conv, MatrixConv1d)
    lengths = [400, HOP * 30, HOP * 17 + 3]
    speech, mask = speech_batch(lengths)
    with torch.inference_mode():
        exact = model(speech, attention_mask=mask).logits
        with torch.autocast("cpu", torch.bfloat16):
            fast = model(speech, attention_mask=mask).logits.float()
            alone = [model(speech[row : row + 1, :length]).logits[0] for row, length in enumerate(lengths)]
    torch.testing.assert_close(fast, exact, rtol=0, atol=0.03)
    torch.testing.assert_close(torch.stack(alone).float(), fast, rtol=0, atol=0.03)
