import shutil

import numpy as np
import pytest
import torch
from conftest import tiny_encoder_config
from transformers import AutoModel, set_seed

from shift_ser import ShiftFeatureExtractor, ShiftForSequenceClassification
from shift_ser.training.batching import DataCollatorForShift


@pytest.fixture(scope="module")
def wide_encoder(tmp_path_factory):
    """A tiny encoder with GroupNorm, all of whose convolutions oneDNN gets right in bfloat16."""
    folder = tmp_path_factory.mktemp("wide")
    set_seed(0)
    config = tiny_encoder_config(conv_dim=(32, 32, 32), feat_extract_norm="group", do_stable_layer_norm=False)
    AutoModel.from_config(config).save_pretrained(folder)
    ShiftFeatureExtractor().save_pretrained(folder)
    return folder


def epochs(results) -> list[float]:
    """Losses on the training and the validation set, epoch by epoch."""
    history = results["folds"][0]["history"]
    return [entry[name] for entry in history for name in ("loss", "eval_validation_loss") if name in entry]


def test_contents_are_told_apart_whatever_their_names(cross_validate, small_corpus, tmp_path):
    corpus = shutil.copytree(small_corpus, tmp_path / "corpus")
    run = cross_validate(tmp_path / "out", corpus=corpus)
    wavs = [next(corpus.rglob(f"wav/*/{name}.wav")) for name in list(run.corpus.utterances)[:2]]
    shutil.copy(wavs[0], wavs[1])
    hashes = run.corpus.content_hashes
    assert list(hashes) == run.corpus.dataset["utterance"]
    assert hashes[wavs[0].stem] == hashes[wavs[1].stem]
    assert len(set(hashes.values())) == len(hashes) - 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shift_ser.training.data.scan_recordings", lambda _: pytest.fail("read again"))
        assert run.corpus.content_hashes == hashes


@pytest.mark.parametrize("scenario", ["feature_extraction", "fine_tuning"])
def test_examples_tell_their_lengths_and_are_cut(scenario, cross_validate, tmp_path):
    run = cross_validate(tmp_path / "out", "--scenario", scenario, "--max_seconds", 1.75)
    names = list(run.corpus.utterances)
    if scenario == "feature_extraction":
        encoder = ShiftForSequenceClassification.from_encoder_pretrained(run.model_args.encoder).shift_ser.encoder
        run.corpus.encode(encoder, output="last")
    examples = run.corpus.examples(names)
    assert max(examples.seconds) == 1.75 and min(examples.seconds) < 1.75
    batch = DataCollatorForShift()([examples[row] for row in range(len(names))])
    samples = [round(seconds * 16000) for seconds in examples.seconds]
    frames = [(count - 330) // 320 + 1 for count in samples]
    assert batch["attention_mask"].sum(dim=1).tolist() == (samples if scenario == "fine_tuning" else frames)


def test_fine_tuning_from_cached_convolutions_ends_like_fine_tuning_without(cross_validate, wide_encoder, tmp_path):
    flags = ["--encoder", wide_encoder, "--scenario", "fine_tuning", "--folds", 1, "--cache_dir", tmp_path / "frames"]
    flags += ["--num_train_epochs", 1]
    without = cross_validate(tmp_path / "without", *flags).run()
    run = cross_validate(tmp_path / "with", *flags, "--cache_convolutions", "true")
    assert epochs(run.run()) == pytest.approx(epochs(without), abs=1e-4)
    assert run.corpus.cache.input_name == "extract_features"
    model = ShiftForSequenceClassification.from_pretrained(tmp_path / "with" / "fold1")
    examples = run.corpus.examples(run.plans[0].test)
    run.corpus.cache = None
    waves = run.corpus.examples(run.plans[0].test)
    with torch.no_grad():
        logits = [
            model(**DataCollatorForShift()([data[row] for row in range(len(data))])).logits
            for data in (examples, waves)
        ]
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("scenario", ["feature_extraction", "fine_tuning"])
def test_a_run_in_bfloat16_is_near_the_same_in_float32(scenario, cross_validate, wide_encoder, tmp_path):
    flags = ["--encoder", wide_encoder, "--scenario", scenario, "--folds", 1]
    flags += ["--cache_convolutions", "true"] if scenario == "fine_tuning" else []
    flags += ["--learning_rate", "1e-4", "--num_train_epochs", 1, "--cache_dir", tmp_path / "frames"]
    exact = cross_validate(tmp_path / "float32", *flags).run()
    half = ["--bf16", "true", "--cache_dtype", "bfloat16", "--encoder_dtype", "bfloat16"]
    coarse = cross_validate(tmp_path / "bfloat16", *flags, *half).run()
    assert epochs(coarse) == pytest.approx(epochs(exact), abs=0.02)
    assert epochs(coarse) != epochs(exact)
    with pytest.raises(ValueError, match=r"cache_dtype is 'float32' there and 'bfloat16' here"):
        cross_validate(tmp_path / "float32", *flags, *half).run()


@pytest.mark.parametrize(
    ("way", "layer"),
    [
        (["--train_sampling_strategy", "group_by_length"], 1),
        (["--max_batch_seconds", 12], "feature_projection"),
    ],
    ids=str,
)
def test_a_run_with_batches_of_like_length_on_a_layer_by_number_or_name(way, layer, cross_validate, tmp_path):
    flags = ["--folds", 1, "--encoder_layer", layer, *way]
    result = cross_validate(tmp_path / "out", *flags).run()["folds"][0]
    assert np.isfinite([entry["loss"] for entry in result["history"] if "loss" in entry]).all()
    model = ShiftForSequenceClassification.from_pretrained(tmp_path / "out" / "fold1")
    assert model.config.encoder_layer == layer
