import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from shift_ser.evaluation.baseline import (
    EGEMAPS,
    MAJORITY,
    STATISTICS,
    baseline_scores,
    egemaps,
    frame_statistics,
    utterance_statistics,
)
from shift_ser.evaluation.metrics import wa_ua_f1

RATE = 16000


def tone(hertz, *, seconds=1.0, level=0.5):
    return level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)


@pytest.mark.parametrize("hertz", [80, 200, 380])
def test_pitch_centroid_and_level_of_a_tone(hertz):
    said = utterance_statistics(tone(hertz), sampling_rate=RATE)
    assert said.shape == (34,) and said[14] == pytest.approx(hertz, rel=0.03)
    assert said[2] == pytest.approx(hertz, abs=30) and said[-2:] == pytest.approx([1.0, 1.0])
    assert said[0] == pytest.approx(np.log(0.125), abs=0.1)
    half = utterance_statistics(tone(hertz, level=0.25), sampling_rate=RATE)
    assert said[0] - half[0] == pytest.approx(np.log(4), abs=1e-6) and half[14] == said[14]
    assert said[1] == pytest.approx(2 * hertz / RATE, rel=0.1)


@pytest.mark.parametrize("samples", [np.zeros(RATE), np.zeros(3), np.ones(50), np.arange(500) % 7 - 3])
def test_any_samples_have_finite_statistics(samples):
    assert np.isfinite(utterance_statistics(samples, sampling_rate=RATE)).all()


def test_frames_are_told_by_mean_and_deviation_in_any_order():
    frames = np.random.default_rng(0).normal(size=(2, 7, 3))
    said = frame_statistics(frames)
    assert said.shape == (12,) and frame_statistics(frames[:, ::-1]) == pytest.approx(said)
    assert said[:3] == pytest.approx(frames[0].mean(axis=0)) and said[-3:] == pytest.approx(frames[1].std(axis=0))


def test_scores_are_those_of_scikit_learn_scaled_on_the_training_part_alone():
    rng = np.random.default_rng(0)
    names, labels = [f"u{i}" for i in range(60)], {f"u{i}": i % 3 for i in range(60)}
    inputs = {name: rng.normal(labels[name], 1.5, size=4) * [1, 10, 100, 1000] for name in names}
    folds = [{"train": names[:40], "test": names[40:]}, {"train": names[20:], "test": names[:20]}]
    majority, told = baseline_scores({"numbers": inputs}, labels=labels, folds=folds)
    expected = []
    for fold in folds:
        train, test = (np.stack([inputs[name] for name in fold[part]]) for part in ("train", "test"))
        scaled = [(part - train.mean(axis=0)) / train.std(axis=0) for part in (train, test)]
        model = LogisticRegression(max_iter=2000).fit(scaled[0], [labels[name] for name in fold["train"]])
        expected.append(wa_ua_f1(model.predict(scaled[1]), references=[labels[name] for name in fold["test"]])["ua"])
    assert told["name"] == "numbers"
    assert told["ua"] == pytest.approx({"mean": np.mean(expected), "std": np.std(expected, ddof=1)})
    assert majority["name"] == MAJORITY and majority["ua"]["mean"] == pytest.approx(1 / 3)
    assert baseline_scores({"numbers": inputs}, labels=labels, folds=folds[:1])[1]["wa"]["std"] is None


def test_baselines_of_labels_and_dimensions_are_told_by_both_models():
    names = [f"u{i}" for i in range(12)]
    inputs = {name: np.array([i % 3, i]) for i, name in enumerate(names)}
    targets = {"labels": {name: i % 2 for i, name in enumerate(names)}}
    targets |= {"values": {name: np.array([float(i)]) for i, name in enumerate(names)}, "dimensions": ["valence"]}
    folds = [{"train": names[:8], "test": names[8:]}]
    for left, expected in (
        (
            "",
            [
                "majority class, mean of the training set",
                "34 utterance statistics, logistic regression, ridge regression",
            ],
        ),
        ("labels", ["mean of the training set", "34 utterance statistics, ridge regression"]),
    ):
        given = {name: value for name, value in targets.items() if name != left}
        rows = baseline_scores({STATISTICS: inputs}, **given, folds=folds)
        assert [row["name"] for row in rows] == expected and all("ccc_valence" in row for row in rows)


def test_egemaps_where_opensmile_is_installed():
    pytest.importorskip("opensmile")
    functionals = egemaps()
    low, high = (functionals(tone(hertz), sampling_rate=RATE) for hertz in (110, 220))
    assert low.shape == (88,) and np.isfinite(low).all()
    assert high[0] - low[0] == pytest.approx(12, abs=0.5)  # mean pitch in semitones: an octave
    inputs = {f"u{i}": (low if i % 2 else high) + i * 1e-3 for i in range(8)}
    labels, names = {f"u{i}": i % 2 for i in range(8)}, [f"u{i}" for i in range(8)]
    rows = baseline_scores({EGEMAPS: inputs}, labels=labels, folds=[{"train": names[:4], "test": names[4:]}])
    assert rows[1]["name"] == EGEMAPS and rows[1]["ua"]["mean"] == 1.0


def test_without_opensmile_there_is_no_egemaps(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert egemaps() is None
