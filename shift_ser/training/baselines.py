"""The baselines of a run: the same corpus, the same folds, and no head."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..evaluation.baseline import (
    EGEMAPS,
    FRAMES,
    STATISTICS,
    baseline_scores,
    egemaps,
    frame_statistics,
    utterance_statistics,
)
from .data import SpeechCorpus
from .fold_plan import FoldPlan


def run_baselines(corpus: SpeechCorpus, plans: Iterable[FoldPlan], *, frames: bool) -> list[dict[str, Any]]:
    """Scores of the baselines, trained on the training sets alone.

    Args:
        corpus: The run's corpus.
        plans: The folds.
        frames: Whether there is a baseline of the encoder's frames; the corpus must have its cache then.

    eGeMAPS is among them where `opensmile` is installed (extra `opensmile`).

    Returns:
        What `baseline_scores` returns, labels by name.
    """
    kinds = {STATISTICS: utterance_statistics} | ({EGEMAPS: functionals} if (functionals := egemaps()) else {})
    features: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in kinds}
    for name, sound in zip(corpus.dataset["utterance"], corpus.dataset["audio"], strict=True):
        rate = sound["sampling_rate"]
        samples = sound["array"][: round(corpus.data_args.max_seconds * rate)]
        for kind, make in kinds.items():
            features[kind][name] = make(samples, sampling_rate=rate)
    if frames:
        cache = corpus.cache
        assert cache is not None  # the caller has filled or opened it
        features[FRAMES] = {name: frame_statistics(cache.frames(name).float().numpy()) for name in features[STATISTICS]}
    folds = [{"train": plan.train, "test": plan.test} for plan in plans]
    targets = corpus.targets
    rows = baseline_scores(
        features, labels=targets.class_of, values=targets.values, dimensions=targets.dimensions, folds=folds
    )
    return [
        row | {"predicted": {name: targets.labels[label] for name, label in row["predicted"].items()}} for row in rows
    ]
