"""The grid of a study: from a YAML file to the places that are shown and the cells that are run for them."""

import contextlib
import functools
import hashlib
import io
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig

from ..corpora import find_corpus
from ..model.configuration_shift_ser import ShiftConfig
from ..model.heads import HEADS
from ..model.temporal_shift import shifted_channels
from ..recipes import find_encoder, find_recipe, find_study
from ..training.arguments import DataArguments, ModelArguments, RunArguments, parse_arguments, read_yaml, refuse_unknown
from ..training.settings import chosen_settings, result_settings

# What every row of a study's tables tells, beside anything else that the grid varies.
# fmt: off
COLUMNS = (
    "head_type", "shift_placement", "shift_proportion", "shift_direction", "shift_stride", "shift_layers", "encoder",
    "encoder_layer", "corpus", "seed",
)
# Not to be varied: they tell where a run lies, or which part of it is done.
FIXED = {
    "output_dir", "cache_dir", "folds", "evaluate_only", "push_to_hub", "hub_model_id", "hub_token", "hub_private_repo",
}
# fmt: on
KEYS = ("base", "grid", "grids", "output_dir", "skip_impossible", "keep_models", "baselines")
_IMPOSSIBLE = "grid must hold possible combinations (skip_impossible: true leaves others out), got"
SEEDS = {"seed", "seeds"}
ALIASES = ("variant", "seeds")  # shown as head_type and seed
OPTIONS = {field.name for kind in (ModelArguments, DataArguments, RunArguments) for field in fields(kind)} | {
    "head_type"
}
SHIFT_OPTIONS = ("shift_proportion", "shift_direction", "shift_stride", "shift_padding", "shift_layers")


@dataclass(frozen=True)
class Place:
    """A place of the grid: what was asked for, by option, and the name of the cell that answers it."""

    options: dict[str, Any]
    cell: str


@dataclass(frozen=True)
class StudyPlan:
    """What a study's file asks for.

    Attributes:
        output_dir: Folder of the study.
        places: The grid, in its order; several may be answered by the same cell.
        cells: For each cell, by the name of its folder, the words `parse_arguments` takes.
        impossible: Combinations that no run can be made of, each with the reason.
        varied: Options that the grid varies.
        keep_models: Whether the folds' weights stay once they are measured.
        baselines: Whether the baselines are shown beside the heads.
    """

    output_dir: Path
    places: list[Place]
    cells: dict[str, list[str]]
    impossible: list[str]
    varied: list[str]
    keep_models: bool
    baselines: bool = True


def plan_study(
    path: str | Path, *, output_dir: str | Path | None = None, corpus: str | Path | None = None
) -> StudyPlan:
    """Read a study's file and work out its cells; nothing is run.

    The file holds `base`, a recipe or its keys (`recipe` among them names one to start from), and `grid`, or a list
    of `grids`: a list of values for each option that varies. Options are those of `shift-ser train`, and `head_type`
    beside `variant`; a proportion may be written `1/16`, and every seed is a run of its own. Paths are those of the
    current folder, as in a recipe. `skip_impossible: true` leaves out what no run can be made of, otherwise that is an
    error.
    `keep_models: false` deletes the weights of folds that are measured, `baselines: false` leaves out the baselines.

    What comes to the same model is one cell: with a proportion of 0, or one that moves no channel, every placement but
    `replace` (which leaves out the attention as well) is `none`.

    Args:
        path: YAML file.
        output_dir: Folder of the study, in place of the one in the file.
        corpus: Where the corpus lies, in place of what the file says.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If `corpus` is given and the grid varies it, or the file is not a study, names an unknown option, or
            asks for impossible combinations.
    """
    path = find_study(path)
    study = read_yaml(path, kind="study")
    refuse_unknown(study, KEYS, where=f"study {str(path)!r}")
    base, combinations = _read_base(study.get("base"), path), list(_combinations(study, path))
    if corpus is not None:
        base["corpus"] = _other_corpus(corpus, combinations, path)
    extra = [name for name in dict.fromkeys(itertools.chain(*combinations)) if name not in {*COLUMNS, *ALIASES}]
    places: dict[str, Place] = {}  # by content: a place that is listed twice is shown once
    cells: dict[str, list[str]] = {}
    impossible = []
    for combination in combinations:
        try:
            seedless = {
                name: value for name, value in base.items() if name not in SEEDS or not combination.keys() & SEEDS
            }
            for options, cell, words in _resolve(seedless | combination, extra):
                places.setdefault(json.dumps(options), Place(options, cell))
                cells.setdefault(cell, words)
        except (ValueError, OSError, StrictDataclassError) as error:
            told = ", ".join(f"{name}={value}" for name, value in combination.items())
            impossible.append(f"{told}: {' '.join(str(error).split())}")
    if not places or (impossible and not study.get("skip_impossible", False)):
        raise ValueError("\n- ".join([_IMPOSSIBLE, *impossible]))
    found = list(places.values())
    # A head's own defaults differ from another's as well, but nobody varied them.
    named = {"head_type", "shift_placement", "seed", *itertools.chain(*combinations)}
    return StudyPlan(
        output_dir=Path(output_dir or study.get("output_dir") or Path("runs") / path.stem),
        places=found,
        cells=cells,
        impossible=impossible,
        varied=[
            name
            for name in found[0].options
            if name in named and len({str(place.options[name]) for place in found}) > 1
        ],
        **{name: bool(study.get(name, True)) for name in ("keep_models", "baselines")},
    )


def _other_corpus(corpus: str | Path, combinations: Sequence[Mapping[str, Any]], path: Path) -> str:
    """The corpus that takes the place of the file's."""
    if any("corpus" in combination for combination in combinations):
        raise ValueError(
            f"corpus must not be given where the grid varies it, as {str(path)!r} does, got {str(corpus)!r}"
        )
    return str(corpus)


def _read_base(base: Any, path: Path) -> dict[str, Any]:
    """The options that all cells share."""
    base = {"recipe": base} if isinstance(base, str) else dict(base or {})
    recipe = base.pop("recipe", None)
    options = {**(read_yaml(find_recipe(recipe), kind="recipe") if recipe else {}), **base}
    refuse_unknown(options, OPTIONS, where=f"study {str(path)!r}")
    return {name: value for name, value in options.items() if value is not None}


def _combinations(study: Mapping[str, Any], path: Path) -> Iterator[dict[str, Any]]:
    """Every combination of every grid, as its file says it."""
    grids = study.get("grids") or [study.get("grid") or {}]
    if not isinstance(grids, list) or not all(isinstance(grid, dict) for grid in [*grids, study.get("grid") or {}]):
        raise ValueError(f"{str(path)!r} must hold a grid of `option: values` lines, or a list of such grids")
    if study.get("grids") and study.get("grid"):
        raise ValueError(f"{str(path)!r} must hold grid or grids, got both")
    for grid in grids:
        refuse_unknown(grid, OPTIONS, where=f"study {str(path)!r}")
        if fixed := FIXED & set(grid):
            raise ValueError(f"{sorted(fixed)[0]} cannot vary within a study; it belongs into base, or nowhere")
        axes = [values if isinstance(values, list) else [values] for values in grid.values()]
        if not all(axes):
            raise ValueError(f"every option of a grid must have a value, got {grid}")
        for values in itertools.product(*axes):
            yield {name: value for name, value in zip(grid, values, strict=True) if value is not None}


def _resolve(said: dict[str, Any], extra: list[str]) -> Iterator[tuple[dict[str, Any], str, list[str]]]:
    """For each seed: the options shown, the cell's name and its words. Raises if no run can be made of it."""
    said = {name: value for name, value in said.items() if name != "output_dir"}
    if (head := said.pop("head_type", None)) is not None:
        if head not in HEADS:
            raise ValueError(f"head_type must be one of {tuple(HEADS)}, got {head!r}")
        plain, first = next(iter(HEADS[head].variants)), HEADS[head].placements[0]
        said |= {"variant": plain, "shift_placement": said.get("shift_placement", first)}
    if isinstance(proportion := said.get("shift_proportion"), str):
        try:
            said["shift_proportion"] = float(Fraction(proportion))
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"shift_proportion must be a number, or written as 1/16, got {proportion!r}") from None
    model_args, data_args, run_args = _parse(said)
    find_corpus(data_args.corpus)
    config = _configure(model_args)
    if not config.problem.classes:
        raise ValueError(f"a study is told in UA, but problem_type {config.problem_type!r} has no classes")
    arguments = vars(model_args) | vars(data_args) | vars(run_args)
    told = {name: getattr(config, name, arguments.get(name)) for name in (*COLUMNS, *extra)}
    if config.shift_placement == "none":
        told["shift_proportion"] = 0.0
    model = _normal_options(model_args, config)
    corpus = os.path.normpath(data_args.corpus)
    settings = result_settings(model_args, data_args, run_args) | model | {"corpus": corpus, "seeds": None}
    others = {name: value for name, value in said.items() if name not in vars(model_args).keys() | SEEDS}
    for seed in run_args.seeds or [run_args.seed]:
        identity = json.dumps(chosen_settings(settings) | {"seed": seed}, sort_keys=True)
        digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
        name = f"{Path(corpus).name}-{_short_name(config.head_type, model)}-seed{seed}-{digest}"
        yield told | {"seed": seed}, re.sub(r"[^\w.-]", "_", name), _words(model | others | {"seed": seed})


def _parse(said: Mapping[str, Any]) -> tuple[ModelArguments, DataArguments, RunArguments]:
    """What `parse_arguments` makes of the options, its complaint as a `ValueError`."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return parse_arguments(_words(said))
    except SystemExit:
        raise ValueError(complaint.getvalue().strip().rpartition("error: ")[2]) from None


def _words(said: Mapping[str, Any]) -> list[str]:
    words = []
    for name, value in said.items():
        values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        words += [f"--{name}", *map(str, values)] if value is not None else []
    return words


@functools.lru_cache(maxsize=16)
def _encoder_config(encoder: str) -> PreTrainedConfig:
    return AutoConfig.from_pretrained(find_encoder(encoder))


def _configure(model_args: ModelArguments) -> ShiftConfig:
    options = model_args.config_options()
    variant = options.pop("variant")
    return ShiftConfig.from_variant(variant, encoder_config=_encoder_config(model_args.encoder), **options)


def moves_nothing(config: ShiftConfig) -> bool:
    """Whether the shift is none: by placement, without a block to sit in, or because no channel moves."""
    moved = shifted_channels(config.hidden_size, proportion=config.shift_proportion or 0.0)
    return config.shift_placement == "none" or not config.shift_layers or moved == 0


def _normal_options(model_args: ModelArguments, config: ShiftConfig) -> dict[str, Any]:
    """All model options with the value they come to, the same ones for all ways to say the same model."""
    options = {name: getattr(config, name, value) for name, value in vars(model_args).items()}
    if moves_nothing(config):
        options |= dict.fromkeys(SHIFT_OPTIONS)
        if config.shift_placement == "replace" and config.shift_layers:
            options |= {"shift_proportion": 0.0, "shift_layers": config.shift_layers}
        else:
            options["shift_placement"] = "none"
    names = {variant.placement: name for name, variant in HEADS[config.head_type].variants.items()}
    options["variant"] = names.get(options["shift_placement"], next(iter(HEADS[config.head_type].variants)))
    return options


def fraction(value: float) -> str:
    """A proportion as it is written, `1/16`.

    Example:
        >>> fraction(0.0625), fraction(0.0), fraction(0.3)
        ('1/16', '0', '3/10')
    """
    return str(Fraction(value).limit_denominator(1024))


def _short_name(head: str, options: Mapping[str, Any]) -> str:
    placement, proportion = options["shift_placement"], options["shift_proportion"]
    return head if placement == "none" else f"{head}-{placement}-{fraction(proportion).replace('/', 'of')}"
