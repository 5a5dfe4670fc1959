"""Each way to a saved model, in a process of its own: with the package, and with nothing but the folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from conftest import speech_batch, tiny_model
from transformers import AutoModelForAudioClassification

from shift_ser import ShiftFeatureExtractor, ShiftModel
from shift_ser.model.heads import variants

PACKAGE = Path(__file__).parents[2] / "shift_ser"
LENGTHS = (5000, 2700)
SPEECH = np.random.default_rng(0).normal(0, 0.1, 5000).astype(np.float32)
SCRIPT = """
import json, os, sys, warnings
source, target, blocked, remote = json.loads(sys.argv[1])
warnings.simplefilter("error")
sys.modules.update(dict.fromkeys(blocked))  # importing these raises ImportError
if not remote:
    import shift_ser
import numpy as np, torch
from transformers import (
    AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification, AudioClassificationPipeline, pipeline,
)
trust = {"trust_remote_code": True} if remote else {}
given = np.load(os.path.join(source, "input.npz"))
speech, mask = torch.from_numpy(given["speech"]), torch.from_numpy(given["mask"])
arrays, said = {}, {}
for name in json.loads(given["variants"].item()):
    folder = os.path.join(source, name)
    assert AutoConfig.from_pretrained(folder, **trust).model_type == "shift_ser"
    model = AutoModelForAudioClassification.from_pretrained(folder, **trust)
    base = AutoModel.from_pretrained(folder, **trust)
    extractor = AutoFeatureExtractor.from_pretrained(folder, **trust)
    with torch.no_grad():
        arrays[name] = model(speech, attention_mask=mask).logits.numpy()
        arrays[name + "_frames"] = base(speech, attention_mask=mask).last_hidden_state.numpy()
    arrays[name + "_features"] = extractor(list(given["speech"]), sampling_rate=16000)["input_values"]
    if target:
        model.save_pretrained(os.path.join(target, name))
        extractor.save_pretrained(os.path.join(target, name))
classify = pipeline("audio-classification", model=folder, device="cpu", top_k=None, **trust)
said["scores"] = classify(given["speech"][0])
said["classes"] = [type(each).__name__ for each in (model.config, model, base, extractor, classify)]
said["modules"] = sorted({type(each).__module__.split(".")[0] for each in (model.config, model, base, extractor)})
try:
    said["file"] = classify(os.path.join(source, "stereo.wav"), batch_size=3)
except (ImportError, ValueError) as error:
    said["file"] = str(error)
if remote:
    body = AutoModel.from_pretrained(os.path.join(source, "body"), **trust)
    body.save_pretrained(os.path.join(target, "body"))
    said["body"] = type(body).__name__
np.savez(os.path.join(source, f"output_{remote}.npz"), **arrays)
print(json.dumps(said))
"""


def start(source, target, *, tmp_path, blocked=(), remote):
    """A fresh Python that cannot import the package unless it is meant to, somewhere else."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(source / "modules"), "HF_HOME": str(tmp_path / "home")}
    environment |= {"OMP_NUM_THREADS": "1"} | ({} if remote else {"PYTHONPATH": str(PACKAGE.parent)})
    arguments = json.dumps([str(source), target and str(target), list(blocked), remote])
    command = [sys.executable, "-c", SCRIPT, arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, **pipes)


def finish(process, output):
    """What the process said, and the arrays it computed."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-4000:]
    return json.loads(out.splitlines()[-1]), dict(np.load(output))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folder of a model for each variant, what it is asked, and what it must answer."""
    folder = tmp_path_factory.mktemp("remote") / "first"
    expected = {}
    for name in variants():
        labels = {0: "angry", 1: "happy", 2: "neutral", 3: "sad"}
        model = tiny_model(name, id2label=labels, encoder_layer=1 if name == "linear" else None)
        model.shift_ser.drop_unread_layers()  # of the linear head's encoder the second
        model.save_pretrained(folder / name)
        ShiftFeatureExtractor().save_pretrained(folder / name)
        speech, mask = speech_batch(LENGTHS)
        with torch.no_grad():
            expected[name] = model(speech, attention_mask=mask).logits.numpy()
            expected[name + "_frames"] = model.shift_ser(speech, attention_mask=mask).last_hidden_state.numpy()
        features = ShiftFeatureExtractor()(list(speech.numpy()), sampling_rate=16000)
        expected[name + "_features"] = features["input_values"]
    ShiftModel(model.config).save_pretrained(folder / "body")
    put_questions(folder)
    return folder, expected


def put_questions(folder):
    speech, mask = speech_batch(LENGTHS)
    np.savez(folder / "input.npz", speech=speech.numpy(), mask=mask.numpy(), variants=json.dumps(list(variants())))
    sf.write(folder / "stereo.wav", np.stack([SPEECH, SPEECH], axis=1), 8000, subtype="FLOAT")


def test_every_way_in_and_twice_around_gives_the_same_bits(saved, tmp_path):
    first, expected = saved
    second, third = tmp_path / "second", tmp_path / "third"
    for folder in (second, third):
        folder.mkdir()
        put_questions(folder)
    needless = ("shift_ser", "soundfile", "soxr", "datasets", "pyarrow", "evaluate", "sklearn", "matplotlib")
    package, without = (
        start(first, second if remote else None, tmp_path=tmp_path, blocked=["shift_ser"] * remote, remote=remote)
        for remote in (False, True)
    )
    reports = [finish(package, first / "output_False.npz"), finish(without, first / "output_True.npz")]
    with_little = start(second, third, tmp_path=tmp_path, blocked=needless, remote=True)
    reports.append(finish(with_little, second / "output_True.npz"))
    classes = ["ShiftConfig", "ShiftForSequenceClassification", "ShiftModel", "ShiftFeatureExtractor"]
    for (said, arrays), remote in zip(reports, (False, True, True), strict=True):
        assert said["classes"][:4] == classes
        assert said["modules"] == (["transformers_modules"] if remote else ["shift_ser"])
        assert arrays.keys() == expected.keys()
        assert all(np.array_equal(arrays[name], expected[name]) for name in expected)
        assert said["scores"] == reports[0][0]["scores"]
    ours = "ShiftAudioClassificationPipeline"
    assert [said["classes"][4] for said, _ in reports] == [ours, ours, ours]
    assert [said.get("body") for said, _ in reports] == [None, "ShiftModel", "ShiftModel"]
    assert {entry["label"] for entry in reports[1][0]["file"]} == {"angry", "happy", "neutral", "sad"}
    assert reports[0][0]["file"] == reports[1][0]["file"]
    assert "needs soundfile: pip install soundfile" in reports[2][0]["file"]
    speech, mask = speech_batch(LENGTHS)
    for name in variants():
        again = AutoModelForAudioClassification.from_pretrained(third / name)
        with torch.no_grad():
            assert np.array_equal(again(speech, attention_mask=mask).logits, expected[name])
        for path in set((first / name).iterdir()) - {first / name / "config.json"}:  # it gets the encoder's dtype
            assert path.read_bytes() == (third / name / path.name).read_bytes()


def test_a_saved_model_names_its_classes_and_brings_their_files(saved):
    folder, _ = saved
    travelling = {
        "temporal_shift.py", "configuration_shift_ser.py", "heads.py", "encoders.py", "modeling_shift_ser.py",
        "audio_container.py", "media_container.py", "speech_input.py", "feature_extraction_shift_ser.py",
        "pipeline_shift_ser.py",
        "loading.py", "losses.py", "masked_norm.py", "model_place.py",
    }  # fmt: skip
    assert {path.name for path in (folder / "cnn").glob("*.py")} == travelling
    for kind in ("cnn", "body"):
        config = json.loads((folder / kind / "config.json").read_text(encoding="utf-8"))
        assert config["auto_map"] == {
            "AutoConfig": "configuration_shift_ser.ShiftConfig",
            "AutoModel": "modeling_shift_ser.ShiftModel",
            "AutoModelForAudioClassification": "modeling_shift_ser.ShiftForSequenceClassification",
        }
        implementation = config["custom_pipelines"]["audio-classification"]["impl"]
        assert implementation == "pipeline_shift_ser.ShiftAudioClassificationPipeline"
    extractor = json.loads((folder / "cnn" / "preprocessor_config.json").read_text(encoding="utf-8"))
    assert extractor["auto_map"] == {"AutoFeatureExtractor": "feature_extraction_shift_ser.ShiftFeatureExtractor"}
