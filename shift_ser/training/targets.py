"""What a run learns of each utterance: a class, the distribution of the raters' votes, values of dimensions."""

import copy
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import pandas as pd
import torch

from ..corpora.votes import read_votes
from ..evaluation.metrics import SCORES, agreement_names, ccc_rmse, wa_ua_f1
from ..evaluation.predictions import PROBABILITY, TARGET, VALUE
from ..model.losses import DIMENSIONS, PROBLEM_TYPES

OTHER = "other"  # class of the votes for none of the labels, with other_votes
_SHOWN = 3  # names in a message


class Targets:
    """The targets of a corpus, by utterance, and how outputs are scored against them.

    Args:
        dataset: Columns `utterance`, and what the problem asks for: `label`, `votes`, dimensions.
        problem_type: Key of `PROBLEM_TYPES`; `None`: the default of `ShiftConfig`.
        dimensions: Which dimensions; `None`: valence, arousal, dominance.
        other_votes: Whether votes for none of the labels are a class of their own, `other`, in training. It is not
            scored: probabilities are those of the labels among themselves.

    Attributes:
        problem_type: As above, the default filled in.
        labels: Classes that are scored; empty for dimensions alone.
        dimensions: Names of the dimensions; empty for classes alone.
        outputs: Names of the model's outputs: classes, then dimensions.
        class_of: Class number of each utterance; empty for dimensions alone.
        values: Values of the dimensions of each utterance, float64 `(dimensions,)`.
        score_names: Of what `scores` gives.

    Raises:
        ValueError: If a column is missing (lists what there is), a value is missing or not finite, a dimension is
            constant, or votes cannot be read or name none of the labels.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        *,
        problem_type: str | None = None,
        dimensions: Sequence[str] | None = None,
        other_votes: bool = False,
    ) -> None:
        self.problem_type = problem_type or "single_label_classification"
        problem = PROBLEM_TYPES[self.problem_type]
        names = list(dataset["utterance"])
        self.dimensions = list(dimensions or DIMENSIONS) if problem.dimensions else []
        self.labels: list[str] = []
        self.class_of: dict[str, int] = {}
        self._shares: dict[str, np.ndarray] = {}
        if problem.classes:
            self._require(dataset, ["label"])
            self.labels = list(dataset.features["label"].names)
            self.class_of = dict(zip(names, dataset["label"], strict=True))
        classes = list(self.labels)
        if problem.soft:
            self._require(dataset, ["votes"])
            classes += [OTHER] if other_votes and OTHER not in classes else []
            self._shares = _shares(names, dataset["votes"], classes, other=other_votes)
        self.outputs = [*classes, *self.dimensions]
        self.values = self._read_values(dataset, names)
        agreement = agreement_names(self.dimensions) if self.dimensions else []
        self.score_names = [*(SCORES if self.labels else ()), *agreement]

    def _require(self, dataset: datasets.Dataset, columns: Sequence[str]) -> None:
        for name in columns:
            if name not in dataset.column_names:
                raise ValueError(
                    f"{self.problem_type} must have the column {name!r}, the corpus has"
                    f" {', '.join(sorted(dataset.column_names))}"
                )

    def _read_values(self, dataset: datasets.Dataset, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The values `(dimensions,)` of each utterance, all of them finite."""
        self._require(dataset, self.dimensions)
        columns = []
        for dimension in self.dimensions:
            column = np.array([math.nan if value is None else value for value in dataset[dimension]], dtype=np.float64)
            absent = [name for name, value in zip(names, column, strict=True) if not math.isfinite(value)]
            if absent:
                raise ValueError(
                    f"{dimension} must be a number in every row, {len(absent)} of {len(names)} have none:"
                    f" {_first(absent)}"
                )
            if column.min() == column.max():
                raise ValueError(f"{dimension} must not be constant, it is {column[0]:g} in all {len(names)} rows")
            columns.append(column)
        rows = np.stack(columns, axis=1) if columns else np.zeros((len(names), 0))
        return dict(zip(names, rows, strict=True))

    def with_labels(self, labels: Sequence[str]) -> "Targets":
        """The same targets with class numbers of another order; all labels of this corpus are among them."""
        other, number = copy.copy(self), {label: index for index, label in enumerate(labels)}
        other.labels, other.outputs = list(labels), [*labels, *self.dimensions]
        other.class_of = {utterance: number[self.labels[index]] for utterance, index in self.class_of.items()}
        return other

    def of(self, utterance: str) -> int | np.ndarray:
        """`labels` of an example: a class number, or float32 `(outputs,)`; see `PROBLEM_TYPES`."""
        if not self.dimensions and not self._shares:
            return self.class_of[utterance]
        shares = self._shares.get(utterance)
        if shares is None:
            shares = np.eye(len(self.labels))[self.class_of[utterance]] if self.labels else np.zeros(0)
        return np.concatenate([shares, self.values[utterance]]).astype(np.float32)

    def scores(self, utterances: Sequence[str], outputs: np.ndarray) -> dict[str, float]:
        """Scores of a model's outputs `(utterances, outputs)`: classes against the label, dimensions by value."""
        found: dict[str, float] = {}
        if self.labels:
            said = outputs[:, : len(self.labels)].argmax(-1)
            found |= wa_ua_f1(said, references=[self.class_of[name] for name in utterances])
        if self.dimensions:
            true = np.stack([self.values[name] for name in utterances])
            found |= ccc_rmse(outputs[:, -len(self.dimensions) :], targets=true, dimensions=self.dimensions)
        return found

    def table(self, utterances: Sequence[str], outputs: torch.Tensor) -> pd.DataFrame:
        """The columns of `Predictions` that tell what was said and what is true, from outputs of the model."""
        columns: dict[str, Any] = {}
        if self.labels:
            shares = outputs[:, : len(self.labels)].double().softmax(dim=-1).numpy()
            columns |= {PROBABILITY + label: shares[:, index] for index, label in enumerate(self.labels)}
            columns["label"] = [self.labels[self.class_of[name]] for name in utterances]
        if self._shares:
            voted = np.stack([self._shares[name] for name in utterances])
            columns |= {TARGET + label: voted[:, index] for index, label in enumerate(self.labels)}
        first = len(self.outputs) - len(self.dimensions)
        for index, name in enumerate(self.dimensions):
            columns[VALUE + name] = outputs[:, first + index].double().numpy()
            columns[TARGET + name] = [self.values[utterance][index] for utterance in utterances]
        return pd.DataFrame(columns)

    @property
    def names(self) -> dict[str, Any]:
        """`id2label` and `label2id` of the model."""
        names = dict(enumerate(self.outputs))
        return {"id2label": names, "label2id": {name: index for index, name in names.items()}}

    def scale(self, utterances: Sequence[str]) -> dict[str, Any]:
        """`dimension_means` and `dimension_stds` of a model that is trained on these utterances; empty for classes.

        Raises:
            ValueError: If a dimension is constant in them.
        """
        if not self.dimensions:
            return {}
        values = np.stack([self.values[name] for name in utterances])
        for name, column in zip(self.dimensions, values.T, strict=True):
            if column.min() == column.max():
                raise ValueError(
                    f"{name} must not be constant in the training set, it is {column[0]:g} in all its rows"
                )
        return {"dimension_means": values.mean(axis=0).tolist(), "dimension_stds": values.std(axis=0).tolist()}

    def class_weights(self, utterances: Sequence[str]) -> torch.Tensor:
        """Weights of the classes that make each count the same: utterances by classes times those of the class.

        Of soft labels, shares are counted.

        Raises:
            ValueError: If a class is in none of the utterances.
        """
        counts = self._counts(utterances)
        for name, count in zip(self.outputs, counts, strict=False):
            if not count:
                raise ValueError(f"class_weights must have every class in the training set, it has no {name!r}")
        return torch.tensor(counts.sum() / (len(counts) * counts), dtype=torch.float32)

    def absent_from(self, utterances: Sequence[str]) -> list[str]:
        """The labels that none of these utterances has; of soft labels, that nobody voted for."""
        return [name for name, count in zip(self.labels, self._counts(utterances), strict=False) if not count]

    def _counts(self, utterances: Sequence[str]) -> np.ndarray:
        """Utterances of each class, or the sum of their shares; none for dimensions alone."""
        if not self.labels:
            return np.zeros(0)
        one_hot = np.eye(len(self.labels))
        return np.sum([self._shares[name] if self._shares else one_hot[self.class_of[name]] for name in utterances], 0)

    @property
    def fingerprints(self) -> dict[str, str]:
        """What changes with any label; where votes or dimensions are learned, what changes with any of them."""
        told = {"labels": label_fingerprint(self.labels, self.class_of)}
        others = [self._shares, self.values if self.dimensions else {}]
        if any(others):
            told["targets"] = fingerprint([sorted((name, row.tolist()) for name, row in one.items()) for one in others])
        return told


def label_fingerprint(labels: Sequence[str], class_of: Mapping[str, int]) -> str:
    """What changes with the label of any utterance of a corpus.

    Args:
        labels: Classes.
        class_of: Number of the class of each utterance.
    """
    return fingerprint([list(labels), sorted(class_of.items())])


def fingerprint(value: Any) -> str:
    """Sixteen digits that change with a value that JSON knows.

    Example:
        >>> fingerprint([["sad"], [["a", 0]]])
        'b91985b3f7da2f11'
    """
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _shares(
    names: Sequence[str], column: Sequence[Any], classes: Sequence[str], *, other: bool
) -> dict[str, np.ndarray]:
    """The votes of each utterance as a distribution over the classes; votes for none of them count as `other`."""
    found: dict[str, np.ndarray] = {}
    without = []
    place = {label: index for index, label in enumerate(classes)}
    for name, told in zip(names, column, strict=True):
        try:
            votes = read_votes(told)
        except ValueError as error:
            raise ValueError(f"{error} (utterance {name!r})") from None
        shares = np.zeros(len(classes))
        for label, count in votes.items():
            if label in place or other:
                shares[place[label if label in place else OTHER]] += count
        if shares.any():
            found[name] = shares / shares.sum()
        else:
            without.append(name)
    if without:
        raise ValueError(
            f"votes must name one of {', '.join(classes)} in every row, {len(without)} of {len(names)} do not:"
            f" {_first(without)}"
        )
    return found


def _first(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
