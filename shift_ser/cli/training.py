"""A run from the command line: what is mistyped, what is printed, what is pushed."""

import logging
import os
import shlex
from collections.abc import Sequence
from typing import Any

import click

from .group import MODEL, Failed, hint, quiet

logger = logging.getLogger(__name__)


def run_training(words: Sequence[str]) -> None:
    """Train and evaluate, write the models' cards, print the table, push if asked to.

    Args:
        words: Recipe and flags, as `parse_arguments` takes them.

    Raises:
        UsageError: If a flag, the recipe, the head or the encoder is not known.
        Failed: If a fold or the upload failed.
    """
    from accelerate import PartialState

    from ..hub.model_card import write_fold_cards
    from ..hub.push import HubRepository
    from ..training.cross_validation import AllFoldsFailed, CrossValidation

    arguments = parse_words(words)
    run_args = arguments[-1]
    main_process = run_args.process_index == 0
    again = same_command(words, num_processes=run_args.world_size)
    hub = None
    quiet(logging.INFO if main_process else logging.ERROR)
    _tell_lone_process(words)
    try:
        run = CrossValidation(*arguments)
        if run_args.push_to_hub:
            hub = HubRepository(run_args, settings=run.settings, corpus=run.corpus.info)
        results = run.run()
        if main_process and not run_args.evaluate_only:
            write_fold_cards(run.output_dir, results)
        PartialState().destroy_process_group()  # one that is left to the interpreter's exit may abort it
    except AllFoldsFailed as error:
        raise Failed(str(error)) from error
    except KeyboardInterrupt:
        raise Failed(f"stopped; this goes on from the last finished epoch:\n\n    {again}") from None
    if main_process:
        _finish(run, results, hub, again)
    elif run.failed:
        raise Failed(f"{len(run.failed)} folds failed")


def _tell_lone_process(words: Sequence[str]) -> None:
    """Say so where `accelerate launch --num_processes 2` started one process, as it does without an accelerator.

    It then says where several processes meet (`MASTER_ADDR`), but not how many there are (`WORLD_SIZE`).
    """
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
    if launched and "WORLD_SIZE" not in os.environ:
        logger.warning(
            "accelerate launch was told to start several processes and started one; without an accelerator this starts"
            " two: %s", same_command(words, num_processes=2),
        )  # fmt: skip


def _finish(run: Any, results: dict[str, Any], hub: Any, again: str) -> None:
    """Print what a run came to; tell what is missing; push."""
    from ..hub.push import PushError

    corpus = results["corpus"]["description"]
    click.echo(f"\n{corpus}\n\n{run.table(results)}\n\nResults, models and figures: {run.results_dir}")
    if results["final"]:
        click.echo(f"The model to ship, which saw every speaker: {run.final.folder}")
    if run.failed:
        told = "\n".join(f"fold {entry['fold']}, seed {entry['seed']}: {entry['reason']}" for entry in run.failed)
        raise Failed(f"{len(run.failed)} folds failed\n{told}\nThey are run again by\n\n    {again}")
    if hub:
        try:
            click.echo(f"Pushed: {hub.push(run.output_dir)}")
        except PushError as error:
            raise Failed(f"{error}\n\n    {again}") from error


def parse_words(words: Sequence[str]) -> Any:
    """The arguments of a run; what is mistyped is a usage error."""
    from ..model.heads import variants
    from ..training.arguments import parse_arguments

    try:
        arguments = parse_arguments(words)
    except (ValueError, OSError) as error:
        raise click.UsageError(str(error)) from error
    variant, encoder = arguments[0].variant, arguments[0].encoder_path
    if variant not in variants():
        raise click.UsageError(f"--variant {variant!r} is not known; {hint(variant, sorted(variants()))}")
    try:
        MODEL.convert(encoder, None, None)
    except click.BadParameter as error:
        raise click.UsageError(f"--encoder {error.message}") from error
    return arguments


def same_command(words: Sequence[str], *, num_processes: int = 1) -> str:
    """The command line of a run, to show: without a token."""
    from ..evaluation.public import hide_token

    start = ["shift-ser", "train"]
    if num_processes > 1:
        launch = f"accelerate launch --multi_gpu --num_processes {num_processes} -m shift_ser.cli train"
        start = launch.split()
    return shlex.join([*start, *hide_token(words)])
