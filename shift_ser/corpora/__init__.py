"""Corpora: from a folder on disk to one `datasets.Dataset`. A new corpus is one file here, with its `ENTRY`."""

import importlib
import os
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from datasets import Dataset

from .check import CorpusReport, check_dataset
from .corpus import BUILDER, SPEAKERS_UNKNOWN, Corpus, CorpusInfo
from .table import TABLES, is_hub_name, load_table, relabel

# Every file of this folder that has an `ENTRY`, by the name of the corpus; in the order of the file names.
_FILES = sorted(module.name for module in pkgutil.iter_modules(__path__))
_ENTRIES = (getattr(importlib.import_module(f".{name}", __name__), "ENTRY", None) for name in _FILES)
CORPORA: dict[str, Corpus] = {entry.name: entry for entry in _ENTRIES if entry is not None}


def load_corpus(
    source: str | os.PathLike | Dataset,
    *,
    subset: str | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
    exclude: Sequence[str] = (),
    **options: Any,
) -> Dataset:
    """Read a corpus: one of `CORPORA`, found out by the layout of its folder, or one of your own.

    Args:
        source: Folder of a corpus, or anything that `load_table` reads.
        subset: What is read of a known corpus, one of its `subsets`.
        labels: New label to the labels that it replaces, such as `{"happy": ["hap", "exc"]}`.
        exclude: Labels whose rows are left out.
        options: For a corpus of your own: `columns`, `speaker_regex`, `speakers`, `split`, `revision` of `load_table`.

    Returns:
        Dataset with at least the columns `audio`, `label`, `utterance`, `speaker`; `corpus_info` tells what it is.

    Raises:
        FileNotFoundError: If there is no such folder or file, or it holds none of what is read.
        ValueError: If the corpus in it cannot be read, or an option does not fit it.
    """
    options = {name: value for name, value in options.items() if value is not None}
    entry = None if isinstance(source, Dataset) else find_corpus(source)
    if entry is None:
        if subset is not None:
            raise ValueError(f"subset must be left out for a corpus of your own, got {subset!r}")
        return load_table(source, labels=labels, exclude=exclude, **options)
    if options:
        name, value = next(iter(options.items()))
        raise ValueError(
            f"{name} must be left out for {entry.info.title}, which has a reader of its own, got {value!r}"
        )
    if subset is not None and subset not in entry.subsets:
        raise ValueError(f"subset of {entry.name} must be one of {list(entry.subsets)}, got {subset!r}")
    chosen = {} if subset is None else {"subset": subset}
    return relabel(entry.read(Path(cast(str, source)), **chosen), labels=labels, exclude=exclude)


def find_corpus(source: str | os.PathLike) -> Corpus | None:
    """The entry of `CORPORA` whose layout a folder has; `None` for what may be a corpus of one's own.

    Raises:
        FileNotFoundError: If there is nothing of that name, and it is no name of a data set on the Hub.
    """
    root = Path(source).expanduser().absolute()
    if not root.exists() and not is_hub_name(str(source)):
        raise FileNotFoundError(
            f"corpus must be a folder, a table ({', '.join(TABLES)}) or namespace/name of a data set on the Hub;"
            f" there is nothing at {str(root)!r}"
        )
    return next((entry for entry in CORPORA.values() if entry.is_here(root)), None) if root.is_dir() else None


def check_corpus(name: str | None, folder: str | os.PathLike) -> CorpusReport:
    """Look a copy of a corpus over, every recording included.

    Args:
        name: Key of `CORPORA`; `None` finds out which corpus it is.
        folder: Where it is.

    Raises:
        ValueError: If no corpus has that name.
        FileNotFoundError: If the folder does not hold it.
    """
    if name is not None and name not in CORPORA:
        raise ValueError(f"name must be one of {', '.join(CORPORA)}, got {name!r}")
    entry = CORPORA[name] if name else find_corpus(folder)
    if entry is None:
        raise FileNotFoundError(f"folder must hold one of {', '.join(CORPORA)}; {str(folder)!r} has none's layout")
    if entry.check is not None:
        return entry.check(Path(folder))
    return check_dataset(entry.read(Path(folder)), title=entry.info.title, root=Path(folder))


def corpus_info(dataset: Dataset) -> CorpusInfo:
    """What the corpus of a dataset says of itself.

    Args:
        dataset: From `load_corpus`, or any other, which is described by what its `info` holds.

    Example:
        >>> from datasets import DatasetInfo
        >>> info = corpus_info(Dataset.from_dict({"label": [0]}, info=DatasetInfo(dataset_name="my_calls")))
        >>> info.name, info.license
        ('my_calls', None)
    """
    told = dataset.info
    if told.builder_name == BUILDER and told.dataset_name in CORPORA:
        info = CORPORA[told.dataset_name].info
        if told.description == info.description:
            return info
        return replace(info, description=told.description, labels_note=None)
    name = told.dataset_name or "own-data"
    feature = dataset.features.get("label")
    classes = ", ".join(getattr(feature, "names", None) or [])
    return CorpusInfo(
        name=name,
        title=name,
        description=told.description or (f"{name}: {classes}." if classes else f"{name}."),
        license=told.license or None,
        homepage=told.homepage or None,
        citation=told.citation or None,
        speakers_known=told.config_name != SPEAKERS_UNKNOWN,
    )


def corpora_table() -> str:
    """The known corpora in Markdown, for `docs/corpora.md`: published count, subsets, usual protocol, licence."""
    lines = [
        "| corpus | name | recordings | subsets | usual protocol | licence |",
        "| --- | --- | ---: | --- | --- | --- |",
    ]
    for name, entry in CORPORA.items():
        count = "not known" if entry.published is None else str(entry.published)
        licence = entry.info.license_name or entry.info.license or "not stated"
        cells = (entry.info.title, f"`{name}`", count, ", ".join(entry.subsets), entry.protocol, licence)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
