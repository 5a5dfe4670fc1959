"""Convolutions as matrix products: in bfloat16 on a CPU several times as fast as its convolutions."""

from typing import Any

import torch
from torch import nn

from .model.masked_norm import in_bfloat16_on_cpu


class MatrixConv1d(nn.Conv1d):
    """`nn.Conv1d` with the same parameters; bfloat16 on a CPU becomes matrix products.

    With stride s, taps 0 to s - 1 of each window are s frames that follow each other in memory and are no part of the
    next window's: the rows of a matrix, without a copy. So are the taps from s on, and so on to the end of the kernel.
    A positional convolution (groups, stride 1) is one product a group, over the windows of its channels; only without
    gradients, whose way back through windows that overlap is slow.

    Rounding: each product is summed in float32 and rounded to bfloat16, and so is the sum of two products. A kernel of
    10 with stride 5, or of 3 with stride 2, is off by 2.1e-3 of its outputs' standard deviation (root mean square, at
    most 2.0e-2); rounding the exact result once is off by 1.7e-3 (at most 1.4e-2).

    Shape:
        `(batch, channels, samples)` -> `(batch, out_channels, frames)`, in memory `(batch, frames, out_channels)`
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolve."""
        if not in_bfloat16_on_cpu(input) or (self.groups > 1 and torch.is_grad_enabled()):
            return super().forward(input)
        if self.groups > 1:
            return self._by_group(nn.functional.pad(input.to(torch.bfloat16), [int(self.padding[0])] * 2))
        samples = input.to(torch.bfloat16).transpose(1, 2).contiguous()
        frames = (samples.shape[1] - self.kernel_size[0]) // self.stride[0] + 1
        weight = self.weight.to(torch.bfloat16).permute(2, 1, 0).flatten(0, 1)  # (taps * channels, out_channels)
        return torch.stack([self._product(utterance, weight, frames) for utterance in samples]).transpose(1, 2)

    def _product(self, samples: torch.Tensor, weight: torch.Tensor, frames: int) -> torch.Tensor:
        """Frames `(frames, out_channels)` of one utterance `(samples, channels)`."""
        kernel, stride, channels = self.kernel_size[0], self.stride[0], samples.shape[1]
        products = []
        for first in range(0, kernel, stride):
            taps = min(stride, kernel - first)
            rows = samples[first:].as_strided((frames, taps * channels), (stride * channels, 1))
            products.append((rows, weight[first * channels : (first + taps) * channels]))
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


def use_matrix_convolutions(encoder: Any) -> None:
    """Turn the convolutions of an encoder that `MatrixConv1d` can compute into it; no parameter changes its name."""
    for module in encoder.modules():
        plain = isinstance(module, nn.Conv1d) and module.dilation == (1,) and not isinstance(module, MatrixConv1d)
        if not plain or module.padding_mode != "zeros":
            continue
        positional = 1 < module.groups < module.in_channels and module.stride == (1,)
        if positional or (module.groups == 1 and module.padding == (0,)):
            # a convolution with weight norm has a class of its own
            kind = type(module)
            module.__class__ = MatrixConv1d if kind is nn.Conv1d else type("MatrixConv1d", (MatrixConv1d, kind), {})
