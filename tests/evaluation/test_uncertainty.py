import json
from collections import Counter

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, recall_score

from shift_ser.evaluation import uncertainty
from shift_ser.evaluation.metrics import SCORES, agreement_names, ccc_rmse
from shift_ser.evaluation.predictions import Predictions
from shift_ser.evaluation.uncertainty import bootstrap_interval, confusion_by, holm, jackknife, moments_by, scores

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


def test_the_interval_over_utterances_agrees_with_a_plain_loop():
    rows = predicted(60, speakers=12)
    values = by_loop(rows, unit="utterance", num_resamples=400, seed=1)
    described = describe(rows, num_resamples=4000)
    tail = 0.0219  # 60 utterances: Student's 2.001 and the factor sqrt(60 / 59) make 95 % into 95.6 %
    for index, name in enumerate(SCORES):
        expected = np.quantile(values[:, index], [tail, 1 - tail])
        assert described[name]["utterances"] == pytest.approx(expected, abs=0.025)


def test_scores_and_intervals_of_dimensions_are_those_of_plain_loops():
    rng, names = np.random.default_rng(3), ["valence", "arousal"]
    targets = rng.normal(2, 1, size=(60, 2))
    values = targets + rng.normal(0.2, 0.5, size=(2, 60, 2))  # of two seeds
    speakers = np.arange(60) % 7
    told = Predictions.from_rows(
        {"utterance": f"u{i}", "speaker": f"s{speakers[i]}", "seed": seed}
        | {"values": dict(zip(names, values[seed, i], strict=True))}
        | {"targets": dict(zip(names, targets[i], strict=True))}
        for seed in (0, 1)
        for i in range(60)
    )
    described = uncertainty.describe(told, num_resamples=300)

    def plain(kept):
        both = np.concatenate([values[0][kept], values[1][kept]])
        return ccc_rmse(both, targets=np.concatenate([targets[kept]] * 2), dimensions=names)

    left_out = [plain(speakers != number) for number in range(7)]
    drawn = [plain(rng.integers(60, size=60)) for _ in range(300)]
    for name in agreement_names(names):
        of_all, error = plain(slice(None))[name], np.sqrt(6 * np.var([scores[name] for scores in left_out]))
        low, high = of_all + stats.t.ppf([0.025, 0.975], 6) * error
        assert described[name]["estimate"] == pytest.approx(of_all)
        assert described[name]["speakers"] == pytest.approx([low, min(high, 1.0) if name[0] == "c" else high])
        width = np.ptp(np.quantile([scores[name] for scores in drawn], [0.022, 0.978]))
        assert np.ptp(described[name]["utterances"]) == pytest.approx(width, rel=0.3)
    sums = moments_by(told, unit="speaker", centre=np.ones(2))
    assert sums[:, 0].tolist() == [[count] * 2 for count in np.bincount(speakers)], "an utterance counts once"
    x, y = values[:, speakers == 2] - 1, targets[speakers == 2] - 1
    by_hand = [x.mean(0), y, (x * x).mean(0), y * y, (x * y).mean(0)]
    np.testing.assert_allclose(sums[2, 1:], [each.sum(0) for each in by_hand])


def leaving_out(rows, unit):
    """Student's interval of the jackknife, by a plain loop scored by scikit-learn."""
    names = sorted({row[unit] for row in rows})
    values = np.array([by_sklearn([row for row in rows if row[unit] != name]) for name in names])
    error = np.sqrt((len(names) - 1) * values.var(axis=0))
    return by_sklearn(rows) - stats.t.ppf(0.975, len(names) - 1) * error, error


@pytest.mark.parametrize("folds", [None, 5])
def test_the_interval_over_speakers_leaves_out_whole_folds_where_there_are_some(folds):
    rows = predicted(200, speakers=10)
    if folds:
        rows = [{**row, "fold": int(row["speaker"][1:]) % folds} for row in rows]
    described = describe(rows, num_resamples=5)
    low, error = leaving_out(rows, "fold" if folds else "speaker")
    assert (described["unit"], described["num_units"]) == (("fold", 5) if folds else ("speaker", 10))
    for index, name in enumerate(SCORES):
        assert described[name]["speakers"][0] == pytest.approx(low[index])
    counts = confusion_by(table(rows), unit=described["unit"])[1]
    assert jackknife(counts).error == pytest.approx(error) and jackknife(counts).degrees == described["num_units"] - 1


def test_the_jackknife_of_a_mean_is_the_t_test():
    values = np.random.default_rng(0).normal(0.3, 1, 8)
    found = jackknife(np.stack([values, np.ones(8)], axis=1), statistic=lambda sums: sums[..., :1] / sums[..., 1:])
    test = stats.ttest_1samp(values, 0)
    assert found.p()[0] == pytest.approx(test.pvalue)
    assert found.interval(level=0.9)[0] == pytest.approx(tuple(test.confidence_interval(0.9)))
    shift = found.detectable()[0] - found.estimate[0]  # as if this were the truth: seen in about 8 of 10 cases
    drawn = np.random.default_rng(1).normal(found.estimate[0] + shift, values.std(ddof=1), (4000, 8))
    assert np.mean(stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.03)
    still = jackknife(np.array([[0.0, 1.0]] * 4), statistic=lambda sums: sums[..., :1] / sums[..., 1:])
    assert still.p()[0] == 1 and still.interval()[0].tolist() == [0, 0]
    alike = jackknife(np.array([[0.5, 1.0]] * 9), statistic=lambda sums: sums[..., :1] / sums[..., 1:])
    assert alike.p()[0] == stats.binomtest(9, 9).pvalue  # nine of nine signs


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == []


@pytest.mark.parametrize(
    ("drop", "change", "reason"),
    [
        ("speaker", {}, "speakers are not stated"),
        ("", {"speaker": "F"}, "1 speakers, and fewer than 6"),
        ("", {"speaker": lambda row: f"s{int(row['speaker'][1:]) % 5}"}, "5 speakers, and fewer than 6"),
        ("", {"fold": lambda row: int(row["speaker"][1:]) % 2}, "2 folds, whose speakers share a model"),
    ],
)
def test_where_there_is_no_interval_over_speakers_the_reason_is_told(drop, change, reason):
    rows = []
    for row in predicted(60):
        row = row | {name: value(row) if callable(value) else value for name, value in change.items()}
        rows.append({name: value for name, value in row.items() if name != drop})
    described = describe(rows)
    assert described["unit"] is None and described["ua"]["speakers"] is None
    assert reason in described["no_interval"]


def test_folds_that_share_speakers_are_no_unit():
    rows = [{**row, "fold": index % 3} for index, row in enumerate(predicted(60, speakers=10))]
    assert describe(rows)["unit"] == "speaker"


@pytest.mark.parametrize(("folds", "unit", "number"), [(1, "speaker", 6), (3, "fold", 3)])
def test_six_speakers_of_one_fold_or_of_three_are_enough(folds, unit, number):
    rows = [{**row, "fold": int(row["speaker"][1:]) % folds} for row in predicted(60, speakers=6)]
    described = describe(rows, num_resamples=5)
    assert (described["unit"], described["num_units"], described["no_interval"]) == (unit, number, "")


def test_few_speakers_widen_the_interval_by_what_hesterberg_says():
    counts = np.zeros((10, 2, 2))
    counts[:, 0, 0], counts[:, 0, 1] = np.arange(10, 20), np.arange(20, 10, -1)
    low, high = bootstrap_interval(counts, num_resamples=20000)[0]
    share = np.arange(10, 20) / 30
    half = 2.2622 * share.std(ddof=1) / np.sqrt(10)  # Student's interval of the mean, which this one stands for
    assert (low, high) == pytest.approx((share.mean() - half, share.mean() + half), abs=0.006)
    drawn = np.random.default_rng(1).choice(share, size=(20000, 10)).mean(axis=1)
    assert (low, high) == pytest.approx(np.quantile(drawn, [0.00855, 0.99145]), abs=0.002)  # in place of 2.5 and 97.5 %


def test_the_interval_over_ten_speakers_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(1500):
        right = rng.binomial(50, np.clip(rng.normal(0.6, 0.1, size=10), 0, 1))
        counts = np.zeros((10, 2, 2))
        counts[:, 0, 0], counts[:, 0, 1] = right, 50 - right
        low, high = jackknife(counts).interval()[0]
        covered.append(low <= 0.6 <= high)
    assert 0.93 <= np.mean(covered) <= 0.97  # plain percentiles: 0.89


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
    assert describe(rows, seed=1)["ua"] != describe(rows)["ua"]
    assert np.ptp(describe(rows, level=0.5)["ua"]["speakers"]) < np.ptp(describe(rows)["ua"]["speakers"])


def test_the_defaults_are_those_that_are_told():
    rows = predicted(30)
    counts = confusion_by(table(rows), unit="speaker")[1]
    assert describe(rows) == describe(rows, level=0.95, num_resamples=2000, seed=0)
    told = bootstrap_interval(counts, statistic=scores, level=0.95, num_resamples=2000, seed=0)
    np.testing.assert_array_equal(bootstrap_interval(counts), told)
    assert bootstrap_interval(counts[:2]).shape == (3, 2) and bootstrap_interval(counts[:1]) is None


def test_one_utterance_has_no_interval_and_perfection_a_point():
    one = describe(predicted(1))
    assert one["wa"]["utterances"] is None and one["f1"]["speakers"] is None
    right = describe(predicted(24, speakers=6, right=1))
    assert right["ua"] == {"estimate": 1.0, "utterances": [1.0, 1.0], "speakers": [1.0, 1.0]}


def test_what_is_refused():
    for wrong in ({"level": 1}, {"level": 0}, {"num_resamples": 0}):
        with pytest.raises(ValueError, match="level must be between 0 and 1 and num_resamples above 0, got"):
            describe(predicted(), **wrong)
    for level in (0, 1):
        with pytest.raises(ValueError, match=f"level must be between 0 and 1, got {level}"):
            jackknife(confusion_by(table(predicted()), unit="speaker")[1]).interval(level=level)
