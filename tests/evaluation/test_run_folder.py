import json
import os
import zlib

import matplotlib.image
import pytest
from matplotlib.figure import Figure

from shift_ser.evaluation.predictions import Predictions
from shift_ser.evaluation.report import plot_confusion
from shift_ser.evaluation.run_folder import (
    changed_files,
    check_model_files,
    fold_folder,
    json_text,
    main_figure,
    read_json,
    save_figure,
    write_checksums,
    write_json,
)

LABELS = ["angry", "happy", "neutral", "sad"]


def test_folders_of_folds_tell_the_seed_where_there_are_several():
    result = {"fold": 3, "seed": 1}
    assert [fold_folder(result, seeds=seeds) for seeds in (None, [1], [0, 1])] == ["fold3", "fold3", "seed1/fold3"]


def test_json_is_read_back_and_replaces_the_old_file(tmp_path):
    for obj in ({"a": [1, 2.5, None], "ü": "ß"}, {"b": 1}):
        write_json(tmp_path / "results.json", obj)
        assert read_json(tmp_path / "results.json") == obj
    assert os.listdir(tmp_path) == ["results.json"]


def test_json_is_indented_by_two_and_ends_its_last_line():
    assert json_text({"a": [1]}) == '{\n  "a": [\n    1\n  ]\n}\n'


def test_a_run_of_dimensions_alone_shows_their_values():
    told = [main_figure({"summary": {"test": {name: {}, "wa": {}}}}) for name in ("ua", "ccc")]
    assert told == ["confusion.png", "values.png"]


def test_a_figure_has_150_dots_an_inch(tmp_path):
    save_figure(tmp_path / "figure.png", Figure(figsize=(2, 1)))
    assert matplotlib.image.imread(tmp_path / "figure.png").shape[:2] == (150, 300)


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (5 << 19) + 1])
def test_checksums_are_size_and_crc_of_the_whole_file(size, tmp_path):
    content = bytes(range(251)) * (size // 251 + 1)
    (tmp_path / "weights").write_bytes(content[:size])
    write_checksums(tmp_path, ["weights"], coming={"next": [1]})
    noted = json.loads((tmp_path / "checksums.json").read_text())
    assert noted["weights"] == [size, zlib.crc32(content[:size])]
    write_json(tmp_path / "next", [1])
    assert changed_files(tmp_path) == {}


@pytest.mark.parametrize("bad", [{"wa": float("nan")}, {"wa": object()}])
def test_failed_json_leaves_the_old_file(tmp_path, bad):
    write_json(tmp_path / "results.json", {"old": True})
    with pytest.raises((TypeError, ValueError)):
        write_json(tmp_path / "results.json", bad)
    assert read_json(tmp_path / "results.json") == {"old": True}
    assert os.listdir(tmp_path) == ["results.json"]


def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_json(tmp_path / "results.json", {"old": True})

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_json(tmp_path / "results.json", {"new": True})
    assert read_json(tmp_path / "results.json") == {"old": True}
    assert os.listdir(tmp_path) == ["results.json"]


@pytest.fixture
def sealed(tmp_path):
    """A folder of predictions, a model's weights and settings, of which checksums are noted."""
    rows = [{"utterance": f"u{number}", "label": "sad", "prediction": "sad", "speaker": "1"} for number in range(3)]
    Predictions.from_rows(rows).write(tmp_path / "predictions.csv")
    (tmp_path / "model.safetensors").write_bytes(bytes(range(200)))
    write_checksums(tmp_path, ["predictions.csv", "model.safetensors"], coming={"run.json": {"seed": 42}})
    write_json(tmp_path / "run.json", {"seed": 42})
    return tmp_path


def test_files_as_they_were_written_pass(sealed):
    (sealed / "notes.txt").write_text("of which nothing is noted")
    assert changed_files(sealed) == {} and read_json(sealed / "run.json") == {"seed": 42}
    assert len(Predictions.read(sealed / "predictions.csv")) == 3
    check_model_files(sealed)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("predictions.csv", lambda folder: Predictions.read(folder / "predictions.csv")),
        ("run.json", lambda folder: read_json(folder / "run.json")),
        ("model.safetensors", check_model_files),
    ],
)
def test_a_changed_file_is_named_and_how_a_meant_change_is_accepted(sealed, name, read):
    content = (sealed / name).read_bytes()
    for damaged, what in (
        (content.replace(b"2", b"3", 1), "has another checksum than was written"),  # a digit
        (content[:-1], f"it has {len(content) - 1} bytes and was written with {len(content)}"),
    ):
        (sealed / name).write_bytes(damaged)
        assert set(changed_files(sealed)) == {name}
        with pytest.raises(
            ValueError, match=rf"{name}' is damaged or changed: it .*if the change is meant, remove"
        ) as e:
            read(sealed)
        assert what in str(e.value)
    (sealed / "checksums.json").unlink()
    (sealed / name).write_bytes(content.replace(b"2", b"3", 1))
    read(sealed)


def test_a_file_of_the_model_that_is_gone_is_named_and_one_of_the_predictions_is_not_asked_for(sealed):
    (sealed / "predictions.csv").unlink()
    check_model_files(sealed)
    (sealed / "run.json").unlink()
    with pytest.raises(FileNotFoundError):  # what is gone is not damaged
        read_json(sealed / "run.json")
    write_json(sealed / "run.json", {"seed": 42})
    (sealed / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors' is missing"):
        check_model_files(sealed)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"run.json": 3}', '{"run.json": [1, "x"]}', "\udcff"])
def test_damaged_checksums_are_named(sealed, content):
    (sealed / "checksums.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"checksums\.json' is damaged"):
        read_json(sealed / "run.json")


def test_confusion_matrix_is_drawn_with_row_percentages_and_counts(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.text", lambda self, x, y, text, _text=matplotlib.axes.Axes.text, **style: (
            drawn.append((round(y), x, text)), _text(self, x, y, text, **style))[1]
    )  # fmt: skip
    references = ["angry"] * 3 + ["happy"] * 4 + ["sad"]
    predicted = ["angry", "angry", "sad", "happy", "happy", "happy", "angry", "sad"]
    rows = [
        {"utterance": f"u{i}", "label": true, "prediction": guess}
        | {"probabilities": {label: float(label == guess) for label in LABELS}}
        for i, (true, guess) in enumerate(zip(references, predicted, strict=True))
    ]
    plot_confusion(tmp_path / "confusion.png", Predictions.from_rows(rows), title="Title")
    for row, true in enumerate(LABELS):
        answers = [p for r, p in zip(references, predicted, strict=True) if r == true]
        for column, label in enumerate(LABELS):
            count = answers.count(label)
            share = 100 * count / len(answers) if answers else 0
            assert [text for y, x, text in drawn if (y, x) == (row, column)] == [f"{share:.1f}%", str(count)]
    image = matplotlib.image.imread(tmp_path / "confusion.png")
    assert min(image.shape[:2]) > 600 and image.std() > 0.1
    assert os.listdir(tmp_path) == ["confusion.png"]
