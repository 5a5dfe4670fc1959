import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import command_line

from shift_ser.corpora import CORPORA, corpus_info, load_corpus
from shift_ser.corpora.iemocap import PUBLISHED_EMOTIONS, PUBLISHED_SESSIONS, check_iemocap, load_iemocap

HEADER = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
LABELS = (
    HEADER
    + """[6.2901 - 8.2357]\tSes01F_impro01_M000\tneu\t[2.5000, 2.6667, 1.5000]
C-E2:\tNeutral;\t()
C-E3:\tNeutral; Frustration;\t()
C-F1:\tOther;\t(tired (or bored))
C-E4:\tSadness;\t(no bracket (at the end
A-E3:\tval 3; act 2; dom  2;\t()
A-E4:\tval ; act 1; dom  ;\t()
A-F1:\tval 2; act 3; dom  1;\t(mostly sarcastic, frustration)

[10.0100 - 11.3925]\tSes01F_impro01_F000\txxx\t[2.5000, 2.5000, 2.5000]
C-E2:\tNeutral;\t()

[12.0000 - 14.5000]\tSes01F_impro01_F001\texc\t[4.5000, 3.5000, 3.0000]
C-E2:\tExcited;\t()
"""
)


def rating(rater, emotions, *, comment="", **attributes):
    return {"rater": rater, "emotions": emotions, "comment": comment, **attributes}


def write_labels(root, dialog, text, *, wavs=True):
    session = root / f"Session{int(dialog[3:5])}"
    labels = session / "dialog" / "EmoEvaluation"
    labels.mkdir(parents=True, exist_ok=True)
    (labels / f"{dialog}.txt").write_text(text)
    folder = session / "sentences" / "wav" / dialog
    folder.mkdir(parents=True, exist_ok=True)
    for line in text.splitlines():
        if wavs and line.startswith("[") and line.count("\t") == 3:
            start, end = (float(number) for number in re.findall(r"[\d.]+", line)[:2])
            sf.write(folder / f"{line.split()[3]}.wav", np.zeros(round(16000 * (end - start))), 16000)


@pytest.fixture
def release(tmp_path):
    """A release of one dialog in session 1 and one in session 2, with what real copies have beside."""
    root = tmp_path / "IEMOCAP_full_release"
    write_labels(root, "Ses01F_impro01", LABELS)
    write_labels(root, "Ses02M_script01_1", HEADER + "[1.0 - 2.5]\tSes02M_script01_1_F000\tsad\t[2.0, 1.0, 1.5]\n")
    said = root / "Session1" / "dialog" / "transcriptions" / "Ses01F_impro01.txt"
    said.parent.mkdir()
    said.write_text("Ses01F_impro01_M000 [006.2901-008.2357]: Excuse me.\nM: (LAUGHTER)\n")
    labels = root / "Session1" / "dialog" / "EmoEvaluation"
    (labels / "._Ses01F_impro01.txt").write_bytes(b"\x00\x05\x16\x07[1 - 2]\xff")
    (labels / "Categorical").mkdir()
    (labels / "Categorical" / "Ses01F_impro01_e2_cat.txt").write_text("Ses01F_impro01_F000 :Neutral state; ()\n")
    return root


@pytest.fixture
def broken_corpus(small_corpus, tmp_path):
    """A copy of the small corpus that may be broken, and the recordings that are used, by name."""
    root = tmp_path / "corpus"
    shutil.copytree(small_corpus, root)
    return root, [row["audio"]["path"] for row in load_corpus(root)]


# The loader


def test_every_column_of_an_utterance(release):
    dataset = load_iemocap(release)
    row = dataset[0]
    audio = row.pop("audio")
    assert audio["path"] == str(release / "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M000.wav")
    assert audio["sampling_rate"] == 16000 and audio["array"].shape == (31130,)
    assert row == {
        "label": 2,
        "emotion": "neu",
        "session": 1,
        "speaker": "Ses01M",
        "sex": "male",
        "dialog": "Ses01F_impro01",
        "style": "improvised",
        "utterance": "Ses01F_impro01_M000",
        "start": 6.2901,
        "end": 8.2357,
        "duration": 1.9456,
        "valence": 2.5,
        "arousal": 2.6667,
        "dominance": 1.5,
        "transcript": "Excuse me.",
        "raters": [
            rating("E2", ["Neutral"], valence=None, arousal=None, dominance=None),
            rating("E3", ["Neutral", "Frustration"], valence=3.0, arousal=2.0, dominance=2.0),
            rating("E4", ["Sadness"], comment="no bracket (at the end", valence=None, arousal=1.0, dominance=None),
        ],
        "self_evaluations": [
            rating("F1", ["Other"], comment="tired (or bored)", valence=2.0, arousal=3.0, dominance=1.0)
        ],
        "votes": [  # of three raters from outside, one of whom named two emotions
            {"label": "neutral", "share": 1.5 / 3},
            {"label": "frustrated", "share": 0.5 / 3},
            {"label": "sad", "share": 1 / 3},
        ],
    }


def test_all_rows_and_a_copy_without_transcripts(release, small_corpus):
    dataset = load_iemocap(release, subset="all")
    assert dataset["emotion"] == ["neu", "xxx", "exc", "sad"]
    assert dataset.features["label"].int2str(dataset["label"]) == ["neutral", "no agreement", "excited", "sad"]
    assert dataset["transcript"] == ["Excuse me.", None, None, None]
    assert len(load_corpus(small_corpus, subset="all")) == 80 and "10039" not in CORPORA["synthetic"].subsets["all"]


def test_labels_merge_skip_and_keep_their_order(release):
    dataset = load_iemocap(release)
    assert dataset.features["label"].names == ["angry", "happy", "neutral", "sad"]
    assert dataset.features["label"].int2str(dataset["label"]) == ["neutral", "happy", "sad"]
    assert dataset["emotion"] == ["neu", "exc", "sad"]
    assert dataset["utterance"] == ["Ses01F_impro01_M000", "Ses01F_impro01_F001", "Ses02M_script01_1_F000"]
    assert dataset["speaker"] == ["Ses01M", "Ses01F", "Ses02F"]


def test_windows_line_ends_and_other_encodings_are_read(release):
    path = release / "Session1" / "dialog" / "EmoEvaluation" / "Ses01F_impro01.txt"
    path.write_bytes(LABELS.replace("tired", "café").replace("\n", "\r\n").encode("latin-1"))
    assert load_iemocap(release)[0]["self_evaluations"][0]["comment"] == "caf\ufffd (or bored)"


def test_the_parent_folder_will_do(release):
    assert load_iemocap(release.parent)["utterance"] == load_iemocap(str(release))["utterance"]


def test_absent_sessions_are_logged(release, caplog):
    load_iemocap(release)
    assert "has no utterances of session 3, 4, 5" in caplog.text


def test_a_synthetic_corpus_is_called_synthetic_and_never_iemocap(small_corpus, release):
    assert corpus_info(load_corpus(small_corpus)) == CORPORA["synthetic"].info
    assert corpus_info(load_corpus(release)) == CORPORA["iemocap"].info
    with pytest.raises(ValueError, match=r"root must hold IEMOCAP, but .* holds a synthetic corpus"):
        load_iemocap(small_corpus)
    with pytest.raises(ValueError, match=r"root must hold Synthetic speech .*, but .* holds a release"):
        CORPORA["synthetic"].read(release)


@pytest.mark.parametrize(
    "line",
    [
        "[6.2901 - 8.2357]\tSes01F_impro01_M000\tneu\t[2.5000, 2.5000]",
        "[6.2901 8.2357]\tSes01F_impro01_M000\tneu\t[2.5000, 2.5000, 2.5000]",
        "[6.2901 - 8.2357]\tSes01F_impro01_M000\tneutral\t[2.5000, 2.5000, 2.5000]",
        "6.2901 - 8.2357]\tSes01F_impro01_M000\tneu\t[2.5000, 2.5000, 2.5000]",
        "[6.2901 - 8.2357]",
    ],
)
def test_label_line_that_does_not_parse(release, line):
    write_labels(release, "Ses04F_impro01", HEADER + line + "\n", wavs=False)
    with pytest.raises(ValueError, match="label line must read") as caught:
        load_iemocap(release)
    assert "Ses04F_impro01.txt, line 3: " in str(caught.value) and repr(line) in str(caught.value)


def test_many_bad_lines_are_counted(release):
    write_labels(release, "Ses04F_impro01", "[bad]\n" * 10, wavs=False)
    with pytest.raises(ValueError, match=r"line 3: (.|\n)* and 7 more$"):
        load_iemocap(release)


def test_missing_recordings(release):
    for path in release.glob("Session1/sentences/wav/*/*.wav"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"2 of 3 recordings are missing: .*_M000\.wav.*check_iemocap"):
        load_iemocap(release)


def test_nothing_to_learn_from(tmp_path):
    write_labels(tmp_path, "Ses01F_impro01", HEADER)
    with pytest.raises(ValueError, match="must hold utterances labelled ang, hap, exc, neu, sad, got none"):
        load_iemocap(tmp_path)


@pytest.mark.parametrize("read", [load_iemocap, check_iemocap])
def test_wrong_folder(tmp_path, read):
    expected = r"Session1/dialog/EmoEvaluation/\*\.txt .*"
    with pytest.raises(FileNotFoundError, match=expected + "there is no such folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=expected + "it is empty"):
        read(tmp_path)
    for index in range(9):
        (tmp_path / f"song{index}.mp3").touch()
    with pytest.raises(FileNotFoundError, match=expected + r"it is a file"):
        read(tmp_path / "song0.mp3")
    with pytest.raises(FileNotFoundError, match=expected + r"it holds song0\.mp3, .*, song7\.mp3, \.\.\."):
        read(tmp_path)


# The check


def test_a_good_copy_is_ok_and_its_counts_are_noted(small_corpus):
    report = check_iemocap(small_corpus)
    assert report.ok and "Synthetic" in report.title
    assert {session: counts.total() for session, counts in report.counts.items()} == dict.fromkeys(range(1, 6), 8)
    assert report.skipped == {"fru": 20, "xxx": 20}
    assert report.passed_over["rater folders"] == 15 and report.passed_over["'._' files"] > 80
    assert report.notes == ["the counts are not those of the published task (see the table)"]
    text = str(report)
    assert text.startswith("Synthetic corpus (espeak-ng voices, not IEMOCAP)") and text.endswith("\nok")
    assert "5531" in text and "20 fru" in text


def test_published_counts_agree_with_each_other():
    assert sum(PUBLISHED_EMOTIONS.values()) == sum(PUBLISHED_SESSIONS.values()) == 5531


def test_a_copy_with_the_published_counts_gets_no_note(tmp_path, monkeypatch):
    emotions = [emotion for emotion, count in PUBLISHED_EMOTIONS.items() for _ in range(count)]
    for session, count in PUBLISHED_SESSIONS.items():
        drawn, emotions = emotions[:count], emotions[count:]
        lines = [
            f"[{index}.0 - {index}.9]\tSes0{session}F_impro01_F{index:03d}\t{emotion}\t[1.0, 2.0, 3.0]"
            for index, emotion in enumerate(drawn)
        ]
        write_labels(tmp_path, f"Ses0{session}F_impro01", "\n".join(lines), wavs=False)
    monkeypatch.setattr("shift_ser.corpora.check.inspect_recording", lambda path: [])
    report = check_iemocap(tmp_path)
    assert report.ok and not report.notes and report.title == "IEMOCAP"
    assert str(report).startswith("IEMOCAP in ")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(b"not a recording"), "not audio"),
        (lambda path: path.write_bytes(b""), "not audio"),
        (lambda path: sf.write(path, np.zeros(0), 16000), "empty"),
        (lambda path: sf.write(path, np.zeros(399), 16000), "shorter than one frame"),
        (lambda path: sf.write(path, np.full(800, np.nan), 16000, subtype="FLOAT"), "NaN or infinite"),
        (lambda path: sf.write(path, np.full(800, np.inf), 16000, subtype="FLOAT"), "NaN or infinite"),
    ],
)
def test_broken_recordings_are_problems(broken_corpus, break_it, message):
    root, paths = broken_corpus
    for path in paths[:4]:
        break_it(Path(path))
    names = ", ".join(Path(path).stem for path in paths[:3])
    report = check_iemocap(root)
    assert report.problems == [f"4 recording(s) {message}: {names}, ..."]
    assert not report.ok and f"PROBLEM: 4 recording(s) {message}" in str(report)


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros(8000), 8000, "another rate (is resampled)"),
        (np.zeros((8000, 2)), 16000, "more than one channel (is averaged to mono)"),
        (np.zeros(400), 16000, None),
    ],
)
def test_what_is_treated_on_the_way_is_a_note(broken_corpus, samples, rate, message):
    root, paths = broken_corpus
    sf.write(paths[0], samples, rate)
    report = check_iemocap(root)
    assert len(report.problems) == 1 and "1 recording(s) not as long as their label says" in report.problems[0]
    assert report.notes[:-1] == ([f"1 recording(s) of {message}: Ses01F_impro01_F000"] if message else [])


def test_bad_label_files_are_problems_and_the_rest_is_counted(release):
    write_labels(release, "Ses03F_impro01", LABELS.replace("Ses01", "Ses03") + "\n[1.0 - ]\tSes03F_impro01_F002\n")
    (release / "Session1" / "dialog" / "EmoEvaluation" / "Ses01F_impro02.txt").mkdir()
    report = check_iemocap(release)
    assert len(report.problems) == 3
    assert "Ses01F_impro02.txt must be a label file that can be read" in report.problems[0]
    assert "Ses03F_impro01.txt, line 18: a label line must read" in report.problems[1]
    assert report.problems[2] == "no utterances of session 4, 5: five folds need all five"
    assert report.counts[3] == {"neu": 1, "exc": 1}


def test_command_line(small_corpus, release, tmp_path):
    good, bad, nowhere = (command_line("check", folder) for folder in (small_corpus, release, tmp_path / "nowhere"))
    assert (good.exit_code, bad.exit_code, nowhere.exit_code) == (0, 1, 1)
    assert good.stdout.endswith("\nok\n") and "not ok: 1 problem(s)" in bad.stdout
    assert "there is nothing at" in nowhere.stderr


def test_recordings_that_are_not_as_long_as_their_label_says_are_told(broken_corpus):
    root, paths = broken_corpus
    for path in paths[:20]:
        samples, rate = sf.read(path)
        sf.write(path, samples[: len(samples) // 2], rate)
    report = check_iemocap(root)
    assert not report.ok and report.problems[0].startswith(
        "20 recording(s) not as long as their label says: Ses01F_impro"
    )


def test_named_subsets(release, small_corpus):
    assert load_corpus(release, subset="improvised")["style"] == ["improvised"] * 2
    assert load_corpus(release, subset="scripted")["utterance"] == ["Ses02M_script01_1_F000"]
    excited = load_corpus(release, subset="excited_only")
    assert excited.features["label"].names == ["angry", "excited", "neutral", "sad"] and len(excited) == 3
    six = load_corpus(small_corpus, subset="six_classes")
    assert len(six) == 60 and six.features["label"].names[3] == "happy" and "frustrated" in corpus_info(six).description
    with pytest.raises(ValueError, match="subset must be one of"):
        load_iemocap(release, subset="seven")


@pytest.mark.parametrize("name", ["IEMOCAP", "IEMOCAP_full_release_withoutVideos"])
def test_other_names_of_the_release_s_folder(release, name):
    release.rename(release.with_name(name))
    assert len(load_corpus(release.parent)) == 3
