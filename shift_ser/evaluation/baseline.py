"""What a run is held against: majority class or mean, and linear models on features that know no order of frames."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any

import numpy as np
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from .metrics import ccc_rmse, wa_ua_f1

MAJORITY = "majority class"
MEAN = "mean of the training set"
_LOGISTIC, _SVM, _RIDGE = "logistic regression", "linear SVM", "ridge regression"
STATISTICS = "34 utterance statistics, logistic regression"
FRAMES = "means and deviations of the encoder's frames, logistic regression"
EGEMAPS = "88 eGeMAPS functionals of openSMILE, linear SVM"
_WINDOW, _HOP = 0.025, 0.010  # seconds
_BANDS = (0, 250, 500, 1000, 2000, 3000, 4000, 8000)  # Hz
_PITCH = (60.0, 400.0)  # Hz
_TINY = 1e-10


def utterance_statistics(samples: np.ndarray, *, sampling_rate: int) -> np.ndarray:
    """Mean and standard deviation over 25 ms frames of 16 hand-made features, the length, and the share of voice.

    The features are log energy, zero crossings, spectral centroid, bandwidth, roll-off (85 %), flatness and flux, log
    energy in seven bands, pitch (of the autocorrelation, 60 to 400 Hz) and its strength.

    Args:
        samples: Shape `(samples,)`; a shorter one than a frame is padded with zeros.
        sampling_rate: In Hz.

    Returns:
        Shape `(34,)`, all finite.

    Example:
        >>> tone = np.sin(2 * np.pi * 200 * np.arange(16000) / 16000)
        >>> round(float(utterance_statistics(tone, sampling_rate=16000)[14]))  # mean pitch in Hz
        200
    """
    samples = np.asarray(samples, dtype=np.float64)
    size, hop = round(_WINDOW * sampling_rate), round(_HOP * sampling_rate)
    padded = np.pad(samples, (0, max(0, size - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    pitch, strength = _pitch(frames - frames.mean(axis=1, keepdims=True), sampling_rate)
    crossings = (np.diff(np.signbit(frames), axis=1) != 0).mean(axis=1)
    energy = np.log((frames**2).mean(axis=1) + _TINY)
    features = np.column_stack([energy, crossings, *_spectral(frames, sampling_rate), pitch, strength])
    voiced = (strength > 0.3).mean()
    return np.concatenate([features.mean(axis=0), features.std(axis=0), [len(samples) / sampling_rate, voiced]])


def _spectral(frames: np.ndarray, sampling_rate: int) -> list[np.ndarray]:
    """Centroid, bandwidth, roll-off, flatness, flux, and log energy of the bands; each of shape `(frames,)`."""
    power = abs(np.fft.rfft(frames * np.hanning(frames.shape[1]), axis=1)) ** 2 + _TINY
    hertz = np.fft.rfftfreq(frames.shape[1], 1 / sampling_rate)
    shares = power / power.sum(axis=1, keepdims=True)
    centroid = shares @ hertz
    bandwidth = np.sqrt((shares * (hertz - centroid[:, None]) ** 2).sum(axis=1))
    rolloff = hertz[(shares.cumsum(axis=1) >= 0.85).argmax(axis=1)]
    flatness = np.exp(np.log(power).mean(axis=1)) / power.mean(axis=1)
    flux = np.concatenate([[0.0], abs(np.diff(shares, axis=0)).sum(axis=1)])
    bands = [np.log(power[:, (hertz >= low) & (hertz < high)].sum(axis=1) + _TINY) for low, high in pairwise(_BANDS)]
    return [centroid, bandwidth, rolloff, flatness, flux, *bands]


def _pitch(frames: np.ndarray, sampling_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Pitch in Hz and how strong it is, 0 to 1, from the greatest autocorrelation; each of shape `(frames,)`."""
    size = frames.shape[1]
    spectrum = abs(np.fft.rfft(frames, n=2 * size, axis=1)) ** 2
    correlation = np.fft.irfft(spectrum, axis=1)[:, :size]
    lags = np.arange(int(sampling_rate / _PITCH[1]), min(size - 1, int(sampling_rate / _PITCH[0])) + 1)
    best = correlation[:, lags].argmax(axis=1)
    loudest = correlation[:, 0]
    strength = np.divide(correlation[:, lags].max(axis=1), loudest, out=np.zeros(len(frames)), where=loudest > _TINY)
    return sampling_rate / lags[best], strength.clip(0, 1)


def egemaps() -> Callable[..., np.ndarray] | None:
    """A function as `utterance_statistics` that gives the eGeMAPS functionals (Eyben et al. 2016), shape `(88,)`.

    Returns:
        `None` where the package `opensmile` is not installed.
    """
    if importlib.util.find_spec("opensmile") is None:
        return None
    import opensmile

    smile = opensmile.Smile(
        feature_set=opensmile.FeatureSet.eGeMAPSv02, feature_level=opensmile.FeatureLevel.Functionals
    )

    def functionals(samples: np.ndarray, *, sampling_rate: int) -> np.ndarray:
        found = smile.process_signal(np.asarray(samples, dtype=np.float32), sampling_rate)
        return np.nan_to_num(found.to_numpy(dtype=np.float64)[0])

    return functionals


def frame_statistics(frames: np.ndarray) -> np.ndarray:
    """Mean and deviation over time of an encoder's frames, `(time, channels)` or `(layers, time, channels)`."""
    frames = np.asarray(frames, dtype=np.float64)
    return np.concatenate([frames.mean(axis=-2).ravel(), frames.std(axis=-2).ravel()])


def baseline_scores(
    features: Mapping[str, Mapping[str, np.ndarray]],
    *,
    labels: Mapping[str, Any] | None = None,
    values: Mapping[str, np.ndarray] | None = None,
    dimensions: Sequence[str] = (),
    folds: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Scores of the majority class, or the mean, and of linear models on each kind of features, on the folds of a run.

    Features are scaled with the mean and deviation of the training part alone. Labels get logistic regression (C = 1),
    dimensions ridge regression (alpha = 1), as scikit-learn has them.

    Args:
        features: For each kind (its name in tables) the features of each utterance.
        labels: The label of each utterance; left out or empty: there are only dimensions.
        values: The values of the dimensions of each utterance, shape `(dimensions,)`.
        dimensions: Their names; left out: there are only labels.
        folds: For each fold `train` and `test`, names of utterances.

    Returns:
        For each baseline `name`, for each score the `mean` and `std` over folds (`None` for one fold), and `predicted`,
        the label that each tested utterance was given.
    """
    first = next(iter(features.values()))
    rows = []
    for name, inputs in {MAJORITY if labels else MEAN: first, **features}.items():
        given: dict[str, Any] = {}
        scored = [
            _score(name, inputs, labels or {}, values or {}, dimensions, fold["train"], fold["test"], given)
            for fold in folds
        ]
        spread = {
            score: {
                "mean": fmean(each[score] for each in scored),
                "std": stdev(each[score] for each in scored) if len(scored) > 1 else None,
            }
            for score in scored[0]
        }
        told = _told(name, labels=bool(labels), dimensions=bool(dimensions))
        rows.append({"name": told, **spread, "predicted": given})
    return rows


def _told(name: str, *, labels: bool, dimensions: bool) -> str:
    """The name of a baseline, which models of what it is told of.

    Example:
        >>> _told(STATISTICS, labels=True, dimensions=True), _told(MAJORITY, labels=True, dimensions=True)
        ('34 utterance statistics, logistic regression, ridge regression', 'majority class, mean of the training set')
    """
    if not dimensions:
        return name
    for model, other in ((MAJORITY, MEAN), (_LOGISTIC, _RIDGE), (_SVM, _RIDGE)):
        name = name.replace(model, f"{model}, {other}" if labels else other)
    return name


def _score(
    name: str, inputs: Mapping[str, np.ndarray], labels: Mapping[str, Any], values: Mapping[str, np.ndarray],
    dimensions: Sequence[str], train: Sequence[str], test: Sequence[str], given: dict[str, Any],
) -> dict[str, float]:  # fmt: skip
    """Scores of one baseline in one fold; the labels that it gives are added to `given`."""
    seen, unseen = (np.stack([inputs[one] for one in part]) for part in (train, test))
    found: dict[str, float] = {}
    if labels:
        predicted = _classifier(name).fit(seen, [labels[one] for one in train]).predict(unseen)
        given.update(zip(test, predicted.tolist(), strict=True))
        found |= wa_ua_f1(predicted, references=[labels[one] for one in test])
    if dimensions:
        model = DummyRegressor() if name in (MAJORITY, MEAN) else make_pipeline(StandardScaler(), Ridge())
        predicted = model.fit(seen, np.stack([values[one] for one in train])).predict(unseen)
        targets = np.stack([values[one] for one in test])
        found |= ccc_rmse(predicted.reshape(targets.shape), targets=targets, dimensions=dimensions)
    return found


def _classifier(name: str) -> Any:
    if name in (MAJORITY, MEAN):
        return DummyClassifier()
    model = LinearSVC(dual="auto", max_iter=20_000) if name == EGEMAPS else LogisticRegression(max_iter=2000)
    return make_pipeline(StandardScaler(), model)
