"""The group norm behind an encoder's first convolution, over an utterance's own frames."""

import torch
from torch import nn


def masked_group_norm(norm: nn.GroupNorm, values: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """A group norm whose statistics are taken over the first `lengths` positions of each utterance.

    Args:
        norm: Groups, scale, bias and epsilon.
        values: Shape `(batch, channels, time)`.
        lengths: Shape `(batch,)`, from 1 to time; None: everything counts.

    Returns:
        The same shape; positions beyond an utterance's length are scaled like the others and count for nothing.
    """
    batch, channels, time = values.shape
    if lengths is None:
        return norm(values)
    grouped = values.float().view(batch, norm.num_groups, channels // norm.num_groups, time)
    outside = (torch.arange(time, device=lengths.device) >= lengths[:, None])[:, None, None, :]
    count = (lengths * (channels // norm.num_groups)).view(batch, 1, 1, 1)
    centred = grouped - grouped.masked_fill(outside, 0.0).sum(dim=(2, 3), keepdim=True) / count
    variance = centred.masked_fill(outside, 0.0).square().sum(dim=(2, 3), keepdim=True) / count
    normalised = (centred * torch.rsqrt(variance + norm.eps)).view(batch, channels, time)
    return (normalised * norm.weight[:, None] + norm.bias[:, None]).to(values.dtype)


def normed_convolution(
    convolution: nn.Conv1d, norm: nn.GroupNorm, speech: torch.Tensor, lengths: torch.Tensor | None
) -> torch.Tensor:
    """The first convolution and its masked group norm; on a CPU in bfloat16 one product for both.

    In float32 as well where the convolution says so (`one_product`) and nobody asks for gradients: results are those of
    the two within rounding, and not to the bit.

    With one channel a group, what the norm does is known before the convolution is: an output is w'x over a window x of
    samples, so its mean is w'm and its variance w'Cw, with m and C the mean and the covariance of the utterance's
    windows. They are taken in float32, and only the product with the scaled weights is rounded.

    Args:
        convolution: From one channel.
        norm: Of its output.
        speech: Shape `(batch, 1, samples)`.
        lengths: Shape `(batch,)`, positions of the output that count in the norm; None: all.

    Returns:
        Shape `(batch, channels, time)`, of one product in memory `(batch, time, channels)`.
    """
    coarse = in_bfloat16_on_cpu(speech)
    fine = getattr(convolution, "one_product", False) and _in_float32_on_cpu(speech)
    if norm.num_groups != convolution.out_channels or not (coarse or fine):
        return masked_group_norm(norm, convolution(speech), lengths)
    dtype = torch.bfloat16 if coarse else torch.float32
    windows = speech[:, 0].float().unfold(-1, convolution.kernel_size[0], convolution.stride[0])
    batch, time, _ = windows.shape
    ends = torch.full((batch,), time) if lengths is None else lengths
    outside = (torch.arange(time) >= ends[:, None])[:, :, None]
    centred = windows - (windows.masked_fill(outside, 0.0).sum(dim=1) / ends[:, None])[:, None]
    centred = centred.masked_fill(outside, 0.0)
    with torch.autocast("cpu", enabled=False):
        covariance = centred.mT @ centred / ends[:, None, None]
        weight = convolution.weight[:, 0].float()
        variance = ((weight @ covariance) * weight).sum(dim=-1).clamp(min=0.0)
        weight = weight * (torch.rsqrt(variance + norm.eps) * norm.weight)[:, :, None]
        product = torch.baddbmm(norm.bias.to(dtype), centred.to(dtype), weight.mT.to(dtype))
    return product.transpose(1, 2)


def in_bfloat16_on_cpu(values: torch.Tensor) -> bool:
    """Whether an operation on `values` is computed in bfloat16 on a CPU now, by itself or by autocast."""
    if values.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") == torch.bfloat16
    return values.dtype == torch.bfloat16


def _in_float32_on_cpu(values: torch.Tensor) -> bool:
    """Whether an operation on `values` is computed in float32 on a CPU now, and nobody asks for gradients."""
    exact = values.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return exact and values.device.type == "cpu" and not (torch.is_grad_enabled() or torch.compiler.is_compiling())
