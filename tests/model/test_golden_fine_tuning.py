"""Twelve steps of fine-tuning in the authors' code, and in ours from the same weights.

`fine_tuning.safetensors` holds what their code gave for four of the six models: an encoder as torchaudio builds it
(dropout and LayerDrop off), the head, four utterances of 1.5 s without a mask, and the loss and gradient norm of each
step of Adam with a rate of 3e-4. What all four share lies under `all.`.
"""

import functools

import pytest
import torch
from conftest import FIXTURES
from safetensors.torch import load_file
from transformers import Wav2Vec2Config

from shift_ser import ShiftConfig, ShiftForSequenceClassification
from shift_ser.hub.convert_original_checkpoint import convert_state_dict

OFF = dict.fromkeys(("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout"), 0.0)


@functools.cache
def reference(variant):
    tensors = load_file(FIXTURES / "fine_tuning.safetensors")
    wanted = {prefix: len(prefix) for prefix in ("all.", f"{variant}.")}
    return {
        name[length:]: value for prefix, length in wanted.items() for name, value in tensors.items()
        if name.startswith(prefix)
    }  # fmt: skip


def authors_model(variant, tensors):
    encoder_config = Wav2Vec2Config(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, conv_dim=(32,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, **OFF,
    )  # fmt: skip
    config = ShiftConfig.from_variant(
        variant, encoder_config=encoder_config, freeze_encoder=False, num_labels=4, max_position_embeddings=74,
        mask_time_prob=0.0, mask_feature_prob=0.0,
    )  # fmt: skip
    model = ShiftForSequenceClassification(config)
    state = {name[6:]: value for name, value in tensors.items() if name.startswith("state.")}
    del state["model.specaugment.masked_spec_embed"]
    missing, unexpected = model.load_state_dict(convert_state_dict(state), strict=False)
    assert missing == ["shift_ser.encoder.masked_spec_embed"] and not unexpected
    return model.train()


@pytest.mark.parametrize("variant", ["shiftcnn", "shiftlstm", "transformer", "shiftformer"])
def test_twelve_steps_of_fine_tuning_are_the_authors(variant):
    tensors = reference(variant)
    model = authors_model(variant, tensors)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=3e-4)
    losses, norms = [], []
    for _ in range(12):
        outputs = model(tensors["waveform"], labels=tensors["labels"])
        if not losses:
            torch.testing.assert_close(outputs.logits, tensors["logits"], rtol=1e-5, atol=1e-6)
        optimizer.zero_grad()
        outputs.loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(trained, 5.0).item())
        losses.append(outputs.loss.item())
        optimizer.step()
    torch.testing.assert_close(torch.tensor(losses), tensors["losses"], rtol=1e-5, atol=0)
    torch.testing.assert_close(torch.tensor(norms), tensors["grad_norms"], rtol=1e-5, atol=0)
