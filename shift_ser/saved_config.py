"""SavedConfig: what a configuration file tells beside the model's options: its version, its code, its labels."""

import copy
from typing import Any

from transformers import PreTrainedConfig
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME

__version__ = "0.1.0"  # of the package: here, since this file travels with models and the package's own does not

# Where `trust_remote_code=True` finds the classes beside a saved model.
AUTO_MAP = {
    "AutoConfig": "configuration_shift_ser.ShiftConfig",
    "AutoModel": "modeling_shift_ser.ShiftModel",
    "AutoModelForAudioClassification": "modeling_shift_ser.ShiftForSequenceClassification",
}
CUSTOM_PIPELINES = {
    "audio-classification": {
        "impl": "pipelines.ShiftAudioClassificationPipeline",
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
        `trust_remote_code`. There the class is given as `pipeline_class`.
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
