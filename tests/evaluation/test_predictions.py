import csv
import itertools
import os

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix
from test_uncertainty import LABELS, predicted

from shift_ser.evaluation.predictions import Predictions
from shift_ser.evaluation.predictions_report import evaluate_predictions, evaluation_text

PLAIN = {"utterance": "a", "label": "sad", "prediction": "angry"}


def with_probabilities(num=20, **more):
    shares = np.random.default_rng(0).dirichlet(np.ones(4), size=num).tolist()
    return [
        {
            "utterance": f'Ses01F_impro01_"{i},',
            "label": LABELS[i % 4],
            "probabilities": dict(zip(LABELS, p, strict=True)),
        }
        | more
        for i, p in enumerate(shares)
    ]


def test_a_table_comes_back_with_every_digit(tmp_path):
    said = Predictions.from_rows(with_probabilities(speaker="F", session="1", fold=1, seed=7, temperature=1 / 3))
    said.write(tmp_path / "predictions.csv")
    again = Predictions.read(tmp_path / "predictions.csv")
    assert again.table.equals(said.table) and again.rows == said.rows
    with open(tmp_path / "predictions.csv", newline="") as file:
        header = next(csv.reader(file))
    columns = ["utterance", "speaker", "session", "fold", "seed", "label", "prediction", "temperature"]
    assert header == [*columns, "p_angry", "p_happy", "p_neutral", "p_sad"]
    assert os.listdir(tmp_path) == ["predictions.csv"]
    assert said.labels == LABELS and said.predicted.tolist() == said.probabilities.argmax(axis=1).tolist()
    assert said.references.tolist() == [i % 4 for i in range(20)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("utterance,label,prediction\na,sad,angry\n", [PLAIN]),
        ("\ufeffprediction,note,utterance,label\nangry,x,a,sad\n", [PLAIN]),
        ("utterance,label,p_sad,p_angry\nNA,sad,0.25,0.75\n",
         [{**PLAIN, "utterance": "NA", "probabilities": {"sad": 0.25, "angry": 0.75}}]),
        ("utterance,label,prediction,fold,seed\na,sad,angry,dev,3\n", [{**PLAIN, "fold": "dev", "seed": 3}]),
    ],
)  # fmt: skip
def test_files_of_other_programs_are_read(tmp_path, text, expected):
    for name, separator in (("x.csv", ","), ("x.tsv", "\t")):
        (tmp_path / name).write_text(text.replace(",", separator), encoding="utf-8")
        assert Predictions.read(tmp_path / name).rows == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "No columns to parse"),
        ("utterance,label,prediction\n", "at least one utterance, got none"),
        ("utterance,label,guess\na,sad,sad\n",
         r"a prediction or the probabilities p_<label>, or .*, got .* \['utterance', 'label', 'guess'\]"),
        ("file,label,prediction\na,sad,sad\n", r"got the columns \['file', 'label', 'prediction'\]"),
        ("utterance,label,prediction\na,sad,sad\nb,sad\n", "every row must have a prediction, row 2 has none"),
        ("utterance,label,p_sad,p_angry\na,sad,0.5,half\n", "p_angry must hold numbers, got 'half' in row 1"),
        ("utterance,label,p_sad,p_angry\na,sad,0.5,\n", "p_angry must hold a number in every row, row 1 has none"),
        ("utterance,label,p_sad,p_angry\na,sad,2.5,-1.5\n", r"0 or more and sum to 1, got \[2.5, -1.5\] in row 1"),
        ("utterance,label,p_sad,p_angry\na,sad,1.001,-0.001\n", r"0 or more and sum to 1, got \[1.001, -0.001\]"),
        ("utterance,label,p_sad,p_angry\na,sad,nan,1\n", "p_sad must hold a number|0 or more and sum to 1"),
        ("utterance,label,p_sad\na,bored,1\n", r"a column of probabilities, \['sad'\], got 'bored' in row 1"),
        ("utterance,label,prediction\na,sad,sad\na,sad,sad\n", "utterance must name a row, 'a' has several"),
        ("utterance,label,prediction,seed\na,sad,sad,0\na,angry,sad,1\n", "'a' has label 'sad' and 'angry'"),
        ("utterance,label,prediction,seed,speaker\na,sad,sad,0,F\na,sad,sad,1,M\n", "'a' has speaker 'F' and 'M'"),
    ],
)  # fmt: skip
def test_files_that_hold_no_predictions_are_named_with_what_they_hold(tmp_path, text, message):
    (tmp_path / "said.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"said\.csv'.*({message})"):
        Predictions.read(tmp_path / "said.csv")


def test_probabilities_may_be_off_by_a_thousandth_together():
    row = {"utterance": "a", "label": "sad"}
    for off in (0.0009, -0.0009):
        assert len(Predictions.from_rows([row | {"probabilities": {"sad": 0.5 + off, "angry": 0.5}}])) == 1
    for off in (0.0011, -0.0011):
        with pytest.raises(ValueError, match="sum to 1"):
            Predictions.from_rows([row | {"probabilities": {"sad": 0.5 + off, "angry": 0.5}}])


def test_a_temperature_that_one_row_lacks_is_none_and_a_column_that_is_not_there_has_no_count():
    said = Predictions.from_rows(with_probabilities(4)).with_columns(temperature=[2.0, 3.0, 2.0, 2.0])
    assert said.temperature.tolist() == [2, 3, 2, 2] and said.count("temperature") == 2
    assert said.with_columns(temperature=[2.0, None, 2.0, 2.0]).temperature is None
    plain = Predictions.from_rows([PLAIN])
    assert plain.temperature is plain.count("speaker") is plain.probabilities is None
    assert plain.labels == ["angry", "sad"] and plain.dimensions == []


@pytest.mark.parametrize("name", ["value_valence", "target_valence"])
@pytest.mark.parametrize("wrong", [np.inf, np.nan])
def test_values_and_targets_are_finite_and_come_together(name, wrong):
    table = pd.DataFrame({"utterance": ["a", "b", "c"], "value_valence": [1.0, 2, 3], "target_valence": [1.0, 2, 3]})
    with pytest.raises(ValueError, match="every value_valence must have a column target_valence"):
        Predictions(table.drop(columns="target_valence"))
    table.loc[1, name] = wrong
    with pytest.raises(ValueError, match=rf"{name} must (be finite|hold a number in every row).* row 2"):
        Predictions(table)


@pytest.mark.parametrize("there", [*itertools.product([True, False], repeat=4)])
def test_a_table_needs_a_label_with_what_was_said_of_it_or_values_alone(there):
    kinds = [{"label": "sad"}, {"prediction": "sad"}, {"p_sad": 1.0}, {"value_valence": 1.0, "target_valence": 2.0}]
    label, prediction, probability, value = there
    columns = {"utterance": "a"}
    for kind, is_there in zip(kinds, there, strict=True):
        columns |= kind if is_there else {}
    if (label and (prediction or probability)) or (value and not label):
        assert len(Predictions(pd.DataFrame([columns]))) == 1
    else:
        with pytest.raises(ValueError, match="predictions must have an utterance, and"):
            Predictions(pd.DataFrame([columns]))
    with pytest.raises(ValueError, match="predictions must have an utterance, and"):
        Predictions(pd.DataFrame([columns | {"file": "a"}]).drop(columns="utterance"))


def test_no_file_and_tables_that_do_not_go_together(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*said\.csv"):
        Predictions.read(tmp_path / "said.csv")
    with pytest.raises(ValueError, match=r"same columns, got .*'prediction'.* and .*'seed'"):
        Predictions.pooled([Predictions.from_rows([PLAIN]), Predictions.from_rows([{**PLAIN, "seed": 0}])])
    with pytest.raises(ValueError, match="at least one table"):
        Predictions.pooled([])


def test_an_evaluation_of_labels_alone():
    rows = [{name: row[name] for name in PLAIN} for row in predicted(50)]
    evaluated = evaluate_predictions(Predictions.from_rows(rows))
    expected = confusion_matrix(*([row[name] for row in rows] for name in ("label", "prediction")), labels=LABELS)
    np.testing.assert_array_equal(evaluated["confusion"], expected)  # true labels down; it is not symmetric
    assert (expected != expected.T).any() and evaluated["calibration"] is None
    text = evaluation_text(evaluated)
    assert text.startswith("50 utterances, 4 labels, speakers not stated\n")
    assert "No probabilities" in text and f"{100 * evaluated['uncertainty']['ua']['estimate']:.2f}" in text
    first = [cell.strip() for cell in text.splitlines()[-4].strip("|").split("|")]
    assert first == ["angry", *map(str, expected[0]), f"{100 * expected[0, 0] / expected[0].sum():.1f}"]


def test_an_evaluation_of_probabilities_speakers_and_seeds():
    rows = [row for seed in (0, 1) for row in with_probabilities(speaker="F", seed=seed)]
    text = evaluation_text(evaluate_predictions(Predictions.from_rows(rows)))
    assert text.startswith("20 utterances, 4 labels, 1 speakers, 2 rows an utterance\n")
    assert "Calibration error" in text


def test_values_and_targets_are_those_of_the_rows_and_a_probability_may_be_0_or_1(tmp_path):
    rows = [
        {"utterance": f"u{i}", "label": "sad", "prediction": "sad", "probabilities": {"angry": 0.0, "sad": 1.0}}
        | {"values": {"valence": 0.25 * i, "arousal": -i}, "targets": {"valence": 2.0 * i, "arousal": 1.0}}
        for i in range(3)
    ]
    Predictions.from_rows(rows).write(tmp_path / "said.csv")
    said = Predictions.read(tmp_path / "said.csv")
    assert said.dimensions == ["valence", "arousal"] and said.rows == rows
    assert said.values.tolist() == [[0.25 * i, -i] for i in range(3)]
    assert said.targets.tolist() == [[2.0 * i, 1.0] for i in range(3)]
    assert said.probabilities.tolist() == [[0.0, 1.0]] * 3
