"""Embeddings of many recordings in one file of numpy."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..model.pipeline_shift_ser import ShiftAudioClassificationPipeline
from .predict import _UNREADABLE, Classified

_CHUNK = 128  # recordings in memory


def write_embeddings(
    classifier: ShiftAudioClassificationPipeline,
    paths: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    *,
    of: str = "head",
    pooling: str = "mean",
) -> list[Classified]:
    """Write one vector for each recording that can be read.

    Args:
        classifier: What `load_classifier` gives.
        paths: The recordings.
        output: File to write, replaced if it is there: arrays `recordings` (their paths) and `embeddings` (float32,
            `(recordings, channels)`), and `model`, `of` and `pooling`, by which they can be made again.
        of: As in the classifier's `embed`.
        pooling: As there.

    Returns:
        The recordings that could not be read, or that the model refused, each with its `error`.
    """
    names: list[str] = []
    vectors = [classifier.embed([], of=of, pooling=pooling)]
    failed = []
    rate = classifier.feature_extractor.sampling_rate
    bar = tqdm(total=len(paths), desc="Embedding", unit="file")
    for start in range(0, len(paths), _CHUNK):
        speech = []
        for path in [os.fspath(each) for each in paths[start : start + _CHUNK]]:
            try:
                samples = classifier.read(path, **classifier._preprocess_params)
                speech.append((path, {"array": samples, "sampling_rate": rate}))
            except _UNREADABLE as error:
                failed.append(Classified(path, error=str(error) or type(error).__name__))
            bar.update()
        for path, found in _embed(classifier, speech, of=of, pooling=pooling):
            if isinstance(found, Classified):
                failed.append(found)
            else:
                names.append(path)
                vectors.append(found[None])
    bar.close()
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    told: dict[str, Any] = {"model": str(classifier.model.name_or_path), "of": of, "pooling": pooling}
    with open(output, "wb") as file:  # a path without .npz would be given one
        np.savez(file, recordings=np.array(names, dtype=str), embeddings=np.concatenate(vectors), **told)
    return failed


def _embed(
    classifier: Any, speech: Sequence[tuple[str, dict[str, Any]]], **options: str
) -> list[tuple[str, np.ndarray | Classified]]:
    """The vectors of recordings that go through the model together; if that fails, of each by itself, or its error."""
    try:
        found = classifier.embed([recording for _, recording in speech], **options)
    except (MemoryError, RuntimeError, ValueError) as error:
        if len(speech) == 1:
            name = speech[0][0]
            return [(name, Classified(name, error=str(error) or type(error).__name__))]
        return [result for each in speech for result in _embed(classifier, [each], **options)]
    return [(name, vector) for (name, _), vector in zip(speech, found, strict=True)]
