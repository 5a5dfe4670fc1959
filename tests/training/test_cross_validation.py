import base64
import json
import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from huggingface_hub.errors import StrictDataclassError
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score
from transformers import AutoConfig, AutoModel, AutoModelForAudioClassification, pipeline

import shift_ser
from shift_ser import ShiftConfig, ShiftFeatureExtractor, ShiftForSequenceClassification
from shift_ser.corpora.corpus import read_audio
from shift_ser.evaluation import calibration, uncertainty
from shift_ser.evaluation.metrics import SCORES
from shift_ser.evaluation.predictions import COLUMNS, Predictions
from shift_ser.evaluation.run_folder import read_json
from shift_ser.recipes import find_recipe, recipe_names
from shift_ser.training.arguments import parse_arguments
from shift_ser.training.cross_validation import CrossValidation
from shift_ser.training.fold import FoldRun
from shift_ser.training.fold_plan import FoldPlan
from shift_ser.training.optimization import cosine_rate
from shift_ser.training.saved_model import HEAD_SHARD

ROOT = Path(__file__).parents[2]
RECIPES = [find_recipe(name) for name in recipe_names() if name != "demo"]


def test_a_run_leaves_results_predictions_figure_and_models(finished, small_corpus):
    run, results = finished
    assert results == read_json(run.output_dir / "results.json")
    assert results["corpus"]["description"].startswith("Synthetic corpus")
    assert (
        run.output_dir / "results.md"
    ).read_text() == f"{results['corpus']['description']}\n\n{run.table(results)}\n"
    assert (run.output_dir / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert [result["test_group"] for result in results["folds"]] == [f"session {fold}" for fold in range(1, 6)]
    assert [FoldPlan.from_dict(plan) for plan in read_json(run.output_dir / "plans.json")] == run.plans
    assert results["missing"] == [] and {result["seed"] for result in results["folds"]} == {run.run_args.seed}
    for result in results["folds"]:
        folder = run.output_dir / f"fold{result['fold']}"
        rows = Predictions.read(folder / "predictions.csv").rows
        assert len(rows) == result["num_test"] == 8
        assert {row["utterance"][:5] for row in rows} == {f"Ses0{result['fold']}"}
        assert result["test"] == pytest.approx(scikit_learn(rows))
        assert result["last_epoch"] == 2
        assert result["shared_sentences"] == {"train_and_test": 4, "validation_and_test": 4}
        assert not (folder / "checkpoints").exists()
    assert results["summary"]["test"]["wa"]["mean"] == pytest.approx(
        np.mean([result["test"]["wa"] for result in results["folds"]])
    )


def scikit_learn(rows) -> dict[str, float]:
    labels, predictions = [row["label"] for row in rows], [row["prediction"] for row in rows]
    f1 = f1_score(labels, predictions, average="macro", labels=sorted(set(labels)))
    return {
        "wa": accuracy_score(labels, predictions), "ua": balanced_accuracy_score(labels, predictions), "f1": f1
    }  # fmt: skip


def test_the_saved_model_gives_the_predictions_on_file_through_the_pipeline(finished, small_corpus):
    run, _ = finished
    folder = run.output_dir / "fold2"
    classify = pipeline("audio-classification", model=str(folder), top_k=None)
    for row in Predictions.read(folder / "predictions.csv").rows[:3]:
        speech = read_audio(next(small_corpus.rglob(f"wav/*/{row['utterance']}.wav")))[: int(7.5 * 16000)]
        scores = {entry["label"]: entry["score"] for entry in classify(speech)}
        assert scores == pytest.approx(row["probabilities"], abs=1e-5)
        assert max(scores, key=scores.get) == row["prediction"]


def test_the_selected_epoch_is_the_best_on_the_validation_set_and_the_columns_are_its_last_and_best(finished):
    run, results = finished
    assert {result["selected_epoch"] for result in results["folds"]} == {1, 2}  # or the last would do for the best
    for result in results["folds"]:
        epochs = [entry for entry in result["history"] if "eval_validation_ua" in entry]
        best = int(np.argmax([entry["eval_validation_ua"] for entry in epochs]))
        assert len(epochs) == 2 and result["selected_epoch"] == 1 + best
        assert result["validation"] == {name: epochs[best][f"eval_validation_{name}"] for name in SCORES}
        rows = Predictions.read(run.output_dir / f"fold{result['fold']}" / "validation_predictions.csv").rows
        assert result["validation"] == pytest.approx(scikit_learn(rows))
        assert {row["utterance"][:5] for row in rows} == {f"Ses0{result['fold'] % 5 + 1}"}
        tests = [{name: entry[f"eval_test_{name}"] for name in SCORES} for entry in epochs]
        oracle = {name: max(scores[name] for scores in tests) for name in SCORES}
        assert result["columns"] == {"last": tests[-1], "selected": tests[best], "oracle": oracle}
        assert result["test"] == tests[best]


def test_a_refit_has_the_schedule_of_the_training_and_stops_after_the_selected_epoch(cross_validate, tmp_path):
    flags = ("--refit", "true", "--schedule", "authors_cosine", "--warmup_epochs", 0, "--num_train_epochs", 3)
    result = cross_validate(tmp_path, *flags, "--folds", 3).run()["folds"][0]
    selected, steps = result["selected_epoch"], 4  # of 32 utterances in batches of 8
    assert [entry["step"] for entry in result["refit_history"]] == [steps * (1 + epoch) for epoch in range(selected)]
    expected = {"base": 1e-3, "num_steps": 3 * steps, "warmup_steps": 0, "warmup_start": 5e-7, "minimum": 5e-6}
    last = result["refit_history"][-1]["learning_rate"]
    assert selected < 3 and last == pytest.approx(cosine_rate(steps * selected - 1, **expected))
    rows, validation = (
        Predictions.read(tmp_path / "fold3" / f"{part}predictions.csv").rows for part in ("", "validation_")
    )
    assert result["test"] == result["columns"]["refit"] == pytest.approx(scikit_learn(rows))
    assert result["validation"] == pytest.approx(scikit_learn(validation))


def test_a_refit_of_all_epochs_is_the_training_of_the_authors_protocol(cross_validate, tmp_path):
    flags = ("--folds", 2, "--num_train_epochs", 1)
    refit = cross_validate(tmp_path / "refit", "--refit", "true", *flags).run()["folds"][0]
    authors = cross_validate(tmp_path / "authors", "--protocol", "authors", *flags).run()["folds"][0]
    assert refit["columns"]["refit"] == authors["columns"]["last"] == refit["test"]
    weights = [tmp_path / name / "fold2" / HEAD_SHARD for name in ("refit", "authors")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def without_cost(result: dict) -> dict:
    """A fold's result without the time and memory that it took."""
    return {name: value for name, value in result.items() if name != "cost"}


def test_seeds_have_folders_of_their_own_and_the_first_is_the_run_with_that_seed_alone(cross_validate, tmp_path):
    seeds = (42, 5)
    flags = ("--num_train_epochs", 1)
    run = cross_validate(tmp_path / "out", "--seeds", *seeds, "--folds", 1, 2, *flags)
    results = run.run()
    assert [(entry["seed"], entry["fold"]) for entry in results["folds"]] == [(42, 1), (42, 2), (5, 1), (5, 2)]
    for entry in results["folds"]:
        rows = Predictions.read(
            tmp_path / "out" / f"seed{entry['seed']}" / f"fold{entry['fold']}" / "predictions.csv"
        ).rows
        assert entry["test"] == pytest.approx(scikit_learn(rows))
    alone = cross_validate(tmp_path / "alone", "--seed", 42, "--folds", 1, *flags).run()
    assert without_cost(alone["folds"][0]) == without_cost(results["folds"][0])
    assert results["folds"][0]["history"] != results["folds"][2]["history"]  # entries differ in `seed` anyway
    assert results["summary"]["num_folds"] == 10 and "4 of 10 folds" in run.table(results)
    again = cross_validate(tmp_path / "out", "--seeds", *seeds, "--folds", 2, *flags, "--evaluate_only", "true").run()
    assert [entry["test"] for entry in again["folds"]] == [results["folds"][place]["test"] for place in (1, 3)]
    assert (tmp_path / "out" / "evaluation" / "seed5" / "fold2" / "predictions.csv").exists()


def test_finished_folds_are_kept_and_not_run_again(finished, cross_validate, monkeypatch):
    run, results = finished
    monkeypatch.setattr(FoldRun, "run", lambda *_: pytest.fail("a finished fold was run again"))
    assert cross_validate(run.output_dir).run()["folds"] == results["folds"]


def test_a_finished_run_is_told_again_without_frames(finished, cross_validate, tmp_path):
    """Figures too, with no encoder run: the map of utterances needs frames, and is kept."""
    folder = shutil.copytree(finished[0].output_dir, tmp_path / "out")
    before = (folder / "embedding.png").read_bytes()
    (folder / "confusion.png").unlink()
    cross_validate(folder, "--cache_dir", tmp_path / "none", figures=True).run()
    assert not (tmp_path / "none").exists() and (folder / "confusion.png").exists()
    assert (folder / "embedding.png").read_bytes() == before
    os.utime(folder / "embedding.png", (0, 0))  # as if the fold had been trained again, and stopped before the figures
    cross_validate(folder, figures=True).run()
    assert (folder / "embedding.png").stat().st_mtime > 0


def test_folds_run_one_by_one_end_in_the_same_results(finished, cross_validate, tmp_path):
    for fold in (3, 1):
        partial = cross_validate(tmp_path / "out", "--folds", fold)
        table = partial.table(partial.run())
    assert "2 of 5 folds" in table and "- Missing: fold 5: not run" in table
    assert "mean of" not in finished[0].table(finished[1]) and "Missing" not in finished[0].table(finished[1])
    kept = read_json(tmp_path / "out" / "results.json")["folds"]
    whole = [result for result in finished[1]["folds"] if result["fold"] in (1, 3)]
    assert list(map(without_cost, kept)) == list(map(without_cost, whole))


def test_labels_of_the_test_session_reach_nothing_but_its_score(finished, cross_validate, small_corpus, tmp_path):
    corpus = shutil.copytree(small_corpus, tmp_path / "corpus")
    for path in (corpus / "Session1" / "dialog" / "EmoEvaluation").glob("Ses*.txt"):
        text = path.read_text()
        path.write_text(text.replace("\tang\t", "\tXXX\t").replace("\tsad\t", "\tang\t").replace("\tXXX\t", "\tsad\t"))
    swapped = cross_validate(tmp_path / "out", "--folds", 1, corpus=corpus).run()["folds"][0]
    result = finished[1]["folds"][0]
    blind, swapped_blind = (
        [{name: value for name, value in entry.items() if "test" not in name} for entry in run["history"]]
        for run in (result, swapped)
    )
    assert blind == swapped_blind and result["history"] != swapped["history"]
    for name in ("selected_epoch", "validation"):
        assert result[name] == swapped[name]
    rows = [
        Predictions.read(run / "fold1" / "predictions.csv").rows for run in (finished[0].output_dir, tmp_path / "out")
    ]
    assert [row["probabilities"] for row in rows[0]] == [row["probabilities"] for row in rows[1]]
    assert [row["label"] for row in rows[0]] != [row["label"] for row in rows[1]]


def test_the_authors_protocol_selects_nothing_and_calls_its_best_oracle(cross_validate, tmp_path):
    flags = ("--protocol", "authors", "--folds", 2, "--num_train_epochs", 3, "--report_to", "tensorboard")
    run = cross_validate(tmp_path / "out", *flags)
    results = run.run()
    result = results["folds"][0]
    assert list((tmp_path / "out" / "fold2" / "tensorboard" / "train").glob("events.*"))  # the checkpoints are gone
    epochs = [entry for entry in result["history"] if "eval_test_wa" in entry]
    assert result["num_train"] == 32 and result["validation"] is result["selected_epoch"] is None
    assert not any("validation" in name for entry in result["history"] for name in entry)
    assert result["test"] == {name: epochs[-1][f"eval_test_{name}"] for name in SCORES}
    oracle = {name: max(entry[f"eval_test_{name}"] for entry in epochs) for name in SCORES}
    assert result["columns"] == {"last": result["test"], "selected": None, "oracle": oracle}
    assert not (tmp_path / "out" / "fold2" / "validation_predictions.csv").exists()
    assert "of the last epoch" in run.table(results)


@pytest.mark.parametrize(("unit", "validation"), [("speaker", "speaker"), ("session", "random")])
def test_other_plans_are_run(unit, validation, cross_validate, tmp_path):
    run = cross_validate(tmp_path / "out", "--fold_unit", unit, "--validation", validation, "--folds", 2)
    result = run.run()["folds"][0]
    plan = run.plans[1]
    assert len(run.plans) == (10 if unit == "speaker" else 5)
    assert (result["test_group"], result["validation_group"]) == (plan.test_group, plan.validation_group)
    assert result["num_validation"] == len(plan.validation) > 0


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
    assert {run.corpus.cache.frames(name).shape[0] for name in run.corpus.utterances} == {74}
    assert ShiftFeatureExtractor.from_pretrained(tmp_path / "out" / "fold1").fixed_length == 24000


def test_a_weighted_layer_sum_is_learned_told_and_drawn(cross_validate, tmp_path):
    out = tmp_path / "out"
    flags = ["--use_weighted_layer_sum", "true", "--folds", 1, 2, "--variant", "linear"]
    results = cross_validate(out, *flags, figures=True).run()
    shares = []
    for fold, result in zip((1, 2), results["folds"], strict=True):
        learned = AutoModelForAudioClassification.from_pretrained(out / f"fold{fold}").shift_ser.layer_weights
        assert learned.shape == (3,) and learned.any()
        shares.append(np.exp(learned.detach().numpy()) / np.exp(learned.detach().numpy()).sum())
        assert result["layer_weights"] == pytest.approx(shares[-1], rel=1e-5)
        assert sum(result["layer_weights"]) == pytest.approx(1, abs=1e-12)
    assert results["summary"]["layer_weights"] == pytest.approx(np.mean(shares, axis=0), rel=1e-5)
    told = re.search(
        r"0: before the first\): 0: ([\d.]+), 1: ([\d.]+), 2: ([\d.]+)\.\n", (out / "results.md").read_text()
    )
    assert told is not None and [float(share) for share in told.groups()] == pytest.approx(
        100 * np.mean(shares, axis=0), abs=0.06
    )
    figure = (out / "layer_weights.png").read_bytes()
    assert figure.startswith(b"\x89PNG") and base64.b64encode(figure).decode() in (out / "report.html").read_text()


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(path, id=path.stem, marks=[] if "shiftlstm" in path.stem else pytest.mark.slow) for path in RECIPES],
)
def test_a_published_recipe_runs_two_steps(recipe, encoder, small_corpus, tmp_path):
    flags = f"--encoder {encoder} --corpus {small_corpus} --output_dir {tmp_path / 'out'} --cache_dir {tmp_path}/frames"
    words = [str(recipe), *flags.split(), "--max_steps", "2", "--folds", "1", "--per_device_train_batch_size", "4"]
    run = CrossValidation(*parse_arguments([*words, "--disable_tqdm", "true"]))
    run._plot = lambda *_, **__: None
    result = run.run()["folds"][0]
    assert list((tmp_path / "out" / "fold1").glob("model*.safetensors"))
    assert np.isfinite([entry["eval_test_loss"] for entry in result["history"] if "eval_test_loss" in entry]).all()


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
    with pytest.raises(ValueError, match=r"encoder must be a folder with a config\.json, got"):
        cross_validate(tmp_path, "--encoder", tmp_path)
    AutoConfig.for_model("hubert").save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match=r"do_normalize must be given, since .* has no readable preprocessor_config"):
        cross_validate(tmp_path, "--encoder", tmp_path / "encoder")
    with pytest.raises(OSError, match="encoder 'someone/encoder' is no folder here, and the Hub is out of reach: HF_"):
        cross_validate(tmp_path, "--encoder", "someone/encoder")
    with pytest.raises(OSError, match="name_or_path 'someone/encoder' is no folder here, and the Hub is out of reach"):
        ShiftForSequenceClassification.from_encoder_pretrained("someone/encoder")
    with pytest.raises(ValueError, match="cache_convolutions must be left out with scenario 'feature_extraction'"):
        cross_validate(tmp_path, "--cache_convolutions", "true")
    with pytest.raises(ValueError, match=r"max_batch_seconds must be at least .* utterance, .* s \('Ses.*got 0.5"):
        cross_validate(tmp_path / "new", "--max_batch_seconds", 0.5).run()
    assert not (tmp_path / "new" / "run.json").exists()
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


@pytest.mark.parametrize("damage", ["a line less", "half a line", "gone"])
def test_predictions_that_were_cut_are_made_again_from_the_saved_model(
    damage, finished, cross_validate, tmp_path, caplog
):
    run, results = finished
    shutil.copytree(run.output_dir, tmp_path / "out")
    path = tmp_path / "out" / "fold2" / "predictions.csv"
    whole = Predictions.read(path)
    text = path.read_text()
    path.write_text(text[: text.rstrip().rindex("\n") + 1] if damage == "a line less" else text[:-30])
    if damage == "gone":
        path.unlink()
    again = cross_validate(tmp_path / "out").run()
    assert "fold 2 is scored again from its saved model: " in caplog.text and str(path) in caplog.text
    assert Predictions.read(path).table.equals(whole.table)
    assert again["uncertainty"] == results["uncertainty"]


def test_the_page_holds_everything_and_loads_nothing(finished):
    run, results = finished
    page = (run.output_dir / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 4 + page.count("<h2>Robustness</h2>")
    assert not re.findall(r"(?:src|href)=\"(?!data:)|https?://|<script|<link", page)
    for result in results["folds"]:
        assert f"<td>{result['test_group']}</td>" in page
    assert "<h2>By speaker</h2>" in page and "<h2>By length</h2>" in page and "shift-ser train " in page
    said = Predictions.read(run.output_dir / "predictions.csv")
    surest = said.probabilities.max(axis=1) * (said.predicted != said.references)
    assert f"<td>{said.table['utterance'][int(surest.argmax())]}</td>" in page
    assert results["versions"]["torch"] in page and "The speech is synthetic" in page


def test_baselines_are_added_to_a_run_that_is_done_and_stand_below_its_table(finished, cross_validate, tmp_path):
    run, results = finished
    shutil.copytree(run.output_dir, tmp_path / "out")
    again = cross_validate(tmp_path / "out", "--baseline", "true")
    told = again.run()
    assert told["folds"] == results["folds"] and "baselines" not in results
    names = [row["name"] for row in told["baselines"]]
    assert len(names) == 3 + (find_spec("opensmile") is not None)
    assert names[0] == "majority class" and "encoder's frames" in names[-1]
    assert told["baselines"][0]["ua"]["mean"] == pytest.approx(0.25)
    for row in told["baselines"]:
        assert f"| {row['name']} | {100 * row['wa']['mean']:.2f} ± " in (tmp_path / "out" / "results.md").read_text()


def test_settings_are_json(finished):
    assert json.loads(json.dumps(finished[1]["settings"])) == finished[1]["settings"]


def test_intervals_and_calibration_are_computed_from_the_predictions_on_file(finished):
    run, results = finished
    parts = []
    for result in results["folds"]:
        folder = run.output_dir / f"fold{result['fold']}"
        temperature = calibration.temperature_of(Predictions.read(folder / "validation_predictions.csv"))
        assert result["temperature"] == temperature == ShiftConfig.from_pretrained(folder).temperature
        parts.append(Predictions.read(folder / "predictions.csv").with_columns(temperature=temperature))
    pooled = Predictions.read(run.output_dir / "predictions.csv")
    assert pooled.table.equals(Predictions.pooled(parts).table)
    assert list(pooled.table)[:8] == list(COLUMNS)
    assert results["uncertainty"] == uncertainty.describe(pooled)
    assert results["calibration"] == calibration.describe(pooled)
    low, high = (100 * bound for bound in results["uncertainty"]["wa"]["speakers"])
    assert f"WA {low:.1f} to {high:.1f}" in (run.output_dir / "results.md").read_text(encoding="utf-8")
    for figure in ("reliability.png", "risk_coverage.png"):
        assert (run.output_dir / figure).read_bytes().startswith(b"\x89PNG")


def test_without_a_validation_set_no_temperature_is_fitted(cross_validate, tmp_path):
    run = cross_validate(tmp_path / "out", "--protocol", "authors", "--folds", "1", "--num_train_epochs", "1")
    results = run.run()
    assert results["folds"][0]["temperature"] is None and results["calibration"]["ece_after"] is None
    assert ShiftConfig.from_pretrained(tmp_path / "out" / "fold1").temperature is None
    assert "temperature" not in run.table(results)


def test_cross_validate_takes_a_dataset_of_ones_own(small_corpus, encoder, tmp_path):
    wavs = sorted(small_corpus.rglob("wav/*/Ses0[1-3]*.wav"))
    rows = {
        "audio": [str(wav) for wav in wavs],
        "label": ["happy" if number % 2 else "sad" for number in range(len(wavs))],
        "speaker": [wav.stem[:5] + wav.stem.rpartition("_")[2][0] for wav in wavs],
    }
    options = {"encoder": str(encoder), "num_train_epochs": 1, "cache_dir": str(tmp_path / "frames"), "folds": [1, 2]}
    options |= {"use_cpu": True, "disable_tqdm": True}
    results = shift_ser.cross_validate(Dataset.from_dict(rows), output_dir=tmp_path / "out", **options)
    assert [fold["test_group"] for fold in results["folds"]] == ["speaker Ses01F", "speaker Ses01M"]
    assert (tmp_path / "out" / "fold2" / HEAD_SHARD).exists()
    with pytest.raises(TypeError, match="there is no option 'num_epochs'; did you mean 'num_train_epochs'"):
        shift_ser.cross_validate(Dataset.from_dict(rows), output_dir=tmp_path, num_epochs=1)
