import logging
import os
import pickle
import shutil
import socket
import subprocess
import sys

import datasets
import numpy as np
import pytest
import torch
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

from shift_ser.corpora.corpus import scan_recordings
from shift_ser.matrix_products import MatrixConv1d
from shift_ser.model.feature_extraction_shift_ser import ShiftFeatureExtractor
from shift_ser.training import shards
from shift_ser.training.batching import DataCollatorForShift
from shift_ser.training.feature_cache import FrameCache, FrameDataset, encode_dataset
from shift_ser.training.shards import shard_size, write_shard

RATE = 16000
LENGTHS = [4000, 12000, 8000]
NAMES = ["Ses01F_impro01_F000", "Ses01F_impro01_M000", "Ses02F_impro01_F000"]


def make_encoder(norm: str = "layer") -> HubertModel:
    # torch's own bfloat16 convolutions of 8 channels, in all or in a group, are wrong.
    torch.manual_seed(0)
    config = HubertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=(8, 8, 8),
        conv_stride=(5, 8, 8), conv_kernel=(10, 8, 8), num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=1,
        feat_extract_norm=norm, do_stable_layer_norm=norm == "layer",
    )  # fmt: skip
    return HubertModel(config)


def make_audio() -> list[dict]:
    rng = np.random.default_rng(0)
    return [{"array": rng.normal(size=n).astype(np.float32), "sampling_rate": RATE, "path": ""} for n in LENGTHS]


@pytest.fixture
def encoder() -> HubertModel:
    return make_encoder()


@pytest.fixture
def corpus() -> dict[str, list]:
    return {"utterance": list(NAMES), "audio": make_audio()}


@pytest.fixture
def extractor() -> Wav2Vec2FeatureExtractor:
    return Wav2Vec2FeatureExtractor(return_attention_mask=True)


@pytest.fixture
def encode(encoder, extractor, tmp_path):
    def run(dataset, *, encoder=encoder, feature_extractor=extractor, **options) -> FrameCache:
        return encode_dataset(encoder, dataset, feature_extractor=feature_extractor, cache_dir=tmp_path, **options)

    return run


def count_calls(module: torch.nn.Module) -> list[torch.Size]:
    """Shape of what enters the encoder, one entry a call."""
    shapes: list[torch.Size] = []
    first_convolution(module).register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0][:, 0].shape))
    return shapes


def first_convolution(encoder: torch.nn.Module) -> torch.nn.Module:
    return encoder.feature_extractor.conv_layers[0].conv


def normalise(samples: np.ndarray) -> torch.Tensor:
    return torch.from_numpy((samples - samples.mean()) / np.sqrt(samples.var() + 1e-7))[None]


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize(
    "options",
    [
        {}, {"max_seconds": 0.5}, {"fixed_length": 8500}, {"output": "all"}, {"output": 0}, {"output": 1},
        {"output": "convolutions"}, {"output": "feature_projection"},
        {"dtype": "float16"}, {"dtype": "bfloat16"}, {"output": "all", "dtype": "bfloat16"},
    ],
    ids=str,
)  # fmt: skip
def test_frames_equal_a_direct_run(encode, corpus, norm, options):
    encoder, fixed = make_encoder(norm), options.get("fixed_length")
    options = {name: value for name, value in options.items() if name != "fixed_length"}
    cache = encode(corpus, encoder=encoder, feature_extractor=ShiftFeatureExtractor(fixed_length=fixed), **options)
    assert len(cache) == 3
    for name, audio in zip(NAMES, corpus["audio"], strict=True):
        values = normalise(audio["array"][: fixed or int(RATE * options.get("max_seconds", 9))])
        if fixed:
            values = torch.cat([values, torch.zeros(1, fixed - values.shape[1])], dim=1)
        with torch.no_grad():
            output = encoder.eval()(values, output_hidden_states=True)
            convolved = encoder.feature_extractor(values)[0].T
            projected = encoder.feature_projection(convolved[None])[0]
        wanted = options.get("output", "last")
        by_name = {"last": output.last_hidden_state[0], "convolutions": convolved, "feature_projection": projected}
        by_name |= {"all": torch.cat(output.hidden_states), **dict(enumerate(torch.cat(output.hidden_states)))}
        frames, dtype = cache.frames(name), getattr(torch, options.get("dtype", "float32"))
        assert frames.dtype == dtype and frames.shape == by_name[wanted].shape
        share = {torch.float32: 0, torch.float16: 2**-11, torch.bfloat16: 2**-8}[dtype]  # of rounding to nearest
        torch.testing.assert_close(frames.float(), by_name[wanted], rtol=share, atol=1e-5)
    assert cache.input_name == ("extract_features" if wanted == "convolutions" else "encoder_hidden_states")


def test_an_encoder_in_bfloat16_is_near_the_same_in_float32_and_stays_in_float32(encode, encoder, corpus):
    exact, coarse = encode(corpus), encode(corpus, encoder_dtype="bfloat16")
    assert exact.path != coarse.path and encoder.dtype == torch.float32
    for name in NAMES:
        assert coarse.frames(name).dtype == torch.float32
        difference = (coarse.frames(name) - exact.frames(name)).abs()
        assert 0 < difference.mean() < 0.02 * exact.frames(name).abs().mean()


def test_an_encoder_that_this_machine_computes_wrongly_in_bfloat16_is_refused(encode, corpus, monkeypatch):
    convolve = MatrixConv1d.forward
    wrong = torch.bfloat16
    monkeypatch.setattr(
        MatrixConv1d,
        "forward",
        lambda self, values: convolve(self, values).roll(int(values.dtype == wrong), dims=1),
    )
    with pytest.raises(ValueError, match=r"encoder_dtype must give nearly .* bfloat16 changes those .*: take float32"):
        encode(corpus, encoder_dtype="bfloat16")
    assert len(encode(corpus)) == 3


@pytest.mark.parametrize("output", [0, 2])
def test_one_layer_is_read_from_a_cache_of_all_of_the_same_dtype(encode, encoder, corpus, output):
    every = encode(corpus, output="all")
    calls = count_calls(encoder)
    one = encode(corpus, output=output)
    assert not calls and one.path == every.path
    assert torch.equal(one.frames(NAMES[0]), every.frames(NAMES[0])[output])
    again = pickle.loads(pickle.dumps(one))
    assert torch.equal(again.frames(NAMES[0]), every.frames(NAMES[0])[output])
    assert encode(corpus, output=output, dtype="float16").path != every.path and len(calls) == 3


def test_a_dataset_gives_the_cache_of_its_columns(encode, corpus):
    audio = {"array": datasets.List(datasets.Value("float32")), "sampling_rate": datasets.Value("int64")}
    features = datasets.Features({"utterance": datasets.Value("string"), "audio": audio})
    rows = [{name: row[name] for name in audio} for row in corpus["audio"]]
    dataset = datasets.Dataset.from_dict({"utterance": NAMES, "audio": rows}, features=features)
    assert encode(dataset).path == encode(corpus).path


def test_each_module_is_left_in_its_mode_and_random_layers_are_off(encode, encoder, corpus):
    encoder.train()
    encoder.feature_extractor.eval()
    cache = encode(corpus)
    assert encoder.training and encoder.encoder.layers[0].training
    assert not encoder.feature_extractor.training
    with torch.no_grad():
        expected = encoder.eval()(normalise(corpus["audio"][0]["array"])).last_hidden_state[0]
    torch.testing.assert_close(cache.frames(NAMES[0]), expected, rtol=0, atol=1e-5)


def test_a_second_run_reuses_the_first_and_both_say_so(encode, encoder, corpus, caplog, tmp_path):
    calls = count_calls(encoder)
    with caplog.at_level(logging.INFO, logger="shift_ser.training.feature_cache"):
        first = encode(corpus)
        assert [shape[1] for shape in calls] == LENGTHS
        second = encode(corpus)
    assert len(calls) == 3
    assert first.path == second.path and os.listdir(tmp_path) == [first.path.name]
    size = sum(first.frames(name).nbytes for name in NAMES) / 1e6
    assert caplog.messages == [
        f"Encoding 3 of 3 utterances into {first.path}, {size:.1f} MB",
        f"Reusing the frames of 3 utterances in {first.path}",
    ]


@pytest.mark.parametrize(
    "options",
    [
        {}, {"max_seconds": 0.5}, {"feature_extractor": ShiftFeatureExtractor(fixed_length=8500)}, {"output": "all"},
        {"output": "convolutions"}, {"output": "feature_projection"},
        {"dtype": "float16"}, {"output": 1, "dtype": "bfloat16"},
    ],
    ids=str,
)  # fmt: skip
def test_the_announced_size_is_that_of_the_frames(encode, corpus, options, monkeypatch):
    told = []
    monkeypatch.setattr("shift_ser.training.feature_cache.logger.info", lambda text, *values: told.append(values[-1]))
    cache = encode(corpus, **options)
    assert told == [sum(cache.frames(name).nbytes for name in NAMES) / 1e6]


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(encode, encoder, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 4607, 4607))
    calls = count_calls(encoder)
    # (4000 - 330) // 320 + 1 = 12 frames, 37 and 24: 73 of 16 channels, 4 bytes each
    with pytest.raises(
        OSError, match=rf"cache_dir must be .* room for 4672 bytes of frames, but 4607 are .*{tmp_path}"
    ):
        encode(corpus)
    assert not calls and not list(tmp_path.rglob("*.safetensors*"))
    assert len(encode(corpus, dtype="float16")) == 3


def test_the_key_covers_weights_config_audio_names_extractor_and_options(encode, corpus):
    paths = [encode(corpus).path]

    changed = make_encoder()
    with torch.no_grad():
        changed.encoder.layers[1].attention.out_proj.bias[3] += 1e-6
    paths.append(encode(corpus, encoder=changed).path)
    changed = make_encoder()
    changed.config.layer_norm_eps = 1e-3
    paths.append(encode(corpus, encoder=changed).path)

    paths.append(encode(corpus, feature_extractor=Wav2Vec2FeatureExtractor(do_normalize=False)).path)
    options = ({"max_seconds": 0.5}, {"dtype": "float16"}, {"encoder_dtype": "bfloat16"}, {"output": "convolutions"})
    paths += [encode(corpus, **option).path for option in (*options, {"output": 1}, {"output": "all"})]
    paths.append(encode(corpus, feature_extractor=ShiftFeatureExtractor(fixed_length=8500)).path)
    paths.append(encode({**corpus, "utterance": NAMES[::-1]}).path)
    audio = make_audio()
    audio[2]["array"][5] += 1e-6
    paths.append(encode({**corpus, "audio": audio}).path)
    assert len(set(paths)) == 13


def test_the_key_of_convolutions_covers_no_weight_behind_them(encode, corpus):
    changed = make_encoder()
    torch.nn.init.normal_(changed.encoder.layers[1].attention.out_proj.weight)
    first = encode(corpus, output="convolutions").path
    assert encode(corpus, encoder=changed, output="convolutions").path == first
    torch.nn.init.normal_(changed.feature_extractor.conv_layers[2].conv.weight)
    assert encode(corpus, encoder=changed, output="convolutions").path != first


def test_where_the_encoder_was_loaded_from_is_not_in_the_key(encode, encoder, corpus, tmp_path):
    encoder.save_pretrained(tmp_path / "elsewhere")
    loaded = HubertModel.from_pretrained(tmp_path / "elsewhere")
    calls = count_calls(loaded)
    assert encode(corpus).path == encode(corpus, encoder=loaded).path
    assert not calls


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


@pytest.fixture
def small_shards(monkeypatch):
    """One utterance a file."""
    monkeypatch.setattr(shards, "_SHARD", 1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: os.truncate(path, path.stat().st_size - 1),
        lambda path: os.truncate(path, 0),
        lambda path: path.write_bytes(b"no safetensors at all"),
        lambda path: flip(path, -1),
        lambda path: flip(path, -path.stat().st_size // 4),
        lambda path: flip(path, 12),
        lambda path: shutil.copy(path.with_name("frames-00000-of-00003.safetensors"), path),
    ],
)
def test_a_damaged_shard_is_noticed_told_and_built_again_alone(
    encode, encoder, corpus, damage, caplog, small_shards
):  # fmt: skip
    path = encode(corpus).path
    expected = encode(corpus).frames(NAMES[1]).clone()
    damage(path / "frames-00001-of-00003.safetensors")
    calls = count_calls(encoder)
    cache = encode(corpus)
    assert [shape[1] for shape in calls] == [LENGTHS[1]]
    assert torch.equal(cache.frames(NAMES[1]), expected)
    assert "Encoding again" in caplog.text and "frames-00001-of-00003.safetensors is damaged" in caplog.text


def test_a_cache_that_is_not_whole_is_not_opened(encode, corpus, small_shards):
    path = encode(corpus).path
    (path / "frames-00002-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match=r"is not a whole frame cache: .*2 of 3 shards are there"):
        FrameCache.open(path)
    os.truncate(path / "frames-00001-of-00003.safetensors", 1000)
    (path / "frames-00002-of-00003.safetensors").touch()
    with pytest.raises(ValueError, match="is not a whole frame cache"):
        FrameCache.open(path)
    with pytest.raises(ValueError, match="is not a whole frame cache"):
        FrameCache.open(path / "nowhere")


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_run_goes_on_where_it_was(encode, encoder, corpus, interruption, small_shards, tmp_path):
    calls = []

    def stop(*_):
        calls.append(1)
        if len(calls) == 3:
            raise interruption

    hook = first_convolution(encoder).register_forward_pre_hook(stop)
    with pytest.raises(interruption):
        encode(corpus)
    (path,) = tmp_path.iterdir()
    assert sorted(os.listdir(path)) == [f"frames-0000{index}-of-00003.safetensors" for index in range(2)]
    hook.remove()
    calls = count_calls(encoder)
    assert len(encode(corpus)) == 3 and len(calls) == 1


def test_what_dead_runs_left_is_removed_and_what_others_write_is_not(encode, corpus, small_shards, tmp_path):
    path = encode(corpus).path
    (path / "frames-00001-of-00003.safetensors").unlink()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here, names = socket.gethostname(), {}
    for name, process in {"dead": f"{here}.{dead.pid}", "alive": f"{here}.{os.getppid()}", "far": "far.away.1"}.items():
        names[name] = path / f"frames-00001-of-00003.safetensors.{process}.unfinished"
        names[name].write_bytes(b"half")
    encode(corpus)
    assert not names["dead"].exists() and names["alive"].exists() and names["far"].exists()
    os.utime(names["far"], (0, 0))
    encode(corpus)
    assert not names["far"].exists()


def test_a_shard_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def full(frames, path, metadata):
        path.write_bytes(b"half")
        raise shards.SafetensorError("No space left on device")

    monkeypatch.setattr(shards, "save_file", full)
    with pytest.raises(OSError, match="one could not be written: No space left"):
        write_shard(tmp_path / "one", {"a": torch.ones(1, 2)}, input_name="encoder_hidden_states")
    assert not list(tmp_path.iterdir())


def test_two_runs_that_race_share_what_the_first_has_written(encode, encoder, corpus, small_shards, tmp_path):
    path = encode(corpus).path
    shutil.move(path, tmp_path / "other")

    def other_run_finishes(*_):
        shutil.copytree(tmp_path / "other", path, dirs_exist_ok=True)

    first_convolution(encoder).register_forward_pre_hook(other_run_finishes)
    calls = count_calls(encoder)
    cache = encode(corpus)
    assert len(cache) == 3 and len(calls) == 1
    assert sorted(os.listdir(path)) == sorted(os.listdir(tmp_path / "other"))


def test_cache_and_dataset_survive_pickling_by_path_alone(encode, corpus):
    cache = encode(corpus)
    dataset = FrameDataset(cache, NAMES, [0, 1, 2])
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    assert torch.equal(again[1]["encoder_hidden_states"], dataset[1]["encoder_hidden_states"])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("output", ["last", "all", "convolutions"])
def test_dataset_items_go_through_the_collator_as_they_are(encode, corpus, output, dtype):
    cache = encode(corpus, output=output, dtype=dtype)
    dataset = FrameDataset(cache, NAMES[:0:-1], [3, 1], seconds=[0.5, 0.75])
    assert len(dataset) == 2
    assert dataset[1]["labels"] == 1
    batch = DataCollatorForShift()([dataset[0], dataset[1]])
    batch[cache.input_name] += 0  # a batch is a copy
    lengths = batch["attention_mask"].sum(1).tolist()
    for row, name in enumerate(NAMES[:0:-1]):
        frames = batch[cache.input_name][row][..., : lengths[row], :]
        assert frames.dtype == getattr(torch, dtype) and torch.equal(frames, cache.frames(name))


def test_an_utterance_that_is_not_cached_is_named(encode, corpus):
    cache = encode(corpus)
    with pytest.raises(KeyError, match=r"utterance 'nobody' is not in the frame cache .* of 3 utterances"):
        cache.frames("nobody")
    with pytest.raises(KeyError, match=r"2 utterances are not in the frame cache .*: 'nobody'"):
        FrameDataset(cache, [NAMES[0], "nobody", "none"], [0, 0, 0])
    with pytest.raises(ValueError, match="one label an utterance, got 1 and 3"):
        FrameDataset(cache, NAMES, [0])
    with pytest.raises(ValueError, match="one length an utterance, got 1 and 3"):
        FrameDataset(cache, NAMES, [0, 1, 2], seconds=[1.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_seconds": 0}, "max_seconds must be above 0, got 0"),
        ({"max_seconds": float("nan")}, "max_seconds must be above 0, got nan"),
        ({"dtype": "int8"}, r"dtype must be one of \('float32', 'float16', 'bfloat16'\), got 'int8'"),
        ({"encoder_dtype": "half"}, "encoder_dtype must be one of .*, got 'half'"),
        ({"output": 3}, r"'convolutions'\) or a layer from 0 to 2, got 3"),
        ({"output": "first"}, "got 'first'"),
    ],
)
def test_impossible_options_are_refused(encode, corpus, options, message):
    with pytest.raises(ValueError, match=message):
        encode(corpus, **options)


@pytest.mark.parametrize("names", [[], ["a", "b", "a"]])
def test_names_must_be_unique_and_there(encode, corpus, names):
    with pytest.raises(ValueError, match=f"unique, got {len(names)} with {len(set(names))} different"):
        encode({**corpus, "utterance": names})


class Unreadable(list):
    """A column whose last row cannot be decoded."""

    def __getitem__(self, row):
        if row == 2:
            raise RuntimeError("Format not recognised")
        return super().__getitem__(row)


def bad_rate(audio):
    audio[2]["sampling_rate"] = 8000
    return audio


def not_finite(audio):
    audio[2]["array"][7] = np.nan
    return audio


def infinite(audio):
    audio[2]["array"][7] = np.inf
    return audio


def empty(audio):
    audio[2]["array"] = audio[2]["array"][:0]
    return audio


def too_short(audio):
    audio[2]["array"] = audio[2]["array"][:5]
    return audio


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Unreadable, "Format not recognised"),
        (bad_rate, "and not 8000"),
        (not_finite, "it holds NaN or infinity"),
        (infinite, "it holds NaN or infinity"),
        (empty, "it is empty"),
        (too_short, "."),
        (lambda audio: [*audio[:2], None], "NoneType"),
    ],
)
def test_the_utterance_that_fails_is_named_and_what_was_cached_stays(encode, corpus, spoil, message, tmp_path):
    before = encode(corpus).path
    with pytest.raises(ValueError, match=rf"(?s)utterance 'Ses02F_impro01_F000': .*{message}"):
        encode({**corpus, "audio": spoil(make_audio())})
    assert FrameCache.open(before).frames(NAMES[2]).shape == (24, 16)


def test_frames_that_float16_cannot_hold_are_refused(encode, corpus, tmp_path):
    encoder = make_encoder()
    torch.nn.init.constant_(encoder.encoder.layer_norm.weight, 1e6)
    with pytest.raises(ValueError, match=f"utterance {NAMES[0]!r}: the encoder's frames are not finite in float16"):
        encode(corpus, encoder=encoder, dtype="float16")
    assert len(encode(corpus, encoder=encoder, dtype="bfloat16")) == 3


def test_recordings_are_told_by_content_and_read_once_if_given(encode, corpus):
    audio = [*make_audio(), make_audio()[0]]
    recordings = scan_recordings({"utterance": [*NAMES, "copy"], "audio": audio})
    assert [recording.num_samples for recording in recordings.values()] == [*LENGTHS, LENGTHS[0]]
    assert recordings["copy"] == recordings[NAMES[0]] and len(set(recordings.values())) == 3
    del recordings["copy"]
    path = encode(corpus).path
    assert encode({**corpus, "audio": None}, recordings=recordings).path == path
    with pytest.raises(ValueError, match="recordings must be those of the dataset"):
        encode({**corpus, "utterance": NAMES[::-1]}, recordings=recordings)


def test_all_that_is_wrong_with_recordings_is_told_at_once():
    audio = [None, *(spoil(make_audio())[2] for spoil in (not_finite, empty, not_finite))]
    told = r"got utterance 'a': .*; utterance 'b': it holds NaN or infinity; utterance 'c': it is empty; and 1 more"
    with pytest.raises(ValueError, match=told):
        scan_recordings({"utterance": list("abcd"), "audio": audio})


@pytest.mark.parametrize("utterances", [1, 32, 5531, 600_000, 10_000_000])
def test_a_large_corpus_has_no_more_files_than_a_process_may_map(utterances):
    size = shard_size(utterances)
    assert size >= 32 and -(-utterances // size) <= 16384 < 65530
