"""What models said of which utterances: one table, read from and written to one file."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .run_folder import aside, check_file

PROBABILITY = "p_"  # before a label: the column of its probability
VALUE = "value_"  # before a dimension (valence, ...): the column of what the model said
TARGET = (
    "target_"  # before a dimension: the column of its true value; before a label: of its share of the raters' votes
)
TEXTS = ("utterance", "speaker", "session", "label", "prediction")
COLUMNS = ("utterance", "speaker", "session", "fold", "seed", "label", "prediction", "temperature")
_NEEDED = (
    "an utterance, and a label with a prediction or the probabilities p_<label>, or value_<dimension> with"
    " target_<dimension>"
)
_SUM = 1e-3  # how far probabilities of an utterance may be from 1 together


@dataclass(frozen=True)
class Predictions:
    """A row for each utterance and seed. Scores, intervals, calibration, comparison and report are functions of it.

    Attributes:
        table: Columns `utterance`, `label` and `prediction`; where they are known `speaker`, `session`, `fold`, `seed`,
            `temperature` (of the model that made the row, fitted on its validation set) and a probability `p_<label>`
            for each label. Of soft labels `target_<label>`, the share of the raters' votes (what is missing to 1 went
            to other labels). Of dimensions `value_<dimension>` (predicted) and `target_<dimension>` (true); where there
            are only dimensions, `label` and `prediction` are left out.

    Raises:
        ValueError: If a column is missing or what is in one breaks its rule; the first row at fault is named.

    Example:
        >>> row = {"utterance": "a", "label": "sad", "probabilities": {"sad": 0.8, "angry": 0.2}}
        >>> said = Predictions.from_rows([row])
        >>> said.table["prediction"].tolist(), said.labels
        (['sad'], ['sad', 'angry'])
    """

    table: pd.DataFrame

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", _checked(self.table))

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> "Predictions":
        """From dicts with the table's columns, and `probabilities` (label to float) in place of its `p_` columns.

        In the same way `values` and `targets`, from a dimension or label to float.
        """
        flat = []
        for row in rows:
            plain = {name: value for name, value in row.items() if name not in _GROUPS}
            for name, prefix in _GROUPS.items():
                plain |= {prefix + key: value for key, value in row.get(name, {}).items()}
            flat.append(plain)
        return cls(pd.DataFrame(flat))

    @classmethod
    def pooled(cls, parts: Sequence["Predictions"]) -> "Predictions":
        """The rows of several tables, one below the other.

        Raises:
            ValueError: If there is none, or they have different columns.
        """
        if not parts:
            raise ValueError("parts must hold at least one table of predictions, got none")
        columns = list(parts[0].table)
        for part in parts:
            if set(part.table) != set(columns):
                raise ValueError(
                    f"tables of predictions must have the same columns, got {columns} and {list(part.table)}"
                )
        return cls(pd.concat([part.table for part in parts]))

    @classmethod
    def read(cls, path: str | Path) -> "Predictions":
        """Read what `write` wrote, or another program: a CSV file (`.tsv`: with tabs) with a line of column names.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it does not hold predictions, or is of a run and not as it was written; the file is named,
                with what it holds.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"predictions must be a CSV file, there is no {str(path)!r}")
        check_file(path)
        try:
            cells = pd.read_csv(
                path, sep="\t" if path.suffix == ".tsv" else ",", dtype=str, keep_default_na=False, encoding="utf-8-sig"
            )
            return cls(cells)
        except (ValueError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
            raise ValueError(f"{str(path)!r}: {' '.join(str(error).split())}") from error

    def write(self, path: str | Path) -> None:
        """Write the table as CSV, numbers in full precision; the file is the old or the new one, never half."""
        with aside(path) as part:
            self.table.to_csv(part, index=False, encoding="utf-8", lineterminator="\n")

    def with_columns(self, **values: Any) -> "Predictions":
        """The same rows with further columns, each a value for all rows or one for each."""
        return Predictions(self.table.assign(**values))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The table as `from_rows` takes it."""
        plain: list[dict[str, Any]] = self.table[[name for name in COLUMNS if name in self.table]].to_dict("records")
        for name, prefix in _GROUPS.items():
            columns = _named(self.table, prefix)
            for row, numbers in zip(plain, self.table[columns].to_numpy().tolist(), strict=True):
                if columns:
                    row[name] = {key.removeprefix(prefix): number for key, number in zip(columns, numbers, strict=True)}
        return plain

    @cached_property
    def labels(self) -> list[str]:
        """The labels: in the order of the probabilities, else all that are true or predicted somewhere, sorted."""
        named = _named(self.table, PROBABILITY)
        if named or "label" not in self.table:
            return [name.removeprefix(PROBABILITY) for name in named]
        return sorted({*self.table["label"], *self.table["prediction"]})

    @cached_property
    def probabilities(self) -> np.ndarray | None:
        """Shape `(rows, labels)`; `None` where the table has none."""
        named = _named(self.table, PROBABILITY)
        return self.table[named].to_numpy(dtype=np.float64) if named else None

    @cached_property
    def dimensions(self) -> list[str]:
        """Names of the dimensions, in the order of their columns; empty where there are only labels."""
        return [name.removeprefix(VALUE) for name in _named(self.table, VALUE)]

    @cached_property
    def values(self) -> np.ndarray:
        """What the model said of the dimensions, shape `(rows, dimensions)`."""
        return self.table[[VALUE + name for name in self.dimensions]].to_numpy(dtype=np.float64)

    @cached_property
    def targets(self) -> np.ndarray:
        """True values of the dimensions, shape `(rows, dimensions)`."""
        return self.table[[TARGET + name for name in self.dimensions]].to_numpy(dtype=np.float64)

    @cached_property
    def references(self) -> np.ndarray:
        """Class numbers of the true labels, shape `(rows,)`."""
        return self._numbers("label")

    @cached_property
    def predicted(self) -> np.ndarray:
        """Class numbers of the predicted labels, shape `(rows,)`."""
        return self._numbers("prediction")

    @property
    def temperature(self) -> np.ndarray | None:
        """The temperature of each row, shape `(rows,)`; `None` if some model has none."""
        if "temperature" not in self.table or self.table["temperature"].isna().any():
            return None
        return self.table["temperature"].to_numpy(dtype=np.float64)

    def count(self, name: str) -> int | None:
        """How many different values a column has; `None` where there is none."""
        return int(self.table[name].nunique()) if name in self.table else None

    def __len__(self) -> int:
        return len(self.table)

    def _numbers(self, column: str) -> np.ndarray:
        number = {label: index for index, label in enumerate(self.labels)}
        return np.array([number[label] for label in self.table[column]])


_GROUPS = {"probabilities": PROBABILITY, "values": VALUE, "targets": TARGET}  # key of a row: prefix of its columns


def _named(table: pd.DataFrame, prefix: str) -> list[str]:
    return [str(name) for name in table if str(name).startswith(prefix)]


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    """A copy of the table with its columns in order, each of its type; what breaks a rule raises."""
    if not len(table):
        raise ValueError("predictions must hold at least one utterance, got none")
    named, values, targets = (_named(table, prefix) for prefix in _GROUPS.values())
    classes = "label" in table and bool(named or "prediction" in table)
    if "utterance" not in table or not (classes or (values and "label" not in table)):
        raise ValueError(f"predictions must have {_NEEDED}, got the columns {[str(name) for name in table]}")
    table = table.reset_index(drop=True).copy()
    for name in [*named, *values, *targets, "temperature"]:
        if name in table:
            table[name] = _numbers(table, name, empty=name == "temperature")
    _check_dimensions(table, values, targets)
    if named:
        _check_probabilities(table, named)
        if "prediction" not in table:
            labels = np.array([name.removeprefix(PROBABILITY) for name in named])
            table["prediction"] = labels[table[named].to_numpy().argmax(axis=1)]
    for name in TEXTS:
        if name in table:
            table[name] = _texts(table, name)
    for name in ("fold", "seed"):
        if name in table:
            table[name] = _whole(table[name])
    if classes:
        _check_labels(table, [name.removeprefix(PROBABILITY) for name in named])
    _check_utterances(table, targets)
    return table[[name for name in COLUMNS if name in table] + named + values + targets]


def _check_dimensions(table: pd.DataFrame, values: list[str], targets: list[str]) -> None:
    for name in values:
        if (target := TARGET + name.removeprefix(VALUE)) not in targets:
            raise ValueError(f"every {name} must have a column {target}, got {[str(column) for column in table]}")
    for name in (*values, *targets):
        wrong = ~np.isfinite(table[name])
        if wrong.any():
            raise ValueError(f"{name} must be finite, got {table[name][wrong].iloc[0]} in row {_row(wrong)}")


def _texts(table: pd.DataFrame, name: str) -> pd.Series:
    empty = table[name].isna() | (table[name].astype(str).str.len() == 0)
    if empty.any():
        raise ValueError(f"every row must have a {name}, row {_row(empty)} has none: the file may be cut")
    return table[name].astype(str).astype(object)


def _numbers(table: pd.DataFrame, name: str, *, empty: bool) -> pd.Series:
    """Floats with every digit; NaN where nothing is, if that may be."""
    values = []
    for row, value in enumerate(table[name], start=1):
        nothing = value is None or value == "" or (isinstance(value, float) and np.isnan(value))
        try:
            values.append(float("nan") if nothing else float(value))
        except (TypeError, ValueError):
            raise ValueError(f"{name} must hold numbers, got {value!r} in row {row}") from None
        if nothing and not empty:
            raise ValueError(f"{name} must hold a number in every row, row {row} has none: the file may be cut")
    return pd.Series(values, dtype=np.float64)


def _whole(column: pd.Series) -> pd.Series:
    """Whole numbers where all are some, else texts: a fold of another program may have a name."""
    try:
        return column.astype("int64")
    except (TypeError, ValueError):
        return column.astype(str).astype(object)


def _check_probabilities(table: pd.DataFrame, named: list[str]) -> None:
    shares = table[named].to_numpy(dtype=np.float64)
    wrong = ~(np.isfinite(shares).all(axis=1) & (shares >= 0).all(axis=1) & (abs(shares.sum(axis=1) - 1) <= _SUM))
    if wrong.any():
        at = int(wrong.argmax())
        raise ValueError(f"probabilities must be 0 or more and sum to 1, got {shares[at].tolist()} in row {at + 1}")


def _check_labels(table: pd.DataFrame, labels: list[str]) -> None:
    for name in ("label", "prediction"):
        wrong = ~table[name].isin(labels)
        if labels and wrong.any():
            found = table[name][wrong].iloc[0]
            raise ValueError(
                f"every {name} must have a column of probabilities, {labels}, got {found!r} in row {_row(wrong)}"
            )


def _check_utterances(table: pd.DataFrame, targets: list[str]) -> None:
    """One row an utterance, fold and seed; what belongs to the utterance is the same in all its rows."""
    key = [name for name in ("utterance", "fold", "seed") if name in table]
    repeated = table.duplicated(key)
    if repeated.any():
        name = table["utterance"][repeated].iloc[0]
        raise ValueError(
            f"{' and '.join(key)} must name a row, {name!r} has several: a column seed or fold tells them apart"
        )
    first = table.drop_duplicates("utterance").set_index("utterance")
    for name in ("label", "speaker", "session", *targets):
        if name in table:
            expected = first[name].loc[table["utterance"]].to_numpy()
            differs = table[name].to_numpy() != expected
            if differs.any():
                at = int(differs.argmax())
                found = f"{table['utterance'][at]!r} has {name} {expected[at]!r} and {table[name][at]!r}"
                raise ValueError(f"rows of one utterance must agree, {found}")


def _row(wrong: pd.Series) -> int:
    """Number of the first row that is wrong, counted from 1."""
    return int(np.asarray(wrong).argmax()) + 1
