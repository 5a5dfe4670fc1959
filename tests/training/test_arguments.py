from dataclasses import fields, make_dataclass
from typing import Literal

import pytest
from transformers import HfArgumentParser

from shift_ser import ShiftConfig
from shift_ser.training.argument_checks import RANGES, SCHEDULE_READS
from shift_ser.training.arguments import (
    NOT_OF_CONFIG,
    NOT_OPTIONS,
    DataArguments,
    ModelArguments,
    RunArguments,
    head_options,
    parse_arguments,
)
from shift_ser.training.optimization import SCHEDULES


@pytest.fixture
def recipe(tmp_path):
    def write(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_defaults():
    model, data, run = parse_arguments(["--use_cpu"])
    assert (model.variant, model.scenario, data.max_seconds) == ("shiftformer", "feature_extraction", 7.5)
    assert (run.protocol, run.selection_metric, run.schedule) == ("test_blind", "ua", "transformers")
    assert (run.fold_unit, run.validation, run.refit, run.all_seeds) == (None, None, False, [run.seed])
    assert run.selects and run.metric_for_best_model == "eval_validation_ua" and run.greater_is_better
    assert run.eval_strategy == run.save_strategy == "epoch"
    assert run.accelerator_config.split_batches and not run.remove_unused_columns and not run.dataloader_pin_memory


def test_recipe_and_flags_that_win(recipe):
    path = recipe(
        "# a comment\nvariant: shiftcnn\nlearning_rate: 1e-4\nweight_decay: 0.05\nnum_train_epochs: 7\nfolds: [1, 3]\n"
        "use_weighted_layer_sum: true\nmask_padding: false\nshift_layers: [0]\nuse_cpu: true\nshift_stride:\n"
        "corpus: my corpus\naccelerator_config: {split_batches: true, even_batches: false}\nbf16: false\n"
    )
    model, data, run = parse_arguments([path, "--variant", "lstm", "--num_train_epochs", "2", "--folds", "5"])
    assert (model.variant, run.num_train_epochs, run.folds) == ("lstm", 2, [5])
    assert (run.learning_rate, run.weight_decay, run.bf16) == (1e-4, 0.05, False)
    assert (model.use_weighted_layer_sum, model.mask_padding, model.shift_layers) == (True, False, [0])
    assert model.shift_stride is None and data.corpus == "my corpus"
    assert run.accelerator_config.split_batches and not run.accelerator_config.even_batches
    assert parse_arguments([path])[2].folds == [1, 3]
    assert parse_arguments([path, "--use_weighted_layer_sum", "false"])[0].use_weighted_layer_sum is False


def test_numbers_yaml_takes_for_strings(recipe):
    path = recipe("learning_rate: 5e-4\nadam_epsilon: 1e-8\nwarmup_learning_rate: 5e-7\nuse_cpu: 1")
    run = parse_arguments([path])[2]
    assert (run.learning_rate, run.adam_epsilon, run.warmup_learning_rate) == (5e-4, 1e-8, 5e-7)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("learning_rat", "; did you mean 'learning_rate'?"),
        ("shift_proporton", "; did you mean 'shift_proportion'?"),
        ("xyzzy", "$"),
        ("7", "$"),
        ("help", "$"),
    ],
)
def test_unknown_key(recipe, key, hint):
    hint = hint.replace("?", r"\?")
    with pytest.raises(ValueError, match=rf"recipe '.*recipe\.yaml' has the unknown key '?{key}'?{hint}"):
        parse_arguments([recipe(f"use_cpu: true\n{key}: 1\n")])


@pytest.mark.parametrize(("text", "kind"), [("- a\n- b\n", "list"), ("word", "str"), ("", "NoneType")])
def test_recipe_that_is_no_mapping(recipe, text, kind):
    with pytest.raises(ValueError, match=rf"recipe '.*' must hold `key: value` lines, got {kind}"):
        parse_arguments([recipe(text)])


def test_recipe_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"name of one, there is none at '.*gone\.yaml'"):
        parse_arguments([str(tmp_path / "gone.yaml")])
    with pytest.raises(FileNotFoundError, match="recipe must be a YAML file"):
        parse_arguments([str(tmp_path)])


def test_recipe_that_is_not_yaml(recipe):
    with pytest.raises(ValueError, match=r"recipe '.*recipe\.yaml' must be YAML"):
        parse_arguments([recipe("a: [1, 2\nb: }")])


def test_values_outside_the_choices(recipe):
    for words in (["--scenario", "both"], ["--selection_metric", "f1"], ["--shift_stride", "two"], ["--no_such", "1"]):
        with pytest.raises(ValueError, match=words[0]):
            parse_arguments(["--use_cpu", *words])
    with pytest.raises(ValueError, match="argument --scenario: invalid choice: 'both'"):
        parse_arguments([recipe("scenario: both")])


def test_protocol_and_schedule(tmp_path):
    with pytest.raises(ValueError, match=r"protocol must be one of \(.*'test_blind'.*\), got 'best'"):
        RunArguments(protocol="best", use_cpu=True)
    with pytest.raises(ValueError, match=r"schedule must be one of \('authors_cosine', .*\), got 'cosine'"):
        RunArguments(schedule="cosine", use_cpu=True)
    run = RunArguments(protocol="authors", use_cpu=True)
    assert not run.selects and run.metric_for_best_model is None
    assert RunArguments(use_cpu=True, selection_metric="wa").metric_for_best_model == "eval_validation_wa"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"fold_unit": "dialog"}, r"fold_unit must be one of \('session', 'speaker'\), got 'dialog'"),
        ({"validation": "all"}, r"validation must be one of \('session', 'speaker', 'random'\), got 'all'"),
        ({"refit": True, "protocol": "authors"}, r"refit must be false without .*, got True with protocol 'authors'"),
        ({"refit": True, "max_steps": 7}, r"refit must be false without .* got True with .* max_steps 7"),
        ({"seeds": [1, 2, 1]}, r"seeds must differ, got \[1, 2, 1\]"),
        ({"save_total_limit": 1}, r"save_total_limit must be at least 2, .*; got 1"),
        (
            {"protocol": "authors", "lr_scheduler_type": "reduce_lr_on_plateau"},
            r"lr_scheduler_type must follow no score where nothing selects, got 'reduce_lr_on_plateau' with",
        ),
        ({"refit": True, "lr_scheduler_type": "greedy"}, r"must follow no score .* got 'greedy' .* refit True"),
    ],
)
def test_options_of_the_protocol_that_go_wrong(options, told):
    with pytest.raises(ValueError, match=told):
        RunArguments(use_cpu=True, **options)


def test_seeds_of_a_recipe(recipe):
    assert parse_arguments([recipe("use_cpu: true\nseeds: [3, 1]\nseed: 7\n")])[2].all_seeds == [3, 1]
    assert parse_arguments([recipe("use_cpu: true\nseed: 7\n")])[2].all_seeds == [7]


def test_a_new_field_of_the_config_is_an_option():
    class Config:
        """A configuration.

        Args:
            encoder_config: Of the encoder.
            gain: What frames are multiplied
                by, in %.
            window: `hann` or `boxcar`.

        Raises:
            ValueError: Never.
        """

        encoder_config: dict | None = None
        gain: float | int | None = 1.0
        window: Literal["hann", "boxcar"] = "hann"

    made = make_dataclass("Made", head_options(Config))
    parser = HfArgumentParser(made)
    assert vars(made()) == {"gain": None, "window": None}
    assert vars(parser.parse_args(["--gain", "2", "--window", "boxcar"])) == {"gain": 2.0, "window": "boxcar"}
    assert "What frames are multiplied by, in %." in " ".join(parser.format_help().split())


def test_every_option_of_the_head_is_told():
    assert {field.name: field.metadata["help"] for field in fields(ModelArguments) if not field.metadata["help"]} == {}
    options = set(vars(ModelArguments())) - {*NOT_OF_CONFIG, "variant", "scenario"}
    assert options == set(ShiftConfig.__annotations__) - set(NOT_OPTIONS)


def test_config_options_holds_what_was_said():
    assert ModelArguments().config_options() == {"variant": "shiftformer", "freeze_encoder": True}
    said = ModelArguments(variant="cnn", scenario="fine_tuning", shift_stride=2, mask_padding=False)
    assert said.config_options() == {
        "variant": "cnn", "freeze_encoder": False, "shift_stride": 2, "mask_padding": False,
    }  # fmt: skip


def test_pushing_an_evaluation_is_refused():
    assert parse_arguments(["--push_to_hub", "--hub_model_id", "me/mine"])[2].hub_model_id == "me/mine"
    with pytest.raises(ValueError, match=r"evaluate_only must be false with push_to_hub, .* got True"):
        parse_arguments(["--push_to_hub", "--evaluate_only", "true"])


@pytest.mark.parametrize(("said", "layer"), [("feature_projection", "feature_projection"), ("3", 3), ("0", 0)])
def test_a_layer_of_the_encoder_by_name_or_number(recipe, said, layer):
    model_args, _, _ = parse_arguments(["--output_dir", "out", "--encoder_layer", said])
    assert model_args.encoder_layer == model_args.config_options()["encoder_layer"] == layer
    model_args, _, _ = parse_arguments([recipe(f"encoder_layer: {said}")])
    assert model_args.encoder_layer == layer


@pytest.mark.parametrize(
    "said",
    [
        {"resume_from_checkpoint": "somewhere"}, {"eval_strategy": "steps"}, {"metric_for_best_model": "loss"},
        {"do_train": False}, {"save_steps": 7}, {"load_best_model_at_end": True}, {"greater_is_better": False},
        {"save_only_model": True}, {"hub_strategy": "end"}, {"label_names": ["labels"]},
        {"schedule": "authors_cosine", "warmup_steps": 10},
        {"schedule": "authors_finetuning", "lr_scheduler_type": "cosine"},
        {"schedule": "authors_finetuning", "min_learning_rate": 1e-6}, {"warmup_epochs": 2},
        {"protocol": "authors", "selection_metric": "wa"},
    ],
    ids=str,
)  # fmt: skip
def test_what_a_run_would_ignore_is_refused(said):
    name = list(said)[-1]
    with pytest.raises(ValueError, match=f"{name} must be left out"):
        RunArguments(use_cpu=True, **said)


def test_what_a_run_does_anyway_may_be_said():
    run = RunArguments(use_cpu=True, eval_strategy="epoch", save_strategy="epoch", do_train=True, do_eval=True)
    assert run.eval_strategy == "epoch" and SCHEDULE_READS.keys() == set(SCHEDULES)


@pytest.mark.parametrize("name", [*RANGES, "max_steps"])
def test_numbers_out_of_range_are_refused(name):
    kind = DataArguments if name == "max_seconds" else RunArguments
    for value in (-2, float("nan"), float("-inf")):
        with pytest.raises(ValueError, match=rf"{name} must be (above|at least)|max_steps must be"):
            kind(**{name: [value] if name in ("seeds", "folds") else value})


ENDS = {"learning_rate": 0, "weight_decay": float("inf"), "adam_beta1": 1.0, "seed": 2**32, "max_steps": 0}


@pytest.mark.parametrize("said", [{name: value} for name, value in ENDS.items()], ids=str)
def test_the_ends_of_the_ranges(said):
    with pytest.raises(ValueError, match=f"{next(iter(said))} must be"):
        RunArguments(use_cpu=True, **said)
    RunArguments(use_cpu=True, seed=0, weight_decay=0, label_smoothing_factor=0.0, per_device_train_batch_size=1)


def test_a_tracker_that_is_not_there_is_told_at_once():
    for name in ("no_such_tracker", "comet_ml"):
        with pytest.raises(ValueError, match=f"report_to must name trackers that are installed, got '{name}'"):
            RunArguments(use_cpu=True, report_to=name)


def test_a_value_of_a_recipe_is_never_a_flag(recipe):
    with pytest.raises(ValueError, match="folds must hold values, got the flag '--learning_rate'"):
        parse_arguments([recipe("use_cpu: true\nfolds: [1, '--learning_rate', 9]\n")])
    assert parse_arguments([recipe("use_cpu: true\ncorpus: --evaluate_only\n")])[1].corpus == "--evaluate_only"
