"""Labels of many recordings, as fast as the model goes and in constant memory."""

import copy
import csv
import io
import logging
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import soundfile as sf
import torch
from transformers import PreTrainedModel, pipeline

from ..evaluation.run_folder import check_model_files
from ..matrix_products import use_matrix_products
from ..model.losses import split_outputs
from ..model.media_container import MEDIA_SUFFIXES
from ..model.model_place import check_model_place
from ..model.pipeline_shift_ser import ShiftAudioClassificationPipeline
from ..model.speech_input import printable
from .batches import Done, in_batches
from .graph import ENGINES, GraphModel

logger = logging.getLogger(__name__)

SCORE = "score_"
BFLOAT16_BOUND = 0.1  # most that bfloat16 may change a logit, as a share of how far logits lie apart (at least 1)

DTYPES = ("auto", "float32", "bfloat16")
TORCH = "torch"
SUFFIXES = frozenset(f".{name.lower()}" for name in sf.available_formats() if name != "RAW") | {
    ".aif", ".oga", ".opus", *MEDIA_SUFFIXES,
}  # fmt: skip
_SHOWN = 3  # skipped files that a message names


@dataclass(frozen=True)
class Classified:
    """What became of one recording.

    Attributes:
        name: Its path if there is one, else `recording` and its place, counted from 0.
        scores: From label to score, the likeliest first, then from dimension to value; None if it could not be
            classified.
        error: Why it could not be.
        least: Score below which no label is given.
        dimensions: Which of the scores are values of dimensions, such as valence, and no labels.
    """

    name: str
    scores: dict[str, float] | None = None
    error: str | None = None
    least: float = 0.0
    dimensions: Sequence[str] = ()

    @property
    def label(self) -> str | None:
        """The likeliest label; None if the model has none, there are no scores, or its score is below `least`."""
        label = next((name for name in self.scores or {} if name not in self.dimensions), None)
        return None if label is None or self.scores is None or self.scores[label] < self.least else label


def load_classifier(
    model: str | os.PathLike, *, dtype: str = "auto", calibrated: bool = False, engine: str = TORCH, **options: Any
) -> ShiftAudioClassificationPipeline:
    """The pipeline of a saved model, in the dtype in which this machine runs it fastest.

    Args:
        model: Hub name or folder of a saved model; with another engine than torch the folder of an exported one.
        dtype: Of weights and computation: `float32`, `bfloat16`, or `auto`: bfloat16 where the hardware computes it
            (`fast_dtype`), the engine has it, and it gives nearly the logits of float32 for an utterance of noise
            (`BFLOAT16_BOUND`), else float32. That bfloat16 was not near enough is logged.
        calibrated: Whether scores are those of logits divided by the model's temperature.
        engine: What runs the model: `torch`, or `onnxruntime` or `openvino`, which run the graph that
            `shift-ser export` wrote and give scores of whole recordings, but no embeddings, frames and streams.
        **options: Others of the pipeline, such as `max_seconds` or `allow_truncated`.

    Raises:
        FileNotFoundError: If `model` is a folder that does not exist.
        ModuleNotFoundError: If the engine is not installed.
        OSError: If it is a Hub name and the Hub is out of reach or has no such model.
        ValueError: If `dtype` or `engine` is none of these, or one has not the other, or the folder holds no model,
            or an encoder alone, or an exported model where the engine is torch and no such one where it is another,
            or a file of it is not as the run wrote it.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {DTYPES}, got {dtype!r}")
    if engine not in (TORCH, *ENGINES):
        raise ValueError(f"engine must be one of {(TORCH, *ENGINES)}, got {engine!r}")
    options |= {"top_k": None, "calibrated": calibrated}
    if engine != TORCH:
        return _load_graph(model, engine, dtype, **options)
    check_model_place(os.fspath(model))
    check_model_files(model)
    classifier = pipeline(
        "audio-classification", model=str(model), pipeline_class=ShiftAudioClassificationPipeline, dtype=torch.float32,
        **options,
    )  # fmt: skip
    exact = _in_dtype(classifier.model, torch.float32)
    if dtype == "auto" and fast_dtype(classifier.device) == torch.bfloat16:
        _take_if_near(classifier, _in_dtype(copy.deepcopy(exact), torch.bfloat16))
    elif dtype == "bfloat16":
        _in_dtype(exact, torch.bfloat16)
    return classifier


def _load_graph(folder: str | os.PathLike, engine: str, dtype: str, **options: Any) -> ShiftAudioClassificationPipeline:
    """The same of a model that was exported."""
    loaded = GraphModel(folder, engine, torch.bfloat16 if dtype == "bfloat16" else torch.float32)
    classifier = ShiftAudioClassificationPipeline(
        model=loaded, feature_extractor=loaded.feature_extractor, device="cpu", **options
    )
    if dtype == "auto" and fast_dtype(classifier.device) == torch.bfloat16 in ENGINES[engine].dtypes:
        try:
            _take_if_near(classifier, GraphModel(folder, engine, torch.bfloat16))
        except ValueError as error:
            logger.warning("the model stays in float32: %s", error)
    return classifier


def _take_if_near(classifier: ShiftAudioClassificationPipeline, coarse: Any) -> None:
    """Put the model in bfloat16 in the place of the one in float32, unless it changes logits too much."""
    exact, classifier.model = classifier.model, coarse
    change = bfloat16_change(classifier, exact)
    if not change <= BFLOAT16_BOUND:
        logger.warning(
            "bfloat16 changes the logits of an utterance by %.3g of how far they lie apart, and %g are taken:"
            " the model stays in float32", change, BFLOAT16_BOUND,
        )  # fmt: skip
        classifier.model = exact


def _in_dtype(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The model itself in a dtype, with the layers that are fast in it."""
    model.to(dtype)
    use_matrix_products(model)
    return model


def bfloat16_change(classifier: ShiftAudioClassificationPipeline, exact: PreTrainedModel) -> float:
    """How much the outputs of one utterance differ between the classifier's model and the same one in float32.

    Args:
        classifier: Its model is the one in bfloat16.
        exact: The same model in float32.

    Returns:
        The largest difference, as a share of how far the logits of `exact` lie apart, but of 1 at least; of a
        dimension, as a share of its deviation in the training set.
    """
    noise = torch.randn(2 * classifier.feature_extractor.sampling_rate, generator=torch.Generator().manual_seed(0))
    features = classifier.features([0.1 * noise.numpy()]).to(classifier.device)
    with torch.inference_mode():
        coarse = classifier.model(**features).logits.float()
        fine = exact(**features.to(dtype=torch.float32)).logits
    logits, values = split_outputs(fine, exact.config)
    apart = (logits.max() - logits.min()).clamp(min=1.0) if logits.numel() else 1.0
    deviations = values.new_tensor(exact.config.dimension_stds or [1.0] * values.shape[-1])
    units = torch.cat([torch.ones_like(logits[0]) * apart, deviations])
    return float(((coarse - fine).abs() / units).max())


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device computes it in hardware (on a CPU: AVX512-BF16 or AMX), else float32.

    Example:
        >>> fast_dtype(torch.device("meta"))
        torch.float32
    """
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return torch.bfloat16 if fast else torch.float32


def find_recordings(places: Iterable[str | os.PathLike], *, skipped: dict[str, str] | None = None) -> Iterator[str]:
    """Paths of files as they are given, and of all audio files in folders and the folders in them, sorted, each once.

    What is audio is told by the suffix, one that libsndfile or PyAV reads (a video may have an audio track); hidden
    files and folders are left out; a place that does not exist is given as a file. What a folder holds beside audio is
    noted when it was searched.

    Args:
        places: Files and folders.
        skipped: Takes the path of each file of a folder that is left out, and why; by default it is logged.

    Example:
        >>> list(find_recordings(["nowhere.wav", "nowhere.wav"]))
        ['nowhere.wav']
    """
    found: set[str] = set()
    for place in (os.fspath(place) for place in places):
        left: dict[str, str] = {} if skipped is None else skipped
        paths: Iterable[str] = _files_of(place, left) if os.path.isdir(place) else [place]
        for path in paths:
            if path not in found:
                found.add(path)
                yield path
        if left and skipped is None:
            some = ", ".join(f"{printable(path)} ({why})" for path, why in list(left.items())[:_SHOWN])
            more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
            logger.warning("%s: %d files are skipped: %s%s", printable(place), len(left), some, more)


def classify_recordings(
    classifier: ShiftAudioClassificationPipeline,
    recordings: Iterable[Any],
    *,
    batch_seconds: float = 15.0,
    window: int = 256,
    window_seconds: float = 1200.0,
    max_memory: float | None = None,
    labels: Sequence[str] | None = None,
    abstain: float = 0.0,
) -> Iterator[Classified]:
    """Classify recordings in batches of like length, each result as soon as all before it are there.

    A thread reads ahead of the model, and batches are picked from a window of recordings, so memory depends on the
    window and not on how many there are. Scores are those of the classifier for each recording alone (in float32 within
    1e-5). A recording that cannot be read or classified is a result with its `error`, and the others go on. A recording
    is classified whole, however long it is, one beyond `batch_seconds` in a batch of its own.

    Args:
        classifier: What `load_classifier` gives.
        recordings: Anything that the classifier takes one by one: paths, arrays, rows of a `datasets` column, ...; of a
            sequence, such as a column, an item that raises an error when it is looked at is one that cannot be read.
        batch_seconds: Seconds in a batch with its padding; the default is among the fastest for HuBERT base on a CPU.
        window: Most recordings that wait to be classified.
        window_seconds: No more are read when those waiting are as long as this together.
        max_memory: Bytes that a pass may take; a recording beyond `batch_seconds` that needs more is an error, and no
            pass is tried. Default: what the device has left.
        labels: The labels that come into question, two or more of the model's: their scores are divided by their sum.
            Default: all.
        abstain: Score below which a recording gets no label.

    Yields:
        A result for each recording, in their order.

    Raises:
        ValueError: If an option is not above 0, `abstain` not in [0, 1], a label none of the model's, `recordings`
            a single one, or `labels` or `abstain` is said for a model of dimensions alone.
    """
    chosen = set(chosen_labels(classifier.model.config, labels=labels, abstain=abstain))
    dimensions = getattr(classifier.model.config, "dimensions", None) or []
    _, _, told = classifier._sanitize_parameters(top_k=None)
    work = partial(classifier.classify_batch, **{**classifier._postprocess_params, **told})
    options: dict[str, Any] = {"batch_seconds": batch_seconds, "window": window, "window_seconds": window_seconds}
    options["max_memory"] = max_memory
    results = in_batches(classifier, recordings, work, **options)
    return (_narrow(result, chosen, abstain, dimensions) for result in results)


def model_classes(config: Any) -> list[str]:
    """Names of a model's classes in the order of its outputs; none for a model of dimensions alone."""
    dimensions = getattr(config, "dimensions", None) or []
    return [name for name in config.id2label.values() if name not in dimensions]


def require_labels(config: Any, what: str) -> list[str]:
    """The labels of a model of which `what` is to be made, such as a timeline.

    Raises:
        ValueError: If it tells dimensions alone.
    """
    if not (labels := model_classes(config)):
        raise ValueError(f"{what} needs a model of labels, got one that tells {', '.join(config.dimensions)}")
    return labels


def chosen_labels(config: Any, *, labels: Sequence[str] | None = None, abstain: float = 0.0) -> list[str]:
    """The labels that come into question, each once; none for a model of dimensions alone.

    Raises:
        ValueError: As for `classify_recordings`.
    """
    if not 0 <= abstain <= 1:
        raise ValueError(f"abstain must be between 0 and 1, got {abstain}")
    known = model_classes(config)
    if not known and (labels or abstain):
        raise ValueError(
            f"labels and abstain must be left out, since the model tells {', '.join(config.dimensions)} and has no"
            f" labels, got {labels!r} and {abstain:g}"
        )
    chosen = list(dict.fromkeys(known if labels is None else labels))
    if known and (isinstance(labels, str) or not set(chosen) <= set(known) or len(chosen) < 2):
        raise ValueError(f"labels must be two or more of {known}, got {labels!r}")
    return chosen


def _narrow(result: Done[Any], labels: set[str], abstain: float, dimensions: Sequence[str]) -> Classified:
    """The scores of these labels among themselves, the values of dimensions, and the least score for a label."""
    if result.value is None:
        return Classified(result.name, error=result.error)
    told = {entry["label"]: entry["score"] for entry in result.value}
    values = {name: told[name] for name in dimensions}
    scores = {label: score for label, score in told.items() if label in labels}
    if len(scores) + len(values) < len(told):
        total = math.fsum(scores.values())
        if not total > 0:
            return Classified(result.name, error=f"the scores of {sorted(labels)} must not all be 0")
        scores = {label: score / total for label, score in scores.items()}
    return Classified(result.name, scores=scores | values, least=abstain, dimensions=dimensions)


def _files_of(folder: str, skipped: dict[str, str]) -> Iterator[str]:
    """Audio files of a folder and of those in it, sorted; notes what is none, and why."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            if not entry.name.startswith("."):
                yield from _files_of(entry.path, skipped)
            continue
        suffix = Path(entry.name).suffix
        if entry.name.startswith("."):
            skipped[entry.path] = "a hidden file"
        elif entry.is_dir():
            skipped[entry.path] = "a link to a folder"
        elif not entry.is_file():
            skipped[entry.path] = "not a file, or a link to none"
        elif suffix.lower() not in SUFFIXES:
            skipped[entry.path] = f"no audio by its suffix {suffix!r}"
        else:
            yield entry.path


class ScoreFile:
    """A CSV with a line for each classified recording: `recording`, `label`, a `score_` of each label, `model`.

    The label is empty where the recording got none. Of a dimension such as valence, `score_valence` is its value.

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
        header = ["recording", "label", *(SCORE + label for label in self.labels), "model"]
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
        if not all(map(math.isfinite, result.scores.values())):
            raise ValueError(f"scores of {result.name!r} must be finite, got {result.scores}")
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
    # A carriage return must be quoted, or no reader takes the line; not every Python's csv does that by itself.
    returns = any("\r" in cell for cell in row if isinstance(cell, str))
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL).writerow(row)
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
