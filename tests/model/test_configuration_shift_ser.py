import copy
import json

import pytest
import torch
from conftest import tiny_encoder_config
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers import AutoConfig, HubertModel, PreTrainedConfig

from shift_ser import ShiftConfig, ShiftForSequenceClassification, ShiftModel
from shift_ser.model.heads import HEADS, variants

# head_type, placement, proportion, direction, blocks, blocks with a shift
PUBLISHED = {
    "linear": ("linear", "none", 0.25, "forward", 0, []),
    "cnn": ("cnn", "none", 1 / 16, "forward", 2, [1]),
    "shiftcnn": ("cnn", "residual", 1 / 16, "forward", 2, [1]),
    "lstm": ("lstm", "none", 1 / 4, "forward", 1, [0]),
    "shiftlstm": ("lstm", "in_place", 1 / 4, "forward", 1, [0]),
    "transformer": ("transformer", "none", 1 / 4, "bidirectional", 2, [0, 1]),
    "shiftformer": ("transformer", "replace", 1 / 4, "bidirectional", 2, [0, 1]),
}
ALL_PLACEMENTS = ("none", "in_place", "residual", "replace")


def tiny_config(**options) -> ShiftConfig:
    return ShiftConfig(**{"encoder_config": tiny_encoder_config(), **options})


@pytest.mark.parametrize("variant", variants())
def test_published_settings(variant):
    config = ShiftConfig.from_variant(variant)
    names = ("head_type", "shift_placement", "shift_proportion", "shift_direction", "num_head_layers", "shift_layers")
    assert tuple(getattr(config, name) for name in names) == PUBLISHED[variant]
    assert (config.shift_stride, config.shift_padding) == (1, "zero")
    assert (config.conv_kernel_size, config.num_attention_heads, config.max_position_embeddings) == (7, 12, 374)
    assert config.position_embedding_type == "relative_key_query"
    assert (config.mask_time_prob, config.mask_time_length, config.mask_time_min_masks) == (0.08, 15, 2)
    assert (config.mask_feature_prob, config.mask_feature_length, config.mask_feature_min_masks) == (0.05, 64, 1)
    assert config.mask_padding and config.freeze_encoder and not config.use_weighted_layer_sum
    assert config.encoder_config.model_type == "hubert" and config.hidden_size == 768
    assert config.num_hidden_layers == config.num_head_layers


def test_temperature_is_kept_beside_the_model(tmp_path):
    assert tiny_config().temperature is None
    model = ShiftForSequenceClassification(tiny_config(temperature=1.75))  # transformers knows the name otherwise
    model.save_pretrained(tmp_path)
    assert ShiftConfig.from_pretrained(tmp_path).temperature == 1.75
    assert ShiftForSequenceClassification.from_pretrained(tmp_path).config.temperature == 1.75
    for wrong in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(StrictDataclassClassValidationError, match=f"temperature must be finite .* got {wrong}"):
            tiny_config(temperature=wrong)
    with pytest.raises(StrictDataclassFieldValidationError):
        tiny_config(temperature="1")


def test_default_is_the_shiftformer():
    assert ShiftConfig().to_dict() == ShiftConfig.from_variant("shiftformer").to_dict()


def test_variant_takes_further_options_which_win():
    config = ShiftConfig.from_variant("shiftcnn", shift_placement="in_place", shift_layers=[0], num_head_layers=3)
    assert (config.shift_placement, config.shift_layers, config.num_head_layers) == ("in_place", [0], 3)
    with pytest.raises(ValueError, match=r"name must be one of \['cnn', .*'transformer'\], got 'gru'"):
        ShiftConfig.from_variant("gru")


def test_shift_layers_follow_the_number_of_blocks():
    assert tiny_config(head_type="cnn", num_head_layers=4).shift_layers == [3]
    assert tiny_config(num_head_layers=3).shift_layers == [0, 1, 2]


@pytest.mark.parametrize("variant", variants())
@pytest.mark.parametrize("encoder", ["wav2vec2", "wavlm", "data2vec-audio"])
def test_round_trip(tmp_path, variant, encoder):
    config = ShiftConfig.from_variant(
        variant, encoder_config=tiny_encoder_config(encoder), shift_stride=2, mask_time_length=3, num_labels=5,
        shift_padding="repeat", mask_padding=False, freeze_encoder=False,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    for loaded in (ShiftConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is ShiftConfig
        assert type(loaded.encoder_config) is type(config.encoder_config)
        assert loaded.to_diff_dict() == config.to_diff_dict()


def test_encoder_config_may_be_a_dict_and_is_not_changed():
    given = tiny_encoder_config(layerdrop=0.3)
    before = copy.deepcopy(given.to_dict())
    config = tiny_config(encoder_config=given)
    assert given.to_dict() == before and config.encoder_config is not given
    as_dict = given.to_dict()
    assert tiny_config(encoder_config=as_dict).encoder_config.to_dict() == config.encoder_config.to_dict()
    assert as_dict == before


def test_encoder_augmentation_is_off_unless_asked_for(tmp_path):
    given = tiny_encoder_config(layerdrop=0.3, apply_spec_augment=True)
    off = tiny_config(encoder_config=given).encoder_config
    assert (off.apply_spec_augment, off.layerdrop) == (False, 0.0)
    config = tiny_config(encoder_config=given, encoder_augmentation=True)
    config.save_pretrained(tmp_path)
    for kept in (config, ShiftConfig.from_pretrained(tmp_path)):
        assert (kept.encoder_config.apply_spec_augment, kept.encoder_config.layerdrop) == (True, 0.3)


def test_no_local_path_is_saved(tmp_path):
    encoder_dir, model_dir = tmp_path / "encoder", tmp_path / "model"
    HubertModel(tiny_encoder_config()).save_pretrained(encoder_dir)
    model = ShiftModel.from_encoder_pretrained(str(encoder_dir))
    model.save_pretrained(model_dir)
    ShiftModel.from_pretrained(model_dir).save_pretrained(model_dir)
    assert str(tmp_path) not in (model_dir / "config.json").read_text()
    ShiftConfig(encoder_config=AutoConfig.from_pretrained(encoder_dir)).save_pretrained(model_dir)
    assert str(tmp_path) not in (model_dir / "config.json").read_text()


def test_encoder_dtype_is_forgotten():
    config = tiny_config(encoder_config=tiny_encoder_config(dtype=torch.bfloat16))
    assert config.encoder_config.dtype is None


@pytest.mark.parametrize("head_type", HEADS)
@pytest.mark.parametrize("placement", ALL_PLACEMENTS)
def test_which_placement_a_head_knows(head_type, placement):
    allowed = {
        "linear": {"none"}, "lstm": {"none", "in_place"}, "cnn": {"none", "in_place", "residual"},
        "transformer": set(ALL_PLACEMENTS),
    }[head_type]  # fmt: skip
    if placement in allowed:
        assert tiny_config(head_type=head_type, shift_placement=placement).shift_placement == placement
    else:
        message = rf"shift_placement of head_type='{head_type}' must be one of \(.*\), got '{placement}'"
        with pytest.raises(StrictDataclassClassValidationError, match=message):
            tiny_config(head_type=head_type, shift_placement=placement)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shift_proportion": 0.6}, r"shift_proportion is .* from 0 to 0\.5 for a bidirectional shift, got 0\.6"),
        ({"shift_stride": 0}, r"shift_stride must be a whole number of frames of at least 1, got 0"),
        ({"shift_layers": [2]}, r"shift_layers must be different block indices from 0 to .* = 1, got \[2\]"),
        ({"shift_layers": [-1]}, r"shift_layers must be different block indices .* got \[-1\]"),
        ({"shift_layers": [1, 1]}, r"shift_layers must be different block indices .* got \[1, 1\]"),
        ({"num_head_layers": 0}, r"num_head_layers of 'transformer' must be at least 1, got 0"),
        ({"head_type": "linear", "num_head_layers": 1}, r"num_head_layers of 'linear' must be 0, got 1"),
        ({"head_type": "cnn", "conv_kernel_size": 4}, r"conv_kernel_size must be odd.* got 4"),
        ({"head_type": "cnn", "conv_kernel_size": -1}, r"conv_kernel_size must be odd.* got -1"),
        (
            {"shift_placement": "none", "num_attention_heads": 7},
            r"must divide the encoder's hidden size 96 .*, 12, .*, got 7",
        ),
        (
            {"shift_placement": "none", "num_attention_heads": 0},
            r"must divide the encoder's hidden size 96 .*, 12, .*, got 0",
        ),
        (
            {"shift_layers": [0], "num_attention_heads": 7},
            r"must divide the encoder's hidden size 96 .*, 12, .*, got 7",
        ),
        ({"max_position_embeddings": 0}, r"max_position_embeddings must be at least 1, got 0"),
        ({"mask_time_prob": 1.1}, r"mask_time_prob must be from 0 to 1, got 1\.1"),
        ({"mask_feature_prob": -0.1}, r"mask_feature_prob must be from 0 to 1, got -0\.1"),
        ({"mask_time_length": 0}, r"mask_time_length must be at least 1 and mask_time_min_masks .* got 0, 2"),
        ({"mask_feature_min_masks": -1}, r"mask_feature_min_masks at least 0, got 64, -1"),
        ({"mask_feature_length": 96}, r"mask_feature_length must be less than .* \(or mask_feature_prob 0\), got 96"),
        (
            {"encoder_config": {"model_type": "bert"}},
            r"encoder_config must be that of an encoder of speech .* got 'bert'",
        ),
    ],
)
def test_broken_rules_say_what_is_allowed(options, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        tiny_config(**options)


def test_layerdrop_is_off_the_encoders_own_or_what_is_asked_for():
    encoder = {"encoder_config": tiny_encoder_config(layerdrop=0.1)}
    for options, expected in (
        ({}, 0.0),
        ({"encoder_augmentation": True}, 0.1),
        ({"encoder_layerdrop": 0.05}, 0.05),
        ({"encoder_layerdrop": 0, "encoder_augmentation": True}, 0),
    ):
        config = tiny_config(**encoder, **options, use_weighted_layer_sum=True)
        assert config.encoder_layerdrop == config.encoder_config.layerdrop == expected
        assert ShiftConfig.from_dict(config.to_dict()).encoder_layerdrop == expected
    config = tiny_config(**encoder)
    config.encoder_layerdrop = 0.2  # as from_pretrained(folder, encoder_layerdrop=0.2) does
    assert ShiftModel(config).encoder.config.layerdrop == 0.2
    for value in (-0.1, 1.0):
        with pytest.raises(StrictDataclassClassValidationError, match=f"from 0 to below 1, got {value}"):
            tiny_config(encoder_layerdrop=value)


def test_one_layer_of_the_encoder():
    assert tiny_config().encoder_output == "last" and tiny_config(encoder_layer=2).encoder_output == 2
    assert tiny_config(use_weighted_layer_sum=True).encoder_output == "all"
    assert tiny_config(encoder_layer="feature_projection").encoder_output == "feature_projection"
    for layer in (-1, 3):
        told = f"from 0 to the encoder's 2 layers, or 'feature_projection', got {layer}"
        with pytest.raises(StrictDataclassClassValidationError, match=told):
            tiny_config(encoder_layer=layer)
    for layer in ("feature", "1", 1.0):
        with pytest.raises(StrictDataclassFieldValidationError, match="encoder_layer"):
            tiny_config(encoder_layer=layer)
    with pytest.raises(StrictDataclassClassValidationError, match="must be None with use_weighted_layer_sum, got 0"):
        tiny_config(encoder_layer=0, use_weighted_layer_sum=True)


def test_heads_need_not_fit_where_there_is_no_attention():
    assert tiny_config(num_attention_heads=7).attention_layers == []
    assert tiny_config(head_type="cnn", num_attention_heads=7).attention_layers == []
    assert tiny_config(shift_layers=[1]).attention_layers == [0]


@pytest.mark.parametrize(
    "options",
    [
        {"head_type": "gru"},
        {"shift_placement": "inplace"},
        {"shift_direction": "backward"},
        {"shift_padding": "mirror"},
        {"position_embedding_type": "rotary"},
        {"shift_stride": 1.5},
        {"shift_layers": "last"},
        {"num_head_layers": "2"},
        {"use_weighted_layer_sum": "yes"},
    ],
)
def test_wrong_types_and_words_name_the_field(options):
    with pytest.raises(StrictDataclassFieldValidationError, match=next(iter(options))):
        tiny_config(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"shift_stride": 0}, "shift_stride"), ({"shift_padding": "mirror"}, "shift_padding"),
     ({"num_head_layers": 0}, "num_head_layers"), ({"conv_kernel_size": 2}, "conv_kernel_size")],
)  # fmt: skip
def test_options_given_to_from_pretrained_are_checked(tmp_path, options, message):
    ShiftForSequenceClassification(tiny_config()).save_pretrained(tmp_path)
    with pytest.raises((StrictDataclassClassValidationError, StrictDataclassFieldValidationError), match=message):
        ShiftForSequenceClassification.from_pretrained(tmp_path, **options)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("shift_proporton", "shift_proportion"),
        ("num_head_layer", "num_head_layers"),
        ("shift_placment", "shift_placement"),
        ("encoder_conf", "encoder_config"),
        ("mask_time_probs", "mask_time_prob"),
    ],
)
def test_misspelt_option(wrong, right):
    with pytest.raises(ValueError, match=f"'{wrong}' must be the name of an option; did you mean '{right}'"):
        tiny_config(**{wrong: 1})


def test_unknown_keys_of_a_saved_file_are_kept(tmp_path):
    tiny_config().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "trained_on": "iemocap", "shift_kind": 3}))
    config = ShiftConfig.from_pretrained(tmp_path)
    assert (config.trained_on, config.shift_kind) == ("iemocap", 3)


def test_options_of_every_config_are_not_taken_for_misspellings():
    names = set(PreTrainedConfig().to_dict()) - {"model_type", "problem_type"}  # these two are ours as well
    assert names.isdisjoint(ShiftConfig.__annotations__)
    ShiftConfig._refuse_misspelt(names)
    ShiftConfig._refuse_misspelt(["_name_or_path", "_commit_hash", "auto_map", "torch_dtype", "attn_implementation"])


def test_label_names_go_together(tmp_path):
    names = ["angry", "happy"]
    config = tiny_config(id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)})
    config.save_pretrained(tmp_path)
    loaded = ShiftConfig.from_pretrained(tmp_path)
    assert (loaded.num_labels, loaded.id2label) == (2, {0: "angry", 1: "happy"})


@pytest.mark.parametrize("model_type", ["sew", "sew-d", "wav2vec2-conformer"])
def test_a_family_that_padding_changes_is_refused_with_the_figure(model_type):
    told = rf"encoder_config must be of wav2vec2, hubert, .* got '{model_type}': .* up to \d\.\d standard deviations"
    with pytest.raises(StrictDataclassClassValidationError, match=told):
        ShiftConfig(encoder_config=AutoConfig.for_model(model_type))
    with pytest.raises(StrictDataclassClassValidationError, match=r"add_adapter=False, got True: .* up to 6 standard"):
        tiny_config(encoder_config=tiny_encoder_config("wav2vec2", add_adapter=True))


def test_feature_masks_fit_the_encoders_width_unless_said_otherwise():
    widths = {width: ShiftConfig(encoder_config=tiny_encoder_config(hidden_size=width)) for width in (24, 48, 96, 768)}
    assert {width: config.mask_feature_length for width, config in widths.items()} == {24: 2, 48: 4, 96: 64, 768: 64}
    with pytest.raises(StrictDataclassClassValidationError, match=r"less than the encoder's hidden size 48 .* got 64"):
        ShiftConfig(encoder_config=tiny_encoder_config(hidden_size=48), mask_feature_length=64)


def test_labels_as_run_audio_classification_passes_them():
    config = tiny_config(id2label={"0": "angry", "1": "sad"}, label2id={"angry": "0", "sad": "1"})
    assert config.id2label == {0: "angry", 1: "sad"} and config.label2id == {"angry": 0, "sad": 1}
    assert config.num_labels == 2
    again = ShiftConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert (again.id2label, again.label2id) == (config.id2label, config.label2id)
