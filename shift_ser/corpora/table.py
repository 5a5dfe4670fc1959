"""A corpus of your own: a table of files, a folder, a saved `Dataset`, a data set of the Hub, or a `Dataset` object."""

import csv
import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
import soundfile as sf
from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, Value

from ..model.media_container import MEDIA_SUFFIXES
from .corpus import CorpusInfo, SpeechAudio
from .votes import VOTES_FEATURE, read_votes, renamed, votes_column

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
AUDIO_FILES = (*(f".{name.lower()}" for name in sf.available_formats()), ".oga", ".opus", ".aif", *MEDIA_SUFFIXES)
OPTIONAL = ("session", "dialog", "split", "fold", "transcript", "sex", "language")
TARGETS = ("valence", "arousal", "dominance")
COLUMNS = ("audio", "label", "speaker", "utterance", *OPTIONAL, "votes", *TARGETS)
UNKNOWN = "unknown"  # what `speakers` says where nobody knows them
_SHOWN = 3  # names in a message
_SCRIPT = (
    "must be files or a table, not a loading script, which the package datasets runs no more: take a copy in Parquet"
    " (on the Hub, often `--revision refs/convert/parquet`), or write a table of its recordings"
)


@dataclass
class _Source:
    """Rows as they come: `columns` by name, all of one length; `folder` is where relative paths start."""

    name: str
    columns: dict[str, list[Any]]
    folder: Path
    info: datasets.DatasetInfo | None = None
    label_names: list[str] | None = None


def load_table(
    source: str | os.PathLike | Dataset,
    *,
    columns: Mapping[str, str] | None = None,
    speaker_regex: str | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
    exclude: Sequence[str] = (),
    speakers: str | None = None,
    split: str | None = None,
    revision: str | None = None,
) -> Dataset:
    """Read speech of your own.

    Args:
        source: A CSV, TSV, JSON lines or Parquet file, whose relative paths start at its folder; a folder with
            `metadata.csv` (or `.jsonl`, `.parquet`) in it, or of the form `label/file.wav`; a folder made by
            `Dataset.save_to_disk`; the name of a data set on the Hub; a `datasets.Dataset`.
        columns: Which column of the source is which, such as `{"audio": "path", "label": "emotion"}`. A column that is
            not named here is looked for under its own name. `audio` is needed, and `label` or one of `TARGETS`; see
            `COLUMNS`. `votes` may have any form that `read_votes` takes.
        speaker_regex: Finds the speaker in the path of a recording (relative to the source): its group `speaker`, or
            its first group, or all that it matches.
        labels: New label to the labels that it replaces, such as `{"happy": ["hap", "exc"]}`; others stay.
        exclude: Labels, old or new, whose rows are left out.
        speakers: `"unknown"` if nobody knows who speaks: each recording then counts as a speaker of its own, and all
            results are marked "speakers not told apart".
        split: Which split of a saved or Hub data set; all of them if it is not said.
        revision: Which revision of a data set on the Hub.

    Returns:
        Dataset with the columns `audio`, `utterance`, `speaker`, and those of `COLUMNS` that are there.

    Raises:
        FileNotFoundError: If the source or a recording is not there.
        ConnectionError: If the source is on the Hub and the Hub is out of reach.
        ValueError: If a column is missing, speakers are not known, a row has no label or is there twice, there is only
            one speaker or one label, or an option does not fit.
    """
    opened = _open(source, split=split, revision=revision)
    columns = _named_columns(opened, columns or {})
    paths = _paths(opened, opened.columns[columns["audio"]])
    local = [_below(path, opened.folder) for path in paths]
    plain = {name: column for name, column in columns.items() if name not in ("audio", "votes")}
    found: dict[str, list[Any]] = {name: list(map(_plain, opened.columns[column])) for name, column in plain.items()}
    found["utterance"] = found.get("utterance") or _names(local)
    found["speaker"] = _speakers(found, local, speaker_regex=speaker_regex, speakers=speakers)
    names: list[str] = []
    keep = list(range(len(paths)))
    if "label" in found:
        names, found["label"], keep = _labels(found["label"], opened.label_names, labels=labels or {}, exclude=exclude)
    elif labels or exclude:
        raise ValueError(f"labels and exclude must be left out without a column of labels, got {labels or exclude}")
    if "votes" in columns:
        found["votes"] = _votes(opened.columns[columns["votes"]], labels or {})
    rows = {name: [values[row] for row in keep] for name, values in found.items()}
    rows["audio"] = [str(paths[row]) for row in keep]
    _check(rows, [local[row] for row in keep])
    info = _info(opened, names or [name for name in TARGETS if name in rows], speakers_known=speakers != UNKNOWN)
    return _dataset(rows, names, info)


def relabel(
    dataset: Dataset, *, labels: Mapping[str, Sequence[str]] | None = None, exclude: Sequence[str] = ()
) -> Dataset:
    """Join, rename and leave out labels of a corpus, as `load_table` does.

    Args:
        dataset: With a `ClassLabel` column `label`.
        labels: New label to the labels that it replaces.
        exclude: Labels whose rows are left out.

    Returns:
        The dataset with other labels; its description lists them.
    """
    if not labels and not exclude:
        return dataset
    feature, info = dataset.features["label"], dataset.info.copy()
    names, values, keep = _labels(
        [feature.int2str(value) for value in dataset["label"]], feature.names, labels=labels or {}, exclude=exclude
    )
    info.description = f"{info.description.partition(':')[0]}: {', '.join(names)}."
    info.features = Features({**dataset.features, "label": ClassLabel(names=names)})
    index = {name: position for position, name in enumerate(names)}
    columns = {name: dataset.with_format("arrow")[:][name].take(keep).to_pylist() for name in dataset.features}
    columns["label"] = [index[values[row]] for row in keep]
    if "votes" in columns:
        columns["votes"] = _votes(columns["votes"], labels or {})
    return Dataset.from_dict(columns, info=info)


def pairs(words: Iterable[str], *, option: str) -> dict[str, str]:
    """`name=value` words of the command line as a mapping.

    Raises:
        ValueError: If a word has no `=`, or a name is there twice.

    Example:
        >>> pairs(["audio=path", "label=emotion"], option="columns")
        {'audio': 'path', 'label': 'emotion'}
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value) or name in found:
            raise ValueError(f"{option} must read name=value, each name once, got {word!r}")
        found[name] = value
    return found


def is_hub_name(source: str) -> bool:
    """Whether a source may be the name of a data set on the Hub: `namespace/name`, and no table."""
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source)) and Path(source).suffix.lower() not in TABLES


# Opening


def _open(source: str | os.PathLike | Dataset, *, split: str | None, revision: str | None) -> _Source:
    if isinstance(source, Dataset):
        return _of_dataset(source, name=source.info.dataset_name or "own-data", folder=Path.cwd())
    path = Path(source).expanduser().absolute()
    if path.is_dir():
        return _open_folder(path, split=split)
    if path.is_file():
        if path.suffix.lower() not in TABLES:
            raise ValueError(f"corpus must be a folder or a table ({', '.join(TABLES)}), got {str(path)!r}")
        return _Source(path.stem, _read_table(path), path.parent)
    if not is_hub_name(str(source)):
        raise FileNotFoundError(f"corpus must be there, or be the name of a data set on the Hub, got {str(source)!r}")
    return _open_hub(str(source), split=split, revision=revision)


def _open_folder(folder: Path, *, split: str | None) -> _Source:
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return _of_dataset(_one(datasets.load_from_disk(str(folder)), split), name=folder.name, folder=folder)
    for suffix in TABLES:
        if (table := folder / f"metadata{suffix}").is_file():
            return _Source(folder.name, _read_table(table), folder)
    if (script := folder / f"{folder.name}.py").is_file():
        raise ValueError(f"corpus {str(folder)!r} {_SCRIPT}, got {script.name}")
    files = sorted(path for path in folder.glob("*/**/*") if path.suffix.lower() in AUDIO_FILES)
    files = [path for path in files if not path.name.startswith("._")]
    if not files:
        listed = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise FileNotFoundError(
            f"corpus must be a known corpus, hold metadata.csv, or have the form label/file.wav;"
            f" {folder} holds {listed}"
        )
    labels = [path.relative_to(folder).parts[0] for path in files]
    return _Source(folder.name, {"audio": list(files), "label": labels}, folder)


def _read_table(path: Path) -> dict[str, list[Any]]:
    try:
        if path.suffix.lower() == ".parquet":
            return pyarrow.parquet.read_table(path).to_pydict()
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} must be a table that can be read, got: {error}") from error
    rows = _json_rows(path, text) if path.suffix.lower() in (".jsonl", ".ndjson") else _csv_rows(path, text)
    if not rows:
        raise ValueError(f"{path} must hold a row at least, got none")
    return {name: [row.get(name) for row in rows] for name in rows[0]}


def _json_rows(path: Path, text: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: a line must be a JSON object, got {error}") from error
        if row is not None and not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: a line must be a JSON object, got {line[:40]!r}")
        rows += [row] if row else []
    return rows


def _csv_rows(path: Path, text: str) -> list[dict[str, Any]]:
    head = text.partition("\n")[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t|", key=head.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f"it has {len(row)} fields, the header {len(reader.fieldnames or ())}")
            rows.append(row)
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{path}, line {reader.line_num}: a line must fit the header, but {error}") from error
    return rows


def _open_hub(name: str, *, split: str | None, revision: str | None) -> _Source:
    told = f"corpus {name!r} is not a file or folder here; as a data set of the Hub"
    try:
        loaded = datasets.load_dataset(name, split=split, revision=revision)
    except (datasets.exceptions.DatasetNotFoundError, FileNotFoundError) as error:
        raise FileNotFoundError(f"{told} it was not found: {_line(error)}") from error
    except (ConnectionError, datasets.exceptions.DatasetGenerationError) as error:
        raise ConnectionError(f"{told} it cannot be read, the Hub is out of reach: {_line(error)}") from error
    except (RuntimeError, ValueError) as error:  # a loading script, an unknown split or configuration
        if "scripts are no longer supported" in str(error):
            raise ValueError(f"{told} {_SCRIPT}, got: {_line(error)}") from error
        raise ValueError(f"{told} it cannot be loaded: {_line(error)}") from error
    return _of_dataset(_one(loaded, split), name=name.rpartition("/")[2], folder=Path.cwd())


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _one(loaded: Dataset | DatasetDict, split: str | None) -> Dataset:
    """A split, or all of them in one with a column `split`."""
    if isinstance(loaded, Dataset):
        return loaded
    if split is not None:
        if split not in loaded:
            raise ValueError(f"split must be one of {', '.join(map(str, loaded))}, got {split!r}")
        return loaded[split]
    parts = [
        part if "split" in part.column_names else part.add_column("split", [str(name)] * len(part))
        for name, part in loaded.items()
    ]
    return datasets.concatenate_datasets(parts)


def _of_dataset(dataset: Dataset, *, name: str, folder: Path) -> _Source:
    for column, feature in dataset.features.items():
        if isinstance(feature, Audio):
            dataset = dataset.cast_column(column, Audio(decode=False))
        elif isinstance(feature, SpeechAudio):
            dataset = dataset.cast_column(column, SpeechAudio(decode=False))
    columns = {column: list(dataset[column]) for column in dataset.column_names}
    label_names = None
    for column, feature in dataset.features.items():
        if isinstance(feature, ClassLabel):
            columns[column] = [None if value is None else feature.int2str(value) for value in columns[column]]
            label_names = feature.names
    return _Source(name, columns, folder, info=dataset.info, label_names=label_names)


# Columns


def _named_columns(source: _Source, said: Mapping[str, str]) -> dict[str, str]:
    """Column of the source for each of ours that is there."""
    there = ", ".join(source.columns)
    if unknown := [name for name in said if name not in COLUMNS]:
        raise ValueError(f"columns must name some of {', '.join(COLUMNS)}, got {unknown[0]!r}")
    if missing := [f"{name}={column}" for name, column in said.items() if column not in source.columns]:
        raise ValueError(f"columns must name what is there ({there}), got {missing[0]!r}")
    chosen = {name: said.get(name, name) for name in COLUMNS if said.get(name, name) in source.columns}
    if "audio" not in chosen and "file_name" in source.columns:
        chosen["audio"] = "file_name"
    for name in ("audio", "label"):
        if name not in chosen and (name == "audio" or not set(TARGETS) & set(chosen)):
            raise ValueError(f"{source.name} must have a column {name!r}, it has {there}; columns {name}=... names it")
    return chosen


def _paths(source: _Source, values: Sequence[Any]) -> list[Path]:
    """Where each recording lies; audio that is inside a table is written to the cache of `datasets`."""
    paths = [source.folder / value if isinstance(value, (str, Path)) else _stored(value) for value in values]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{len(missing)} of {len(paths)} recordings are not there: {_first(missing)}")
    return paths


def _stored(value: Any) -> Path:
    """The file of a recording that comes as a dict with `bytes`, `path`, or `array` and `sampling_rate`."""
    if not isinstance(value, Mapping) or not (value.keys() & {"bytes", "path", "array"}):
        raise ValueError(f"audio must be a path, bytes, or an array with its sampling_rate, got {str(value)[:60]!r}")
    content, suffix = value.get("bytes"), Path(value.get("path") or "audio.wav").suffix
    if value.get("array") is not None:
        file = io.BytesIO()
        sf.write(file, value["array"], int(value["sampling_rate"]), format="WAV", subtype="FLOAT")
        content, suffix = file.getvalue(), ".wav"
    if content is None:
        return Path(value["path"] or "")
    digest = hashlib.sha256(content).hexdigest()
    stem = re.sub(r"[^\w-]+", "_", Path(value.get("path") or "audio").stem)
    path = Path(datasets.config.HF_DATASETS_CACHE) / "shift_ser_audio" / digest[:2] / digest / f"{stem}{suffix}"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        part.write_bytes(content)
        os.replace(part, path)
    return path


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()


def _plain(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _names(local: Sequence[str]) -> list[str]:
    """Names of utterances: file names, as much of their folders as tells them apart, without suffix if that will do."""
    for names in (
        [Path(path).stem for path in local],
        [str(Path(path).with_suffix("")) for path in local],
    ):
        if len(set(names)) == len(set(local)):
            return names
    return list(local)


def _speakers(
    found: Mapping[str, list[str]], local: Sequence[str], *, speaker_regex: str | None, speakers: str | None
) -> list[str]:
    if speakers not in (None, UNKNOWN):
        raise ValueError(f"speakers must be {UNKNOWN!r} or not said, got {speakers!r}")
    ways = [speaker_regex is not None, speakers == UNKNOWN]
    if sum(ways) > 1 or (speakers and "speaker" in found):
        raise ValueError("speakers 'unknown' must not be said where a column or speaker_regex tells the speaker")
    if speakers == UNKNOWN:
        return list(found["utterance"])
    if speaker_regex is not None:
        return [_speaker(path, speaker_regex) for path in local]
    if "speaker" not in found:
        raise ValueError(
            "speakers must be known, or scores are of people who were heard in training: name their column (columns"
            " speaker=...), or give speaker_regex over the path, or say speakers 'unknown'"
        )
    if without := [path for path, speaker in zip(local, found["speaker"], strict=True) if not speaker]:
        raise ValueError(f"{len(without)} rows have no speaker: {_first(without)}")
    return found["speaker"]


def _speaker(path: str, pattern: str) -> str:
    try:
        match = re.search(pattern, path)
    except re.error as error:
        raise ValueError(f"speaker_regex must be a regular expression, got {pattern!r}: {error}") from error
    if not match:
        raise ValueError(f"speaker_regex must match every path, but {pattern!r} does not match {path!r}")
    if "speaker" in match.re.groupindex:
        return match["speaker"]
    return match[1] if match.re.groups else match[0]


def _labels(
    values: Sequence[str],
    order: Sequence[str] | None,
    *,
    labels: Mapping[str, Sequence[str]],
    exclude: Sequence[str],
) -> tuple[list[str], list[str], list[int]]:
    """Names of the classes, the label of each row, and which rows are kept."""
    there = Counter(values)
    new_of: dict[str, str] = {}
    for name, olds in labels.items():
        for old in [olds] if isinstance(olds, str) else olds:
            if old not in there:
                raise ValueError(f"labels must name what is there ({', '.join(sorted(there))}), got {old!r}")
            if new_of.setdefault(old, name) != name:
                raise ValueError(f"labels must give {old!r} one new label, got {new_of[old]!r} and {name!r}")
    new = [new_of.get(value, value) for value in values]
    if unknown := [name for name in exclude if name not in there and name not in new_of.values()]:
        raise ValueError(f"exclude must name labels that are there ({', '.join(sorted(there))}), got {unknown[0]!r}")
    keep = [row for row, value in enumerate(values) if value not in exclude and new[row] not in exclude]
    used = {new[row] for row in keep}
    if "" in used:
        raise ValueError(f"{sum(new[row] == '' for row in keep)} rows have no label; give them one or take them out")
    ordered = [new_of.get(name, name) for name in order] if order else sorted(used)
    names = [name for name in dict.fromkeys(ordered) if name in used]
    if len(names) < 2:
        raise ValueError(f"a corpus must have at least two labels, got {names}")
    return names, new, keep


def _votes(values: Sequence[Any], labels: Mapping[str, Sequence[str]]) -> list[list[dict[str, Any]]]:
    """A column of votes, with the labels that were renamed."""
    new_of = {old: name for name, olds in labels.items() for old in ([olds] if isinstance(olds, str) else olds)}
    try:
        return [votes_column(renamed(read_votes(value), new_of)) for value in values]
    except ValueError as error:
        raise ValueError(f"column votes: {error}") from None


def _check(rows: Mapping[str, list[str]], local: Sequence[str]) -> None:
    for what, values in (("recordings", local), ("utterances", rows["utterance"])):
        twice = [name for name, count in Counter(values).items() if count > 1]
        if twice:
            raise ValueError(f"{what} must be there once, got {len(twice)} of them twice: {_first(twice)}")
    speakers = set(rows["speaker"])
    if len(speakers) < 2:
        raise ValueError(f"a corpus must have at least two speakers, one of whom tests, got {sorted(speakers)}")


def _info(source: _Source, names: Sequence[str], *, speakers_known: bool) -> CorpusInfo:
    name = re.sub(r"[^\w.-]+", "-", source.name).strip("-.") or "own-data"
    told = source.info
    return CorpusInfo(
        name=name,
        title=name,
        description=f"{name}: {', '.join(names)}.",
        license=(told.license if told else None) or None,
        homepage=(told.homepage if told else None) or None,
        citation=(told.citation if told else None) or None,
        speakers_known=speakers_known,
    )


def _dataset(rows: Mapping[str, list[str]], names: Sequence[str], info: CorpusInfo) -> Dataset:
    features: dict[str, Any] = {"audio": SpeechAudio()}
    if names:
        features["label"] = ClassLabel(names=list(names))
    kinds = {"votes": VOTES_FEATURE, **dict.fromkeys(TARGETS, Value("float64"))}
    features |= {name: kinds.get(name, Value("string")) for name in rows if name not in features}
    columns: dict[str, list[Any]] = {name: list(rows[name]) for name in features}
    if names:
        columns["label"] = [names.index(label) for label in rows["label"]]
    if "session" in columns and all(value.isdecimal() for value in columns["session"]):
        columns["session"], features["session"] = [int(value) for value in columns["session"]], Value("int64")
    for name in TARGETS:
        if name in columns:
            columns[name] = [_number(value, name) for value in rows[name]]
    return Dataset.from_dict(columns, info=info.dataset_info(Features(features), own=True))


def _number(value: str, name: str) -> float | None:
    try:
        return float(value) if value else None
    except ValueError:
        raise ValueError(f"{name} must hold numbers, got {value!r}") from None


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
