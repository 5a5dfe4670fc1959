from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile as sf
import torch
from conftest import command_line, tiny_encoder_config, tiny_model

from shift_ser import ShiftFeatureExtractor, load_classifier
from shift_ser.inference.embeddings import write_embeddings
from shift_ser.model.encoders import encode

LENGTHS = [16000, 400, 9000, 5000, 12345]


@pytest.fixture(scope="module")
def speech():
    rng = np.random.default_rng(0)
    return [rng.normal(0, 0.1, length).astype(np.float32) for length in LENGTHS]


@pytest.fixture(scope="module", params=["shiftformer", "shiftlstm"])
def classifier(request, tmp_path_factory):
    """A saved model whose encoder has a group norm, loaded."""
    folder = tmp_path_factory.mktemp("embeddings")
    config = tiny_encoder_config(feat_extract_norm="group", do_stable_layer_norm=False)
    tiny_model(request.param, encoder_config=config, position_embedding_type="absolute").save_pretrained(folder)
    ShiftFeatureExtractor().save_pretrained(folder)
    return load_classifier(folder, dtype="float32")


@pytest.mark.parametrize("of", ["head", "encoder"])
@pytest.mark.parametrize("pooling", ["mean", "mean_and_deviation"])
def test_an_embedding_is_the_same_alone_and_in_any_batch(classifier, speech, of, pooling):
    vectors = classifier.embed(speech, of=of, pooling=pooling, batch_size=4)
    width = classifier.model.shift_ser.head.output_width if of == "head" else 96
    assert vectors.dtype == np.float32 and vectors.shape == (5, width * (1 + (pooling != "mean")))
    alone = np.concatenate([classifier.embed(each, of=of, pooling=pooling) for each in speech])
    np.testing.assert_allclose(vectors, alone, rtol=0, atol=1e-5)
    assert classifier.embed([], of=of, pooling=pooling).shape == (0, vectors.shape[1])


def test_embeddings_are_the_mean_and_the_deviation_of_what_they_say(classifier, speech):
    model = classifier.model
    features = classifier.features(speech[:1])
    with torch.inference_mode():
        read = encode(model.shift_ser.encoder, features["input_values"])[0].double().numpy()
        head = model.shift_ser(**features).last_hidden_state[0].double().numpy()
        logits = model(**features).logits.numpy()
    for of, frames in (("encoder", read), ("head", head)):
        expected = np.concatenate([frames.mean(0), frames.std(0)])
        found = classifier.embed(speech[0], of=of, pooling="mean_and_deviation")[0]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    weight, bias = (value.detach().numpy() for value in (model.classifier.weight, model.classifier.bias))
    np.testing.assert_allclose(classifier.embed(speech[:1]) @ weight.T + bias, logits, rtol=0, atol=1e-5)


def test_many_threads_and_save_and_load_change_nothing(classifier, speech, tmp_path):
    expected = classifier.embed(speech)
    with ThreadPoolExecutor(4) as pool:
        for vectors in pool.map(lambda _: classifier.embed(speech), range(8)):
            assert np.array_equal(vectors, expected)
    classifier.save_pretrained(tmp_path)
    assert np.array_equal(load_classifier(tmp_path, dtype="float32").embed(speech), expected)


def test_encode_is_that_of_sentence_transformers(classifier, speech):
    expected = classifier.embed(speech)
    assert np.array_equal(classifier.encode(speech, batch_size=16, show_progress_bar=True), expected)
    as_tensor = classifier.encode(speech, batch_size=16, convert_to_tensor=True, normalize_embeddings=True)
    assert torch.allclose(as_tensor.norm(dim=1), torch.ones(5))
    parts = classifier.encode(speech, batch_size=16, convert_to_numpy=False)
    assert isinstance(parts, list) and torch.equal(torch.stack(parts), torch.from_numpy(expected))
    assert classifier.encode(speech[0]).shape == expected[0].shape
    assert np.array_equal(classifier.encode((each for each in speech), batch_size=16), expected)


@pytest.mark.parametrize("option", [{"of": "decoder"}, {"pooling": "max"}])
def test_an_unknown_option_is_refused(classifier, speech, option):
    with pytest.raises(
        ValueError, match=f"{next(iter(option))} must be one of .*, got '{next(iter(option.values()))}'"
    ):
        classifier.embed(speech, **option)


def test_the_command_writes_them_and_lists_what_it_cannot_read(classifier, speech, tmp_path):
    for number, samples in enumerate(speech[:2]):
        sf.write(tmp_path / f"{number}.wav", samples, 16000, subtype="FLOAT")
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    model, output = classifier.model.name_or_path, tmp_path / "out" / "vectors.npz"
    words = ["predict", "--model", model, tmp_path, "--dtype", "float32", "--embeddings", output]
    told = command_line(*words)
    assert told.exit_code == 1 and "could not be read:" in told.stderr and "broken.wav" in told.stderr
    with np.load(output) as file:
        assert file["recordings"].tolist() == [str(tmp_path / f"{number}.wav") for number in range(2)]
        assert file["embeddings"].dtype == np.float32 and str(file["of"]) == "head"
        np.testing.assert_allclose(file["embeddings"], classifier.embed(speech[:2]), rtol=0, atol=1e-5)
    told = command_line(*words, "--output", tmp_path / "scores.csv")
    assert told.exit_code == 2 and "--embeddings must stand without --output" in told.stderr


def test_a_recording_that_breaks_the_model_leaves_the_others(classifier, tmp_path, monkeypatch):
    """As a recording beyond 30 s does with Whisper's encoder."""
    for seconds in (1, 2, 3):
        sf.write(tmp_path / f"{seconds}.wav", np.random.default_rng(seconds).normal(0, 0.1, 16000 * seconds), 16000)
    features = classifier.features

    def refusing(speech):
        if any(len(each) > 40000 for each in speech):
            raise ValueError("raw_speech must be shorter")
        return features(speech)

    monkeypatch.setattr(classifier, "features", refusing)
    paths = [tmp_path / f"{seconds}.wav" for seconds in (1, 3, 2)]
    (failed,) = write_embeddings(classifier, paths, tmp_path / "out.npz")
    assert failed.name == str(paths[1]) and "raw_speech must be shorter" in failed.error
    found = np.load(tmp_path / "out.npz")
    assert found["recordings"].tolist() == [str(paths[0]), str(paths[2])]
    expected = np.concatenate([classifier.embed(str(path)) for path in (paths[0], paths[2])])
    np.testing.assert_allclose(found["embeddings"], expected, rtol=0, atol=1e-5)
