import http.server
import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf
import torch
from conftest import tiny_encoder_config, tiny_model
from datasets import Audio, Dataset, Features
from huggingface_hub.utils import httpx
from transformers import (
    AudioClassificationPipeline,
    AutoProcessor,
    HubertForSequenceClassification,
    HubertModel,
    Wav2Vec2FeatureExtractor,
    pipeline,
)
from transformers.pipelines.pt_utils import KeyDataset

from shift_ser import ShiftAudioClassificationPipeline, ShiftFeatureExtractor
from shift_ser.corpora.corpus import SpeechAudio
from shift_ser.model import speech_input
from shift_ser.model.pipeline_shift_ser import in_order, like_lengths
from shift_ser.model.speech_input import load_speech, log_once

RATE = 16000


@pytest.fixture(autouse=True)
def forget_what_was_logged():
    log_once.cache_clear()


def tone(rate=RATE, seconds=0.5, hertz=300.0):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def clips(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 0.1, length).astype(np.float32) for length in lengths]


def classifier(extractor=None, **options):
    """The pipeline over a model that tells clips apart: its classifier's weights are large."""
    model = tiny_model("shiftcnn", **options)
    model.classifier.weight.data *= 20
    return pipeline(
        "audio-classification", model=model, feature_extractor=extractor or ShiftFeatureExtractor(), device="cpu",
        pipeline_class=ShiftAudioClassificationPipeline, top_k=None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def classify():
    return classifier()


def scores(result):
    return {entry["label"]: entry["score"] for entry in result}


@pytest.fixture(scope="module")
def expected(classify):
    """Scores of `tone()`, without any of the pipeline's reading."""
    features = ShiftFeatureExtractor()(tone(), sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        shares = classify.model(**features).logits[0].softmax(dim=-1).tolist()
    return {classify.model.config.id2label[index]: share for index, share in enumerate(shares)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for suffix in ("wav", "flac"):
        sf.write(folder / f"tone.{suffix}", tone(), RATE, subtype="PCM_24")
    return folder


def forms_of_a_file(folder: Path) -> dict:
    path = folder / "tone.wav"
    return {
        "str": str(path), "Path": path, "wav bytes": path.read_bytes(), "flac": folder / "tone.flac",
        "flac bytes": (folder / "tone.flac").read_bytes(), "dict of path": {"path": str(path), "bytes": None},
        "dict of bytes": {"path": None, "bytes": path.read_bytes()}, "row": {"audio": str(path), "label": 1},
    }  # fmt: skip


def forms_of_an_array() -> dict:
    samples = tone()
    kinds = (np.int8, np.int16, np.int32)
    integers = {np.dtype(kind).name: np.round(samples * np.iinfo(kind).max).astype(kind) for kind in kinds}
    floats = {np.dtype(kind).name: samples.astype(kind) for kind in (np.float16, np.float32, np.float64)}
    tensors = {f"tensor {name}": torch.from_numpy(array) for name, array in (integers | floats).items()}
    decoded = SimpleNamespace(data=torch.from_numpy(samples)[None], sample_rate=RATE)
    return integers | floats | tensors | {
        "bfloat16": torch.from_numpy(samples).bfloat16(), "grad": torch.from_numpy(samples).requires_grad_(),
        "numbers": samples.tolist(), "numbers in a tuple": tuple(samples.tolist()),
        "raw": {"raw": samples, "sampling_rate": RATE}, "array": {"array": samples, "sampling_rate": RATE},
        "row of a dataset": {"audio": {"path": "gone.wav", "array": samples, "sampling_rate": RATE}},
        "(1, samples)": samples[None], "(samples, 2)": np.stack([samples, samples], axis=1),
        "(2, samples)": torch.from_numpy(np.stack([samples, samples])),
        "stereo int16": np.stack([integers["int16"]] * 2), "decoder": SimpleNamespace(get_all_samples=lambda: decoded),
    }  # fmt: skip


@pytest.mark.parametrize("form", [*forms_of_an_array()])
def test_an_array_in_every_form(classify, expected, form):
    coarse = 0.05 if form in ("int8", "tensor int8", "bfloat16") else 2e-3
    assert scores(classify(forms_of_an_array()[form])) == pytest.approx(expected, abs=coarse)


def test_a_file_in_every_form(classify, expected, files):
    for form, recording in forms_of_a_file(files).items():
        assert scores(classify(recording)) == pytest.approx(expected, abs=1e-4), form


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_every_rate_is_resampled(classify, expected, tmp_path, rate, caplog):
    sf.write(tmp_path / "a.wav", tone(rate), rate, subtype="FLOAT")
    for recording in (tmp_path / "a.wav", {"raw": tone(rate), "sampling_rate": rate}):
        assert scores(classify(recording)) == pytest.approx(expected, abs=0.05)
        middle = slice(1000, 7000)  # the filter rings at the edges
        np.testing.assert_allclose(load_speech(recording)[middle], tone()[middle], atol=2e-3)
    assert caplog.messages == [f"audio of {rate} Hz is resampled to 16000 Hz"]


def test_stereo_is_averaged_and_said_once(classify, tmp_path, caplog):
    left, right = clips(6000, 6000)
    sf.write(tmp_path / "a.wav", np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    mean = scores(classify((left + right) / 2))
    for recording in (tmp_path / "a.wav", np.stack([left, right]), np.stack([left, right], axis=1)):
        assert scores(classify(recording)) == pytest.approx(mean, abs=1e-5)
    assert caplog.messages == ["audio of 2 channels is averaged to mono"]


def test_several_recordings_in_every_form(classify, files):
    recordings = [files / "tone.wav", *clips(6000, 700, 4000), {"raw": tone(8000), "sampling_rate": 8000}]
    alone = [scores(classify(recording)) for recording in recordings]
    several = (recordings, tuple(recordings), (each for each in recordings), iter(recordings))
    for form in several:
        result = classify(form)
        assert isinstance(result, list) is isinstance(form, (list, tuple))
        assert [scores(each) for each in result] == [pytest.approx(each, abs=1e-5) for each in alone]
    assert classify([]) == classify(()) == []


def test_datasets_of_recordings(classify, expected, files):
    paths = [str(files / "tone.wav"), str(files / "tone.flac")]
    decoded = Dataset.from_dict({"audio": paths}, features=Features({"audio": SpeechAudio()}))
    plain = Dataset.from_dict({"audio": paths})
    undecoded = plain.cast_column("audio", Audio(decode=False))
    for form in (
        decoded, decoded["audio"], KeyDataset(decoded, "audio"), decoded.to_iterable_dataset(), plain, plain["audio"],
        KeyDataset(plain, "audio"), undecoded, undecoded["audio"],
    ):  # fmt: skip
        results = [scores(each) for each in classify(form, batch_size=2)]
        assert results == [pytest.approx(expected, abs=1e-4)] * 2


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_batch_size_changes_no_score(norm):
    encoder_config = tiny_encoder_config(feat_extract_norm=norm, do_stable_layer_norm=norm == "layer")
    for extractor in (ShiftFeatureExtractor(), Wav2Vec2FeatureExtractor(return_attention_mask=False)):
        classify = classifier(extractor, encoder_config=encoder_config)
        recordings = clips(6000, 2500, 450, 9000, 5000, 700, 3000)
        one = [scores(each) for each in classify(recordings)]
        assert max(abs(each["LABEL_0"] - one[0]["LABEL_0"]) for each in one) > 1e-3  # the clips do differ
        for batch_size in (2, 3, 7, 64):
            together = classify(recordings, batch_size=batch_size)
            assert [scores(each) for each in together] == [pytest.approx(each, abs=1e-5) for each in one]


def test_the_batches_of_a_list_are_of_like_length(monkeypatch):
    classify, shapes = classifier(), []
    forward = classify.forward
    monkeypatch.setattr(
        classify, "forward", lambda inputs, **options: shapes.append(inputs["input_values"].shape) or forward(inputs)
    )
    classify(clips(6000, 700, 5900, 800, 6100, 750), batch_size=3)
    assert shapes == [(3, 6100), (3, 800)]


def test_like_lengths_gives_everything_once_and_the_oldest_first():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 100, 500).tolist()
    seen, held = [], 0
    taken = iter(range(len(lengths)))

    def recordings():
        for place in taken:
            nonlocal held
            held = max(held, place + 1 - len(seen))
            yield lengths[place]

    for places, batch in like_lengths(
        recordings(), length=float, fits=lambda count, longest: count * longest <= 300, window=40, window_length=1500
    ):
        assert min(set(range(len(lengths))) - set(seen)) in places
        assert len(batch) == 1 or len(batch) * max(batch) <= 300
        assert batch == [lengths[place] for place in places]
        seen += places
    assert sorted(seen) == list(range(len(lengths)))
    assert held <= 40


def test_like_lengths_pads_little():
    lengths = np.random.default_rng(0).uniform(1, 7.5, 2000).tolist()
    batches = like_lengths(lengths, length=float, fits=lambda count, longest: count * longest <= 15, window=256)
    padded = sum(len(batch) * max(batch) for _, batch in batches)
    assert padded / sum(lengths) < 1.02


@pytest.mark.parametrize("batch", [[], [([2], ["c"]), ([0, 1], ["a", "b"])], [([0], ["a"]), ([1], ["b"])]])
def test_in_order(batch):
    assert list(in_order(batch)) == ["a", "b", "c"][: sum(len(places) for places, _ in batch)]


def test_without_mask_padding_recordings_go_one_by_one(caplog):
    classify, recordings = classifier(mask_padding=False), clips(6000, 2500, 450)
    alone = [scores(classify(each)) for each in recordings]
    assert [scores(each) for each in classify(recordings, batch_size=3)] == [pytest.approx(each) for each in alone]
    assert [message for message in caplog.messages if "one by one" in message]


def test_shorter_than_a_frame_and_silence(classify, caplog):
    for length in (1, 100, 399):
        assert sum(scores(classify(clips(length)[0])).values()) == pytest.approx(1)
    short = [f"an utterance of {length} samples was padded to 400" for length in (1, 100, 399)]
    assert caplog.messages == short
    caplog.clear()
    assert sum(scores(classify(np.zeros(8000))).values()) == pytest.approx(1)
    assert caplog.messages == ["a recording is digital silence: its scores say nothing"]


def broken(value):
    samples = tone()
    samples[7] = value
    return samples


@pytest.mark.parametrize(
    ("recording", "message"),
    [
        (broken(np.nan), "the input must hold finite samples only, got 1 NaN and 0 infinite"),
        (broken(-np.inf), "got 0 NaN and 1 infinite"),
        (np.full(500, 1e300), "got 0 NaN and 500 infinite"),
        ({"raw": broken(np.nan), "sampling_rate": 8000}, "must hold finite samples only, got 1 NaN"),
        (np.stack([broken(np.inf), broken(-np.inf)]), "got 0 NaN and 2 infinite"),
        (np.zeros(0), "the input must hold at least one sample at 16000 Hz, got 0 recorded"),
        (np.zeros((0, 2)), "must hold at least one sample"),
        ({"raw": np.zeros(1), "sampling_rate": 48000}, "at least one sample at 16000 Hz, got 1 recorded"),
        (b"", "audio of 0 bytes must be an audio file that libsndfile reads"),
        (b"no audio at all", "audio of 15 bytes must be an audio file that libsndfile reads"),
        (np.zeros(500, dtype=np.uint8), "signed integers of 8, 16 or 32 bits .*, but the input is uint8"),
        (np.zeros(500, dtype=np.int64), "but the input is int64"),
        ([0] * 500, "but the input is int64"),
        (np.zeros(500, dtype=complex), "but the input is complex128"),
        (np.zeros(500, dtype=bool), "but the input is bool"),
        (np.zeros((3, 500)), r"one or two channels, .* got \(3, 500\): give several recordings as a list"),
        (np.zeros((1, 2, 500)), r"one or two channels, .* got \(1, 2, 500\)"),
        ({"raw": tone()}, r'"raw" or "array" with a "sampling_rate", .* keys \[\'raw\'\] and the rate None'),
        ({"raw": tone(), "sampling_rate": 0}, "a number from 1000 to 1000000 Hz, got 0"),
        ({"sampling_rate": RATE}, "got the keys"),
        ([None], "but the input is object"),
        (7, "inputs must be a recording or several, got int"),
    ],
)
def test_what_is_refused(classify, recording, message):
    with pytest.raises(ValueError, match=message):
        classify(recording)


def test_files_that_are_refused(classify, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"audio file not found: nowhere\.wav"):
        classify("nowhere.wav")
    sf.write(tmp_path / "nan.wav", broken(np.nan), RATE, subtype="FLOAT")
    sf.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    (tmp_path / "letter.wav").write_text("not a recording")
    for name, message in (("nan", "got 1 NaN"), ("empty", "at least one sample"), ("letter", "libsndfile reads")):
        with pytest.raises(ValueError, match=rf"{name}\.wav must .*{message}"):
            classify([tone(), tmp_path / f"{name}.wav"], batch_size=2)


def test_options_of_the_stock_pipeline(classify, expected):
    best = classify(tone(), top_k=1)
    assert scores(best) == pytest.approx({max(expected, key=expected.get): max(expected.values())}, abs=1e-6)
    logits = scores(classify(tone(), function_to_apply="none"))
    assert np.exp(list(logits.values())).sum() != pytest.approx(1)


def test_calibrated_scores_are_those_of_divided_logits(caplog):
    stock, calm = classifier(), classifier(temperature=3.0)
    told = pipeline(
        "audio-classification", model=calm.model, feature_extractor=ShiftFeatureExtractor(), device="cpu",
        pipeline_class=ShiftAudioClassificationPipeline, calibrated=True,
    )  # fmt: skip
    logits = scores(stock(tone(), function_to_apply="none"))
    shares = dict(zip(logits, (torch.tensor([*logits.values()]).double() / 3).softmax(dim=-1).tolist(), strict=True))
    for result in (calm(tone(), calibrated=True), told(tone()), told([tone(), tone()], batch_size=2)[1]):
        assert scores(result) == pytest.approx(shares, abs=1e-5)
        assert [*scores(result)] == [*logits]  # best first, as before
    for result in (calm(tone()), told(tone(), calibrated=False)):
        assert scores(result) == pytest.approx(scores(stock(tone())), abs=1e-6)
    assert len(told(tone(), top_k=2)) == 2
    assert not caplog.messages


def test_a_model_without_a_temperature_says_so_once(classify, expected, caplog):
    for _ in range(2):
        assert scores(classify([tone(), tone()], calibrated=True)[1]) == pytest.approx(expected, abs=1e-6)
    assert caplog.messages == ["the model holds no fitted temperature: its scores are not calibrated"]


def test_addresses_are_fetched(classify, expected, files):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(files))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert scores(classify(f"{address}/tone.flac")) == pytest.approx(expected, abs=1e-4)
        with pytest.raises(Exception, match="404"):
            classify(f"{address}/nowhere.wav")
        server.shutdown()


@pytest.fixture
def endless():
    """Address of a server whose answer never ends."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(bytes(1000))
                    time.sleep(0.005)
            except OSError:
                pass  # the client has had enough

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/endless.wav"
        server.shutdown()


def test_an_address_that_never_ends(classify, endless):
    with pytest.raises(ValueError, match=r"endless\.wav must hold at most 5000 bytes \(max_bytes\), got more"):
        classify(endless, max_bytes=5000)
    with pytest.raises(
        ValueError, match=r"must be fetched within 0\.1 s \(max_download_seconds\), got \d+ bytes by then"
    ):
        classify([endless, tone()], max_download_seconds=0.1, batch_size=2)


def test_what_gradio_gives_and_file_objects(classify, expected, files):
    integers = np.round(tone() * 32767).astype(np.int16)
    for recording in ((RATE, integers), (RATE, np.stack([integers, integers], axis=1))):
        assert scores(classify(recording)) == pytest.approx(expected, abs=2e-3)
        assert len(classify([recording, (2 * RATE, integers)], batch_size=2)) == 2
    with open(files / "tone.wav", "rb") as one, open(files / "tone.flac", "rb") as other:
        assert scores(classify(one)) == pytest.approx(expected, abs=1e-4)
        one.seek(0)
        assert [scores(each) for each in classify([one, other])] == [pytest.approx(expected, abs=1e-4)] * 2
    for content in (bytearray, memoryview):
        given = content((files / "tone.wav").read_bytes())
        assert scores(classify(given)) == pytest.approx(expected, abs=1e-4)


def test_options_of_reading_go_through(classify, expected, files):
    whole = (files / "tone.wav").read_bytes()
    with pytest.raises(ValueError, match="as much audio as its header promises"):
        classify(whole[:-6])
    for recordings in (whole[:-6], [whole[:-6]] * 3, (each for each in [whole[:-6]])):
        given = classify(recordings, allow_truncated=True, batch_size=2)
        first = given if isinstance(recordings, bytes) else next(iter(given))
        assert scores(first) == pytest.approx(expected, abs=1e-3)
    told = pipeline(
        "audio-classification", model=classify.model, feature_extractor=ShiftFeatureExtractor(), device="cpu",
        max_seconds=0.4,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"must last at most 0\.4 s"):
        told(whole)


def test_scores_that_are_not_finite_never_leave():
    broken_model = classifier()
    with torch.no_grad():
        broken_model.model.classifier.bias[1] = np.nan
    for recordings in (tone(), [tone(), tone()]):
        with pytest.raises(ValueError, match=r"scores must be finite, but the model's logits hold \[.*nan"):
            broken_model(recordings, batch_size=2)


def test_scores_of_frames_are_finite_and_divided_by_the_temperature_like_those_of_recordings():
    of_frames, speech = classifier(frame_labels=True, temperature=2.0), clips(4000, 7000)
    logits = of_frames.model.frame_logits(**of_frames.features(speech))
    for calibrated, scale in ((False, 1.0), (True, 2.0)):
        for found, row in zip(of_frames.frame_scores(speech, calibrated=calibrated), logits, strict=True):
            np.testing.assert_allclose(found, (row / scale).softmax(dim=-1), atol=1e-6)
    with torch.no_grad():
        of_frames.model.classifier.bias[1] = np.inf
    with pytest.raises(ValueError, match=r"scores must be finite, but the model's logits hold .*inf"):
        of_frames.frame_scores(speech)


@pytest.mark.parametrize("constant", [0.0, 0.25])
def test_a_constant_is_silence(classify, constant, caplog):
    for recording in (np.full(8000, constant), (8000, np.full(4000, constant))):
        classify(recording)
    assert caplog.messages.count("a recording is digital silence: its scores say nothing") == 2


def test_the_plain_pipeline_is_ours_for_our_models_only(files, tmp_path):
    model = tiny_model("shiftcnn", temperature=2.0)
    model.save_pretrained(tmp_path / "ours")
    ShiftFeatureExtractor().save_pretrained(tmp_path / "ours")
    sf.write(tmp_path / "a.flac", tone(44100), 44100)
    by_class = pipeline(
        "audio-classification", model=str(tmp_path / "ours"), pipeline_class=ShiftAudioClassificationPipeline
    )
    for trust in (False, True):
        options = {"model": str(tmp_path / "ours"), "trust_remote_code": trust}
        plain, calm = (pipeline("audio-classification", calibrated=calm, **options) for calm in (False, True))
        assert type(plain) is ShiftAudioClassificationPipeline
        assert plain(tmp_path / "a.flac") == by_class(tmp_path / "a.flac")
        assert (
            calm(tmp_path / "a.flac") == by_class(tmp_path / "a.flac", calibrated=True) != by_class(tmp_path / "a.flac")
        )
    processor = AutoProcessor.from_pretrained(tmp_path / "ours")
    assert type(processor) is ShiftFeatureExtractor
    stock = HubertForSequenceClassification(tiny_encoder_config(architectures=None))
    theirs = pipeline("audio-classification", model=stock, feature_extractor=Wav2Vec2FeatureExtractor())
    assert type(theirs) is AudioClassificationPipeline


def test_an_encoder_alone_is_refused(tmp_path):
    HubertModel(tiny_encoder_config()).save_pretrained(tmp_path)
    ShiftFeatureExtractor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"a saved model for audio classification, got HubertModel in .* a random one"):
        pipeline("audio-classification", model=str(tmp_path), pipeline_class=ShiftAudioClassificationPipeline)


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_a_service_of_many_threads_answers_as_one_after_the_other(norm):
    """An HTTP service around one pipeline: 8 clients at once, mixed lengths."""
    encoder_config = tiny_encoder_config(feat_extract_norm=norm, do_stable_layer_norm=norm == "layer")
    classify = classifier(encoder_config=encoder_config)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            samples = np.frombuffer(self.rfile.read(int(self.headers["Content-Length"])), dtype=np.float32)
            answer = json.dumps(classify(samples)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args):
            pass

    def ask(samples):
        return httpx.post(address, content=samples.tobytes(), timeout=60).raise_for_status().json()

    recordings = clips(*np.random.default_rng(5).integers(300, 9000, 32))
    alone = [classify(recording) for recording in recordings]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        with ThreadPoolExecutor(8) as clients:
            assert list(clients.map(ask, recordings)) == alone
        server.shutdown()


def test_the_libraries_for_files_are_asked_for_only_where_needed(classify, expected, files, monkeypatch):
    monkeypatch.setattr(speech_input, "sf", None)
    monkeypatch.setattr(speech_input, "soxr", None)
    assert scores(classify(tone())) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ImportError, match=r"reading .*tone\.wav needs soundfile: pip install soundfile"):
        classify(files / "tone.wav")
    with pytest.raises(ImportError, match="from 8000 to 16000 Hz needs soxr: pip install soxr"):
        classify({"raw": tone(8000), "sampling_rate": 8000})


def test_no_word_about_unsupported_models(caplog):
    with caplog.at_level(logging.WARNING):
        classifier()
    assert not caplog.messages
