"""The page in a browser: a real file goes in, pictures and labels come out; what is wrong is told; two users at once.

It needs gradio and playwright, which the extra `test` brings, and a Chromium or Chrome of the system.
"""

import asyncio
import shutil
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import tiny_model
from transformers import pipeline

from shift_ser import ShiftAudioClassificationPipeline, ShiftFeatureExtractor
from shift_ser.corpora.synthetic_speech import SENTENCES, Espeak
from shift_ser.inference.app import launch_app, make_app

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = [name for name in ("gradio", "playwright") if find_spec(name) is None] + ["Chromium"] * (CHROMIUM is None)
pytestmark = [
    pytest.mark.filterwarnings("default"),  # those of gradio and what it needs
    pytest.mark.skipif(bool(MISSING), reason=f"a browser and what drives it: {', '.join(MISSING)} not found"),
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

    async def launched():  # where a loop runs, gradio makes none that it never closes
        app = make_app(classifier, title="A page", limits="**Limits.** It knows nothing.", max_seconds=30)
        return app, launch_app(app, max_megabytes=2, block=False)

    app, address = asyncio.run(launched())
    yield address
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


@pytest.fixture(scope="module")
def browser(address):  # the loop of playwright runs in this thread, too: it comes second
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(address, browser):
    """Open the page in a context of its own."""
    pages = []

    def opened(*, width=1000):
        pages.append(browser.new_page(viewport={"width": width, "height": 900}))
        pages[-1].set_default_timeout(120_000)
        pages[-1].goto(address)
        pages[-1].wait_for_selector("#listen")
        return pages[-1]

    yield opened
    for page in pages:
        page.close()


def upload(page, path):
    page.set_input_files("#recording input[type=file]", str(path))


def listen(page, path):
    upload(page, path)
    page.wait_for_selector("#recording input[type=file]", state="detached")  # the file has taken its place
    page.click("#listen")


def test_a_file_goes_in_and_pictures_labels_and_files_come_out(open_page, recordings):
    page = open_page()
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"), [("text.wav", "must be an audio file"), ("cut.wav", "cut"), ("long.flac", "at most 30 s")]
)
def test_what_is_wrong_with_a_file_is_told(open_page, recordings, name, message):
    page = open_page()
    listen(page, recordings / name)
    page.wait_for_selector(TOAST)
    told = page.inner_text(TOAST)
    assert message in told and str(recordings) not in told and "gradio" not in told.lower(), told
    assert page.locator(f"{HEARD} svg").count() == 0


@pytest.mark.slow
def test_a_huge_file_is_refused(open_page, recordings):
    page = open_page()
    upload(page, recordings / "huge.wav")
    page.wait_for_selector(".toast-body.error, .error")
    assert "size" in page.inner_text("body").lower()


@pytest.mark.slow
def test_silence_is_no_emotion(open_page, recordings):
    page = open_page()
    listen(page, recordings / "silence.wav")
    page.wait_for_selector(f"{HEARD} .told")
    assert "Nobody speaks" in page.inner_text(HEARD) and page.locator(f"{HEARD} svg").count() == 0


@pytest.mark.slow
def test_two_users_at_once_get_their_own(open_page, recordings):
    pages = [open_page() for _ in range(2)]  # each in a context of its own
    for page, name in zip(pages, ("dialog.wav", "other.wav"), strict=True):
        listen(page, recordings / name)
    seconds = []
    for page in pages:
        page.wait_for_selector(f"{HEARD} svg.wave")
        seconds.append(float(page.get_attribute(f"{HEARD} .track >> nth=0", "data-seconds")))
    expected = [sf.info(recordings / name).duration for name in ("dialog.wav", "other.wav")]
    assert seconds == pytest.approx(expected, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1400])
def test_nothing_is_wider_than_the_screen(open_page, recordings, width):
    page = open_page(width=width)
    listen(page, recordings / "dialog.wav")
    page.wait_for_selector(f"{HEARD} svg.wave")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
