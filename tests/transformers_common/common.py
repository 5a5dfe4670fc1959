"""The tests that transformers runs over each of its own models, run over ours; see `__main__.py`.

What does not fit is listed in `EXCEPTIONS`, with the reason.
"""

import sys
import unittest
from pathlib import Path

import torch
from transformers.testing_utils import torch_device

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(next((ROOT / "build").glob("transformers-*/")))]

from conftest import speech_batch, tiny_encoder_config  # noqa: E402
from tests.test_modeling_common import ModelTesterMixin  # noqa: E402

from shift_ser import ShiftConfig, ShiftForSequenceClassification, ShiftModel  # noqa: E402
from shift_ser.model.heads import variants  # noqa: E402

_NO_EMBEDDINGS = (
    "speech comes in as samples: there are no token embeddings to get or set, as in wav2vec 2.0's own tests"
)
_FROZEN = (
    "it asks for it in the first layer there is, a convolution of the encoder, which is never trained here and so not"
    " checkpointed; tests/training/test_processes.py compares trainings with and without"
)
_NO_LOSS = "the body has no loss to train with"
EXCEPTIONS = {
    "test_model_get_set_embeddings": _NO_EMBEDDINGS,
    "test_inputs_embeds": _NO_EMBEDDINGS,
    "test_inputs_embeds_matches_input_ids": _NO_EMBEDDINGS,
    "test_model_weights_reload_no_missing_tied_weights": "it saves a whole number as the only weight, which we refuse",
    "test_can_load_ignoring_mismatched_shapes": "it writes a number into each option with _std in its name, and our"
    " dimension_stds is a list",
    "test_training_gradient_checkpointing": _FROZEN,
    "test_training_gradient_checkpointing_use_reentrant_true": _FROZEN,
    "test_training_gradient_checkpointing_use_reentrant_false": _FROZEN,
}
OF_THE_BODY = {"test_training": _NO_LOSS}


class Questions:
    """Configurations and inputs of one variant, as the common tests ask for them."""

    is_training = True
    num_attention_heads = 12  # of the head, whose states and attentions are returned

    def __init__(self, variant: str) -> None:
        self.variant = variant
        encoder = tiny_encoder_config()
        self.batch_size, self.seq_length, self.num_labels = 3, 4000, 4
        self.hidden_size = encoder.hidden_size
        self.encoder_seq_length = 12  # frames of 4000 samples
        model = ShiftForSequenceClassification(self.prepare_config_and_inputs_for_common()[0])
        self.num_hidden_layers = len(model.shift_ser.head.blocks)
        self.key_length = self.encoder_seq_length

    def prepare_config_and_inputs_for_common(self):
        """A configuration, and a batch of noise with padding."""
        encoder = tiny_encoder_config()
        options = {"num_labels": self.num_labels, "encoder_config": encoder, "freeze_encoder": False}
        config = ShiftConfig.from_variant(self.variant, **options)
        speech, mask = speech_batch((4000, 4000, 3000))
        return config, {"input_values": speech.to(torch_device), "attention_mask": mask.to(torch_device)}


class Common(ModelTesterMixin):
    """The common tests."""

    all_model_classes = (ShiftForSequenceClassification,)
    all_generative_model_classes = ()
    test_resize_embeddings = False
    variant: str

    @property
    def has_attentions(self):
        """Whether the head has any; those of the encoder are not returned."""
        config = ShiftConfig.from_variant(self.variant)
        return config.head_type == "transformer" and config.shift_placement != "replace"

    def setUp(self):
        self.model_tester = Questions(self.variant)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        copied = {name: value.clone() if torch.is_tensor(value) else value for name, value in inputs_dict.items()}
        if return_labels:
            copied["labels"] = torch.zeros(self.model_tester.batch_size, dtype=torch.long, device=torch_device)
        return copied


class Body(Common):
    """Of `ShiftModel`."""

    all_model_classes = (ShiftModel,)


def with_exceptions(name, base, exceptions, variant):
    """A test case of a variant in which what does not fit is skipped, with the reason."""
    skipped = {test: unittest.skip(why)(getattr(base, test)) for test, why in exceptions.items() if hasattr(base, test)}
    return type(name, (base, unittest.TestCase), {"variant": variant, **skipped})


for _variant in variants():
    globals()[f"Test_{_variant}"] = with_exceptions(f"Test_{_variant}", Common, EXCEPTIONS, _variant)
TestBody = with_exceptions("TestBody", Body, EXCEPTIONS | OF_THE_BODY, "transformer")
del Common, Body
