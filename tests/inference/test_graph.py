import csv
import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
import soundfile as sf
import torch
from conftest import command_line, tiny_encoder_config, tiny_model

from shift_ser import ShiftFeatureExtractor, classify_recordings, load_classifier
from shift_ser.hub import onnx as export
from shift_ser.inference import predict as inference
from shift_ser.inference.graph import _LONG, ENGINES, GraphModel
from shift_ser.inference.memory import pass_memory
from shift_ser.model.pipeline_shift_ser import LENGTH_GRID

RATE = 16000
SMALL = {"num_hidden_layers": 1, "conv_dim": (8, 8), "conv_stride": (20, 16), "conv_kernel": (20, 16)}
# Frames of 3200 and 4800 samples were counted wrong in bfloat16; of 320 a convolution's input is as long as its kernel.
LENGTHS = (320, 16000, 300, 5120, 3200, 4800, 31000, 9600)
TARGETS = {
    "problem_type": "multi_task", "dimensions": ["valence", "arousal"], "dimension_means": [3.0, 40.0],
    "dimension_stds": [0.5, 10.0], "id2label": dict(enumerate(["angry", "sad", "valence", "arousal"])),
}  # fmt: skip
MODELS = {"shiftcnn": TARGETS, "linear": {"mask_padding": False}, "shiftformer": {"fixed_length": 16000}}
NEAR = {"float32": 1e-5, "bfloat16": 0.01}


def clips(lengths=LENGTHS):
    return [np.random.default_rng(length).normal(0, 0.1, length).astype(np.float32) for length in lengths]


def write(folder, variant, fixed_length=None, **options):
    """A saved model and its export below a folder."""
    model = tiny_model(variant, encoder_config=tiny_encoder_config(**SMALL), **options)
    extractor = ShiftFeatureExtractor(fixed_length=fixed_length, min_length=320)
    for saved in (model, extractor):
        saved.save_pretrained(folder / "model")
    export.export_onnx(model, extractor, folder / "graph")
    return folder / "model", folder / "graph"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return write(tmp_path_factory.mktemp("exported"), "shiftlstm", temperature=3.0)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for samples in clips():
        sf.write(folder / f"{len(samples)}.wav", samples, RATE)
    return folder


def assert_near(found, expected, *, within):
    """Scores of recordings; values of dimensions in units of their deviation."""
    units = dict(zip(TARGETS["dimensions"], TARGETS["dimension_stds"], strict=True))
    for one, other in zip(found, expected, strict=True):
        assert one.error is None and set(one.scores) == set(other.scores)
        for name, score in other.scores.items():
            assert one.scores[name] == pytest.approx(score, abs=within * units.get(name, 1.0))


@pytest.mark.slow
@pytest.mark.parametrize("variant", MODELS)
def test_each_kind_of_model_gives_torchs_scores(variant, tmp_path):
    saved, graph = write(tmp_path, variant, **MODELS[variant])
    expected = list(classify_recordings(load_classifier(saved, dtype="float32"), clips()))
    for engine in ENGINES:
        found = load_classifier(graph, engine=engine, dtype="float32")
        assert_near(classify_recordings(found, clips()), expected, within=NEAR["float32"])
    if variant == "linear":  # its short speech cannot be padded
        with pytest.raises(ValueError, match="dtype must be float32 with openvino and mask_padding=False"):
            load_classifier(graph, engine="openvino", dtype="bfloat16")
    else:
        coarse = load_classifier(graph, engine="openvino", dtype="bfloat16")
        assert_near(classify_recordings(coarse, clips()), expected, within=NEAR["bfloat16"])


@pytest.mark.parametrize(
    ("engine", "dtype"), [("onnxruntime", "float32"), ("openvino", "float32"), ("openvino", "bfloat16")]
)
def test_batches_and_single_recordings_have_torchs_scores(engine, dtype, exported):
    saved, graph = exported
    long = clips((_LONG + 1,))  # OpenVINO's way of one on all cores
    exact = load_classifier(saved, dtype="float32", calibrated=True)
    found = load_classifier(graph, engine=engine, dtype=dtype, calibrated=True)
    assert str(found.dtype) == f"torch.{dtype}"
    expected = list(classify_recordings(exact, clips() + long))
    assert max(abs(one.scores["LABEL_0"] - expected[0].scores["LABEL_0"]) for one in expected) > 1e-3
    assert_near(classify_recordings(found, clips() + long), expected, within=NEAR[dtype])
    for options in ({"batch_size": 3}, {}):
        for told, one in zip(found(clips(), **options), expected, strict=False):
            assert {each["label"]: each["score"] for each in told} == pytest.approx(one.scores, abs=NEAR[dtype])


@pytest.mark.parametrize("engine", ENGINES)
def test_int8(engine, exported, tmp_path):
    folder = shutil.copytree(exported[1], tmp_path / "int8")
    export.use_int8(folder / "model.onnx")
    expected = list(classify_recordings(load_classifier(exported[0], dtype="float32"), clips()))
    for dtype in ("auto", "float32"):
        found = load_classifier(folder, engine=engine, dtype=dtype)
        assert_near(classify_recordings(found, clips()), expected, within=export.INT8_TOLERANCE)


@pytest.mark.parametrize("engine", ENGINES)
def test_threads_share_a_model(engine, exported):
    classify = load_classifier(exported[1], engine=engine, dtype="float32")
    alone = [classify(clip) for clip in clips()]
    with ThreadPoolExecutor(4) as threads:
        for found, one in zip(threads.map(classify, clips() * 10), alone * 10, strict=True):
            assert found == [{"label": each["label"], "score": pytest.approx(each["score"], abs=1e-6)} for each in one]


def test_auto_is_bfloat16_where_it_is_fast_and_right(exported, tmp_path, monkeypatch, caplog):
    for fast, expected in ((torch.bfloat16, torch.bfloat16), (torch.float32, torch.float32)):
        monkeypatch.setattr(inference, "fast_dtype", lambda device, fast=fast: fast)
        assert load_classifier(exported[1], engine="openvino").dtype == expected
        assert load_classifier(exported[1], engine="onnxruntime").dtype == torch.float32
    assert not caplog.messages
    monkeypatch.setattr(inference, "fast_dtype", lambda device: torch.bfloat16)
    monkeypatch.setattr(inference, "BFLOAT16_BOUND", 1e-9)
    assert load_classifier(exported[1], engine="openvino").dtype == torch.float32
    assert "bfloat16 changes the logits" in caplog.text


def test_a_graph_that_counts_frames_in_floats_is_not_run_in_bfloat16(exported, tmp_path, monkeypatch, caplog):
    folder = shutil.copytree(exported[1], tmp_path / "old")
    graph = onnx.load(folder / "model.onnx")
    length = next(node for node in graph.graph.node if node.op_type == "ReduceSum")  # of the mask
    new = [
        onnx.helper.make_node("Cast", [length.output[0]], ["as_float"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Floor", ["as_float"], ["floor"]),
        onnx.helper.make_node("Cast", ["floor"], ["counted"], to=onnx.TensorProto.INT64),
    ]
    for node in graph.graph.node:
        node.input[:] = ["counted" if name == length.output[0] else name for name in node.input]
    place = list(graph.graph.node).index(length) + 1
    for offset, node in enumerate(new):
        graph.graph.node.insert(place + offset, node)
    onnx.save(graph, folder / "model.onnx")
    with pytest.raises(ValueError, match="must count frames in whole numbers where dtype is 'bfloat16'"):
        load_classifier(folder, engine="openvino", dtype="bfloat16")
    monkeypatch.setattr(inference, "fast_dtype", lambda device: torch.bfloat16)
    assert load_classifier(folder, engine="openvino").dtype == torch.float32
    assert "stays in float32" in caplog.text


def test_what_is_no_export_is_refused(exported, tmp_path, monkeypatch):
    saved, graph = exported
    with pytest.raises(ValueError, match=r"which has no model\.onnx: run `shift-ser export .*model FOLDER` first"):
        load_classifier(saved, engine="openvino")
    with pytest.raises(ValueError, match=r"got 'somebody/model', which has no model\.onnx"):
        load_classifier("somebody/model", engine="onnxruntime")
    with pytest.raises(ValueError, match=r"must be a saved model, got '.*graph', which `shift-ser export` wrote"):
        load_classifier(graph)
    with pytest.raises(ValueError, match=r"engine must be one of .*, got 'tensorrt'"):
        load_classifier(graph, engine="tensorrt")
    with pytest.raises(ValueError, match="dtype must be float32 with onnxruntime, got 'bfloat16'"):
        load_classifier(graph, engine="onnxruntime", dtype="bfloat16")
    broken = shutil.copytree(graph, tmp_path / "broken")
    (broken / "model.onnx").write_bytes((graph / "model.onnx").read_bytes()[:1000])
    for engine in ENGINES:
        with pytest.raises(ValueError, match=rf"{engine} must be able to load .*model\.onnx"):
            load_classifier(broken, engine=engine)
        monkeypatch.setitem(sys.modules, engine, None)
        extra = {"onnxruntime": "onnx", "openvino": "openvino"}[engine]
        with pytest.raises(ModuleNotFoundError, match=rf"pip install \"shift-ser\[{extra}\]\""):
            load_classifier(graph, engine=engine)


def test_what_is_inside_the_graph_cannot_be_had(exported):
    classify = load_classifier(exported[1], engine="onnxruntime")
    for ask in (
        lambda: classify.embed(clips()),
        lambda: classify.frame_scores(clips()),
        lambda: classify.stream(voice_activity=False).push(np.zeros(10 * RATE, np.float32)),
    ):
        with pytest.raises(ValueError, match=r"need the saved model in torch, got '.*graph', which was exported"):
            ask()


def test_timelines_of_windows_are_torchs(exported):
    speech = clips((5 * RATE,))[0]
    expected, found = (
        load_classifier(folder, dtype="float32", engine=engine).timeline(
            speech, voice_activity=False, return_frames=True, chunk_length_s=2.0
        )
        for folder, engine in zip(exported, ("torch", "openvino"), strict=True)
    )
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


def test_rows_are_cut_to_their_mask(exported):
    values, mask = torch.randn(2, 9000), torch.ones(2, 9000, dtype=torch.long)
    mask[1, 700:] = 0
    for engine, lengths in {"onnxruntime": [9000, 700], "openvino": [2 * LENGTH_GRID, LENGTH_GRID]}.items():
        model, seen = GraphModel(exported[1], engine), []
        run = model._run
        model._run = lambda rows, run=run, seen=seen: seen.extend(rows) or run(rows)
        logits = model(values, mask).logits
        assert [row["input_values"].shape for row in seen] == [(1, length) for length in lengths]
        assert [int(row["attention_mask"].sum()) for row in seen] == [9000, 700]
        torch.testing.assert_close(logits[1:], model(values[1:, :700]).logits, atol=1e-5, rtol=0)


def test_a_recording_that_does_not_fit_is_an_error(exported):
    for engine in ENGINES:
        classify = load_classifier(exported[1], engine=engine, dtype="float32")
        room = pass_memory(classify, 20)
        assert room > 20 * RATE * 4
        speech = clips((RATE, 20 * RATE))
        assert all(each.scores for each in classify_recordings(classify, speech, max_memory=room))
        short, long = classify_recordings(classify, speech, max_memory=room - 1)
        assert short.scores and "max_memory" in long.error


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_command_tells_engines_apart(exported, recordings, tmp_path):
    saved, graph = exported
    scores = tmp_path / "scores.csv"
    words = ("predict", "--model", graph, recordings, "--output", scores, "--dtype", "float32", "--engine")
    told = command_line(*words, "onnxruntime")
    assert told.exit_code == 0, told.output
    rows = rows_of(scores)
    assert {row["model"] for row in rows} == {f"{graph} float32 in onnxruntime"}
    assert len(rows) == len(LENGTHS)
    before = scores.read_bytes()
    refused = command_line(*words, "openvino")
    assert refused.exit_code == 1 and "must hold scores of" in refused.output and "in openvino" in refused.output
    assert command_line(*words, "onnxruntime").exit_code == 0 and scores.read_bytes() == before
    torch_scores = tmp_path / "torch.csv"
    command_line("predict", "--model", saved, recordings, "--output", torch_scores, "--dtype", "float32")
    for row, other in zip(rows, rows_of(torch_scores), strict=True):
        for name in ("score_LABEL_0", "score_LABEL_3"):
            assert float(row[name]) == pytest.approx(float(other[name]), abs=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engine", "openvino", "--embeddings", "vectors.npz"], "--embeddings must stand without --engine openvino"),
        (["--engine", "openvino", "--workers", "2"], "--workers with ray"),
        (["--engine", "onnxruntime", "--dtype", "bfloat16"], "dtype must be float32 with onnxruntime"),
        ([], "which `shift-ser export` wrote"),
    ],
)
def test_the_command_refuses(words, message, exported, recordings):
    told = command_line("predict", "--model", exported[1], recordings, *words)
    assert told.exit_code in (1, 2) and message in told.output


def test_what_was_exported_is_not_exported_again(exported, tmp_path):
    told = command_line("export", exported[1], tmp_path / "twice")
    assert told.exit_code == 1 and "which `shift-ser export` wrote" in told.output


def test_the_export_is_read_as_it_was_written(exported):
    """The labels and the temperature of the folder, not those of a class."""
    config = json.loads((exported[1] / "config.json").read_text())
    model = GraphModel(exported[1], "onnxruntime")
    assert model.config.temperature == config["temperature"] == 3.0
    assert list(model.config.id2label.values()) == list(config["id2label"].values())
