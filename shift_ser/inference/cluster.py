"""Labels of more recordings than one machine should take: the rows of a `ScoreFile` as Parquet, by Ray Data.

Without a cluster Ray starts one on this machine. Recordings and output may lie wherever fsspec finds them.
"""

import hashlib
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch

from .predict import SCORE, SUFFIXES, classify_recordings, find_recordings, load_classifier

logger = logging.getLogger(__name__)

BLOCK = 256  # recordings that a worker takes at once: a file of the output, and what is done again after a kill


@dataclass(frozen=True)
class ClusterModel:
    """What each worker loads, and how it tells its scores.

    Attributes:
        model: Hub name or folder of a saved model, which every machine of the cluster must reach.
        loading: Options of `load_classifier`.
        options: Of `classify_recordings`: `labels`, `abstain`, `max_memory`.
    """

    model: str
    loading: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


def classify_on_cluster(
    recordings: Sequence[str], output: str, model: ClusterModel, *, labels: Sequence[str], name: str,
    workers: int | None = None, block: int = BLOCK,
) -> dict[str, str]:  # fmt: skip
    """Classify recordings on the workers of a Ray cluster, and write a row for each into a folder of Parquet files.

    A row has `recording`, `label`, a `score_` of each label, `model`, and `error` where there are no scores. The same
    call goes on where it was stopped: a recording with a row is not classified again. A worker that dies is replaced,
    and what it had not written is done again. The cluster is that of `RAY_ADDRESS`, else this machine.

    Args:
        recordings: Paths, which every machine must reach, or addresses that fsspec knows (see `find_anywhere`).
        output: Folder of the Parquet files; a path or such an address.
        model: What classifies.
        labels: The labels and dimensions that it tells, in the order of the columns.
        name: What the scores come from, such as the model's name and dtype; in every row and the same in all.
        workers: Processes that hold a model; by default one for each CPU of the cluster, or each GPU where it has any.
        block: Recordings that a worker takes at once.

    Returns:
        From each recording without scores, of this call and of earlier ones, to its error.

    Raises:
        ValueError: If an option is below 1, or `output` holds something else, or rows of another model.
    """
    for option, value in (("workers", workers), ("block", block)):
        if value is not None and value < 1:
            raise ValueError(f"{option} must be at least 1, got {value}")
    schema = pa.schema(
        [
            *((column, pa.string()) for column in ("recording", "label")),
            *((f"{SCORE}{label}", pa.float64()) for label in labels),
            *((column, pa.string()) for column in ("model", "error")),
        ]
    )
    filesystem, folder = fsspec.core.url_to_fs(output)
    filesystem.makedirs(folder, exist_ok=True)
    parts = _Parts(filesystem, folder, schema=schema, name=name)
    done = parts.errors()
    todo = [recording for recording in recordings if recording not in done]
    if todo:
        logger.info("%d of %d recordings are to be classified", len(todo), len(recordings))
        _run(todo, parts, model, workers=workers, block=block)
        done = parts.errors()
    return {recording: error for recording in recordings if (error := done[recording]) is not None}


def find_anywhere(place: str) -> list[str]:
    """Paths of this machine as they are, and addresses of audio files below an address of fsspec, sorted.

    Raises:
        FileNotFoundError: If the place is not there.
    """
    if "://" not in place:
        if not os.path.exists(place):
            raise FileNotFoundError(f"places must be files or folders that are there, got {place!r}")
        return list(find_recordings([place]))
    filesystem, path = fsspec.core.url_to_fs(place)
    if not filesystem.exists(path):
        raise FileNotFoundError(f"places must be files or folders that are there, got {place!r}")
    files = filesystem.find(path)
    audio = [file for file in files if file == path or os.path.splitext(file)[1].lower() in SUFFIXES]
    if len(audio) < len(files):
        logger.warning("%s: %d files are no audio by their suffix and are skipped", place, len(files) - len(audio))
    return sorted(filesystem.unstrip_protocol(file) for file in audio)


def _run(todo: Sequence[str], parts: "_Parts", model: ClusterModel, *, workers: int | None, block: int) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if ours := not ray.is_initialized():
        # on this machine: workers hold a CPU each, and writing wants one beside
        cpus = None if "RAY_ADDRESS" in os.environ else 1 + (workers or os.cpu_count() or 1)
        ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        has = ray.cluster_resources()
        gpus, cpus = int(has.get("GPU", 0)), max(1, int(has.get("CPU", 1)) - 1)
        blocks = -(-len(todo) // block)
        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = ray.data.from_items([{"recording": name} for name in todo], override_num_blocks=blocks)
        pool = ray.data.ActorPoolStrategy(size=min(workers or gpus or cpus, blocks))
        share: dict[str, Any] = {"num_gpus": 1} if gpus else {"num_cpus": 1}
        rows.map_batches(
            _Worker, fn_constructor_args=(model, parts.schema, parts.name), batch_size=None, batch_format="pyarrow",
            compute=pool, **share,
        ).write_datasink(parts)  # fmt: skip
    finally:
        if ours:
            ray.shutdown()


class _Worker:
    """A process of the cluster with a model of its own."""

    def __init__(self, model: ClusterModel, schema: pa.Schema, name: str) -> None:
        torch.set_num_threads(1)
        self.classifier, self.options = load_classifier(model.model, **model.loading), model.options
        self.schema, self.name = schema, name

    def __call__(self, batch: pa.Table) -> pa.Table:
        names = batch["recording"].to_pylist()
        results = classify_recordings(self.classifier, _Recordings(names), **self.options)
        rows = [
            {"recording": name, "label": result.label, "model": self.name, "error": result.error}
            | {f"{SCORE}{label}": score for label, score in (result.scores or {}).items()}
            for name, result in zip(names, results, strict=True)
        ]
        return pa.Table.from_pylist(rows, schema=self.schema)


class _Recordings(Sequence[Any]):
    """Paths as they are, and the bytes of what lies elsewhere, fetched one by one."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, place: Any) -> Any:
        name = self.names[place]
        if "://" not in name:
            return name
        with fsspec.open(name, "rb") as file:
            return file.read()


class _Parts(ray.data.Datasink):
    """A folder of Parquet files, one for each block; a file has its name only when it is whole."""

    def __init__(self, filesystem: Any, folder: str, *, schema: pa.Schema, name: str) -> None:
        self.filesystem, self.folder, self.schema, self.name = filesystem, folder, schema, name

    def write(self, blocks: Iterable[Any], ctx: Any) -> None:
        """Write the rows of a task; done twice it leaves the same file."""
        for block in blocks:
            rows = block.select(self.schema.names).cast(self.schema)
            names = "\n".join(rows["recording"].to_pylist())
            part = f"{self.folder}/part-{hashlib.sha256(names.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"
            with self.filesystem.open(f"{part}.unfinished", "wb") as file:
                pq.write_table(rows, file)
            self.filesystem.mv(f"{part}.unfinished", f"{part}.parquet")

    def errors(self) -> dict[str, str | None]:
        """From each recording with a row to its error.

        Raises:
            ValueError: If a file holds something else, or scores of another model.
        """
        found: dict[str, str | None] = {}
        for part in sorted(self.filesystem.glob(f"{self.folder}/*.parquet")):
            with self.filesystem.open(part, "rb") as file:
                rows = pq.read_table(file)
            models = set(rows["model"].to_pylist()) if rows.schema.equals(self.schema) else set(rows.column_names)
            if models != {self.name}:
                raise ValueError(
                    f"output must hold scores of {self.name!r} in {self.schema.names}, got {sorted(models)} in {part!r}"
                )
            found |= zip(rows["recording"].to_pylist(), rows["error"].to_pylist(), strict=True)
        return found
