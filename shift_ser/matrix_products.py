"""Convolutions and linear layers as matrix products of the library that is fast at them.

torch has two on x86: MKL for products in float32, oneDNN for those in bfloat16 and for convolutions. On processors that
are not Intel's MKL may reach less than half of what oneDNN does, so float32 goes to oneDNN as well. And oneDNN's
products are faster than its convolutions.
"""

import os
from typing import Any

import torch
from torch import nn

from .model.masked_norm import in_bfloat16_on_cpu

_KEPT = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}
_WORTH = 2**14  # weights of a layer below which a call of oneDNN costs about as much as it saves


class MatrixConv1d(nn.Conv1d):
    """`nn.Conv1d` with the same parameters, on a CPU as matrix products.

    The windows of a convolution lie in memory as the rows of a matrix, one stride apart, without a copy; oneDNN
    multiplies them though they overlap. torch does not. Where it has to (with gradients, under autocast), taps 0 to
    s - 1 of stride s are the rows of a first product, for they are no part of the next window, those from s on of a
    second, and so on to the end of the kernel. A positional convolution (groups, stride 1) is one product a group, over
    the windows of its channels; only in bfloat16 and without gradients, whose way back through windows that overlap is
    slow.

    Rounding: each product is summed in float32 and rounded to bfloat16, and so is the sum of two products. In two
    products a kernel of 10 with stride 5, or of 3 with stride 2, is off by 2.1e-3 of its outputs' standard deviation
    (root mean square, at most 2.0e-2); rounding the exact result once is off by 1.7e-3 (at most 1.4e-2).

    Shape:
        `(batch, channels, samples)` -> `(batch, out_channels, frames)`, in memory `(batch, frames, out_channels)`
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolve."""
        whole = self.groups == 1 and not torch.is_grad_enabled() and _by_onednn(input, self.weight)
        if not whole and (not in_bfloat16_on_cpu(input) or (self.groups > 1 and torch.is_grad_enabled())):
            return super().forward(input)
        if self.groups > 1:
            return self._by_group(nn.functional.pad(input.to(torch.bfloat16), [int(self.padding[0])] * 2))
        dtype = input.dtype if whole else torch.bfloat16
        samples = input.to(dtype).transpose(1, 2).contiguous()
        frames = (samples.shape[1] - self.kernel_size[0]) // self.stride[0] + 1
        weight = self.weight.to(dtype).transpose(1, 2).flatten(1)  # (out_channels, taps * channels)
        product = self._product if whole else self._products
        outputs = [product(utterance, weight, frames) for utterance in samples]
        return (torch.stack(outputs) if len(outputs) > 1 else outputs[0][None]).transpose(1, 2)

    def _product(self, samples: torch.Tensor, weight: torch.Tensor, frames: int) -> torch.Tensor:
        """Frames `(frames, out_channels)` of one utterance `(samples, channels)`, in one product."""
        stride = self.stride[0] * samples.shape[1]
        return _product(samples.as_strided((frames, weight.shape[1]), (stride, 1)), weight, self.bias)

    def _products(self, samples: torch.Tensor, weight: torch.Tensor, frames: int) -> torch.Tensor:
        """The same in products of rows that do not overlap."""
        kernel, stride, channels = self.kernel_size[0], self.stride[0], samples.shape[1]
        products = []
        for first in range(0, kernel, stride):
            taps = min(stride, kernel - first)
            rows = samples[first:].as_strided((frames, taps * channels), (stride * channels, 1))
            products.append((rows, weight[:, first * channels : (first + taps) * channels].T))
        rows, part = products[0]
        output = rows @ part if self.bias is None else torch.addmm(self.bias.to(weight.dtype), rows, part)
        for rows, part in products[1:]:
            output = torch.addmm(output, rows, part)
        return output

    def _by_group(self, samples: torch.Tensor) -> torch.Tensor:
        """Outputs `(batch, out_channels, frames)` of `(batch, channels, samples)`, which hold the padding."""
        weights = self.weight.to(torch.bfloat16).unflatten(0, (self.groups, -1)).flatten(2)
        windows = samples.unflatten(1, (self.groups, -1)).unfold(-1, self.kernel_size[0], 1).transpose(2, 3)
        outputs = [
            [group.flatten(1) @ weight.T for group, weight in zip(utterance, weights, strict=True)]
            for utterance in windows  # one at a time, since windows that overlap are copied
        ]
        output = torch.stack([torch.cat(utterance, dim=1) for utterance in outputs])
        return (output if self.bias is None else output + self.bias.to(torch.bfloat16)).transpose(1, 2)


class MatrixLinear(nn.Linear):
    """`nn.Linear` with the same parameters, by oneDNN where that can compute it."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        if not _by_onednn(input, self.weight):
            return super().forward(input)
        return _product(input, self.weight, self.bias)


def use_matrix_products(model: Any) -> None:
    """Turn the layers of a model that the classes above can compute into them; no parameter changes its name.

    oneDNN makes code for every shape and torch keeps that of 1024 shapes: hundreds of megabytes over the many lengths
    of a long recording. 64 are those of a few lengths; whoever has set the variables is not overruled.
    """
    for name, number in _KEPT.items():
        os.environ.setdefault(name, number)
    for module in model.modules():
        if kind := _kind_of(module):
            # a convolution with weight norm has a class of its own
            plain = type(module) in (nn.Conv1d, nn.Linear)
            module.__class__ = kind if plain else type(kind.__name__, (kind, type(module)), {})


def _kind_of(module: nn.Module) -> type[nn.Module] | None:
    """The class above that computes what a module does; None if there is none, or it has one."""
    if isinstance(module, MatrixConv1d | MatrixLinear):
        return None
    if isinstance(module, nn.Conv1d) and module.dilation == (1,) and module.padding_mode == "zeros":
        positional = 1 < module.groups < module.in_channels and module.stride == (1,)
        return MatrixConv1d if positional or (module.groups == 1 and module.padding == (0,)) else None
    return MatrixLinear if type(module) is nn.Linear else None


def _by_onednn(values: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether oneDNN computes a product of these: a large one on an x86 CPU, in one dtype."""
    return (
        values.device.type == weight.device.type == "cpu"
        and values.dtype == weight.dtype in (torch.float32, torch.bfloat16)
        and values.numel() > 0
        and weight.numel() >= _WORTH
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and torch.backends.cpu.get_cpu_capability().startswith("AVX")
    )


class _Product(torch.autograd.Function):
    """A product of oneDNN, and its two products backwards."""

    @staticmethod
    def forward(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "none")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        rows, weight, _ = inputs
        ctx.save_for_backward(rows, weight)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        for_rows, for_weight, for_bias = ctx.needs_input_grad
        flat = grad.flatten(0, -2)
        return (
            _product(grad, weight.T, None) if for_rows else None,
            _product(flat.T, rows.flatten(0, -2).T, None) if for_weight else None,
            flat.sum(dim=0) if for_bias else None,
        )


def _product(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`nn.functional.linear` by oneDNN, which takes rows that overlap in memory."""
    return _Product.apply(rows, weight, bias)
