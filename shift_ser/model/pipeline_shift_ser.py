"""ShiftAudioClassificationPipeline: labels and scores of speech in whatever form someone holds it."""

import importlib
import io
import logging
import os
import time
from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import GeneratorType
from typing import Any, BinaryIO

import numpy as np
import torch
from huggingface_hub.utils import httpx, tqdm
from transformers import AudioClassificationPipeline, BatchFeature
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.pipelines import PIPELINE_REGISTRY

from .losses import split_outputs
from .speech_input import MAX_BYTES, has_its_rate, load_speech, log_once, plain_array

logger = logging.getLogger(__name__)

DOWNLOAD_SECONDS = 300.0  # longest time that fetching one recording may take, unless told otherwise
LENGTH_GRID = 5120  # samples; in bfloat16 a CPU makes code for each new length, so lengths are rounded up to 0.32 s
_WAIT = 20.0  # seconds without a byte after which a server counts as silent
_WINDOW = 16  # batches from which recordings of like length are picked
_READING = ("allow_truncated", "max_seconds", "max_bytes", "max_download_seconds")  # options of `read`


class ShiftAudioClassificationPipeline(AudioClassificationPipeline):
    """The `audio-classification` pipeline, reading audio without ffmpeg and torchaudio, and always with the mask.

    One recording may be all that `load_speech` takes: a path (`str`, `Path`, or a URL), the bytes of a file, a file
    object, an array, tensor or list of numbers, a dict of an array and its sampling rate, or a tuple of a rate and an
    array. Lists and tuples of recordings give a list; generators, datasets and other iterables an iterator. The scores
    do not depend on `batch_size`; the batches of a list are made of recordings of like length. A recording is
    classified whole, however long it is.

    After `import shift_ser`, `pipeline` makes one for each model of this package; other models get the stock class.

    Example:
        classify = pipeline("audio-classification", model="runs/demo/fold1")
        classify("speech.wav")
        classify([{"array": samples, "sampling_rate": 48000}, "speech.wav"], batch_size=8, top_k=1)
        classify("speech.wav", calibrated=True)
    """

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Classify one recording or many.

        Args:
            inputs: One recording, or a list, generator or dataset of them.
            **options: Those of the stock pipeline, `top_k`, `function_to_apply`, `batch_size`, `num_workers`, and
                `calibrated`: logits are divided by the model's temperature, if one was fitted, so that scores are
                nearer to how often they are right; the order of labels stays. Default: as told to `pipeline`, else
                `False`. And those of `read`.

        Returns:
            `label` and `score` of the `top_k` likeliest classes; for many recordings a list or an iterator of that. A
            model of dimensions (`problem_type` `regression` or `multi_task`) gives a dict for each of them, after the
            classes if it has some: `label` is its name, such as `valence`, and `score` the value on the scale of the
            corpus that the model was trained on.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If a recording is not audio, is cut, empty or too long, or holds NaN or infinity; if a score is
                not finite.
        """
        if not getattr(self.model.config, "mask_padding", True):
            if options.get("batch_size", self._batch_size) not in (None, 1):
                log_once("mask_padding=False lets padding into the scores: recordings are taken one by one")
            options["batch_size"] = 1
        inputs = _recordings(inputs)
        return [] if isinstance(inputs, list) and not inputs else super().__call__(inputs, **options)

    def embed(
        self, recordings: Any, *, of: str = "head", pooling: str = "mean", batch_size: int = 16, **options: Any
    ) -> np.ndarray:
        """One vector for each recording, whatever it is batched with.

        Args:
            recordings: One recording or several, as the pipeline takes them.
            of: `head`: the mean of the frames that the classifier reads, which were trained for its labels; `encoder`:
                of the encoder's frames that the head reads.
            pooling: `mean`, or `mean_and_deviation`: the deviation of each channel behind its mean.
            batch_size: Recordings that go through the model together; changes numbers by at most 1e-5 (float32).
            **options: Those of `read`.

        Returns:
            Float32, shape `(recordings, channels)`.

        Raises:
            ValueError: If a recording cannot be used or an embedding is not finite.
        """
        inputs, _ = _one_by_one(recordings)
        together = batch_size if getattr(self.model.config, "mask_padding", True) else 1
        batches = like_lengths(
            map(partial(self.read, **options), inputs),
            length=len,
            fits=lambda count, _: count <= together,
            window=_WINDOW * batch_size,
        )
        rows = list(in_order((places, list(self.embed_batch(speech, of, pooling))) for places, speech in batches))
        return np.stack(rows) if rows else self.embed_batch([np.zeros(1600, np.float32)], of, pooling)[:0]

    def embed_batch(self, speech: Sequence[np.ndarray], of: str = "head", pooling: str = "mean") -> np.ndarray:
        """As `embed`, of several recordings that go through the model together."""
        features = self.features(speech).to(self.device)
        vectors = self.model.base_model.embed(**features, of=of, pooling=pooling).cpu().numpy()
        if not np.isfinite(vectors).all():
            raise ValueError("embeddings must be finite, but the model gives NaN or infinity: its dtype overflows")
        return vectors

    def encode(
        self,
        sentences: Any,
        *,
        batch_size: int = 32,
        show_progress_bar: bool = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = False,
        **options: Any,
    ) -> Any:
        """`embed` with the arguments of `SentenceTransformer.encode`, for programs that call that.

        Args:
            sentences: Recordings; the name is that of sentence-transformers.
            batch_size: Recordings that go through the model together.
            show_progress_bar: Show how many are done.
            convert_to_numpy: Return one array; otherwise a list of tensors.
            convert_to_tensor: Return one tensor, whatever `convert_to_numpy` says.
            normalize_embeddings: Scale each vector to length 1.
            **options: Those of `embed`.

        Returns:
            Of several recordings `(recordings, channels)`, of one `(channels,)`.
        """
        inputs, several = _one_by_one(sentences)
        seen = tqdm(list(inputs), desc="Embedding", unit="recording", disable=not show_progress_bar)
        vectors = torch.from_numpy(self.embed((each for each in seen), batch_size=batch_size, **options))
        if normalize_embeddings:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        if not convert_to_tensor:
            told: Any = vectors.numpy() if convert_to_numpy else list(vectors)
            return told if several else told[0]
        return vectors if several else vectors[0]

    def timeline(self, recording: Any, **options: Any) -> Any:
        """The emotions of a recording of any length over time, in constant memory; needs the package itself.

        Args:
            recording: One recording, as the pipeline takes it.
            **options: Those of `shift_ser.inference.timeline.timeline`, and `return_frames` (default `False`).

        Returns:
            The segments: dicts of `start` and `end` in seconds, `label`, its `score`, `scores` of all labels and, of a
            given turn, its `speaker`. With `return_frames` the `Timeline`, which has the probabilities over time too.

        Raises:
            ImportError: If the package `shift-ser` is not installed: this code came with a model.
        """
        return_frames = options.pop("return_frames", False)
        found = _of_the_package("timeline", "a timeline").timeline(self, recording, **options)
        return found if return_frames else found.segments

    def stream(self, **options: Any) -> Any:
        """Speech that is still coming in: an object with `push(samples)` and `flush()`; needs the package itself.

        Args:
            **options: Those of `shift_ser.inference.streaming.stream`: `context_s`, `look_ahead_s`, `step_s`,
                `half_life_s`, `voice_activity`, `onset`, `sampling_rate` and `calibrated`.

        Returns:
            A `Stream` of its own for each call; they may run side by side, in threads too.

        Raises:
            ImportError: If the package `shift-ser` is not installed: this code came with a model.
            ValueError: If an option is none or out of its range.
        """
        return _of_the_package("streaming", "a stream").stream(self, **options)

    def check_model_type(self, supported_models: Any) -> None:
        """Take any model for audio classification whose classifier was saved; the stock list holds none from outside.

        Raises:
            ValueError: If the model comes from a folder of another class, such as an encoder: its classifier is random.
        """
        saved, name = getattr(self.model.config, "architectures", None), type(self.model).__name__
        if saved and name not in saved:
            raise ValueError(
                f"model must be a saved model for audio classification, got {', '.join(saved)} in"
                f" {self.model.name_or_path!r}: it holds no classifier, and {name} would give the scores of a random"
                " one. Train one on it first; if you did, save that model and load it from there"
            )

    def _sanitize_parameters(self, calibrated: bool | None = None, **options: Any) -> tuple[dict, dict, dict]:
        reading = {name: options.pop(name) for name in _READING if name in options}
        _, forward, postprocess = super()._sanitize_parameters(**options)
        return reading, forward, postprocess if calibrated is None else {**postprocess, "calibrated": calibrated}

    def postprocess(self, model_outputs: Any, calibrated: bool = False, **options: Any) -> list[dict[str, Any]]:
        """`label` and `score` of the likeliest classes, and of each dimension, from logits `(1, labels)`."""
        outputs = _finite(model_outputs["logits"].float())
        logits, values = split_outputs(outputs, self.model.config)
        names = list(self.model.config.id2label.values())[logits.shape[-1] :]
        told = [{"label": name, "score": value} for name, value in zip(names, values[0].tolist(), strict=True)]
        if not logits.shape[-1]:
            if calibrated:
                log_once("calibrated means nothing for values of dimensions: they are given as they are")
            return told
        model_outputs["logits"] = self._scaled(logits, calibrated)
        if told and "top_k" in options:
            options["top_k"] = min(options["top_k"], logits.shape[-1])
        return super().postprocess(model_outputs, **options) + told

    def preprocess(self, inputs: Any, **options: Any) -> BatchFeature:
        """Features of one recording, with their mask, shapes `(1, samples)`; the options are those of `read`."""
        return self.features([self.read(inputs, **options)])

    def read(
        self, recording: Any, *, max_bytes: int = MAX_BYTES, max_download_seconds: float = DOWNLOAD_SECONDS,
        **options: Any,
    ) -> np.ndarray:  # fmt: skip
        """The samples of one recording at the model's rate.

        Args:
            recording: What the pipeline takes for one.
            max_bytes: Most that is read from an address or a file object.
            max_download_seconds: Longest time that fetching it from an address may take.
            **options: `allow_truncated` and `max_seconds` as for `read_audio`.

        Returns:
            Float32, shape `(samples,)`, full scale 1.
        """
        if isinstance(recording, str) and recording.startswith(("http://", "https://")):
            recording = fetch(recording, max_bytes=max_bytes, max_seconds=max_download_seconds)
        rate = self.feature_extractor.sampling_rate
        samples = load_speech(recording, sampling_rate=rate, max_bytes=max_bytes, **options)
        if not samples.any() or (len(samples) > 1 and samples.min() == samples.max()):
            logger.warning("a recording is digital silence: its scores say nothing")
        return samples

    def features(self, speech: Sequence[np.ndarray], **options: Any) -> BatchFeature:
        """Features of several recordings, padded to the longest, with their mask, shapes `(batch, samples)`."""
        features = self.feature_extractor(
            list(speech), sampling_rate=self.feature_extractor.sampling_rate, padding=True, return_attention_mask=True,
            return_tensors="pt", **options,
        )  # fmt: skip
        return features.to(dtype=self.dtype)

    def classify_batch(self, speech: Sequence[np.ndarray], **options: Any) -> list[Any]:
        """What `postprocess` makes of each of several recordings that go through the model together."""
        reads, config = self.feature_extractor, self.model.config
        waveforms = reads.model_input_names[0] == "input_values" and getattr(reads, "fixed_length", None) is None
        on_grid = waveforms and getattr(config, "mask_padding", False) and self.dtype == torch.bfloat16
        padding = {"pad_to_multiple_of": LENGTH_GRID} if on_grid and self.device.type == "cpu" else {}
        logits = self.forward(self.features(speech, **padding))["logits"]
        return [self.postprocess(SequenceClassifierOutput(logits=row[None]), **options) for row in logits]

    def frame_scores(self, speech: Sequence[np.ndarray], *, calibrated: bool = False) -> list[np.ndarray]:
        """Probabilities of the classes in each frame of several recordings, shapes `(frames, labels)`."""
        logits = self.model.frame_logits(**self.features(speech).to(self.device))
        return [self._scaled(_finite(row.float()), calibrated).softmax(dim=-1).cpu().numpy() for row in logits]

    def _scaled(self, logits: torch.Tensor, calibrated: bool) -> torch.Tensor:
        """Logits of classes, divided by the fitted temperature if that is asked for and there is one."""
        temperature = getattr(self.model.config, "temperature", None)
        if calibrated and temperature is None:
            log_once("the model holds no fitted temperature: its scores are not calibrated")
        return logits / temperature if calibrated and temperature is not None else logits

    def get_iterator(
        self, inputs: Any, num_workers: int, batch_size: int, preprocess_params: dict, forward_params: dict,
        postprocess_params: dict,
    ) -> Iterator[Any]:  # fmt: skip
        """As the stock pipeline's, but the batches of a list are made of recordings of like length."""
        if not isinstance(inputs, list) or batch_size == 1 or num_workers > 0:
            return super().get_iterator(
                inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params
            )
        batches = like_lengths(
            map(partial(self.read, **preprocess_params), inputs),
            length=len,
            fits=lambda count, _: count <= batch_size,
            window=_WINDOW * batch_size,
        )
        return in_order((places, self.classify_batch(speech, **postprocess_params)) for places, speech in batches)


def _of_the_package(module: str, what: str) -> Any:
    """A module of `shift_ser.inference`, which does not travel with a model."""
    try:
        return importlib.import_module(f"shift_ser.inference.{module}")
    except ModuleNotFoundError as error:
        raise ImportError(f'{what} needs the package: pip install "shift-ser[timeline]"') from error


class ChosenByModel(AudioClassificationPipeline):
    """What `pipeline("audio-classification", ...)` calls: it makes this package's pipeline for this package's models.

    Attributes:
        model_type: `model_type` of this package's configuration.
        before: The class that the registry held before; None: the stock one.
    """

    model_type = "shift_ser"
    before: type | None = None

    def __new__(cls, *args: Any, model: Any, **options: Any) -> Any:
        """A pipeline of another class than this one."""
        ours = getattr(model.config, "model_type", None) == cls.model_type
        chosen = ShiftAudioClassificationPipeline if ours else cls.before or AudioClassificationPipeline
        return chosen(*args, model=model, **options)


def register_pipeline() -> None:
    """Make `pipeline("audio-classification", model=...)` take `ShiftAudioClassificationPipeline` for its own models."""
    entry = PIPELINE_REGISTRY.supported_tasks["audio-classification"]
    if isinstance(entry["impl"], type) and not issubclass(entry["impl"], ChosenByModel):
        ChosenByModel.before = entry["impl"]  # somebody else registered a class; a text names the stock one
    entry["impl"] = ChosenByModel


def fetch(address: str, *, max_bytes: int, max_seconds: float) -> bytes:
    """What is at an address; arguments and errors are those of `download`."""
    content = io.BytesIO()
    download(address, content, max_bytes=max_bytes, max_seconds=max_seconds)
    return content.getvalue()


def download(address: str, file: BinaryIO, *, max_bytes: int, max_seconds: float) -> None:
    """Write what is at an address to a file, as it comes.

    Args:
        address: An http or https URL.
        file: Opened for writing.
        max_bytes: Most that is taken.
        max_seconds: Longest time that it may take.

    Raises:
        httpx.HTTPError: If the server answers with an error, or not at all for 20 seconds.
        ValueError: If it is more or takes longer.
    """
    end, count = time.monotonic() + max_seconds, 0
    with httpx.stream("GET", address, follow_redirects=True, timeout=min(_WAIT, max_seconds)) as answer:
        for block in answer.raise_for_status().iter_bytes():
            count += file.write(block)
            if count > max_bytes:
                raise ValueError(f"{address} must hold at most {max_bytes} bytes (max_bytes), got more")
            if time.monotonic() > end:
                raise ValueError(
                    f"{address} must be fetched within {max_seconds:g} s (max_download_seconds), got {count}"
                    " bytes by then"
                )


def like_lengths(
    recordings: Iterable[Any],
    *,
    length: Callable[[Any], float],
    fits: Callable[[int, float], bool],
    window: int,
    window_length: float = float("inf"),
) -> Iterator[tuple[list[int], list[Any]]]:
    """Batches of recordings of like length, picked from a window that is filled up before each batch.

    Each batch holds the recording that has waited longest, so results come soon and nearly in order, and those next to
    it in length; no recording stays in the window for more than `window` batches.

    Args:
        recordings: Whatever `length` takes; no more of them are held than the window.
        length: Length of a recording, in any unit.
        fits: Whether so many recordings, the longest of this length, may be one batch; one alone always may.
        window: Most recordings in the window.
        window_length: The window is full, too, when its recordings are as long as this together.

    Yields:
        The places of a batch's recordings among all, counted from 0, and the recordings.

    Example:
        >>> speech = ["aaa", "b", "ccc", "d"]
        >>> list(like_lengths(speech, length=len, fits=lambda count, longest: count * longest <= 6, window=4))
        [([0, 2], ['aaa', 'ccc']), ([1, 3], ['b', 'd'])]
    """
    numbered = enumerate(recordings)
    waiting: list[tuple[float, int, Any]] = []  # sorted; places differ, so recordings are never compared
    while True:
        while len(waiting) < window and sum(entry[0] for entry in waiting) < window_length:
            place, recording = next(numbered, (-1, None))
            if place < 0:
                break
            insort(waiting, (length(recording), place, recording))
        if not waiting:
            return
        chosen = _around(min(range(len(waiting)), key=lambda row: waiting[row][1]), waiting, fits)
        batch, waiting[chosen] = waiting[chosen], []
        yield [entry[1] for entry in batch], [entry[2] for entry in batch]


def in_order(batches: Iterable[tuple[Sequence[int], Sequence[Any]]]) -> Iterator[Any]:
    """What belongs to the places 0, 1, 2 and so on, each as soon as all before it are there.

    Example:
        >>> list(in_order([([0, 2], ["a", "c"]), ([1], ["b"])]))
        ['a', 'b', 'c']
    """
    early: dict[int, Any] = {}
    following = 0
    for places, results in batches:
        early.update(zip(places, results, strict=True))
        while following in early:
            yield early.pop(following)
            following += 1


def _around(row: int, waiting: Sequence[tuple[float, int, Any]], fits: Callable[[int, float], bool]) -> slice:
    """The rows of a batch around one of those sorted by length: each time the neighbour that adds less padding."""
    start, end = row, row + 1
    while True:
        count, longest = end - start, waiting[end - 1][0]
        shorter = longest - waiting[start - 1][0] if start > 0 and fits(count + 1, longest) else None
        longer = None
        if end < len(waiting) and fits(count + 1, waiting[end][0]):
            longer = count * (waiting[end][0] - longest)
        if shorter is None and longer is None:
            return slice(start, end)
        if longer is None or (shorter is not None and shorter <= longer):
            start -= 1
        else:
            end += 1


def _finite(logits: torch.Tensor) -> torch.Tensor:
    """The same logits.

    Raises:
        ValueError: If one is NaN or infinite.
    """
    if not torch.isfinite(logits).all():
        wrong = logits[~torch.isfinite(logits)].flatten()[:4].tolist()
        raise ValueError(
            f"scores must be finite, but the model's logits hold {wrong}: its weights hold NaN or are too large, or its"
            " dtype overflows"
        )
    return logits


def _one_by_one(inputs: Any) -> tuple[Iterable[Any], bool]:
    """Recordings to iterate over, and whether they are several or one."""
    given = _recordings(inputs)
    several = isinstance(given, (list, GeneratorType, torch.utils.data.Dataset))
    return given if several else [given], several


def _recordings(inputs: Any) -> Any:
    """One recording as it is; several as a list, or as what the stock pipeline iterates over without keeping it."""
    one = (str, os.PathLike, bytes, bytearray, memoryview, np.ndarray, torch.Tensor, Mapping)
    has_method = any(hasattr(inputs, name) for name in ("read", "get_all_samples"))
    if isinstance(inputs, one) or has_method or has_its_rate(inputs):
        return inputs
    if isinstance(inputs, (list, tuple)):
        is_number = len(inputs) > 0 and isinstance(inputs[0], (int, float, np.number))
        return plain_array(inputs, name="the input") if is_number else list(inputs)
    if isinstance(inputs, (GeneratorType, torch.utils.data.Dataset)):
        return inputs
    if not hasattr(inputs, "__iter__"):
        raise ValueError(f"inputs must be a recording or several, got {type(inputs).__name__}")
    return (recording for recording in inputs)
