import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub: no test looks at the Hub

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    Data2VecAudioConfig,
    HubertConfig,
    PreTrainedConfig,
    UniSpeechConfig,
    UniSpeechSatConfig,
    Wav2Vec2Config,
    WavLMConfig,
    set_seed,
)
from transformers.utils import logging

from shift_ser import ShiftConfig, ShiftFeatureExtractor, ShiftForSequenceClassification
from shift_ser.cli import cli
from shift_ser.corpora.synthetic import make_synthetic_corpus
from shift_ser.hub.convert_original_checkpoint import convert_state_dict
from shift_ser.hub.model_card import write_fold_cards
from shift_ser.training.arguments import parse_arguments
from shift_ser.training.cross_validation import CrossValidation

logging.disable_progress_bar()

FIXTURES = Path(__file__).parent / "fixtures"
CASES = json.loads((FIXTURES / "cases.json").read_text(encoding="utf-8"))
GOLDEN_HEADS = [name for name in CASES if "dim" in CASES[name]]
ENCODER_CONFIGS = {
    config.model_type: config
    for config in (
        Wav2Vec2Config,
        HubertConfig,
        WavLMConfig,
        UniSpeechConfig,
        UniSpeechSatConfig,
        Data2VecAudioConfig,
    )
}
HOP = 320  # samples from frame to frame of every encoder here, as in the real ones


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory):
    """Folder of a synthetic corpus of 40 utterances; read only, copy it before breaking something."""
    return make_synthetic_corpus(tmp_path_factory.mktemp("corpora") / "small", num_utterances=40, seed=0)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny tensors: waking a second thread takes longer than the work. And sums keep their order, in all fixtures."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    """Folder of a tiny random encoder."""
    folder = tmp_path_factory.mktemp("encoder")
    set_seed(0)
    AutoModel.from_config(tiny_encoder_config()).save_pretrained(folder)
    ShiftFeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def cross_validate(encoder, small_corpus, tmp_path_factory):
    """Make a run of two epochs on the small corpus; frames are shared. Figures take as long as all the rest."""
    cache = tmp_path_factory.mktemp("frames")

    def make(output_dir, *flags, corpus=small_corpus, figures=False) -> CrossValidation:
        words = f"--encoder {encoder} --corpus {corpus} --output_dir {output_dir} --cache_dir {cache}"
        words += " --num_train_epochs 2 --learning_rate 1e-3 --per_device_train_batch_size 8 --disable_tqdm true"
        run = CrossValidation(*parse_arguments([*words.split(), *map(str, flags)]))
        if not figures:
            run._plot = lambda *_, **__: None
        return run

    return make


@pytest.fixture(scope="session")
def finished(cross_validate, tmp_path_factory):
    """A whole run over five folds; read only."""
    run = cross_validate(tmp_path_factory.mktemp("run") / "out", figures=True)
    results = run.run()
    write_fold_cards(run.output_dir, results)
    return run, results


def command_line(*words) -> Result:
    """What `shift-ser` prints and exits with, run in this process."""
    return CliRunner().invoke(cli, [*map(str, words)], prog_name="shift-ser")


def tiny_encoder_config(model_type: str = "hubert", **options) -> PreTrainedConfig:
    """Width 96: 12 heads divide it, and feature masks of 64 channels fit. LayerNorm: padding changes nothing."""
    settings = {
        "hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        "conv_dim": (16, 16, 16), "conv_stride": (5, 8, 8), "conv_kernel": (10, 8, 8),
        "num_conv_pos_embeddings": 15, "num_conv_pos_embedding_groups": 2, "conv_pos_kernel_size": 15,
        "feat_extract_norm": "layer", "do_stable_layer_norm": True,
    }  # fmt: skip
    if model_type == "data2vec-audio":
        settings["num_conv_pos_embeddings"] = 2  # there it is the number of convolutions
    return ENCODER_CONFIGS[model_type](**{**settings, **options})


def tiny_model(variant: str | None = None, *, seed: int = 0, encoder_config=None, **options):
    """Seeded `ShiftForSequenceClassification` with 4 labels on a tiny encoder, in eval mode."""
    options = {"num_labels": 4, "encoder_config": encoder_config or tiny_encoder_config(), **options}
    config = ShiftConfig(**options) if variant is None else ShiftConfig.from_variant(variant, **options)
    torch.manual_seed(seed)
    return ShiftForSequenceClassification(config).eval()


def speech_batch(lengths, *, seed: int = 0):
    """Noise of the given lengths, zero-padded to one batch, with its mask: two tensors `(batch, samples)`."""
    generator = torch.Generator().manual_seed(seed)
    speech, mask = torch.zeros(len(lengths), max(lengths)), torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, length in enumerate(lengths):
        speech[row, :length] = torch.randn(length, generator=generator)
        mask[row, :length] = 1
    return speech, mask


def golden_options(name: str) -> dict:
    """Options of `ShiftConfig` that build a golden case, but for SpecAugment's."""
    case, head_type = CASES[name], name.split("_")[0]
    if name == "shiftformer":
        head_type, placement = "transformer", "replace"
    else:
        placement = "in_place" if "inplace" in name else "residual" if "residual" in name else "none"
    return {
        "head_type": head_type,
        "shift_placement": placement,
        "shift_proportion": 1 / case["n_div"] if placement != "none" else None,
        "shift_direction": "bidirectional" if case["bidirectional"] else "forward",
        "shift_stride": case["stride"],
        "conv_kernel_size": case["kernel_size"],
        "num_attention_heads": case["num_attention_heads"],
        "max_position_embeddings": case["length"],
        "num_labels": 4,
        "encoder_config": tiny_encoder_config(hidden_size=case["dim"]),
    }


def golden_model(name: str) -> tuple[ShiftForSequenceClassification, dict]:
    """The golden case's model with the authors' weights, SpecAugment off, in eval mode; and the case's tensors."""
    tensors = load_file(FIXTURES / f"{name}.safetensors")
    config = ShiftConfig(**golden_options(name), mask_time_prob=0.0, mask_feature_prob=0.0)
    model = ShiftForSequenceClassification(config).eval()
    state = {key[6:]: tensor for key, tensor in tensors.items() if key.startswith("state.")}
    del state["specaugment.masked_spec_embed"]
    missing, unexpected = model.load_state_dict(convert_state_dict(state), strict=False)
    assert not unexpected
    assert all(key.startswith("shift_ser.encoder.") for key in missing)
    return model, tensors
