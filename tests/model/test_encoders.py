import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import HOP, speech_batch, tiny_encoder_config, tiny_model
from torch import nn
from transformers import AutoConfig, AutoModel, HubertConfig, HubertModel, set_seed

from shift_ser import ShiftConfig, ShiftForSequenceClassification
from shift_ser.model.encoders import WAVEFORM, encode
from shift_ser.model.masked_norm import masked_group_norm

FAMILIES = [
    ("hubert", "group"),
    ("wav2vec2", "group"),
    ("hubert", "layer"),
    ("unispeech", "group"),
    ("unispeech-sat", "layer"),
    ("wavlm", "group"),
    ("data2vec-audio", None),
]
EVERY_WAY = [(family, norm, stable) for family in WAVEFORM for norm, stable in (("group", False), ("layer", True))]

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # WavLM calls attention so


def tiny(model_type, norm):
    options = {} if norm is None else {"feat_extract_norm": norm}
    return AutoConfig.for_model(
        model_type, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(16,) * 7, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, conv_pos_kernel_size=5,
        **options,
    )  # fmt: skip


def tiny_encoder(model_type, norm="layer", stable=True):
    set_seed(0)
    config = tiny_encoder_config(model_type, feat_extract_norm=norm, do_stable_layer_norm=stable)
    encoder = AutoModel.from_config(config).eval()
    for module in encoder.modules():  # scales of 1 and biases of 0 would hide a norm that is left out
        if isinstance(module, nn.GroupNorm | nn.LayerNorm) and module.weight is not None:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return encoder


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


@pytest.mark.parametrize(("model_type", "norm", "stable"), EVERY_WAY)
@torch.no_grad()
def test_without_padding_every_output_is_the_stock_encoders_to_the_bit(model_type, norm, stable):
    """GroupNorm's epsilon, the place of the norms and which state is which layer, all in one."""
    encoder = tiny_encoder(model_type, norm, stable)
    speech = 0.01 * speech_batch([HOP * 20, HOP * 20])[0]  # quiet, so that an epsilon matters
    stock = encoder(speech, output_hidden_states=True)
    assert torch.equal(encode(encoder, speech), stock.last_hidden_state)
    assert torch.equal(encode(encoder, speech, output="all"), torch.stack(stock.hidden_states, dim=1))
    for layer, frames in enumerate(stock.hidden_states):
        assert torch.equal(encode(encoder, speech, output=layer), frames)
    convolved = encoder.feature_extractor(speech).transpose(1, 2)
    assert torch.equal(encode(encoder, speech, output="convolutions"), convolved)
    assert torch.equal(encode(encoder, convolved, convolved=True), stock.last_hidden_state)
    projected = encoder.feature_projection(convolved)
    projected = projected[0] if isinstance(projected, tuple) else projected
    assert torch.equal(encode(encoder, speech, output="feature_projection"), projected)
    pre_norm = stable and model_type != "data2vec-audio"
    assert torch.equal(stock.hidden_states[-1], stock.last_hidden_state) != pre_norm


@pytest.mark.parametrize(("model_type", "norm", "stable"), EVERY_WAY)
@torch.no_grad()
def test_padded_equals_alone_for_every_output(model_type, norm, stable):
    encoder = tiny_encoder(model_type, norm, stable)
    lengths = [HOP * 20, HOP * 7 + 11]
    speech, mask = speech_batch(lengths)
    speech[1, lengths[1] :] = 5.0
    for output in ("feature_projection", 0, 1, "last"):
        together = encode(encoder, speech, mask, output=output)
        for row, length in enumerate(lengths):
            alone = encode(encoder, speech[row : row + 1, :length], output=output)[0]
            torch.testing.assert_close(together[row, : len(alone)], alone, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_frame_of_the_feature_projection_depends_on_its_own_samples_alone():
    encoder = tiny_encoder("hubert")
    speech, _ = speech_batch([HOP * 20])
    changed = speech.clone()
    changed[:, HOP * 10 :] += 1.0
    reach = 10  # frames before the change: a window is 10 + 5 * (7 + 8 * 7) = 325 samples
    for output, local in (("feature_projection", True), (0, False), ("last", False)):
        before, after = (encode(encoder, values, output=output) for values in (speech, changed))
        same = (before == after).all(dim=-1)[0]
        assert bool(same[: reach - 1].all()) is local
        assert not same[reach:].any()


@torch.no_grad()
def test_what_is_not_read_is_not_run():
    encoder = tiny_encoder("wav2vec2")
    speech, _ = speech_batch([HOP * 5])
    run = []
    for index, layer in enumerate(encoder.encoder.layers):
        layer.register_forward_hook(lambda *_, index=index: run.append(index))
    encoder.encoder.pos_conv_embed.register_forward_hook(lambda *_: run.append("positions"))
    ran = {}
    for output in ("convolutions", "feature_projection", 0, 1, 2, "last", "all"):
        run.clear()
        encode(encoder, speech, output=output)
        ran[output] = list(run)
    every = ["positions", 0, 1]
    assert ran == {
        "convolutions": [], "feature_projection": [], 0: every[:1], 1: every[:2], 2: every, "last": every, "all": every,
    }  # fmt: skip


@pytest.mark.parametrize("model_type", ["wav2vec2", "wavlm"])
def test_layerdrop_leaves_layers_out_in_training_alone(model_type):
    encoder = tiny_encoder(model_type)
    speech, _ = speech_batch([HOP * 5])
    encoder.config.layerdrop = 0.5
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for name in ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "mask_time_prob"):
        setattr(encoder.config, name, 0.0)
    encoder.config.apply_spec_augment = False
    whole = encode(encoder, speech, output="all")
    assert torch.equal(encode(encoder, speech, output="all"), whole)
    for layer in encoder.encoder.layers:
        layer.attention.dropout = 0.0
    encoder.train()
    dropped = [0, 0]
    for _ in range(200):
        states = encode(encoder, speech, output="all")
        assert states.shape == whole.shape
        for layer in range(2):
            dropped[layer] += torch.equal(states[:, layer], states[:, layer + 1])
    first = 0 if model_type == "wavlm" else 100  # its first layer makes the position bias of all
    assert abs(dropped[0] - first) < 30 * bool(first) + 1 and abs(dropped[1] - 100) < 30


@pytest.mark.parametrize(("model_type", "norm"), FAMILIES)
def test_threads_that_share_a_model_get_the_scores_of_one(model_type, norm):
    """Eight threads, speech of mixed lengths, and frames of the convolutions among it: equal to the bit."""
    set_seed(0)
    config = ShiftConfig.from_variant("shiftformer", encoder_config=tiny(model_type, norm), mask_feature_prob=0.0)
    model = ShiftForSequenceClassification(config).eval()
    rng = np.random.default_rng(0)
    calls = []
    for number in range(96):
        speech, mask = speech_batch([int(length) for length in rng.integers(400, 6000, size=2)], seed=number)
        call = {"input_values": speech, "attention_mask": mask}
        if number % 3 == 0:
            with torch.no_grad():
                frames = encode(model.shift_ser.encoder, speech, mask, output="convolutions")
            frame_mask = model.shift_ser.frame_mask(mask, num_frames=frames.shape[1], of_samples=True)
            call = {"extract_features": frames, "attention_mask": frame_mask}
        calls.append(call)
    before = {name: dict(vars(module)) for name, module in model.named_modules()}

    @torch.no_grad()
    def score(call):
        return model(**call).logits

    expected = [score(call) for call in calls]
    barrier = threading.Barrier(8)

    def work(worker):
        barrier.wait()
        return [score(call) for call in calls[worker::8]]

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(work, range(8)))
    for worker, scores in enumerate(together):
        assert all(torch.equal(one, other) for one, other in zip(scores, expected[worker::8], strict=True))
    after = {name: dict(vars(module)) for name, module in model.named_modules()}
    assert {name: set(attributes) for name, attributes in after.items()} == {
        name: set(attributes) for name, attributes in before.items()
    }
    assert all(before[name][key] is value for name, attributes in after.items() for key, value in attributes.items())


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_masked_group_norm_equals_the_stock_one_on_each_utterance_alone(groups):
    torch.manual_seed(0)
    norm = nn.GroupNorm(groups, 6, eps=0.1)  # an epsilon that is seen
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    values = torch.randn(3, 6, 50) + 3
    assert torch.equal(masked_group_norm(norm, values, None), norm(values))
    lengths = torch.tensor([50, 20, 2])
    masked = masked_group_norm(norm, values, lengths)
    for row, length in enumerate(lengths):
        assert torch.allclose(masked[row, :, :length], norm(values[row : row + 1, :, :length])[0], atol=1e-5)


@pytest.mark.parametrize("layer", ["feature_projection", 0, 1])
def test_a_layer_by_name_or_number_is_saved_and_loaded(tmp_path, layer):
    model = tiny_model("shiftcnn", encoder_layer=layer)
    speech, mask = speech_batch([HOP * 12, HOP * 5])
    frames = encode(model.shift_ser.encoder, speech, mask, output=layer)
    frame_mask = model.shift_ser.frame_mask(mask, num_frames=frames.shape[1], of_samples=True)
    expected = model(encoder_hidden_states=frames, attention_mask=frame_mask).logits
    assert torch.equal(model(speech, attention_mask=mask).logits, expected)
    model.save_pretrained(tmp_path)
    loaded = ShiftForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.config.encoder_layer == layer
    assert torch.equal(loaded(speech, attention_mask=mask).logits, expected)


@torch.no_grad()
def test_positions_with_batch_norm_are_exact():
    set_seed(0)
    encoder = AutoModel.from_config(tiny_encoder_config(conv_pos_batch_norm=True)).eval()
    norm = encoder.encoder.pos_conv_embed.batch_norm
    for value in (norm.running_mean, norm.bias):
        nn.init.normal_(value)  # of zero padding it makes something else
    speech, mask = speech_batch([HOP * 20, HOP * 7])
    assert torch.equal(encode(encoder, speech), encoder(speech).last_hidden_state)
    alone = encode(encoder, speech[1:, : HOP * 7])[0]
    torch.testing.assert_close(encode(encoder, speech, mask)[1, : len(alone)], alone, rtol=0, atol=1e-5)


class OtherConfig(HubertConfig):
    model_type = "other_hubert"


class OtherModel(HubertModel):
    config_class = OtherConfig


def test_a_family_that_is_not_known_is_tried_when_it_is_built_on(tmp_path):
    AutoConfig.register("other_hubert", OtherConfig, exist_ok=True)
    AutoModel.register(OtherConfig, OtherModel, exist_ok=True)
    settings = {name: value for name, value in tiny_encoder_config().to_dict().items() if name != "model_type"}
    exact = OtherConfig(**settings)
    model = tiny_model("shiftformer", encoder_config=exact)
    model.save_pretrained(tmp_path / "model")
    speech, mask = speech_batch([HOP * 12, HOP * 5])
    loaded = ShiftForSequenceClassification.from_pretrained(tmp_path / "model")
    assert torch.equal(loaded(speech, attention_mask=mask).logits, model(speech, attention_mask=mask).logits)
    for output in ("convolutions", "feature_projection"):
        with pytest.raises(ValueError, match=f"{output} need an encoder of wav2vec2, .* got 'other_hubert'"):
            encode(model.shift_ser.encoder, speech, output=output)
    leaky = OtherConfig(**settings | {"feat_extract_norm": "group", "do_stable_layer_norm": False})
    with pytest.raises(ValueError, match=r"within 1e-05 .* those of 'other_hubert' change by 0\.\d"):
        tiny_model("shiftformer", encoder_config=leaky)
    AutoModel.from_config(leaky).save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match="those of 'other_hubert' change by"):
        ShiftForSequenceClassification.from_encoder_pretrained(str(tmp_path / "encoder"))
