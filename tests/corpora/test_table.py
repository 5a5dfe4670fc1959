import io
import json

import datasets
import numpy as np
import pytest
import soundfile as sf
from datasets import Audio, ClassLabel, Dataset, DatasetDict

from shift_ser.corpora import corpus_info, load_corpus
from shift_ser.corpora.corpus import SpeechAudio, read_audio
from shift_ser.training.arguments import parse_arguments

LABELS = ["hap", "exc", "ang", "ang", "hap", "ang"]
SPEAKERS = ["ann", "ann", "ann", "bob", "bob", "bob"]
PATHS = [f"{speaker}/{index}.wav" for index, speaker in enumerate(SPEAKERS)]
COLUMNS = {"audio": "path", "label": "emotion", "speaker": "who"}


def tone(index):
    return np.full(1600 + index, index / 100, np.float32)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "my calls"
    for index, path in enumerate(PATHS):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        sf.write(root / path, tone(index), 16000, subtype="FLOAT")
    return root


def rows():
    return [
        {"path": path, "emotion": label, "who": who} for path, label, who in zip(PATHS, LABELS, SPEAKERS, strict=True)
    ]


def write_csv(path, lines=None, delimiter=","):
    lines = lines or [["path", "emotion", "who"], *(list(row.values()) for row in rows())]
    path.write_text("".join(delimiter.join(line) + "\n" for line in lines))
    return path


def check(dataset, *, labels=("ang", "exc", "hap")):
    assert dataset.features["label"].names == list(labels)
    assert dataset["speaker"] == SPEAKERS
    for index, row in enumerate(dataset):
        np.testing.assert_array_equal(row["audio"]["array"], tone(index))
    assert len(set(dataset["utterance"])) == len(dataset) == 6
    return dataset


@pytest.mark.parametrize(
    ("name", "delimiter"), [("t.csv", ","), ("t.csv", ";"), ("t.tsv", "\t"), ("t.jsonl", None), ("t.parquet", None)]
)
def test_a_table_with_relative_paths(folder, name, delimiter, monkeypatch):
    path = folder / name
    if delimiter:
        write_csv(path, delimiter=delimiter)
    elif name.endswith("jsonl"):
        path.write_text("".join(json.dumps(row) + "\n\n" for row in rows()))
    else:
        Dataset.from_list(rows()).to_parquet(path)
    dataset = check(load_corpus(path, columns=COLUMNS))
    assert [dataset.features["label"].int2str(value) for value in dataset["label"]] == LABELS
    info = corpus_info(dataset)
    assert (info.name, info.license, info.description) == ("t", None, "t: ang, exc, hap.")
    monkeypatch.chdir(folder.parent)
    check(load_corpus(f"my calls/{name}", columns=COLUMNS))


def test_a_folder_by_label_with_speakers_from_the_path(tmp_path):
    for index, (label, speaker) in enumerate(zip(LABELS, SPEAKERS, strict=True)):
        path = tmp_path / label / f"{speaker}_{index}.wav"
        path.parent.mkdir(exist_ok=True)
        sf.write(path, tone(index), 16000)
        path.with_name(f"._{path.name}").touch()
    dataset = load_corpus(tmp_path, speaker_regex=r"/(\w+)_\d")
    by_name = dict(zip(dataset["utterance"], dataset["speaker"], strict=True))
    assert by_name == {f"{speaker}_{index}": speaker for index, speaker in enumerate(SPEAKERS)}
    assert dataset.features["label"].names == ["ang", "exc", "hap"]
    named = load_corpus(tmp_path, speaker_regex=r"(?P<x>\w)/(?P<speaker>[a-z]+)")
    assert named["speaker"] == dataset["speaker"]
    with pytest.raises(ValueError, match=r"speaker_regex must match every path, but 'carl' does not match 'ang/ann_2"):
        load_corpus(tmp_path, speaker_regex="carl")
    with pytest.raises(ValueError, match=r"speaker_regex must be a regular expression, got '\('"):
        load_corpus(tmp_path, speaker_regex="(")


def test_a_folder_with_a_metadata_table(folder):
    write_csv(folder / "metadata.csv", [["file_name", "label", "speaker"], *(list(row.values()) for row in rows())])
    check(load_corpus(folder))


def test_datasets_in_memory_on_disk_and_with_audio_inside(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    plain = Dataset.from_list([{**row, "path": str(folder / row["path"])} for row in rows()])
    check(load_corpus(plain, columns=COLUMNS))
    check(load_corpus(plain.cast_column("path", SpeechAudio()), columns=COLUMNS))
    check(load_corpus(plain.cast_column("path", Audio()), columns=COLUMNS))
    inside = [{**row, "path": {"bytes": (folder / row["path"]).read_bytes(), "path": row["path"]}} for row in rows()]
    inside = Dataset.from_list(inside).cast_column("path", Audio(decode=False))
    check(load_corpus(inside, columns=COLUMNS))
    arrays = [{**row, "path": {"array": tone(i), "sampling_rate": 16000}} for i, row in enumerate(rows())]
    check(load_corpus(Dataset.from_list(arrays), columns=COLUMNS))
    plain = plain.cast_column("emotion", ClassLabel(names=["hap", "exc", "ang"]))
    plain.save_to_disk(tmp_path / "saved")
    check(load_corpus(tmp_path / "saved", columns=COLUMNS), labels=["hap", "exc", "ang"])
    parts = DatasetDict({"train": plain.select(range(3)), "test": plain.select(range(3, 6))})
    parts.save_to_disk(tmp_path / "parts")
    whole = check(load_corpus(tmp_path / "parts", columns=COLUMNS), labels=["hap", "exc", "ang"])
    assert whole["split"] == ["train"] * 3 + ["test"] * 3
    with pytest.raises(ValueError, match="split must be one of train, test, got 'dev'"):
        load_corpus(tmp_path / "parts", columns=COLUMNS, split="dev")
    again = load_corpus(whole)
    assert corpus_info(again).name == "parts" and again["utterance"] == whole["utterance"]


def test_labels_are_mapped_and_left_out_as_data(folder):
    table = write_csv(folder / "t.csv")
    dataset = check(load_corpus(table, columns=COLUMNS, labels={"happy": ["hap", "exc"]}), labels=["ang", "happy"])
    assert dataset["label"] == [1, 1, 0, 0, 1, 0]
    fewer = load_corpus(table, columns=COLUMNS, exclude=["exc"])
    assert len(fewer) == 5 and fewer.features["label"].names == ["ang", "hap"]


def test_unknown_speakers_are_said_and_marked(folder):
    table = write_csv(folder / "t.csv", [["audio", "label"], *([row["path"], row["emotion"]] for row in rows())])
    with pytest.raises(ValueError, match="speakers must be known"):
        load_corpus(table)
    dataset = load_corpus(table, speakers="unknown")
    assert dataset["speaker"] == dataset["utterance"] and not corpus_info(dataset).speakers_known
    with pytest.raises(ValueError, match="speakers must be 'unknown' or not said, got 'none'"):
        load_corpus(table, speakers="none")
    with pytest.raises(ValueError, match="speakers 'unknown' must not be said where"):
        load_corpus(write_csv(folder / "u.csv"), columns=COLUMNS, speakers="unknown")


def test_a_table_named_like_a_known_corpus_is_not_it(folder):
    info = corpus_info(load_corpus(write_csv(folder / "iemocap.csv"), columns=COLUMNS))
    assert info.license is None and info.hub_dataset is None and info.labels_note is None


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {}, r"must have a column 'audio', it has path, emotion, who; columns audio=\.\.\. names it"),
        ({}, {"columns": {"audio": "path"}}, "must have a column 'label', it has path"),
        ({}, {"columns": {"sound": "path"}}, "columns must name some of audio, label, .* got 'sound'"),
        ({}, {"columns": {"audio": "wav"}}, r"what is there \(path, emotion, who\), got 'audio=wav'"),
        ({"path": "ann/9.wav"}, {"columns": COLUMNS}, r"1 of 6 recordings are not there: .*ann/9\.wav"),
        ({"path": "ann/0.wav"}, {"columns": COLUMNS}, r"recordings must be there once, .*twice: ann/0\.wav"),
        ({"emotion": ""}, {"columns": COLUMNS}, "1 rows have no label"),
        ({"who": " "}, {"columns": COLUMNS}, "1 rows have no speaker: bob/5.wav"),
        ({}, {"columns": COLUMNS, "exclude": ["bad"]}, r"exclude must name labels that are there \(ang, exc, hap\)"),
        ({}, {"columns": COLUMNS, "exclude": ["ang", "exc"]}, r"at least two labels, got \['hap'\]"),
        ({}, {"columns": COLUMNS, "labels": {"a": ["ang"], "b": ["ang"]}}, "give 'ang' one new label, got 'a' and 'b'"),
        ({}, {"columns": COLUMNS | {"speaker": "emotion"}, "labels": {"x": ["exc"]}, "exclude": ["x"]}, None),
        ({"path": "a,b"}, {"columns": COLUMNS}, r"t\.csv, line 7: a line must fit the header, but it has 4 fields"),
    ],
)  # fmt: skip
def test_bad_tables_are_told_in_a_line(folder, change, options, message):
    lines = [["path", "emotion", "who"], *(list(row.values()) for row in rows())]
    lines[-1] = list({**rows()[-1], **change}.values())
    table = write_csv(folder / "t.csv", lines)
    if message is None:
        assert len(load_corpus(table, **options)) == 5
        return
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        load_corpus(table, **options)
    assert "\n" not in str(caught.value)


def test_one_speaker_and_broken_files_are_refused(folder):
    one = [["path", "emotion", "who"], *([row["path"], row["emotion"], "ann"] for row in rows())]
    with pytest.raises(ValueError, match=r"at least two speakers, one of whom tests, got \['ann'\]"):
        load_corpus(write_csv(folder / "t.csv", one), columns=COLUMNS)
    (folder / "t.jsonl").write_text('{"path": 1}\n[1]\n')
    with pytest.raises(ValueError, match=r"t\.jsonl, line 2: a line must be a JSON object, got '\[1\]'"):
        load_corpus(folder / "t.jsonl")
    (folder / "t.parquet").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"t\.parquet must be a table that can be read"):
        load_corpus(folder / "t.parquet")
    with pytest.raises(ValueError, match="must hold a row at least"):
        load_corpus(write_csv(folder / "empty.csv", [["path"]]))
    with pytest.raises(ValueError, match="audio must be a path, bytes, or an array"):
        load_corpus(Dataset.from_list([{"audio": 3, "label": "x"}]))


def test_a_data_set_made_by_a_loading_script_is_one_line(tmp_path):
    folder = tmp_path / "mine"
    (folder / "audio").mkdir(parents=True)
    sf.write(folder / "audio" / "a.wav", np.zeros(100), 16000)
    (folder / "mine.py").write_text("import datasets\n\nclass Mine(datasets.GeneratorBasedBuilder):\n    pass\n")
    with pytest.raises(ValueError, match=r"not a loading script, .* or write a table .*, got mine\.py$") as error:
        load_corpus(folder)
    assert "\n" not in str(error.value)
    with pytest.raises(RuntimeError, match="scripts are no longer supported"):  # what is told of one on the Hub
        datasets.load_dataset(str(folder))


def test_a_data_set_of_the_hub_while_the_hub_is_out_of_reach_is_one_line():
    with pytest.raises(
        (ConnectionError, FileNotFoundError), match="'nobody/nothing' is not a file or folder here"
    ) as c:
        load_corpus("nobody/nothing")
    assert "\n" not in str(c.value)


def test_the_command_line_s_words(folder):
    words = "--columns audio=path label=emotion speaker=who --labels happy=hap,exc angry=ang --exclude neu"
    data_args = parse_arguments(words.split())[1]
    options = data_args.corpus_options()
    assert options["columns"] == COLUMNS and options["exclude"] == ["neu"]
    assert options["labels"] == {"happy": ["hap", "exc"], "angry": ["ang"]}
    with pytest.raises(ValueError, match="labels must read name=value, each name once, got 'happy'"):
        parse_arguments(["--labels", "happy"])[1].corpus_options()


def test_what_is_read_from_bytes_keeps_its_samples(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    file = io.BytesIO()
    sf.write(file, tone(3), 8000, format="WAV")
    parts = [{"audio": {"bytes": file.getvalue(), "path": None}, "label": label, "speaker": label} for label in "ab"]
    with pytest.raises(ValueError, match="recordings must be there once"):
        load_corpus(Dataset.from_list(parts))
    assert len(read_audio(next((tmp_path / "cache").rglob("*.wav")))) == pytest.approx(2 * len(tone(3)), abs=2)
