import itertools
import json
import logging

import matplotlib.image
import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import softmax

from shift_ser.evaluation.calibration import (
    apply_temperature,
    calibrated_error,
    calibration_error,
    describe,
    fit_temperature,
    negative_log_likelihood,
    probabilities_of,
    reliability_table,
    risk_coverage,
    temperature_of,
)
from shift_ser.evaluation.predictions import Predictions
from shift_ser.evaluation.report import plot_reliability, plot_risk_coverage

LABELS = ["angry", "happy", "neutral", "sad"]


def drawn(num=400, *, sharpness=2.5, seed=0, labels=4):
    """Logits that are too sharp by a known factor: the labels are drawn from what they were before."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (num, labels))
    references = np.array([rng.choice(labels, p=shares) for shares in softmax(logits, axis=1)])
    return sharpness * logits, references


def predictions_of(probabilities, references):
    return Predictions.from_rows(
        {"utterance": f"u{i}", "label": LABELS[reference], "probabilities": dict(zip(LABELS, shares, strict=True))}
        for i, (shares, reference) in enumerate(zip(probabilities.tolist(), references, strict=True))
    )


def loop_error(probabilities, references, num_bins):
    total = 0.0
    for number in range(num_bins):
        confidences, hits = [], []
        for shares, reference in zip(probabilities, references, strict=True):
            top = max(shares)
            if number / num_bins < top <= (number + 1) / num_bins:
                confidences.append(top)
                hits.append(float(list(shares).index(top) == reference))
        if hits:
            gap = abs(sum(hits) / len(hits) - sum(confidences) / len(confidences))
            total += len(hits) / len(references) * gap
    return total


def loop_risks(probabilities, references):
    order = sorted(range(len(references)), key=lambda i: -max(probabilities[i]))
    risks, errors = [], 0
    for answered, i in enumerate(order, start=1):
        errors += int(np.argmax(probabilities[i]) != references[i])
        risks.append(errors / answered)
    return risks


@pytest.mark.parametrize("num_bins", [1, 2, 15, 100])
def test_calibration_error_is_that_of_a_plain_loop(num_bins):
    for seed in range(5):
        logits, references = drawn(101, seed=seed)
        shares = softmax(logits, axis=1)
        error = calibration_error(shares, references=references, num_bins=num_bins)
        assert error == pytest.approx(loop_error(shares, references, num_bins), abs=1e-12)


def test_calibration_error_of_known_cases():
    sure = np.array([[1.0, 0.0]] * 4)
    assert calibration_error(sure, references=np.array([0, 0, 0, 0])) == 0
    assert calibration_error(sure, references=np.array([1, 1, 1, 1])) == 1
    assert calibration_error(np.full((4, 2), 0.5), references=np.array([0, 1, 0, 1])) == 0
    logits, references = drawn(20000, sharpness=1)
    assert calibration_error(softmax(logits, axis=1), references=references) < 0.015  # they are their own truth


def test_reliability_table():
    shares = np.array([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8], [1.0, 0.0]])
    table = reliability_table(shares, references=np.array([0, 1, 1, 0]), num_bins=5)
    assert [entry["count"] for entry in table] == [0, 0, 1, 1, 2]
    assert table[0] == {"lower": 0.0, "upper": 0.2, "count": 0, "confidence": None, "accuracy": None}
    assert (table[4]["confidence"], table[4]["accuracy"]) == (pytest.approx(0.95), 0.5)


def test_the_temperature_that_was_put_in_is_found():
    for sharpness in (0.3, 1.0, 2.5, 8.0):
        logits, references = drawn(20000, sharpness=sharpness)
        assert fit_temperature(logits, references=references) == pytest.approx(sharpness, rel=0.03)


@pytest.mark.parametrize("temperature", [0.051, 0.2, 1.0, 5.0, 19.9])
def test_a_temperature_within_its_bounds_is_that_of_the_formula(temperature):
    logits = np.array([[temperature * np.log(3.0), 0.0]] * 4)  # at it 75 % sure, as many as are right
    assert fit_temperature(logits, references=np.array([0, 0, 1, 0])) == pytest.approx(temperature)


def test_no_temperature_of_a_grid_nor_lbfgs_is_better():
    logits, references = drawn(300)
    fitted = fit_temperature(logits, references=references)
    losses = [negative_log_likelihood(softmax(logits / t, axis=1), references=references)
              for t in (fitted, *np.geomspace(0.05, 20, 500))]  # fmt: skip
    assert losses[0] == pytest.approx(min(losses), abs=1e-12)
    beta = torch.ones(1, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([beta], max_iter=100, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(beta * torch.from_numpy(logits), torch.from_numpy(references))
        value.backward()
        return value

    optimizer.step(loss)
    assert fitted == pytest.approx(1 / beta.item(), rel=1e-4)


def test_probabilities_and_shifted_logits_give_the_same_temperature():
    logits, references = drawn(200)
    fitted = fit_temperature(logits, references=references)
    shares = softmax(logits, axis=1)
    assert fit_temperature(np.log(shares), references=references) == pytest.approx(fitted)
    assert fit_temperature(logits + np.arange(200)[:, None], references=references) == pytest.approx(fitted)
    assert temperature_of(predictions_of(shares, references)) == pytest.approx(fitted)
    np.testing.assert_allclose(apply_temperature(shares, fitted), softmax(logits / fitted, axis=1), atol=1e-12)


def test_sets_that_tell_no_temperature(caplog):
    right, wrong = np.zeros(6, dtype=int), np.ones(6, dtype=int)
    logits = np.tile([3.0, 1.0], (6, 1))
    assert fit_temperature(logits, references=right) == 0.05
    assert fit_temperature(logits, references=wrong) == 20
    assert fit_temperature(logits, references=right, bounds=(0.5, 2)) == 0.5
    bound = "the temperature is at its bound {}: the set it is fitted on tells no better one"
    assert caplog.messages == [bound.format(value) for value in ("0.05", "20", "0.5")]
    caplog.clear()
    assert fit_temperature(np.full((6, 2), 7.0), references=right) == 1  # all the same: nothing to divide
    assert fit_temperature(np.zeros((1, 3)), references=[2]) == 1
    assert not caplog.messages
    hard = predictions_of(np.eye(4)[[0, 0, 1, 0]], [0, 0, 1, 1])  # sure, and once wrong
    assert temperature_of(hard) == 20


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1e3, 1e300])
def test_logits_of_any_size_fit_without_a_warning(scale):
    logits, references = drawn(100)
    assert 0.05 <= fit_temperature(scale * logits, references=references) <= 20


def test_a_temperature_keeps_the_order_of_labels():
    shares = softmax(drawn(50)[0], axis=1)
    for temperature in (0.05, 0.5, 3, 20, np.linspace(0.1, 9, 50)):
        after = apply_temperature(shares, temperature)
        np.testing.assert_allclose(after.sum(axis=1), 1)
        assert (np.argsort(after, axis=1, kind="stable")[:, -1] == shares.argmax(axis=1)).all()
    assert np.isfinite(apply_temperature(np.array([[1.0, 0.0]]), 0.05)).all()


def test_risks_are_those_of_a_plain_loop():
    logits, references = drawn(77)
    shares = softmax(logits, axis=1)
    coverage, risk = risk_coverage(shares, references=references)
    np.testing.assert_allclose(coverage, np.arange(1, 78) / 77)
    np.testing.assert_allclose(risk, loop_risks(shares, references))


def test_equal_confidences_count_with_the_mean_over_their_orders():
    shares = np.array([[0.9, 0.1], [0.7, 0.3], [0.3, 0.7], [0.7, 0.3], [0.6, 0.4]])
    references = np.array([0, 1, 1, 0, 1])
    orders = [[0, *middle, 4] for middle in itertools.permutations([1, 2, 3])]
    expected = np.mean([loop_risks(shares[order], references[order]) for order in orders], axis=0)
    for order in orders:
        np.testing.assert_allclose(risk_coverage(shares[order], references=references[order])[1], expected)


def test_describe_gives_each_number():
    logits, references = drawn(200)
    shares = softmax(logits, axis=1)
    rows = predictions_of(shares, references)
    temperature = temperature_of(rows)
    rows = rows.with_columns(temperature=temperature)
    described = describe(rows)
    after = softmax(logits / temperature, axis=1)
    risks = loop_risks(after, references)
    at, band = described.pop("accuracy_at"), described.pop("ece_calibrated")
    assert described.pop("intervals") == {"nll": None, "brier": None}
    assert 0 < band["mean"] < band["quantile"]
    truth = np.eye(4)[references]
    assert described == pytest.approx(
        {
            "temperature": temperature,
            "ece_before": loop_error(shares, references, 15), "ece_after": loop_error(after, references, 15),
            "nll_before": -np.mean(np.log(shares[np.arange(200), references])),
            "nll_after": -np.mean(np.log(after[np.arange(200), references])),
            "brier_before": np.mean(np.sum((shares - truth) ** 2, axis=1)),
            "brier_after": np.mean(np.sum((after - truth) ** 2, axis=1)),
            "aurc": np.mean(risks),
        }
    )  # fmt: skip
    assert at == pytest.approx({"50%": 1 - risks[99], "80%": 1 - risks[159], "100%": 1 - risks[199]})
    assert described["ece_after"] < described["ece_before"] and described["nll_after"] < described["nll_before"]
    assert json.loads(json.dumps(describe(rows))) == describe(rows)


def test_the_band_is_the_error_of_labels_drawn_from_the_probabilities():
    shares = softmax(drawn(400, sharpness=1)[0], axis=1)
    band = calibrated_error(shares)
    rng = np.random.default_rng(5)
    errors = [loop_error(shares, np.array([rng.choice(4, p=p) for p in shares]), 15) for _ in range(100)]
    assert band["mean"] == pytest.approx(np.mean(errors), abs=4 * np.std(errors) / 10)
    assert band["quantile"] == pytest.approx(np.quantile(errors, 0.95), abs=0.012)


def test_losses_have_the_interval_of_a_t_test_over_speakers():
    logits, references = drawn(80)
    shares = softmax(logits, axis=1)
    said = predictions_of(shares, references).with_columns(speaker=[f"s{i % 8}" for i in range(80)])
    losses = -np.log(shares[np.arange(80), references]).reshape(10, 8).mean(axis=0)
    interval = stats.ttest_1samp(losses, 0).confidence_interval()
    assert describe(said)["intervals"]["nll"] == pytest.approx(tuple(interval))


def test_losses_are_not_below_0_nor_are_their_intervals():
    shares = np.array([[0.999, 0.001]] * 11 + [[0.5, 0.5]])
    rows = [{"utterance": f"u{i}", "label": "angry", "speaker": f"s{i % 6}"} for i in range(12)]
    said = [row | {"probabilities": dict(zip(LABELS, p, strict=False))} for row, p in zip(rows, shares, strict=True)]
    for low, high in describe(Predictions.from_rows(said))["intervals"].values():
        assert low == 0 < high


def test_the_band_has_a_thousand_draws_and_fifteen_bins_unless_others_are_asked_for():
    shares = softmax(drawn(60)[0], axis=1)
    assert calibrated_error(shares) == calibrated_error(shares, num_bins=15, num_draws=1000, seed=0)
    assert calibrated_error(shares) != calibrated_error(shares, seed=1)
    references = np.zeros(60, dtype=int)
    assert reliability_table(shares, references=references) == reliability_table(
        shares, references=references, num_bins=15
    )


def test_describe_without_and_with_several_temperatures():
    logits, references = drawn(200)
    shares = softmax(logits, axis=1)
    said = predictions_of(shares, references)
    described = describe(said)
    assert described["temperature"] is described["ece_after"] is described["nll_after"] is None
    assert describe(said.with_columns(temperature=1.0))["nll_after"] == pytest.approx(described["nll_before"])
    assert describe(said.with_columns(temperature=[2.0] * 199 + [None]))["nll_after"] is None
    several = describe(said.with_columns(temperature=[2.0] * 100 + [4.0] * 100))
    halves = [describe(predictions_of(shares[half], references[half]).with_columns(temperature=temperature))
              for half, temperature in ((slice(100), 2.0), (slice(100, 200), 4.0))]  # fmt: skip
    assert several["temperature"] == [2.0, 4.0]
    assert several["nll_after"] == pytest.approx(np.mean([half["nll_after"] for half in halves]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: probabilities_of(Predictions.from_rows([{"utterance": "u", "label": "sad", "prediction": "sad"}])),
         r"must have probabilities p_<label>, got the columns \['utterance', 'label', 'prediction'\]"),
        (lambda: calibration_error(np.eye(2), references=np.zeros(3)), r"got \(2, 2\) and \(3,\)"),
        (lambda: risk_coverage(np.zeros((0, 4)), references=np.zeros(0)), r"none of them 0, got \(0, 4\) and \(0,\)"),
        (lambda: fit_temperature(np.array([[0.0, np.nan]]), references=[0]), "the top one finite, got .*nan"),
        (lambda: fit_temperature(np.array([[0.0, np.inf]]), references=[0]), "the top one finite, got .*inf"),
        (lambda: fit_temperature(np.eye(2), references=[0, 1], bounds=(0, 2)), r"0 < low < high, got \(0, 2\)"),
        (lambda: fit_temperature(np.eye(2), references=[0, 1], bounds=(2, 2)), r"0 < low < high, got \(2, 2\)"),
        (lambda: fit_temperature(np.eye(2), references=[0, 1], bounds=(1, np.inf)), r"0 < low < high, got \(1, inf\)"),
        (lambda: calibration_error(np.zeros(4), references=np.zeros(4)), r"got \(4,\) and \(4,\)"),
        (lambda: calibration_error(np.zeros((4, 0)), references=np.zeros(4)), r"none of them 0, got \(4, 0\)"),
        (lambda: apply_temperature(np.eye(2), -1.0), "temperature must be finite and above 0, got -1.0"),
        (lambda: apply_temperature(np.eye(2), np.inf), "temperature must be finite and above 0, got inf"),
        (lambda: reliability_table(np.eye(2), references=np.array([0, 1]), num_bins=0), "at least 1, got 0"),
        (lambda: apply_temperature(np.eye(2), 0.0), "temperature must be finite and above 0, got 0.0"),
        (lambda: apply_temperature(np.eye(2), [1.0, np.nan]), "temperature must be finite and above 0"),
    ],
)  # fmt: skip
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_logit_of_minus_infinity_is_a_probability_of_0():
    logits = np.array([[0.0, 1.0, -np.inf], [2.0, 0.0, -np.inf], [0.0, 0.5, -np.inf]])
    two = fit_temperature(logits[:, :2], references=[0, 0, 1])
    assert fit_temperature(logits, references=[0, 0, 1]) == pytest.approx(two)


@pytest.mark.parametrize("temperature", [None, 2.5])
def test_figures_are_drawn(tmp_path, temperature, caplog):
    logits, references = drawn(300)
    said = predictions_of(softmax(logits, axis=1), references).with_columns(temperature=temperature)
    with caplog.at_level(logging.WARNING):
        plot_reliability(tmp_path / "reliability.png", said, title="Reliability")
        plot_risk_coverage(tmp_path / "risk.png", said, title="Risk")
        plot_risk_coverage(tmp_path / "one.png", Predictions(said.table[:1]), title="One utterance")
    for name in ("reliability", "risk", "one"):
        image = matplotlib.image.imread(tmp_path / f"{name}.png")
        assert image.shape[0] > 300 and image[..., :3].std() > 0.05
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "reliability.png", "risk.png"]
