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

_KEPT = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256", "LRU_CACHE_CAPACITY": "256"}
_WORTH = 2**14  # weights of a layer below which a call of oneDNN costs about as much as it saves


class MatrixConv1d(nn.Conv1d):
    """`nn.Conv1d` with the same parameters, on a CPU as matrix products.

    The windows of a convolution lie in memory as the rows of a matrix, one stride apart, without a copy; oneDNN
    multiplies them though they overlap, in one product a group. torch does not. Where it has to (with gradients, in
    bfloat16, one group), taps 0 to s - 1 of stride s are the rows of a first product, for they are no part of the next
    window, those from s on of a second, and so on to the end of the kernel.

    Rounding: each product is summed in float32 and rounded to bfloat16, and so is the sum of two products. In two
    products a kernel of 10 with stride 5, or of 3 with stride 2, is off by 2.1e-3 of its outputs' standard deviation
    (root mean square, at most 2.0e-2); rounding the exact result once is off by 1.7e-3 (at most 1.4e-2).

    Shape:
        `(batch, channels, samples)` -> `(batch, out_channels, frames)`, in memory `(batch, frames, out_channels)`
    """

    one_product = True  # a norm behind it may become part of it

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolve."""
        coarse, weight = in_bfloat16_on_cpu(input), self.weight  # of a parametrization it is computed
        dtype = torch.bfloat16 if coarse else input.dtype
        if torch.is_grad_enabled() or not _by_onednn(input, weight, dtype):
            if not coarse or self.groups > 1:
                return super().forward(input)
            product = self._products
        else:
            product = self._product
        padded = nn.functional.pad(input.to(dtype), [int(self.padding[0])] * 2)
        samples = padded.unflatten(1, (self.groups, -1)).transpose(2, 3).contiguous()
        frames = (samples.shape[2] - self.kernel_size[0]) // self.stride[0] + 1
        weight = weight.to(dtype).transpose(1, 2).flatten(1)  # (out_channels, taps * channels)
        outputs = [
            torch.cat([product(*given, frames) for given in zip(groups, weight.chunk(self.groups), strict=True)], dim=1)
            for groups in samples
        ]
        output = torch.stack(outputs) if len(outputs) > 1 else outputs[0][None]
        return (output if self.bias is None else output + self.bias.to(dtype)).transpose(1, 2)

    def _product(self, samples: torch.Tensor, weight: torch.Tensor, frames: int) -> torch.Tensor:
        """Frames `(frames, out_channels)` of a group of one utterance `(samples, channels)`, in one product."""
        rows = samples.as_strided((frames, weight.shape[1]), (self.stride[0] * samples.shape[1], 1))
        narrow = rows.dtype == torch.bfloat16 and self.groups > 1  # faster with a copy
        return _product(rows.contiguous() if narrow else rows, weight, None)

    def _products(self, samples: torch.Tensor, weight: torch.Tensor, frames: int) -> torch.Tensor:
        """The same in products of rows that do not overlap."""
        kernel, stride, channels = self.kernel_size[0], self.stride[0], samples.shape[1]
        products = []
        for first in range(0, kernel, stride):
            taps = min(stride, kernel - first)
            rows = samples[first:].as_strided((frames, taps * channels), (stride * channels, 1))
            products.append((rows, weight[:, first * channels : (first + taps) * channels].T))
        rows, part = products[0]
        output = rows @ part
        for rows, part in products[1:]:
            output = torch.addmm(output, rows, part)
        return output


class MatrixLinear(nn.Linear):
    """`nn.Linear` with the same parameters, by oneDNN where that can compute it."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        plain = input.dtype == self.weight.dtype and not torch.is_autocast_enabled("cpu")
        if not plain or not _by_onednn(input, self.weight, input.dtype):
            return super().forward(input)
        return _product(input, self.weight, self.bias)


def use_matrix_products(model: Any) -> None:
    """Turn the layers of a model that the classes above can compute into them; no parameter changes its name.

    oneDNN makes code for every shape, and it and torch keep that of 1024 shapes: hundreds of megabytes over the many
    lengths of a long recording. 256 are those of some twenty lengths; whoever has set the variables is not overruled.
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


def _by_onednn(values: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether oneDNN computes a product of these in a dtype: a large one on an x86 CPU."""
    return (
        values.device.type == weight.device.type == "cpu"
        and dtype in (torch.float32, torch.bfloat16)
        and values.numel() > 0
        and weight.numel() >= _WORTH
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and torch.backends.cpu.get_cpu_capability().startswith("AVX")
    )


class _Product(torch.autograd.Function):
    """A product of oneDNN, and its two products backwards."""

    @staticmethod
    def forward(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if not weight.is_contiguous() and not weight.T.is_contiguous():
            weight = weight.contiguous()  # of other layouts a product takes seconds
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
