import json
import logging
import os
import pickle
import shutil

import datasets
import numpy as np
import pytest
import torch
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

from shift_ser.data_collator import DataCollatorForShift
from shift_ser.feature_extraction_shift_ser import ShiftFeatureExtractor
from shift_ser.frame_cache import FrameCache, FrameDataset, encode_dataset

RATE = 16000
LENGTHS = [4000, 12000, 8000]
NAMES = ["Ses01F_impro01_F000", "Ses01F_impro01_M000", "Ses02F_impro01_F000"]


def make_encoder(norm: str = "layer") -> HubertModel:
    torch.manual_seed(0)
    config = HubertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=(8, 8, 8),
        conv_stride=(5, 8, 8), conv_kernel=(10, 8, 8), num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
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
    module.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    return shapes


def normalise(samples: np.ndarray) -> torch.Tensor:
    return torch.from_numpy((samples - samples.mean()) / np.sqrt(samples.var() + 1e-7))[None]


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize(
    "options",
    [{}, {"max_seconds": 0.5}, {"fixed_length": 8500}, {"all_layers": True}],
    ids=str,
)
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
        expected = torch.stack(output.hidden_states)[:, 0] if options.get("all_layers") else output.last_hidden_state[0]
        frames = cache.frames(name)
        assert frames.dtype == np.float32 and not frames.flags.writeable
        assert frames.shape == expected.shape
        assert np.abs(frames - expected.numpy()).max() < 1e-5


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
    assert np.abs(cache.frames(NAMES[0]) - expected.numpy()).max() < 1e-5


def test_a_second_run_reuses_the_first_and_both_say_so(encode, encoder, corpus, caplog, tmp_path):
    calls = count_calls(encoder)
    with caplog.at_level(logging.INFO, logger="shift_ser.frame_cache"):
        first = encode(corpus)
        assert [shape[1] for shape in calls] == LENGTHS
        second = encode(corpus)
    assert len(calls) == 3
    assert first.path == second.path and os.listdir(tmp_path) == [first.path.name]
    assert caplog.messages == [
        f"Encoding 3 utterances into {first.path}, about 0.0 MB",
        f"Reusing the frames of 3 utterances in {first.path}",
    ]


@pytest.mark.parametrize(
    "options",
    [{}, {"max_seconds": 0.5}, {"feature_extractor": ShiftFeatureExtractor(fixed_length=8500)}, {"all_layers": True}],
    ids=str,
)
def test_the_announced_size_is_about_the_real_one(encode, corpus, options, monkeypatch):
    told = []
    monkeypatch.setattr("shift_ser.frame_cache.logger.info", lambda text, *values: told.append(values[-1]))
    cache = encode(corpus, **options)
    assert told[0] * 1e6 == pytest.approx((cache.path / "frames.bin").stat().st_size, rel=0.1)


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
    paths += [encode(corpus, **options).path for options in ({"all_layers": True}, {"max_seconds": 0.5})]
    paths.append(encode(corpus, feature_extractor=ShiftFeatureExtractor(fixed_length=8500)).path)
    paths.append(encode({**corpus, "utterance": NAMES[::-1]}).path)
    audio = make_audio()
    audio[2]["array"][5] += 1e-6
    paths.append(encode({**corpus, "audio": audio}).path)
    assert len(set(paths)) == 9


def test_where_the_encoder_was_loaded_from_is_not_in_the_key(encode, encoder, corpus, tmp_path):
    encoder.save_pretrained(tmp_path / "elsewhere")
    loaded = HubertModel.from_pretrained(tmp_path / "elsewhere")
    calls = count_calls(loaded)
    assert encode(corpus).path == encode(corpus, encoder=loaded).path
    assert not calls


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: os.truncate(path / "frames.bin", 1000),
        lambda path: os.truncate(path / "frames.bin", 0),
        lambda path: (path / "frames.bin").unlink(),
        lambda path: (path / "index.json").unlink(),
        lambda path: (path / "index.json").write_text('{"spans": {"Ses'),
        lambda path: (path / "index.json").write_text("{}"),
        lambda path: (path / "index.json").write_text("[]"),
    ],
)
def test_a_damaged_cache_is_noticed_told_and_built_again(encode, encoder, corpus, damage, caplog):
    path = encode(corpus).path
    expected = encode(corpus).frames(NAMES[1]).copy()
    damage(path)
    with pytest.raises(ValueError, match="is not a whole frame cache"):
        FrameCache.open(path)
    calls = count_calls(encoder)
    cache = encode(corpus)
    assert len(calls) == 3
    assert np.array_equal(cache.frames(NAMES[1]), expected)
    assert "Encoding again" in caplog.text and "is not a whole frame cache" in caplog.text


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_run_leaves_nothing_that_is_taken_for_whole(encode, encoder, corpus, interruption, tmp_path):
    calls = []

    def stop(*_):
        calls.append(1)
        if len(calls) == 3:
            raise interruption

    hook = encoder.register_forward_pre_hook(stop)
    with pytest.raises(interruption):
        encode(corpus)
    assert not list(tmp_path.iterdir())
    hook.remove()
    assert len(encode(corpus)) == 3


def test_two_runs_that_race_share_the_first_cache(encode, encoder, corpus, tmp_path):
    path = encode(corpus).path
    shutil.move(path, tmp_path / "other")

    def other_run_finishes(*_):
        if not path.exists():
            shutil.copytree(tmp_path / "other", path)

    encoder.register_forward_pre_hook(other_run_finishes)
    assert len(encode(corpus)) == 3
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, "other"])


def test_cache_and_dataset_survive_pickling_by_path_alone(encode, corpus):
    cache = encode(corpus)
    dataset = FrameDataset(cache, NAMES, [0, 1, 2])
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    assert torch.equal(again[1]["encoder_hidden_states"], dataset[1]["encoder_hidden_states"])


@pytest.mark.parametrize("all_layers", [False, True])
def test_dataset_items_go_through_the_collator(encode, corpus, all_layers):
    cache = encode(corpus, all_layers=all_layers)
    dataset = FrameDataset(cache, NAMES[:0:-1], [3, 1])
    assert len(dataset) == 2
    assert dataset[1]["labels"] == 1
    dataset[0]["encoder_hidden_states"].zero_()
    batch = DataCollatorForShift()([dataset[0], dataset[1]])
    lengths = batch["attention_mask"].sum(1).tolist()
    for row, name in enumerate(NAMES[:0:-1]):
        frames = batch["encoder_hidden_states"][row][..., : lengths[row], :]
        assert np.array_equal(frames.numpy(), cache.frames(name))


def test_an_utterance_that_is_not_cached_is_named(encode, corpus):
    cache = encode(corpus)
    with pytest.raises(KeyError, match=r"utterance 'nobody' is not in the frame cache .* of 3 utterances"):
        cache.frames("nobody")
    with pytest.raises(KeyError, match=r"2 utterances are not in the frame cache .*: 'nobody'"):
        FrameDataset(cache, [NAMES[0], "nobody", "none"], [0, 0, 0])
    with pytest.raises(ValueError, match="one label an utterance, got 1 and 3"):
        FrameDataset(cache, NAMES, [0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_seconds": 0}, "max_seconds must be above 0, got 0"),
        ({"max_seconds": float("nan")}, "max_seconds must be above 0, got nan"),
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


def too_short(audio):
    audio[2]["array"] = audio[2]["array"][:5]
    return audio


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Unreadable, "Format not recognised"),
        (bad_rate, "and not 8000"),
        (not_finite, "the encoder's frames are not finite"),
        (too_short, "."),
        (lambda audio: [*audio[:2], None], "NoneType"),
    ],
)
def test_the_utterance_that_fails_is_named_and_what_was_cached_stays(encode, corpus, spoil, message, tmp_path):
    before = encode(corpus).path
    with pytest.raises(ValueError, match=rf"(?s)utterance 'Ses02F_impro01_F000': .*{message}"):
        encode({**corpus, "audio": spoil(make_audio())})
    assert os.listdir(tmp_path) == [before.name]
    assert json.loads((before / "index.json").read_text())["channels"] == 16
