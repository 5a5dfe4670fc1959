"""The two ways to a model with weights: a saved model, whole or not at all; a new head on a pretrained encoder."""

from typing import Any

from transformers import AutoModel, PreTrainedModel

from .configuration_shift_ser import ShiftConfig


class LoadableModel(PreTrainedModel):
    """`PreTrainedModel` that is not loaded with holes, and that can be put on a pretrained encoder."""

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
            RuntimeError: If weights are missing, or have other shapes than the configuration asks for.
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
        return (model, info) if info_wanted else model

    @classmethod
    def from_encoder_pretrained(cls, name_or_path: str, **options: Any) -> "LoadableModel":
        """A new head on a pretrained encoder, in eval mode.

        Args:
            name_or_path: Hub name or folder of a wav2vec2-like encoder, e.g. `facebook/hubert-base-ls960`.
            **options: Options of `ShiftConfig` for the head; `variant="shiftformer"` takes one's published settings.

        Raises:
            ValueError: If the checkpoint lacks weights of the encoder.

        Example:
            model = ShiftForSequenceClassification.from_encoder_pretrained(
                "facebook/hubert-base-ls960", variant="shiftformer", num_labels=4
            )
        """
        encoder, loaded = AutoModel.from_pretrained(name_or_path, output_loading_info=True)
        missing = sorted(name for name in loaded["missing_keys"] if name != "masked_spec_embed")
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
        return model.eval()
