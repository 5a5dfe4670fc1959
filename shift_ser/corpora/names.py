"""Corpora that tell label and speaker in the path of each recording, or in a table of their own; a reader is data."""

import csv
import itertools
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import soundfile as sf
from datasets import ClassLabel, Dataset, Features, Value

from .check import CorpusReport, judge_recordings, listen
from .corpus import Corpus, CorpusInfo, SpeechAudio
from .votes import VOTES_FEATURE, votes_column

_LOOKED_AT = 60  # recordings by which a folder is recognised
_SHOWN = 3  # names in a message
_COLUMNS = ("session", "dialog", "split", "intensity", "transcript")  # what is told of a recording and becomes a column
_TARGETS = ("valence", "arousal", "dominance")


@dataclass(frozen=True)
class Subset:
    """What is read of a corpus.

    Attributes:
        description: In a sentence.
        labels: Codes that are read, and the label of each.
        where: Regular expressions that groups of the pattern have to match; a group that is absent counts as empty.
    """

    description: str
    labels: Mapping[str, str]
    where: Mapping[str, str] = field(default_factory=dict)

    def has(self, told: Mapping[str, Any]) -> bool:
        """Whether a recording of which this is told belongs to it."""
        return (
            told["label"] in self.labels
            and not told.get("defect")
            and all(re.fullmatch(value, told.get(name, "")) for name, value in self.where.items())
        )


@dataclass(frozen=True)
class Grammar:
    """How a corpus names its recordings, or where it lists them.

    Attributes:
        info: What it says of itself.
        pattern: Regular expression that the end of a path below the root has to match, in upper or lower case; its
            groups `label` and `speaker` are needed, `sex`, `session`, `split` and `intensity` may be there.
        table: Where below the root the corpus lists its recordings, as a glob, if names do not tell.
        listing: What the table of a corpus in a folder tells: for each recording `audio` (its path), `label`,
            `speaker`, and what else becomes a column; `votes` is a mapping from label to number.
        subsets: What can be read, by name; the first is the default.
        published: Recordings of each code of the default subset in the published corpus; empty if they are not known.
        total: How many recordings are published, of the default subset; 0 if it is not known.
        rate: Published sampling rate in Hz; 0 if it is not known.
        sex_of: Tells the sex from what the pattern found.
        sexes: Tells the sex of each speaker from what lies in a folder.
        suffixes: How the names of its recordings end.
        defect: Tells from what the pattern found why a recording is not read; empty: it is.
        relabel: Tells other labels of the recordings from what lies in a folder, for the subset whose name it is
            given: from the name of a recording to a code and other columns. What it does not name is left out.
        defects: Looks for what is known to be wrong with the corpus, in a folder, and tells it in sentences.
        protocol: How it is usually divided into folds.
    """

    info: CorpusInfo
    subsets: Mapping[str, Subset]
    pattern: str = ""
    table: str = ""
    listing: Callable[[Path], Iterable[dict[str, Any]]] | None = None
    total: int = 0
    rate: int = 0
    published: Mapping[str, int] = field(default_factory=dict)
    sex_of: Callable[[Mapping[str, str]], str] | None = None
    sexes: Callable[[Path], Mapping[str, str]] | None = None
    suffixes: tuple[str, ...] = (".wav",)
    defect: Callable[[Mapping[str, str]], str] | None = None
    relabel: Callable[[Path, str], Mapping[str, Mapping[str, Any]] | None] | None = None
    defects: Callable[[Path], Iterable[str]] | None = None
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
            published=self.total or None,
        )

    def told(self, root: Path) -> Iterator[tuple[Path, dict[str, Any] | None]]:
        """Each recording of a folder with what is told of it; `None` if it is not named as in this corpus."""
        if self.listing is not None:
            for row in self.listing(root) if self.lists(root) else ():
                yield Path(row["audio"]), row
        else:
            for path in _recordings(root, self.suffixes):
                yield path, self.parse(path, root)

    def lists(self, root: Path) -> bool:
        """Whether the corpus's own table is in a folder."""
        return bool(self.table) and any(root.glob(self.table))

    def parse(self, path: Path, root: Path) -> dict[str, str] | None:
        """What the path of a recording tells; `None` if it is not named as in this corpus."""
        ends = "|".join(map(re.escape, self.suffixes))
        match = re.search(rf"(?:^|/)(?:{self.pattern})(?:{ends})$", path.relative_to(root).as_posix(), re.IGNORECASE)
        if match is None:
            return None
        found = {name: value for name, value in match.groupdict().items() if value is not None}
        told = {**found, "label": found["label"].lower(), "speaker": found["speaker"].lower()}
        return {**told, "defect": self.defect(told)} if self.defect else told

    @property
    def what(self) -> str:
        """How its recordings are known, for messages."""
        return f"listed in {self.table}" if self.listing else "named as in it"

    def subset(self, name: str | None) -> Subset:
        """A subset, by default the first."""
        return self.subsets[name or next(iter(self.subsets))]


def is_here(grammar: Grammar, root: Path) -> bool:
    """Whether a folder has the corpus's table, or nearly all of its first recordings are named as in the corpus."""
    if grammar.listing is not None:
        return grammar.lists(root)
    looked_at = list(itertools.islice(_recordings(root, grammar.suffixes), _LOOKED_AT))
    return sum(grammar.parse(path, root) is not None for path in looked_at) > 0.8 * len(looked_at)


def read_names(root: str | Path, *, grammar: Grammar, subset: str | None = None) -> Dataset:
    """Read a corpus; recordings with other names are passed over.

    Raises:
        FileNotFoundError: If there is none with a name of the corpus.
        ValueError: If two recordings of one name are in different folders.
    """
    root, chosen = Path(root).expanduser().absolute(), grammar.subset(subset)
    other = grammar.relabel(root, subset) if grammar.relabel and subset else None
    rows: list[dict[str, Any]] = [
        {"utterance": path.stem, **told, "audio": str(path)}
        for path, told in _relabelled(grammar.told(root), other)
        if told and chosen.has(told)
    ]
    if not rows:
        raise FileNotFoundError(f"root must hold {grammar.info.title}, {root} has no recording {grammar.what}")
    if missing := [row["audio"] for row in rows if not Path(row["audio"]).is_file()]:
        raise FileNotFoundError(f"{len(missing)} of {len(rows)} recordings are missing: {', '.join(missing[:_SHOWN])}")
    if sexes := grammar.sexes(root) if grammar.sexes else {}:
        rows = [{**row, "sex": sexes.get(row["speaker"], "")} for row in rows]
    if len({row["utterance"] for row in rows}) < len(rows):
        rows = [{**row, "utterance": f"{Path(row['audio']).parent.name}/{row['utterance']}"} for row in rows]
    if len({row["utterance"] for row in rows}) < len(rows):
        rows = [{**row, "utterance": Path(row["audio"]).relative_to(root).with_suffix("").as_posix()} for row in rows]
    rows.sort(key=lambda row: (row["speaker"], row["utterance"]))
    twice = [name for name, count in Counter(row["utterance"] for row in rows).items() if count > 1]
    if twice:
        raise ValueError(f"{root} must hold each recording once, has {len(twice)} twice: {', '.join(twice[:_SHOWN])}")
    return _dataset(rows, grammar, chosen)


def _relabelled(
    told: Iterable[tuple[Path, dict[str, Any] | None]], other: Mapping[str, Mapping[str, Any]] | None
) -> Iterator[tuple[Path, dict[str, Any] | None]]:
    """What is told of each recording, with other labels where there are any; what has none is told nothing of."""
    for path, row in told:
        if other is None or row is None:
            yield path, row
        elif path.stem in other:
            yield path, {**row, **other[path.stem]}


def _dataset(rows: list[dict[str, Any]], grammar: Grammar, subset: Subset) -> Dataset:
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
    if all("votes" in row for row in rows):
        columns["votes"], features["votes"] = [votes_column(row["votes"]) for row in rows], VOTES_FEATURE
    for name in _TARGETS:
        if all(name in row for row in rows):
            columns[name], features[name] = [row[name] for row in rows], Value("float64")
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
    for path, told in grammar.told(root):
        if told is None:
            report.passed_over[f"recordings of other names, such as {path.relative_to(root)}"] += 1
        elif told.get("defect"):
            report.passed_over[told["defect"]] += 1
        elif not chosen.has(told):
            report.skipped[told["label"]] += 1
        else:
            used[path.relative_to(root).as_posix()] = path
            report.counts[""][told["label"]] += 1
    if not used:
        raise FileNotFoundError(f"root must hold {grammar.info.title}, {root} has no recording {grammar.what}")
    report.audio = listen(used)
    report.audio.pop("another rate", None)  # compared with the published rate instead
    judge_recordings(report)
    if grammar.rate and (other := [name for name, path in used.items() if _rate(path) not in (None, grammar.rate)]):
        shown = ", ".join(other[:_SHOWN]) + (", ..." if len(other) > _SHOWN else "")
        report.notes.append(f"{len(other)} recording(s) are not at the published {grammar.rate} Hz: {shown}")
    report.notes += grammar.defects(root) if grammar.defects else []
    found = report.counts[""]
    if not grammar.total:
        report.notes.append("the published counts are not known")
    elif found.total() != grammar.total or (grammar.published and dict(found) != dict(grammar.published)):
        report.notes.append("the counts are not the published ones (see the table)")
    return report


def read_csv(path: Path, *needed: str) -> list[dict[str, str]]:
    """The rows of a corpus's CSV table.

    Raises:
        ValueError: If a column is missing; names the file and lists what there is.
    """
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if missing := [name for name in needed if name not in (reader.fieldnames or ())]:
        raise ValueError(f"{path} must have the column {missing[0]!r}, it has {', '.join(reader.fieldnames or ())}")
    return rows


def number(text: str) -> float | None:
    """A number of a table; `None` where there is none, or NaN."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _rate(path: Path) -> int | None:
    try:
        return int(sf.info(path).samplerate)
    except (sf.LibsndfileError, OSError):
        return None


def _recordings(root: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """The files with these suffixes below a folder, sorted within each, but for those that a Mac leaves beside them."""
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(files):
            if name.lower().endswith(suffixes) and not name.startswith("._"):
                yield Path(folder, name)
