"""Task-adaptive pretraining: an encoder goes on with its own pretraining on a corpus's training sets, without labels.

Each fold has an adapted encoder of its own, which has heard nothing of that fold's validation and test sets. Sources:
Gururangan et al. 2020 (arXiv 2004.10964) for the idea; Baevski et al. 2020 (2006.11477) for the contrastive loss; Hsu
et al. 2021 (2106.07447) for masked prediction of units; Chen and Rudnicky 2023 (2110.06309), P-TAPT, for units that
come from a model that was fine-tuned first.
"""

import copy
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from scipy.fft import dct
from sklearn.cluster import MiniBatchKMeans
from torch import nn
from torch.utils.data import Dataset
from transformers import (
    AutoConfig,
    AutoModel,
    TrainerCallback,
    Wav2Vec2FeatureExtractor,
    set_seed,
)
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from ..corpora.corpus import SAMPLING_RATE
from ..evaluation.run_folder import ADAPTATION, ADAPTATION_SETTINGS, CHECKPOINTS, FOLD_RESULT, read_json, write_json
from ..model.encoders import encode
from ..model.modeling_shift_ser import ShiftModel
from ..recipes import find_encoder
from .argument_checks import refuse_said
from .arguments import DataArguments, RunArguments
from .batching import DataCollatorForShift
from .checkpoints import last_whole_checkpoint
from .data import SpeechCorpus
from .fold_plan import FoldPlan, check_heard, check_plan
from .pretraining_objectives import NOT_READ, OBJECTIVES, AdaptArguments, CodebookTemperature, Contrastive
from .protocols import PlanOptions, plan_folds, settled
from .run_lock import HOLDER, LOCK, run_lock
from .settings import argument_settings, changed_settings
from .trainer import FoldProgress, ShiftTrainer

logger = logging.getLogger(__name__)

_MOST_FRAMES = 500_000  # that k-means is fitted to


class SpeechWithUnits(Dataset[dict[str, Any]]):
    """Speech without its labels, and the unit of each frame where there are units.

    Args:
        speech: Examples with `input_values`, and their `seconds`.
        units: For each example its units `(frames,)`; None: there are none.
    """

    def __init__(self, speech: Any, units: Sequence[np.ndarray] | None) -> None:
        self.speech, self.units, self.seconds = speech, units, speech.seconds

    def __len__(self) -> int:
        return len(self.speech)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = {"input_values": self.speech[index]["input_values"]}
        return example if self.units is None else {**example, "units": self.units[index]}


def collate_units(examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """A padded batch of speech with its mask, and the units, -100 beside them."""
    batch = DataCollatorForShift()([{"input_values": example["input_values"]} for example in examples])
    if "units" in examples[0]:
        rows = [torch.as_tensor(example["units"]).long() for example in examples]
        batch["units"] = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
    return batch


def mfcc(speech: np.ndarray, *, hop: int = 320) -> np.ndarray:
    """Thirteen MFCCs with their first and second differences, `(frames, 39)`.

    Args:
        speech: Samples at 16 kHz, `(samples,)`, at least 400.
        hop: Samples between two frames, as many as between two of the encoder.
    """
    filters = mel_filter_bank(257, 26, 20.0, 7600.0, SAMPLING_RATE, norm="slaney", mel_scale="slaney")
    options = {"frame_length": 400, "hop_length": hop, "fft_length": 512, "power": 2.0, "center": False}
    mel = spectrogram(
        speech, window_function(400, "hann"), mel_filters=filters, mel_floor=1e-8, log_mel="log", **options
    )
    static = dct(mel.T, axis=1, norm="ortho")[:, :13]
    if len(static) < 2:  # no difference can be taken
        return np.pad(static, ((0, 0), (0, 26)))
    first = np.gradient(static, axis=0)
    return np.concatenate([static, first, np.gradient(first, axis=0)], axis=1)


@dataclass
class Units:
    """K-means units of frames; `fit` on the training set, `of` for any speech.

    Args:
        frames: Makes frames `(time, channels)` of samples `(samples,)`.
        num_units: How many.
        seed: Of the first centres and of the frames that are drawn.
    """

    frames: Any
    num_units: int
    seed: int
    means: MiniBatchKMeans = field(init=False)
    centre: np.ndarray = field(init=False)
    scale: np.ndarray = field(init=False)

    def fit(self, speech: Any) -> None:
        """Cluster frames of examples, at most half a million, each channel scaled to unit variance.

        Raises:
            ValueError: If there are less frames than units.
        """
        drawn: list[np.ndarray] = []
        for row in np.random.default_rng(self.seed).permutation(len(speech)):
            drawn.append(self.frames(speech[int(row)]["input_values"]))
            if sum(map(len, drawn)) >= _MOST_FRAMES:
                break
        stacked = np.concatenate(drawn)
        if len(stacked) < self.num_units:
            raise ValueError(f"num_units must be at most the number of frames, {len(stacked)}, got {self.num_units}")
        self.centre, self.scale = stacked.mean(axis=0), stacked.std(axis=0) + 1e-9
        self.means = MiniBatchKMeans(self.num_units, random_state=self.seed, batch_size=4096, n_init=3)
        self.means.fit(((stacked - self.centre) / self.scale).astype(np.float32))

    def of(self, speech: Any) -> list[np.ndarray]:
        """The units `(frames,)` of each example."""
        frames = (self.frames(speech[row]["input_values"]) for row in range(len(speech)))
        return [self.means.predict(((part - self.centre) / self.scale).astype(np.float32)) for part in frames]


class FoldAdaptation:
    """The adaptation of an encoder for one fold, in a folder of its own: an ordinary encoder's, with `adaptation.json`.

    Args:
        corpus: The run's corpus.
        plan: Only its training set is learned from; the validation set measures the loss before and after.
        adapt_args: Encoder and objective.
        run_args: The Trainer's arguments.
        settings: What the result depends on.
    """

    def __init__(
        self,
        corpus: SpeechCorpus,
        plan: FoldPlan,
        *,
        adapt_args: AdaptArguments,
        run_args: RunArguments,
        settings: Mapping[str, Any],
    ) -> None:
        self.corpus, self.plan, self.adapt_args, self.run_args = corpus, plan, adapt_args, run_args
        self.settings, self.folder = dict(settings), Path(run_args.output_dir) / f"fold{plan.fold}"

    def run(self) -> Path:
        """Adapt and save, or keep what is done; goes on from the last whole checkpoint.

        Returns:
            The folder of the adapted encoder.
        """
        if (self.folder / ADAPTATION).exists():
            logger.info("fold %d is done, its encoder is kept: %s", self.plan.fold, self.folder)
            return self.folder
        set_seed(self.run_args.seed)
        model = OBJECTIVES[self.adapt_args.objective](self.adapt_args)
        if not self.adapt_args.train_convolutions:
            model.encoder.feature_extractor.requires_grad_(False)
        parts = self._examples()
        trainer = self._trainer(model, parts["train"])
        losses = {"before": self._loss(trainer, parts.get("validation"))}
        set_seed(self.run_args.seed)
        trainer.train(resume_from_checkpoint=last_whole_checkpoint(trainer.args.output_dir))
        losses["after"] = self._loss(trainer, parts.get("validation"))
        self._save(trainer, losses)
        return self.folder

    def _examples(self) -> dict[str, SpeechWithUnits]:
        """Training and validation set, without their labels."""
        speech: dict[str, Any] = {
            part: self.corpus.examples(getattr(self.plan, part)) for part in ("train", "validation")
        }
        speech = {part: examples for part, examples in speech.items() if len(examples)}
        if self.adapt_args.objective != "units":
            return {part: SpeechWithUnits(examples, None) for part, examples in speech.items()}
        units = Units(self._frames(), self.adapt_args.num_units, self.run_args.seed)
        units.fit(speech["train"])
        return {part: SpeechWithUnits(examples, units.of(examples)) for part, examples in speech.items()}

    def _frames(self) -> Any:
        """What makes the frames that are clustered, of the samples of one utterance."""
        if self.adapt_args.units_from == "mfcc":
            hop = int(np.prod(AutoConfig.from_pretrained(self.adapt_args.encoder_path).conv_stride))
            return lambda samples: mfcc(np.asarray(samples), hop=hop)
        path = self.adapt_args.units_encoder or self.adapt_args.encoder
        encoder = self._units_encoder(find_encoder(path.replace("{fold}", str(self.plan.fold))))
        layers, layer = encoder.config.num_hidden_layers, self.adapt_args.units_layer
        layer = (layers + 1) // 2 if layer is None else layer
        if not 0 <= layer <= layers:
            raise ValueError(f"units_layer must be between 0 and {layers}, got {layer}")

        @torch.no_grad()
        def frames(samples: Any) -> np.ndarray:
            return encode(encoder, torch.as_tensor(samples)[None], output=layer)[0].numpy()

        return frames

    def _units_encoder(self, path: str) -> Any:
        """The encoder whose frames are clustered; a trained model must have been trained on this fold's training set.

        Raises:
            ValueError: If it was trained on another plan, or nothing tells on which.
        """
        model = AutoModel.from_pretrained(path).eval()
        if not isinstance(model, ShiftModel):
            check_heard(path, self.plan, self.corpus.content_hashes)
            return model
        there = Path(path) / FOLD_RESULT
        plan = read_json(there)["plan"] if there.exists() else None
        if plan != self.plan.hash:
            raise ValueError(
                f"units_encoder must have been trained on the training set of fold {self.plan.fold} (plan"
                f" {self.plan.hash}), but {path!r} " + (f"is of plan {plan}" if plan else f"has no {FOLD_RESULT}")
            )
        return model.encoder

    def _trainer(self, model: nn.Module, train: SpeechWithUnits) -> ShiftTrainer:
        run_args = copy.copy(self.run_args)
        run_args.output_dir = str(self.folder / CHECKPOINTS)
        run_args.eval_strategy, run_args.metric_for_best_model = "no", None
        callbacks: list[TrainerCallback] = [FoldProgress(f"fold {self.plan.fold}, adapting")]
        if isinstance(model, Contrastive):
            callbacks.append(CodebookTemperature())
        trainer = ShiftTrainer(
            model=model, args=run_args, train_dataset=train, data_collator=collate_units, callbacks=callbacks
        )
        for callback in (ProgressCallback, PrinterCallback):
            trainer.remove_callback(callback)
        return trainer

    @torch.no_grad()
    def _loss(self, trainer: ShiftTrainer, examples: SpeechWithUnits | None) -> float | None:
        """Mean loss over the batches of the validation set, without dropout, with the same masks every time."""
        if examples is None:
            return None
        model, device, size = trainer.model.eval(), trainer.args.device, self.run_args.per_device_eval_batch_size
        state = np.random.get_state()
        np.random.seed(self.run_args.seed)
        losses = []
        for first in range(0, len(examples), size):
            batch = collate_units([examples[row] for row in range(first, min(first + size, len(examples)))])
            losses.append(model(**{name: values.to(device) for name, values in batch.items()})["loss"].item())
        np.random.set_state(state)
        model.train()
        return float(np.mean(losses))

    def _save(self, trainer: ShiftTrainer, losses: Mapping[str, float | None]) -> None:
        """The encoder with stock preprocessing, and what it has heard; `adaptation.json` is written last."""
        if self.run_args.process_index != 0:
            return
        trainer.model.encoder.eval().cpu().save_pretrained(self.folder)
        stock_extractor(self.corpus.feature_extractor.do_normalize).save_pretrained(self.folder)
        hashes = self.corpus.content_hashes
        heard: Any = self.corpus.examples(self.plan.train)
        record = {
            "fold": self.plan.fold,
            "plan": self.plan.hash,
            "corpus": self.corpus.info.title,
            "settings": self.settings,
            "steps": trainer.state.global_step,
            "validation_loss": losses,
            "utterances": len(self.plan.train),
            "hours": round(sum(heard.seconds) / 3600, 3),
            "heard": sorted(hashes[utterance] for utterance in self.plan.train),
        }
        write_json(self.folder / ADAPTATION, record)
        shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)


def stock_extractor(do_normalize: bool) -> Wav2Vec2FeatureExtractor:
    """The preprocessing saved with an encoder, of a class that every tool has."""
    return Wav2Vec2FeatureExtractor(sampling_rate=SAMPLING_RATE, do_normalize=do_normalize, return_attention_mask=True)


def adapt(
    adapt_args: AdaptArguments,
    data_args: DataArguments,
    run_args: RunArguments,
    *,
    dataset: datasets.Dataset | None = None,
) -> list[Path]:
    """Adapt an encoder to the training set of each fold; the same call goes on where it was stopped.

    Args:
        adapt_args: Encoder and objective.
        data_args: Corpus; its labels decide who is in which fold and are not learned from.
        run_args: Protocol, `folds`, and the Trainer's arguments.
        dataset: A corpus that is loaded already, in place of the one that `data_args` names.

    Returns:
        A folder for each fold, `<output_dir>/fold1`, ...: `--encoder '<output_dir>/fold{fold}'` of `shift-ser train`.

    Raises:
        ValueError: If an option breaks its rule or is not read here, or `output_dir` holds something else.
        BlockingIOError: If another run is at work in `output_dir`.
    """
    for arguments in (data_args, run_args):
        refuse_said(arguments, NOT_READ, reason="it means nothing for pretraining")
    encoder: Any = adapt_args  # has what a corpus reads of the arguments of a run
    corpus = SpeechCorpus(encoder, data_args, dataset=dataset)
    options = {option.name: getattr(run_args, option.name) for option in fields(PlanOptions)}
    said = {name: options[name] for name in ("fold_unit", "validation")}
    plans = plan_folds(corpus.dataset, **(options | settled(corpus.dataset, protocol=run_args.protocol, **said)))
    known = [plan.fold for plan in plans]
    if not set(run_args.folds or []) <= set(known):
        raise ValueError(f"folds must be among {known}, got {run_args.folds}")
    plans = [plan for plan in plans if plan.fold in (run_args.folds or known)]
    for plan in plans:
        check_plan(plan, corpus.dataset, content_hashes=corpus.content_hashes)
        check_heard(adapt_args.encoder_path, plan, corpus.content_hashes)
    settings = adaptation_settings(adapt_args, data_args, run_args)
    with run_lock(Path(run_args.output_dir)):
        _claim(Path(run_args.output_dir), settings)
        runs = [
            FoldAdaptation(corpus, plan, adapt_args=adapt_args, run_args=run_args, settings=settings) for plan in plans
        ]
        return [run.run() for run in runs]


def adaptation_settings(adapt_args: AdaptArguments, data_args: DataArguments, run_args: RunArguments) -> dict[str, Any]:
    """What an adapted encoder depends on, as JSON knows it."""
    settings = {**asdict(adapt_args), **argument_settings(data_args, run_args)}
    return {name: value for name, value in settings.items() if name not in NOT_READ}


def _claim(output_dir: Path, settings: Mapping[str, Any]) -> None:
    """Note the settings in the folder, or refuse one that holds something else."""
    path = output_dir / ADAPTATION_SETTINGS
    if not path.exists():
        if any(entry.name not in (LOCK, HOLDER) for entry in output_dir.iterdir()):
            raise ValueError(f"output_dir must be empty or hold the same adaptation, got {str(output_dir)!r}")
        write_json(path, dict(settings))
    if other := changed_settings(read_json(path), settings):
        raise ValueError(f"output_dir must hold no other adaptation, but {str(output_dir)!r} does: {other[0]}")
