import os

import matplotlib.image
import pytest

from shift_ser.evaluation.predictions import Predictions
from shift_ser.evaluation.report import plot_confusion
from shift_ser.evaluation.run_folder import fold_folder, read_json, write_json

LABELS = ["angry", "happy", "neutral", "sad"]


def test_folders_of_folds_tell_the_seed_where_there_are_several():
    result = {"fold": 3, "seed": 1}
    assert [fold_folder(result, seeds=seeds) for seeds in (None, [1], [0, 1])] == ["fold3", "fold3", "seed1/fold3"]


def test_json_is_read_back_and_replaces_the_old_file(tmp_path):
    for obj in ({"a": [1, 2.5, None], "ü": "ß"}, {"b": 1}):
        write_json(tmp_path / "results.json", obj)
        assert read_json(tmp_path / "results.json") == obj
    assert os.listdir(tmp_path) == ["results.json"]


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
