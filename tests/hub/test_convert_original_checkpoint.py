import re

import pytest
import torch
from conftest import (
    FIXTURES,
    GOLDEN_HEADS,
    command_line,
    golden_model,
    golden_options,
    speech_batch,
    tiny_encoder_config,
    tiny_model,
)
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, HubertModel, Wav2Vec2Model

from shift_ser import ShiftConfig, ShiftFeatureExtractor, ShiftForSequenceClassification
from shift_ser.hub.convert_original_checkpoint import ORIGINAL_LABELS, convert_checkpoint, convert_state_dict

PUBLISHED_HEADS = {
    "cnn": "cnn", "cnn_residual_shift": "shiftcnn", "lstm": "lstm", "lstm_inplace_shift": "shiftlstm",
    "transformer": "transformer", "shiftformer": "shiftformer",
}  # fmt: skip
POSITIONS = "encoder.pos_conv_embed.conv.parametrizations.weight.original"


def authors_head(name: str) -> dict[str, torch.Tensor]:
    tensors = load_file(FIXTURES / f"{name}.safetensors")
    return {key[6:]: value for key, value in tensors.items() if key.startswith("state.")}


def torchaudio_name(name: str, *, old: bool) -> str:
    """What torchaudio calls a parameter of the Hugging Face encoder."""
    if old:
        name = name.replace(POSITIONS + "0", "encoder.pos_conv_embed.conv.weight_g")
        name = name.replace(POSITIONS + "1", "encoder.pos_conv_embed.conv.weight_v")
    if name.startswith("feature_extractor."):
        return name
    if name.startswith("feature_projection."):
        return "encoder." + name
    return re.sub(r"^encoder\.", "encoder.transformer.", name)


def authors_checkpoint(model: ShiftForSequenceClassification, head: dict, *, old: bool) -> dict[str, torch.Tensor]:
    """Head and encoder as the authors' `Pretrain_Model` holds them."""
    encoder = model.shift_ser.encoder.state_dict()
    encoder.pop("masked_spec_embed")
    names = {f"pretrain.{torchaudio_name(name, old=old)}": value for name, value in encoder.items()}
    return {**{f"model.{name}": value for name, value in head.items()}, **names}


@pytest.fixture
def tiny_width(monkeypatch):
    """Encoders of width 24, which the golden heads fit, where a checkpoint would have one of base size."""
    monkeypatch.setattr(
        AutoConfig, "for_model", lambda model_type: tiny_encoder_config(model_type, hidden_size=24)
    )  # fmt: skip
    original = ShiftConfig.from_variant.__func__
    monkeypatch.setattr(
        ShiftConfig,
        "from_variant",
        classmethod(lambda cls, name, **options: original(cls, name, mask_feature_length=8, **options)),
    )


@pytest.mark.parametrize("name", GOLDEN_HEADS)
@pytest.mark.parametrize("prefix", ["", "model.", "module.model.", "module."])
def test_head_names_under_every_prefix(name, prefix):
    head = authors_head(name)
    converted = convert_state_dict({prefix + key: value for key, value in head.items()})
    model = ShiftForSequenceClassification(ShiftConfig(**golden_options(name), mask_feature_prob=0.0))
    ours = {key: value for key, value in model.state_dict().items() if not key.startswith("shift_ser.encoder.")}
    assert converted.keys() == ours.keys()
    assert all(converted[key].shape == value.shape for key, value in ours.items())
    assert sum(value.numel() for value in converted.values()) == sum(value.numel() for value in head.values())


def test_two_layer_lstm_names():
    state = torch.nn.LSTM(8, 8, num_layers=2, bidirectional=True).state_dict()
    converted = convert_state_dict({f"rnn.{name}": value for name, value in state.items()})
    blocks = "shift_ser.head.blocks."
    assert torch.equal(converted[f"{blocks}1.forward_lstm.weight_ih_l0"], state["weight_ih_l1"])
    assert torch.equal(converted[f"{blocks}1.backward_lstm.bias_hh_l0"], state["bias_hh_l1_reverse"])
    assert len(converted) == len(state) == 16


@pytest.mark.parametrize("encoder", [HubertModel, Wav2Vec2Model])
@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("prefix", ["pretrain.", "module.pretrain."])
def test_encoder_names(encoder, stable, old, prefix):
    config = tiny_encoder_config(
        encoder.config_class.model_type, do_stable_layer_norm=stable, feat_extract_norm="layer" if stable else "group"
    )  # fmt: skip
    state = encoder(config).state_dict()
    state.pop("masked_spec_embed")
    converted = convert_state_dict({prefix + torchaudio_name(name, old=old): v for name, v in state.items()})
    assert converted.keys() == {f"shift_ser.encoder.{name}" for name in state}
    assert all(torch.equal(converted[f"shift_ser.encoder.{name}"], value) for name, value in state.items())


@pytest.mark.parametrize("name", ["model.conv.weight", "pretrain.decoder.weight", "xhead.weight", "optimizer"])
def test_unknown_name_is_shown(name):
    with pytest.raises(ValueError, match=f"parameters of the authors' models only, got '{name}'"):
        convert_state_dict({name: torch.zeros(1)})


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("encoder_type", ["hubert", "wav2vec2"])
def test_full_checkpoint(tmp_path, tiny_width, old, suffix, encoder_type):
    encoder_config = tiny_encoder_config(encoder_type, hidden_size=24)
    source = tiny_model("shiftcnn", encoder_config=encoder_config, mask_feature_prob=0.0)
    state = authors_checkpoint(source, authors_head("cnn_residual_shift"), old=old)
    path = tmp_path / f"checkpoint{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    convert_checkpoint(path, output_dir=tmp_path / "out", variant="shiftcnn", encoder_type=encoder_type)

    loaded = ShiftForSequenceClassification.from_pretrained(tmp_path / "out")
    assert loaded.config.encoder_config.model_type == encoder_type
    _, tensors = golden_model("cnn_residual_shift")
    logits = loaded(encoder_hidden_states=tensors["input"]).logits
    torch.testing.assert_close(logits, tensors["logits"], rtol=1e-5, atol=1e-5)
    speech, mask = speech_batch((3000, 1500))
    frames = source.shift_ser.encoder(speech, attention_mask=mask).last_hidden_state
    assert torch.equal(loaded.shift_ser.encoder(speech, attention_mask=mask).last_hidden_state, frames)


@pytest.mark.parametrize(("name", "variant"), PUBLISHED_HEADS.items())
def test_command_line_writes_a_folder_with_the_authors_logits(tmp_path, tiny_width, capsys, name, variant):
    encoder_dir, out, path = tmp_path / "encoder", tmp_path / "out", tmp_path / "head.safetensors"
    encoder = HubertModel(tiny_encoder_config(hidden_size=24))
    encoder.save_pretrained(encoder_dir)
    save_file(authors_head(name), path)
    told = command_line("convert", path, out, "--variant", variant, "--encoder", encoder_dir)
    assert told.stdout.strip() == f"saved {out}"

    loaded = ShiftForSequenceClassification.from_pretrained(out)
    tensors = load_file(FIXTURES / f"{name}.safetensors")
    logits = loaded(encoder_hidden_states=tensors["input"]).logits
    torch.testing.assert_close(logits, tensors["logits"], rtol=1e-5, atol=1e-5)
    assert list(loaded.config.id2label.values()) == list(ORIGINAL_LABELS) == ["happy", "angry", "sad", "neutral"]
    assert loaded.config.label2id["neutral"] == 3
    assert loaded.config.max_position_embeddings == (11 if variant == "transformer" else 374)
    assert all(
        torch.equal(value, encoder.state_dict()[key]) for key, value in loaded.shift_ser.encoder.state_dict().items()
    )
    extractor = ShiftFeatureExtractor.from_pretrained(out)
    assert extractor.return_attention_mask and not extractor.do_normalize


def test_labels_by_index(tmp_path, tiny_width):
    encoder_dir, path = tmp_path / "encoder", tmp_path / "head.safetensors"
    HubertModel(tiny_encoder_config(hidden_size=24)).save_pretrained(encoder_dir)
    save_file(authors_head("lstm"), path)
    words = [path, tmp_path / "out", "--variant", "lstm", "--encoder", encoder_dir, "--labels", "a,b,c,d"]
    assert command_line("convert", *words).exit_code == 0
    assert ShiftConfig.from_pretrained(tmp_path / "out").id2label == dict(enumerate("abcd"))


def test_a_head_alone_needs_an_encoder(tmp_path):
    path = tmp_path / "head.safetensors"
    save_file(authors_head("lstm"), path)
    with pytest.raises(ValueError, match=r"encoder must be named, since '.*head\.safetensors' holds a head alone"):
        convert_checkpoint(path, output_dir=tmp_path / "out", variant="lstm")
    assert not (tmp_path / "out").exists()


def test_parameters_that_do_not_fit_the_variant(tmp_path, tiny_width):
    source = tiny_model("lstm", encoder_config=tiny_encoder_config(hidden_size=24), mask_feature_prob=0.0)
    state = authors_checkpoint(source, authors_head("cnn"), old=False)
    path = tmp_path / "checkpoint.pt"
    torch.save(state, path)
    three = r"\['shift_ser[^',]*', '[^',]*', '[^',]*'\]"  # of more
    with pytest.raises(ValueError, match=rf"must fit variant 'transformer'; missing {three}, unexpected {three}$"):
        convert_checkpoint(path, output_dir=tmp_path / "out", variant="transformer")
    with pytest.raises(ValueError, match=r"must fit variant 'lstm' and the encoder's width: Error"):
        convert_checkpoint(path, output_dir=tmp_path / "out", variant="lstm")
    del state["pretrain.encoder.transformer.layer_norm.weight"]
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"missing \['shift_ser\.encoder\.encoder\.layer_norm\.weight'\], unexpected"):
        convert_checkpoint(path, output_dir=tmp_path / "out", variant="cnn")
    assert not (tmp_path / "out").exists()


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    torch.save({"model.head.weight": Bomb(tmp_path / "hacked")}, tmp_path / "bomb.pt")
    with pytest.raises(ValueError, match=r"bomb\.pt' cannot be read: Weights only load failed"):
        convert_checkpoint(tmp_path / "bomb.pt", output_dir=tmp_path / "out", variant="cnn")
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pt", b"", "cannot be read: "),
        ("a.pt", b"\x80\x02}q\x00.", r"holds|cannot be read: "),
        ("a.pt", b"PK\x03\x04 half", "cannot be read: "),
        ("a.safetensors", b"", "cannot be read: "),
        ("a.safetensors", b"\xff" * 20, "cannot be read: "),
        ("a.pt", {"state_dict": {"head.bias": torch.zeros(1)}, "epoch": 3}, r"keys \['state_dict', 'epoch'\]"),
        ("a.pt", [torch.zeros(1)], "holds a list"),
        ("a.pt", {name: 1 for name in "abcde"}, r"keys \['a', 'b', 'c'\]$"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_checkpoint_is_told(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match=r"checkpoint must hold parameters by name.*" + message) as caught:
        convert_checkpoint(path, output_dir=tmp_path / "out", variant="cnn")
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="there is none at"):
        convert_checkpoint(tmp_path / "none.pt", output_dir=tmp_path / "out", variant="cnn")
