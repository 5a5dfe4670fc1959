"""Memory of finished tensors, kept for the next ones.

On a CPU every step of training makes and drops tensors of the same sizes. glibc gives large ones back to the system
at once and asks for new pages for the next, each of which the kernel has to fill with zeros first: often more time than
the operation itself takes.
"""

import ctypes
import logging
import os
from typing import Any

import torch
from torch import nn

logger = logging.getLogger(__name__)


class MatrixConv1d(nn.Conv1d):
    """`nn.Conv1d` with the same parameters; bfloat16 on a CPU becomes matrix products.

    With stride s, taps 0 to s - 1 of each window are s frames that follow each other in memory and are no part of the
    next window's: the rows of a matrix, without a copy. So are the taps from s on, and so on to the end of the kernel.

    Rounding: each product is summed in float32 and rounded to bfloat16, and so is the sum of two products. A kernel of
    10 with stride 5, or of 3 with stride 2, is off by 2.1e-3 of its outputs' standard deviation (root mean square, at
    most 2.0e-2); rounding the exact result once is off by 1.7e-3 (at most 1.4e-2).

    Shape:
        `(batch, channels, samples)` -> `(batch, out_channels, frames)`, in memory `(batch, frames, out_channels)`
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolve."""
        if not in_bfloat16_on_cpu(input):
            return super().forward(input)
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


def in_bfloat16_on_cpu(values: torch.Tensor) -> bool:
    """Whether an operation on `values` is computed in bfloat16 on a CPU now, by itself or by autocast."""
    if values.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") == torch.bfloat16
    return values.dtype == torch.bfloat16


def use_matrix_convolutions(encoder: Any) -> None:
    """Turn the plain convolutions of `encoder.feature_extractor` into `MatrixConv1d`; no parameter changes its name."""
    for module in getattr(encoder, "feature_extractor", torch.nn.Module()).modules():
        if type(module) is nn.Conv1d and (module.padding, module.dilation, module.groups) == ((0,), (1,), 1):
            module.__class__ = MatrixConv1d


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # mallopt's numbers for them (glibc, malloc.h)
_NEVER, _STEP = 2**31 - 1, 64 * 2**20
_VARIABLES = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Tell the C library's allocator to keep freed memory in this process instead of giving it back to the system.

    Call it once, before tensors are made; nothing but speed changes. The price: the process holds its peak of memory
    until it ends, and a little more for what gets fragmented. The same without this call, for any program:
    `MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_TOP_PAD_=67108864 python ...`; whoever has set one of
    these variables, or `GLIBC_TUNABLES`, is not overruled.

    Returns:
        Whether it was done. It is not where the C library is not glibc (macOS, Windows, musl), and with another
        allocator preloaded it has no effect.
    """
    said = [name for name in _VARIABLES if name in os.environ]
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    if said:
        logger.info("the allocator is left as %s says", " and ".join(said))
        return False
    options = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _STEP))
    return all([mallopt(number, value) == 1 for number, value in options])
