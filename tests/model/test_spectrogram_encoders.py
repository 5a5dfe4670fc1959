"""Encoders that read spectrograms, Whisper's and w2v-BERT 2.0: tiny random ones, from speech to a command line."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile as sf
import torch
from conftest import command_line, speech_batch, tiny_encoder_config, tiny_model
from huggingface_hub.errors import StrictDataclassError
from spectrogram_encoders import CONFIGS, STOCK
from transformers import AutoModel, set_seed

from shift_ser import ShiftFeatureExtractor, ShiftForSequenceClassification, load_classifier
from shift_ser.model.encoders import ENCODERS, EXACT, WAVEFORM, encode, load_encoder, new_encoder

LENGTHS = (5000, 3101, 8123, 400)
FAMILIES = pytest.mark.parametrize("family", CONFIGS)


def test_these_are_all_families_that_read_spectrograms():
    assert set(CONFIGS) == set(EXACT) - set(WAVEFORM)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folder of a tiny random encoder of each family, as somebody uploads it: whole, with its stock extractor."""
    made = {}
    set_seed(0)
    for family, config in CONFIGS.items():
        made[family] = tmp_path_factory.mktemp(family)
        AutoModel.from_config(config).save_pretrained(made[family])
        STOCK[family].save_pretrained(made[family])
    return made


def speech_of(lengths=LENGTHS):
    speech, _ = speech_batch(list(lengths))
    return [0.1 * row[:length].numpy() for row, length in zip(speech, lengths, strict=True)]


def model_of(family, **options):
    options = {"freeze_encoder": False, **options}
    return tiny_model("shiftformer", encoder_config=CONFIGS[family], **options)


@FAMILIES
def test_an_utterance_is_the_same_alone_and_beside_padding(family, folders):
    extractor, model = ShiftFeatureExtractor.from_pretrained(folders[family]), model_of(family)
    batch = extractor(speech_of(), sampling_rate=16000, padding=True, return_tensors="pt")
    assert batch["attention_mask"].sum(dim=1).tolist()[:3] == [extractor.input_lengths(n) for n in LENGTHS[:3]]
    for output in ("last", "all", 1):
        together = encode(model.shift_ser.encoder, batch["input_features"], batch["attention_mask"], output=output)
        for row, speech in enumerate(speech_of()):
            alone = extractor(speech, sampling_rate=16000, return_tensors="pt")
            assert torch.equal(
                alone["input_features"][0], batch["input_features"][row][: alone["input_features"].shape[1]]
            )
            frames = encode(model.shift_ser.encoder, alone["input_features"], output=output)
            beside = together[row : row + 1, ..., : frames.shape[-2], :]
            torch.testing.assert_close(beside, frames, rtol=0, atol=1e-5)
    with torch.no_grad():
        logits = model(**batch).logits
        for row, speech in enumerate(speech_of()):
            alone = model(**extractor(speech, sampling_rate=16000, return_tensors="pt")).logits[0]
            torch.testing.assert_close(alone, logits[row], rtol=0, atol=1e-5)


def test_whisper_is_the_stock_one_but_for_the_silence_behind_the_utterance(folders):
    """The same frames for 30 s; of less, the same spectrogram, without what the stock one has behind it."""
    extractor, encoder = ShiftFeatureExtractor.from_pretrained(folders["whisper"]), load_encoder(folders["whisper"])[0]
    encoder.eval()
    for length in (16000, 12345, 480000):
        speech = speech_of([length])[0]
        stock = STOCK["whisper"](speech, sampling_rate=16000, return_tensors="pt")["input_features"]
        ours = extractor(speech, sampling_rate=16000, return_tensors="pt")["input_features"]
        assert ours.shape == (1, -(-length // 160), 20)
        torch.testing.assert_close(ours, stock[:, :, : ours.shape[1]].transpose(1, 2), rtol=0, atol=1e-6)
    with torch.no_grad():
        expected = encoder(stock).last_hidden_state
        assert torch.equal(encode(encoder, stock.transpose(1, 2)), expected)


def test_w2v_bert_is_the_stock_one_to_the_bit(folders):
    extractor = ShiftFeatureExtractor.from_pretrained(folders["wav2vec2-bert"])
    encoder = AutoModel.from_pretrained(folders["wav2vec2-bert"]).eval()
    for length in LENGTHS[:3]:
        speech = speech_of([length])[0]
        stock = STOCK["wav2vec2-bert"](speech, sampling_rate=16000, return_tensors="pt")
        ours = extractor(speech, sampling_rate=16000, return_tensors="pt")["input_features"]
        assert torch.equal(ours, stock["input_features"][:, : int(stock["attention_mask"].sum())])
        with torch.no_grad():
            assert torch.equal(encode(encoder, ours), encoder(ours).last_hidden_state)


@FAMILIES
def test_what_is_frozen_what_is_trained_and_what_was_convolved_before(family):
    model = model_of(family).train()
    convolutions = ("conv1.", "conv2.", "embed_positions.", "masked_spec_embed")
    for name, value in model.shift_ser.encoder.named_parameters():
        assert value.requires_grad is not name.startswith(convolutions), name
    last = model_of(family, unfreeze_layers=1).train().shift_ser.encoder
    trained = {name for name, value in last.named_parameters() if value.requires_grad}
    assert all("layers.1." in name or name.startswith("layer_norm") for name in trained) and trained
    model.eval()
    width = 20 if family == "whisper" else 160
    features = torch.randn(2, 30, width)
    if family == "whisper":
        convolved = encode(model.shift_ser.encoder, features, output="convolutions")
        logits = model(extract_features=convolved).logits
        torch.testing.assert_close(logits, model(input_features=features).logits, rtol=0, atol=1e-5)
    else:
        with pytest.raises(ValueError, match=r"convolutions need .*; w2v-BERT 2\.0 has none"):
            encode(model.shift_ser.encoder, features, output="convolutions")


@FAMILIES
def test_wrong_inputs_are_refused(family, folders, encoder, tmp_path):
    model, width = model_of(family), 20 if family == "whisper" else 160
    with pytest.raises(ValueError, match="reads input_features, got input_values"):
        model(input_values=torch.randn(1, 4000))
    with pytest.raises(ValueError, match=rf"input_features must have shape \(batch, time, {width}\), got \(1, 9, 8\)"):
        model(input_features=torch.randn(1, 9, 8))
    with pytest.raises(ValueError, match="reads input_values, got input_features"):
        tiny_model("linear")(input_features=torch.randn(1, 9, width))
    with pytest.raises(ValueError, match="do_normalize must be left out with a spectrogram, got True"):
        ShiftFeatureExtractor.from_pretrained(folders[family], do_normalize=True)
    onnx = pytest.importorskip("shift_ser.hub.onnx")
    with pytest.raises(ValueError, match="model must have an encoder of waveforms"):
        onnx.export_onnx(model, ShiftFeatureExtractor.from_pretrained(folders[family]), tmp_path / "exported")


def test_more_than_30_seconds_are_refused_with_whisper_and_the_way_out_is_told(folders):
    extractor = ShiftFeatureExtractor.from_pretrained(folders["whisper"])
    with pytest.raises(ValueError, match=r"at most 30 s with Whisper's encoder, got 30\.5 s: .*classifier\.timeline"):
        extractor(np.zeros(488000, np.float32), sampling_rate=16000)
    with pytest.raises(ValueError, match="at most 3000 frames, 30 s, with Whisper's encoder, got 3001"):
        model_of("whisper")(input_features=torch.zeros(1, 3001, 20))
    with pytest.raises(StrictDataclassError, match="encoder_layer must be a number with Whisper's encoder"):
        model_of("whisper", encoder_layer="feature_projection")


@FAMILIES
def test_a_saved_model_brings_its_extractor_to_the_pipeline(family, folders, tmp_path):
    model_of(family).save_pretrained(tmp_path)
    ShiftFeatureExtractor.from_pretrained(folders[family]).save_pretrained(tmp_path)
    classifier, speech = load_classifier(tmp_path, dtype="float32"), speech_of()
    alone = [classifier(each) for each in speech]
    for found, expected in zip(classifier(speech, batch_size=4), alone, strict=True):
        scores = {entry["label"]: entry["score"] for entry in found}
        assert scores == pytest.approx({entry["label"]: entry["score"] for entry in expected}, abs=1e-5)
    vectors = classifier.embed(speech, of="encoder")
    np.testing.assert_allclose(vectors[1], classifier.embed(speech[1], of="encoder")[0], rtol=0, atol=1e-5)
    long = np.tile(speech[0], 110)  # 34 s
    segments = classifier.timeline(long, voice_activity=False)
    with pytest.raises(ValueError, match=f"a stream needs an encoder of waveforms, got the family '{family}'"):
        classifier.stream(voice_activity=False)
    assert segments[0]["start"] == 0 and segments[-1]["end"] == pytest.approx(len(long) / 16000, abs=0.05)


def test_an_extractor_that_does_not_fit_is_refused(folders, encoder, small_corpus, tmp_path):
    AutoModel.from_config(tiny_encoder_config()).save_pretrained(tmp_path / "mixed")
    STOCK["whisper"].save_pretrained(tmp_path / "mixed")
    told = command_line(
        "train", "--encoder", tmp_path / "mixed", "--corpus", small_corpus, "--output_dir", tmp_path / "o"
    )
    assert told.exit_code == 1
    assert "must be that of Wav2Vec2FeatureExtractor, which the family 'hubert' reads" in told.stderr
    assert "got WhisperFeatureExtractor" in told.stderr and not (tmp_path / "o").exists()


def test_convolutions_that_an_encoder_lacks_are_not_kept(folders, small_corpus, tmp_path):
    told = command_line(
        "train", "--encoder", folders["wav2vec2-bert"], "--corpus", small_corpus, "--output_dir", tmp_path / "o",
        "--scenario", "fine_tuning", "--cache_convolutions", "true",
    )  # fmt: skip
    assert told.exit_code == 1 and not (tmp_path / "o").exists()
    assert "cache_convolutions must be left out with an encoder of the family 'wav2vec2-bert'" in told.stderr


def test_layers_weights_and_targets_are_those_of_the_family():
    for family, config in CONFIGS.items():
        encoder = new_encoder(config)
        names = {
            name.rpartition(".")[2] for name, layer in encoder.named_modules() if isinstance(layer, torch.nn.Linear)
        }
        assert set(ENCODERS[family].adapter_targets) <= names


REMOTE = """
import sys, json
import numpy as np
from transformers import pipeline
classify = pipeline("audio-classification", model=sys.argv[1], trust_remote_code=True, top_k=None)
print(json.dumps(classify(np.load(sys.argv[2]))))
assert "shift_ser" not in sys.modules
"""


@pytest.mark.slow
@pytest.mark.parametrize("ways", [["feature_extraction"], ["fine_tuning", "--adapter", "lora"]], ids=["frozen", "lora"])
@FAMILIES
def test_from_the_command_line_to_a_pipeline_without_the_package(family, ways, folders, small_corpus, tmp_path):
    flags = ["--scenario", *ways, "--variant", "shiftformer", "--folds", 1, "--num_train_epochs", 1]
    flags += ["--cache_convolutions", "true"] if family == "whisper" and len(ways) > 1 else []
    told = command_line(
        "train", "--encoder", folders[family], "--corpus", small_corpus, "--output_dir", tmp_path / "run", *flags,
        "--cache_dir", tmp_path / "cache", "--disable_tqdm", "true", "--per_device_train_batch_size", 8,
    )  # fmt: skip
    assert told.exit_code == 0, told.stderr
    folder, speech = tmp_path / "run" / "fold1", speech_of()[0]
    assert ShiftForSequenceClassification.from_pretrained(folder).config.encoder_config.model_type == family
    sf.write(tmp_path / "speech.wav", speech, 16000, subtype="FLOAT")
    told = command_line("predict", "--model", folder, tmp_path / "speech.wav", "--dtype", "float32")
    assert told.exit_code == 0 and "speech.wav: " in told.stdout
    np.save(tmp_path / "speech.npy", speech)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", REMOTE, folder, tmp_path / "speech.npy"], cwd=tmp_path, env=environment, text=True,
        capture_output=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    here = {entry["label"]: entry["score"] for entry in load_classifier(folder, dtype="float32")(speech)}
    there = {entry["label"]: entry["score"] for entry in json.loads(done.stdout)}
    assert there == pytest.approx(here, abs=1e-5)
