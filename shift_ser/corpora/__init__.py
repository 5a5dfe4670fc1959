"""Corpora: from a folder on disk to one `datasets.Dataset`. A new corpus is one file and one entry in `CORPORA`."""

import os
from pathlib import Path

from datasets import Dataset

from . import iemocap, synthetic
from .check import CorpusReport
from .corpus import SPEAKERS_UNKNOWN, Corpus, CorpusInfo

CORPORA: dict[str, Corpus] = {entry.name: entry for entry in (iemocap.ENTRY, synthetic.ENTRY)}


def load_corpus(source: str | os.PathLike) -> Dataset:
    """Read a corpus: which one of `CORPORA` a folder holds is found out by its layout.

    Args:
        source: Folder of the corpus.

    Returns:
        Dataset with at least the columns `audio`, `label`, `utterance`, `speaker`; `corpus_info` tells what it is.

    Raises:
        FileNotFoundError: If there is no such folder, or it holds none of the known corpora.
        ValueError: If the corpus in it cannot be read.
    """
    return find_corpus(source).read(Path(source))


def find_corpus(source: str | os.PathLike) -> Corpus:
    """The entry of `CORPORA` whose layout a folder has.

    Raises:
        FileNotFoundError: If there is none; tells what was found.
    """
    root = Path(source).expanduser().absolute()
    for entry in CORPORA.values():
        if entry.is_here(root):
            return entry
    if not root.is_dir():
        found = "it is a file" if root.exists() else "there is no such folder"
    else:
        names = sorted(path.name for path in root.iterdir())
        found = f"it holds {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else "it is empty"
    raise FileNotFoundError(f"corpus must be a folder of one of {', '.join(CORPORA)}; got {root}: {found}")


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
    return entry.check(Path(folder))


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
    if told.dataset_name in CORPORA:
        return CORPORA[told.dataset_name].info
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
