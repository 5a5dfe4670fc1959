import logging

import numpy as np
import pytest
import torch
from conftest import tiny_model
from transformers import AutoFeatureExtractor, Wav2Vec2FeatureExtractor, pipeline

from shift_ser import ShiftFeatureExtractor

RATE = 16000


def noise(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(0.1, 0.3, size=length).astype(np.float32) for length in lengths]


def extract(extractor, speech, **options):
    return extractor(speech, **{"sampling_rate": RATE, "padding": True, "return_tensors": "pt", **options})


@pytest.mark.parametrize("normalize", [True, False])
def test_equals_the_stock_extractor_with_its_mask(normalize):
    speech = noise(900, 500, 400)
    ours = extract(ShiftFeatureExtractor(do_normalize=normalize), speech)
    stock = extract(Wav2Vec2FeatureExtractor(do_normalize=normalize, return_attention_mask=True), speech)
    assert ours.keys() == stock.keys() == {"input_values", "attention_mask"}
    assert all(torch.equal(ours[name], stock[name]) for name in stock)
    assert ours["attention_mask"].sum(dim=1).tolist() == [900, 500, 400]


@pytest.mark.parametrize("options", [{"return_attention_mask": False}, {}])
def test_mask_always(options):
    extractor = ShiftFeatureExtractor(**options)
    assert extract(extractor, noise(500), **options)["attention_mask"].tolist() == [[1] * 500]


def test_one_utterance_in_every_form_gives_the_same():
    extractor, (speech,) = ShiftFeatureExtractor(), noise(500)
    expected = extract(extractor, [speech])
    for form in (
        speech, speech.astype(np.float64), torch.from_numpy(speech), speech.tolist(), [speech.tolist()],
        [torch.from_numpy(speech)], (speech,),
    ):  # fmt: skip
        features = extract(extractor, form)
        assert features["input_values"].shape == (1, 500)
        torch.testing.assert_close(features["input_values"], expected["input_values"])
    plain = extract(extractor, speech, return_tensors=None)["input_values"]
    np.testing.assert_allclose(plain[0], expected["input_values"][0])


@pytest.mark.parametrize(("dtype", "full"), [(np.int8, 2**7), (np.int16, 2**15), (np.int32, 2**31)])
def test_integers_are_scaled_by_their_range(dtype, full):
    samples = np.resize(np.array([-full, 0, full // 2, full - 1]), 400).astype(dtype)
    for speech in (samples, torch.from_numpy(samples)):
        values = extract(ShiftFeatureExtractor(do_normalize=False), speech)["input_values"][0]
        assert values.dtype == torch.float32
        np.testing.assert_allclose(values[:4], [-1, 0, 0.5, 1 - 1 / full])


def broken(value, at=7):
    (speech,) = noise(500)
    speech[at] = value
    return speech


@pytest.mark.parametrize(
    ("speech", "message"),
    [
        (broken(np.nan), "must be finite, but utterance 0 holds NaN or infinity"),
        (broken(-np.inf), "must be finite, but utterance 0 holds NaN or infinity"),
        ([*noise(500), broken(np.inf)], "must be finite, but utterance 1 holds NaN or infinity"),
        (broken(1e18), r"utterance 0 must hold samples within 4\.29497e\+09 \(full scale is 1\), got 1e\+18"),
        (np.ma.masked_less(broken(-9.0), -8), "utterance 0 must hold no masked samples, got 1: fill or cut them"),
        (np.zeros(0), "must hold samples, but utterance 0 is empty"),
        ([np.zeros(500), []], "must hold samples, but utterance 1 is empty"),
        ([], "must hold an utterance, got an empty list"),
        (np.zeros((2, 500)), r"must be mono, shape \(samples,\), but utterance 0 has shape \(2, 500\)"),
        ([np.zeros((500, 2))], r"must be mono, shape \(samples,\), but utterance 0 has shape \(500, 2\)"),
        (np.zeros(500, dtype=np.uint8), r"signed integers of 8, 16 or 32 bits .*, but utterance 0 is uint8"),
        (np.zeros(500, dtype=np.uint16), "but utterance 0 is uint16"),
        ([100] * 500, "but utterance 0 is int64"),
        (np.zeros(500, dtype=bool), "but utterance 0 is bool"),
        (np.zeros(500, dtype=complex), "but utterance 0 is complex128"),
        (["speech.wav"], "but utterance 0 is <U10"),
    ],
)
def test_what_a_model_would_choke_on(speech, message):
    with pytest.raises(ValueError, match=message):
        extract(ShiftFeatureExtractor(), speech)


def test_another_rate_is_refused():
    with pytest.raises(ValueError, match="16000"):
        extract(ShiftFeatureExtractor(), noise(500), sampling_rate=8000)


def test_short_speech_is_padded_as_speech(caplog):
    with caplog.at_level(logging.WARNING, logger="shift_ser.model.feature_extraction_shift_ser"):
        features = extract(ShiftFeatureExtractor(do_normalize=False), noise(1, 600, 399))
    assert features["attention_mask"].sum(dim=1).tolist() == [400, 600, 400]
    assert (features["input_values"][0, 1:] == 0).all() and features["input_values"][0, 0] != 0
    assert caplog.messages == [f"an utterance of {length} samples was padded to 400" for length in (1, 399)]
    alone = extract(ShiftFeatureExtractor(min_length=7), noise(3))
    assert alone["attention_mask"].tolist() == [[1] * 7]


def test_silence_stays_finite():
    assert extract(ShiftFeatureExtractor(), np.zeros(500))["input_values"].isfinite().all()


@pytest.mark.parametrize("tensors", [None, "np", "pt"])
def test_fixed_length_cuts_and_pads_with_a_full_mask(tensors):
    extractor = ShiftFeatureExtractor(fixed_length=120000, do_normalize=False)
    speech = noise(130000, 50000, 120000)
    features = extract(extractor, speech, return_tensors=tensors, padding=False)
    for row, (values, mask) in enumerate(zip(features["input_values"], features["attention_mask"], strict=True)):
        length = min(len(speech[row]), 120000)
        assert len(values) == len(mask) == 120000 and mask.sum() == 120000
        np.testing.assert_array_equal(values[:length], speech[row][:length])
        assert (values[length:] == 0).all()
    if tensors == "pt":
        assert features["input_values"].shape == features["attention_mask"].shape == (3, 120000)
        assert not features["attention_mask"].is_floating_point()


def test_save_and_load_through_the_auto_class(tmp_path):
    ShiftFeatureExtractor(min_length=500, fixed_length=1000, do_normalize=False).save_pretrained(tmp_path)
    for loaded in (
        AutoFeatureExtractor.from_pretrained(tmp_path), ShiftFeatureExtractor.from_pretrained(tmp_path)
    ):  # fmt: skip
        assert type(loaded) is ShiftFeatureExtractor
        assert (loaded.min_length, loaded.fixed_length, loaded.do_normalize) == (500, 1000, False)
        assert loaded.return_attention_mask
    other = ShiftFeatureExtractor.from_pretrained(tmp_path, fixed_length=None)
    assert other.fixed_length is None


def test_takes_over_a_stock_extractors_folder(tmp_path):
    Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=False).save_pretrained(tmp_path)
    loaded = ShiftFeatureExtractor.from_pretrained(tmp_path, fixed_length=800)
    assert (loaded.do_normalize, loaded.return_attention_mask, loaded.fixed_length) == (False, True, 800)
    assert ShiftFeatureExtractor.from_pretrained(tmp_path, do_normalize=True).do_normalize
    loaded, unused = ShiftFeatureExtractor.from_pretrained(tmp_path, min_length=7, hum=1, return_unused_kwargs=True)
    assert loaded.min_length == 7 and unused == {"hum": 1}


def test_pipeline_gives_the_same_scores_for_every_batch_size(tmp_path):
    tiny_model("shiftformer").save_pretrained(tmp_path)
    ShiftFeatureExtractor().save_pretrained(tmp_path)
    speech = noise(6000, 2500, 300, 4000, 5000)
    results = []
    for batch_size in (1, 4):
        classify = pipeline("audio-classification", model=str(tmp_path), device="cpu", top_k=4)
        assert type(classify.feature_extractor) is ShiftFeatureExtractor
        results.append(list(classify(speech, batch_size=batch_size)))
    by_object = pipeline(
        "audio-classification", model=classify.model, feature_extractor=classify.feature_extractor, top_k=4
    )  # fmt: skip
    results.append(by_object(speech))
    for alone, together, given in zip(*results, strict=True):
        scores = [{entry["label"]: entry["score"] for entry in result} for result in (alone, together, given)]
        assert sum(scores[0].values()) == pytest.approx(1)
        assert scores[1] == pytest.approx(scores[0], abs=1e-5) and scores[2] == pytest.approx(scores[0], abs=1e-6)
    with pytest.raises(ValueError, match="must hold finite samples only"):
        classify(broken(np.nan))
