import threading

import audmetric
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score
from transformers import EvalPrediction

from shift_ser.evaluation.metrics import SCORES, SpeechEmotionMetric, ccc_rmse, compute_metrics, score_of, wa_ua_f1


def naive_scores(predictions, references) -> dict[str, float]:
    right = sum(p == r for p, r in zip(predictions, references, strict=True))
    recalls, f1 = [], []
    for label in set(references):
        answers = [p for p, r in zip(predictions, references, strict=True) if r == label]
        hits = sum(p == label for p in answers)
        recalls.append(hits / len(answers))
        f1.append(2 * hits / (len(answers) + predictions.count(label)))
    return {"wa": right / len(references), "ua": sum(recalls) / len(recalls), "f1": sum(f1) / len(f1)}


@pytest.mark.parametrize("seed", range(5))
def test_function_and_metric_equal_naive_loop_and_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    references, predictions = np.r_[rng.integers(4, size=40), 0, 1, 2, 3], rng.integers(4, size=44)
    expected = naive_scores(predictions.tolist(), references.tolist())
    assert wa_ua_f1(predictions, references=references) == pytest.approx(expected, abs=1e-12)
    computed = SpeechEmotionMetric().compute(predictions=predictions, references=references)
    assert computed == pytest.approx(expected, abs=1e-12)
    assert computed["wa"] == accuracy_score(references, predictions)
    assert computed["ua"] == pytest.approx(balanced_accuracy_score(references, predictions), abs=1e-12)
    assert computed["f1"] == pytest.approx(f1_score(references, predictions, average="macro"), abs=1e-12)


def test_only_classes_of_the_references_count():
    assert wa_ua_f1([3, 3, 0, 0], references=[0, 0, 0, 1]) == pytest.approx({"wa": 0.25, "ua": 1 / 6, "f1": 0.2})
    assert wa_ua_f1([0, 0], references=[0, 1]) == pytest.approx({"wa": 0.5, "ua": 0.5, "f1": 1 / 3})


@pytest.mark.parametrize(("predictions", "references"), [([], []), ([0], [0, 1]), ([0, 1], [])])
def test_nothing_to_score_is_an_error(predictions, references):
    with pytest.raises(ValueError, match=f"one length above 0, got {len(predictions)} and {len(references)}"):
        wa_ua_f1(predictions, references=references)


def test_metric_collects_batches_and_can_be_used_again():
    metric = SpeechEmotionMetric()
    for _ in range(2):
        metric.add_batch(predictions=[0, 1], references=[0, 0])
        metric.add_batch(predictions=[1], references=[1])
        assert metric.compute() == pytest.approx({"wa": 2 / 3, "ua": 0.75, "f1": 2 / 3})


def test_metric_writes_nothing_and_runs_beside_itself(tmp_path, monkeypatch):
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path / "metrics"))
    metrics = [SpeechEmotionMetric() for _ in range(4)]
    results = {}

    def work(number: int) -> None:
        metrics[number].add_batch(predictions=[number] * 2, references=[0, 1])
        results[number] = metrics[number].compute()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: wa_ua_f1([n] * 2, references=[0, 1]) for n in range(4)}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrap", [lambda logits: logits, lambda logits: (logits, np.zeros(7))])
def test_trainer_metrics_take_the_likeliest_class_of_the_first_output(wrap):
    logits = np.array([[0.1, 0.9], [2.0, -1.0], [0.0, 0.5]], dtype=np.float32)
    scores = compute_metrics(EvalPrediction(predictions=wrap(logits), label_ids=np.array([1, 0, 0])))
    assert scores == pytest.approx({"wa": 2 / 3, "ua": 0.75, "f1": 2 / 3})


@pytest.mark.parametrize("seed", range(3))
def test_scores_of_dimensions_are_those_of_audmetric(seed):
    rng = np.random.default_rng(seed)
    targets = rng.normal(size=(9, 2))
    values = 0.5 * targets + rng.normal(0.3, 0.4, size=(9, 2))
    scores = ccc_rmse(values, targets=targets, dimensions=["valence", "arousal"])
    assert list(scores) == ["ccc", "ccc_valence", "ccc_arousal", "rmse", "rmse_valence", "rmse_arousal"]
    for column, name in enumerate(("valence", "arousal")):
        true, said = targets[:, column], values[:, column]
        assert scores[f"ccc_{name}"] == pytest.approx(audmetric.concordance_cc(true, said), abs=1e-12)
        assert scores[f"rmse_{name}"] == pytest.approx(audmetric.mean_squared_error(true, said) ** 0.5, abs=1e-12)
    for name in ("ccc", "rmse"):
        assert scores[name] == pytest.approx((scores[f"{name}_valence"] + scores[f"{name}_arousal"]) / 2)


def test_dimensions_need_one_shape_and_something_to_score():
    constant = np.ones((3, 1))
    assert ccc_rmse(constant, targets=constant, dimensions=["valence"])["ccc_valence"] == 0
    for values, targets, names in (
        (np.ones((2, 2)), np.ones((2, 2)), ["valence"]),
        (np.ones((2, 1)), np.ones((2, 1)), ["valence", "arousal"]),
        (np.ones((2, 1)), np.ones((3, 1)), ["valence"]),
        (np.ones((0, 1)), np.ones((0, 1)), ["valence"]),
    ):
        with pytest.raises(ValueError, match=r"must have shape \(utterances, \d\), got"):
            ccc_rmse(values, targets=targets, dimensions=names)


def test_scores_of_dimensions_reach_their_bounds_and_are_no_percentages():
    targets = np.array([[1.0], [200.0], [-300.0]])
    best, worst = (ccc_rmse(values, targets=targets, dimensions=["valence"]) for values in (targets, -targets))
    centred = targets - targets.mean()
    against = ccc_rmse(-centred, targets=centred, dimensions=["valence"])
    assert score_of("ccc_valence").high == best["ccc_valence"] == pytest.approx(1)
    assert score_of("ccc_valence").low == pytest.approx(against["ccc_valence"]) == -1
    assert score_of("rmse").low == best["rmse"] == 0 and 1 < worst["rmse"] < score_of("rmse").high
    assert [score_of(name).shown(0.5) for name in ("ua", "ccc", "rmse_valence")] == ["50.00", "0.500", "0.500"]
    assert [score_of(name).greater_is_better for name in ("ua", "ccc", "rmse_valence")] == [True, True, False]
    assert {(score_of(name).low, score_of(name).high) for name in SCORES} == {(0, 1)}


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1e6])
def test_agreement_does_not_depend_on_the_unit_and_the_error_is_in_it(scale):
    targets, values = np.array([[1.0], [2.0], [4.0]]), np.array([[1.5], [1.0], [3.0]])
    here = ccc_rmse(values, targets=targets, dimensions=["valence"])
    there = ccc_rmse(scale * values, targets=scale * targets, dimensions=["valence"])
    assert there == pytest.approx({name: here[name] * (scale if name[0] == "r" else 1) for name in here})


def test_a_difference_of_scores_tells_its_sign():
    assert score_of("ua").shown(0.012, sign=True) == "+1.20" and score_of("ccc").shown(-0.5, sign=True) == "-0.500"
    assert score_of("ua").shown(0.012, digits=1) == "1.2" and score_of("rmse").shown(3.0, digits=1) == "3.00"
