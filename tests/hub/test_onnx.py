import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import wave

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from conftest import tiny_encoder_config, tiny_model
from torch import nn
from torch.export import Dim

from shift_ser import ShiftFeatureExtractor, ShiftForSequenceClassification
from shift_ser.hub import onnx as export
from shift_ser.hub.onnx import preprocessing

HEADS = [  # cnn, lstm and relative_key are parts of these
    ("linear", {}),
    ("shiftcnn", {"shift_direction": "bidirectional", "shift_padding": "repeat"}),
    ("shiftlstm", {}),
    ("transformer", {"max_position_embeddings": 9}),
    ("transformer", {"max_position_embeddings": 9, "position_embedding_type": "absolute"}),
    ("shiftformer", {"shift_stride": 2}),
    ("shiftcnn", {"causal": True}),
    ("shiftlstm", {"causal": True}),
]
LENGTHS = ([20, 13], [1], [60, 37, 2], [7, 1, 7, 7, 3], [37])
SMALL = {"num_hidden_layers": 1, "conv_dim": (8, 8), "conv_stride": (20, 16), "conv_kernel": (20, 16)}


class AllHeads(nn.Module):
    """Logits of all heads from one batch of frames: one trace for all."""

    def __init__(self):
        super().__init__()
        self.models = nn.ModuleList(
            tiny_model(name, seed=1, num_head_layers=int(name != "linear"), **options) for name, options in HEADS
        )

    def forward(self, frames, mask):
        return torch.stack([model(encoder_hidden_states=frames, attention_mask=mask).logits for model in self.models])


@pytest.fixture(scope="module")
def heads():
    return AllHeads().eval().requires_grad_(False)


def frames_of(lengths):
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return torch.randn(*mask.shape, 96, generator=torch.Generator().manual_seed(2)), mask


def in_openvino(path, precision="f32"):
    return openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": precision})


@pytest.fixture(scope="module")
def program(heads):
    shape = {0: Dim("batch"), 1: Dim("time")}
    with torch.no_grad(), export.exportable(heads):
        return torch.export.export(heads, frames_of(LENGTHS[0]), dynamic_shapes=(shape, shape))


def test_torch_export_takes_every_head_at_any_length(heads, program):
    exported = program.module()
    for lengths in LENGTHS:
        torch.testing.assert_close(exported(*frames_of(lengths)), heads(*frames_of(lengths)), atol=1e-5, rtol=0)


def test_onnx_takes_every_head_at_any_length(heads, program, tmp_path):
    table = {torch.ops.shift_ser.lstm.default: export._onnx_lstm}
    torch.onnx.export(
        program, f=tmp_path / "heads.onnx", input_names=["frames", "mask"], custom_translation_table=table, dynamo=True,
        verbose=False,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(tmp_path / "heads.onnx", providers=["CPUExecutionProvider"])
    compiled = in_openvino(tmp_path / "heads.onnx")
    for lengths in LENGTHS:
        frames, mask = frames_of(lengths)
        inputs = {"frames": frames.numpy(), "mask": mask.numpy()}
        for found in (session.run(None, inputs)[0], compiled(inputs)[0]):
            np.testing.assert_allclose(found, heads(frames, mask).numpy(), atol=1e-5)


def test_torch_compile_takes_every_head_in_one_graph(heads):
    torch._dynamo.reset()
    with export.exportable(heads), torch.no_grad():
        compiled = torch.compile(heads, dynamic=True, fullgraph=True, backend="eager")
        for lengths in ([20, 13], [60, 37, 2]):
            torch.testing.assert_close(compiled(*frames_of(lengths)), heads(*frames_of(lengths)), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_torch_compile_breaks_its_graph_around_an_lstm():
    torch._dynamo.reset()
    model, (frames, mask) = tiny_model("shiftlstm"), frames_of([9, 4])
    with torch.no_grad():
        expected = model(encoder_hidden_states=frames, attention_mask=mask).logits
        compiled = torch.compile(model, dynamic=True, backend="eager")
        torch.testing.assert_close(compiled(encoder_hidden_states=frames, attention_mask=mask).logits, expected)
        with pytest.raises(torch._dynamo.exc.Unsupported, match="LSTM"):
            torch.compile(model, dynamic=True, fullgraph=True, backend="eager")(encoder_hidden_states=frames)


def test_exportable_changes_nothing_for_good():
    model = tiny_model("shiftlstm").requires_grad_(False)  # its own: those of the fixture have been inside before
    before = dict(model.named_modules())
    assert any(isinstance(module, nn.LSTM) for module in before.values())
    frames, mask = frames_of([8, 5])
    expected = model(encoder_hidden_states=frames, attention_mask=mask).logits
    for error in (None, KeyError):
        with contextlib.suppress(KeyError), export.exportable(model):
            assert not any(isinstance(module, nn.LSTM) for module in model.modules())
            torch.testing.assert_close(model(encoder_hidden_states=frames, attention_mask=mask).logits, expected)
            if error is not None:
                raise error
        after = dict(model.named_modules())
        assert list(after) == list(before) and all(after[name] is before[name] for name in before)


def test_tracing_leaves_the_model_as_it_was(monkeypatch):
    model = tiny_model("shiftlstm", encoder_config=tiny_encoder_config(**SMALL))
    model.config._attn_implementation = "sdpa"
    before = dict(model.named_modules())

    def failing(*args, **options):
        assert model.config._attn_implementation == "eager"
        raise RuntimeError("not traceable")

    monkeypatch.setattr(torch.export, "export", failing)
    with pytest.raises(RuntimeError, match="not traceable"):
        export.trace(model)
    assert model.config._attn_implementation == "sdpa"
    assert all(before[name] is module for name, module in model.named_modules())


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Folders of a saved model and of its export by the example, in a process of its own as a user would."""
    folder = tmp_path_factory.mktemp("export")
    encoder_config = tiny_encoder_config(**SMALL)
    names = ["angry", "happy", "neutral", "sad"]
    model = tiny_model(
        "shiftlstm", encoder_config=encoder_config,
        id2label=dict(enumerate(names)), label2id={name: index for index, name in enumerate(names)},
    )  # fmt: skip
    model.save_pretrained(folder / "model")
    ShiftFeatureExtractor().save_pretrained(folder / "model")
    command = [
        sys.executable,
        "-m",
        "shift_ser.cli",
        "export",
        folder / "model",
        folder / "deep" / "onnx",
        "--opset",
        "18",
    ]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=one_thread)
    assert "of torch's" in done.stdout
    return folder / "model", folder / "deep" / "onnx"


def test_the_folder_is_whole_and_alone(exported):
    folder = exported[1]
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "config.json", "model.onnx", "preprocessor_config.json",
    ]  # fmt: skip
    assert [path.name for path in folder.parent.iterdir()] == ["onnx"]
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    assert [(one.name, one.type, one.shape) for one in session.get_inputs()] == [
        ("input_values", "tensor(float)", ["batch", "samples"]),
        ("attention_mask", "tensor(int64)", ["batch", "samples"]),
    ]
    assert [one.name for one in session.get_outputs()] == ["logits"]


def test_the_lines_of_the_readme_run_without_torch_and_give_torchs_scores(exported, tmp_path):
    source, folder = exported
    (lines,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(lines.splitlines()) <= 17
    clips = [np.random.default_rng(length).integers(-9000, 9000, length, np.int16) for length in (16000, 200, 5000)]
    paths = [str(tmp_path / f"{len(clip)}.wav") for clip in clips]
    for path, clip in zip(paths, clips, strict=True):
        with wave.open(path, "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes(clip.tobytes())
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert "Padding does not change scores.\nIts logits were compared with torch's on 4 batches" in readme
    without = "import sys; sys.modules.update(dict.fromkeys(['torch', 'transformers', 'shift_ser']))\n"
    done = subprocess.run(
        [sys.executable, "-c", without + lines, *paths], cwd=folder, capture_output=True, text=True, check=True
    )
    model = ShiftForSequenceClassification.from_pretrained(source)
    batch = ShiftFeatureExtractor.from_pretrained(source)(clips, sampling_rate=16000, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**batch).logits.softmax(dim=-1)
    for path, line, row in zip(paths, done.stdout.splitlines(), expected, strict=True):
        scores = json.loads(line.removeprefix(path).replace("'", '"'))
        assert list(scores) == ["angry", "happy", "neutral", "sad"]
        np.testing.assert_allclose(list(scores.values()), row, atol=1e-4)


@pytest.mark.parametrize(
    ("precision", "int8", "tolerance"), [("f32", False, 1e-4), ("f32", True, 0.05), ("bf16", False, 0.05)]
)
def test_openvino_runs_the_graph_at_any_length(exported, tmp_path, precision, int8, tolerance):
    path = tmp_path / "model.onnx"
    shutil.copy(exported[1] / "model.onnx", path)
    if int8:
        export.use_int8(path)
    compiled, model = in_openvino(path, precision), ShiftForSequenceClassification.from_pretrained(exported[0])
    batches = [(50,), (131, 77), (400, 120, 399), (7, 2), (10,), (15, 10, 1)]
    # in bfloat16 it is wrong where a convolution's input is as long as its kernel
    for frames in batches if precision == "bf16" else [*batches, (1,)]:
        values, mask = export.noise_batch(frames, model)
        (found,) = compiled({"input_values": values.numpy(), "attention_mask": mask.numpy()}).values()
        with torch.no_grad():
            expected = model(values, attention_mask=mask).logits
        np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.parametrize("options", [{}, {"fixed_length": 900}, {"do_normalize": False, "min_length": 500}])
def test_the_readmes_preprocessing_is_the_feature_extractors(options):
    extractor = ShiftFeatureExtractor(**options)
    clips = [np.random.default_rng(length).normal(size=length) for length in (1000, 300, 700)]
    names = {"np": np, "clips": clips}
    exec("\n".join(preprocessing(extractor)[1:]), names)
    expected = extractor(clips, sampling_rate=16000, padding=True, return_tensors="np")
    np.testing.assert_allclose(names["values"], expected["input_values"], atol=1e-5)
    np.testing.assert_array_equal(names["mask"], expected["attention_mask"])


@pytest.fixture
def traced_before(exported, monkeypatch):
    """The model of `exported`, whose trace is taken from there."""

    def write(model, path, *, opset):
        assert opset == 20  # the default
        shutil.copy(exported[1] / "model.onnx", path)

    monkeypatch.setattr(export, "write_onnx", write)
    return ShiftForSequenceClassification.from_pretrained(exported[0])


def test_int8_is_smaller_and_gives_nearly_torchs_scores(exported, traced_before, tmp_path):
    folder = tmp_path / "int8"
    difference = export.export_onnx(traced_before, ShiftFeatureExtractor(), folder, int8=True)
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in exported[1].iterdir())
    weights = sum(one.weight.numel() for one in traced_before.modules() if isinstance(one, nn.Linear))
    before, after = ((path / "model.onnx").stat().st_size for path in (exported[1], folder))
    assert before - after > 0.8 * 3 * weights  # bytes: three of four of each
    tensors = {each.name: each for each in onnx.load(folder / "model.onnx").graph.initializer}
    scales = {name: list(each.dims) for name, each in tensors.items() if name.endswith("_scale")}
    assert scales and all(dims == tensors[name[:-5] + "quantized"].dims[-1:] for name, dims in scales.items())
    assert 0 < difference <= export.INT8_TOLERANCE
    said = "in int8; its scores were compared with torch's on 4 batches of noise: the largest difference is"
    assert f"{said} {difference:.0e}" in (folder / "README.md").read_text(encoding="utf-8")

    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    values, mask = export.noise_batch((300, 40, 7), traced_before)
    (logits,) = session.run(["logits"], {"input_values": values.numpy(), "attention_mask": mask.numpy()})
    with torch.no_grad():
        expected = traced_before(values, attention_mask=mask).logits.softmax(dim=-1)
    np.testing.assert_allclose(torch.from_numpy(logits).softmax(dim=-1), expected, atol=export.INT8_TOLERANCE)


def test_int8_that_changes_scores_too_much_is_not_left(traced_before, tmp_path):
    with torch.no_grad():
        traced_before.classifier.bias += torch.tensor([3.0, 0, 0, 0])
    with pytest.raises(RuntimeError, match=r"scores must be within 0\.05 of torch's.*nothing was written"):
        export.export_onnx(traced_before, ShiftFeatureExtractor(), tmp_path / "onnx", int8=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stds", [[1.0, 40.0], None])  # values of a model that was trained on none are in its own unit
@pytest.mark.parametrize(("part", "expected"), [(0.04, 0.02), (0.09, 0.045), (0.11, None)])
def test_int8_may_change_a_value_by_a_tenth_of_its_deviation(part, expected, stds, exported):
    """A model that says what its graph says, but for the last value, off by a part of the deviation."""
    path, model = exported[1] / "model.onnx", ShiftForSequenceClassification.from_pretrained(exported[0])
    model.config.dimensions, model.config.dimension_stds = ["valence", "arousal"], stds
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def differ(module, args, options, output):
        inputs = {"input_values": args[0].numpy(), "attention_mask": options["attention_mask"].numpy()}
        output.logits = torch.from_numpy(session.run(["logits"], inputs)[0])
        output.logits[:, -1] += part * (40 if stds else 1)
        return output

    model.register_forward_hook(differ, with_kwargs=True)
    if expected is None:
        with pytest.raises(RuntimeError, match=r"differ by 0\.055"):
            export.check_onnx(path, model, int8=True)
    else:
        assert export.check_onnx(path, model, int8=True) == pytest.approx(expected, abs=1e-4)


def test_an_empty_folder_is_filled_and_the_configuration_is_the_models(traced_before, tmp_path):
    difference = export.export_onnx(traced_before, ShiftFeatureExtractor(), tmp_path)
    config = traced_before.config.to_dict()
    del config["auto_map"]  # there is no code beside it
    assert (tmp_path / "config.json").read_text() == json.dumps(config, indent=2) + "\n"
    assert 0 <= difference == export.check_onnx(tmp_path / "model.onnx", traced_before)
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path):
        with pytest.raises(FileExistsError, match="output_dir must not exist yet or be an empty folder"):
            export.export_onnx(traced_before, ShiftFeatureExtractor(), path)


def test_a_file_that_fails_the_check_is_not_left(traced_before, tmp_path):
    model = traced_before
    assert export.export_onnx(model, ShiftFeatureExtractor(), tmp_path / "onnx") <= export.TOLERANCE
    shutil.rmtree(tmp_path / "onnx")
    with torch.no_grad():
        model.classifier.bias += 0.01
    with pytest.raises(RuntimeError, match=r"must be within 0.0001 of torch's.*differ by 0.01.*nothing was written"):
        export.export_onnx(model, ShiftFeatureExtractor(), tmp_path / "onnx")
    assert not list(tmp_path.iterdir())


WRONG_AT = {  # shapes (batch, samples) at which a graph might differ from the model that was traced at one shape
    "short speech": lambda batch, samples: samples < 400,
    "one utterance": lambda batch, samples: batch == 1,
    "more than the traced two": lambda batch, samples: batch > 2,
    "long speech": lambda batch, samples: samples > 300 * 320,
    "everything": lambda batch, samples: True,
}


@pytest.mark.parametrize("where", WRONG_AT)
@pytest.mark.parametrize("change", [0.01, np.nan])
def test_the_check_finds_a_graph_that_is_wrong_at_some_shape(exported, where, change):
    model = ShiftForSequenceClassification.from_pretrained(exported[0])

    def differ(module, args, output):
        if WRONG_AT[where](*args[0].shape):
            output.logits = output.logits + change
        return output

    model.register_forward_hook(differ)
    with pytest.raises(RuntimeError, match=r"must be within 0\.0001 of torch's, but utterances of"):
        export.check_onnx(exported[1] / "model.onnx", model)


def test_weights_that_are_nan_are_not_exported(traced_before, tmp_path):
    with torch.no_grad():
        traced_before.classifier.weight[0, 0] = np.nan
    with pytest.raises(RuntimeError, match=r"differ by nan; nothing was written"):
        export.export_onnx(traced_before, ShiftFeatureExtractor(), tmp_path / "onnx")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_refused(tmp_path):
    model = tiny_model("linear")
    with pytest.raises(ValueError, match=r"must be in eval mode .* got train mode"):
        export.export_onnx(model.train(), ShiftFeatureExtractor(), tmp_path / "onnx")
    with pytest.raises(ValueError, match=r"in float32 on the CPU, got eval mode and torch.bfloat16"):
        export.export_onnx(tiny_model("linear").bfloat16(), ShiftFeatureExtractor(), tmp_path / "onnx")
    with pytest.raises(ValueError, match="opset must be at least 18, got 17"):
        export.export_onnx(model.eval(), ShiftFeatureExtractor(), tmp_path / "onnx", opset=17)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="output_dir must not exist yet or be an empty folder"):
        export.export_onnx(model, ShiftFeatureExtractor(), tmp_path)


DIMENSIONS = {"dimensions": ["valence", "arousal"], "dimension_means": [3.0, 40.0], "dimension_stds": [0.5, 10.0]}
TARGETS = {
    "regression": {"id2label": {0: "valence", 1: "arousal"}, "num_labels": 2, **DIMENSIONS},
    "multi_task": {"id2label": {0: "angry", 1: "sad", 2: "valence", 3: "arousal"}, **DIMENSIONS},
    "soft_label_classification": {"id2label": {0: "angry", 1: "sad"}, "num_labels": 2},
}


def model_of_targets(problem_type):
    encoder_config = tiny_encoder_config(**SMALL)
    return tiny_model("linear", problem_type=problem_type, encoder_config=encoder_config, **TARGETS[problem_type])


@pytest.mark.parametrize("problem_type", TARGETS)
def test_the_readme_makes_scores_of_logits(problem_type, capsys):
    model = model_of_targets(problem_type)
    logits = np.array([[0.0, np.log(3.0), 3.5, 45.0]])
    logits = logits[:, 2:] if problem_type == "regression" else logits[:, : model.config.num_labels]
    labels = {str(index): name for index, name in model.config.id2label.items()}
    exec(
        "\n".join(export.scores_of(model)),
        {"np": np, "sys": sys, "logits": logits, "labels": labels} | {"zip": fake_zip},
    )
    expected = {"angry": 0.25, "sad": 0.75, "valence": 3.5, "arousal": 45.0}
    told = {name: expected[name] for name in labels.values()}
    assert capsys.readouterr().out == f"speech.wav {told}\n"


def fake_zip(_, rows):
    """As `zip`, but the names on the command line are those of a recording."""
    return zip(["speech.wav"], rows, strict=True)


@pytest.mark.slow
@pytest.mark.parametrize("problem_type", TARGETS)
def test_targets_are_exported(problem_type, tmp_path):
    model = model_of_targets(problem_type)
    assert export.export_onnx(model, ShiftFeatureExtractor(), tmp_path / "onnx") <= export.TOLERANCE
    if model.config.dimensions is None:  # int8 is too coarse for the values of this tiny random model, and refused
        int8 = export.export_onnx(model, ShiftFeatureExtractor(), tmp_path / "int8", int8=True)
        assert int8 <= export.INT8_TOLERANCE
