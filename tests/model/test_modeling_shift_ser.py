import itertools

import pytest
import torch
from conftest import ENCODER_CONFIGS, HOP, speech_batch, tiny_encoder_config, tiny_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForAudioClassification, HubertModel, set_seed

from shift_ser import ShiftConfig, ShiftForSequenceClassification, ShiftModel
from shift_ser.model.heads import HEADS, variants
from shift_ser.model.modeling_shift_ser import masked_mean, spec_augment

PLACES = [(head, placement) for head, entry in HEADS.items() for placement in entry.placements]
LENGTHS = (5000, 2700, 1300)
NO_DROPOUT = {name: 0.0 for name in ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout")}
NO_SPEC_AUGMENT = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}


def head_parameters(model):
    return {name: value for name, value in model.named_parameters() if ".encoder." not in name}


def frame_batch(lengths=(25, 14, 3), width=96, seed=0):
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    frames = torch.randn(*mask.shape, width, generator=torch.Generator().manual_seed(seed))
    return frames * mask[..., None], mask


# Numbers of the published models


def closed_form(variant: str, width: int = 768, labels: int = 4, reach: int = 374, heads: int = 12) -> int:
    """Parameters counted from the layers' shapes; every head has SpecAugment's vector and a classifier."""
    mlp, norm = 8 * width * width + 5 * width, 2 * width
    total = width + {"lstm": 2}.get(variant[-4:], 1) * width * labels + labels
    if variant.endswith("cnn"):
        total += 2 * (7 * width + width + norm + mlp) + norm
    elif variant.endswith("lstm"):
        total += 2 * (4 * width * 2 * width + 2 * 4 * width) + 2 * norm
    elif variant == "transformer":
        total += 2 * (3 * width * width + 3 * width + (2 * reach - 1) * width // heads + norm + mlp + norm)
    elif variant == "shiftformer":
        total += 2 * (mlp + norm)
    return total


@pytest.mark.parametrize(
    ("variant", "millions"),
    [("cnn", "9.47"), ("shiftcnn", "9.47"), ("lstm", "9.46"), ("shiftlstm", "9.46"), ("transformer", "13.1"),
     ("shiftformer", "9.45"), ("linear", "0.00384")],
)  # fmt: skip
def test_parameter_counts_of_the_published_heads(variant, millions):
    with torch.device("meta"):
        model = ShiftForSequenceClassification(ShiftConfig.from_variant(variant, num_labels=4))
    count = sum(value.numel() for value in head_parameters(model).values())
    assert count == closed_form(variant)
    assert f"{count / 1e6:.3g}" == millions


# Padding


@pytest.mark.parametrize(("head_type", "placement"), PLACES)
@pytest.mark.parametrize("training", [False, True])
def test_padded_equals_alone(head_type, placement, training):
    speech, mask = speech_batch(LENGTHS)
    strides = (4,) if training else (1, 4)
    for direction, stride, padding in itertools.product(("forward", "bidirectional"), strides, ("zero", "repeat")):
        model = tiny_model(
            head_type=head_type, shift_placement=placement, shift_direction=direction, shift_stride=stride,
            shift_padding=padding, shift_proportion=0.25, **NO_SPEC_AUGMENT,
        ).train(training)  # fmt: skip
        with torch.no_grad():
            together = model(speech, attention_mask=mask).logits
            for row, length in enumerate(LENGTHS):
                alone = model(speech[row : row + 1, :length]).logits
                torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", variants())
@pytest.mark.parametrize("training", [False, True])
def test_padded_frames_equal_alone_and_padding_is_never_read(variant, training):
    model = tiny_model(variant, **NO_SPEC_AUGMENT).train(training)
    frames, mask = frame_batch()
    together = model(encoder_hidden_states=frames, attention_mask=mask).logits
    poisoned = frames.masked_fill(mask[..., None] == 0, float("nan"))
    assert torch.equal(model(encoder_hidden_states=poisoned, attention_mask=mask).logits, together)
    for row, length in enumerate(mask.sum(dim=1)):
        alone = model(encoder_hidden_states=frames[row : row + 1, :length]).logits
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", variants())
def test_mask_padding_false_is_no_mask_at_all(variant):
    model = tiny_model(variant, mask_padding=False, use_weighted_layer_sum=True)
    masked = tiny_model(variant, use_weighted_layer_sum=True)
    speech, mask = speech_batch(LENGTHS)
    logits = model(speech, attention_mask=mask).logits
    assert torch.equal(logits, model(speech).logits)
    assert torch.equal(logits, masked(speech).logits)
    assert not torch.allclose(logits, masked(speech, attention_mask=mask).logits, atol=1e-4)


def test_shorter_than_a_frame_and_fully_padded_rows_stay_finite():
    for variant in variants():
        model = tiny_model(variant)
        frames, mask = frame_batch((5, 2))
        mask[1] = 0
        frames = frames.requires_grad_()
        logits = model(encoder_hidden_states=frames, attention_mask=mask).logits
        logits.sum().backward()
        assert logits.isfinite().all() and frames.grad.isfinite().all()
        torch.testing.assert_close(logits[1], model.classifier.bias)


def test_masked_mean_is_the_mean_of_what_is_there():
    frames, mask = frame_batch()
    expected = torch.stack([row[:length].mean(dim=0) for row, length in zip(frames, mask.sum(dim=1), strict=True)])
    torch.testing.assert_close(masked_mean(frames, mask.bool()), expected)


# Encoders


@pytest.mark.parametrize("encoder", ENCODER_CONFIGS)
@pytest.mark.parametrize("freeze", [True, False])
def test_every_encoder_runs_trains_and_is_saved(tmp_path, encoder, freeze):
    model = tiny_model("shiftcnn", encoder_config=tiny_encoder_config(encoder), freeze_encoder=freeze)
    speech, mask = speech_batch(LENGTHS)
    model.train()
    model(speech, attention_mask=mask, labels=torch.tensor([0, 1, 2])).loss.backward()
    frozen = "shift_ser.encoder." if freeze else "shift_ser.encoder.feature_extractor."
    unused = {"shift_ser.encoder.masked_spec_embed"}  # the encoder's own SpecAugment is off
    for name, parameter in model.named_parameters():
        if name.startswith(frozen):
            assert parameter.grad is None and not parameter.requires_grad, name
        elif name not in unused:
            assert parameter.requires_grad and parameter.grad is not None and parameter.grad.isfinite().all(), name
    model.eval().save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    loaded = ShiftForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded(speech, attention_mask=mask).logits, model(speech, attention_mask=mask).logits)


@pytest.mark.parametrize("norm", ["layer", "group"])
@pytest.mark.parametrize("encoder", ENCODER_CONFIGS)
def test_padding_changes_nothing_in_any_encoder(encoder, norm):
    encoder_config = tiny_encoder_config(encoder, feat_extract_norm=norm, do_stable_layer_norm=norm == "layer")
    model = tiny_model("shiftformer", encoder_config=encoder_config)
    speech, mask = speech_batch(LENGTHS)
    together = model(speech, attention_mask=mask).logits
    for row, length in enumerate(LENGTHS):
        alone = model(speech[row : row + 1, :length]).logits
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-5)


def test_frozen_encoder_stays_in_eval_mode_without_gradients_or_graph(tmp_path):
    model = tiny_model(encoder_config=tiny_encoder_config(hidden_dropout=0.5), **NO_SPEC_AUGMENT)
    model.save_pretrained(tmp_path)
    for each in (model, ShiftForSequenceClassification.from_pretrained(tmp_path)):
        each.train()
        encoder = each.shift_ser.encoder
        assert each.training and each.shift_ser.head.training
        assert not any(module.training for module in encoder.modules())
        assert not any(parameter.requires_grad for parameter in encoder.parameters())
        speech, _ = speech_batch([3000])
        outputs = each(speech, output_hidden_states=True)
        assert not outputs.hidden_states[0].requires_grad
        torch.testing.assert_close(outputs.logits, each.eval()(speech).logits)
        outputs.logits.sum().backward()
        assert all(parameter.grad is None for parameter in encoder.parameters())
        assert all(p.grad is not None for name, p in head_parameters(each).items())


def test_what_is_unfrozen_by_hand_is_trained_and_stays_so():
    model = tiny_model(encoder_config=tiny_encoder_config(hidden_dropout=0.5), **NO_SPEC_AUGMENT)
    layer = model.shift_ser.encoder.encoder.layers[1]
    layer.requires_grad_(True)
    speech, _ = speech_batch([3000])
    model.train().eval().train()
    assert layer.training and not model.shift_ser.encoder.feature_extractor.training
    model(speech).logits.sum().backward()
    moved = {name for name, value in model.shift_ser.encoder.named_parameters() if value.grad is not None}
    assert moved == {f"encoder.layers.1.{name}" for name, _ in layer.named_parameters()}
    model.freeze_base_model()
    assert {name for name, value in model.named_parameters() if value.requires_grad} == {
        "classifier.weight", "classifier.bias",
    }  # fmt: skip
    assert not layer.training
    model.shift_ser.encoder.requires_grad_(True)
    model.freeze_feature_encoder()
    assert all(
        value.requires_grad is not name.startswith("feature_extractor.")
        for name, value in model.shift_ser.encoder.named_parameters()
    )


@pytest.mark.parametrize("training", [True, False])
def test_gradients_reach_the_speech_through_a_frozen_encoder(training):
    model = tiny_model(encoder_config=tiny_encoder_config(**NO_DROPOUT), **NO_SPEC_AUGMENT).double().train(training)
    speech = speech_batch([1500])[0].double().requires_grad_()
    model(speech).logits[0, 0].backward()
    step = torch.zeros_like(speech)
    step[0, 700] = 1e-4
    with torch.no_grad():
        change = (model(speech + step).logits - model(speech - step).logits)[0, 0] / 2e-4
    torch.testing.assert_close(speech.grad[0, 700], change, rtol=1e-4, atol=1e-9)
    assert all(value.grad is None for value in model.shift_ser.encoder.parameters())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft asks for it
def test_adapters_of_peft_on_the_default_model_learn_are_saved_and_merge(tmp_path):
    peft = pytest.importorskip("peft")
    tiny_model("shiftformer").save_pretrained(tmp_path / "base")
    speech, mask = speech_batch(LENGTHS)
    set_seed(0)
    options = peft.LoraConfig(target_modules=["q_proj", "v_proj"], modules_to_save=["head", "classifier"], r=4)
    base = ShiftForSequenceClassification.from_pretrained(tmp_path / "base")
    model = peft.get_peft_model(base, options).train()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert sum("lora_" in name for name in trained) == 2 * 2 * 2  # A and B of two projections in two layers
    optimizer = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], lr=1e-2)
    for _ in range(2):  # B is zero at first, so A moves from the second step on
        optimizer.zero_grad()
        model(input_values=speech, attention_mask=mask, labels=torch.tensor([0, 1, 2])).loss.backward()
        optimizer.step()
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == trained
    inputs = {"input_values": speech, "attention_mask": mask}
    with torch.no_grad():
        logits = model.eval()(**inputs).logits
        model.save_pretrained(tmp_path / "adapter")
        again = ShiftForSequenceClassification.from_pretrained(tmp_path / "base")
        loaded = peft.PeftModel.from_pretrained(again, tmp_path / "adapter").eval()
        assert torch.equal(loaded(**inputs).logits, logits)
        torch.testing.assert_close(loaded.merge_and_unload()(**inputs).logits, logits, rtol=0, atol=1e-6)


def test_fine_tuning_keeps_the_convolutions_frozen(tmp_path):
    model = tiny_model(freeze_encoder=False)
    model.save_pretrained(tmp_path)
    for each in (model, ShiftForSequenceClassification.from_pretrained(tmp_path)):
        encoder = each.train().shift_ser.encoder
        assert not any(module.training for module in encoder.feature_extractor.modules())
        assert encoder.encoder.training and encoder.feature_projection.training
        trained = {name for name, value in encoder.named_parameters() if value.requires_grad}
        all_names = {name for name, _ in encoder.named_parameters()}
        unused = {"masked_spec_embed"}  # the encoder's own SpecAugment is off
        assert trained == {name for name in all_names - unused if not name.startswith("feature_extractor.")}
    frozen = ShiftForSequenceClassification.from_pretrained(tmp_path, freeze_encoder=True).train()
    assert not any(parameter.requires_grad for parameter in frozen.shift_ser.encoder.parameters())


def test_encoder_augmentation_reaches_the_encoder_only_if_asked_for():
    options = {"freeze_encoder": False, **NO_SPEC_AUGMENT}
    for wanted in (False, True):
        encoder_config = tiny_encoder_config(mask_time_prob=0.9, mask_time_length=2, layerdrop=0.0, **NO_DROPOUT)
        model = tiny_model("linear", encoder_config=encoder_config, encoder_augmentation=wanted, **options)
        speech, _ = speech_batch([16000])
        quiet = model(speech).logits
        assert torch.allclose(model.train()(speech).logits, quiet, atol=1e-5) is not wanted


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(freeze_encoder=False, **NO_SPEC_AUGMENT)
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert model.shift_ser.encoder.encoder.gradient_checkpointing
        torch.manual_seed(1)
        speech, mask = speech_batch(LENGTHS)
        model.train()(speech, attention_mask=mask, labels=torch.tensor([0, 1, 2])).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name])


# The two ways in


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("variant", variants())
def test_frames_given_equal_the_encoder_run(variant, weighted):
    model = tiny_model(variant, use_weighted_layer_sum=weighted)
    if weighted:
        torch.nn.init.normal_(model.shift_ser.layer_weights)
    speech, mask = speech_batch(LENGTHS)
    outputs = model.shift_ser.encoder(speech, attention_mask=mask, output_hidden_states=True)
    frames = torch.stack(outputs.hidden_states, dim=1) if weighted else outputs.last_hidden_state
    frame_mask = model.shift_ser.frame_mask(mask, num_frames=frames.shape[-2], of_samples=True)
    assert frame_mask.sum(dim=1).tolist() == [(length - 330) // HOP + 1 for length in LENGTHS]
    expected = model(speech, attention_mask=mask).logits
    given = model(encoder_hidden_states=frames, attention_mask=frame_mask.long()).logits
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-6)
    model.shift_ser.encoder = None
    without = model.train().eval()(encoder_hidden_states=frames, attention_mask=frame_mask.long()).logits
    assert torch.equal(without, given)


def test_weighted_layer_sum_is_the_weighted_sum():
    model = tiny_model("linear", use_weighted_layer_sum=True)
    weights = model.shift_ser.layer_weights
    assert weights.tolist() == [0.0] * 3
    layers = torch.randn(2, 3, 5, 96)
    summed = model(encoder_hidden_states=layers, output_hidden_states=True).hidden_states[0]
    torch.testing.assert_close(summed, layers.mean(dim=1))
    weights.data = torch.tensor([0.0, 2.0, -1.0])
    share = weights.softmax(dim=0)
    summed = model(encoder_hidden_states=layers, output_hidden_states=True).hidden_states[0]
    torch.testing.assert_close(summed, sum(share[i] * layers[:, i] for i in range(3)))
    speech, mask = speech_batch(LENGTHS)
    model.train()(speech, attention_mask=mask).logits.sum().backward()
    assert weights.grad.isfinite().all() and (weights.grad != 0).any()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "exactly one of input_values, input_features, extract_features, encoder_hidden_states, got none"),
        ({"input_values": torch.zeros(1, 999), "encoder_hidden_states": torch.zeros(1, 3, 96)},
         "got input_values and encoder_hidden_states"),
        ({"extract_features": torch.zeros(1, 3, 16), "encoder_hidden_states": torch.zeros(1, 3, 96)},
         "got extract_features and encoder_hidden_states"),
        ({"extract_features": torch.zeros(1, 3, 96)}, r"extract_features must have shape \(batch, time, 16\), got"),
        ({"extract_features": torch.zeros(1, 3, 16), "attention_mask": torch.ones(1, 999)},
         r"attention_mask beside extract_features must have shape .* \(1, 3\), got \(1, 999\)"),
        ({"input_values": torch.zeros(999)}, r"input_values must have shape \(batch, samples\), got \(999,\)"),
        ({"input_values": torch.zeros(1, 999), "attention_mask": torch.ones(1, 3)},
         r"attention_mask beside input_values must have shape \(batch, samples\) = \(1, 999\), got \(1, 3\)"),
        ({"encoder_hidden_states": torch.zeros(3, 96)}, r"must have shape \(batch, time, 96\), got \(3, 96\)"),
        ({"encoder_hidden_states": torch.zeros(1, 3, 95)}, r"must have shape \(batch, time, 96\), got \(1, 3, 95\)"),
        ({"encoder_hidden_states": torch.zeros(1, 3, 3, 96)}, r"must have shape \(batch, time, 96\), got"),
        ({"encoder_hidden_states": torch.zeros(1, 3, 96), "attention_mask": torch.ones(1, 999)},
         r"attention_mask beside encoder_hidden_states must have shape .* \(1, 3\), got \(1, 999\)"),
    ],
)  # fmt: skip
def test_inputs_that_do_not_fit(inputs, message):
    with pytest.raises(ValueError, match=message):
        tiny_model()(**inputs)


def test_inputs_that_do_not_fit_a_weighted_sum_or_a_model_without_encoder():
    model = tiny_model(use_weighted_layer_sum=True)
    for shape in ((2, 5, 96), (2, 4, 5, 96)):
        with pytest.raises(ValueError, match=r"must have shape \(batch, 3, time, 96\), got"):
            model(encoder_hidden_states=torch.zeros(shape))
    model.shift_ser.encoder = None
    with pytest.raises(ValueError, match="input_values need the encoder, which was taken out"):
        model(torch.zeros(1, 999))
    with pytest.raises(ValueError, match="extract_features need the encoder, which was taken out"):
        model(extract_features=torch.zeros(1, 3, 16))


def convolved(model, speech, lengths):
    """Output of the convolutions, each utterance alone, zero-padded to one batch, with its mask."""
    with torch.no_grad():
        alone = [model.shift_ser.encoder.feature_extractor(speech[[row], :n])[0].T for row, n in enumerate(lengths)]
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(frames)) for frames in alone], batch_first=True)
    return torch.nn.utils.rnn.pad_sequence(alone, batch_first=True), mask.long()


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # WavLM calls torch's attention so
@pytest.mark.parametrize("norm", ["layer", "group"])
@pytest.mark.parametrize("encoder", ENCODER_CONFIGS)
def test_convolutions_given_equal_the_whole_run(encoder, norm):
    encoder_config = tiny_encoder_config(encoder, feat_extract_norm=norm, do_stable_layer_norm=norm == "layer")
    model = tiny_model("shiftformer", encoder_config=encoder_config, freeze_encoder=False, use_weighted_layer_sum=True)
    speech, mask = speech_batch(LENGTHS)
    features, frame_mask = convolved(model, speech, LENGTHS)
    expected = model(speech, attention_mask=mask).logits
    given = model(extract_features=features, attention_mask=frame_mask).logits
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-6)
    poisoned = features.masked_fill(frame_mask[..., None] == 0, 1e3)
    assert torch.equal(model(extract_features=poisoned, attention_mask=frame_mask).logits, given)
    torch.testing.assert_close(model(speech, attention_mask=mask).logits, expected, rtol=0, atol=0)  # all undone
    alone = model(extract_features=features[:1]).logits
    torch.testing.assert_close(alone, expected[:1], rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("encoder", ["hubert", "data2vec-audio"])
def test_fine_tuning_from_convolutions_has_the_gradients_of_the_whole_run(encoder, checkpointing):
    speech, mask = speech_batch([16000, 9000])  # the encoder's own SpecAugment needs ten frames
    encoder_config = tiny_encoder_config(encoder, mask_time_prob=0.5, mask_time_length=2, layerdrop=0.0)
    model = tiny_model(freeze_encoder=False, encoder_config=encoder_config, encoder_augmentation=True).train()
    features, frame_mask = convolved(model, speech, [16000, 9000])
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    gradients = []
    for inputs in (
        {"input_values": speech, "attention_mask": mask},
        {"extract_features": features, "attention_mask": frame_mask},
    ):
        set_seed(0)
        model.zero_grad()
        loss = model(**inputs, labels=torch.tensor([1, 2])).loss
        loss.backward()
        gradients.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(gradients[0]) == len(gradients[1]) > 40
    for whole, given in zip(*gradients, strict=True):
        torch.testing.assert_close(given, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", [0, 1, 2, None])
def test_a_chosen_layer_is_saved_and_is_what_frames_of_it_give(tmp_path, layer):
    model = tiny_model("shiftcnn", encoder_layer=layer)
    speech, mask = speech_batch(LENGTHS)
    outputs = model.shift_ser.encoder(speech, attention_mask=mask, output_hidden_states=True)
    frames = outputs.last_hidden_state if layer is None else outputs.hidden_states[layer]
    frame_mask = model.shift_ser.frame_mask(mask, num_frames=frames.shape[1], of_samples=True)
    expected = model(encoder_hidden_states=frames, attention_mask=frame_mask).logits
    torch.testing.assert_close(model(speech, attention_mask=mask).logits, expected, rtol=0, atol=1e-6)
    model.save_pretrained(tmp_path)
    loaded = ShiftForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.config.encoder_layer == layer
    torch.testing.assert_close(loaded(speech, attention_mask=mask).logits, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("variant", variants())
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_frames_of_half_precision_are_taken_at_the_models(variant, dtype):
    model = tiny_model(variant)
    frames, mask = frame_batch()
    expected = model(encoder_hidden_states=frames.to(dtype).float(), attention_mask=mask).logits
    assert torch.equal(model(encoder_hidden_states=frames.to(dtype), attention_mask=mask).logits, expected)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(encoder_hidden_states=frames.to(dtype), attention_mask=mask).logits
    torch.testing.assert_close(mixed.float(), expected, rtol=0, atol=0.1)
    model.to(torch.bfloat16)
    assert model(encoder_hidden_states=frames, attention_mask=mask).logits.dtype == torch.bfloat16


# Outputs


@pytest.mark.parametrize("variant", ["cnn", "lstm", "transformer", "shiftformer", "linear"])
def test_hidden_states_and_attentions(variant):
    model = tiny_model(variant)
    frames, mask = frame_batch()
    plain = model(encoder_hidden_states=frames, attention_mask=mask)
    assert plain.hidden_states is None and plain.attentions is None and plain.loss is None
    full = model(
        encoder_hidden_states=frames, attention_mask=mask, output_hidden_states=True, output_attentions=True
    )  # fmt: skip
    torch.testing.assert_close(full.logits, plain.logits, rtol=0, atol=1e-6)
    assert len(full.hidden_states) == model.config.num_head_layers + 1
    assert torch.equal(full.hidden_states[0], frames)
    assert len(full.attentions) == (2 if variant == "transformer" else 0)
    for probabilities in full.attentions:
        assert probabilities.shape == (3, 12, 25, 25)
        assert (probabilities.masked_select(mask[:, None, None, :] == 0) == 0).all()
        torch.testing.assert_close(probabilities.sum(dim=-1), torch.ones(3, 12, 25))
    model.config.output_hidden_states = True
    assert model(encoder_hidden_states=frames).hidden_states is not None
    as_tuple = model(encoder_hidden_states=frames, return_dict=False)
    assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[0], model(encoder_hidden_states=frames).logits)


@pytest.mark.parametrize("variant", variants())
def test_shift_model_gives_masked_frames(variant):
    model = tiny_model(variant).shift_ser
    speech, mask = speech_batch(LENGTHS)
    frames = model(speech, attention_mask=mask).last_hidden_state
    frame_mask = model.frame_mask(mask, num_frames=frames.shape[1], of_samples=True)
    assert frames.shape[2] == (192 if "lstm" in variant else 96)
    assert (frames[~frame_mask] == 0).all() and frames[frame_mask].abs().min() > 0
    assert model.frame_mask(None, num_frames=5, of_samples=True) is None


def test_eager_equals_sdpa(tmp_path):
    frames, mask = frame_batch()
    for position in ("absolute", "relative_key", "relative_key_query"):
        tiny_model("transformer", position_embedding_type=position).save_pretrained(tmp_path)
        eager, sdpa = (
            ShiftForSequenceClassification.from_pretrained(tmp_path, attn_implementation=implementation)
            for implementation in ("eager", "sdpa")
        )
        assert (eager.config._attn_implementation, sdpa.config._attn_implementation) == ("eager", "sdpa")
        out = [model(encoder_hidden_states=frames, attention_mask=mask).logits for model in (eager, sdpa)]
        torch.testing.assert_close(*out, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("position", ["absolute", "relative_key", "relative_key_query"])
def test_longer_than_the_position_table(position):
    model = tiny_model("transformer", position_embedding_type=position, max_position_embeddings=4)
    frames, mask = frame_batch((40, 9))
    logits = model(encoder_hidden_states=frames, attention_mask=mask).logits
    alone = model(encoder_hidden_states=frames[1:, :9]).logits
    torch.testing.assert_close(logits[1:], alone, rtol=0, atol=1e-5)


def test_loss_is_cross_entropy_and_knows_the_items_in_the_batch():
    model, (frames, mask) = tiny_model(), frame_batch()
    labels = torch.tensor([0, 3, 1])
    inputs = {"encoder_hidden_states": frames, "attention_mask": mask, "labels": labels}
    outputs = model(**inputs)
    summed = torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="sum")
    torch.testing.assert_close(outputs.loss, summed / 3)
    torch.testing.assert_close(model(**inputs, num_items_in_batch=12).loss, summed / 12)


@pytest.mark.parametrize("variant", variants())
def test_runs_under_autocast_and_in_bfloat16(tmp_path, variant):
    model = tiny_model(variant, use_weighted_layer_sum=True).train()
    speech, mask = speech_batch(LENGTHS)
    labels = torch.tensor([0, 1, 2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(speech, attention_mask=mask, labels=labels).loss
    loss.backward()
    assert loss.isfinite()
    model.save_pretrained(tmp_path)
    half = ShiftForSequenceClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {value.dtype for value in half.parameters()} == {torch.bfloat16}
    assert half(speech.bfloat16(), attention_mask=mask).logits.dtype == torch.bfloat16


# SpecAugment


def head_input(model, frames, mask=None):
    return model(encoder_hidden_states=frames, attention_mask=mask, output_hidden_states=True).hidden_states[0]


def test_spec_augment_in_training_only():
    model, frames = tiny_model("linear"), torch.randn(4, 60, 96)
    assert torch.equal(head_input(model, frames), frames)
    assert not torch.equal(head_input(model.train(), frames), frames)
    quiet = tiny_model("linear", **NO_SPEC_AUGMENT).train()
    assert quiet.shift_ser.masked_spec_embed is None
    assert torch.equal(head_input(quiet, frames), frames)


def test_spec_augment_puts_the_learned_vector_and_zero():
    model, frames = tiny_model("linear").train(), torch.randn(8, 60, 96)
    model.shift_ser.masked_spec_embed.data.fill_(7.0)
    out = head_input(model, frames)
    timed, zeroed = (out == 7.0).any(dim=2), (out == 0.0).all(dim=1)
    assert (timed.sum(dim=1) >= 15).all() and (timed.sum(dim=1) <= 30).all()  # two masks of 15, overlapping or not
    assert (zeroed.sum(dim=1) == 64).all()  # one mask of 64 channels
    expected = torch.where(timed[..., None], 7.0, frames).masked_fill(zeroed[:, None], 0.0)
    assert torch.equal(out, expected)
    out.sum().backward()
    count = (timed[..., None] & ~zeroed[:, None]).sum(dim=(0, 1))
    torch.testing.assert_close(model.shift_ser.masked_spec_embed.grad, count.float())


def test_spec_augment_meets_its_probabilities():
    model = tiny_model(
        "linear", mask_time_prob=0.2, mask_time_length=2, mask_time_min_masks=0, mask_feature_prob=0.25,
        mask_feature_length=2, mask_feature_min_masks=0,
    ).train()  # fmt: skip
    model.shift_ser.masked_spec_embed.data.fill_(7.0)
    out = head_input(model, torch.randn(300, 100, 96))
    # n masks of 2 at different starts, n = share * size / 2 on average: overlaps take a little off the share
    timed, zeroed = (out == 7.0).any(dim=2).float().mean(), (out == 0.0).all(dim=1).float().mean()
    assert 0.17 < timed < 0.2 and 0.21 < zeroed < 0.25


def test_spec_augment_has_its_least_number_of_masks_on_768_channels():
    set_seed(0)
    frames, config, vector = torch.randn(2, 100, 768), ShiftConfig(), torch.full((768,), 7.0)
    # 0.08 * 100 / 15 and 0.05 * 768 / 64 masks are below 1: without a least number many batches would have none
    out = torch.cat([spec_augment(frames, None, config=config, vector=vector) for _ in range(20)])
    timed, zeroed = (out == 7.0).any(dim=2).sum(dim=1), (out == 0.0).all(dim=1).sum(dim=1)
    assert (timed >= 16).all() and (timed <= 30).all()  # two masks of 15 frames, at different starts
    assert (zeroed == 64).all()


@pytest.mark.parametrize("variant", variants())
def test_spec_augment_leaves_padding_zero_and_copes_with_short_utterances(variant):
    model = tiny_model(variant, shift_padding="repeat").train()
    for lengths in ((60, 20, 15, 3, 1), (9, 4), (1,), (15,)):
        frames, mask = frame_batch(lengths)
        for _ in range(3):
            outputs = model(encoder_hidden_states=frames, attention_mask=mask, output_hidden_states=True)
            assert all((state[mask == 0] == 0).all() for state in outputs.hidden_states)
            assert outputs.logits.isfinite().all()
    frames, mask = frame_batch((9, 4))
    kept = head_input(model, frames, mask)
    assert ((kept == frames) | (kept == 0)).all()  # shorter than a time mask: only features are masked


# Saving, loading, building


@pytest.mark.parametrize("variant", variants())
def test_save_and_load_bit_for_bit(tmp_path, variant):
    model = tiny_model(variant, use_weighted_layer_sum=True, position_embedding_type="absolute")
    torch.nn.init.normal_(model.shift_ser.layer_weights)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    speech, mask = speech_batch(LENGTHS)
    expected = model(speech, attention_mask=mask)
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path)
    assert type(loaded) is ShiftForSequenceClassification and not loaded.training
    assert torch.equal(loaded(speech, attention_mask=mask).logits, expected.logits)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is ShiftModel
    frames = model.shift_ser(speech, attention_mask=mask).last_hidden_state
    assert torch.equal(base(speech, attention_mask=mask).last_hidden_state, frames)


@pytest.mark.parametrize("variant", variants())
def test_initial_weights_are_reproducible_and_as_torch_draws_them(variant):
    first, second, other = (tiny_model(variant, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])
    model = tiny_model(variant)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and ".encoder." not in name:
            bound = module.in_features**-0.5  # uniform, standard deviation bound / sqrt(3)
            assert module.weight.abs().max() <= bound and module.bias.abs().max() <= bound
            assert module.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
        elif isinstance(module, torch.nn.LayerNorm):
            assert (module.weight == 1).all() and (module.bias == 0).all()
    vector = model.shift_ser.masked_spec_embed
    assert 0 <= vector.min() < 0.2 and 0.8 < vector.max() <= 1


def test_a_checkpoint_without_head_keeps_what_it_has(tmp_path):
    model = tiny_model("transformer")
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    gone = {"classifier.bias", "shift_ser.masked_spec_embed", "shift_ser.head.blocks.1.attention.qkv.weight"}
    save_file({k: v for k, v in load_file(path).items() if k not in gone}, path, metadata={"format": "pt"})
    loaded, info = ShiftForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == gone
    state = model.state_dict()
    for name, value in loaded.state_dict().items():
        assert value.isfinite().all()
        assert torch.equal(value, state[name]) is (name not in gone), name


@pytest.mark.parametrize("cls", [ShiftModel, ShiftForSequenceClassification])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_from_encoder_pretrained(tmp_path, cls, dtype):
    encoder = HubertModel(tiny_encoder_config()).to(dtype)
    encoder.save_pretrained(tmp_path)
    model = cls.from_encoder_pretrained(
        str(tmp_path), variant="shiftlstm", shift_stride=2, num_labels=3, freeze_encoder=False
    )  # fmt: skip
    config = model.config
    assert (config.head_type, config.shift_stride, config.num_labels, config.freeze_encoder) == ("lstm", 2, 3, False)
    assert not model.training and {value.dtype for value in model.parameters()} == {torch.float32}
    ours = model.base_model.encoder.state_dict()
    assert ours.keys() == encoder.state_dict().keys()
    assert all(torch.equal(ours[name], value.float()) for name, value in encoder.state_dict().items())
    speech, mask = speech_batch(LENGTHS)
    if dtype == torch.float32:
        frames = encoder.eval()(speech, attention_mask=mask).last_hidden_state
        assert torch.equal(model.base_model.encoder(speech, attention_mask=mask).last_hidden_state, frames)
    assert model(speech, attention_mask=mask)[0].isfinite().all()
    assert cls.from_encoder_pretrained(str(tmp_path), head_type="cnn").config.head_type == "cnn"


def test_from_encoder_pretrained_refuses_a_checkpoint_with_missing_weights(tmp_path):
    HubertModel(tiny_encoder_config()).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    save_file({k: v for k, v in state.items() if k != "masked_spec_embed"}, path, metadata={"format": "pt"})
    ShiftModel.from_encoder_pretrained(str(tmp_path))
    incomplete = {k: v for k, v in state.items() if "layers.1.attention" not in k}
    save_file(incomplete, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"every weight of the encoder; .* lacks 8, the first is 'encoder\.layers\.1"):
        ShiftModel.from_encoder_pretrained(str(tmp_path))


def test_head_compiles_for_all_lengths():
    torch._dynamo.reset()
    head = tiny_model("shiftformer", num_head_layers=1).shift_ser.head
    compiled = torch.compile(head, fullgraph=True, dynamic=True, backend="eager")
    frames, mask = frame_batch((20, 8))
    for length in (20, 11):
        inputs = frames[:, :length], mask[:, :length].bool()
        torch.testing.assert_close(compiled(*inputs)[0], head(*inputs)[0])
