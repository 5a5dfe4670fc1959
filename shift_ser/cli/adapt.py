"""`shift-ser adapt`: the pretraining of an encoder continues on the training sets of a corpus."""

from collections.abc import Sequence
from typing import Any

import click

from .group import MODEL, Failed, quiet


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[--flag value ...]")
def adapt(words: Sequence[str]) -> None:
    r"""Continue an encoder's own pretraining on the training sets of a corpus, without labels.

    Each fold gets an encoder that has heard nothing of its validation and test sets; `--encoder 'FOLDER/fold{fold}'`
    of `shift-ser train` takes them all. The same command goes on where it was stopped. `shift-ser adapt --help` lists
    the flags.

    \b
    Example:  shift-ser adapt --encoder facebook/hubert-base-ls960 --corpus IEMOCAP_full_release \
                --num_train_epochs 20 --output_dir runs/adapt
              shift-ser train shiftformer_feature_extraction --encoder 'runs/adapt/fold{fold}'
    """
    from ..training.options import describe_adaptation

    if {"--help", "-h", "--help-all", "--help_all"} & set(words):
        click.echo(describe_adaptation(everything=bool({"--help-all", "--help_all"} & set(words))))
        return
    _run(words)


def _run(words: Sequence[str]) -> None:
    from ..hub.encoder_card import write_encoder_card
    from ..training.arguments import parse_arguments
    from ..training.pretraining import adapt as run_adaptation
    from ..training.pretraining_objectives import AdaptArguments

    try:
        arguments: Any = parse_arguments(words, first=AdaptArguments)
        MODEL.convert(arguments[0].encoder_path, None, None)
    except (ValueError, OSError, click.BadParameter) as error:
        raise click.UsageError(str(getattr(error, "message", error))) from error
    quiet()
    try:
        folders = run_adaptation(*arguments)
    except KeyboardInterrupt:
        raise Failed("stopped; the same command goes on from the last finished epoch") from None
    if arguments[-1].process_index == 0:
        for folder in folders:
            click.echo(write_encoder_card(folder))
