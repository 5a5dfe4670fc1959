"""The page of a recording: its waveform, blocks, curves and rows are those of the timeline."""

import colorsys
import re

import numpy as np
import pytest

from shift_ser.inference.app import card_words, make_app
from shift_ser.inference.timeline import Timeline
from shift_ser.inference.timeline_page import COLUMNS, Envelope, colours, timeline_page

LABELS = ["angry", "sad", "<odd> & 'label'"]


def segment(start, end, label, score):
    return {"start": start, "end": end, "label": label, "score": score, "scores": {}}


@pytest.fixture
def found():
    times = np.array([[0.0, 0.5], [0.5, 1.0], [3.0, 3.5]])
    scores = np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    segments = [segment(0.0, 1.0, "angry", 0.75), segment(3.0, 3.5, "sad", 1.0)]
    return Timeline("speech.wav", 4.0, LABELS, segments, times, scores)


@pytest.mark.parametrize("length", [5, 64 * COLUMNS, 900_001])
def test_the_envelope_is_that_of_the_whole_however_it_is_read(length):
    samples, rng = np.random.default_rng(0).standard_normal(length).astype(np.float32), np.random.default_rng(1)
    envelope = Envelope()
    for piece in np.split(samples, np.sort(rng.integers(0, length, 30))):
        envelope.add(piece)
    size = envelope.size
    expected = np.array([np.abs(samples[start : start + size]).max() for start in range(0, length, size)])
    np.testing.assert_allclose(envelope.peaks(), expected / expected.max(), rtol=1e-6)
    assert len(envelope.peaks()) <= 2 * COLUMNS
    assert Envelope().peaks().tolist() == []


def test_what_is_drawn_is_what_was_found(found):
    page = timeline_page(found, np.array([1.0, 0.5, 0.0, 0.25]), source='/file="x".wav')
    blocks = re.findall(r'left:([\d.]+)%;width:([\d.]+)%;background:(#\w+)" title="([^"]*)"', page)
    assert blocks == [
        ("0.000", "25.000", "#d9483b", "angry, 75%, 0:00.0 to 0:01.0"),
        ("75.000", "12.500", "#3f7fd1", "sad, 100%, 0:03.0 to 0:03.5"),
    ]
    assert re.findall(r'<tr data-t="([\d.]+)"', page) == ["0.000", "3.000"]
    assert '<path d="M0.5 2.0V98.0" stroke="#d9483b"' in page, "the loudest column, where anger is heard"
    assert '<path d="M62.50 50.0 L187.50 2.0 M812.50 98.0" stroke="#d9483b"' in page, "broken where nobody speaks"
    assert page.count('data-seconds="4.000"') == 2 and 'src="/file=&quot;x&quot;.wav"' in page
    assert "angry 67%" in page and "of 0:02 spoken" in page
    assert "&lt;odd&gt; &amp; &#x27;label&#x27; 0%" in page and "<odd>" not in page


def test_silence_has_no_emotion(found):
    silent = Timeline("speech.wav", 4.0, LABELS, [], np.zeros((0, 2)), np.zeros((0, 3)))
    page = timeline_page(silent, np.zeros(4), source="x")
    assert "Nobody speaks in this recording" in page and "<svg" not in page and "<audio" in page


def test_colours_differ():
    labels = ["angry", *(f"label {number}" for number in range(6))]
    assert len(set(colours(labels).values())) == 7
    made = [tuple(int(colour[place : place + 2], 16) for place in (1, 3, 5)) for colour in colours("xyz").values()]
    hues = sorted(colorsys.rgb_to_hls(*(part / 255 for part in colour))[0] for colour in made)
    assert hues == pytest.approx([1 / 6, 1 / 2, 5 / 6], abs=0.01)


def test_the_card_tells_the_limits(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text(
        "---\nx: y\n---\n# Title\n\n## Misuse\n\nNot on people.\n\n## Limits\n\nNone.\n\n## End\n"
    )
    assert card_words(str(tmp_path)) == ("Title", "**Misuse.** Not on people.\n\n**Limits.** None.")
    (tmp_path / "README.md").unlink()
    assert card_words(str(tmp_path)) == ("", "")
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    with pytest.raises(ImportError, match=r'a page needs gradio: pip install "shift-ser\[app\]"'):
        make_app(None, title="x")
