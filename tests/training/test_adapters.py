"""Adapters and the last layers: what is trained, what is saved, and what is refused."""

import json
import os
import subprocess
import sys

import huggingface_hub
import numpy as np
import pytest
import torch
from conftest import command_line, speech_batch, tiny_encoder_config, tiny_model
from huggingface_hub import HfApi
from huggingface_hub.errors import StrictDataclassError
from loopback_hub import LoopbackHub
from safetensors.torch import load_file
from test_fold import Stop, contents, with_callback  # noqa: F401
from transformers import AutoModel, set_seed

from shift_ser import ShiftForSequenceClassification
from shift_ser.evaluation.run_folder import read_json
from shift_ser.hub.push import HubRepository
from shift_ser.model.encoders import ENCODERS, WAVEFORM, encode
from shift_ser.training.adapters import ADAPTERS, Adapted, AdapterOptions
from shift_ser.training.arguments import ModelArguments, RunArguments
from shift_ser.training.cost import count_parameters

peft = pytest.importorskip("peft")
LORA = ["--folds", 1, "--scenario", "fine_tuning", "--variant", "linear", "--adapter", "lora", "--adapter_rank", 4]


@pytest.fixture(scope="module")
def adapted(cross_validate, tmp_path_factory):
    """A fold with LoRA whose convolutions are kept; read only."""
    run = cross_validate(tmp_path_factory.mktemp("lora") / "out", *LORA, "--cache_convolutions", "true")
    return run, run.run()


def trained_names(model) -> set[str]:
    return {name for name, value in model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("model_type", WAVEFORM)
def test_every_matrix_of_an_adapter_learns_and_merging_changes_no_score(model_type, kind):
    """In every family: the adapters and the head are trained, nothing else, and all of them have an effect."""
    config = tiny_encoder_config(model_type, mask_time_prob=0.0)
    model = tiny_model("linear", encoder_config=config, freeze_encoder=False, mask_time_prob=0.0)
    speech, mask = speech_batch([4000, 2500])
    with torch.no_grad():
        plain = model(speech, mask).logits
        added = Adapted(model.shift_ser.encoder, AdapterOptions(kind, rank=4), name="nobody/nothing")
        torch.testing.assert_close(model(speech, mask).logits, plain, rtol=0, atol=1e-6)  # B is zero at first
    assert all("lora_" in name or "classifier" in name for name in trained_names(model))
    model.train()
    for _ in range(2):
        model(speech, mask, labels=torch.tensor([0, 1])).loss.backward()
        with torch.no_grad():
            for name, value in model.named_parameters():
                if value.requires_grad:
                    assert value.grad is not None and (value.grad.any() or "lora_B" not in name), name
                    value -= 0.1 * value.grad
                    value.grad = None
    model.eval()
    with torch.no_grad():
        learned = model(speech, mask).logits
        assert (learned - plain).abs().max() > 1e-3
        added.merge()
        torch.testing.assert_close(model(speech, mask).logits, learned, rtol=0, atol=1e-6)
    assert not any("lora" in name for name in model.state_dict())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft asks for it
def test_a_fold_with_lora_is_a_plain_model_with_its_adapter_beside(adapted, encoder):
    run, results = adapted
    folder, result = run.output_dir / "fold1", results["folds"][0]
    model = ShiftForSequenceClassification.from_pretrained(folder)
    assert not any("lora" in name for name in load_file(folder / "model.safetensors"))
    cost = result["cost"]
    matrices = 2 * 2 * 4 * (96 + 96)  # two layers, two projections each, rank 4
    assert cost["trainable_parameters"] == matrices + 4 * 97 + 96  # with the classifier, and SpecAugment's vector
    assert cost["parameters"] == count_parameters(model)["parameters"] + matrices
    assert 0 < cost["seconds"] < 600 and 50 < cost["peak_memory_mb"] < 20000
    stock = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(encoder), folder / "adapter").eval()
    speech, _ = speech_batch([4000])
    with torch.no_grad():
        merged = encode(model.shift_ser.encoder, speech)
        torch.testing.assert_close(stock(speech).last_hidden_state, merged, rtol=0, atol=1e-5)
        assert (encode(AutoModel.from_pretrained(encoder).eval(), speech) - merged).abs().max() > 1e-4
    assert json.loads((folder / "adapter" / "adapter_config.json").read_text())["r"] == 4


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft asks for it
def test_an_adapter_below_the_layer_that_is_read_fits_the_whole_encoder(cross_validate, encoder, tmp_path):
    cross_validate(tmp_path / "out", *LORA, "--encoder_layer", 1).run()
    folder = tmp_path / "out" / "fold1"
    model = ShiftForSequenceClassification.from_pretrained(folder)
    assert len(model.shift_ser.encoder.encoder.layers) == 1
    stock = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(encoder), folder / "adapter").eval()
    speech, _ = speech_batch([4000])
    with torch.no_grad():
        merged = encode(model.shift_ser.encoder, speech, output=1)
        torch.testing.assert_close(encode(stock.base_model.model, speech, output=1), merged, rtol=0, atol=1e-5)


def test_evaluate_only_finds_the_same_scores(adapted, cross_validate):
    run, results = adapted
    again = cross_validate(run.output_dir, *LORA, "--evaluate_only", "true").run()["folds"][0]
    assert again["test"] == results["folds"][0]["test"] and again["cost"] == results["folds"][0]["cost"]


@pytest.mark.parametrize("flags", [LORA, [*LORA[:6], "--unfreeze_layers", 1]], ids=["lora", "last layer"])
def test_a_fold_that_was_stopped_ends_like_one_that_was_not(flags, cross_validate, tmp_path, with_callback):  # noqa: F811
    flags = [*flags, "--refit", "true"]
    cross_validate(tmp_path / "whole" / "out", *flags).run()
    with with_callback(Stop(5)), pytest.raises(KeyboardInterrupt):
        cross_validate(tmp_path / "stopped" / "out", *flags).run()
    assert list((tmp_path / "stopped" / "out" / "fold1" / "checkpoints" / "train").glob("checkpoint-*"))
    cross_validate(tmp_path / "stopped" / "out", *flags).run()
    whole, stopped = (contents(tmp_path / name / "out") for name in ("whole", "stopped"))
    assert {name for name in whole | stopped if whole.get(name) != stopped.get(name)} == set()


@pytest.mark.parametrize("model_type", WAVEFORM)
def test_the_last_layers_alone_are_trained_and_the_others_have_no_dropout(model_type, tmp_path):
    config = tiny_encoder_config(model_type, num_hidden_layers=3)
    model = tiny_model("linear", encoder_config=config, freeze_encoder=False, unfreeze_layers=1, encoder_layerdrop=0.1)
    model.save_pretrained(tmp_path)
    transformer = model.train().shift_ser.encoder.encoder
    expected = {f"layers.2.{name}" for name, _ in transformer.layers[2].named_parameters()}
    if ENCODERS[model_type].pre_norm:
        expected |= {"layer_norm.weight", "layer_norm.bias"}
    assert trained_names(transformer) == expected
    assert [layer.training for layer in transformer.layers] == [False, False, True]
    again = ShiftForSequenceClassification.from_pretrained(tmp_path).train()
    assert trained_names(again) == trained_names(model)
    speech, mask = speech_batch([3000])
    with torch.no_grad():
        below = [encode(again.shift_ser.encoder, speech, mask, output=2) for _ in range(2)]
        above = [encode(again.shift_ser.encoder, speech, mask, output=3) for _ in range(2)]
    assert torch.equal(*below) and not torch.equal(*above)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"adapter": "ia3"}, r"adapter must be one of \('lora', 'dora'\), got 'ia3'"),
        ({"adapter_rank": 4}, "adapter_rank must be left out without adapter, got 4"),
        ({"adapter": "lora", "adapter_rank": 0}, "adapter_rank must be at least 1, got 0"),
        ({"adapter": "lora", "adapter_rank": 97}, "adapter_rank must be at most 96, the lesser width of 'q_proj'"),
        ({"adapter": "lora", "adapter_alpha": float("nan")}, "adapter_alpha must be above 0 and finite, got nan"),
        ({"adapter": "lora", "adapter_dropout": 1.0}, "adapter_dropout must be from 0 to below 1, got 1.0"),
        ({"adapter": "lora", "adapter_targets": ["query"]}, "adapter_targets must name linear layers .*got 'query'"),
        ({"adapter": "lora", "unfreeze_layers": 1}, "adapter must be left out with unfreeze_layers 1, got 'lora'"),
        ({"adapter": "lora", "scenario": "feature_extraction"}, "adapter must go with scenario 'fine_tuning'"),
        ({"unfreeze_layers": 1, "scenario": "feature_extraction"}, "unfreeze_layers must be None with freeze_encoder"),
        ({"unfreeze_layers": 3}, "unfreeze_layers must be from 1 to the 2 layers of the encoder that are read, got 3"),
        ({"unfreeze_layers": 2, "encoder_layer": "1"}, "unfreeze_layers must be from 1 to the 1 layers"),
    ],
)
def test_what_cannot_be_adapted_is_refused(options, told, encoder):
    with pytest.raises((ValueError, StrictDataclassError), match=told):
        ModelArguments(**{"encoder": str(encoder), "scenario": "fine_tuning", "variant": "linear", **options}).check()


def test_an_adapter_that_wavlm_would_pass_by_is_refused(encoder, small_corpus, tmp_path):
    set_seed(0)
    AutoModel.from_config(tiny_encoder_config("wavlm")).save_pretrained(tmp_path / "wavlm")
    flags = ["--do_normalize", "true", "--scenario", "fine_tuning", "--adapter", "lora", "--variant", "linear"]
    told = command_line(
        "train", "--encoder", tmp_path / "wavlm", "--corpus", small_corpus, "--output_dir", tmp_path / "out", *flags,
        "--adapter_targets", "q_proj",
    )  # fmt: skip
    assert told.exit_code == 1 and "adapter_targets of WavLM must be among" in told.stderr, told.stderr
    assert not (tmp_path / "out").exists()


def test_costs_are_in_the_results(adapted):
    run, results = adapted
    assert read_json(run.output_dir / "results.json")["folds"][0]["cost"] == results["folds"][0]["cost"]


LOAD = """
import sys
import numpy as np, torch
from transformers import AutoModelForAudioClassification, pipeline

speech = np.load("speech.npy")
model = AutoModelForAudioClassification.from_pretrained("org/lora", trust_remote_code=True)
with torch.no_grad():
    np.save("logits.npy", model(torch.from_numpy(speech)[None]).logits.numpy())
classify = pipeline("audio-classification", model="org/lora", trust_remote_code=True, top_k=None)
assert abs(sum(entry["score"] for entry in classify(speech)) - 1) < 1e-5
assert "shift_ser" not in sys.modules and "peft" not in sys.modules
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning")
def test_a_fold_with_lora_is_pushed_and_loaded_from_the_hub(adapted, tmp_path, monkeypatch):
    """The run is pushed to a loopback Hub; the merged model comes back from there without the package and peft."""
    run, _ = adapted
    (run.output_dir / "confusion.png").write_bytes(b"a figure, which these runs do without")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    speech, _ = speech_batch([4000])
    np.save(tmp_path / "speech.npy", speech[0].numpy())
    with LoopbackHub() as hub:
        api = HfApi(endpoint=hub.url, token=hub.token)
        run_args = RunArguments(use_cpu=True, push_to_hub=True, hub_token=hub.token, hub_model_id="org/lora")
        HubRepository(run_args, settings=run.settings, corpus=run.corpus.info, api=api).push(run.output_dir)
        assert not any("adapter" in name for name in hub.files["org/lora"])
        assert b"adapted by LoRA of rank 4, merged into its weights" in hub.files["org/lora"]["README.md"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHONPATH"))}
        environment |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
        environment |= {"HF_TOKEN": hub.token, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", LOAD]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    here = ShiftForSequenceClassification.from_pretrained(run.output_dir / "fold1")
    with torch.no_grad():
        assert np.array_equal(np.load(tmp_path / "logits.npy"), here(speech).logits)
