import hashlib
import itertools
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

import shift_ser
from shift_ser.corpora import load_corpus
from shift_ser.corpora import synthetic as synthetic_corpus
from shift_ser.corpora import synthetic_speech as espeak
from shift_ser.corpora.synthetic import main, make_synthetic_corpus
from shift_ser.corpora.synthetic_speech import (
    CUE_FLIPPED,
    EMOTION_SIGNS,
    SENTENCES,
    VOICES,
    Espeak,
    Expression,
    add_noise,
    draw_expression,
    say,
    sweep_bump,
)


def digest(root):
    files = sorted(path for path in Path(root).rglob("*") if path.is_file())
    content = b"".join(str(path.relative_to(root)).encode() + path.read_bytes() for path in files)
    return hashlib.sha256(content).hexdigest()


def spectrogram(samples):
    frames = np.lib.stride_tricks.sliding_window_view(samples, 512)[::160] * np.hanning(512)
    return np.abs(np.fft.rfft(frames)) ** 2


def rise(samples):
    """Does energy move up (above 0) or down: what is high a moment later against what is high a moment earlier."""
    edges = 350 * 2 ** np.arange(0, 3.1, 0.25) / 31.25
    bands = np.log([spectrogram(samples)[:, int(a) : int(b)].mean(1) for a, b in itertools.pairwise(edges)])
    bands -= bands.mean(1, keepdims=True)
    bands -= bands.mean(0)
    return (bands[:-2, :-5] * bands[2:, 5:]).mean() - (bands[:-2, 5:] * bands[2:, :-5]).mean()


# The voice


def test_speech_is_the_same_whenever_it_is_asked_for():
    def some():
        synthesiser = Espeak()
        return [synthesiser.speak(text, voice=voice) for text, voice in zip(SENTENCES, VOICES.values(), strict=False)]

    for first, second in zip(some(), some(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_settings_do_what_they_say():
    synthesiser = Espeak()
    slow, fast = (synthesiser.speak(SENTENCES[0], voice="en-us+m1", rate=rate) for rate in (120, 240))
    assert 1.5 < len(slow) / len(fast) < 2.5
    quiet, loud = (synthesiser.speak(SENTENCES[0], voice="en-us+m1", volume=volume) for volume in (50, 100))
    assert 1.5 < loud.std() / quiet.std() < 2.5


@pytest.mark.parametrize("voice", ["en-us+nobody", "xx-nowhere"])
def test_unknown_voice(voice):
    with pytest.raises(ValueError, match=re.escape(f"got '{voice}'")):
        Espeak().speak("Hello.", voice=voice)


@pytest.mark.parametrize(("name", "value"), [("rate", 20), ("pitch", 100), ("pitch_range", -1), ("volume", 201)])
def test_setting_out_of_range(name, value):
    with pytest.raises(ValueError, match=rf"{name} must lie between \d+ and \d+, got {value}"):
        Espeak().speak("Hello.", voice="en-us+f1", **{name: value})


def test_nothing_to_say():
    with pytest.raises(ValueError, match="text must have something to say, got ' '"):
        Espeak().speak(" ", voice="en-us+f1")


def test_without_the_wheel(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ImportError, match=r'pip install "shift-ser\[demo\]"'):
        Espeak()


def test_data_folder_with_a_long_name(monkeypatch):
    monkeypatch.setattr(espeak, "_LONGEST_PATH", 0)
    assert len(Espeak().speak("Hello there.", voice="en-us+f1")) > 4000


def test_data_folder_without_data(monkeypatch, tmp_path):
    monkeypatch.setattr("espeakng_loader.get_data_path", lambda: str(tmp_path))
    with pytest.raises(RuntimeError, match=re.escape(f"could not start with the data folder {tmp_path}")):
        Espeak()


# The recipe


@pytest.mark.parametrize("order_cue", [True, False])
@pytest.mark.parametrize("emotion", ["ang", "exc", "neu", "sad"])
def test_expressions_are_drawn_as_the_recipe_says(emotion, order_cue):
    rng = np.random.default_rng(0)
    drawn = [draw_expression(emotion, order_cue=order_cue, rng=rng) for _ in range(4000)]
    arousal, valence = EMOTION_SIGNS[emotion]
    assert np.mean([one.arousal for one in drawn]) == pytest.approx(arousal, abs=0.05)
    assert np.mean([one.valence for one in drawn]) == pytest.approx(0.3 * valence, abs=0.05)
    assert np.std([one.valence for one in drawn]) == pytest.approx(0.7, abs=0.03)
    against = np.mean([one.sweep == -valence for one in drawn])
    assert against == pytest.approx(CUE_FLIPPED if order_cue else 0.5, abs=0.03)


def test_the_signs_alone_tell_as_much_as_the_documents_say():
    """What whoever reads arousal and valence without error, and no sweep, gets right of the four classes."""
    rng, right = np.random.default_rng(0), []
    for emotion in ("ang", "hap", "neu", "sad"):
        drawn = [draw_expression(emotion, rng=rng) for _ in range(4000)]
        right += [(np.sign(one.arousal), np.sign(one.valence)) == EMOTION_SIGNS[emotion] for one in drawn]
    told = Path(__file__).parents[2].joinpath("docs/trustworthy_numbers.md").read_text(encoding="utf-8")
    (percent,) = re.findall(r"Φ\(1/0\.7\)·Φ\(0\.3/0\.7\) = ([0-9.]+) %", told)
    assert np.mean(right) == pytest.approx(float(percent) / 100, abs=0.01)


def test_bump_without_gain_changes_nothing():
    noise = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    np.testing.assert_allclose(sweep_bump(noise, direction=1, phase=0.3, gain_db=0.0), noise, atol=1e-5)


def test_bump_is_told_by_the_order_and_not_by_the_average():
    noise = np.random.default_rng(0).standard_normal(16000 * 20).astype(np.float32)
    up, down = (sweep_bump(noise, direction=direction, phase=0.0) for direction in (1, -1))
    assert rise(up) > 0.05 and rise(down) < -0.05
    averages = [10 * np.log10(spectrogram(samples).mean(0)) for samples in (noise, up, down)]
    assert np.abs(averages[1] - averages[2])[2:-2].max() < 1.0  # dB
    assert (averages[1] - averages[0])[20:60].min() > 5.0  # dB, inside the three octaves
    assert abs((averages[1] - averages[0])[200:]).max() < 0.1  # dB, above them


def test_bump_needs_a_direction():
    with pytest.raises(ValueError, match=r"direction must be 1 \(up\) or -1 \(down\), got 0"):
        sweep_bump(np.zeros(100, np.float32), direction=0, phase=0.0)


def test_noise_has_its_level():
    rng = np.random.default_rng(0)
    speech = rng.standard_normal(20000).astype(np.float32)
    noise = add_noise(speech, snr_db=20.0, rng=rng) - speech
    assert 20 * np.log10(speech.std() / noise.std()) == pytest.approx(20.0, abs=0.1)


def test_saying_with_arousal_is_faster_and_louder():
    synthesiser, rng = Espeak(), np.random.default_rng(0)
    calm, excited = (
        say(synthesiser, SENTENCES[3], voice="en-us+f4", expression=Expression(arousal, 0.0, 1), rng=rng)
        for arousal in (-1.5, 1.5)
    )
    assert len(calm) > 1.2 * len(excited)
    assert excited.std() > 1.3 * calm.std()
    assert np.abs(excited).max() <= 1.0


# The corpus


def test_labels_and_speakers_are_balanced(small_corpus):
    dataset = load_corpus(small_corpus)
    assert len(dataset) == 40
    assert set(Counter(zip(dataset["speaker"], dataset["label"], strict=True)).values()) == {1}
    assert set(dataset["speaker"]) == set(VOICES)
    assert {"hap", "exc"} <= set(dataset["emotion"])


def test_dialogs_are_like_iemocaps(small_corpus):
    dataset = load_corpus(small_corpus)
    turns = list(zip(dataset["dialog"], dataset["start"], dataset["speaker"], strict=True))
    for dialog, rows in itertools.groupby(turns, key=lambda turn: turn[0]):
        _, starts, speakers = zip(*rows, strict=True)
        assert set(speakers) == {f"{dialog[:5]}F", f"{dialog[:5]}M"}
        assert list(starts) == sorted(starts)
    names = {dialog[5:] for dialog in dataset["dialog"]}
    assert names == {"F_impro01", "F_script01_1", "M_impro01", "M_script01_1"}
    for name in ("valence", "arousal", "dominance"):
        assert all(1 <= value <= 5 for value in dataset[name])


def test_recordings_are_like_iemocaps(small_corpus):
    dataset = load_corpus(small_corpus)
    for row in dataset:
        info = sf.info(row["audio"]["path"])
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        assert info.duration == pytest.approx(row["duration"], abs=2e-4)


def test_utterances_are_those_of_the_first_recipe(small_corpus):
    wavs = sorted(small_corpus.rglob("sentences/wav/*/Ses*.wav"))
    told = {wavs[index].stem: hashlib.sha256(wavs[index].read_bytes()).hexdigest()[:16] for index in (0, 37, 79)}
    assert told == {
        "Ses01F_impro01_F000": "deb5e5d68d95f7d9",
        "Ses03F_script01_1_M000": "668631e3410b0b1c",
        "Ses05M_script01_1_M000": "0bbb2d5a65ce3d09",
    }


def test_a_corpus_of_the_first_recipe_is_taken_and_one_of_another_refused(tmp_path):
    marker = {**dict.fromkeys(("synthetic", "order_cue", "label_cue"), True), "num_utterances": 40, "seed": 0}
    marker |= {"voices": VOICES, "about": "Spoken by espeak-ng voices, not by people: a score on it is no result on"}
    marker["about"] += " emotion."
    for recipe in (1, 3):
        (tmp_path / "synthetic_corpus.json").write_text(json.dumps({**marker, "recipe": recipe}))
        if recipe == 1:
            assert make_synthetic_corpus(tmp_path, num_utterances=40) == tmp_path
    with pytest.raises(FileExistsError, match=r"it has {'recipe': 3}, asked for was {'recipe': 2}"):
        make_synthetic_corpus(tmp_path, num_utterances=40)


def test_dialogs_are_recorded_with_each_utterance_at_its_time(small_corpus):
    dataset = load_corpus(small_corpus, subset="all")
    for row in dataset.filter(lambda dialog: dialog.startswith("Ses02"), input_columns="dialog"):
        dialog, rate = sf.read(small_corpus / "Session2" / "dialog" / "wav" / f"{row['dialog']}.wav", dtype="float32")
        start, speech = round(row["start"] * rate), row["audio"]["array"]
        apart = [np.abs(dialog[start + shift :][: len(speech)] - speech).max() for shift in (-1, 0, 1)]
        assert min(apart) == 0  # times are written with four digits: within a sample
        assert row["transcript"] in SENTENCES
        (own,) = row["self_evaluations"]
        assert own["rater"] == f"{row['speaker'][-1]}1" and own["emotions"] and 1 <= own["valence"] <= 5
        assert [entry["rater"] for entry in row["raters"]] == ["E1", "E2", "E3"]
        assert np.mean([entry["valence"] for entry in row["raters"]]) == pytest.approx(row["valence"], abs=1e-4)


def test_what_iemocap_has_beside(small_corpus):
    labels = small_corpus / "Session3" / "dialog" / "EmoEvaluation"
    for name in ("Attribute", "Categorical", "Self-evaluation"):
        assert any((labels / name).glob("Ses03*"))
    text = (labels / "Ses03M_impro01.txt").read_text()
    assert text.startswith("% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n[")
    assert "\tfru\t" in text and "\txxx\t" in text
    assert (labels / "._Ses03M_impro01.txt").read_bytes().startswith(b"\x00\x05\x16\x07")
    said = (small_corpus / "Session3" / "dialog" / "transcriptions" / "Ses03M_impro01.txt").read_text().splitlines()
    names = re.findall(r"\tSes\w+\t", text)
    for line, name in zip(said, names, strict=True):
        match = re.fullmatch(r"(\w+) \[\d{3}\.\d{4}-\d{3}\.\d{4}\]: (.+)", line)
        assert match and match[1] == name.strip() and match[2] in SENTENCES


def test_corpus_says_that_it_is_synthetic(small_corpus):
    marker = json.loads((small_corpus / "synthetic_corpus.json").read_text())
    assert marker["synthetic"] is True and "not by people" in marker["about"]


def test_corpus_is_the_same_in_a_fresh_process(small_corpus, tmp_path):
    # The package is entered without its __init__: that would import torch, which the corpus does not need.
    code = f"""
import sys, types
package = types.ModuleType("shift_ser")
package.__path__ = [{str(Path(shift_ser.__file__).parent)!r}]
sys.modules["shift_ser"] = package
from shift_ser.corpora.synthetic import make_synthetic_corpus
make_synthetic_corpus({str(tmp_path / "again")!r}, num_utterances=40, seed=0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert digest(tmp_path / "again") == digest(small_corpus)


def test_command_line_makes_the_control(small_corpus, tmp_path, capsys):
    (tmp_path / "control").mkdir()  # an empty folder is a good place
    main([str(tmp_path / "control"), "--num_utterances", "40", "--no_order_cue"])
    assert "synthetic corpus (espeak-ng voices, not people)" in capsys.readouterr().out
    assert json.loads((tmp_path / "control" / "synthetic_corpus.json").read_text())["order_cue"] is False
    assert len(load_corpus(tmp_path / "control")) == 40
    assert digest(tmp_path / "control") != digest(small_corpus)


def test_without_label_cue_each_speaker_sounds_as_often_like_every_label_but_not_where_the_label_is():
    rng = np.random.default_rng(0)
    plain = synthetic_corpus._plan(400, rng)
    permuted = synthetic_corpus._permuted(plain, rng)
    assert {name: [(t.name, t.emotion) for t in turns] for name, turns in permuted.items()} == {
        name: [(t.name, t.emotion) for t in turns] for name, turns in plain.items()
    }
    turns = [turn for dialog in permuted.values() for turn in dialog]
    for speaker in {turn.speaker for turn in turns}:
        own = [turn for turn in turns if turn.speaker == speaker]
        assert sorted(turn.heard for turn in own) == sorted(turn.emotion for turn in own)
    kept = [turn for turn in turns if turn.emotion not in ("fru", "xxx")]
    joined = [
        {"exc": "hap"}.get(turn.heard, turn.heard) == {"exc": "hap"}.get(turn.emotion, turn.emotion) for turn in kept
    ]
    assert 0.15 < np.mean(joined) < 0.35  # chance is one in four


def test_same_corpus_is_used_again(small_corpus, monkeypatch, caplog):
    monkeypatch.setattr(synthetic_corpus, "_write_corpus", None)  # would fail if it were called
    with caplog.at_level("INFO"):
        assert make_synthetic_corpus(small_corpus, num_utterances=40, seed=0) == small_corpus
    assert "is already there and is used as it is" in caplog.text


def test_another_synthetic_corpus_is_kept(small_corpus):
    with pytest.raises(FileExistsError, match=r"it has {'seed': 0}, asked for was {'seed': 1}"):
        make_synthetic_corpus(small_corpus, num_utterances=40, seed=1)


def test_a_folder_with_something_else_is_kept(tmp_path):
    (tmp_path / "thesis.txt").write_text("three years of work")
    with pytest.raises(FileExistsError, match="root must be a new or an empty folder"):
        make_synthetic_corpus(tmp_path)
    with pytest.raises(FileExistsError, match="root must be a new or an empty folder"):
        make_synthetic_corpus(tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "three years of work"


def test_an_interrupted_corpus_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic_corpus, "say", interrupt)
    (tmp_path / "corpus").mkdir()
    with pytest.raises(KeyboardInterrupt):
        make_synthetic_corpus(tmp_path / "corpus")
    assert [path.name for path in tmp_path.rglob("*")] == ["corpus"]


def test_too_few_utterances(tmp_path):
    with pytest.raises(ValueError, match=r"num_utterances must be at least 40 .* got 39"):
        make_synthetic_corpus(tmp_path / "corpus", num_utterances=39)
