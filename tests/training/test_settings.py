import json
from dataclasses import dataclass, fields

import pytest
from transformers import SchedulerType, TrainingArguments

from shift_ser.training.arguments import DataArguments, ModelArguments, RunArguments
from shift_ser.training.settings import (
    EXCEPTIONS,
    argument_settings,
    changed_settings,
    chosen_settings,
    result_settings,
)

CLASSES = (ModelArguments, DataArguments, RunArguments)


def settings_of(**options):
    made = [kind(**{f.name: options[f.name] for f in fields(kind) if f.name in options}) for kind in CLASSES[:2]]
    run = {f.name: options[f.name] for f in fields(RunArguments) if f.name in options}
    return result_settings(*made, RunArguments(use_cpu=True, **run))


def test_settings_are_everything_but_the_exceptions():
    names = {field.name for kind in CLASSES for field in fields(kind)}
    assert EXCEPTIONS.keys() <= names and all(EXCEPTIONS.values())
    settings = settings_of()
    assert set(settings) == names - set(EXCEPTIONS)
    assert json.loads(json.dumps(settings)) == settings
    # Of our own arguments all change numbers but these, and of the Trainer's at least those below.
    own = names - {field.name for field in fields(TrainingArguments)}
    no_numbers = {"baseline", "cache_convolutions", "cache_dir", "corpus", "evaluate_only", "final", "folds"}
    assert own - settings.keys() == no_numbers
    numbers = "optim seed data_seed bf16 lr_scheduler_type lr_scheduler_kwargs learning_rate weight_decay max_grad_norm"
    numbers += (
        " num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps adam_beta1 adam_beta2"
    )
    numbers += " label_smoothing_factor train_sampling_strategy neftune_noise_alpha dataloader_drop_last"
    assert settings.keys() >= set(numbers.split())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"weight_decay": 0.1}, "weight_decay is 0.0 there and 0.1 here"),
        ({"data_seed": 3}, "data_seed is None there and 3 here"),
        ({"lr_scheduler_type": "cosine"}, "lr_scheduler_type is 'linear' there and 'cosine' here"),
        ({"dataloader_drop_last": True}, "dataloader_drop_last is False there and True here"),
        ({"shift_stride": 2}, "shift_stride is None there and 2 here"),
        ({"encoder_dtype": "bfloat16"}, "encoder_dtype is 'float32' there and 'bfloat16' here"),
    ],
)
def test_what_changed_is_told(options, told):
    assert changed_settings(settings_of(), settings_of(**options)) == [told]


def test_an_argument_that_an_older_release_did_not_know_had_its_default():
    older = {name: value for name, value in settings_of().items() if name not in ("refit", "protocol")}
    assert changed_settings(older, settings_of()) == []
    assert changed_settings(older, settings_of(refit=True)) == ["refit is False there and True here"]


def test_settings_that_a_file_gives_back_are_the_same_ones():
    here = settings_of(refit=True, learning_rate=1e-9, exclude=["bored"]) | {"plans": {"1 of 2": "a hash of a plan"}}
    there = json.loads(json.dumps(here))
    assert changed_settings(there, here) == [] and chosen_settings(there) == chosen_settings(here)


@dataclass
class Inner:
    kind: SchedulerType
    numbers: tuple


@dataclass
class Outer:
    inner: Inner
    table: dict
    output_dir: str = "no result depends on it"


def test_settings_of_any_kind_are_as_json_gives_them_back():
    settings = argument_settings(Outer(Inner(SchedulerType.COSINE, (1, 2.5)), {1: (SchedulerType.LINEAR, None)}))
    expected = {"inner": {"kind": "cosine", "numbers": [1, 2.5]}, "table": {"1": ["linear", None]}}
    assert settings == expected == json.loads(json.dumps(settings))


def test_every_setting_is_compared():
    here = settings_of()
    for name in here.keys() - {"encoder", "fold_lists"}:
        assert [line.split()[0] for line in changed_settings(here | {name: "other"}, here)] == [name]
    for name in ("encoder", "fold_lists"):  # fingerprints and the hashes of the plans stand for their contents
        assert changed_settings(here | {name: "../elsewhere"}, here) == []


def test_where_files_lie_and_how_fast_it_goes_is_no_setting():
    moved = settings_of(corpus="elsewhere", cache_dir="there", output_dir="here", folds=[1], dataloader_num_workers=2)
    assert moved == settings_of()


def test_what_changed_in_a_setting_of_several_parts_is_told_by_the_part():
    there = {"plans": {"1": "b", "2": "b", "3": "b"}, "optim_args": None}
    assert changed_settings(there, there) == []
    assert changed_settings(there, {"plans": {"1": "a", "2": "b", "4": "b"}}) == [
        "plans of 1: 'b' there and 'a' here",
        "plans of 4: None there and 'b' here",
        "plans of 3: there and not here",
    ]
    assert changed_settings(there, {"plans": {"1": "c", "2": "b", "3": "b"}}) == ["plans of 1: 'b' there and 'c' here"]
    assert changed_settings(there, {"optim_args": {"1": "b"}}) == ["optim_args is None there and {'1': 'b'} here"]
    assert changed_settings(there, {"plans": "b"}) == [f"plans is {there['plans']} there and 'b' here"]


def test_chosen_settings_are_those_that_are_not_the_default():
    for options in ({}, {"weight_decay": 0.1}, {"refit": True, "learning_rate": 1e-9}):
        assert chosen_settings(settings_of(**options)) == chosen_settings(settings_of()) | options
    assert chosen_settings({"an argument of a later release": None}) == {"an argument of a later release": None}
    assert not {"weight_decay", "refit", "protocol"} & chosen_settings(settings_of()).keys()
