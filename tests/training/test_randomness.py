"""Which random numbers a run draws: those of its seed, for each purpose by itself, and none of another's."""

import hashlib

import pytest
import torch
from transformers import TrainerCallback

from shift_ser.evaluation.metrics import SCORES
from shift_ser.training.fold import FoldRun
from shift_ser.training.protocols import plan_folds

SEEDS = (42, 7)
NO_DRAWS = (
    "--variant linear --mask_time_prob 0 --mask_time_min_masks 0 --mask_feature_prob 0 --mask_feature_min_masks 0"
)


@pytest.fixture
def same_weights(monkeypatch):
    """Every new model gets the same weights; the list holds those that it was made with."""
    made = []
    make_model = FoldRun.new_model

    def patched(self):
        model = make_model(self)
        made.append(torch.cat([weight.flatten() for name, weight in model.named_parameters() if "encoder" not in name]))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in model.parameters():
                weight.normal_(std=0.1, generator=generator)
        return model

    monkeypatch.setattr(FoldRun, "new_model", patched)
    return made


@pytest.mark.parametrize(
    "flags",
    [
        NO_DRAWS,
        f"{NO_DRAWS} --train_sampling_strategy group_by_length",
        f"{NO_DRAWS} --balanced_sampling true",
        "--data_seed 3",
    ],
    ids=["order", "order of like length", "balanced draws", "dropout and masks"],
)
def test_each_seed_has_its_own_weights_and_its_own_order_and_dropout(flags, same_weights, cross_validate, tmp_path):
    """Of two seeds all but one thing is the same, by turns the order of utterances and what the model draws."""
    run = cross_validate(tmp_path, "--seeds", *SEEDS, "--folds", 1, "--num_train_epochs", 1, *flags.split())
    losses = [fold["history"][0]["loss"] for fold in run.run()["folds"]]
    assert losses[0] != losses[1]
    assert len(same_weights) == 2 and not torch.equal(*same_weights)


@pytest.mark.parametrize("per_fold", [True, False])
def test_folds_draw_alike_or_each_by_itself(per_fold, same_weights, cross_validate, tmp_path):
    run = cross_validate(tmp_path, "--seed_per_fold", per_fold, "--folds", 1, 2, "--num_train_epochs", 1,
                         "--variant", "linear")  # fmt: skip
    seeds = [result["training_seed"] for result in run.run()["folds"]]
    assert [fold.training_seed for fold in run.fold_runs[:2]] == seeds
    hashes = [hashlib.sha256(f"seed 42 fold {fold}".encode()).digest()[:4] for fold in (1, 2)]
    assert not per_fold or seeds == [int.from_bytes(each, "big") for each in hashes]
    assert (len(set(seeds)) == 2) == per_fold and (seeds == [42, 42]) == (not per_fold)
    assert torch.equal(*same_weights) == (not per_fold)


def test_the_seed_of_a_run_draws_its_random_validation_set(cross_validate, tmp_path):
    flags = ("--validation", "random", "--fold_unit", "speaker", "--seed")
    runs = [cross_validate(tmp_path, *flags, seed) for seed in SEEDS]
    for run, seed in zip(runs, SEEDS, strict=True):
        assert run.plans == plan_folds(run.corpus.dataset, fold_unit="speaker", validation="random", seed=seed)
    for plan, other in zip(runs[0].plans, runs[1].plans, strict=True):
        assert plan.test == other.test and set(plan.validation) != set(other.validation)


class PretendTest(TrainerCallback):
    """Scores of a test set that was not looked at."""

    def on_evaluate(self, args, state, control, **kwargs):
        state.log_history[-1] |= {f"eval_test_{name}": 0.0 for name in SCORES}


@pytest.mark.parametrize(
    "flags", ["--scenario feature_extraction", "--scenario fine_tuning --encoder_augmentation true"]
)
def test_scoring_the_test_set_after_every_epoch_changes_no_weight(flags, cross_validate, tmp_path, monkeypatch):
    """The same training without the test set, but for the one entry that the columns are made of."""
    make_trainer = FoldRun._trainer

    def blind(self, model, *, scored=None, **options):
        trainer = make_trainer(self, model, scored=scored, **options)
        if scored:
            trainer.eval_dataset = {"validation": scored["validation"]}
            trainer.add_callback(PretendTest())
        return trainer

    flags = ("--folds", 1, *flags.split())
    cross_validate(tmp_path / "scored", *flags).run()
    monkeypatch.setattr(FoldRun, "_trainer", blind)
    cross_validate(tmp_path / "blind", *flags).run()
    scored, blind = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "fold1").glob("model*.safetensors")}
        for name in ("scored", "blind")
    )
    assert scored and scored == blind
