"""How models are loaded: missing weights raise, and a new head is put on a pretrained encoder."""

import json
import os
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from .configuration_shift_ser import ShiftConfig
from .encoders import check_padding, load_encoder
from .model_place import check_model_place


class LoadableModel(PreTrainedModel):
    """`PreTrainedModel` that raises for missing weights, and that can be put on a pretrained encoder."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **options: Any) -> Any:
        """Load a saved model, in eval mode.

        Args:
            pretrained_model_name_or_path: Hub name or folder of a saved model.
            *args: As for every model of transformers.
            **options: Those of every model of transformers. `ignore_mismatched_sizes=True` draws a new classifier
                where the saved one is missing or has another number of labels, and no other weight;
                `output_loading_info=True` returns the model and what was missing, and leaves judging that to you.

        Raises:
            RuntimeError: If weights are missing, have other shapes than the configuration asks for, are whole numbers,
                or are not finite.
        """
        new_classifier = options.pop("ignore_mismatched_sizes", False)
        info_wanted = options.pop("output_loading_info", False)
        model, info = super().from_pretrained(
            pretrained_model_name_or_path, *args, ignore_mismatched_sizes=True, output_loading_info=True, **options
        )
        may_be_new = ("classifier.",) if new_classifier else ()
        problems = [
            f"{name!r} has shape {tuple(there)} in the file and {tuple(here)} by the configuration"
            for name, there, here in sorted(info["mismatched_keys"])
            if not name.startswith(may_be_new)
        ]
        if not info_wanted:  # the learned vectors of SpecAugment take no part in a prediction
            problems += [
                f"{name!r} is missing"
                for name in sorted(info["missing_keys"])
                if not name.startswith(may_be_new) and not name.endswith("masked_spec_embed")
            ]
        if problems:
            raise RuntimeError(
                f"{str(pretrained_model_name_or_path)!r} must hold every weight of {cls.__name__}, but"
                f" {'; '.join(problems[:3])} ({len(problems)} in all). For another label set, pass num_labels (or"
                " id2label and label2id) and ignore_mismatched_sizes=True, which draws a new classifier, and train"
                " it; for a new head on a pretrained encoder, call from_encoder_pretrained; otherwise save the model"
                " again, whole, or mend config.json"
            )
        _check_weights(model, pretrained_model_name_or_path, options)
        model.base_model._set_trainable()
        check_padding(model.base_model.encoder)
        return (model, info) if info_wanted else model

    @classmethod
    def from_encoder_pretrained(cls, name_or_path: str, **options: Any) -> "LoadableModel":
        """A new head on a pretrained encoder, in eval mode.

        Args:
            name_or_path: Hub name or folder of an encoder of a family in `ENCODERS`, e.g. `facebook/hubert-base-ls960`.
            **options: Options of `ShiftConfig` for the head; `variant="shiftformer"` takes one's published settings.

        Raises:
            ValueError: If the checkpoint lacks weights of the encoder.
            OSError: If there is no such folder, or the encoder is not on this disk and the Hub is out of reach.

        Example:
            model = ShiftForSequenceClassification.from_encoder_pretrained(
                "facebook/hubert-base-ls960", variant="shiftformer", num_labels=4
            )
        """
        check_model_place(os.fspath(name_or_path), option="name_or_path")
        encoder, missing = load_encoder(name_or_path)
        if missing:
            raise ValueError(
                f"name_or_path must hold every weight of the encoder; {name_or_path!r} lacks {len(missing)},"
                f" the first is {missing[0]!r}"
            )
        variant = options.pop("variant", None)
        options["encoder_config"] = encoder.config
        config = ShiftConfig(**options) if variant is None else ShiftConfig.from_variant(variant, **options)
        model = cls(config)
        model.base_model.encoder.load_state_dict(encoder.state_dict())
        _check_weights(model, name_or_path, {})
        check_padding(model.base_model.encoder)
        return model.eval()


_WHERE = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


def _check_weights(model: PreTrainedModel, name_or_path: Any, options: dict[str, Any]) -> None:
    """Refuse weights that no training can have left: whole numbers in the file, NaN or infinity in the model.

    Raises:
        RuntimeError: If there are any; the message names the first.
    """
    where = {name: options[name] for name in _WHERE if name in options}
    for file in _weight_files(name_or_path, where):
        with open(file, "rb") as stream:  # a safetensors file begins with the length of its header, and that in JSON
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        for name, tensor in header.items():
            if tensor.get("dtype", "F32").startswith(("I", "U", "BOOL")):
                raise RuntimeError(f"{file!r} must hold floating point weights, but {name!r} is of {tensor['dtype']}")
    for name, parameter in model.named_parameters():
        if parameter.device.type != "meta" and not parameter.isfinite().all():
            raise RuntimeError(f"{str(name_or_path)!r} must hold finite weights, but {name!r} has NaN or infinity")


def _weight_files(name_or_path: Any, where: dict[str, Any]) -> list[str]:
    """The safetensors files of a saved model: one, or the shards that its index names; none if it has other files."""

    def find(name: str) -> str | None:
        return cached_file(name_or_path, name, _raise_exceptions_for_missing_entries=False, **where)

    if (whole := find(SAFE_WEIGHTS_NAME)) is not None:
        return [whole]
    if (index := find(SAFE_WEIGHTS_INDEX_NAME)) is None:
        return []
    with open(index, encoding="utf-8") as stream:
        shards = sorted(set(json.load(stream)["weight_map"].values()))
    return [file for file in map(find, shards) if file is not None]
