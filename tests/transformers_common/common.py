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
    "speech comes in as samples: there are no token embeddings to get, set or resize (as in wav2vec 2.0's own tests)"
)
_OWN_ATTENTION = "the Trainer's models keep the encoder's attentions; a head has none to give out"
EXCEPTIONS = {
    "test_model_get_set_embeddings": _NO_EMBEDDINGS,
    "test_inputs_embeds": _NO_EMBEDDINGS,
    "test_inputs_embeds_matches_input_ids": _NO_EMBEDDINGS,
    "test_resize_embeddings_untied": _NO_EMBEDDINGS,
    "test_resize_tokens_embeddings": _NO_EMBEDDINGS,
}


class Tester:
    """Configurations and inputs of one variant, as the common tests ask for them."""

    is_training = True

    def __init__(self, variant: str) -> None:
        self.variant = variant
        encoder = tiny_encoder_config()
        self.batch_size, self.seq_length, self.num_labels = 3, 4000, 4
        self.hidden_size, self.num_hidden_layers = encoder.hidden_size, encoder.num_hidden_layers
        self.num_attention_heads = encoder.num_attention_heads
        self.encoder_seq_length = 12  # frames of 4000 samples
        self.key_length = self.encoder_seq_length

    def prepare_config_and_inputs_for_common(self):
        """A configuration, and a batch of noise with padding."""
        config = ShiftConfig.from_variant(
            self.variant, num_labels=self.num_labels, encoder_config=tiny_encoder_config()
        )
        speech, mask = speech_batch((4000, 4000, 3000))
        return config, {"input_values": speech.to(torch_device), "attention_mask": mask.to(torch_device)}


class Common(ModelTesterMixin):
    """The common tests, without those in `EXCEPTIONS`."""

    all_model_classes = (ShiftModel, ShiftForSequenceClassification)
    all_generative_model_classes = ()
    test_resize_embeddings = False
    variant: str

    def setUp(self):
        self.model_tester = Tester(self.variant)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = {name: value.clone() for name, value in inputs_dict.items()}
        if return_labels and model_class is ShiftForSequenceClassification:
            inputs["labels"] = torch.zeros(self.model_tester.batch_size, dtype=torch.long, device=torch_device)
        return inputs


for _name, _reason in EXCEPTIONS.items():
    if hasattr(Common, _name):
        setattr(Common, _name, unittest.skip(_reason)(getattr(Common, _name)))
for _variant in variants():
    globals()[f"Test_{_variant}"] = type(f"Test_{_variant}", (Common, unittest.TestCase), {"variant": _variant})
