"""Targets other than one label: from the corpus to scores, predictions, card, pipeline and `predict`; and bad ones."""

import json

import audmetric
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import command_line
from datasets import ClassLabel, Dataset, Features, Value
from huggingface_hub.errors import StrictDataclassError
from sklearn.utils.class_weight import compute_class_weight
from transformers import pipeline

from shift_ser.corpora import load_corpus
from shift_ser.corpora.votes import read_votes
from shift_ser.evaluation.comparison import compare, sentence
from shift_ser.evaluation.predictions import Predictions
from shift_ser.hub.model_card import run_card
from shift_ser.inference.timeline import timeline
from shift_ser.training.batching import BalancedSampler
from shift_ser.training.targets import Targets

DIMENSIONS = ["valence", "arousal", "dominance"]
FLAGS = {
    "soft_label_classification": ["--other_votes", "true", "--label_smoothing_factor", "0.1"],
    "regression": ["--baseline", "true"],
    "multi_task": ["--class_weights", "balanced", "--focal_gamma", "2", "--balanced_sampling", "true"],
}


@pytest.fixture(scope="module")
def runs(cross_validate, tmp_path_factory):
    """A run of one fold for each kind of target: the run and its results."""
    made = {}
    for problem_type, flags in FLAGS.items():
        words = ("--problem_type", problem_type, "--folds", 1, *flags)
        run = cross_validate(
            tmp_path_factory.mktemp(problem_type) / "out", *words, figures=problem_type == "regression"
        )
        made[problem_type] = (run, run.run())
    return made


@pytest.fixture(scope="module")
def tables(runs):
    return {name: Predictions.read(run.output_dir / "predictions.csv") for name, (run, _) in runs.items()}


@pytest.mark.parametrize("problem_type", ["regression", "multi_task"])
def test_scores_of_dimensions_are_those_of_audmetric(problem_type, runs, tables):
    table = tables[problem_type].table
    test = runs[problem_type][1]["folds"][0]["test"]
    for name in DIMENSIONS:
        said, true = table[f"value_{name}"], table[f"target_{name}"]
        assert test[f"ccc_{name}"] == pytest.approx(audmetric.concordance_cc(true, said), abs=1e-6)
        assert test[f"rmse_{name}"] == pytest.approx(audmetric.mean_squared_error(true, said) ** 0.5, rel=1e-6)
    assert test["ccc"] == pytest.approx(np.mean([test[f"ccc_{name}"] for name in DIMENSIONS]))
    pooled = runs[problem_type][1]["uncertainty"]
    assert pooled["ccc"]["estimate"] == pytest.approx(test["ccc"]) and pooled["ccc"]["utterances"][0] <= test["ccc"]


@pytest.mark.parametrize("problem_type", FLAGS)
def test_predictions_tell_targets_and_values_and_come_back_from_their_file(problem_type, tables, tmp_path):
    said = tables[problem_type]
    said.write(tmp_path / "again.csv")
    pd.testing.assert_frame_equal(Predictions.read(tmp_path / "again.csv").table, said.table)
    pd.testing.assert_frame_equal(Predictions.from_rows(said.rows).table, said.table)
    columns = set(said.table)
    assert ({"label", "prediction", "p_sad"} <= columns) == (problem_type != "regression")
    assert ({"value_valence", "target_valence"} <= columns) == (problem_type != "soft_label_classification")
    assert said.dimensions == ([] if problem_type == "soft_label_classification" else DIMENSIONS)


def test_the_selected_epoch_is_that_of_the_problems_score(runs):
    for problem_type, metric in (("soft_label_classification", "ua"), ("regression", "ccc"), ("multi_task", "ua")):
        (fold,) = runs[problem_type][1]["folds"]
        best = max(entry[f"eval_validation_{metric}"] for entry in fold["history"])
        assert fold["validation"][metric] == best
        assert runs[problem_type][1]["settings"]["selection_metric"] == metric


def test_soft_labels_are_learned_from_votes_and_scored_by_labels(runs, tables):
    run, results = runs["soft_label_classification"]
    assert run.corpus.targets.outputs == ["angry", "happy", "neutral", "sad", "other"]
    table = tables["soft_label_classification"].table
    assert [name for name in table if name.startswith("p_")] == ["p_angry", "p_happy", "p_neutral", "p_sad"]
    name = table["utterance"][0]
    row = run.corpus.dataset[run.corpus.utterances.index(name)]
    votes = [emotion[:3].lower() for rater in row["raters"] for emotion in rater["emotions"]]
    shares = {"angry": "ang", "happy": "hap exc", "neutral": "neu", "sad": "sad"}
    for label, codes in shares.items():
        expected = sum(vote in codes.split() for vote in votes) / len(votes)
        assert table[f"target_{label}"][0] == pytest.approx(expected)
    target = run.corpus.targets.of(name)
    assert target.dtype == np.float32 and target.sum() == pytest.approx(1)
    assert results["calibration"]["temperature"] is not None


@pytest.mark.parametrize("problem_type", FLAGS)
def test_the_pipeline_says_what_the_table_says(problem_type, runs, tables):
    run, _ = runs[problem_type]
    row = tables[problem_type].table.iloc[0]
    wav = next(recording for recording in run.corpus.dataset["audio"] if row["utterance"] in recording["path"])
    classify = pipeline("audio-classification", model=str(run.output_dir / "fold1"), top_k=None)
    told = {entry["label"]: entry["score"] for entry in classify(wav["path"])}
    assert list(told) == DIMENSIONS or problem_type != "regression"
    for name in tables[problem_type].dimensions:
        assert told[name] == pytest.approx(row[f"value_{name}"], abs=1e-3)
    if tables[problem_type].labels:
        total = sum(told[label] for label in tables[problem_type].labels)
        for label in tables[problem_type].labels:  # without `other`
            assert told[label] / total == pytest.approx(row[f"p_{label}"], abs=1e-3)


def test_table_card_and_page_tell_of_dimensions(runs):
    run, results = runs["regression"]
    card, page = run_card(results, model="m"), (run.output_dir / "report.html").read_text()
    assert "CCC valence" in run.table(results) and "mean of the training set" in run.table(results)
    assert "A demonstration" in card and "a value for each of valence, arousal, dominance" in card
    assert "](values.png)" in card and (run.output_dir / "values.png").stat().st_size > 1000
    for text in (run.table(results), page):
        assert "CCC arousal" in text and "Calibration" not in text and "<h2>Confusion" not in text
    assert "UA" not in run.table(results) and "Predicted and true values" in page
    assert results["calibration"] is None and results["folds"][0]["temperature"] is None
    both = runs["multi_task"][0].table(runs["multi_task"][1])
    assert "UA" in both and "CCC arousal" in both and "Calibration" in both


def test_predict_and_timeline_of_dimensions(runs, small_corpus, tmp_path):
    model = runs["regression"][0].output_dir / "fold1"
    wav = next(small_corpus.rglob("wav/*/Ses01*.wav"))
    told = command_line("predict", "--model", model, wav)
    assert told.exit_code == 0 and "valence " in told.output and "no label" not in told.output
    command_line("predict", "--model", model, wav, "--output", tmp_path / "scores.csv")
    (row,) = pd.read_csv(tmp_path / "scores.csv").to_dict("records")
    assert np.isnan(row["label"]) and f"dominance {row['score_dominance']:.3f}" in told.output
    refused = command_line("predict", "--model", model, wav, "--abstain", "0.5")
    assert refused.exit_code != 0 and "has no labels" in (refused.output + str(refused.exception))
    with pytest.raises(ValueError, match="a timeline needs a model of labels, got one that tells valence"):
        timeline(pipeline("audio-classification", model=str(model)), str(wav), voice_activity=False)


def test_finished_runs_are_scored_again_to_the_same(runs):
    run, results = runs["regression"]
    again = run.fold_runs[0].evaluate(run.output_dir / "again" / "predictions.csv")
    assert again["test"] == pytest.approx(results["folds"][0]["test"], abs=1e-5)


def dimension_rows(shift=0.0):
    generator = np.random.default_rng(0)
    true = generator.normal(3, 1, size=(60, 1))
    said = true + generator.normal(0, 0.3 + shift, size=(60, 1))
    return Predictions(
        pd.DataFrame({"value_valence": said[:, 0], "target_valence": true[:, 0]}).assign(
            utterance=[f"u{row}" for row in range(60)], speaker=[f"s{row % 6}" for row in range(60)], fold=1, seed=0
        )
    )


def test_predictions_of_dimensions_are_compared(tmp_path):
    ours, theirs = dimension_rows(), dimension_rows(shift=1.0)
    comparison = compare(ours, theirs)
    values, others = ours.table, theirs.table
    expected = audmetric.concordance_cc(values["target_valence"], values["value_valence"])
    expected -= audmetric.concordance_cc(others["target_valence"], others["value_valence"])
    assert comparison["ccc_valence"]["difference"] == pytest.approx(expected)
    assert "CCC valence above the second" in sentence(comparison, score="ccc_valence")
    ours.write(tmp_path / "ours.csv")
    assert "CCC valence" in command_line("evaluate", tmp_path / "ours.csv").output


def corpus(**columns):
    rows = {"utterance": ["a", "b", "c", "d"], "label": [0, 0, 0, 1], **columns}
    features = {"utterance": Value("string"), "label": ClassLabel(names=["sad", "angry"])}
    features |= {name: Value("float64") for name in DIMENSIONS if name in rows}
    features |= {"votes": Value("string")} if "votes" in rows else {}
    return Dataset.from_dict(rows, features=Features(features))


@pytest.mark.parametrize(
    ("problem_type", "columns", "message"),
    [
        ("regression", {}, "regression must have the column 'valence', the corpus has label, utterance"),
        ("soft_label_classification", {}, "must have the column 'votes', the corpus has label, utterance"),
        ("regression", {"valence": [1.0, None, 2.0, float("nan")]}, "2 of 4 have none: 'b', 'd'"),
        ("multi_task", {"valence": [2.0] * 4}, "valence must not be constant, it is 2 in all 4 rows"),
        ("soft_label_classification", {"votes": ["sad:1"] * 3 + ["fear:1"]}, "1 of 4 do not: 'd'"),
        ("soft_label_classification", {"votes": ["sad:1"] * 3 + ["sad:-1"]}, r"got -1.0 for 'sad' \(utterance 'd'\)"),
    ],
)
def test_bad_targets_are_one_line(problem_type, columns, message):
    with pytest.raises(ValueError, match=message) as error:
        Targets(
            corpus(**columns), problem_type=problem_type, dimensions=["valence"] if problem_type[0] != "s" else None
        )
    assert "\n" not in str(error.value)


def test_a_class_that_a_fold_cannot_learn_is_told_before_anything_is_made(cross_validate, small_corpus, tmp_path):
    rows = load_corpus(small_corpus)
    labels = ["bored" if row < 6 else "calm" if row % 2 else "glad" for row in range(len(rows))]
    frame = {name: rows[name] for name in ("utterance", "speaker", "session", "dialog")}
    frame |= {"audio": rows.data.column("audio").to_pylist(), "label": labels}
    table = pd.DataFrame(frame)
    assert set(table["session"][table["label"] == "bored"]) == {1}
    table.to_csv(tmp_path / "own.csv", index=False)
    for fold in (1, 5):  # session 1 is its test set, and its validation set
        with pytest.raises(
            ValueError, match=rf"that of fold {fold} \(protocol test_blind, test session {fold}\) has no"
        ):
            cross_validate(tmp_path / "out", "--folds", fold, corpus=tmp_path / "own.csv")
    with pytest.raises(ValueError, match="has no 'bored': --exclude bored, or divide"):
        cross_validate(tmp_path / "out", corpus=tmp_path / "own.csv")
    cross_validate(tmp_path / "out", "--folds", 2, 3, 4, corpus=tmp_path / "own.csv")
    cross_validate(tmp_path / "out", "--exclude", "bored", corpus=tmp_path / "own.csv")
    assert not (tmp_path / "out").exists()
    table.assign(votes=[f"{label}:2 bored:1" for label in labels]).to_csv(tmp_path / "voted.csv", index=False)
    cross_validate(tmp_path / "out", "--problem_type", "soft_label_classification", corpus=tmp_path / "voted.csv")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--problem_type", "regression", "--focal_gamma", "1"], "focal_gamma must be left out"),
        (["--problem_type", "regression", "--selection_metric", "wa"], "selection_metric must be one of"),
        (["--selection_metric", "ccc"], "selection_metric must be one of"),
        (["--other_votes", "true"], "other_votes must be left out"),
        (
            ["--problem_type", "multi_task", "--other_votes", "true"],
            "other_votes must be left out with problem_type 'multi_task', which reads no votes",
        ),
        (["--dimensions", "valence"], "dimensions must be left out"),
        (["--focal_gamma", "-1"], "focal_gamma must be at least 0"),
        (["--balanced_sampling", "true", "--max_batch_seconds", "90"], "balanced_sampling must be left out"),
        (["--problem_type", "regression", "--dimensions", "tension"], "must have the column 'tension'"),
    ],
)
def test_options_that_mean_nothing_are_refused(flags, message, cross_validate, tmp_path):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        cross_validate(tmp_path / "out", *flags)


@pytest.mark.parametrize(("number", "told"), [(1, "'u0'$"), (3, "'u0', 'u1', 'u2'$"), (4, "'u0', 'u1', 'u2', ...$")])
def test_three_utterances_at_fault_are_named_and_of_more_that_there_are_more(number, told):
    names, values = [f"u{row}" for row in range(6)], [None] * number + [1.0 * row for row in range(6 - number)]
    votes = ["fear"] * number + ["sad"] * (6 - number)
    rows = corpus(utterance=names, label=[0] * 6, valence=values, votes=votes)
    for problem_type, dimensions in (("regression", ["valence"]), ("soft_label_classification", None)):
        with pytest.raises(ValueError, match=f"{number} of 6 .*: {told}"):
            Targets(rows, problem_type=problem_type, dimensions=dimensions)


def test_dimensions_are_scaled_by_mean_and_deviation_of_the_training_set():
    columns = {"valence": [1.0, 2.0, 4.0, -7.0], "arousal": [0.1, 0.1, 0.1, 9.0]}
    targets = Targets(corpus(**columns), problem_type="multi_task", dimensions=["valence", "arousal"])
    assert Targets(corpus()).scale(["a", "b"]) == {}
    scale = targets.scale(["a", "b", "d"])
    for place, column in enumerate(columns.values()):
        kept = [column[row] for row in (0, 1, 3)]
        assert scale["dimension_means"][place] == pytest.approx(np.mean(kept))
        assert scale["dimension_stds"][place] == pytest.approx(np.std(kept))
    with pytest.raises(
        ValueError, match=r"arousal must not be constant in the training set, it is 0\.1 in all its rows"
    ):
        targets.scale(["a", "b", "c"])  # whose deviation in floating point is not 0
    assert targets.of("d").tolist() == [0, 1, -7, 9] and targets.of("d").dtype == np.float32


def test_class_numbers_of_another_order_are_the_same_labels():
    ours = Targets(corpus(valence=[1.0, 2.0, 3.0, 5.0]), problem_type="multi_task", dimensions=["valence"])
    theirs = ours.with_labels(["angry", "calm", "sad"])
    assert theirs.outputs == ["angry", "calm", "sad", "valence"] and ours.outputs == ["sad", "angry", "valence"]
    assert theirs.names["label2id"] == {"angry": 0, "calm": 1, "sad": 2, "valence": 3}
    for name in ours.class_of:
        assert theirs.labels[theirs.class_of[name]] == ours.labels[ours.class_of[name]]
    assert theirs.absent_from("abcd") == ["calm"] and ours.absent_from("abc") == ["angry"]


@pytest.mark.parametrize("other_votes", [True, False])
def test_other_is_one_class_also_where_a_corpus_has_it(other_votes):
    votes = ["sad:1 fear:1", "other:1 sad:3", "other:2 fear:2 sad:4", "other"]
    rows = corpus(votes=votes).cast_column("label", ClassLabel(names=["other", "sad"]))
    targets = Targets(rows, problem_type="soft_label_classification", other_votes=other_votes)
    assert targets.outputs == ["other", "sad"]
    expected = [0.5, 0.25, 0.5, 1] if other_votes else [0, 0.25, 1 / 3, 1]
    assert [targets.of(name)[0] for name in "abcd"] == pytest.approx(expected)
    added = Targets(corpus(votes=["sad:1 fear:3"] * 4), problem_type="soft_label_classification", other_votes=True)
    assert added.of("a").tolist() == [0.25, 0, 0.75] and added.absent_from("ab") == ["angry"]


def test_fingerprints_tell_any_label_vote_or_value_apart():
    plain = {"votes": ["sad"] * 4, "valence": [1.0, 2.0, 3.0, 4.0]}
    kinds = {None: {"label"}, "soft_label_classification": {"label", "votes"}, "multi_task": {"label", "valence"}}
    changes = {"label": [0, 0, 1, 1], "votes": ["sad"] * 3 + ["sad:1 angry:1"], "valence": [1.0, 2.0, 3.0, 5.0]}
    for kind, read in kinds.items():
        options = {"problem_type": kind, "dimensions": ["valence"] if kind == "multi_task" else None}
        before = Targets(corpus(**plain), **options).fingerprints
        assert before == Targets(corpus(**plain), **options).fingerprints
        assert before.keys() == ({"labels"} if kind is None else {"labels", "targets"})
        for name, column in changes.items():
            assert (Targets(corpus(**plain | {name: column}), **options).fingerprints != before) == (name in read)


def test_class_weights_are_balanced():
    targets = Targets(corpus())
    expected = compute_class_weight("balanced", classes=np.arange(2), y=[0, 0, 0, 1])
    torch.testing.assert_close(targets.class_weights(["a", "b", "c", "d"]), torch.tensor(expected).float())
    with pytest.raises(ValueError, match="it has no 'angry'"):
        targets.class_weights(["a", "b"])
    soft = Targets(corpus(votes=["sad"] * 3 + ["sad:1 angry:1"]), problem_type="soft_label_classification")
    assert soft.class_weights(["c", "d"]).tolist() == pytest.approx([2 / 3, 2.0])


def test_balanced_sampling_depends_on_seed_and_epoch_alone():
    classes = [0] * 300 + [1] * 30
    one, other = BalancedSampler(classes, seed=1), BalancedSampler(classes, seed=1)
    assert list(one) == list(other)
    first = list(one)
    one.set_epoch(3)
    other.set_epoch(3)
    assert list(one) == list(other) != first
    assert 0.4 < np.mean([row >= 300 for row in first]) < 0.6


def test_a_table_tells_votes_and_dimensions_by_its_own_names(small_corpus, tmp_path):
    wavs = sorted(small_corpus.rglob("wav/*/Ses*.wav"))[:6]
    rows = [
        {"file": str(wav), "who": f"s{number % 3}", "v": number, "said": json.dumps({"A": 2, "S": 1, "F": 1})}
        for number, wav in enumerate(wavs)
    ]
    pd.DataFrame(rows).assign(emotion=list("AASSAS")).to_csv(tmp_path / "labels.csv", index=False)
    named = {"audio": "file", "speaker": "who", "valence": "v", "votes": "said", "label": "emotion"}
    found = load_corpus(tmp_path / "labels.csv", columns=named, labels={"angry": ["A"]})
    assert found["valence"] == [0, 1, 2, 3, 4, 5]
    assert {entry["label"]: entry["share"] for entry in found["votes"][0]} == {"angry": 0.5, "S": 0.25, "F": 0.25}
    pd.DataFrame(rows).to_csv(tmp_path / "values.csv", index=False)
    named.pop("label")
    found = load_corpus(tmp_path / "values.csv", columns=named)
    assert "label" not in found.column_names and found.info.description == "values: valence."
    targets = Targets(found, problem_type="regression", dimensions=["valence"])
    assert targets.of("Ses01F_impro01_F000") == np.float32(0)
    with pytest.raises(ValueError, match="must have the column 'label'"):
        Targets(found)


@pytest.mark.parametrize(
    "value",
    [{"angry": 2, "sad": 1, "fear": None}, ["angry", "sad", "angry"], "angry:2 sad:1", "angry; sad; angry",
     '{"angry": 2, "sad": 1}', [{"label": "angry", "share": 2}, {"label": "sad", "share": 1}]],
)  # fmt: skip
def test_votes_are_read_in_every_form(value):
    assert read_votes(value) == {"angry": 2.0, "sad": 1.0}


@pytest.mark.parametrize("value", [3, "angry:x", "{angry", {"angry": float("nan")}, {"angry": -1}])
def test_votes_that_are_none_are_refused(value):
    with pytest.raises(ValueError, match="votes must be"):
        read_votes(value)


def test_votes_that_nobody_cast_are_empty():
    assert read_votes("") == read_votes(None) == read_votes({"sad": 0}) == {}
