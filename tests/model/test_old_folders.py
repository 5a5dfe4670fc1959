"""Folders that were saved before the package had rooms still load, with the package and with their own code."""

import subprocess
import sys

import pytest
import torch
from conftest import FIXTURES
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

OLD = FIXTURES / "saved_by_0.1"
REMOTE = """
import sys, torch
from safetensors.torch import load_file
from transformers import AutoModelForAudioClassification
model = AutoModelForAudioClassification.from_pretrained(sys.argv[1], trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules.")
expected = load_file(sys.argv[1] + "/expected.safetensors")
with torch.no_grad():
    logits = model(expected["input_values"], attention_mask=expected["attention_mask"]).logits
torch.testing.assert_close(logits, expected["logits"], rtol=0, atol=1e-6)
"""


@pytest.mark.parametrize("variant", ["shiftcnn", "shiftlstm", "shiftformer"])
def test_the_installed_package_loads_an_old_folder(variant):
    model = AutoModelForAudioClassification.from_pretrained(OLD / variant)
    expected = load_file(OLD / variant / "expected.safetensors")
    with torch.no_grad():
        logits = model(expected["input_values"], attention_mask=expected["attention_mask"]).logits
    torch.testing.assert_close(logits, expected["logits"], rtol=0, atol=1e-6)
    assert model.config.temperature == 1.5 and model.config.id2label[0] == "angry"
    assert type(AutoFeatureExtractor.from_pretrained(OLD / variant)).__name__ == "ShiftFeatureExtractor"


def test_the_code_in_an_old_folder_still_runs_by_itself(tmp_path):
    environment = {"HF_MODULES_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1", "PATH": ""}
    command = [sys.executable, "-c", REMOTE, str(OLD / "shiftformer")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
