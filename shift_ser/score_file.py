"""ScoreFile: scores of recordings as CSV, written as they come and continued after a kill."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from .inference import Classified

_SCORE = "score_"


class ScoreFile:
    """A CSV with a line for each classified recording: `recording`, `label`, a `score_` of each label, `model`.

    A line is handed to the system at once when it is written. What a kill has left of one is cut off when the file is
    opened again, and what is in it need not be classified again. Recordings that could not be classified have no line.

    Args:
        path: File to write or to go on with.
        labels: The model's labels, in the order of the columns.
        model: What the scores come from, such as the model's name and dtype; in every line and the same in all.

    Attributes:
        done: Names of the recordings that are in the file.

    Raises:
        ValueError: If the file holds something else, or scores of another model.
    """

    def __init__(self, path: str | os.PathLike, *, labels: Sequence[str], model: str) -> None:
        self.path, self.labels, self.model = Path(path), list(labels), model
        self.done: set[str] = set()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        header = ["recording", "label", *(_SCORE + label for label in self.labels), "model"]
        whole = self._read(header) if self.path.exists() else 0
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115
        self._file.truncate(whole)
        if not whole:
            self._append(header)

    def __enter__(self) -> "ScoreFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def write(self, result: Classified) -> None:
        """Append the line of one recording.

        Raises:
            ValueError: If it could not be classified, or its labels are not those of the file.
        """
        if result.scores is None or set(result.scores) != set(self.labels):
            raise ValueError(f"scores of {result.name!r} must be of {self.labels}, got {result.scores}")
        self._append([result.name, result.label, *(result.scores[label] for label in self.labels), self.model])
        self.done.add(result.name)

    def _append(self, row: Sequence[Any]) -> None:
        """One line in one go: a kill leaves at most a part of one."""
        line = _line(row)
        if self._file.write(line) != len(line):
            raise OSError(f"the disk took a part of a line only: {str(self.path)!r}")

    def _read(self, header: list[str]) -> int:
        """Note what is done; return how many bytes of the file are whole lines."""
        end = 0
        with open(self.path, "rb") as file:
            try:
                for start, stop, row in _whole_rows(file):
                    end = stop
                    if start and (len(row) != len(header) or row[-1] != self.model):
                        raise ValueError(f"{str(self.path)!r} must hold scores of {self.model!r}, got the line {row}")
                    if start:
                        self.done.add(row[0])
                    elif row != header:
                        raise ValueError(f"{str(self.path)!r} must hold scores, with the columns {header}, got {row}")
            except csv.Error as error:
                raise ValueError(f"{str(self.path)!r} must hold lines of CSV, got one with: {error}") from error
            file.seek(0)
            if end == 0 and not _line(header).startswith(start_of := file.read(len(_line(header)))):
                raise ValueError(f"{str(self.path)!r} must hold scores, with the columns {header}, got {start_of!r}")
        return end


def _line(row: Sequence[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _whole_rows(file: BinaryIO) -> Iterator[tuple[int, int, list[str]]]:
    """Where each row starts and ends, and the row; not a last one that was cut off.

    Raises:
        csv.Error: If there is something else than a row before the end.
    """
    line, start = b"", 0

    def lines() -> Iterator[str]:
        nonlocal line
        for line in file:
            yield line.decode("utf-8", "surrogateescape")

    try:
        for row in csv.reader(lines(), strict=True):
            if line.endswith(b"\n"):
                yield start, file.tell(), row
                start = file.tell()
    except csv.Error:
        if file.read(1):
            raise
