"""ShiftConfig: every default of the model and every rule between its options."""

import copy
import difflib
import math
from collections.abc import Iterable
from typing import Any, Literal

from huggingface_hub.dataclasses import strict, validated_field
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME

from .encoders import ENCODERS, FEATURE_PROJECTION, check_encoder_config, is_whisper
from .heads import HEADS, placements, variants
from .losses import DIMENSIONS, PROBLEM_TYPES, ProblemType
from .temporal_shift import check_shift

__version__ = "0.1.0"  # of the package: here, since this file travels with models and the package's own does not

# Where `trust_remote_code=True` finds the classes beside a saved model.
AUTO_MAP = {
    "AutoConfig": "configuration_shift_ser.ShiftConfig",
    "AutoModel": "modeling_shift_ser.ShiftModel",
    "AutoModelForAudioClassification": "modeling_shift_ser.ShiftForSequenceClassification",
}
CUSTOM_PIPELINES = {
    "audio-classification": {
        "impl": "pipeline_shift_ser.ShiftAudioClassificationPipeline",
        "pt": ["AutoModelForAudioClassification"],
    }
}


class SavedConfig(PreTrainedConfig):
    """`PreTrainedConfig` whose file says which release wrote it, brings its code along, and names every label once.

    Args:
        shift_ser_version: Release of this package that wrote the file; saving puts the present one.
        **options: Those of every configuration. `id2label` and `label2id` name the classes, each the inverse of the
            other; the second may be left out. `num_labels` alone numbers them.

    Raises:
        ValueError: If `num_labels` contradicts `id2label`.
    """

    shift_ser_version: str = __version__

    def __post_init__(self, **kwargs: Any) -> None:
        """Complete the labels, and say where the code is."""
        kwargs.pop("custom_pipelines", None)  # the property below
        kwargs["auto_map"] = {**AUTO_MAP, **(kwargs.get("auto_map") or {})}
        if self.id2label is not None:
            self._complete_labels(kwargs.get("num_labels"))
        super().__post_init__(**kwargs)

    def _complete_labels(self, num_labels: int | None) -> None:
        """The inverse of `id2label` for a `label2id` left out; whole numbers for the strings that JSON knows."""
        self.id2label: dict[int, str] = {int(index): name for index, name in self.id2label.items()}
        if num_labels not in (None, len(self.id2label)):
            raise ValueError(
                f"num_labels must be left out beside id2label, or be its length {len(self.id2label)}, got {num_labels}"
            )
        inverse = {name: index for index, name in self.id2label.items()}
        given = inverse if self.label2id is None else self.label2id
        self.label2id: dict[str, int] = {name: int(index) for name, index in given.items()}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **options: Any) -> Any:
        """As in the base class, once the file is seen to be of this major version; `num_labels` replaces its labels.

        Raises:
            ValueError: If it is of another type of model, or a newer major version of the package wrote it.
        """
        if config_dict.get("model_type", cls.model_type) != cls.model_type:
            raise ValueError(
                f"the configuration must be of model_type {cls.model_type!r}, got {config_dict['model_type']!r}: for a"
                " new head on a pretrained encoder, call from_encoder_pretrained"
            )
        written_by = str(config_dict.get("shift_ser_version", __version__))
        major = written_by.split(".")[0]
        if not major.isdigit() or int(major) > int(__version__.split(".")[0]):
            raise ValueError(
                f"the configuration must be of shift-ser {__version__} or of no newer major version, but"
                f" {written_by!r} wrote it: pip install --upgrade shift-ser; or, without importing shift_ser, pass"
                " trust_remote_code=True, which takes the code saved beside the model"
            )
        labels = config_dict.get("id2label")
        if labels is not None and options.get("num_labels") not in (None, len(labels)):
            config_dict = {name: value for name, value in config_dict.items() if name not in ("id2label", "label2id")}
        return super().from_dict(config_dict, **options)

    def to_dict(self) -> dict[str, Any]:
        """Everything that a saved file holds, with the version that writes it."""
        return {**super().to_dict(), "shift_ser_version": __version__, "custom_pipelines": CUSTOM_PIPELINES}

    @property
    def custom_pipelines(self) -> dict[str, Any]:
        """The pipeline classes that `pipeline` takes from a model's folder.

        Only where the code came from there: beside the installed package, `pipeline` would insist on
        `trust_remote_code`. There importing the package tells `pipeline` of the class.
        """
        from_folder = __name__.startswith(f"{TRANSFORMERS_DYNAMIC_MODULE_NAME}.")
        return copy.deepcopy(CUSTOM_PIPELINES) if from_folder else {}  # `pipeline` writes into it

    def validate_labels(self) -> None:
        """The classifier has a row for each name, in the order of their indices."""
        if sorted(self.id2label) != list(range(len(self.id2label))):
            raise ValueError(
                f"id2label must name the rows 0 to {len(self.id2label) - 1} of the classifier, got {self.id2label}"
            )
        inverse = {name: index for index, name in self.id2label.items()}
        if self.label2id != inverse or len(inverse) < len(self.id2label):
            raise ValueError(
                "label2id must be the inverse of id2label, each name once (to change labels, pass both), got"
                f" label2id={self.label2id} and id2label={self.id2label}"
            )


def _head_type_is_known(value: str) -> None:
    if value not in HEADS:
        raise ValueError(f"head_type must be one of {tuple(HEADS)}, got {value!r}")


def _placement_is_known(value: str | None) -> None:
    if value is not None and value not in placements():
        raise ValueError(f"shift_placement must be one of {placements()}, got {value!r}")


@strict
class ShiftConfig(SavedConfig):
    """Configuration of a speech encoder with a temporal shift head (model type `shift_ser`).

    Options left at `None` take the value published for the head type (Shen et al. 2024); the object, and the file
    it is saved to, hold the values that came out.

    Args:
        encoder_config: Configuration, or its dict, of any wav2vec2-like encoder of `AutoModel`. Default: HuBERT base.
        head_type: `linear`, `cnn`, `lstm` or `transformer`: a key of `HEADS`.
        shift_placement: Where in a block the shift sits. `none`; `in_place`: the block's whole input is shifted;
            `residual`: only the shortcut around convolution or attention is; `replace`: the shift stands instead of
            attention, its shortcut and its norm. Which of them a head takes is in `HEADS`.
        shift_proportion: Share of the channels moved **per direction** (`1 / n_div` in the authors' code).
        shift_direction: `forward` (delay) or `bidirectional` (delay and advance).
        shift_stride: Frames (20 ms each) to move by.
        shift_padding: What fills vacated frames, `zero` or `repeat`.
        shift_layers: Indices of the blocks with a shift. Default as published: the last CNN block, else all blocks.
        num_head_layers: Number of blocks. Default as published: cnn 2, lstm 1, transformer 2, linear 0.
        conv_kernel_size: Frames under the depthwise convolution of a CNN block; odd.
        num_attention_heads: Heads of an attention block; divides the encoder's hidden size.
        position_embedding_type: `relative_key_query` (published), `relative_key`, or `absolute` (a learned vector per
            position joins the frames before the first block). Read where a transformer block has attention.
        max_position_embeddings: Frames the position tables reach; farther distances and positions are clipped.
        causal: A frame of the head's output depends on no later frame of its input, so that the head can run on a
            stream (`ShiftHead.step`): the shift is forward, a convolution looks at the frames before, an LSTM has one
            direction. A block with attention cannot be causal: its state would grow with the stream.
        use_weighted_layer_sum: Learn a softmax-weighted sum over all encoder layers instead of taking the last.
        encoder_layer: What the head reads of the encoder. A number takes its `hidden_states[encoder_layer]`: 0 is the
            input of its first layer (positional convolution included), N the output of layer N; what lies above is
            not run. `feature_projection` takes its projected features, which come before the positional convolution
            and attention: each frame depends on its own 25 ms of speech (and, with `feat_extract_norm="group"`, on the
            utterance's scale). Default: its `last_hidden_state`. In encoders with `do_stable_layer_norm=True` (most
            large ones: pre-norm) a final norm follows the last of N layers, so there `encoder_layer=N` is the last
            frames **before** that norm, on another scale; in the others the two are equal.
        mask_time_prob: SpecAugment on the encoder's frames, in training only: share of frames under time masks.
        mask_time_length: Frames in one time mask. Time masks are skipped in batches that are shorter.
        mask_time_min_masks: Least number of time masks.
        mask_feature_prob: Share of channels under feature masks.
        mask_feature_length: Channels in one feature mask. Default: 64 as published (768 channels), and a twelfth of
            the channels of an encoder that has no more than 64.
        mask_feature_min_masks: Least number of feature masks.
        mask_padding: Padding counts as absent everywhere. `False` reproduces the authors, who mask it nowhere.
        freeze_encoder: Feature extraction (`True`): the encoder stays in eval mode and gets no gradient. Fine-tuning
            (`False`): all but its convolutional feature encoder is trained.
        unfreeze_layers: Fine-tuning of so many last layers that are read, and of the norm behind them; what lies below
            stays frozen. Default: all layers and the feature projection are trained.
        encoder_augmentation: Keep the encoder's own SpecAugment and LayerDrop; otherwise both are switched off.
        encoder_layerdrop: Probability that training leaves out a layer of the encoder's transformer (LayerDrop); its
            input is its output then. Where the encoder is frozen no layer is left out. Default: 0, or with
            `encoder_augmentation` the encoder's own.
        problem_type: What the model tells of an utterance, a key of `PROBLEM_TYPES`: `single_label_classification`;
            `soft_label_classification`, learned from the distribution of the raters' votes; `regression`: the
            `dimensions`; `multi_task`: one label and the `dimensions`. Default: `single_label_classification`.
        dimensions: Names of the values that `regression` and `multi_task` tell, the last outputs of the classifier.
            Default there: `valence arousal dominance`.
        dimension_means: Mean of each dimension in the training set, added to the classifier's outputs for them, so that
            values are on the scale of the corpus. `None`: the outputs are taken as they are.
        dimension_stds: Standard deviation of each dimension in the training set, by which they are multiplied before.
        temperature: What divides logits where calibrated scores are asked for (`pipeline(..., calibrated=True)`),
            fitted on a validation set; nothing else reads it. `None`: never fitted.
        frame_labels: Each frame is trained to tell the label, on joined utterances; timelines then take frames' scores.
            An utterance's logits are the mean of its frames' either way: the classifier is linear.
        **options: Those of `SavedConfig`, the names of the classes among them.

    Raises:
        StrictDataclassFieldValidationError: If a value has a wrong type or is not among those allowed.
        StrictDataclassClassValidationError: If options contradict each other; the message says what is allowed.

    Example:
        >>> config = ShiftConfig.from_variant("shiftcnn")
        >>> config.shift_placement, config.shift_proportion, config.shift_layers
        ('residual', 0.0625, [1])
    """

    model_type = "shift_ser"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(AutoConfig, model_type="hubert")}

    encoder_config: dict | PreTrainedConfig | None = None
    head_type: str = validated_field(_head_type_is_known, default="transformer")
    shift_placement: str | None = validated_field(_placement_is_known, default=None)
    shift_proportion: float | int | None = None
    shift_direction: Literal["forward", "bidirectional"] | None = None
    shift_stride: int = 1
    shift_padding: Literal["zero", "repeat"] = "zero"
    shift_layers: list[int] | None = None
    num_head_layers: int | None = None
    conv_kernel_size: int = 7
    num_attention_heads: int = 12
    position_embedding_type: Literal["absolute", "relative_key", "relative_key_query"] = "relative_key_query"
    max_position_embeddings: int = 374
    causal: bool = False
    use_weighted_layer_sum: bool = False
    encoder_layer: int | Literal["feature_projection"] | None = None
    mask_time_prob: float | int = 0.08
    mask_time_length: int = 15
    mask_time_min_masks: int = 2
    mask_feature_prob: float | int = 0.05
    mask_feature_length: int | None = None
    mask_feature_min_masks: int = 1
    mask_padding: bool = True
    freeze_encoder: bool = True
    unfreeze_layers: int | None = None
    encoder_augmentation: bool = False
    encoder_layerdrop: float | int | None = None
    problem_type: (
        Literal["single_label_classification", "soft_label_classification", "regression", "multi_task"] | None
    ) = None
    dimensions: list[str] | None = None
    dimension_means: list[float] | None = None
    dimension_stds: list[float] | None = None
    temperature: float | int | None = None
    frame_labels: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in what was left open: the encoder's configuration and the settings published for the head type."""
        self._refuse_misspelt(kwargs)
        spec = self.sub_configs_defaults["encoder_config"]
        encoder_config, kwargs = spec.create_subconfig("encoder_config", self.encoder_config, **kwargs)
        self.encoder_config = copy.deepcopy(encoder_config)
        self.encoder_config._name_or_path = ""
        self.encoder_config.dtype = None  # the whole model has one dtype, whatever the encoder was saved in
        if self.encoder_layerdrop is None:
            self.encoder_layerdrop = (
                getattr(self.encoder_config, "layerdrop", 0.0) if self.encoder_augmentation else 0.0
            )
        self.encoder_config.layerdrop = self.encoder_layerdrop
        if not self.encoder_augmentation:
            self.encoder_config.apply_spec_augment = False
        if self.mask_feature_length is None:
            self.mask_feature_length = 64 if self.hidden_size > 64 else max(1, self.hidden_size // 12)
        self._take_published()
        self._name_outputs()
        super().__post_init__(**kwargs)

    def _name_outputs(self) -> None:
        """What the outputs are, where it was left open: one label, or the dimensions by their usual names."""
        if self.problem_type is None:
            self.problem_type = "single_label_classification"
        problem = self.problem
        if problem.dimensions and self.dimensions is None:
            named = list((self.id2label or {}).values())
            self.dimensions = named if named and not problem.classes else list(DIMENSIONS)
        if self.dimensions and problem.dimensions and self.id2label is None:
            classes = ["LABEL_0", "LABEL_1"] if problem.classes else []
            self.id2label = dict(enumerate([*classes, *self.dimensions]))

    def _take_published(self) -> None:
        """Give what was left open the values of the head's entry in `HEADS`."""
        head = HEADS[self.head_type]
        if self.shift_placement is None:
            self.shift_placement = head.placements[0]
        if self.causal and self.shift_direction is None:
            self.shift_direction = "forward"
        for name, value in head.published.items():
            if getattr(type(self), name, None) is not None:
                raise ValueError(
                    f"published settings of the head {self.head_type!r} must be options that are None by default,"
                    f" got {name!r}"
                )
            if getattr(self, name, None) is None:
                setattr(self, name, value)
        if self.shift_layers is None and isinstance(self.num_head_layers, int):
            blocks = list(range(self.num_head_layers))
            self.shift_layers = blocks[-1:] if head.shifted == "last" else blocks

    @classmethod
    def _refuse_misspelt(cls, names: Iterable[str]) -> None:
        """Raise for names that are nearly an option: as unknown keyword arguments they would become attributes."""
        for name in names:
            for option in difflib.get_close_matches(name, cls.__annotations__, n=1, cutoff=0.9):
                raise ValueError(f"{name!r} must be the name of an option; did you mean {option!r}?")

    @classmethod
    def from_variant(cls, name: str, **options: Any) -> "ShiftConfig":
        """The published settings of one model: `cnn`, `shiftcnn`, `lstm`, `shiftlstm`, `transformer`, `shiftformer`.

        `linear` (masked mean and a linear layer) is there as the floor. Further `options` replace single settings.

        Raises:
            ValueError: If no head of `HEADS` has a variant of that name.
        """
        known = variants()
        if name not in known:
            raise ValueError(f"name must be one of {sorted(known)}, got {name!r}")
        head_type, variant = known[name]
        return cls(**{"head_type": head_type, "shift_placement": variant.placement, **options})

    @property
    def hidden_size(self) -> int:
        """Channels of a frame of the encoder."""
        return self.encoder_config.hidden_size

    @hidden_size.setter
    def hidden_size(self, value: int) -> None:
        raise NotImplementedError(f"hidden_size is the encoder's, set it in encoder_config; got {value}")

    @property
    def num_hidden_layers(self) -> int:
        """Blocks of the head."""
        return self.num_head_layers

    @num_hidden_layers.setter
    def num_hidden_layers(self, value: int) -> None:
        raise NotImplementedError(f"num_hidden_layers of the head is set as num_head_layers; got {value}")

    @property
    def problem(self) -> ProblemType:
        """The entry of `PROBLEM_TYPES`."""
        return PROBLEM_TYPES[str(self.problem_type)]

    @property
    def encoder_output(self) -> int | str:
        """What of the encoder the head reads: `"all"` its layers, one by number or name, or the `"last"` frames."""
        if self.use_weighted_layer_sum:
            return "all"
        return "last" if self.encoder_layer is None else self.encoder_layer

    @property
    def attention_layers(self) -> list[int]:
        """Indices of the blocks that hold attention."""
        if not HEADS[self.head_type].has_attention:
            return []
        replaced = self.shift_layers if self.shift_placement == "replace" else []
        return [layer for layer in range(self.num_head_layers) if layer not in replaced]

    def validate_encoder(self) -> None:
        """The encoder must make frames of speech that no padding beside it changes, and have the layer that is read."""
        check_encoder_config(self.encoder_config)
        if self.encoder_layer == FEATURE_PROJECTION and is_whisper(self.encoder_config):
            raise ValueError(f"encoder_layer must be a number with Whisper's encoder, got {self.encoder_layer!r}")
        if self.encoder_layer is not None:
            last = self.encoder_config.num_hidden_layers
            if self.encoder_layer != FEATURE_PROJECTION and not 0 <= self.encoder_layer <= last:
                raise ValueError(
                    f"encoder_layer must be from 0 to the encoder's {last} layers, or {FEATURE_PROJECTION!r},"
                    f" got {self.encoder_layer}"
                )
            if self.use_weighted_layer_sum:
                raise ValueError(f"encoder_layer must be None with use_weighted_layer_sum, got {self.encoder_layer}")
        self._validate_unfrozen()
        if not 0 <= self.encoder_layerdrop < 1:
            raise ValueError(f"encoder_layerdrop must be from 0 to below 1, got {self.encoder_layerdrop}")
        known = self.encoder_config.model_type in ENCODERS
        if self.encoder_layerdrop > 0 and self.encoder_output != "last" and not known:
            raise ValueError(
                "encoder_layerdrop must be 0 where other than the last frames are read of an encoder of the family"
                f" {self.encoder_config.model_type!r}, got {self.encoder_layerdrop}"
            )

    def _validate_unfrozen(self) -> None:
        if self.unfreeze_layers is None:
            return
        if self.freeze_encoder:
            raise ValueError(
                f"unfreeze_layers must be None with freeze_encoder (feature extraction), got {self.unfreeze_layers}"
            )
        named = {None: self.encoder_config.num_hidden_layers, FEATURE_PROJECTION: 0}
        read = named.get(self.encoder_layer, self.encoder_layer)
        if not 1 <= self.unfreeze_layers <= read:
            raise ValueError(
                f"unfreeze_layers must be from 1 to the {read} layers of the encoder that are read, got"
                f" {self.unfreeze_layers}"
            )

    def validate_shift(self) -> None:
        """The shift must be one, and one that the head type knows."""
        allowed = HEADS[self.head_type].placements
        if self.shift_placement not in allowed:
            raise ValueError(
                f"shift_placement of head_type={self.head_type!r} must be one of {allowed},"
                f" got {self.shift_placement!r}"
            )
        try:
            check_shift(
                proportion=self.shift_proportion,
                stride=self.shift_stride,
                direction=self.shift_direction,
                padding=self.shift_padding,
            )
        except ValueError as error:
            raise ValueError(f"shift_{error}") from None
        known = range(self.num_head_layers)
        if not set(self.shift_layers) <= set(known) or len(set(self.shift_layers)) < len(self.shift_layers):
            raise ValueError(
                f"shift_layers must be different block indices from 0 to num_head_layers - 1 = {len(known) - 1},"
                f" got {self.shift_layers}"
            )

    def validate_head(self) -> None:
        """The blocks must fit the encoder's frames."""
        head = HEADS[self.head_type]
        if self.num_head_layers < head.least_blocks or (head.block is None and self.num_head_layers != 0):
            rule = "0" if head.block is None else f"at least {head.least_blocks}"
            raise ValueError(f"num_head_layers of {self.head_type!r} must be {rule}, got {self.num_head_layers}")
        if self.conv_kernel_size < 1 or self.conv_kernel_size % 2 == 0:
            raise ValueError(
                f"conv_kernel_size must be odd, so that frames keep their place, got {self.conv_kernel_size}"
            )
        heads_fit = self.num_attention_heads >= 1 and self.hidden_size % self.num_attention_heads == 0
        if self.attention_layers and not heads_fit:
            raise ValueError(
                f"num_attention_heads must divide the encoder's hidden size {self.hidden_size}"
                f" ({', '.join(str(n) for n in range(1, self.hidden_size + 1) if self.hidden_size % n == 0)}),"
                f" got {self.num_attention_heads}"
            )
        if self.max_position_embeddings < 1:
            raise ValueError(f"max_position_embeddings must be at least 1, got {self.max_position_embeddings}")

    def validate_causal(self) -> None:
        """A causal head must have no part that looks at later frames."""
        if not self.causal:
            return
        block = HEADS[self.head_type].block
        if block is not None and not hasattr(block, "step"):
            raise ValueError(f"causal must be False for head_type={self.head_type!r}: its block has no `step`")
        if self.shift_placement != "none" and self.shift_direction != "forward":
            raise ValueError(f"shift_direction must be 'forward' with causal=True, got {self.shift_direction!r}")
        if self.attention_layers:
            raise ValueError(
                "causal must be False where a block has attention, which looks at all frames, past and to come, and"
                f" would have to keep them all; blocks {self.attention_layers} have it. Let the shift replace it"
                " (shift_placement='replace' in all blocks), or take another head"
            )

    def validate_dimensions(self) -> None:
        """Dimensions are the last outputs of the classifier, all of them in a regression; frames have labels alone."""
        if self.frame_labels and self.problem_type != "single_label_classification":
            raise ValueError(f"frame_labels must be False with problem_type {self.problem_type!r}, got True")
        problem, names = self.problem, list(self.id2label.values())
        if not problem.dimensions:
            if self.dimensions:
                raise ValueError(f"dimensions must be left out with {self.problem_type}, got {self.dimensions}")
            return
        if not self.dimensions or len(set(self.dimensions)) < len(self.dimensions):
            raise ValueError(f"dimensions must be different names, one at least, got {self.dimensions}")
        classes = len(names) - len(self.dimensions)
        if names[max(classes, 0) :] != self.dimensions or (classes < 2 if problem.classes else classes != 0):
            rule = "two classes or more, then the dimensions" if problem.classes else "the dimensions and nothing else"
            raise ValueError(f"id2label of {self.problem_type} must name {rule} {self.dimensions}, got {names}")
        means, stds = self.dimension_means, self.dimension_stds
        fit = means is not None and stds is not None and len(means) == len(stds) == len(self.dimensions)
        if (means is not None or stds is not None) and not (
            fit and all(map(math.isfinite, means)) and all(0 < std < math.inf for std in stds)
        ):
            raise ValueError(
                "dimension_means and dimension_stds must be numbers for each of the dimensions, deviations above 0, got"
                f" {means} and {stds} for {self.dimensions}"
            )

    def validate_temperature(self) -> None:
        """The temperature must leave the ranking of labels as it is."""
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be finite and above 0, or None, got {self.temperature}")

    def validate_spec_augment(self) -> None:
        """The masks must be shares and lengths, and a feature mask must leave channels over."""
        for axis in ("time", "feature"):
            share, length, least = (getattr(self, f"mask_{axis}_{name}") for name in ("prob", "length", "min_masks"))
            if not 0 <= share <= 1:
                raise ValueError(f"mask_{axis}_prob must be from 0 to 1, got {share}")
            if length < 1 or least < 0:
                raise ValueError(
                    f"mask_{axis}_length must be at least 1 and mask_{axis}_min_masks at least 0, got {length}, {least}"
                )
        if self.mask_feature_prob > 0 and self.mask_feature_length >= self.hidden_size:
            raise ValueError(
                f"mask_feature_length must be less than the encoder's hidden size {self.hidden_size}"
                f" (or mask_feature_prob 0), got {self.mask_feature_length}"
            )
