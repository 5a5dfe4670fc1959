"""What a run can be told: argument classes for `HfArgumentParser`, read from flags and from a recipe in YAML."""

import difflib
import inspect
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, Optional, Union, get_args, get_origin

import torch
import yaml
from transformers import AutoConfig, HfArgumentParser, TrainingArguments

from ..corpora.table import pairs
from ..model.configuration_shift_ser import ShiftConfig
from ..model.heads import placements, variants
from ..recipes import find_encoder, find_recipe
from .adapters import ADAPTERS, AdapterOptions
from .argument_checks import check_ignored, check_numbers, check_trackers
from .augmentation import AUGMENTATIONS, PROBABILITY
from .optimization import SCHEDULES
from .protocols import FOLD_UNITS, PROTOCOLS, VALIDATIONS


def _option(help_text: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": help_text})


# Fields of `ShiftConfig` that are no option of the command line, each with what decides it instead.
NOT_OPTIONS = {
    "encoder_config": "encoder",
    "head_type": "variant",
    "freeze_encoder": "scenario",
    "dimension_means": "the training set",
    "dimension_stds": "the training set",
    "temperature": "the validation set, after training",
}


def head_options(config_class: type) -> list[tuple[str, Any, Any]]:
    """The options of a configuration class as fields for `make_dataclass`: name, type or None, and default None.

    Args:
        config_class: Its annotations are the options, its Google style docstring says what they are for.
    """
    lines = inspect.getdoc(config_class) or ""
    told = {name: " ".join(text.split()) for name, text in re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", lines, re.M)}
    options = []
    for name, annotation in config_class.__annotations__.items():
        if name not in NOT_OPTIONS:
            union = get_origin(annotation) in (Union, UnionType)
            kinds = [kind for kind in (get_args(annotation) if union else [annotation]) if kind is not type(None)]
            kind = float if float in kinds else kinds[0]  # the command line has one kind of number
            if len(kinds) > 1 and any(get_origin(each) is Literal for each in kinds):
                kind = str  # a number or a name, which `ModelArguments` tells apart
            help_text = told.get(name, "").replace("%", "%%")
            options.append((name, Optional[kind], _option(help_text)))  # noqa: UP045 (Literal has no |)
    return options


# Options of the model that the configuration of a saved model does not know.
NOT_OF_CONFIG = ("encoder", *(f"adapter{name}" for name in ("", "_rank", "_alpha", "_dropout", "_targets")))


@dataclass
class _PretrainedModel:
    encoder: str = _option(
        "Hub name or folder of the encoder; {fold}: the fold's number",
        "facebook/hubert-base-ls960",
    )
    variant: str = _option(f"published model: {', '.join(variants())}", "shiftformer")
    scenario: Literal["feature_extraction", "fine_tuning"] = _option(
        "feature_extraction: frozen encoder; fine_tuning: all but its convolutions is trained, or what unfreeze_layers"
        " or adapter say",
        "feature_extraction",
    )
    adapter: str | None = _option(
        f"fine_tuning of small matrices beside the frozen encoder's, merged into them at the end: {', '.join(ADAPTERS)}"
    )
    adapter_rank: int | None = _option("rank of the adapter's matrices [8]")
    adapter_alpha: float | None = _option("what is learned is scaled by adapter_alpha / adapter_rank [twice the rank]")
    adapter_dropout: float | None = _option("dropout before the adapter, in training [0]")
    adapter_targets: list[str] | None = _option(
        "names of the encoder's linear layers that get an adapter [q_proj v_proj; of WavLM the feed-forward layers]"
    )


_HeadOptions: Any = make_dataclass("_HeadOptions", head_options(ShiftConfig), bases=(_PretrainedModel,))


@dataclass
class ModelArguments(_HeadOptions):
    """Which encoder, which head; options left out keep what `ShiftConfig` publishes for the variant."""

    def __post_init__(self) -> None:
        """A layer's number as a number; refuse a placement that no head has."""
        layer: int | str | None = getattr(self, "encoder_layer")  # noqa: B009 (a type checker sees no made fields)
        if isinstance(layer, str) and layer.lstrip("-").isdecimal():
            self.encoder_layer = int(layer)
        placement = getattr(self, "shift_placement")  # noqa: B009
        if placement not in (None, *placements()):
            raise ValueError(f"shift_placement must be one of {placements()}, got {placement!r}")
        self.adapter_options  # noqa: B018 (refuses what contradicts itself)

    @property
    def adapter_options(self) -> AdapterOptions | None:
        """What was said of adapters; None: the encoder gets none.

        Raises:
            ValueError: If the options contradict each other.
        """
        names = ("rank", "alpha", "dropout", "targets")
        said = {name: value for name in names if (value := getattr(self, f"adapter_{name}")) is not None}
        if self.adapter is None:
            if said:
                name = next(iter(said))
                raise ValueError(f"adapter_{name} must be left out without adapter, got {said[name]}")
            return None
        if self.scenario != "fine_tuning":
            raise ValueError(
                f"adapter must go with scenario 'fine_tuning', got {self.adapter!r} with {self.scenario!r}"
            )
        if (unfrozen := getattr(self, "unfreeze_layers")) is not None:  # noqa: B009
            raise ValueError(f"adapter must be left out with unfreeze_layers {unfrozen}, got {self.adapter!r}")
        return AdapterOptions(self.adapter, **said)

    @property
    def encoder_path(self) -> str:
        """What `from_pretrained` loads for `encoder`; of an encoder for each fold the first one's."""
        return self.encoder_of(1)

    @property
    def encoder_of_each_fold(self) -> bool:
        """Whether each fold has an encoder of its own, as `shift-ser adapt` makes them."""
        return "{fold}" in self.encoder

    def encoder_of(self, fold: int) -> str:
        """What `from_pretrained` loads for `encoder` in a fold."""
        return find_encoder(self.encoder.replace("{fold}", str(fold)))

    def config_options(self) -> dict[str, Any]:
        """What was said of the configuration, by its own names."""
        said = {name: value for name, value in vars(self).items() if value is not None and name not in NOT_OF_CONFIG}
        scenario = said.pop("scenario")
        return {**said, "freeze_encoder": scenario == "feature_extraction"}

    def check(self) -> None:
        """Build the configuration once, so that impossible options are told before anything is done.

        Raises:
            ValueError: If there is no such variant.
            StrictDataclassError: If options are impossible, by themselves or together.
            OSError: If there is no such encoder.
        """
        options = self.config_options()
        encoder_config = AutoConfig.from_pretrained(self.encoder_path)
        config = ShiftConfig.from_variant(options.pop("variant"), encoder_config=encoder_config, **options)
        if self.adapter_options is not None:
            self.adapter_options.check(config.encoder_config)


@dataclass
class DataArguments:
    """Which corpus, and how much of an utterance."""

    corpus: str = _option(
        "folder of a known corpus (IEMOCAP, ...), or speech of your own: a table (CSV, JSON lines, Parquet), a folder"
        " label/file.wav, a saved Dataset, a data set of the Hub",
        "IEMOCAP_full_release",
    )
    subset: str | None = _option("what is read of a known corpus, by name")
    labels: list[str] | None = _option("labels to join or rename, e.g. happy=hap,exc angry=ang")
    exclude: list[str] | None = _option("labels whose utterances are left out")
    columns: list[str] | None = _option("columns of speech of your own, e.g. audio=path label=emotion speaker=who")
    speaker_regex: str | None = _option("finds the speaker in the path of a recording: its first group")
    speakers: Literal["unknown"] | None = _option("unknown: results are marked, since folds may share speakers")
    dataset_split: str | None = _option("split of a saved or Hub data set; default: all")
    dataset_revision: str | None = _option("revision of a data set of the Hub")
    other_votes: bool = _option(
        "soft_label_classification: votes for none of the labels are a class `other` in training; else left out", False
    )
    max_seconds: float = _option("utterances are cut to this length", 7.5)
    do_normalize: bool | None = _option("scale utterances to zero mean and unit variance; default: as the encoder says")
    cache_dir: str = _option("where the frozen encoder's frames are kept", "cache/frames")
    cache_dtype: Literal["float32", "float16", "bfloat16"] = _option("dtype that they are kept in", "float32")
    encoder_dtype: Literal["float32", "float16", "bfloat16"] = _option("dtype that they are computed in", "float32")
    cache_convolutions: bool = _option("fine_tuning: keep what the frozen convolutions make of speech", False)

    def __post_init__(self) -> None:
        """Refuse lengths that are none."""
        check_numbers(self)

    def corpus_options(self) -> dict[str, Any]:
        """What `load_corpus` is told beside the source.

        Raises:
            ValueError: If `labels` or `columns` are not written as name=value.
        """
        labels = {name: olds.split(",") for name, olds in pairs(self.labels or [], option="labels").items()}
        return {
            "subset": self.subset,
            "labels": labels,
            "exclude": self.exclude or [],
            "columns": pairs(self.columns, option="columns") if self.columns else None,
            "speaker_regex": self.speaker_regex,
            "speakers": self.speakers,
            "split": self.dataset_split,
            "revision": self.dataset_revision,
        }


@dataclass
class RunArguments(TrainingArguments):
    """The Trainer's arguments with this package's defaults, and what the Trainer does not know.

    `per_device_train_batch_size` is the size of the whole batch, however many processes share it. A fold is evaluated
    and saved after every epoch, whatever the Trainer's own arguments for that say. `push_to_hub` pushes the finished
    run once (`shift_ser.hub`), not checkpoints; of the Trainer's other `hub_` arguments `hub_model_id`, `hub_token`
    and `hub_private_repo` count.
    """

    output_dir: str = _option("folder of this run: results, and a saved model per fold", "runs/shift_ser")
    protocol: str = _option(
        f"how the corpus is divided; {'; '.join(f'{name}: {entry.help}' for name, entry in PROTOCOLS.items())}",
        "test_blind",
    )
    fold_unit: str | None = _option(
        f"who is left out and tests: {', '.join(FOLD_UNITS)}; default: session if the corpus has sessions, else speaker"
    )
    validation: str | None = _option(f"who selects the epoch: {', '.join(VALIDATIONS)}; default: as fold_unit's")
    num_folds: int = _option("speaker_groups: number of groups", 5)
    allow_shared_speakers: bool = _option("given: take a division that has a speaker in two parts, and say so", False)
    fold_lists: str | None = _option("emobox: folder of the corpus's lists, with fold_1, fold_2, ... in it")
    refit: bool = _option("after validation train anew, on the validation set as well, to the selected epoch", False)
    final: bool = _option(
        "after all folds, train the model to ship: on all utterances, for the median of the selected epochs",
        False,
    )
    seeds: list[int] | None = _option("seeds that each fold is run with, e.g. 0 1 2; default: that of --seed")
    seed_per_fold: bool = _option(
        "each fold draws weights, dropout and masks from seed and fold; default: all folds of a seed draw alike",
        False,
    )
    selection_metric: Literal["wa", "ua", "ccc"] = _option("score that selects the epoch; regression: ccc", "ua")
    class_weights: Literal["balanced"] | None = _option(
        "weight of each class in the loss; balanced: utterances / (classes * utterances of the class)"
    )
    balanced_sampling: bool = _option("draw each class equally often, with replacement", False)
    augment: list[str] | None = _option(
        f"changes of the speech of training, each with probability {PROBABILITY:g} and a strength of its own;"
        f" {'; '.join(f'{kind}: {entry.help}' for kind, entry in AUGMENTATIONS.items())}"
    )
    augment_variants: int = _option(
        "augment where frames are kept: number of draws, which the epochs take turns with", 4
    )
    mixup_alpha: float = _option(
        "mix each utterance of a training batch with another one, by a share of Beta(a, a)", 0.0
    )
    focal_gamma: float = _option("focal loss: how much less an utterance counts that is classified surely", 0.0)
    do_train: bool = _option("fixed: evaluate_only is for scoring again", True)
    folds: list[int] | None = _option("folds to run, e.g. 1 3; default: all")
    evaluate_only: bool = _option("score the models of output_dir again, train none", False)
    baseline: bool = _option("also score the majority class and logistic regression on the same folds", False)
    schedule: str = _option(
        f"learning rate: {', '.join(SCHEDULES)}; transformers: what lr_scheduler_type says", "transformers"
    )
    warmup_epochs: float = _option("warm-up of the authors' schedules", 5.0)
    warmup_learning_rate: float = _option("first rate of the authors' cosine", 5e-7)
    min_learning_rate: float = _option("last rate of the authors' cosine", 5e-6)
    per_device_train_batch_size: int = _option("utterances in a training batch, over all processes", 32)
    max_batch_seconds: float | None = _option(
        "in place of a number of utterances: seconds in a training batch with its padding, over all processes"
    )
    per_device_eval_batch_size: int = _option("utterances in an evaluation batch, over all processes", 32)
    logging_strategy: str = _option("as in TrainingArguments", "epoch")
    save_total_limit: int | None = _option("checkpoints kept while a fold runs, at least 2", 2)
    ddp_find_unused_parameters: bool | None = _option("as in TrainingArguments", True)  # with checkpointing, too
    remove_unused_columns: bool = _option("fixed: the data set's transform reads all columns", False)
    accelerator_config: dict | str | None = field(
        default_factory=lambda: {"split_batches": True}, metadata={"help": "as in TrainingArguments"}
    )

    def __post_init__(self) -> None:
        """Tie evaluation, saving and validation together as the protocol asks."""
        self._check()
        check_numbers(self)
        check_ignored(self)
        check_trackers(self.report_to)
        self.eval_strategy = self.save_strategy = "epoch"
        self.load_best_model_at_end = False  # a run takes the selected epoch itself, also after its folder was moved
        self.metric_for_best_model = f"eval_validation_{self.selection_metric}" if self.selects else None
        self.logging_nan_inf_filter = False
        # Without this, several processes on a machine without accelerator would each take themselves for the only one.
        if not torch.accelerator.is_available():
            self.use_cpu = True
        super().__post_init__()

    @property
    def selects(self) -> bool:
        """Whether a validation set chooses the epoch."""
        return PROTOCOLS[self.protocol].selects

    @property
    def all_seeds(self) -> list[int]:
        """The seeds of the run: `seeds`, or `seed` alone."""
        return self.seeds or [self.seed]

    def _check(self) -> None:
        choices = {
            "protocol": tuple(PROTOCOLS),
            "fold_unit": (None, *FOLD_UNITS),
            "validation": (None, *VALIDATIONS),
            "schedule": SCHEDULES,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                known = tuple(value for value in allowed if value is not None)
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        if self.push_to_hub and self.evaluate_only:
            raise ValueError("evaluate_only must be false with push_to_hub, which pushes what training left; got True")
        if self.refit and (not self.selects or self.max_steps > 0):
            raise ValueError(
                "refit must be false without a selected epoch to stop after, got True with"
                f" protocol {self.protocol!r} and max_steps {self.max_steps}"
            )
        if self.final and (self.folds or self.evaluate_only or self.max_steps > 0):
            raise ValueError(
                "final must be false unless all folds are trained, each for a number of epochs, got True with folds"
                f" {self.folds}, evaluate_only {self.evaluate_only} and max_steps {self.max_steps}"
            )
        follower = getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type)
        if follower in ("reduce_lr_on_plateau", "greedy") and (self.refit or self.final or not self.selects):
            raise ValueError(
                f"lr_scheduler_type must follow no score where nothing selects, got {follower!r} with protocol"
                f" {self.protocol!r}, refit {self.refit} and final {self.final}"
            )
        if self.balanced_sampling and (self.max_batch_seconds or self.train_sampling_strategy == "group_by_length"):
            raise ValueError("balanced_sampling must be left out with batches of utterances of like length, got True")
        for kind in self.augment or []:
            if kind not in AUGMENTATIONS:
                raise ValueError(f"augment must be among {tuple(AUGMENTATIONS)}, got {kind!r}")
        if len(set(self.all_seeds)) < len(self.all_seeds):
            raise ValueError(f"seeds must differ, got {self.seeds}")
        if self.save_total_limit == 1:
            raise ValueError(
                "save_total_limit must be at least 2, or a run could not go on from its last checkpoint; got 1"
            )


def parse_arguments(arguments: Sequence[str], *, first: Any = ModelArguments) -> Any:
    """Read a recipe and flags; flags win.

    Args:
        arguments: Command line without the program: a recipe, before or after the flags, and `--flag value ...`.
        first: Argument class beside those of corpus and run.

    Returns:
        `ModelArguments` (or `first`), `DataArguments` and `RunArguments`.

    Raises:
        ValueError: If there is no such flag or a value is none of its kind; if the recipe is not YAML or not a
            mapping, or has a key that no argument class knows.
        FileNotFoundError: If there is no such recipe.
    """
    parser, words, rest = _parse((first, DataArguments, RunArguments), arguments)
    if len(rest) > 1:
        raise ValueError(f"there must be at most one recipe, got {', '.join(rest)}")
    if rest:
        place = words.index(rest[0])
        known = {action.dest for action in parser._actions}
        words = [*_recipe_words(Path(rest[0]), known), *words[:place], *words[place + 1 :]]
    return parser.parse_args_into_dataclasses(words, look_for_args_file=False)


def parse_data_arguments(arguments: Sequence[str]) -> DataArguments:
    """Read the flags that concern the corpus alone.

    Raises:
        ValueError: If there is no such flag or a value is none of its kind, or a word belongs to no flag.
    """
    parser, words, rest = _parse((DataArguments,), arguments)
    if rest:
        raise ValueError(f"every word must belong to a flag, got {rest[0]!r}")
    return parser.parse_args_into_dataclasses(words, look_for_args_file=False)[0]


def _parse(kinds: tuple[type, ...], arguments: Sequence[str]) -> tuple["_Parser", list[str], list[str]]:
    """A parser, the words, and those of them that belong to no flag."""
    parser = _Parser(kinds, allow_abbrev=False, add_help=False)
    known, words = {action.dest for action in parser._actions}, list(arguments)
    rest = parser.parse_known_args(words)[1]
    for word in rest:
        if word.startswith("-"):
            flag = word.lstrip("-").partition("=")[0]
            close = difflib.get_close_matches(flag, known, n=1)
            raise ValueError(f"there is no flag {word!r}" + (f"; did you mean '--{close[0]}'?" if close else ""))
    return parser, words, rest


class _Parser(HfArgumentParser):
    """Raises what argparse would print before it leaves the program."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def read_yaml(path: Path, *, kind: str) -> dict[str, Any]:
    """The `key: value` lines of a YAML file; `kind` (recipe, study) is what errors call it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not YAML or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{kind} must be a YAML file, there is none at {str(path)!r}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{kind} {str(path)!r} must be YAML, got {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{kind} {str(path)!r} must hold `key: value` lines, got {type(content).__name__}")
    return content


def refuse_unknown(names: Iterable[Any], known: Iterable[str], *, where: str) -> None:
    """Raise `ValueError` for the first name that is not known, with the nearest that is."""
    known = list(known)
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{where} has the unknown key {name!r}{hint}")


def _recipe_words(path: Path, known: set[str]) -> list[str]:
    """A recipe as command-line words, so that both are read by the same rules (in YAML, `1e-4` is a string)."""
    recipe = read_yaml(find_recipe(path), kind="recipe")
    refuse_unknown(recipe, known, where=f"recipe {str(path)!r}")
    return [word for key, value in recipe.items() if value is not None for word in _words(key, value, path)]


def _words(key: str, value: Any, path: Path) -> list[str]:
    """One entry of a recipe as words; a value never becomes a flag."""
    if not isinstance(value, list):
        return [f"--{key}={json.dumps(value) if isinstance(value, dict) else value}"]
    for item in value:
        if str(item).startswith("-") and not isinstance(item, (int, float)):
            raise ValueError(f"recipe {str(path)!r}: {key} must hold values, got the flag {item!r}")
    return [f"--{key}", *map(str, value)]
