import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModel, AutoModelForAudioClassification, TrainerCallback, pipeline

from shift_ser import ShiftFeatureExtractor
from shift_ser.arguments import parse_arguments
from shift_ser.audio import read_audio
from shift_ser.report import read_json, read_predictions
from shift_ser.training import CrossValidation

ROOT = Path(__file__).parents[1]
RECIPES = sorted(path for path in (ROOT / "examples" / "recipes").glob("*.yaml") if path.stem != "demo")


def test_a_run_leaves_results_predictions_figure_and_models(finished, small_corpus):
    run, results = finished
    assert results == read_json(run.output_dir / "results.json")
    assert results["corpus"].startswith("Synthetic corpus")
    assert (run.output_dir / "results.md").read_text() == f"{results['corpus']}\n\n{run.table(results)}\n"
    assert (run.output_dir / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert [result["test_session"] for result in results["folds"]] == [1, 2, 3, 4, 5]
    for result in results["folds"]:
        folder = run.output_dir / f"fold{result['fold']}"
        rows = read_predictions(folder / "predictions.csv")
        assert len(rows) == result["num_test"] == 8
        assert {row["utterance"][:5] for row in rows} == {f"Ses0{result['test_session']}"}
        right = np.mean([row["label"] == row["prediction"] for row in rows])
        assert result["test"]["wa"] == pytest.approx(right)
        assert result["selected_epoch"] in (1, 2) and result["last_epoch"] == 2 and result["oracle"] is None
        assert not (folder / "checkpoints").exists()
    assert results["summary"]["test"]["wa"]["mean"] == pytest.approx(
        np.mean([result["test"]["wa"] for result in results["folds"]])
    )


def test_the_saved_model_gives_the_predictions_on_file_through_the_pipeline(finished, small_corpus):
    run, _ = finished
    folder = run.output_dir / "fold2"
    classify = pipeline("audio-classification", model=str(folder), top_k=None)
    for row in read_predictions(folder / "predictions.csv")[:3]:
        speech = read_audio(next(small_corpus.rglob(f"wav/*/{row['utterance']}.wav")))[: int(7.5 * 16000)]
        scores = {entry["label"]: entry["score"] for entry in classify(speech)}
        assert scores == pytest.approx(row["probabilities"], abs=1e-5)
        assert max(scores, key=scores.get) == row["prediction"]


def test_the_selected_epoch_is_the_best_on_the_selection_session(finished):
    _, results = finished
    for result in results["folds"]:
        scores = [entry["eval_ua"] for entry in result["history"] if "eval_ua" in entry]
        assert len(scores) == 2
        assert result["selected_epoch"] == 1 + int(np.argmax(scores))
        assert result["selection"]["ua"] == max(scores)


def test_finished_folds_are_kept_and_not_run_again(finished, cross_validate, monkeypatch):
    run, results = finished
    monkeypatch.setattr(CrossValidation, "run_fold", lambda *_: pytest.fail("a finished fold was run again"))
    assert cross_validate(run.output_dir).run()["folds"] == results["folds"]


def test_folds_run_one_by_one_end_in_the_same_results(finished, cross_validate, tmp_path):
    for fold in (3, 1):
        partial = cross_validate(tmp_path / "out", "--folds", fold)
        table = partial.table(partial.run())
    assert "mean of 2 of 5 folds" in table
    assert "mean of" not in finished[0].table(finished[1])
    kept = read_json(tmp_path / "out" / "results.json")["folds"]
    assert kept == [result for result in finished[1]["folds"] if result["fold"] in (1, 3)]


class StopAfter(TrainerCallback):
    def __init__(self, epochs):
        self.epochs = epochs

    def on_epoch_begin(self, args, state, control, **kwargs):
        if state.epoch >= self.epochs:
            raise KeyboardInterrupt


def test_a_fold_that_was_stopped_goes_on_and_ends_like_one_that_was_not(cross_validate, tmp_path, monkeypatch):
    whole = cross_validate(tmp_path / "whole", "--folds", 1, "--num_train_epochs", 4).run()
    stopped = cross_validate(tmp_path / "stopped", "--folds", 1, "--num_train_epochs", 4)
    make_trainer = CrossValidation._trainer

    def impatient(self, *arguments, **options):
        trainer = make_trainer(self, *arguments, **options)
        trainer.add_callback(StopAfter(2))
        return trainer

    with monkeypatch.context() as patch:
        patch.setattr(CrossValidation, "_trainer", impatient)
        with pytest.raises(KeyboardInterrupt):
            stopped.run()
    assert any((tmp_path / "stopped" / "fold1" / "checkpoints").iterdir())
    again = cross_validate(tmp_path / "stopped", "--folds", 1, "--num_train_epochs", 4).run()
    assert again["folds"] == whole["folds"]
    files = [(tmp_path / name / "fold1" / "predictions.csv").read_text() for name in ("whole", "stopped")]
    assert files[0] == files[1]


def test_labels_of_the_test_session_reach_nothing_but_its_score(finished, cross_validate, small_corpus, tmp_path):
    corpus = shutil.copytree(small_corpus, tmp_path / "corpus")
    for path in (corpus / "Session1" / "dialog" / "EmoEvaluation").glob("Ses*.txt"):
        text = path.read_text()
        path.write_text(text.replace("\tang\t", "\tXXX\t").replace("\tsad\t", "\tang\t").replace("\tXXX\t", "\tsad\t"))
    swapped = cross_validate(tmp_path / "out", "--folds", 1, corpus=corpus).run()["folds"][0]
    result = finished[1]["folds"][0]
    assert swapped["history"] == result["history"]
    rows = [read_predictions(run / "fold1" / "predictions.csv") for run in (finished[0].output_dir, tmp_path / "out")]
    assert [row["probabilities"] for row in rows[0]] == [row["probabilities"] for row in rows[1]]
    assert [row["label"] for row in rows[0]] != [row["label"] for row in rows[1]]


def test_the_authors_protocol_selects_nothing_and_calls_its_best_oracle(cross_validate, tmp_path):
    run = cross_validate(tmp_path / "out", "--protocol", "authors", "--folds", 2, "--num_train_epochs", 3)
    results = run.run()
    result = results["folds"][0]
    scores = [entry for entry in result["history"] if "eval_wa" in entry]
    assert result["num_train"] == 32 and result["selection"] is result["selected_epoch"] is None
    assert result["test"] == {name: scores[-1][f"eval_{name}"] for name in ("wa", "ua")}
    assert result["oracle"] == {name: max(entry[f"eval_{name}"] for entry in scores) for name in ("wa", "ua")}
    assert "oracle WA" in run.table(results) and "last WA" in run.table(results)


def test_fine_tuning_trains_the_encoder_but_its_convolutions(cross_validate, encoder, tmp_path):
    run = cross_validate(tmp_path / "out", "--scenario", "fine_tuning", "--folds", 1, "--num_train_epochs", 1)
    run.run()
    tuned = AutoModelForAudioClassification.from_pretrained(tmp_path / "out" / "fold1").shift_ser.encoder.state_dict()
    for name, before in AutoModel.from_pretrained(encoder).state_dict().items():
        same = torch.equal(before, tuned[name])
        frozen = name.startswith("feature_extractor.") or name == "masked_spec_embed"
        assert same == frozen or "k_proj.bias" in name, name  # softmax makes the key's bias idle


def test_mask_padding_false_cuts_and_pads_to_one_length(cross_validate, tmp_path):
    run = cross_validate(tmp_path / "out", "--mask_padding", "false", "--max_seconds", 1.5, "--folds", 1)
    run.run()
    assert {run.corpus.cache.frames(name).shape[0] for name in run.corpus.label_of} == {74}
    assert ShiftFeatureExtractor.from_pretrained(tmp_path / "out" / "fold1").fixed_length == 24000


def test_a_weighted_layer_sum_trains_from_the_frames_of_all_layers(cross_validate, tmp_path):
    run = cross_validate(tmp_path / "out", "--use_weighted_layer_sum", "true", "--folds", 1)
    run.run()
    model = AutoModelForAudioClassification.from_pretrained(tmp_path / "out" / "fold1")
    assert model.shift_ser.layer_weights.shape == (3,) and model.shift_ser.layer_weights.any()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_published_recipe_runs_two_steps(recipe, encoder, small_corpus, tmp_path):
    flags = f"--encoder {encoder} --corpus {small_corpus} --output_dir {tmp_path / 'out'} --cache_dir {tmp_path}/frames"
    words = [str(recipe), *flags.split(), "--max_steps", "2", "--folds", "1", "--per_device_train_batch_size", "4"]
    run = CrossValidation(*parse_arguments([*words, "--disable_tqdm", "true"]))
    result = run.run()["folds"][0]
    assert (tmp_path / "out" / "fold1" / "model.safetensors").exists()
    assert np.isfinite([entry["eval_loss"] for entry in result["history"] if "eval_loss" in entry]).all()


def test_there_are_the_twelve_published_recipes():
    heads = ("cnn", "shiftcnn", "lstm", "shiftlstm", "transformer", "shiftformer")
    expected = {f"{head}_{scenario}" for head in heads for scenario in ("feature_extraction", "fine_tuning")}
    assert {path.stem for path in RECIPES} == expected


def test_a_folder_of_another_run_is_refused_and_left_alone(finished, cross_validate):
    run, _ = finished
    before = (run.output_dir / "results.json").read_bytes()
    with pytest.raises(ValueError, match=r"must hold no other run, .* learning_rate is 0\.001 there and 0\.01 here"):
        cross_validate(run.output_dir, "--learning_rate", "1e-2").run()
    assert (run.output_dir / "results.json").read_bytes() == before


def test_a_folder_with_something_else_is_refused(cross_validate, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="output_dir must be empty or hold a run"):
        cross_validate(tmp_path).run()


def test_wrong_folds_corpus_and_encoder_are_told(cross_validate, tmp_path):
    with pytest.raises(ValueError, match=r"folds must be among \[1, 2, 3, 4, 5\], got \[7\]"):
        cross_validate(tmp_path, "--folds", 7)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        cross_validate(tmp_path, corpus=tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"do_normalize must be given, since .* has no readable preprocessor_config"):
        cross_validate(tmp_path, "--encoder", tmp_path)
    with pytest.raises(StrictDataclassError, match="shift_placement of head_type='lstm' must be one of"):
        cross_validate(tmp_path / "new", "--variant", "lstm", "--shift_placement", "residual")
    with pytest.raises(FileNotFoundError, match="evaluate_only needs the finished fold 1"):
        cross_validate(tmp_path / "new", "--evaluate_only", "true").run()


def test_an_unreadable_recording_is_named_before_training(cross_validate, small_corpus, tmp_path):
    corpus = shutil.copytree(small_corpus, tmp_path / "corpus")
    wav = next((corpus / "Session3" / "sentences").rglob("Ses*_F000.wav"))
    run = cross_validate(tmp_path / "out", corpus=corpus)
    wav.write_bytes(b"not audio")
    with pytest.raises(ValueError, match=wav.stem):
        run.run()


def start(*words, processes=None):
    launcher = [sys.executable]
    if processes:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [*launcher, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_two_processes_give_the_evaluation_of_one(finished, encoder, small_corpus, tmp_path):
    run, results = finished
    settings = ["--num_train_epochs", "2", "--learning_rate", "1e-3", "--per_device_train_batch_size", "8"]
    paths = ["--encoder", encoder, "--corpus", small_corpus, "--output_dir", run.output_dir, "--cache_dir", tmp_path]
    script = ["examples/run_ser.py", *paths, *settings, "--evaluate_only", "true", "--per_device_eval_batch_size", "6"]
    done = start(*script, processes=2)
    assert done.returncode == 0, done.stderr
    again = read_json(run.output_dir / "evaluation" / "results.json")
    assert again["summary"] == results["summary"]
    for fold in range(1, 6):
        one = read_predictions(run.output_dir / f"fold{fold}" / "predictions.csv")
        two = read_predictions(run.output_dir / "evaluation" / f"predictions_fold{fold}.csv")
        assert [row["utterance"] for row in one] == [row["utterance"] for row in two]
        for first, second in zip(one, two, strict=True):
            assert first["probabilities"] == pytest.approx(second["probabilities"], abs=1e-5)


def test_the_scripts_run_from_the_command_line(finished, small_corpus, tmp_path):
    run, _ = finished
    done = start("examples/run_ser.py", "--learning_rte", "1")
    assert done.returncode != 0 and "--learning_rte" in done.stderr and "Traceback" not in done.stderr
    speech = read_audio(next(small_corpus.rglob("wav/*/Ses*.wav")))
    sf.write(tmp_path / "stereo.flac", np.stack([speech, speech], axis=1), 44100)
    (tmp_path / "broken.wav").write_bytes(b"no")
    files = [tmp_path / "broken.wav", tmp_path / "stereo.flac", tmp_path / "none.wav"]
    done = start("examples/predict.py", "--model", run.output_dir / "fold1", *files)
    assert done.returncode == 1
    assert done.stdout.startswith(f"{tmp_path / 'stereo.flac'}: ") and done.stdout.count("\n") == 1
    assert "broken.wav" in done.stderr and "none.wav" in done.stderr and "Traceback" not in done.stderr


def test_settings_are_json(finished):
    assert json.loads(json.dumps(finished[1]["settings"])) == finished[1]["settings"]
