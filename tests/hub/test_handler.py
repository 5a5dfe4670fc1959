"""The handler that lies beside a pushed model, over HTTP, in a process that has nothing of this package."""

import base64
import http.client
import io
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest
import soundfile as sf
from conftest import tiny_model
from transformers import pipeline

from shift_ser import ShiftAudioClassificationPipeline, ShiftFeatureExtractor
from shift_ser.hub import handler as handler_module
from shift_ser.hub.handler import MAX_BYTES, EndpointHandler

ALONE = """
import runpy, sys
sys.modules["shift_ser"] = None  # importing it raises ImportError
sys.argv = ["handler.py", "--port", "0"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
SPEECH = (0.1 * np.random.default_rng(0).standard_normal(8000)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model as it is pushed: weights, configurations, code, handler."""
    folder = tmp_path_factory.mktemp("pushed")
    tiny_model("shiftcnn", temperature=2.0).save_pretrained(folder)
    ShiftFeatureExtractor().save_pretrained(folder)
    shutil.copy(handler_module.__file__, folder)
    return folder


@pytest.fixture(scope="module")
def port(folder, tmp_path_factory):
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path_factory.mktemp("modules")), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    words = [sys.executable, "-c", ALONE]
    with subprocess.Popen(words, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as server:
        for line in server.stderr:
            if found := re.match(r"http://127\.0\.0\.1:(\d+)$", line):
                break
        yield int(found[1])
        server.kill()


def wav(samples=SPEECH, rate=16000, format="WAV"):
    content = io.BytesIO()
    sf.write(content, samples, rate, format=format)
    return content.getvalue()


def post(port, content, *, kind="audio/wav", **headers):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
        connection.request("POST", "/", body, {"Content-Type": kind, **headers})
        answer = connection.getresponse()
        assert answer.headers["Content-Type"] == "application/json"
        return answer.status, json.loads(answer.read())


def test_answers_are_those_of_the_pipeline(folder, port):
    classify = pipeline(
        "audio-classification", model=str(folder), device="cpu", pipeline_class=ShiftAudioClassificationPipeline
    )
    expected = classify(wav())
    encoded = base64.b64encode(wav()).decode()
    inputs = {"array": SPEECH.tolist(), "sampling_rate": 16000}
    for content, kind, tolerance in (
        (wav(), "audio/wav", 1e-6),
        ({"inputs": encoded}, "application/json", 1e-6),
        ({"inputs": inputs}, "application/json", 1e-3),  # a wav has 16 bits
    ):
        status, answer = post(port, content, kind=kind)
        assert status == 200 and [entry["label"] for entry in answer] == [entry["label"] for entry in expected]
        assert [entry["score"] for entry in answer] == pytest.approx(
            [each["score"] for each in expected], abs=tolerance
        )
    given = {"top_k": 1, "calibrated": True}
    status, answer = post(port, {"inputs": encoded, "parameters": given}, kind="application/json")
    assert status == 200 and answer[0]["score"] == pytest.approx(classify(wav(), **given)[0]["score"], abs=1e-6)
    with ThreadPoolExecutor(8) as threads:
        clips = [wav(SPEECH[: 2000 + 500 * number]) for number in range(8)]
        for clip, (status, answer) in zip(clips, threads.map(lambda clip: post(port, clip), clips), strict=True):
            assert status == 200
            assert answer[0]["score"] == pytest.approx(classify(clip)[0]["score"], abs=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"this is a text file named speech.wav", "must be an audio file"),
        (wav()[:4000], "cut"),
        (wav(np.zeros(0, np.float32)), "at least one sample"),
        ({"inputs": "/etc/passwd"}, "inputs must be a recording's bytes in base64"),
        ({"inputs": "http://127.0.0.1/speech.wav"}, "inputs must be a recording's bytes in base64"),
        ({"inputs": {"path": "/etc/passwd"}}, r"got a dict of \['path'\]"),
        ({"inputs": {"array": [[0.0, 1.0]], "sampling_rate": 16000}}, "inputs must have as array a list of numbers"),
        ({"inputs": {"array": [0.0] * 99, "sampling_rate": "high"}}, "sampling rate that is a number"),
        ({"audio": ""}, "a request must hold inputs"),
        ([1], "a request must hold inputs"),
        ({"inputs": "", "parameters": {"model": "other"}}, "parameters must be some of top_k, .* got 'model'"),
        ({"inputs": "", "parameters": {"top_k": True}}, "top_k must be a whole number of at least 1, got True"),
        ({"inputs": "", "parameters": [1]}, "parameters must be a dict, got list"),
    ],
)
def test_what_is_wrong_with_a_request_is_told_with_status_400(port, content, message):
    kind = "audio/wav" if isinstance(content, bytes) else "application/json"
    status, answer = post(port, content, kind=kind)
    assert status == 400 and re.search(message, answer["error"]), answer


def test_other_formats_rates_and_channels_are_read(port):
    for content in (wav(SPEECH, 8000), wav(SPEECH, 96000), wav(np.stack([SPEECH] * 6, 1)), wav(format="FLAC")):
        assert post(port, content)[0] == 200


def test_what_is_no_request_is_refused(port):
    assert post(port, b"{", kind="application/json")[0] == 400
    status, answer = post(port, b"", **{"Content-Length": str(MAX_BYTES + 1)})
    assert status == 413 and f"at most {MAX_BYTES} bytes" in answer["error"]
    assert post(port, wav())[0] == 200, "the server goes on"


def test_a_recording_that_is_too_long_is_refused(folder, monkeypatch):
    monkeypatch.setattr(handler_module, "MAX_SECONDS", 0.25)
    handler = EndpointHandler(str(folder))
    with pytest.raises(ValueError, match=r"must last at most 0\.25 s"):
        handler({"inputs": wav()})
