"""One saved model on a corpus: its own, another one, with other labels."""

import shutil

import numpy as np
import pytest
from conftest import command_line, tiny_model

from shift_ser import ShiftFeatureExtractor
from shift_ser.corpora import load_corpus
from shift_ser.evaluation.predictions import Predictions
from shift_ser.training.arguments import DataArguments
from shift_ser.training.evaluate_model import _PREPARATION, _READING, evaluate_model, open_corpus, plan_of, run_words


@pytest.fixture(scope="module")
def fold(finished, tmp_path_factory):
    """The first fold of a copy of a run."""
    return shutil.copytree(finished[0].output_dir, tmp_path_factory.mktemp("run") / "copy") / "fold1"


@pytest.fixture(scope="module")
def corpus(fold, finished):
    return open_corpus(fold, finished[0].data_args)


def test_a_fold_says_of_its_test_set_what_it_said_in_the_run(fold, corpus):
    again = evaluate_model(fold, corpus, seen="leave_out")
    there = Predictions.read(fold / "predictions.csv")
    assert again.table.drop(columns="temperature").equals(there.table)
    assert tuple(again.table["utterance"]) == plan_of(fold).test and corpus.cache is None


def test_what_a_model_was_trained_on_is_told(fold, corpus, caplog):
    with pytest.raises(ValueError, match=r"trained on or selected by 32 of the 40 utterances .* the 8 others"):
        evaluate_model(fold, corpus)
    with pytest.raises(ValueError, match="seen must be one of"):
        evaluate_model(fold, corpus, seen="yes")
    assert len(evaluate_model(fold, corpus, seen="keep")) == 40
    assert "32 of 40 utterances are scored that the model was trained on" in caplog.text
    final = shutil.copytree(fold, fold.with_name("final"), ignore=shutil.ignore_patterns("result.json"))
    with pytest.raises(ValueError, match="trained on or selected by 40 of the 40 utterances"):
        evaluate_model(final, corpus)
    only = corpus.dataset.filter(lambda row: row["utterance"] in plan_of(fold).train)
    with pytest.raises(ValueError, match="must be keep, since the model was trained on all speakers"):
        evaluate_model(fold, open_corpus(fold, corpus.data_args, dataset=only), seen="leave_out")


def test_labels_of_another_corpus_are_mapped_to_the_models(corpus, tmp_path, caplog):
    model = tmp_path / "model"
    names = {0: "sad", 1: "neutral", 2: "angry", 3: "happy"}  # the corpus has another order
    saved = tiny_model("shiftcnn", id2label=names, label2id={name: index for index, name in names.items()})
    saved.save_pretrained(model)
    ShiftFeatureExtractor().save_pretrained(model)
    with caplog.at_level("INFO"):
        said = evaluate_model(model, corpus)
    assert said.labels == [*names.values()] and not {"fold", "seed", "temperature"} & set(said.table)
    assert dict(zip(said.table["utterance"], said.table["label"], strict=True)) == {
        name: corpus.targets.labels[index] for name, index in corpus.targets.class_of.items()
    }
    assert "whether it was trained on these utterances is not known" in caplog.text
    words = {"labels": {"furious": ["angry"]}}
    other = load_corpus(corpus.data_args.corpus, **words)
    with pytest.raises(ValueError, match=r"the model's, sad, neutral, angry, happy; .* furious.*--labels"):
        evaluate_model(model, open_corpus(model, corpus.data_args, dataset=other))


def test_the_command_maps_labels_and_writes_predictions(fold, corpus, small_corpus, tmp_path):
    cache = ["--cache_dir", corpus.data_args.cache_dir]
    told = command_line("evaluate", fold, "--corpus", small_corpus, *cache)
    assert told.exit_code == 1 and told.stderr.splitlines()[-1].startswith("error: seen must be said"), told.stderr
    told = command_line("evaluate", fold, "--corpus", small_corpus, "--seen", "leave_out", *cache)
    assert told.exit_code == 0 and "8 utterances, 4 labels" in told.stdout and "| UA " in told.stdout, told.output
    (written,) = (fold / "evaluation").glob("*.csv")
    np.testing.assert_array_equal(
        Predictions.read(written).probabilities, Predictions.read(fold / "predictions.csv").probabilities
    )
    shutil.copytree(fold, tmp_path / "moved")  # no run around it
    flags = ["--labels", "angry=angry,sad", "--exclude", "neutral", *cache, "--output", tmp_path / "said.csv"]
    told = command_line("evaluate", tmp_path / "moved", "--corpus", small_corpus, *flags)
    assert told.exit_code == 0, told.output
    said = Predictions.read(tmp_path / "said.csv")
    assert len(said.labels) == 4 and set(said.table["label"]) == {"angry", "happy"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "a model needs --corpus"),
        ("--robustness --corpus c", "are for a run"),
        ("--corpus c --lables a=b", "there is no flag '--lables'; did you mean '--labels'?"),
        ("--corpus c demo", "every word must belong to a flag, got 'demo'"),
    ],
)
def test_flags_that_do_not_fit_a_model(fold, words, message):
    told = command_line("evaluate", fold, *words.split())
    assert told.exit_code == 2 and message in told.stderr, told.stderr


def test_a_file_that_is_not_there(fold):
    told = command_line("evaluate", fold / "predictoins.csv")
    assert told.exit_code == 2
    assert told.stderr.endswith(f"there is no file '{fold}/predictoins.csv'; did you mean '{fold}/predictions.csv'?\n")
    assert command_line("compare", "nothing.csv", fold).stderr.endswith("there is no file 'nothing.csv'\n")


def test_a_run_says_how_its_model_reads(fold, small_corpus, tmp_path):
    assert {*_PREPARATION, *_READING} <= {*DataArguments.__dataclass_fields__}
    assert run_words(tmp_path, str(small_corpus)) == []
    assert run_words(fold, str(small_corpus))[:2] == ["--max_seconds", "7.5"]
