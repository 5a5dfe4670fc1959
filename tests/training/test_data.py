import json
import shutil

import numpy as np
import pytest
import torch
from conftest import tiny_encoder_config
from transformers import AutoModel, set_seed

from shift_ser import ShiftFeatureExtractor, ShiftForSequenceClassification
from shift_ser.training.augmentation import SLOWEST, Augmenter
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


def load_encoder(run):
    return ShiftForSequenceClassification.from_encoder_pretrained(run.model_args.encoder_of(1)).shift_ser.encoder


def test_the_corpus_is_encoded_once_for_each_encoder_and_its_draws_once_for_each_way(cross_validate, tmp_path):
    run = cross_validate(tmp_path / "out")
    corpus, encoder = run.corpus, load_encoder(run)
    names, augment = corpus.utterances[:3], Augmenter(("speed", "noise"), 0)
    corpus.encode(encoder, output="last", name="one")
    cache = corpus.cache
    corpus.encode(encoder, output="last", name="one")
    assert corpus.cache is cache
    corpus.encode(encoder, output=1, name="two")
    assert corpus.cache is not cache
    plain = corpus.examples(names).seconds

    def first_epochs(augment, count):
        corpus.encode_variants(encoder, augment, count=count, output=1)
        turns, found = corpus.examples(names, augment=augment), []
        for epoch in range(4):
            turns.set_epoch(epoch)
            found.append([turns[row]["encoder_hidden_states"] for row in range(3)])
        return turns.seconds, found

    seconds, drawn = first_epochs(augment, 3)
    assert seconds == pytest.approx([length / SLOWEST for length in plain])  # as long as any draw can be
    assert [all(map(torch.equal, drawn[0], later)) for later in drawn[1:]] == [False, False, True]
    _, of_two = first_epochs(augment, 2)
    assert all(map(torch.equal, of_two[0] + of_two[1] + of_two[2], drawn[0] + drawn[1] + drawn[0]))
    _, louder = first_epochs(Augmenter(("gain",), 0), 2)
    assert not all(map(torch.equal, louder[0], drawn[0]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shift_ser.training.data.encode_dataset", lambda *_, **__: pytest.fail("encoded again"))
        assert all(map(torch.equal, first_epochs(Augmenter(("gain",), 0), 2)[1][0], louder[0]))


def test_labels_of_another_order_leave_the_recordings_as_they_are(cross_validate, tmp_path):
    corpus = cross_validate(tmp_path / "out", "--scenario", "fine_tuning").corpus
    labels = corpus.targets.labels[::-1]
    other = corpus.with_labels(labels)
    assert other.cache is None and other.dataset.features["label"].names == labels
    for name in corpus.utterances:
        assert labels[other.targets.of(name)] == corpus.targets.labels[corpus.targets.of(name)]
    assert [labels[number] for number in other.dataset["label"]] == [
        corpus.targets.labels[number] for number in corpus.dataset["label"]
    ]


def test_a_batch_must_have_room_for_the_longest_utterance_as_it_is_cut(cross_validate, tmp_path):
    corpus = cross_validate(tmp_path / "out", "--max_seconds", 100).corpus
    name, seconds = max(
        ((name, recording.num_samples / 16000) for name, recording in corpus.recordings.items()),
        key=lambda pair: pair[1],
    )
    for most in (None, seconds, 100):
        corpus.check_batch_seconds(most)
    with pytest.raises(ValueError, match=rf"longest utterance, {seconds:g} s \('{name}'\), got {seconds - 0.01:g}"):
        corpus.check_batch_seconds(seconds - 0.01)
    cut = cross_validate(tmp_path / "out", "--max_seconds", 1.5).corpus
    cut.check_batch_seconds(1.5)
    with pytest.raises(ValueError, match=r"1\.5 s"):
        cut.check_batch_seconds(1.49)


@pytest.mark.parametrize("each_fold", [False, True])
def test_what_has_changed_under_a_run_is_counted_and_named(each_fold, cross_validate, encoder, small_corpus, tmp_path):
    corpus = shutil.copytree(small_corpus, tmp_path / "corpus")
    for fold in range(1, 6):
        shutil.copytree(encoder, tmp_path / "encoders" / f"fold{fold}")
    word = tmp_path / "encoders" / ("fold{fold}" if each_fold else "fold1")
    run = cross_validate(tmp_path / "out", "--encoder", word, corpus=corpus)
    run.corpus.check_unchanged()
    (tmp_path / "encoders" / "fold2" / "new.txt").write_text("")  # beside the encoder of a run that has one
    if each_fold:
        with pytest.raises(OSError, match=r"'.*fold2/new\.txt' has changed$"):
            run.corpus.check_unchanged()
        (tmp_path / "encoders" / "fold2" / "new.txt").unlink()
    run.corpus.check_unchanged()
    wavs = [next(corpus.rglob(f"wav/*/{name}.wav")) for name in run.corpus.utterances[:3]]
    wavs[0].unlink()
    with pytest.raises(OSError, match=rf"{wavs[0].name}' has changed$"):
        run.corpus.check_unchanged()
    wavs[1].write_bytes(wavs[1].read_bytes()[:-2])
    wavs[2].touch()
    with pytest.raises(OSError, match=r"has changed, and 2 more$"):
        run.corpus.check_unchanged()


def test_preprocessing_is_the_encoders_unless_it_is_said_and_for_16_khz(cross_validate, encoder, tmp_path):
    copy = shutil.copytree(encoder, tmp_path / "encoder")
    flags = ["--encoder", copy, "--max_seconds", 1.25, "--scenario", "fine_tuning"]

    def extractor(*words):
        return cross_validate(tmp_path / "out", *flags, *words).corpus.feature_extractor

    assert (extractor().fixed_length, extractor().do_normalize) == (None, True)
    assert extractor("--mask_padding", "false", "--variant", "linear").fixed_length == 20000
    assert extractor("--mask_padding", "true").fixed_length is None
    assert extractor("--do_normalize", "false").do_normalize is False
    path = copy / "preprocessor_config.json"
    told = json.loads(path.read_text())
    path.unlink()
    said = extractor("--do_normalize", "false", "--mask_padding", "false", "--variant", "linear")
    assert (said.do_normalize, said.fixed_length) == (False, 20000)
    with pytest.raises(ValueError, match=r"do_normalize must be given, .* got None"):
        extractor()
    for rate in (8000, 48000):
        path.write_text(json.dumps({**told, "sampling_rate": rate}))
        with pytest.raises(ValueError, match=f"encoder must take speech at 16000 Hz, got {rate}"):
            extractor()


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
