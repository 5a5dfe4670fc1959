import numpy as np
import pytest
import soundfile as sf
import torch
from conftest import command_line, tiny_encoder_config, tiny_model
from transformers import pipeline

from shift_ser import ShiftAudioClassificationPipeline, ShiftFeatureExtractor
from shift_ser.inference.embeddings import write_embeddings
from shift_ser.inference.memory import SCRATCH, pass_memory
from shift_ser.inference.predict import classify_recordings, load_classifier
from shift_ser.memory import LiveBytes

RATE = 16000


def noise(seconds):
    return np.random.default_rng(0).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    tiny_model("shiftcnn").save_pretrained(folder)
    ShiftFeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture
def classify(saved):
    return load_classifier(saved, dtype="float32")


@pytest.mark.parametrize("model_type", ["hubert", "wav2vec2", "wavlm", "data2vec-audio", "unispeech-sat"])
@pytest.mark.parametrize("variant", ["shiftcnn", "shiftlstm", "transformer"])
def test_a_pass_counted_without_values_equals_one_that_runs(model_type, variant):
    model = tiny_model(variant, encoder_config=tiny_encoder_config(model_type))
    classify = pipeline(
        "audio-classification", model=model, device="cpu", feature_extractor=ShiftFeatureExtractor(),
        pipeline_class=ShiftAudioClassificationPipeline,
    )  # fmt: skip
    with torch.inference_mode(), LiveBytes() as ran:
        model(torch.from_numpy(noise(3))[None].clone())
    assert pass_memory(classify, 3) == pytest.approx(SCRATCH * ran.peak, rel=0.05)


def test_a_recording_that_does_not_fit_is_an_error_and_the_others_go_on(classify, tmp_path):
    recordings = [noise(1), noise(20), noise(2)]
    plain = list(classify_recordings(classify, recordings))
    room = pass_memory(classify, 20)
    assert [*classify_recordings(classify, recordings, max_memory=room)] == plain
    first, long, last = classify_recordings(classify, recordings, max_memory=room - 1)
    assert (first, last) == (plain[0], plain[2])
    assert long.scores is None and "20 s" in long.error and "max_memory" in long.error and "timeline" in long.error
    paths = [tmp_path / f"{row}.wav" for row in range(3)]
    for path, samples in zip(paths, recordings, strict=True):
        sf.write(path, samples, RATE)
    (failed,) = write_embeddings(classify, paths, tmp_path / "vectors.npz", max_memory=room - 1)
    assert failed.name == str(paths[1]) and len(np.load(tmp_path / "vectors.npz")["embeddings"]) == 2
    with pytest.raises(ValueError, match="max_memory must be above 0, got 0"):
        next(classify_recordings(classify, recordings, max_memory=0))


def test_lengths_that_are_near_are_counted_once(classify, monkeypatch):
    counts = []
    monkeypatch.setattr("shift_ser.inference.batches.pass_memory", lambda _, seconds: counts.append(seconds) or 1)
    results = list(classify_recordings(classify, [noise(seconds) for seconds in (3, 16, 17.5, 20, 20.5, 24)]))
    assert counts == [20, 30] and all(result.scores for result in results)


def test_without_a_limit_it_is_what_the_machine_has_left(classify, monkeypatch):
    monkeypatch.setattr("shift_ser.inference.batches.free_memory", lambda device: pass_memory(classify, 20) - 1)
    short, long = classify_recordings(classify, [noise(1), noise(20)])
    assert short.scores and "that the machine has left" in long.error


def test_the_command_takes_gigabytes(saved, tmp_path):
    for name, seconds in (("short", 1), ("long", 20)):
        sf.write(tmp_path / f"{name}.wav", noise(seconds), RATE)
    words = ["predict", "--model", saved, "--dtype", "float32", tmp_path / "short.wav", tmp_path / "long.wav"]
    assert command_line(*words).exit_code == 0
    told = command_line(*words, "--max-memory", "0.000001")
    assert told.exit_code == 1 and "short.wav: " in told.stdout and "long.wav: a pass over 20 s" in told.output
