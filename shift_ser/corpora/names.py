"""Corpora that write label and speaker into the path of each recording: a reader is a grammar of names, mostly data."""

import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import soundfile as sf
from datasets import ClassLabel, Dataset, Features, Value

from .check import CorpusReport, judge_recordings, listen
from .corpus import Corpus, CorpusInfo, SpeechAudio

_LOOKED_AT = 60  # recordings by which a folder is recognised
_SHOWN = 3  # names in a message
_COLUMNS = ("session", "split", "intensity")  # groups of the pattern that become columns


@dataclass(frozen=True)
class Subset:
    """What is read of a corpus.

    Attributes:
        description: In a sentence.
        labels: Codes that are read, and the label of each.
        where: Groups of the pattern and the value that they must have.
    """

    description: str
    labels: Mapping[str, str]
    where: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Grammar:
    """How a corpus names its recordings.

    Attributes:
        info: What it says of itself.
        pattern: Regular expression that the end of a path below the root has to match, in upper or lower case; its
            groups `label` and `speaker` are needed, `sex`, `session`, `split` and `intensity` may be there.
        subsets: What can be read, by name; the first is the default.
        published: Recordings of each code of the default subset in the published corpus; empty if they are not known.
        total: How many recordings are published, of the default subset.
        rate: Published sampling rate in Hz.
        sex_of: Tells the sex from what the pattern found.
        protocol: How it is usually divided into folds.
    """

    info: CorpusInfo
    pattern: str
    subsets: Mapping[str, Subset]
    total: int
    rate: int
    published: Mapping[str, int] = field(default_factory=dict)
    sex_of: Callable[[Mapping[str, str]], str] | None = None
    protocol: str = "leave one speaker out"

    def entry(self) -> Corpus:
        """The entry of `CORPORA`."""
        return Corpus(
            info=self.info,
            is_here=partial(is_here, self),
            read=partial(read_names, grammar=self),
            check=partial(check_names, grammar=self),
            subsets={name: subset.description for name, subset in self.subsets.items()},
            protocol=self.protocol,
        )

    def parse(self, path: Path, root: Path) -> dict[str, str] | None:
        """What the path of a recording tells; `None` if it is not named as in this corpus."""
        match = re.search(rf"(?:^|/)(?:{self.pattern})\.wav$", path.relative_to(root).as_posix(), re.IGNORECASE)
        if match is None:
            return None
        found = {name: value for name, value in match.groupdict().items() if value is not None}
        return {**found, "label": found["label"].lower(), "speaker": found["speaker"].lower()}

    def subset(self, name: str | None) -> Subset:
        """A subset, by default the first."""
        return self.subsets[name or next(iter(self.subsets))]


def is_here(grammar: Grammar, root: Path) -> bool:
    """Whether nearly all of the first recordings below a folder are named as in the corpus."""
    looked_at = list(itertools.islice(_recordings(root), _LOOKED_AT))
    return sum(grammar.parse(path, root) is not None for path in looked_at) > 0.8 * len(looked_at)


def read_names(root: str | Path, *, grammar: Grammar, subset: str | None = None) -> Dataset:
    """Read a corpus; recordings with other names are passed over.

    Raises:
        FileNotFoundError: If there is none with a name of the corpus.
        ValueError: If two recordings of one name are in different folders.
    """
    root, chosen = Path(root).expanduser().absolute(), grammar.subset(subset)
    rows: list[dict[str, str]] = []
    for path in _recordings(root):
        told = grammar.parse(path, root)
        if told and told["label"] in chosen.labels and all(told[name] == value for name, value in chosen.where.items()):
            rows.append({**told, "audio": str(path), "utterance": path.stem})
    if not rows:
        raise FileNotFoundError(f"root must hold {grammar.info.title}, {root} has no recording named as in it")
    if len({row["utterance"] for row in rows}) < len(rows):
        rows = [{**row, "utterance": f"{Path(row['audio']).parent.name}/{row['utterance']}"} for row in rows]
    rows.sort(key=lambda row: (row["speaker"], row["utterance"]))
    twice = [name for name, count in Counter(row["utterance"] for row in rows).items() if count > 1]
    if twice:
        raise ValueError(f"{root} must hold each recording once, has {len(twice)} twice: {', '.join(twice[:_SHOWN])}")
    return _dataset(rows, grammar, chosen)


def _dataset(rows: list[dict[str, str]], grammar: Grammar, subset: Subset) -> Dataset:
    names = list(dict.fromkeys(subset.labels.values()))
    features: dict[str, Any] = {"audio": SpeechAudio(), "label": ClassLabel(names=names)}
    columns: dict[str, list[Any]] = {
        "audio": [row["audio"] for row in rows],
        "label": [names.index(subset.labels[row["label"]]) for row in rows],
    }
    if grammar.sex_of:
        rows = [{**row, "sex": grammar.sex_of(row)} for row in rows]
    for name in ("utterance", "speaker", "sex", *_COLUMNS):
        if all(name in row for row in rows):
            columns[name], features[name] = [row[name] for row in rows], Value("string")
    info = grammar.info.dataset_info(Features(features))
    info.description = f"{grammar.info.title}: {', '.join(names)}."
    return Dataset.from_dict(columns, info=info)


def check_names(root: str | Path, *, grammar: Grammar) -> CorpusReport:
    """Compare a copy with what is published: counts of each label, sampling rate, names, every recording."""
    root, chosen = Path(root).expanduser().absolute(), grammar.subset(None)
    report = CorpusReport(
        grammar.info.title, root, unit="corpus", published_units={"": grammar.total},
        published_labels=dict(grammar.published) or dict.fromkeys(chosen.labels, 0), counts={"": Counter()},
    )  # fmt: skip
    used: dict[str, Path] = {}
    for path in _recordings(root):
        told = grammar.parse(path, root)
        if told is None:
            report.passed_over[f"recordings of other names, such as {path.relative_to(root)}"] += 1
        elif told["label"] not in chosen.labels or any(told[name] != value for name, value in chosen.where.items()):
            report.skipped[told["label"]] += 1
        else:
            used[path.relative_to(root).as_posix()] = path
            report.counts[""][told["label"]] += 1
    if not used:
        raise FileNotFoundError(f"root must hold {grammar.info.title}, {root} has no recording named as in it")
    report.audio = listen(used)
    report.audio.pop("another rate", None)  # compared with the published rate instead
    judge_recordings(report)
    if other := [name for name, path in used.items() if _rate(path) not in (None, grammar.rate)]:
        shown = ", ".join(other[:_SHOWN]) + (", ..." if len(other) > _SHOWN else "")
        report.notes.append(f"{len(other)} recording(s) are not at the published {grammar.rate} Hz: {shown}")
    found = report.counts[""]
    if found.total() != grammar.total or (grammar.published and dict(found) != dict(grammar.published)):
        report.notes.append("the counts are not the published ones (see the table)")
    return report


def _rate(path: Path) -> int | None:
    try:
        return int(sf.info(path).samplerate)
    except (sf.LibsndfileError, OSError):
        return None


def _recordings(root: Path) -> Iterator[Path]:
    """The wav files below a folder, sorted within each; those that a Mac leaves beside them are not read."""
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(files):
            if name.lower().endswith(".wav") and not name.startswith("._"):
                yield Path(folder, name)
