"""The table of `docs/encoders.md`: encoder families by what can be done with them, each cell a test."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import speech_batch, tiny_encoder_config, tiny_model
from safetensors.torch import load_file
from test_spectrogram_encoders import CONFIGS, STOCK

from shift_ser import ShiftFeatureExtractor, load_classifier
from shift_ser.hub.onnx import export_onnx
from shift_ser.model.encoders import ENCODERS, EXACT, WAVEFORM, encode
from shift_ser.model.heads import variants
from shift_ser.training.adapters import Adapted, AdapterOptions
from shift_ser.training.feature_cache import encode_dataset

PAGE = Path(__file__).parents[2] / "docs" / "encoders.md"
LENGTHS = [4000, 2500]


def config_of(family):
    return CONFIGS[family] if family in CONFIGS else tiny_encoder_config(family, mask_time_prob=0.0)


def extractor_of(family):
    if family not in STOCK:
        return ShiftFeatureExtractor()
    return ShiftFeatureExtractor(spectrogram=STOCK[family].to_dict())


def inputs_of(family):
    speech, _ = speech_batch(LENGTHS)
    rows = [0.1 * row[:length].numpy() for row, length in zip(speech, LENGTHS, strict=True)]
    return rows, extractor_of(family)(rows, sampling_rate=16000, padding=True, return_tensors="pt")


def model_of(family, variant="linear", **options):
    return tiny_model(variant, encoder_config=config_of(family), mask_time_prob=0.0, **options)


def heads(family, folder):
    """Every published head, and the linear one, gives finite logits."""
    _, inputs = inputs_of(family)
    for variant in variants():
        assert model_of(family, variant)(**inputs).logits.isfinite().all()


def padded_equals_alone(family, folder):
    rows, inputs = inputs_of(family)
    model = model_of(family, "shiftformer")
    with torch.no_grad():
        alone = model(**extractor_of(family)(rows[1], sampling_rate=16000, return_tensors="pt")).logits[0]
        torch.testing.assert_close(model(**inputs).logits[1], alone, rtol=0, atol=1e-5)


def cache(family, folder):
    """Kept frames are those of a direct run."""
    rows, _ = inputs_of(family)
    encoder = model_of(family).shift_ser.encoder
    audio = [{"array": row, "sampling_rate": 16000} for row in rows]
    dataset = {"utterance": ["a", "b"], "audio": audio}
    kept = encode_dataset(encoder, dataset, feature_extractor=extractor_of(family), cache_dir=folder)
    features = extractor_of(family)(rows[0], sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        direct = encode(encoder, next(iter(features.values())))[0]
    torch.testing.assert_close(kept.frames("a"), direct, rtol=0, atol=1e-6)


def fine_tuning(family, folder):
    """Each weight that is to be trained gets a gradient."""
    _, inputs = inputs_of(family)
    model = model_of(family, freeze_encoder=False).train()
    model(**inputs, labels=torch.tensor([0, 1])).loss.backward()
    without = {name for name, value in model.named_parameters() if value.requires_grad and value.grad is None}
    assert without <= {"shift_ser.masked_spec_embed"}, without


def lora(family, folder):
    """Every matrix B learns, and merging changes no logit."""
    _, inputs = inputs_of(family)
    model = model_of(family, freeze_encoder=False)
    added = Adapted(model.shift_ser.encoder, AdapterOptions("lora", rank=2), name="nobody/nothing")
    model(**inputs, labels=torch.tensor([0, 1])).loss.backward()
    matrices = {name: value for name, value in model.named_parameters() if "lora_B" in name}
    assert matrices and all(value.grad.any() for value in matrices.values())
    with torch.no_grad():
        for value in matrices.values():
            value -= 0.1 * value.grad
        learned = model(**inputs).logits
        added.merge()
        torch.testing.assert_close(model(**inputs).logits, learned, rtol=0, atol=1e-6)


def export(family, folder):
    """Written and compared with torch, or refused with the reason."""
    model = model_of(family)
    if family in WAVEFORM:
        assert export_onnx(model, extractor_of(family), folder / "exported") < 1e-4
        return
    with pytest.raises(ValueError, match="model must have an encoder of waveforms"):
        export_onnx(model, extractor_of(family), folder / "exported")


def pipeline(family, folder):
    """Saved, loaded with its extractor, and the same in any batch."""
    model_of(family, "shiftformer").save_pretrained(folder)
    extractor_of(family).save_pretrained(folder)
    classifier, (rows, _) = load_classifier(folder, dtype="float32"), inputs_of(family)
    for found, row in zip(classifier(rows, batch_size=2), rows, strict=True):
        alone = {entry["label"]: entry["score"] for entry in classifier(row)}
        assert {entry["label"]: entry["score"] for entry in found} == pytest.approx(alone, abs=1e-5)
    assert classifier.embed(rows).shape == (2, 96) and classifier.embed(rows).dtype == np.float32


COLUMNS = {
    "heads": heads,
    "padded = alone": padded_equals_alone,
    "cache": cache,
    "fine-tuning": fine_tuning,
    "LoRA": lora,
    "export": export,
    "pipeline": pipeline,
}


@pytest.mark.filterwarnings("ignore:# The axis name:UserWarning")  # torch's ONNX exporter
@pytest.mark.parametrize("family", EXACT)
@pytest.mark.parametrize("column", [
    pytest.param(name, marks=pytest.mark.slow) if name == "export" else name for name in COLUMNS
])  # fmt: skip
def test_cell(column, family, tmp_path):
    COLUMNS[column](family, tmp_path)


@pytest.mark.parametrize("family", EXACT)
@pytest.mark.parametrize("layer", ["feature_projection", 0, 1, 2])
def test_layers_that_are_not_read_are_dropped_from_what_is_saved(family, layer, tmp_path):
    if (family, layer) == ("whisper", "feature_projection"):
        return  # refused
    left = layer if isinstance(layer, int) else 0
    model, (_, inputs) = model_of(family, "shiftcnn", encoder_layer=layer), inputs_of(family)
    with torch.no_grad():
        logits, names = model(**inputs).logits, set(model.state_dict())
        model.shift_ser.drop_unread_layers()
        assert torch.equal(model(**inputs).logits, logits)
        model.save_pretrained(tmp_path)
        loaded = type(model).from_pretrained(tmp_path)
        assert torch.equal(loaded(**inputs).logits, logits)
    assert loaded.config.encoder_config.num_hidden_layers == left and loaded.config.encoder_layer == layer
    kept = {name for name in names if not re.search(rf"encoder\.layers\.[{left}-9]\.", name)}
    assert set(load_file(tmp_path / "model.safetensors")) == kept
    loaded.train()(**inputs, labels=torch.tensor([0, 1])).loss.backward()
    assert model_of(family, "shiftcnn").shift_ser.encoder.config.num_hidden_layers == 2  # the shared configuration


def table():
    """The families as Markdown, those that are refused with the reason."""
    lines = [["family", "`model_type`", *COLUMNS], ["---"] * (2 + len(COLUMNS))]
    for name, family in ENCODERS.items():
        if family.refused is None:
            cells = ["refused" if column == "export" and name not in WAVEFORM else "yes" for column in COLUMNS]
            lines.append([family.title, f"`{name}`", *cells])
    refused = [f"- {family.title}: {family.refused}." for family in ENCODERS.values() if family.refused is not None]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", "Refused:", "", *refused])


def test_the_table_of_the_page_is_this_one():
    assert f"\n\n{table()}\n" in PAGE.read_text(encoding="utf-8")
