import json
import re
from pathlib import Path

import pytest
import torch
from conftest import speech_batch, tiny_encoder_config, tiny_model
from huggingface_hub.errors import StrictDataclassClassValidationError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForAudioClassification, HubertModel, pipeline

import shift_ser
from shift_ser import ShiftConfig, ShiftForSequenceClassification, ShiftModel
from shift_ser.model.heads import variants

NAMES = {0: "angry", 1: "happy", 2: "neutral", 3: "sad"}


def edit_weights(folder, edit):
    path = folder / "model.safetensors"
    save_file(edit(load_file(path)), path, metadata={"format": "pt"})


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def saved(tmp_path):
    model = tiny_model("shiftcnn", id2label=NAMES)
    model.save_pretrained(tmp_path)
    return tmp_path


# Weights


@pytest.mark.parametrize("loader", [ShiftForSequenceClassification, AutoModelForAudioClassification])
@pytest.mark.parametrize(
    "name",
    ["classifier.weight", "classifier.bias", "shift_ser.head.norm.weight", "shift_ser.head.blocks.0.depthwise.weight",
     "shift_ser.encoder.encoder.layer_norm.bias"],
)  # fmt: skip
def test_every_weight_must_be_there(saved, loader, name):
    edit_weights(saved, lambda state: {key: value for key, value in state.items() if key != name})
    message = rf"every weight of ShiftForSequenceClassification, but '{re.escape(name)}' is missing \(1 in all"
    with pytest.raises(RuntimeError, match=message):
        loader.from_pretrained(saved)
    model, info = ShiftForSequenceClassification.from_pretrained(saved, output_loading_info=True)
    assert set(info["missing_keys"]) == {name} and all(value.isfinite().all() for value in model.parameters())


def test_a_model_without_head_or_encoder_says_what_to_do(tmp_path):
    ShiftModel(tiny_model("shiftcnn").config).save_pretrained(tmp_path / "body")
    HubertModel(tiny_encoder_config()).save_pretrained(tmp_path / "encoder")
    with pytest.raises(RuntimeError, match=r"'classifier\.bias' is missing.*2 in all.*ignore_mismatched_sizes=True"):
        ShiftForSequenceClassification.from_pretrained(tmp_path / "body")
    ShiftForSequenceClassification.from_pretrained(tmp_path / "body", ignore_mismatched_sizes=True)
    with pytest.raises(ValueError, match=r"of model_type 'shift_ser', got 'hubert': .* call from_encoder_pretrained"):
        ShiftModel.from_pretrained(tmp_path / "encoder")


def test_of_many_problems_three_are_shown(saved):
    edit_weights(saved, lambda state: {key: value for key, value in state.items() if "blocks" not in key})
    with pytest.raises(RuntimeError) as caught:
        ShiftForSequenceClassification.from_pretrained(saved)
    told, number = str(caught.value).count("is missing"), re.search(r"\((\d+) in all\)", str(caught.value))
    names = [name for name, _ in tiny_model("shiftcnn").named_parameters() if "blocks" in name]
    assert told == 3 and int(number[1]) == len(names) > 3


def test_an_encoder_that_lacks_weights_is_refused_with_the_first_of_them(tmp_path):
    HubertModel(tiny_encoder_config()).save_pretrained(tmp_path)
    lost = ["encoder.layers.0.attention.k_proj.bias", "encoder.layers.1.attention.k_proj.bias"]
    edit_weights(tmp_path, lambda state: {key: value for key, value in state.items() if key not in lost})
    with pytest.raises(ValueError, match=rf"lacks 2, the first is '{re.escape(lost[0])}'"):
        ShiftForSequenceClassification.from_encoder_pretrained(str(tmp_path))


def test_learned_vectors_of_spec_augment_may_be_missing(saved):
    speech, mask = speech_batch([3000, 2000])
    expected = ShiftForSequenceClassification.from_pretrained(saved)(speech, attention_mask=mask).logits
    edit_weights(saved, lambda state: {key: value for key, value in state.items() if "spec_embed" not in key})
    loaded = ShiftForSequenceClassification.from_pretrained(saved)
    assert torch.equal(loaded(speech, attention_mask=mask).logits, expected)


@pytest.mark.parametrize("variant", variants())
def test_a_new_label_set_draws_a_new_classifier_and_nothing_else(tmp_path, variant, caplog):
    model = tiny_model(variant, id2label=NAMES)
    model.save_pretrained(tmp_path)
    shapes = r"'classifier\.bias' has shape \(4,\) in the file and \(7,\) by the configuration"
    with pytest.raises(RuntimeError, match=f"{shapes}.*num_labels .* and ignore_mismatched_sizes=True"):
        ShiftForSequenceClassification.from_pretrained(tmp_path, num_labels=7)
    loaded = ShiftForSequenceClassification.from_pretrained(tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    assert loaded.classifier.out_features == loaded.config.num_labels == len(loaded.config.label2id) == 7
    state = model.state_dict()
    for name, value in loaded.state_dict().items():
        assert name.startswith("classifier.") or torch.equal(value, state[name])
    loaded.save_pretrained(tmp_path / "again")
    assert ShiftForSequenceClassification.from_pretrained(tmp_path / "again").config.num_labels == 7


def test_other_weights_are_never_drawn_anew(saved):
    with pytest.raises(RuntimeError, match=r"has shape \(.*\) in the file and \(.*\) by the configuration"):
        ShiftForSequenceClassification.from_pretrained(saved, conv_kernel_size=3, ignore_mismatched_sizes=True)
    with pytest.raises(RuntimeError, match="layer_weights' is missing"):
        ShiftModel.from_pretrained(saved, use_weighted_layer_sum=True)


def test_layer_weights_that_the_file_lacks_start_equal(saved):
    options = {"use_weighted_layer_sum": True, "output_loading_info": True}
    model, info = ShiftModel.from_pretrained(saved, **options)
    assert info["missing_keys"] == {"layer_weights"}
    assert torch.equal(model.layer_weights, torch.zeros(model.encoder.config.num_hidden_layers + 1))
    torch.nn.init.normal_(model.layer_weights)
    model._init_weights(model)  # what an uninitialised tensor of this shape goes through
    assert not model.layer_weights.any()


# Labels


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id2label": {"0": "a", "1": "b", "3": "c", "4": "d"}}, "id2label must name the rows 0 to 3"),
        ({"label2id": {"sad": 0, "happy": 1, "neutral": 2, "angry": 3}}, "label2id must be the inverse of id2label"),
        ({"label2id": {"angry": 0, "happy": 1}}, "label2id must be the inverse of id2label"),
        ({"id2label": {"0": "a", "1": "a", "2": "b", "3": "c"}, "label2id": {"a": 1, "b": 2, "c": 3}}, "name once"),
    ],
)
def test_labels_that_do_not_fit(saved, changes, message):
    edit_config(saved, **changes)
    for loader in (ShiftConfig, AutoConfig, ShiftForSequenceClassification):
        with pytest.raises(StrictDataclassClassValidationError, match=message):
            loader.from_pretrained(saved)
    with pytest.raises((StrictDataclassClassValidationError, ValueError), match=message):
        pipeline("audio-classification", model=str(saved))


def test_a_label_map_of_another_size_than_the_classifier(saved):
    edit_config(saved, id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})
    with pytest.raises(RuntimeError, match=r"has shape \(4,\) in the file and \(2,\) by .* or mend config\.json"):
        ShiftForSequenceClassification.from_pretrained(saved)


def test_labels_given_to_from_pretrained(saved):
    other = {0: "wut", 1: "freude", 2: "neutral", 3: "trauer"}
    with pytest.raises(StrictDataclassClassValidationError, match="to change labels, pass both"):
        ShiftForSequenceClassification.from_pretrained(saved, id2label=other)
    inverse = {name: index for index, name in other.items()}
    model = ShiftForSequenceClassification.from_pretrained(saved, id2label=other, label2id=inverse)
    assert (model.config.id2label, model.config.label2id) == (other, inverse)


def test_label2id_is_the_inverse_where_left_out():
    assert ShiftConfig(id2label=NAMES).label2id == {name: index for index, name in NAMES.items()}
    assert ShiftConfig(id2label={"0": "a", "1": "b"}, label2id={"a": "0", "b": "1"}).label2id == {"a": 0, "b": 1}
    assert ShiftConfig(id2label=NAMES, num_labels=4).num_labels == 4
    with pytest.raises(ValueError, match="num_labels must be left out beside id2label, or be its length 4, got 3"):
        ShiftConfig(id2label=NAMES, num_labels=3)


@pytest.mark.parametrize(("name", "home"), [("hidden_size", "in encoder_config"), ("num_hidden_layers", "head_layers")])
def test_what_is_read_elsewhere_is_set_elsewhere(name, home):
    with pytest.raises(NotImplementedError, match=f"{name} .*{home}; got 1"):
        ShiftConfig(**{name: 1})
    with pytest.raises(NotImplementedError, match=f"{name} .*{home}; got 1"):
        setattr(ShiftConfig(), name, 1)


# Versions


def test_the_version_has_one_source(tmp_path):
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert (
        'dynamic = ["version"]' in project and 'attr = "shift_ser.model.configuration_shift_ser.__version__"' in project
    )
    ShiftConfig().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["shift_ser_version"] == shift_ser.__version__


def test_a_file_of_a_newer_major_version_is_refused(saved):
    major = int(shift_ser.__version__.split(".")[0])
    for newer in (f"{major + 1}.0.0", f"{major + 10}.0", "next"):
        edit_config(saved, shift_ser_version=newer, head_type="a head of the future")
        for loader in (ShiftConfig, AutoConfig, AutoModel, ShiftForSequenceClassification):
            with pytest.raises(ValueError, match=rf"newer major version, but '{newer}' wrote it: pip install"):
                loader.from_pretrained(saved)


@pytest.mark.parametrize("written_by", [None, "same"])
def test_older_files_and_those_of_the_same_major_version_load(saved, written_by):
    config = json.loads((saved / "config.json").read_text())
    for name in ("auto_map", "custom_pipelines", "shift_ser_version"):  # as in a file of before all this
        config.pop(name)
    if written_by is not None:
        config["shift_ser_version"] = f"{shift_ser.__version__.split('.')[0]}.999.0"
    (saved / "config.json").write_text(json.dumps(config))
    model = ShiftForSequenceClassification.from_pretrained(saved)
    assert model.config.shift_ser_version == config.get("shift_ser_version", shift_ser.__version__)
    model.save_pretrained(saved / "again")
    again = json.loads((saved / "again" / "config.json").read_text())
    assert again["shift_ser_version"] == shift_ser.__version__ and len(again["auto_map"]) == 3


def test_beside_the_package_no_code_is_asked_to_be_trusted(saved):
    config = AutoConfig.from_pretrained(saved)
    assert config.custom_pipelines == {} and "custom_pipelines" in config.to_dict()
    assert type(config) is ShiftConfig and config.to_diff_dict() == ShiftConfig.from_pretrained(saved).to_diff_dict()


@pytest.mark.parametrize(
    ("weight", "told"),
    [
        (torch.tensor([0.0, float("nan"), 0.0, 0.0]), "must hold finite weights, but 'classifier.bias' has NaN"),
        (torch.tensor([0.0, float("inf"), 0.0, 0.0]), "must hold finite weights, but 'classifier.bias' has NaN"),
        (torch.tensor([1, 2, 3, 4]), "must hold floating point weights, but 'classifier.bias' is of I64"),
    ],
)
def test_weights_that_no_training_leaves_are_refused(tmp_path, weight, told):
    tiny_model("linear").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({**weights, "classifier.bias": weight}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for place in ((tmp_path, {}), (tmp_path.parent, {"subfolder": tmp_path.name})):
        with pytest.raises(RuntimeError, match=told):
            ShiftForSequenceClassification.from_pretrained(place[0], **place[1])


def test_an_encoder_with_weights_that_are_not_finite_is_refused(tmp_path):
    encoder = AutoModel.from_config(tiny_encoder_config())
    torch.nn.init.constant_(encoder.feature_projection.projection.bias, float("inf"))
    encoder.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match=r"finite weights, but 'shift_ser\.encoder\..*projection\.bias' has"):
        ShiftForSequenceClassification.from_encoder_pretrained(str(tmp_path))
