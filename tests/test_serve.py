"""The example of a service, over HTTP: answers of many clients at once, a full queue, what is wrong."""

import http.client
import importlib.util
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import uvicorn
from conftest import tiny_model
from transformers import pipeline

from shift_ser import ShiftAudioClassificationPipeline, ShiftFeatureExtractor

spec = importlib.util.spec_from_file_location("serve", Path(__file__).parents[1] / "examples" / "serve.py")
serve = importlib.util.module_from_spec(spec)
spec.loader.exec_module(serve)


def wav(samples, rate=16000):
    content = io.BytesIO()
    sf.write(content, samples, rate, format="WAV")
    return content.getvalue()


CLIPS = [wav(0.1 * np.random.default_rng(seed).standard_normal(2000 + 700 * seed)) for seed in range(12)]


@pytest.fixture(scope="module")
def classifier():
    model = tiny_model("shiftcnn")
    model.classifier.weight.data *= 20
    return pipeline(
        "audio-classification", model=model, device="cpu", feature_extractor=ShiftFeatureExtractor(), top_k=None,
        pipeline_class=ShiftAudioClassificationPipeline,
    )  # fmt: skip


@pytest.fixture
def port(classifier, request):
    limits = serve.Limits(waiting=40, max_bytes=200_000, max_seconds=5.0, **getattr(request, "param", {}))
    server = uvicorn.Server(uvicorn.Config(serve.make_app(classifier, limits), port=0, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def post(port, content, path="/classify"):
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
        connection.request("POST" if path == "/classify" else "GET", path, content)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def test_many_clients_get_the_scores_of_their_recording_alone(port, classifier, monkeypatch):
    sizes, whole = [], classifier.classify_batch
    monkeypatch.setattr(
        classifier, "classify_batch", lambda speech, **given: sizes.append(len(speech)) or whole(speech, **given)
    )
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda number: post(port, CLIPS[number % 12]), range(36)))
    monkeypatch.undo()
    assert sum(sizes) == 36 and max(sizes) > 1
    for number, (status, answer) in enumerate(answers):
        assert status == 200
        expected = {entry["label"]: entry["score"] for entry in classifier(CLIPS[number % 12])}
        assert {entry["label"]: entry["score"] for entry in answer} == pytest.approx(expected, abs=1e-5)
    assert post(port, None, "/health") == (200, {"labels": [f"LABEL_{n}" for n in range(4)], "waiting": 0})


@pytest.mark.parametrize("port", [{"batch_seconds": 0.001}], indirect=True)
def test_a_full_queue_answers_503_and_those_that_wait_are_served(port, classifier, monkeypatch):
    go_on, whole = threading.Event(), classifier.classify_batch
    monkeypatch.setattr(
        classifier, "classify_batch", lambda *given, **options: go_on.wait(60) and whole(*given, **options)
    )
    with ThreadPoolExecutor(48) as threads:
        waiting = [threads.submit(post, port, CLIPS[0]) for _ in range(40)]
        while post(port, None, "/health")[1]["waiting"] < 40:
            time.sleep(0.01)
        status, answer = post(port, CLIPS[0])
        assert status == 503 and answer == {"error": "40 requests are waiting: try again"}
        go_on.set()
        assert [request.result()[0] for request in waiting] == [200] * 40


def test_what_is_wrong_is_json_with_a_status(port, classifier, monkeypatch):
    for content, status, message in (
        (b"a text named speech.wav", 400, "must be an audio file"),
        (b"", 400, "must be an audio file"),
        (CLIPS[3][:1000], 400, "cut"),
        (wav(np.zeros(0)), 400, "at least one sample"),
        (wav(np.zeros(48000), 8000), 400, "at most 5 s"),
        (wav(np.zeros(200_000)), 413, "at most 200000 bytes"),
    ):
        found, answer = post(port, content)
        assert found == status and message in answer["error"], answer
    monkeypatch.setattr(classifier, "classify_batch", lambda *_, **__: 1 / 0)
    assert post(port, CLIPS[0]) == (500, {"error": "ZeroDivisionError: division by zero"})
    monkeypatch.undo()
    assert post(port, CLIPS[0])[0] == 200
