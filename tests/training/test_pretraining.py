"""Task-adaptive pretraining: who is heard, what is learned, what is left, what is refused."""

import json
import shutil

import pytest
import torch
from conftest import command_line, tiny_encoder_config
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, AutoModel, TrainerCallback, Wav2Vec2FeatureExtractor

from shift_ser import ShiftForSequenceClassification
from shift_ser.corpora import load_corpus
from shift_ser.evaluation.run_folder import ADAPTATION, CHECKPOINTS
from shift_ser.training.arguments import parse_arguments
from shift_ser.training.data import SpeechCorpus
from shift_ser.training.pretraining import FoldAdaptation, adapt
from shift_ser.training.pretraining_objectives import AdaptArguments

SHORT = ["--num_train_epochs", "3", "--learning_rate", "1e-3", "--per_device_train_batch_size", "4", "--num_units", "5"]


@pytest.fixture(scope="module")
def words(encoder, small_corpus):
    return ["--encoder", str(encoder), "--corpus", str(small_corpus), "--disable_tqdm", "true", *SHORT]


def arguments(words, output_dir, *more):
    return parse_arguments([*words, "--output_dir", str(output_dir), *more], first=AdaptArguments)


@pytest.fixture(scope="module")
def adapted(words, tmp_path_factory):
    """Encoders of folds 1 and 2."""
    folder = tmp_path_factory.mktemp("adapted") / "run"
    ran = command_line("adapt", *words, "--folds", "1", "2", "--output_dir", folder)
    assert ran.exit_code == 0, ran.output
    return folder


def test_what_is_left_is_an_ordinary_encoder_that_has_learned(adapted, encoder):
    record = json.loads((adapted / "fold1" / ADAPTATION).read_text())
    assert record["validation_loss"]["after"] < record["validation_loss"]["before"]
    before, after = (load_file(folder / "model.safetensors") for folder in (encoder, adapted / "fold1"))
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and not any("feature_extractor" in name for name in moved)
    assert type(AutoFeatureExtractor.from_pretrained(adapted / "fold1")) is Wav2Vec2FeatureExtractor
    assert not (adapted / "fold1" / CHECKPOINTS).exists()
    assert "fold 1" in (adapted / "fold1" / "README.md").read_text()


def test_only_the_training_set_of_the_fold_is_heard(adapted, words, tmp_path):
    _, data_args, _ = arguments(words, tmp_path)
    corpus = SpeechCorpus(AdaptArguments(encoder=words[1]), data_args)
    hashes = corpus.content_hashes
    speakers = dict(zip(corpus.dataset["utterance"], corpus.dataset["speaker"], strict=True))
    for fold in (1, 2):
        heard = json.loads((adapted / f"fold{fold}" / ADAPTATION).read_text())["heard"]
        told = {speakers[name] for name in hashes if hashes[name] in heard}
        assert 0 < len(told) < len(set(speakers.values()))
    first, second = (load_file(adapted / f"fold{fold}" / "model.safetensors") for fold in (1, 2))
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_other_speakers_and_labels_change_nothing(words, adapted, tmp_path):
    """The encoder of fold 1 is the same where test and validation speech is noise and every label is another one."""
    adapt_args, data_args, run_args = arguments(words, tmp_path / "other", "--folds", "1")
    dataset = load_corpus(data_args.corpus)
    heard = set(json.loads((adapted / "fold1" / ADAPTATION).read_text())["heard"])
    hashes = SpeechCorpus(adapt_args, data_args, dataset=dataset).content_hashes
    labels = dataset.features["label"].names

    def change(row):
        row["label"] = (row["label"] + 1) % len(labels)
        return row

    dataset = dataset.map(change, features=dataset.features)
    kept = [index for index, name in enumerate(dataset["utterance"]) if hashes[name] in heard]
    assert 0 < len(kept) < len(dataset)
    (folder,) = adapt(adapt_args, data_args, run_args, dataset=dataset)
    mine, theirs = (load_file(each / "model.safetensors") for each in (folder, adapted / "fold1"))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_stopped_and_resumed_is_uninterrupted(words, adapted, tmp_path, monkeypatch):
    class Stop(TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs):
            if state.epoch >= 2:
                raise KeyboardInterrupt

    make = FoldAdaptation._trainer

    def stopping(self, *parts):
        trainer = make(self, *parts)
        trainer.add_callback(Stop())
        return trainer

    given = arguments(words, tmp_path / "run", "--folds", "1")
    with monkeypatch.context() as context:
        context.setattr(FoldAdaptation, "_trainer", stopping)
        with pytest.raises(KeyboardInterrupt):
            adapt(*given)
    assert not (tmp_path / "run" / "fold1" / ADAPTATION).exists()
    (folder,) = adapt(*given)
    mine, theirs = (load_file(each / "model.safetensors") for each in (folder, adapted / "fold1"))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert json.loads((folder / ADAPTATION).read_text()) == json.loads((adapted / "fold1" / ADAPTATION).read_text())


def test_an_encoder_for_each_fold_and_one_that_has_heard_the_test_set(adapted, small_corpus, tmp_path):
    same = [
        "--corpus",
        small_corpus,
        "--cache_dir",
        tmp_path / "cache",
        "--num_train_epochs",
        "1",
        "--variant",
        "linear",
    ]
    for fold in (3, 4, 5):
        shutil.copytree(adapted / "fold1", tmp_path / "encoders" / f"fold{fold}")  # for their fingerprints
    for fold in (1, 2):
        shutil.copytree(adapted / f"fold{fold}", tmp_path / "encoders" / f"fold{fold}")
    each = str(tmp_path / "encoders" / "fold{fold}")
    ran = command_line("train", "--encoder", each, *same, "--folds", "1", "2", "--output_dir", tmp_path / "run")
    assert ran.exit_code == 0, ran.output
    for fold in (1, 2):
        model = ShiftForSequenceClassification.from_pretrained(tmp_path / "run" / f"fold{fold}")
        saved = model.shift_ser.encoder.state_dict()
        used = load_file(adapted / f"fold{fold}" / "model.safetensors")
        assert all(torch.equal(saved[name], used[name]) for name in used)
    told = command_line("train", "--encoder", each, *same, "--final", "true", "--output_dir", tmp_path / "none")
    assert told.exit_code == 1 and "final must be false with an encoder for each fold" in told.output
    told = command_line(
        "train", "--encoder", adapted / "fold2", *same, "--folds", "1", "--output_dir", tmp_path / "leak"
    )
    assert told.exit_code == 1 and "must not have heard the" in told.output and "{fold}" in told.output


def test_contrastive_learning_of_wav2vec2_with_new_codes(words, tmp_path):
    config = tiny_encoder_config("wav2vec2", mask_time_prob=0.1, codevector_dim=8, proj_codevector_dim=8)
    AutoModel.from_config(config).save_pretrained(tmp_path / "encoder")
    stock = Wav2Vec2FeatureExtractor()
    stock.save_pretrained(tmp_path / "encoder")
    others = [word for word in words if word not in ("--num_units", "5")][2:]
    given = arguments(
        ["--encoder", str(tmp_path / "encoder"), *others],
        tmp_path / "run",
        "--folds",
        "1",
        "--objective",
        "contrastive",
    )
    (folder,) = adapt(*given)
    before, after = (load_file(each / "model.safetensors") for each in (tmp_path / "encoder", folder))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--objective", "words"], "objective must be one of"),
        (["--objective", "contrastive"], "num_units must be left out with objective 'contrastive'"),
        (["--mask_probability", "1.5"], "mask_probability must be between 0 and 1, got 1.5"),
        (["--refit", "true"], "refit must be left out: it means nothing for pretraining"),
        (["--cache_dtype", "bfloat16"], "cache_dtype must be left out"),
        (["--units_layer", "9"], "units_layer must be between 0 and"),
        (["--folds", "9"], "folds must be among"),
    ],
)
def test_what_is_refused(words, tmp_path, more, told):
    with pytest.raises(ValueError, match=told):
        adapt(*arguments(words, tmp_path / "run", *(more if "--folds" in more else ["--folds", "1", *more])))


def test_a_folder_holds_one_adaptation(words, adapted):
    with pytest.raises(ValueError, match="mask_length is 10 there and 3 here"):
        adapt(*arguments(words, adapted, "--folds", "1", "--mask_length", "3"))
