"""A corpus as training sees it: utterances by name, as cached frames of a frozen encoder or as waveforms."""

import copy
import math
import os
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import datasets
import torch
from torch.utils.data import Dataset
from transformers import AutoConfig, PreTrainedModel

from ..corpora import corpus_info, load_corpus
from ..corpora.corpus import SAMPLING_RATE, Columns, Recording, SpeechAudio, scan_recordings
from ..evaluation.predictions import Predictions
from ..model.encoders import ENCODERS, EXACT, EncoderFamily, convolution_width
from ..model.feature_extraction_shift_ser import ShiftFeatureExtractor
from ..model.model_place import check_model_place
from .arguments import DataArguments, ModelArguments
from .augmentation import AugmentedAudio, Augmenter, EpochDataset
from .feature_cache import FrameCache, FrameDataset, encode_dataset
from .targets import Targets


class SpeechCorpus:
    """The corpus of a run, preprocessed as its encoder wants it.

    Args:
        model_args: Which encoder.
        data_args: Which corpus, and how much of an utterance.
        dataset: A corpus that is loaded already, in place of the one that `data_args` names.
        feature_extractor: Preprocessing of a saved model, in place of the encoder's.

    Attributes:
        dataset: What `load_corpus` returned.
        info: What the corpus says of itself.
        targets: What is learned of each utterance.
        utterances: Names of all utterances, in the order of the dataset.
        cache: What of the encoder does not change in training, once `encode` has run.

    Raises:
        ValueError: If the encoder's preprocessing is not known or not for 16 kHz, or the corpus lacks targets.
        FileNotFoundError: If the corpus is not where it is said to be.
    """

    def __init__(
        self,
        model_args: ModelArguments,
        data_args: DataArguments,
        *,
        dataset: datasets.Dataset | None = None,
        feature_extractor: ShiftFeatureExtractor | None = None,
    ) -> None:
        self.data_args = data_args
        check_model_place(model_args.encoder_path, option="encoder")
        if data_args.cache_convolutions:
            _check_convolutions(model_args.encoder_path)
        self.feature_extractor = feature_extractor or build_feature_extractor(model_args, data_args)
        self.dataset = load_corpus(data_args.corpus if dataset is None else dataset, **data_args.corpus_options())
        self.info = corpus_info(self.dataset)
        self.targets = Targets(
            self.dataset,
            problem_type=getattr(model_args, "problem_type"),  # noqa: B009 (a type checker sees no made fields)
            dimensions=getattr(model_args, "dimensions"),  # noqa: B009
            other_votes=data_args.other_votes,
        )
        self.utterances: list[str] = list(self.dataset["utterance"])
        self.cache: FrameCache | None = None
        self._row_of = {utterance: row for row, utterance in enumerate(self.utterances)}
        self._encoder_path = model_args.encoder_path
        self._of_each_fold = model_args.encoder_of_each_fold
        self._encoded = ""
        self._variants: tuple[FrameCache, ...] = ()
        self._varied: tuple[Any, ...] = ()
        self._files = self._file_states()

    @cached_property
    def recordings(self) -> dict[str, Recording]:
        """Content and length of each utterance's recording, read once for a run.

        Raises:
            ValueError: If one cannot be used; the message names it.
        """
        return scan_recordings(self.dataset)

    def _file_states(self) -> dict[str, tuple[int, int] | None]:
        """Size and time of change of each recording and each file of the encoder; `None` of one that is not there."""
        audio = self.dataset.cast_column("audio", SpeechAudio(decode=False))["audio"]
        folder = Path(self._encoder_path)  # of an encoder for each fold: of all of them
        folder = folder.parent if self._of_each_fold and folder.is_dir() else folder
        encoder = [str(path) for path in folder.rglob("*") if path.is_file()]
        return {path: _state_of(path) for path in (*audio, *encoder)}

    def check_unchanged(self) -> None:
        """Look whether the files are those that the corpus was made of; costs a glance at each, reads none.

        Raises:
            OSError: If one has changed or is gone; the message names it.
        """
        now = self._file_states()
        changed = [path for path in {**self._files, **now} if self._files.get(path) != now.get(path)]
        if changed:
            raise OSError(
                f"recordings and encoder must stay as they were when the run began, {changed[0]!r} has changed"
                + (f", and {len(changed) - 1} more" if changed[1:] else "")
            )

    def check_batch_seconds(self, most: float | None) -> None:
        """Refuse batches that the longest utterance does not fit into.

        Args:
            most: `max_batch_seconds`.

        Raises:
            ValueError: If there is a longer utterance; the message names it.
        """
        name, recording = max(self.recordings.items(), key=lambda item: item[1].num_samples)
        longest = min(recording.num_samples / SAMPLING_RATE, self.data_args.max_seconds)
        if most is not None and most < longest:
            raise ValueError(
                f"max_batch_seconds must be at least the length of the longest utterance, {longest:g} s ({name!r}),"
                f" got {most:g}"
            )

    def with_labels(self, labels: Sequence[str]) -> "SpeechCorpus":
        """The same recordings with class numbers of another order, that of a saved model; nothing is encoded yet.

        Args:
            labels: Class names by index; all of this corpus are among them.
        """
        other = copy.copy(self)
        other.targets, other.cache, other._varied = self.targets.with_labels(labels), None, ()
        classes = datasets.ClassLabel(names=other.targets.labels)
        numbers = list(other.targets.class_of.values())
        other.dataset = self.dataset.remove_columns("label").add_column("label", numbers, feature=classes)
        return other

    @property
    def content_hashes(self) -> dict[str, str]:
        """Hash of each utterance's samples: equal for recordings that are copies of each other."""
        return {utterance: recording.content_hash for utterance, recording in self.recordings.items()}

    def encode(self, encoder: PreTrainedModel, *, output: int | str, name: str = "") -> None:
        """Run what is frozen of an encoder over the corpus, once; from then on `examples` are its frames.

        Args:
            encoder: The encoder.
            output: What to keep, as in `encode_dataset`.
            name: Where the encoder came from; the frames of another one are let go.
        """
        if self.cache is None or self._encoded != name:
            self._encoded = name
            self.cache = self._cache_of(encoder, self.dataset, self.recordings, output=output)

    def encode_variants(
        self, encoder: PreTrainedModel, augment: Augmenter, *, count: int, output: int | str, name: str = ""
    ) -> None:
        """Run what is frozen over so many draws of the changed corpus; `examples` of training take turns with them.

        Args:
            encoder: The encoder.
            augment: What changes an utterance.
            count: Number of the draws.
            output: As in `encode`.
            name: As in `encode`.
        """
        if self._varied != (name, augment, count):
            columns = [
                {"utterance": self.utterances,
                 "audio": AugmentedAudio(self.dataset["audio"], self.utterances, augment, draw=draw)}
                for draw in range(count)
            ]  # fmt: skip
            self._variants = tuple(
                self._cache_of(encoder, column, self._changed(augment, draw), output=output)
                for draw, column in enumerate(columns)
            )
            self._varied = (name, augment, count)

    def _changed(self, augment: Augmenter, draw: int) -> dict[str, Recording]:
        """The recordings of a draw, known by what they were made of: none is read for it."""
        return {
            name: Recording(
                f"{recording.content_hash} {augment.recipe} {draw}", math.ceil(augment.longest(recording.num_samples))
            )
            for name, recording in self.recordings.items()
        }

    def _cache_of(
        self, encoder: PreTrainedModel, columns: Columns, recordings: Mapping[str, Recording], *, output: int | str
    ) -> FrameCache:
        return encode_dataset(
            encoder,
            columns,
            feature_extractor=self.feature_extractor,
            cache_dir=self.data_args.cache_dir,
            output=output,
            dtype=self.data_args.cache_dtype,
            encoder_dtype=self.data_args.encoder_dtype,
            max_seconds=self.data_args.max_seconds,
            recordings=recordings,
        )

    def seconds(self, utterances: Sequence[str], *, augment: Augmenter | None = None) -> list[float]:
        """Length of each utterance as it is cut, or the most that it can become with `augment`."""
        lengths = [self.recordings[name].num_samples for name in utterances]
        longest = lengths if augment is None else [augment.longest(length) for length in lengths]
        return [min(length / SAMPLING_RATE, self.data_args.max_seconds) for length in longest]

    def examples(self, utterances: Sequence[str], *, augment: Augmenter | None = None) -> Dataset:
        """Utterances as the collator takes them: cached frames, or waveforms read when they are asked for.

        Args:
            utterances: Their names.
            augment: Changes them anew in each epoch, for training; of frames, the variants take turns.
        """
        most, seconds = self.data_args.max_seconds, self.seconds(utterances, augment=augment)
        labels = [self.targets.of(utterance) for utterance in utterances]
        if self.cache is not None:
            caches = (self.cache,) if augment is None else self._variants
            frames = [FrameDataset(cache, utterances, labels, seconds=seconds) for cache in caches]
            if augment is None:
                return frames[0]
            return EpochDataset(partial(_variant, frames), like=frames[0])
        rows = self.dataset.select([self._row_of[utterance] for utterance in utterances])
        speech = WaveformDataset(
            rows, self.feature_extractor, max_samples=round(most * SAMPLING_RATE), seconds=seconds, labels=labels
        )
        if augment is None:
            return speech
        return EpochDataset(partial(speech.example, augment=augment), like=speech)

    def predictions(self, utterances: Sequence[str], outputs: torch.Tensor, *, fold: int, seed: int) -> Predictions:
        """The table of predictions of a fold's model, from its outputs `(utterances, outputs)`."""
        rows = self.dataset.select([self._row_of[utterance] for utterance in utterances]).select_columns(
            [name for name in ("utterance", "speaker", "session") if name in self.dataset.column_names]
        )
        known = {name: [str(value) for value in rows[name]] for name in rows.column_names}
        return Predictions(self.targets.table(utterances, outputs).assign(**known, fold=fold, seed=seed))


class WaveformDataset(Dataset[dict[str, Any]]):
    """Recordings with their labels, read when they are asked for, as `DataCollatorForShift` takes them.

    Args:
        rows: Columns `audio` and `utterance`.
        feature_extractor: Normalises the samples.
        max_samples: What is cut to.
        seconds: Length of each row, for batches that are sorted by it.
        labels: Of each row, as `Targets.of` gives it.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        feature_extractor: ShiftFeatureExtractor,
        *,
        max_samples: int,
        seconds: Sequence[float],
        labels: Sequence[Any],
    ) -> None:
        self.rows, self.feature_extractor, self.max_samples, self.seconds = (
            rows,
            feature_extractor,
            max_samples,
            seconds,
        )
        self.utterances, self.labels = list(rows["utterance"]), labels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`input_values`, float32 `(samples,)`, or `input_features` `(time, bins)`; and `labels`."""
        return self.example(index)

    def example(self, index: int, *, augment: Augmenter | None = None, draw: int = 0) -> dict[str, Any]:
        """The example of a row, its whole recording changed before it is cut where `augment` is given."""
        samples = self.rows[index]["audio"]["array"]
        if augment is not None:
            samples = augment(samples, utterance=self.utterances[index], draw=draw)
        features = self.feature_extractor(samples[: self.max_samples], sampling_rate=SAMPLING_RATE)
        name = self.feature_extractor.model_input_names[0]
        return {name: features[name][0], "labels": self.labels[index]}


def _variant(frames: Sequence[FrameDataset], index: int, *, draw: int) -> dict[str, Any]:
    return frames[draw % len(frames)][index]


def _state_of(path: str) -> tuple[int, int] | None:
    try:
        state = os.stat(path)
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns


def _check_reads(extractor: ShiftFeatureExtractor, encoder_path: str) -> None:
    """Refuse waveforms for an encoder of spectrograms, and the other way round."""
    model_type = AutoConfig.from_pretrained(encoder_path).model_type
    expected = ENCODERS.get(model_type, EncoderFamily(model_type)).extractor
    given = (extractor.spectrogram or {}).get("feature_extractor_type", EncoderFamily.extractor)
    if given != expected:
        raise ValueError(
            f"preprocessor_config.json of {encoder_path!r} must be that of {expected}, which the family {model_type!r}"
            f" reads, got {given}"
        )


def _check_convolutions(encoder_path: str) -> None:
    """Refuse to keep what the convolutions of an encoder give that has none, or that its own `forward` alone runs."""
    config = AutoConfig.from_pretrained(encoder_path)
    try:
        if config.model_type not in ENCODERS:
            raise ValueError(f"known are {', '.join(EXACT)}")
        convolution_width(config)
    except ValueError as error:
        raise ValueError(
            f"cache_convolutions must be left out with an encoder of the family {config.model_type!r}: {error}"
        ) from error


def build_feature_extractor(model_args: ModelArguments, data_args: DataArguments) -> ShiftFeatureExtractor:
    """The encoder's own preprocessing, with the mask always on, or padded to one length as the authors did.

    Raises:
        ValueError: If the encoder tells nothing of its preprocessing and neither does `do_normalize`, or its sampling
            rate is not 16 kHz.
    """
    fixed = round(data_args.max_seconds * SAMPLING_RATE) if model_args.mask_padding is False else None
    options: dict[str, Any] = {} if data_args.do_normalize is None else {"do_normalize": data_args.do_normalize}
    try:
        extractor = ShiftFeatureExtractor.from_pretrained(model_args.encoder_path, fixed_length=fixed, **options)
    except OSError as error:
        if not options:
            raise ValueError(
                f"do_normalize must be given, since {model_args.encoder!r} has no readable preprocessor_config.json,"
                f" got None ({error})"
            ) from error
        extractor = ShiftFeatureExtractor(fixed_length=fixed, **options)
    _check_reads(extractor, model_args.encoder_path)
    if extractor.sampling_rate != SAMPLING_RATE:
        raise ValueError(f"encoder must take speech at {SAMPLING_RATE} Hz, got {extractor.sampling_rate}")
    return extractor
