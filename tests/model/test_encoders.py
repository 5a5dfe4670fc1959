import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, set_seed

from shift_ser import ShiftConfig, ShiftForSequenceClassification
from shift_ser.model.encoders import MaskedActivation, MaskedGroupNorm, make_padding_aware, utterance_ends

FAMILIES = [
    ("hubert", "group"),
    ("wav2vec2", "group"),
    ("hubert", "layer"),
    ("unispeech-sat", "layer"),
    ("wavlm", "group"),
    ("data2vec-audio", None),
]


def tiny(model_type, norm):
    options = {} if norm is None else {"feat_extract_norm": norm}
    return AutoConfig.for_model(
        model_type, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(16,) * 7, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, conv_pos_kernel_size=5,
        **options,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # WavLM calls torch's attention so
@pytest.mark.parametrize(("model_type", "norm"), FAMILIES)
def test_logits_of_an_utterance_are_the_same_alone_and_in_any_batch_at_any_padded_length(model_type, norm):
    """130 random utterances per encoder, whatever garbage the padding holds."""
    set_seed(0)
    rng = np.random.default_rng(0)
    config = ShiftConfig.from_variant("shiftformer", encoder_config=tiny(model_type, norm), mask_feature_prob=0.0)
    model = ShiftForSequenceClassification(config).eval()
    for _ in range(13):
        lengths = rng.integers(400, 6000, size=10)
        longest = int(lengths.max() + rng.integers(0, 4000))
        values = torch.from_numpy(rng.normal(size=(10, longest)).astype(np.float32))
        mask = (torch.arange(longest) < torch.from_numpy(lengths)[:, None]).long()
        with torch.no_grad():
            together = model(values, attention_mask=mask).logits
            alone = torch.cat([model(values[row : row + 1, :length]).logits for row, length in enumerate(lengths)])
        assert torch.allclose(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_masked_group_norm_equals_the_stock_one_on_each_utterance_alone(groups):
    torch.manual_seed(0)
    norm = MaskedGroupNorm(groups, 6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    values = torch.randn(3, 6, 50) + 3
    stock = nn.functional.group_norm(values, groups, norm.weight, norm.bias)
    assert torch.equal(norm(values), stock)
    norm.lengths = torch.tensor([50, 20, 2])
    masked = norm(values)
    for row, length in enumerate(norm.lengths):
        alone = nn.functional.group_norm(values[row : row + 1, :, :length], groups, norm.weight, norm.bias)
        assert torch.allclose(masked[row, :, :length], alone[0], atol=1e-5)


def test_parameters_keep_names_and_values_and_the_ends_are_forgotten_after_the_pass():
    set_seed(0)
    encoder = AutoModel.from_config(tiny("hubert", "group"))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    make_padding_aware(encoder)
    after = encoder.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)
    norm = encoder.feature_extractor.conv_layers[0].layer_norm
    with pytest.raises(RuntimeError, match="stop"), utterance_ends(encoder, torch.ones(2, 500)):
        assert norm.lengths.tolist() == [99, 99]  # (500 - 10) // 5 + 1 positions after the first convolution
        raise RuntimeError("stop")
    assert norm.lengths is None


def test_masked_activation_is_the_activation_then_zero():
    activation = MaskedActivation(nn.Sigmoid())
    values = torch.zeros(2, 1, 3)
    assert activation(values).tolist() == [[[0.5] * 3]] * 2
    activation.lengths = torch.tensor([3, 1])
    assert activation(values).tolist() == [[[0.5, 0.5, 0.5]], [[0.5, 0.0, 0.0]]]
