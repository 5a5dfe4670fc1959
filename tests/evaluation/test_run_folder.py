import csv
import os

import matplotlib.image
import numpy as np
import pytest

from shift_ser.evaluation.report import plot_confusion
from shift_ser.evaluation.run_folder import (
    fold_folder,
    read_json,
    read_predictions,
    write_json,
    write_predictions,
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


def prediction(utterance: str, probabilities) -> dict:
    named = dict(zip(LABELS, probabilities, strict=True))
    best = max(named, key=named.get)
    row = {"utterance": utterance, "speaker": utterance[:6], "label": "sad", "prediction": best}
    return {**row, "probabilities": named}


def test_predictions_come_back_with_every_digit(tmp_path):
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), size=20)
    rows = [prediction(f'Ses01F_impro01_"{i},', row) for i, row in enumerate(probabilities)]
    write_predictions(tmp_path / "predictions.csv", rows=iter(rows))
    assert read_predictions(tmp_path / "predictions.csv") == rows
    with open(tmp_path / "predictions.csv", newline="") as file:
        header = next(csv.reader(file))
    assert header == ["utterance", "speaker", "label", "prediction", "p_angry", "p_happy", "p_neutral", "p_sad"]


def test_predictions_must_be_there_and_agree_on_the_labels(tmp_path):
    path = tmp_path / "predictions.csv"
    good = prediction("Ses01F_impro01_F000", [0.1, 0.2, 0.3, 0.4])
    write_predictions(path, rows=[good])
    with pytest.raises(ValueError, match="at least one utterance, got none"):
        write_predictions(path, rows=[])
    with pytest.raises(ValueError, match=r"'b' has labels \['sad'\], others have \['angry', 'happy'"):
        write_predictions(path, rows=[good, {**good, "utterance": "b", "probabilities": {"sad": 1.0}}])
    assert read_predictions(path) == [good]
    assert os.listdir(tmp_path) == ["predictions.csv"]


def test_confusion_matrix_is_drawn_with_row_percentages_and_counts(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.text", lambda self, x, y, text, _text=matplotlib.axes.Axes.text, **style: (
            drawn.append((round(y), x, text)), _text(self, x, y, text, **style))[1]
    )  # fmt: skip
    references = ["angry"] * 3 + ["happy"] * 4 + ["sad"]
    predicted = ["angry", "angry", "sad", "happy", "happy", "happy", "angry", "sad"]
    plot_confusion(
        tmp_path / "confusion.png", references=references, predictions=predicted, label_names=LABELS, title="Title"
    )
    for row, true in enumerate(LABELS):
        answers = [p for r, p in zip(references, predicted, strict=True) if r == true]
        for column, label in enumerate(LABELS):
            count = answers.count(label)
            share = 100 * count / len(answers) if answers else 0
            assert [text for y, x, text in drawn if (y, x) == (row, column)] == [f"{share:.1f}%", str(count)]
    image = matplotlib.image.imread(tmp_path / "confusion.png")
    assert min(image.shape[:2]) > 600 and image.std() > 0.1
    assert os.listdir(tmp_path) == ["confusion.png"]
