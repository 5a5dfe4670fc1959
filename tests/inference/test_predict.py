import csv
import os
import socket
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from conftest import command_line, tiny_encoder_config, tiny_model
from datasets import Dataset, Features
from media_files import KINDS, media
from transformers import HubertModel, pipeline

from shift_ser import ShiftAudioClassificationPipeline, ShiftFeatureExtractor
from shift_ser.corpora.corpus import SpeechAudio
from shift_ser.inference import batches
from shift_ser.inference import predict as inference
from shift_ser.inference.predict import (
    Classified,
    ScoreFile,
    classify_recordings,
    fast_dtype,
    find_recordings,
    load_classifier,
)
from shift_ser.model import media_container, model_place

RATE = 16000
LABELS = ["angry", "happy", "neutral", "sad"]


def clips(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 0.1, length).astype(np.float32) for length in lengths]


def make_model(variant="shiftcnn", **options):
    """A model that tells clips apart: its classifier's weights are large."""
    model = tiny_model(
        variant, id2label=dict(enumerate(LABELS)), label2id={name: i for i, name in enumerate(LABELS)}, **options
    )
    model.classifier.weight.data *= 20
    return model


def classifier(variant="shiftcnn", extractor=None, dtype=torch.float32, **options):
    return classifier_of(make_model(variant, **options).to(dtype), extractor)


def classifier_of(model, extractor=None):
    return pipeline(
        "audio-classification", model=model, device="cpu", top_k=None,
        feature_extractor=extractor or ShiftFeatureExtractor(), pipeline_class=ShiftAudioClassificationPipeline,
    )  # fmt: skip


def raw_outputs(coarse, fine):
    """What two models, in bfloat16 and float32, give for the two seconds of noise on which dtypes are compared."""
    noise = torch.randn(2 * RATE, generator=torch.Generator().manual_seed(0)).numpy()
    features = classifier_of(coarse).features([0.1 * noise])
    with torch.inference_mode():
        outputs = coarse(**features).logits, fine(**features.to(dtype=torch.float32)).logits
    return [each[0].double().numpy() for each in outputs]


def scores(result):
    return {entry["label"]: entry["score"] for entry in result}


@pytest.fixture(scope="module")
def classify():
    return classifier()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folder of a saved model."""
    folder = tmp_path_factory.mktemp("saved")
    make_model(temperature=3.0).save_pretrained(folder)
    ShiftFeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Recordings in two folders, two of them broken, and a letter."""
    folder = tmp_path_factory.mktemp("recordings")
    (folder / "deep" / "deeper").mkdir(parents=True)
    for place, samples in enumerate(clips(*range(1000, 9000, 800))):
        sf.write(folder / ("deep/deeper" if place % 2 else "deep") / f"{place}.wav", samples, RATE)
    sf.write(folder / "a.FLAC", clips(3000)[0], RATE, format="FLAC")
    sf.write(folder / "empty.wav", np.zeros(0), RATE)
    (folder / "broken.ogg").write_text("not a recording")
    (folder / "._a.FLAC").write_text("what macOS leaves beside a file")
    (folder / "letter.txt").write_text("not a recording")
    return folder


@pytest.mark.parametrize("norm", ["layer", "group"])
@pytest.mark.parametrize("fixed", [None, 4000])
def test_float32_scores_are_those_of_the_pipeline(norm, fixed):
    encoder_config = tiny_encoder_config(feat_extract_norm=norm, do_stable_layer_norm=norm == "layer")
    one_by_one = classifier(extractor=ShiftFeatureExtractor(fixed_length=fixed), encoder_config=encoder_config)
    recordings = clips(*np.random.default_rng(1).integers(200, 9000, 30))
    alone = [scores(one_by_one(recording)) for recording in recordings]
    assert max(abs(each["sad"] - alone[0]["sad"]) for each in alone) > 1e-3  # the clips do differ
    for options in ({}, {"batch_seconds": 1.0, "window": 7}, {"batch_seconds": 1e-6}, {"window_seconds": 0.1}):
        results = list(classify_recordings(one_by_one, recordings, **options))
        assert [result.name for result in results] == [f"recording {place}" for place in range(30)]
        assert [result.scores for result in results] == [pytest.approx(each, abs=1e-5) for each in alone]
        assert all(list(result.scores) == list(each) for result, each in zip(results, alone, strict=True))


def round_to_bfloat16(model):
    """The same model in float32 arithmetic, its weights and what each of its layers gives rounded to bfloat16.

    The least error that bfloat16 has, on any CPU: what each layer computes is exact but for its rounding.
    """

    def rounded(value):
        return value.bfloat16().float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    def round_output(module, inputs, output):
        return tuple(map(rounded, output)) if isinstance(output, tuple) else rounded(output)

    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(rounded(weight))
    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(round_output)


@pytest.mark.parametrize("variant", ["linear", "shiftcnn", "shiftlstm", "shiftformer", "transformer"])
def test_bfloat16_adds_little_to_the_error_of_rounding(variant):
    exact, ideal, coarse = classifier(variant), classifier(variant), classifier(variant, dtype=torch.bfloat16)
    round_to_bfloat16(ideal.model)
    recordings = clips(*np.random.default_rng(2).integers(400, 9000, 20))
    given = {}
    for name, each in (("exact", exact), ("ideal", ideal), ("coarse", coarse)):
        given[name] = np.array(
            [[one.scores[label] for label in LABELS] for one in classify_recordings(each, recordings)]
        )
    np.testing.assert_allclose(given["coarse"].sum(axis=1), 1, atol=1e-5)  # softmax in float32
    rounding = np.abs(given["ideal"] - given["exact"]).mean()
    assert rounding > 0
    # 2.5 times as much were seen: attention and sums inside a layer round too. These logits are 20 times a new model's.
    assert np.abs(given["coarse"] - given["exact"]).mean() < 5 * rounding + 1e-4


def test_the_batches_hold_no_more_than_the_seconds(classify, monkeypatch):
    shapes = []
    forward = classify.forward
    monkeypatch.setattr(
        classify, "forward", lambda inputs, **options: shapes.append(inputs["input_values"].shape) or forward(inputs)
    )
    lengths = np.random.default_rng(3).integers(400, 9000, 60)
    assert len(list(classify_recordings(classify, clips(*lengths, 30000), batch_seconds=1.0))) == 61
    assert sum(count for count, _ in shapes) == 61
    assert all(count * longest <= RATE for count, longest in shapes if longest != 30000)
    assert (1, 30000) in shapes
    assert sum(count * longest for count, longest in shapes) < 1.1 * (lengths.sum() + 30000)


def test_without_mask_padding_recordings_go_one_by_one():
    unmasked, recordings = classifier(mask_padding=False), clips(6000, 2500, 450)
    alone = [scores(unmasked(each)) for each in recordings]
    assert [each.scores for each in classify_recordings(unmasked, recordings)] == [pytest.approx(one) for one in alone]


def test_memory_does_not_grow_with_the_recordings(classify, monkeypatch):
    alive, most, given = weakref.WeakSet(), [0], []

    class Counted(batches.Done):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            if isinstance(self.value, np.ndarray):
                alive.add(self)
            most[0] = max(most[0], len(alive))

        __hash__ = object.__hash__

    monkeypatch.setattr(batches, "Done", Counted)

    def many():
        for length in np.random.default_rng(4).integers(400, 2000, 400):
            given.append(None)
            yield clips(length)[0]

    window, batch = 12, 8  # 0.2 s are eight of the shortest, 25 ms
    results = classify_recordings(classify, many(), batch_seconds=0.2, window=window)
    for done, _ in enumerate(results):
        assert len(given) <= done + 1 + 4 * (window + batch) + batches.AHEAD
    assert done == 399
    assert window < most[0] <= window + batch + batches.AHEAD + 1


def test_seconds_bound_what_is_read_ahead(classify):
    given = []

    def recordings():
        for _ in range(50):
            given.append(None)
            yield clips(8000)[0]

    results = classify_recordings(classify, recordings(), batch_seconds=0.5, window_seconds=2.0)
    next(results)
    assert len(given) <= 4 + batches.AHEAD + 1
    results.close()


def test_stopping_early_leaves_no_thread(classify):
    results = classify_recordings(classify, iter(clips(*[800] * 50)), window=3)
    next(results)
    results.close()
    del results
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("recordings")]


def test_what_cannot_be_read_is_told_by_name_and_stops_nothing(classify, folder, tmp_path):
    good = str(folder / "a.FLAC")
    broken = [str(folder / "empty.wav"), str(folder / "broken.ogg"), str(tmp_path / "gone.wav"), str(tmp_path)]
    nan = np.full(800, np.nan, dtype=np.float32)
    recordings = [broken[0], good, broken[1], nan, None, {"audio": {"path": good}}, *broken[2:], clips(900)[0], 7]
    results = list(classify_recordings(classify, recordings))
    names = [broken[0], good, broken[1], "recording 3", "recording 4", good, *broken[2:], "recording 8", "recording 9"]
    assert [result.name for result in results] == names
    assert [place for place, result in enumerate(results) if result.scores is None] == [0, 2, 3, 4, 6, 7, 9]
    for place, message in ((0, "at least one sample"), (2, "libsndfile reads"), (3, "800 NaN"), (6, "not found")):
        assert message in results[place].error
    assert results[1].error is None and results[1].label == max(results[1].scores, key=results[1].scores.get)
    assert list(classify_recordings(classify, broken)) == [
        Classified(name, error=result.error)
        for name, result in zip(broken, [results[i] for i in (0, 2, 6, 7)], strict=True)
    ]
    assert list(classify_recordings(classify, [])) == []


def test_a_column_whose_rows_cannot_be_read(classify, folder):
    paths = [str(folder / name) for name in ("a.FLAC", "broken.ogg", "deep/0.wav")]
    dataset = Dataset.from_dict({"audio": paths}, features=Features({"audio": SpeechAudio()}))
    for recordings in (dataset["audio"], dataset):
        results = list(classify_recordings(classify, recordings))
        assert [result.name for result in results] == [paths[0], "recording 1", paths[2]]
        assert [result.scores is None for result in results] == [False, True, False]
        assert "broken.ogg" in results[1].error


def test_a_recording_that_breaks_the_model_is_alone_in_it(classify, monkeypatch):
    forward = classify.forward

    def breaking(inputs, **options):
        if inputs["input_values"].shape[1] >= 5000:
            raise RuntimeError("out of memory")
        return forward(inputs)

    monkeypatch.setattr(classify, "forward", breaking)
    results = list(classify_recordings(classify, clips(4000, 5000, 4500)))
    assert [result.error for result in results] == [None, "out of memory", None]


def test_an_error_of_the_source_reaches_the_caller(classify):
    def source():
        yield clips(800)[0]
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        list(classify_recordings(classify, source()))


@pytest.mark.parametrize("name", ["batch_seconds", "window", "window_seconds"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_options_must_make_sense(classify, name, value):
    with pytest.raises(ValueError, match=f"{name} must be above 0, got {value}"):
        classify_recordings(classify, [], **{name: value})


@pytest.mark.parametrize("one", ["a.wav", b"", Path("a.wav"), np.zeros(5), torch.zeros(5), {"path": "a.wav"}])
def test_one_recording_is_not_several(classify, one):
    with pytest.raises(ValueError, match=r"recordings must be several.*got"):
        classify_recordings(classify, one)


def test_loading(saved, monkeypatch):
    for dtype in ("float32", "bfloat16"):
        assert load_classifier(saved, dtype=dtype).model.dtype == getattr(torch, dtype)
    with pytest.raises(ValueError, match=r"dtype must be one of .* got 'float16'"):
        load_classifier(saved, dtype="float16")
    for answer, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda answer=answer: answer)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert fast_dtype(torch.device("cpu")) == expected
        monkeypatch.setattr(inference, "fast_dtype", lambda device, expected=expected: expected)
        assert load_classifier(saved).model.dtype == expected
        monkeypatch.setattr(inference, "fast_dtype", fast_dtype)


def test_bfloat16_that_is_wrong_is_not_taken(saved, monkeypatch, caplog):
    monkeypatch.setattr(inference, "fast_dtype", lambda device: torch.bfloat16)
    right = load_classifier(saved)
    assert right.model.dtype == torch.bfloat16 and not caplog.messages
    convolve = torch.nn.functional.conv1d

    def wrong_in_bfloat16(values, *args, **options):
        output = convolve(values, *args, **options)
        return output.roll(1, dims=1) if values.dtype == torch.bfloat16 else output

    monkeypatch.setattr(torch.nn.functional, "conv1d", wrong_in_bfloat16)  # the positional convolution, the head's
    given = load_classifier(saved)
    assert given.model.dtype == torch.float32
    assert "bfloat16 changes the logits of an utterance by" in caplog.text and "stays in float32" in caplog.text
    (clip,) = clips(3000)
    assert given(clip) == load_classifier(saved, dtype="float32")(clip)
    assert load_classifier(saved, dtype="bfloat16").model.dtype == torch.bfloat16  # as asked


@pytest.mark.parametrize("labels", [[], LABELS], ids=["regression", "multi_task"])
def test_the_change_in_bfloat16_does_not_depend_on_the_scale_of_dimensions(labels):
    """Of a corpus that is rated from 0 to 100, and of one from 0 to 0.001."""
    names, changes = [*labels, "valence", "arousal"], []
    for scale in (1.0, 100.0, 1e-3):
        config = {
            "problem_type": "multi_task" if labels else "regression", "dimensions": names[-2:],
            "id2label": dict(enumerate(names)), "num_labels": len(names), "dimension_means": [scale, 0.0],
            "dimension_stds": [scale, 2 * scale],
        }  # fmt: skip
        models = [tiny_model("linear", **config).to(dtype) for dtype in (torch.bfloat16, torch.float32)]
        coarse, fine = raw_outputs(*models)
        units = [*(max(1.0, np.ptp(fine[:-2])) for _ in labels), scale, 2 * scale]
        expected = max(abs(one - other) / unit for one, other, unit in zip(coarse, fine, units, strict=True))
        changes.append(inference.bfloat16_change(classifier_of(models[0]), models[1]))
        assert changes[-1] == pytest.approx(expected, rel=1e-3) and changes[-1] > 0
    assert changes == pytest.approx([changes[0]] * 3, rel=0.05)


def test_where_no_model_is(saved, tmp_path, monkeypatch):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "fold1").symlink_to(saved)
    with pytest.raises(
        ValueError, match=r"a folder with a config\.json, got .*demo', which has none: did you mean '.*fold1'"
    ):
        load_classifier(tmp_path / "demo")
    with pytest.raises(
        FileNotFoundError, match=r"an existing folder or a Hub name, got .*fold2': did you mean '.*fold1'"
    ):
        load_classifier(tmp_path / "demo" / "fold2")
    with pytest.raises(FileNotFoundError, match=r"an existing folder or a Hub name, got '\./nowhere/at/all'"):
        load_classifier("./nowhere/at/all")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"which has none$"):
        load_classifier(tmp_path / "empty")
    with pytest.raises(ValueError, match="a folder or a Hub name, got the file"):
        load_classifier(saved / "config.json")
    with pytest.raises(
        OSError, match="model 'someone/model' is no folder here, and the Hub is out of reach: HF_HUB_OFFLINE"
    ):
        load_classifier("someone/model")
    monkeypatch.setattr(model_place.constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))  # nobody listens there
        monkeypatch.setattr(model_place.constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(OSError, match=r"the Hub is out of reach: http://127\.0\.0\.1:\d+ does not answer"):
            load_classifier("someone/model")


def test_an_encoder_alone_is_refused(tmp_path):
    HubertModel(tiny_encoder_config()).save_pretrained(tmp_path)
    ShiftFeatureExtractor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"a saved model for audio classification, got HubertModel"):
        load_classifier(tmp_path)


def test_some_labels_and_no_label(classify):
    recordings = clips(3000, 5000, 4000)
    whole = list(classify_recordings(classify, recordings))
    for one, two in zip(whole, classify_recordings(classify, recordings, labels=["sad", "angry"]), strict=True):
        total = one.scores["angry"] + one.scores["sad"]
        assert two.scores == pytest.approx({label: one.scores[label] / total for label in ("angry", "sad")})
        assert list(two.scores.values()) == sorted(two.scores.values(), reverse=True) and two.label in ("angry", "sad")
    least = sorted(max(one.scores.values()) for one in whole)[1]
    unsure = list(classify_recordings(classify, recordings, abstain=least))
    assert [two.label for two in unsure] == [one.label if one.scores[one.label] >= least else None for one in whole]
    assert [two.label is None for two in unsure].count(True) == 1
    for labels in (["sad"], ["sad", "bored"], "sad", []):
        with pytest.raises(ValueError, match=r"labels must be two or more of .*'angry', 'happy', 'neutral', 'sad'"):
            classify_recordings(classify, recordings, labels=labels)
    for abstain in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="abstain must be between 0 and 1, got"):
            classify_recordings(classify, recordings, abstain=abstain)


def test_a_model_that_gives_nan_scores_nothing(saved):
    broken = load_classifier(saved, dtype="float32")
    with torch.no_grad():
        broken.model.classifier.weight[0] = np.nan
    results = list(classify_recordings(broken, clips(3000, 900)))
    assert all(each.scores is None and "scores must be finite" in each.error for each in results)


def test_cut_recordings_are_told_and_read_where_it_is_allowed(saved, tmp_path):
    sf.write(tmp_path / "cut.wav", clips(5000)[0], RATE)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "cut.wav").read_bytes()[:6000])
    (result,) = classify_recordings(load_classifier(saved), [tmp_path / "cut.wav"])
    assert "as much audio as its header promises, got 10000 bytes of audio promised, 5956 held" in result.error
    (result,) = classify_recordings(load_classifier(saved, allow_truncated=True), [tmp_path / "cut.wav"])
    assert result.error is None and result.label in LABELS


def test_what_folders_hold_beside_audio_is_told(folder, tmp_path, caplog):
    list(find_recordings([folder]))
    (message,) = caplog.messages
    assert message.startswith(f"{folder}: 2 files are skipped: ")
    assert "._a.FLAC (a hidden file)" in message and "letter.txt (no audio by its suffix '.txt')" in message


def test_the_command_lists_each_file_that_it_skips_and_reads_the_sound_of_videos(saved, tmp_path):
    (tmp_path / "call.mp4").write_bytes(media(*KINDS[".mp4"]))
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text("a letter")
    told = command_line("predict", "--model", saved, tmp_path)
    assert told.exit_code == 0, told.output
    for number in range(5):
        assert f"skipped: {tmp_path / str(number)}.txt (no audio by its suffix '.txt')\n" in told.stderr
    assert told.stdout.startswith(f"{tmp_path / 'call.mp4'}: ")


def test_a_video_without_the_package_that_reads_it_stops_nothing(saved, tmp_path, monkeypatch):
    (tmp_path / "call.mp4").write_bytes(media(*KINDS[".mp4"]))
    sf.write(tmp_path / "talk.wav", np.random.default_rng(0).normal(0, 0.1, 8000), 16000)
    monkeypatch.setattr(media_container, "av", None)
    video, talk = classify_recordings(load_classifier(saved), find_recordings([tmp_path]))
    assert video.scores is None and "shift-ser[av]" in video.error and talk.scores


def test_calibrated_scores_are_those_of_divided_logits(saved):
    (clip,) = clips(3000)
    (plain,), (calm,) = (
        list(classify_recordings(load_classifier(saved, dtype="float32", calibrated=calibrated), [clip]))
        for calibrated in (False, True)
    )
    logits = torch.tensor([plain.scores[label] for label in LABELS]).double().log()
    expected = dict(zip(LABELS, (logits / 3).softmax(dim=-1).tolist(), strict=True))
    assert calm.scores == pytest.approx(expected, abs=1e-5)


def test_folders_are_searched_in_order_and_each_file_comes_once(folder, monkeypatch):
    deep = [f"deep/{place}.wav" for place in range(0, 10, 2)]
    deeper = [f"deep/deeper/{place}.wav" for place in range(1, 10, 2)]
    expected = ["a.FLAC", "broken.ogg", *sorted(deep), *sorted(deeper), "empty.wav"]
    assert [Path(path).relative_to(folder).as_posix() for path in find_recordings([folder])] == expected
    first = str(folder / "deep" / "2.wav")
    assert len(list(find_recordings([first, folder, first]))) == len(expected)
    assert next(find_recordings([first, folder])) == first
    monkeypatch.chdir(folder)
    assert list(find_recordings(["letter.txt", "gone"])) == ["letter.txt", "gone"]


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def result(name, first=0.75):
    return Classified(name, scores={"sad": first, "angry": 1 - first})


@pytest.mark.parametrize(
    "name", ["b.wav", "a\rb.wav", "\r", "a\r\nb.wav", 'a "quoted", name\nof two lines.wav', "ü.wav", "\udcff.wav"]
)
def test_a_file_of_scores_cut_anywhere_is_continued(tmp_path, name):
    path = tmp_path / "deep" / "scores.csv"
    options = {"labels": ["angry", "sad"], "model": "m float32"}
    with ScoreFile(path, **options) as file:
        file.write(result("a.wav"))
        one = path.stat().st_size
        file.write(result(name, 1 / 3))
        file.write(result("c.wav"))
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        with ScoreFile(path, **options) as file:
            assert ("a.wav" in file.done) == (size >= one)
            for each in (result("a.wav"), result(name, 1 / 3), result("c.wav")):
                if each.name not in file.done:
                    file.write(each)
            assert file.done == {"a.wav", name, "c.wav"}
        assert path.read_bytes() == whole
    assert whole.splitlines()[:2] == [b"recording,label,score_angry,score_sad,model", b"a.wav,sad,0.25,0.75,m float32"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("my notes", "must hold scores, with the columns .*got b'my notes'"),
        ("my,notes\n1,2\n", r"must hold scores, with the columns .*got \['my', 'notes'\]"),
        ("recording,label,score_angry,model\n", "must hold scores, with the columns"),
        (
            "recording,label,score_angry,score_sad,model\na.wav,sad,0,1,other\n",
            r"must hold scores of 'm', got the line",
        ),
        ("recording,label,score_angry,score_sad,model\na.wav,sad\nb.wav,sad,0,1,m\n", "got the line"),
        ('recording,label,score_angry,score_sad,model\n"a"x,sad,0,1,m\nb.wav,sad,0,1,m\n', "must hold lines of CSV"),
    ],
)
def test_another_file_is_not_touched(tmp_path, content, message):
    path = tmp_path / "scores.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        ScoreFile(path, labels=["angry", "sad"], model="m")
    assert path.read_text() == content


def test_only_scores_of_the_models_labels_are_written(tmp_path):
    with ScoreFile(tmp_path / "scores.csv", labels=["angry", "sad"], model="m") as file:
        for wrong in (Classified("a", error="lost"), Classified("a", scores={"angry": 1.0})):
            with pytest.raises(ValueError, match=r"scores of 'a' must be of \['angry', 'sad'\], got"):
                file.write(wrong)
        with pytest.raises(ValueError, match="scores of 'a' must be finite, got"):
            file.write(Classified("a", scores={"angry": float("nan"), "sad": 1.0}))
        file.write(Classified("b", scores={"angry": 0.6, "sad": 0.4}, least=0.7))
    assert [row["label"] for row in rows_of(tmp_path / "scores.csv")] == [""]


def test_the_command_prints_a_line_per_file(saved, folder):
    told = command_line("predict", "--model", saved, "--dtype", "float32", folder)
    lines = told.stdout.splitlines()
    assert len(lines) == 11 and lines[0].startswith(f"{folder / 'a.FLAC'}: ")
    expected = scores(load_classifier(saved, dtype="float32")(folder / "a.FLAC"))
    assert lines[0].split("  ")[1] == "(" + ", ".join(f"{name} {score:.3f}" for name, score in expected.items()) + ")"
    reasons = told.stderr[told.stderr.index("error: ") :].splitlines()
    assert told.exit_code == 1 and reasons[0] == "error: could not be classified:"
    assert [line.split(":")[0] for line in reasons[1:]] == [str(folder / "broken.ogg"), str(folder / "empty.wav")]


def test_the_command_goes_on_with_its_file(saved, folder, tmp_path):
    words = ["predict", "--model", saved, "--dtype", "float32", "--output", tmp_path / "scores.csv"]
    told = command_line(*words, folder / "deep")
    assert told.exit_code == 0 and not told.stdout and "10/10" in told.stderr
    before = (tmp_path / "scores.csv").read_bytes()
    (tmp_path / "scores.csv").write_bytes(before[: len(before) // 2])
    told = command_line(*words, folder / "deep")
    assert told.exit_code == 0 and "10/10" in told.stderr
    rows = rows_of(tmp_path / "scores.csv")
    assert [row["recording"] for row in rows] == list(find_recordings([folder / "deep"]))
    assert {row["model"] for row in rows} == {f"{saved} float32"}
    for row in rows:
        assert sum(float(row[f"score_{label}"]) for label in LABELS) == pytest.approx(1)
        assert float(row[f"score_{row['label']}"]) == max(float(row[f"score_{label}"]) for label in LABELS)
    told = command_line(*words, folder)  # more recordings than before
    assert told.exit_code == 1 and "could not be classified:" in told.stderr
    assert len(rows_of(tmp_path / "scores.csv")) == 11
    told = command_line(*words, "--calibrated", folder)
    assert f"must hold scores of '{saved} float32 calibrated', got the line" in told.stderr
    told = command_line("predict", "--model", saved, tmp_path)
    assert told.stderr.endswith(f"error: no audio files in {tmp_path}\n")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--labels", "sad,glad"], "labels must be two or more of"),
        (["--abstain", "2"], "abstain must be between 0 and"),
    ],
)
def test_a_command_that_is_refused_leaves_no_file_in_the_way(saved, folder, tmp_path, wrong, message):
    words = ["predict", "--model", saved, "--dtype", "float32", "--output", tmp_path / "new" / "scores.csv"]
    told = command_line(*words, *wrong, folder / "a.FLAC")
    assert told.exit_code == 1 and message in told.stderr and not (tmp_path / "new").exists()
    assert command_line(*words, "--labels", "sad,angry,sad", folder / "a.FLAC").exit_code == 0
    (row,) = rows_of(tmp_path / "new" / "scores.csv")
    assert list(row) == ["recording", "label", "score_sad", "score_angry", "model"]


def test_the_command_takes_some_labels_and_cut_files(saved, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path / "a") + b"\xff.wav")
    with open(path, "wb") as file:
        sf.write(file, clips(5000)[0], RATE, format="WAV")
    os.truncate(path, 6000)
    words = ["predict", "--model", saved, "--dtype", "float32", "--labels", "sad,angry", path]
    told = command_line(*words)
    assert told.exit_code == 1 and "as much audio as its header promises" in told.output
    told = command_line(*words, "--allow-truncated", "--abstain", "1")
    assert told.exit_code == 0 and "a\ufffd.wav: no label  (" in told.stdout and "happy" not in told.stdout
    told = command_line(*words, "--allow-truncated", "--output", tmp_path / "scores.csv")
    assert told.exit_code == 0
    (row,) = csv.DictReader(
        (tmp_path / "scores.csv").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    )
    assert row["recording"] == path and float(row["score_sad"]) + float(row["score_angry"]) == pytest.approx(1)


@pytest.mark.parametrize(("dtype", "mask_padding"), [("bfloat16", True), ("bfloat16", False), ("float32", True)])
def test_in_bfloat16_recordings_of_near_lengths_share_a_shape(dtype, mask_padding):
    classify = classifier(dtype=getattr(torch, dtype), mask_padding=mask_padding)
    recordings, lengths = clips(9000, 9500, 10000, 11000), []
    hook = classify.model.register_forward_pre_hook(
        lambda _, args, given: lengths.append(given["input_values"].shape[1]), with_kwargs=True
    )
    found = [result.scores for result in classify_recordings(classify, recordings, batch_seconds=0.7)]
    hook.remove()
    on_grid = dtype == "bfloat16" and mask_padding
    assert sorted(lengths) == ([10240] * 3 + [15360] if on_grid else [9000, 9500, 10000, 11000])
    for told, recording in zip(found, recordings, strict=True):
        alone = scores(classify({"array": recording, "sampling_rate": RATE}))
        bound = 0.02 if on_grid else 1e-6
        assert told == pytest.approx(alone, abs=bound) and len(told) == 4
