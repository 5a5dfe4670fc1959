import dataclasses

import numpy as np
import pytest
import soundfile as sf
from datasets import ClassLabel, Dataset, DatasetInfo, Features, Value
from media_files import KINDS, media

from shift_ser.corpora import CORPORA, check_corpus, corpus_info, find_corpus, load_corpus
from shift_ser.corpora.check import check_dataset, inspect_recording
from shift_ser.corpora.corpus import Corpus, CorpusInfo
from shift_ser.evaluation.run_folder import read_json
from shift_ser.hub.model_card import run_card

MADE_UP = CorpusInfo(name="made-up", title="A made-up corpus", description="Made up: yes, no.", license="cc-by-4.0")


def test_entries_describe_themselves():
    for name, entry in CORPORA.items():
        assert entry.name == name and entry.protocol
        assert all(getattr(entry.info, field) for field in ("title", "description", "language"))
        assert (entry.info.license == "other") == (entry.info.license_name is not None)


def test_a_folder_of_no_corpus_is_told_with_what_it_holds(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"corpus must be a folder, a table .*nothing at .*nowhere"):
        find_corpus(tmp_path / "nowhere")
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"label/file\.wav; .* holds thesis\.txt"):
        load_corpus(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"folder must hold one of aesdd, .*iemocap"):
        check_corpus(None, tmp_path)


def test_options_that_a_reader_would_ignore_are_refused(small_corpus):
    with pytest.raises(ValueError, match="speakers must be left out for Synthetic speech"):
        load_corpus(small_corpus, speakers="unknown")
    with pytest.raises(ValueError, match=r"subset of synthetic must be one of .* got 'all of it'"):
        load_corpus(small_corpus, subset="all of it")


def test_labels_of_a_known_corpus_are_joined_and_left_out(small_corpus):
    whole = load_corpus(small_corpus)
    dataset = load_corpus(small_corpus, labels={"negative": ["angry", "sad"]}, exclude=["neutral"])
    assert dataset.features["label"].names == ["negative", "happy"] and len(dataset) == 30
    assert dataset["utterance"] == [row["utterance"] for row in whole.remove_columns("audio") if row["label"] != 2]
    assert corpus_info(dataset).description.endswith(": negative, happy.") and corpus_info(dataset).synthetic
    with pytest.raises(ValueError, match=r"labels must name what is there \(angry, .*got 'anger'"):
        load_corpus(small_corpus, labels={"cross": ["anger"]})


def test_the_check_finds_the_corpus_or_is_told_it(small_corpus):
    assert str(check_corpus(None, small_corpus)) == str(check_corpus("synthetic", small_corpus))
    with pytest.raises(ValueError, match=r"name must be one of aesdd, .*got 'iemocop'"):
        check_corpus("iemocop", small_corpus)


def test_a_dataset_of_one_s_own_is_described_by_what_it_says():
    features = Features({"label": ClassLabel(names=["calm", "angry"]), "audio": Value("string")})
    dataset = Dataset.from_dict({"label": [0], "audio": ["a.wav"]}, info=DatasetInfo(features=features))
    info = corpus_info(dataset)
    assert (info.name, info.description, info.license, info.language) == (
        "own-data",
        "own-data: calm, angry.",
        None,
        None,
    )
    told = dataclasses.replace(MADE_UP, speakers_known=False)
    dataset = Dataset.from_dict({"label": [0], "audio": ["a.wav"]}, info=told.dataset_info(features, own=True))
    assert corpus_info(dataset.select([0])) == dataclasses.replace(told, title="made-up")


def test_a_made_up_corpus_is_one_entry_from_the_folder_to_the_card(cross_validate, small_corpus, tmp_path, monkeypatch):
    def read(root, **_):
        dataset = CORPORA["synthetic"].read(small_corpus)
        dataset.info.update(MADE_UP.dataset_info(dataset.features))
        return dataset

    entry = Corpus(
        info=MADE_UP, is_here=lambda root: (root / "made_up.txt").exists(), read=read, check=lambda root: None
    )
    monkeypatch.setitem(CORPORA, "made-up", entry)
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "made_up.txt").touch()
    flags = ["--folds", 1, "--num_train_epochs", 1]
    results = cross_validate(tmp_path / "run", *flags, corpus=tmp_path / "made").run()
    assert results["corpus"] == dataclasses.asdict(MADE_UP)
    card = run_card(read_json(tmp_path / "run" / "results.json"), model="me/model")
    assert "A made-up corpus; licence: cc-by-4.0" in card and "license: cc-by-4.0" in card
    assert "iemocap" not in card.lower() and "synthetic" not in card.lower()


def test_a_card_of_a_corpus_without_a_licence_says_so(finished):
    info = CorpusInfo(name="calls", title="calls", description="calls: a, b.", speakers_known=False)
    card = run_card({**finished[1], "corpus": dataclasses.asdict(info)}, model="me/model")
    front, text = card.split("\n---\n", 1)
    assert "license" not in front and "language" not in front and "datasets" not in front
    assert "licence: not stated" in text and "calls: a, b" in text and "**Speakers are not told apart**" in text
    assert "iemocap" not in card.lower()


def test_what_is_wrong_with_a_video_is_told_as_of_a_recording(tmp_path):
    whole, mov = media(*KINDS[".mkv"]), KINDS[".mov"]
    for content, found in (
        (whole, []),
        (whole[: len(whole) // 2], ["cut"]),
        (media(*KINDS[".m4a"])[:5000], ["not audio"]),
        (media(*mov, seconds=400 / 16000), []),
        (media(*mov, seconds=399 / 16000), ["shorter than one frame"]),
    ):
        path = tmp_path / "video"
        path.write_bytes(content)
        assert inspect_recording(path) == found


@pytest.mark.parametrize(
    ("samples", "rate", "channels", "found"),
    [
        (0, 16000, 1, ["empty"]),
        (399, 16000, 1, ["shorter than one frame"]),
        (400, 16000, 1, []),
        (1, 16000, 1, ["shorter than one frame"]),
        (199, 8000, 1, ["shorter than one frame", "another rate"]),
        (200, 8000, 1, ["another rate"]),
        (1199, 48000, 2, ["shorter than one frame", "another rate", "more than one channel"]),
        (1200, 48000, 2, ["another rate", "more than one channel"]),
    ],
)
def test_a_recording_is_long_enough_from_one_frame_on(samples, rate, channels, found, tmp_path):
    sf.write(tmp_path / "a.wav", np.zeros((samples, channels)), rate)
    assert inspect_recording(tmp_path / "a.wav") == found


def test_three_recordings_are_named_and_a_table_without_published_counts_has_none(tmp_path):
    columns = {"utterance": list("abcdefg"), "label": [0, 1, 0, 0, 0, 0, 1]}
    lengths = [399, 399, 399, 399, 0, 0, 0]
    for name, length in zip(columns["utterance"], lengths, strict=True):
        sf.write(tmp_path / f"{name}.wav", np.zeros(length), 16000)
    columns["audio"] = [str(tmp_path / f"{name}.wav") for name in columns["utterance"]]
    rows = Dataset.from_dict(columns).cast_column("label", ClassLabel(names=["sad", "glad"]))
    report = check_dataset(rows, title="own", root=tmp_path)
    assert report.problems == [
        "3 recording(s) empty: e, f, g", "4 recording(s) shorter than one frame: a, b, c, ...",
    ]  # fmt: skip
    lines = [line.split() for line in str(report).splitlines()]
    assert lines[1:3] == [["corpus", "sad", "glad", "used"], ["all", "5", "2", "7"]] and not report.ok
    assert lines[3:5] == [["skipped", "labels:", "none"], ["passed", "over:", "none"]]
