"""A map of what a head makes of utterances: their mean over frames, in two directions of greatest variance."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from .run_folder import save_figure

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")


def plot_embedding(
    path: str | Path, vectors: np.ndarray, *, labels: Sequence[str], predictions: Sequence[str], title: str
) -> None:
    """Draw utterances by the first two principal components of their vectors as PNG; errors are crosses.

    Args:
        path: File to write.
        vectors: What the classifier reads, shape `(utterances, channels)`, at least two utterances of one model.
        labels: The true label of each.
        predictions: The predicted label of each.
        title: Headline.
    """
    analysis = PCA(n_components=2, svd_solver="full")
    points = analysis.fit_transform(np.asarray(vectors, dtype=np.float64))
    figure = Figure(figsize=(5.4, 5.6), layout="constrained")
    axes = figure.add_subplot()
    right = np.array([label == said for label, said in zip(labels, predictions, strict=True)])
    for number, name in enumerate(sorted(set(labels))):
        here, color = np.array([label == name for label in labels]), _COLORS[number % len(_COLORS)]
        axes.scatter(points[here & right, 0], points[here & right, 1], color=color, s=26, alpha=0.8, label=name)
        axes.scatter(points[here & ~right, 0], points[here & ~right, 1], color=color, s=36, marker="x", linewidths=1.6)
    axes.scatter([], [], color="0.3", marker="x", label="predicted wrongly")
    shares = analysis.explained_variance_ratio_
    axes.set(
        xlabel=f"first component ({shares[0]:.0%} of the variance)",
        ylabel=f"second component ({shares[1]:.0%})",
        title=title,
    )
    axes.set_xticks([])
    axes.set_yticks([])
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    save_figure(path, figure)
