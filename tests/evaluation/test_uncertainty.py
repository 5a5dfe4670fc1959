import json
from collections import Counter

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, recall_score

from shift_ser.evaluation import uncertainty
from shift_ser.evaluation.metrics import SCORES
from shift_ser.evaluation.predictions import Predictions
from shift_ser.evaluation.uncertainty import bootstrap_interval, confusion_by, scores

LABELS = ["angry", "happy", "neutral", "sad"]


def predicted(num=120, *, speakers=10, right=0.7, seed=0):
    """Rows whose labels depend on nothing and whose predictions depend on the seed."""
    true, rng = np.random.default_rng(99).integers(4, size=num), np.random.default_rng(seed)
    guess = np.where(rng.random(num) < right, true, rng.integers(4, size=num))
    return [
        {"utterance": f"u{i}", "speaker": f"s{i % speakers}", "label": LABELS[true[i]], "prediction": LABELS[guess[i]]}
        for i in range(num)
    ]


def table(rows):
    """Rows as a table; further rows of an utterance are those of further seeds."""
    seen = Counter()
    seeds = []
    for row in rows:
        seeds.append(seen[row["utterance"]])
        seen[row["utterance"]] += 1
    return Predictions.from_rows([{**row, "seed": seed} for row, seed in zip(rows, seeds, strict=True)])


def describe(rows, **options):
    return uncertainty.describe(table(rows), **options)


def by_sklearn(rows):
    true, guess = ([row[name] for row in rows] for name in ("label", "prediction"))
    macro = {"labels": sorted(set(true)), "average": "macro"}
    return [accuracy_score(true, guess), recall_score(true, guess, **macro), f1_score(true, guess, **macro)]


def by_loop(rows, *, unit, num_resamples, seed):
    """Plain bootstrap of rows with one prediction an utterance, scored by scikit-learn."""
    names = sorted({row[unit] for row in rows})
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(num_resamples):
        drawn = [names[index] for index in rng.integers(len(names), size=len(names))]
        values.append(by_sklearn([row for name in drawn for row in rows if row[unit] == name]))
    return np.array(values)


def test_scores_are_those_of_scikit_learn():
    for seed in range(20):
        rows = predicted(1 + 2 * seed, right=seed / 20, seed=seed)
        counts = confusion_by(table(rows), unit="utterance")[1]
        np.testing.assert_allclose(scores(counts.sum(axis=0)), by_sklearn(rows))
        estimates = describe(rows, num_resamples=5)
        assert [estimates[name]["estimate"] for name in SCORES] == pytest.approx(by_sklearn(rows))


@pytest.mark.parametrize("unit", ["utterance", "speaker"])
def test_intervals_agree_with_a_plain_loop(unit):
    rows = predicted(60, speakers=12)
    values = by_loop(rows, unit=unit, num_resamples=200, seed=1)
    described = describe(rows, num_resamples=4000)
    # 60 utterances: 95 %; 12 speakers: Student's 2.201 and the factor sqrt(12 / 11) make it 97.85 %
    tail = {"utterance": 0.0219, "speaker": 0.01076}[unit]
    for index, name in enumerate(SCORES):
        expected = np.quantile(values[:, index], [tail, 1 - tail])
        assert described[name][f"{unit}s"] == pytest.approx(expected, abs=0.035)


def test_few_speakers_widen_the_interval_by_what_hesterberg_says():
    counts = np.zeros((10, 2, 2))
    counts[:, 0, 0], counts[:, 0, 1] = np.arange(10, 20), np.arange(20, 10, -1)
    low, high = bootstrap_interval(counts, num_resamples=20000)[0]
    share = np.arange(10, 20) / 30
    half = 2.2622 * share.std(ddof=1) / np.sqrt(10)  # Student's interval of the mean, which this one stands for
    assert (low, high) == pytest.approx((share.mean() - half, share.mean() + half), abs=0.006)


def test_the_interval_over_ten_speakers_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = []
    for seed in range(400):
        right = rng.binomial(50, np.clip(rng.normal(0.6, 0.1, size=10), 0, 1))
        counts = np.zeros((10, 2, 2))
        counts[:, 0, 0], counts[:, 0, 1] = right, 50 - right
        low, high = bootstrap_interval(counts, num_resamples=400, seed=seed)[0]
        covered.append(low <= 0.6 <= high)
    assert 0.91 <= np.mean(covered) <= 0.985  # plain percentiles: 0.89


def test_speakers_who_differ_make_their_interval_the_wider_one():
    rows = [row for half, right in ((0, 0.9), (1, 0.4)) for row in predicted(400, right=right)[half::2]]
    wa = describe(rows)["wa"]
    assert np.ptp(wa["speakers"]) > 2 * np.ptp(wa["utterances"])
    assert wa["utterances"][0] < wa["estimate"] < wa["utterances"][1]


def test_seeds_of_an_utterance_are_averaged_and_narrow_nothing():
    rows = predicted()
    once, thrice = describe(rows), describe(rows * 3)
    assert (once["num_seeds"], thrice["num_seeds"], thrice["num_utterances"]) == (1, 3, 120)
    for name in SCORES:
        for kind in ("estimate", "utterances", "speakers"):
            assert thrice[name][kind] == pytest.approx(once[name][kind], abs=1e-12)
    seeds = [predicted(seed=seed) for seed in range(3)]
    wa, ua, _ = np.mean([by_sklearn(rows) for rows in seeds], axis=0)
    together = describe([row for rows in seeds for row in rows])
    assert (together["wa"]["estimate"], together["ua"]["estimate"]) == pytest.approx((wa, ua))


def test_an_utterance_with_fewer_seeds_counts_no_less():
    rows = predicted(4, speakers=2, right=0)
    rows[0]["prediction"] = rows[0]["label"]
    assert describe(rows * 2 + [rows[0]] * 5)["wa"]["estimate"] == pytest.approx(describe(rows)["wa"]["estimate"])


def test_the_same_seed_gives_the_same_json():
    rows = predicted()
    assert json.loads(json.dumps(describe(rows))) == describe(rows)
    assert describe(rows[::-1]) == describe(rows)
    assert describe(rows, seed=1)["wa"] != describe(rows)["wa"]
    assert np.ptp(describe(rows, level=0.5)["ua"]["speakers"]) < np.ptp(describe(rows)["ua"]["speakers"])


def test_one_utterance_has_no_interval_and_perfection_a_point():
    one = describe(predicted(1))
    assert one["wa"]["utterances"] is None and one["f1"]["speakers"] is None
    right = describe(predicted(20, speakers=2, right=1))
    assert right["ua"] == {"estimate": 1.0, "utterances": [1.0, 1.0], "speakers": [1.0, 1.0]}
    assert describe(predicted(20, speakers=1))["wa"]["speakers"] is None


def test_what_is_refused():
    for wrong in ({"level": 1}, {"level": 0}, {"num_resamples": 0}):
        with pytest.raises(ValueError, match="level must be between 0 and 1 and num_resamples above 0, got"):
            describe(predicted(), **wrong)
