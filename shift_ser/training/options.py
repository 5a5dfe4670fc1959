"""The flags of `shift-ser train` as text: grouped, each with the value that applies."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, fields
from typing import Any

import click

from ..model.configuration_shift_ser import ShiftConfig
from .arguments import DataArguments, ModelArguments, RunArguments, parse_arguments
from .pretraining_objectives import NOT_READ, AdaptArguments

_HEAD = """Usage: shift-ser train [RECIPE] [--flag value ...]

  Train and evaluate over the folds of a corpus. RECIPE is a YAML file or the name of one that ships with the package;
  flags win over it. The same command goes on where a run was stopped, and runs folds that failed again.

  Example:  shift-ser train shiftformer_feature_extraction --corpus IEMOCAP_full_release
            accelerate launch -m shift_ser.cli train demo --folds 1 2

  Exit codes: 0 done, 1 a fold or the upload failed, 2 the command was not understood."""


_ADAPT = """Usage: shift-ser adapt [RECIPE] [--flag value ...]

  Go on with an encoder's own pretraining on the training sets of a corpus, without labels: one encoder for each fold,
  FOLDER/fold1 and so on, which `shift-ser train --encoder 'FOLDER/fold{fold}'` takes. The same command goes on where it
  was stopped.

  Example:  shift-ser adapt --encoder facebook/hubert-base-ls960 --corpus IEMOCAP_full_release --output_dir runs/adapt

  Exit codes: 0 done, 1 something failed, 2 the command was not understood."""


def describe_adaptation(*, everything: bool = False) -> str:
    """The flags of `shift-ser adapt` in groups, with their defaults; all of the Trainer's where `everything`."""
    read = [item for item in fields(DataArguments) if item.name not in NOT_READ]
    own, rest = _run_options()
    groups = {
        "Encoder and objective": _lines(fields(AdaptArguments), vars(AdaptArguments())),
        "Corpus": _lines(read, vars(DataArguments())),
        "Run": _lines([item for item in own if item.name not in NOT_READ], vars(RunArguments())),
    }
    if everything:
        groups["Trainer of transformers"] = _lines(rest, vars(RunArguments()))
    return _text(_ADAPT, groups, everything=everything)


def describe_options(words: Sequence[str], *, everything: bool = False) -> str:
    """The flags in groups; in brackets the value that applies with the recipe and flags in `words`.

    Args:
        words: As `parse_arguments` takes them.
        everything: Whether the flags that the Trainer brings are listed too.

    Raises:
        ValueError: If there is an unknown flag in `words`.
        FileNotFoundError: If there is no such recipe.
    """
    model_args, data_args, run_args = parse_arguments(words)
    options = model_args.config_options()
    config = ShiftConfig.from_variant(options.pop("variant"), **options)
    own, rest = _run_options()
    groups = {
        "Encoder and head": _lines(fields(ModelArguments), {**vars(config), **_said(model_args)}),
        "Corpus and cache": _lines(fields(DataArguments), vars(data_args)),
        "Run": _lines(own, vars(run_args)),
    }
    if everything:
        groups["Trainer of transformers"] = _lines(rest, vars(run_args))
    return _text(_HEAD, groups, everything=everything)


def _run_options() -> tuple[list[Field], list[Field]]:
    """The package's own options of a run, and those that the Trainer brings."""
    own = [item for item in fields(RunArguments) if item.name in RunArguments.__annotations__ and _is_own(item)]
    return own, [item for item in fields(RunArguments) if item.init and item not in own]


def _text(head: str, groups: Mapping[str, Iterator[tuple[str, str]]], *, everything: bool) -> str:
    formatter = click.HelpFormatter(width=110)
    for title, lines in groups.items():
        with formatter.section(title):
            formatter.write_dl(list(lines), col_max=34)
    end = "" if everything else "\n--help-all lists the flags of the Trainer too."
    return f"{head}\n\n{formatter.getvalue()}{end}".rstrip()


def settings_words(settings: Mapping[str, Any]) -> list[str]:
    """The flags that make a run with the `settings` of a finished one."""
    kinds = (ModelArguments, AdaptArguments, DataArguments, RunArguments)
    known = {item.name for kind in kinds for item in fields(kind)}
    words = []
    for name, value in settings.items():
        if name in known and value not in (None, []):
            values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
            words += [f"--{name}", *map(str, values)]
    return words


def _is_own(option: Field) -> bool:
    """Whether the package defines or explains it anew, rather than leaving it to the Trainer."""
    return not str(option.metadata.get("help")).startswith(("as in", "fixed"))


def _said(arguments: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(arguments).items() if value is not None}


def _lines(options: Sequence[Field], values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for option in options:
        value = values.get(option.name)
        shown = " ".join(map(str, value)) if isinstance(value, list) else str(getattr(value, "value", value))
        told = " ".join(str(option.metadata.get("help", "")).replace("%%", "%").split())  # argparse's way of a `%`
        yield f"--{option.name}", f"{told} [{shown}]" if value is not None else told
