"""A forward pass, and the way back, ask for no value of a tensor: on a GPU each one would stop the program to wait.

Tensors on the `meta` device have shapes and no values, so an operation that needs one raises an error.
"""

import pytest
import torch
from conftest import HOP, tiny_encoder_config, tiny_model

from shift_ser.model.configuration_shift_ser import HEADS

WITHOUT_MASKS = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}  # SpecAugment's spans are drawn on the host


def values(*shape, dtype=torch.float32):
    return torch.empty(*shape, dtype=dtype, device="meta")


@pytest.mark.parametrize("head_type", sorted(HEADS))
def test_heads_of_kept_frames(head_type):
    for options in ({}, {"problem_type": "soft_label_classification"}, {"label_smoothing": 0.1}):
        model = tiny_model(head_type=head_type, **WITHOUT_MASKS, **options).to("meta").train()
        labels = values(3, 4) if "problem_type" in options else values(3, dtype=torch.long)
        mask = values(3, 50, dtype=torch.long)
        model(encoder_hidden_states=values(3, 50, 96), attention_mask=mask, labels=labels).loss.backward()
        assert all(p.grad is not None for name, p in model.named_parameters() if name.startswith("classifier"))


@pytest.mark.parametrize("model_type", ["hubert", "wav2vec2", "wavlm", "data2vec-audio", "unispeech-sat"])
def test_fine_tuning_of_speech_without_padding(model_type):
    encoder = tiny_encoder_config(model_type, apply_spec_augment=False)
    model = tiny_model("shiftformer", encoder_config=encoder, freeze_encoder=False, **WITHOUT_MASKS).to("meta").train()
    model(values(3, 40 * HOP), labels=values(3, dtype=torch.long)).loss.backward()
    assert any(parameter.grad is not None for parameter in model.shift_ser.encoder.parameters())


def test_a_value_that_is_asked_for_is_seen():
    with pytest.raises(RuntimeError, match="meta"):
        bool(values(3).all())
