"""SpecAugment on an encoder's frames."""

import torch
from transformers import PreTrainedConfig
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices


def spec_augment(
    frames: torch.Tensor, mask: torch.Tensor | None, *, config: PreTrainedConfig, vector: torch.Tensor | None
) -> torch.Tensor:
    """Frames with random time masks (a learned vector) and feature masks (zero); numpy's generator draws them.

    Args:
        frames: Shape `(batch, time, channels)`; left as they are.
        mask: Bool, `(batch, time)`, of the frames that are speech; None: all are.
        config: Its `mask_time_` and `mask_feature_` options count.
        vector: What stands under a time mask, shape `(channels,)`; None: there are no time masks.

    Returns:
        New frames of the same shape.
    """
    batch, length, channels = frames.shape
    if vector is not None and length >= config.mask_time_length:
        masked = _compute_mask_indices(
            (batch, length),
            config.mask_time_prob,
            config.mask_time_length,
            attention_mask=None if mask is None else mask.long(),
            min_masks=config.mask_time_min_masks,
        )
        masked = torch.from_numpy(masked).to(frames.device).unsqueeze(-1)
        frames = torch.where(masked, vector.to(frames.dtype), frames)
    if config.mask_feature_prob > 0:
        masked = _compute_mask_indices(
            (batch, channels),
            config.mask_feature_prob,
            config.mask_feature_length,
            min_masks=config.mask_feature_min_masks,
        )
        frames = frames.masked_fill(torch.from_numpy(masked).to(frames.device).unsqueeze(1), 0.0)
    return frames
