"""Embeddings of many recordings in one file of numpy."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..model.pipeline_shift_ser import ShiftAudioClassificationPipeline
from .batches import in_batches
from .predict import Classified


def write_embeddings(
    classifier: ShiftAudioClassificationPipeline,
    paths: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    *,
    of: str = "head",
    pooling: str = "mean",
    max_memory: float | None = None,
) -> list[Classified]:
    """Write one vector for each recording that can be read.

    Args:
        classifier: What `load_classifier` gives.
        paths: The recordings.
        output: File to write, replaced if it is there: arrays `recordings` (their paths) and `embeddings` (float32,
            `(recordings, channels)`), and `model`, `of` and `pooling`, by which they can be made again.
        of: As in the classifier's `embed`.
        pooling: As there.
        max_memory: As for `classify_recordings`.

    Returns:
        The recordings that could not be read, or that the model refused, each with its `error`.
    """
    names: list[str] = []
    vectors = [classifier.embed([], of=of, pooling=pooling)]
    failed = []
    results = in_batches(
        classifier,
        [os.fspath(path) for path in paths],
        partial(classifier.embed_batch, of=of, pooling=pooling),
        max_memory=max_memory,
    )
    for result in tqdm(results, total=len(paths), desc="Embedding", unit="file"):
        if result.value is None:
            failed.append(Classified(result.name, error=result.error))
        else:
            names.append(result.name)
            vectors.append(result.value[None])
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    told: dict[str, Any] = {"model": str(classifier.model.name_or_path), "of": of, "pooling": pooling}
    with open(output, "wb") as file:  # a path without .npz would be given one
        np.savez(file, recordings=np.array(names, dtype=str), embeddings=np.concatenate(vectors), **told)
    return failed
