import logging
import shutil
from statistics import median

import pytest
from conftest import command_line
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from test_fold import Stop, contents

from shift_ser import ShiftForSequenceClassification, load_classifier
from shift_ser.evaluation.run_folder import FINAL, read_json
from shift_ser.hub.push import model_files, stage_upload
from shift_ser.training.arguments import RunArguments
from shift_ser.training.final import describe_final
from shift_ser.training.saved_model import ENCODER_SHARD, HEAD_SHARD


@pytest.fixture(scope="module")
def shipped(finished, cross_validate, tmp_path_factory):
    """A finished run whose final model was trained afterwards; read only."""
    out = shutil.copytree(finished[0].output_dir, tmp_path_factory.mktemp("shipped") / "out")
    run = cross_validate(out, "--final", "true")
    return run, run.run()


def folds(*epochs) -> dict:
    return {"folds": [{"selected_epoch": epoch, "last_epoch": 9, "temperature": 1.0} for epoch in epochs]}


@pytest.mark.parametrize(
    ("epochs", "chosen"), [([2], 2), ([1, 2], 2), ([1, 1, 50], 1), ([3, 4, 5, 6], 5), ([None, None], 9)]
)
def test_the_number_of_epochs_is_the_median_of_those_of_the_folds(epochs, chosen):
    assert describe_final(folds(*epochs))["epochs"] == chosen


def test_the_final_model_is_trained_on_everyone_after_the_folds_which_stay_as_they_were(shipped, finished):
    run, results = shipped
    assert results["folds"] == finished[1]["folds"] and finished[1]["final"] is None
    final = results["final"]
    assert final["num_train"] == 40 and final["num_speakers"] == len(set(run.corpus.dataset["speaker"]))
    assert final["of_folds"] == [fold["selected_epoch"] for fold in results["folds"]]
    assert final["temperature"] == median(fold["temperature"] for fold in results["folds"])
    assert [entry["step"] for entry in final["history"]] == [5 * (1 + epoch) for epoch in range(final["epochs"])]
    assert read_json(run.output_dir / "results.json") == results
    assert ShiftForSequenceClassification.from_pretrained(run.output_dir / FINAL).config.temperature
    assert not (run.output_dir / FINAL / "checkpoints").exists()
    heads = [load_file(run.output_dir / name / HEAD_SHARD)["classifier.bias"].tolist() for name in (FINAL, "fold1")]
    assert heads[0] != heads[1]
    assert (run.output_dir / FINAL / ENCODER_SHARD).samefile(run.output_dir / "fold1" / ENCODER_SHARD)


def test_it_is_kept_with_the_run_and_not_trained_again(shipped, cross_validate, tmp_path, caplog):
    out = shutil.copytree(shipped[0].output_dir, tmp_path / "out")
    before = (out / FINAL / HEAD_SHARD).stat().st_mtime_ns
    assert cross_validate(out).run()["final"] == shipped[1]["final"]
    with caplog.at_level(logging.INFO):
        assert cross_validate(out, "--final", "true").run() == shipped[1]
    assert "the final model is done and kept" in caplog.text
    assert (out / FINAL / HEAD_SHARD).stat().st_mtime_ns == before


def test_stopped_it_goes_on_and_ends_like_one_that_was_not_and_other_folds_mean_another_one(
    shipped, cross_validate, tmp_path, monkeypatch
):
    run = shipped[0]
    whole, stopped = (cross_validate(tmp_path / name).final for name in ("whole", "stopped"))
    whole.train(folds(2, 2))
    make = type(stopped)._trainer

    def with_stop(self, *args, **options):
        trainer = make(self, *args, **options)
        trainer.add_callback(Stop(6))
        return trainer

    with monkeypatch.context() as patch:
        patch.setattr(type(stopped), "_trainer", with_stop)
        with pytest.raises(KeyboardInterrupt):
            stopped.train(folds(2, 2))
    assert stopped.trained(folds(2, 2)) is None
    assert list((stopped.folder / "checkpoints" / "refit").glob("checkpoint-5"))
    stopped.train(folds(2, 2))
    assert contents(stopped.folder) == contents(whole.folder)
    assert stopped.trained(folds(1, 1)) is None
    assert [entry["step"] for entry in stopped.train(folds(1, 1))["history"]] == [5]
    assert run.final.plan.hash == stopped.plan.hash


def test_its_card_says_that_it_saw_everyone_and_it_is_what_is_pushed_and_predicts(
    shipped, small_corpus, encoder, tmp_path
):
    out = shutil.copytree(shipped[0].output_dir, tmp_path / "out")
    words = f"--encoder {encoder} --corpus {small_corpus} --output_dir {out} --cache_dir {tmp_path} --final true"
    flags = "--num_train_epochs 2 --learning_rate 1e-3 --per_device_train_batch_size 8 --disable_tqdm true"
    told = command_line("train", *words.split(), *flags.split())
    assert told.exit_code == 0 and f"saw every speaker: {out / FINAL}" in told.output
    card = ModelCard((out / FINAL / "README.md").read_text(encoding="utf-8"))
    assert "**These weights saw every speaker**" in card.text and "--final true" in card.text
    assert "this model saw every speaker" in card.data.eval_results[0].dataset_args["scored"]
    assert "saw every speaker" not in (out / "fold1" / "README.md").read_text(encoding="utf-8")
    staged = stage_upload(out, repo_id="me/model")
    for path in model_files(out / FINAL):
        assert (staged / path.name).read_bytes() == path.read_bytes()
    assert "saw every speaker" in (staged / "README.md").read_text(encoding="utf-8")
    recording = next(small_corpus.rglob("wav/*/*.wav"))
    assert set(load_classifier(out / FINAL)(str(recording))[0]) == {"label", "score"}


@pytest.mark.parametrize("more", [{"folds": [1]}, {"evaluate_only": True}, {"max_steps": 3}])
def test_it_needs_all_folds(more, tmp_path):
    with pytest.raises(ValueError, match="final must be false unless all folds are trained"):
        RunArguments(output_dir=str(tmp_path), final=True, **more)
