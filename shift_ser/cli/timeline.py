"""`shift-ser timeline`: which emotion is heard at which time in a long recording."""

import inspect
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import click

from ..inference.timeline_options import TimelineOptions
from .group import MODEL, from_folder_or_hub, quiet


def _options_of_timeline(command: Callable) -> Callable:
    """An option of the command for each of `TimelineOptions`, which says what it is for and what it is by default."""
    lines = inspect.getdoc(TimelineOptions) or ""
    told = {name: " ".join(text.split()) for name, text in re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", lines, re.M)}
    for field in reversed(fields(TimelineOptions)):
        flag = f"--{field.name}/--no_{field.name}" if field.type is bool else f"--{field.name}"
        option = click.option(
            flag, type=field.type, default=field.default, show_default=True, help=told[field.name].replace("`", "")
        )
        command = option(command)
    return command


@click.command()
@click.argument("file")
@click.option("--model", type=MODEL, required=True, help="Folder of a saved model, or its name on the Hub.")
@click.option("--segments", help="Turns whose emotion is wanted: a CSV (start, end, speaker), RTTM or TextGrid file.")
@click.option(
    "--output", multiple=True,
    help="File to write, .json, .csv, .rttm, .TextGrid, .vtt or .srt, instead of printing; repeatable.",
)  # fmt: skip
@click.option("--calibrated", is_flag=True, help="Divide logits by the model's temperature.")
@click.option("--allow-truncated", is_flag=True, help="Read a truncated recording as far as it goes.")
@_options_of_timeline
def timeline(
    file: str, model: str, segments: str | None, output: Sequence[str], calibrated: bool, allow_truncated: bool,
    **options: Any,
) -> None:  # fmt: skip
    r"""Which emotion is heard at which time in FILE, a recording of any length or a URL; in constant memory.

    Prints start, end, label and score of each segment. Where nobody speaks there is none.

    \b
    Example:  shift-ser timeline --model runs/demo/fold1 dialog.wav
              shift-ser timeline --model runs/demo/fold1 dialog.wav --output dialog.TextGrid --output dialog.json
              shift-ser timeline --model runs/demo/fold1 dialog.wav --segments turns.rttm
    """
    from ..inference.predict import load_classifier
    from ..inference.timeline import timeline as make_timeline
    from ..inference.timeline_files import check_suffix, write_timeline

    try:
        for path in output:
            check_suffix(path)
        TimelineOptions(**options)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    quiet(logging.WARNING)
    with from_folder_or_hub("--model", model):
        classifier = load_classifier(model, calibrated=calibrated, allow_truncated=allow_truncated)
    found = make_timeline(classifier, file, segments=segments, progress=True, **options)
    for path in output:
        write_timeline(found, path)
    if not output:
        for segment in found.segments:
            speaker = f"  {segment['speaker']}" if "speaker" in segment else ""
            told = f"{segment['label']}  {segment['score']:.3f}{speaker}"
            click.echo(f"{segment['start']:9.2f} {segment['end']:9.2f}  {told}")
    if not found.segments:
        click.echo(f"no speech in {click.format_filename(file)}", err=True)
