"""The page in a browser: a real file goes in, pictures and labels come out; what is wrong is told; two users at once.

It needs gradio and playwright (`pip install "shift-ser[app]" playwright`) and a Chromium; without them it is skipped.
"""

import shutil
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import tiny_model
from transformers import pipeline

from shift_ser import ShiftAudioClassificationPipeline, ShiftFeatureExtractor
from shift_ser.corpora.synthetic_speech import SENTENCES, Espeak
from shift_ser.inference.app import launch_app, make_app

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
pytest.importorskip("gradio")
sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # those of gradio and what it needs
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
]
LABELS = ["angry", "happy", "neutral", "sad"]
HEARD, TOAST = "#heard .ser", ".toast-body.error"


@pytest.fixture(scope="module")
def address():
    model = tiny_model(
        "shiftcnn", id2label=dict(enumerate(LABELS)), label2id={name: i for i, name in enumerate(LABELS)}
    )
    model.classifier.weight.data *= 20
    classifier = pipeline(
        "audio-classification", model=model, device="cpu", feature_extractor=ShiftFeatureExtractor(), top_k=None,
        pipeline_class=ShiftAudioClassificationPipeline,
    )  # fmt: skip
    app = make_app(classifier, title="A page", limits="**Limits.** It knows nothing.", max_seconds=30)
    yield launch_app(app, max_megabytes=2, block=False)
    app.close()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder, espeak = tmp_path_factory.mktemp("recordings"), Espeak()
    voices = ("en-us+f1", "en-us+m1")
    spoken = [0.3 * espeak.speak(SENTENCES[number], voice=voices[number % 2]) for number in range(3)]
    pause = np.zeros(16000, np.float32)
    sf.write(folder / "dialog.wav", np.concatenate([each for part in spoken for each in (part, pause)]), 16000)
    sf.write(folder / "other.wav", np.concatenate([spoken[2], pause]), 16000)
    sf.write(folder / "silence.wav", np.zeros(32000), 16000)
    sf.write(folder / "long.flac", np.zeros(31 * 16000), 16000)
    sf.write(folder / "huge.wav", np.zeros(2_000_000), 16000)
    (folder / "text.wav").write_text("this is a text")
    (folder / "cut.wav").write_bytes((folder / "other.wav").read_bytes()[:9000])
    return folder


@pytest.fixture
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def open_page(browser, address, *, width=1000):
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(120_000)
    page.goto(address)
    page.wait_for_selector("#listen")
    return page


def upload(page, path):
    page.set_input_files("#recording input[type=file]", str(path))


def listen(page, path):
    upload(page, path)
    page.wait_for_selector("#recording audio", state="attached")  # it is there once the file is
    page.click("#listen")


def test_a_file_goes_in_and_pictures_labels_and_files_come_out(browser, address, recordings):
    page = open_page(browser, address)
    assert "It knows nothing." in page.inner_text("#limits")
    listen(page, recordings / "dialog.wav")
    page.wait_for_selector(f"{HEARD} svg.wave")
    assert page.locator(f"{HEARD} .bar span").count() >= 3
    rows = page.locator(f"{HEARD} tr[data-t]")
    assert rows.count() == page.locator(f"{HEARD} .bar span").count()
    assert rows.first.inner_text().split("\t")[2] in LABELS
    assert page.locator(f"{HEARD} svg.curves path").count() == len(LABELS) + 3
    rows.last.click()
    page.wait_for_function("document.querySelector('#heard audio').currentTime > 1")
    links = [link.get_attribute("href") for link in page.locator("#files a[download], #files a[href]").all()]
    content = {Path(link).suffix: urllib.request.urlopen(link).read() for link in links}
    assert content[".csv"].startswith(b"start,end,label,score") and content[".vtt"].startswith(b"WEBVTT")
    assert b"IntervalTier" in content[".TextGrid"]


@pytest.mark.parametrize(
    ("name", "message"), [("text.wav", "must be an audio file"), ("cut.wav", "cut"), ("long.flac", "at most 30 s")]
)
def test_what_is_wrong_with_a_file_is_told(browser, address, recordings, name, message):
    page = open_page(browser, address)
    upload(page, recordings / name)
    page.wait_for_timeout(3000)
    page.click("#listen")
    page.wait_for_selector(TOAST)
    told = page.inner_text(TOAST)
    assert message in told and str(recordings) not in told and "gradio" not in told.lower(), told
    assert page.locator(f"{HEARD} svg").count() == 0


def test_a_huge_file_is_refused(browser, address, recordings):
    page = open_page(browser, address)
    upload(page, recordings / "huge.wav")
    page.wait_for_selector(".toast-body.error, .error")
    assert "size" in page.inner_text("body").lower()


def test_silence_is_no_emotion(browser, address, recordings):
    page = open_page(browser, address)
    listen(page, recordings / "silence.wav")
    page.wait_for_selector(f"{HEARD} .told")
    assert "Nobody speaks" in page.inner_text(HEARD) and page.locator(f"{HEARD} svg").count() == 0


def test_two_users_at_once_get_their_own(browser, address, recordings):
    pages = [open_page(browser, address) for _ in range(2)]  # each in a context of its own
    for page, name in zip(pages, ("dialog.wav", "other.wav"), strict=True):
        listen(page, recordings / name)
    seconds = []
    for page in pages:
        page.wait_for_selector(f"{HEARD} svg.wave")
        seconds.append(float(page.get_attribute(f"{HEARD} .track >> nth=0", "data-seconds")))
    expected = [sf.info(recordings / name).duration for name in ("dialog.wav", "other.wav")]
    assert seconds == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("width", [400, 1400])
def test_nothing_is_wider_than_the_screen(browser, address, recordings, width):
    page = open_page(browser, address, width=width)
    listen(page, recordings / "dialog.wav")
    page.wait_for_selector(f"{HEARD} svg.wave")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
