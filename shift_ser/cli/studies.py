"""`shift-ser study` and `shift-ser cross`: many runs, their tables and figures."""

import itertools
from collections.abc import Sequence

import click

from .group import Failed, quiet
from .training import parse_words


@click.command()
@click.argument("name", metavar="STUDY")
@click.option("--corpus", help="Where the corpus lies, in place of what the file says.")
@click.option("--output_dir", help="Folder of the study, in place of the one in its file.")
@click.option("--jobs", default=1, show_default=True, help="Runs at the same time.")
@click.option("--part", "parts", multiple=True, help="Only this study of a set; repeatable.")
@click.option("--measure", is_flag=True, help="Time a few training steps of each kind first, and estimate the hours.")
@click.option("--dry-run", is_flag=True, help="Print what would be run, and run nothing.")
@click.option("--verify", is_flag=True, help="STUDY is the folder of a bundle: compute all its numbers again.")
def study(
    name: str, corpus: str | None, output_dir: str | None, jobs: int, parts: Sequence[str], measure: bool,
    dry_run: bool, verify: bool,
) -> None:  # fmt: skip
    r"""Run a grid of options and write its tables and figures, or a set of such studies and its bundle.

    STUDY is a YAML file with base and grid, or the name of one that ships with the package. The same command goes on
    where it was stopped; a grid with more values runs only what is new. A file with a list of `studies` is a set: it
    ends in a bundle of predictions, plans and tables, which --verify computes again.

    \b
    Example:  shift-ser study demo_heads --jobs 2
              shift-ser study paper_stride --corpus IEMOCAP_full_release
              shift-ser study reproduce_paper --corpus IEMOCAP_full_release
              shift-ser study --verify runs/reproduce_paper/bundle
    """
    from ..recipes import find_study
    from ..studies.bundle_check import verify_bundle
    from ..studies.cost import cost_text
    from ..studies.reproduction import plan_set, run_set

    if verify:
        told = ", ".join(f"{count} {what}" for what, count in verify_bundle(name).items())
        click.echo(f"{name} adds up: {told}")
        return
    try:
        find_study(name)
    except FileNotFoundError as error:
        raise click.UsageError(str(error)) from error
    quiet()
    planned = plan_set(name, output_dir=output_dir, corpus=corpus, parts=parts)
    click.echo(cost_text(planned.plans, measure=measure))
    if dry_run:
        return
    done = run_set(planned, jobs=jobs)
    for each in done.studies.values():
        click.echo(f"\n{each.summary}\nTables and figures: {each.plan.output_dir}")
    if done.bundle:
        click.echo(f"\nBundle: {done.bundle}")
    failed = {cell: why for each in done.studies.values() for cell, why in each.failed.items()}
    if failed:
        raise Failed(f"{len(failed)} cells failed, see above")


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--recipe", help="YAML file or name of one that ships with the package.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="CORPUS CORPUS ... [--flag value ...]")
def cross(recipe: str | None, words: Sequence[str]) -> None:
    r"""Train on each CORPUS of a list and test on each, over the labels that all have: a matrix with intervals.

    Flags are those of `shift-ser train`. --labels joins and renames labels so that they are common, in each corpus as
    far as it has them. The same command goes on where it was stopped.

    \b
    Example:  shift-ser cross --recipe demo corpora/demo corpora/other --output_dir runs/cross
              shift-ser cross IEMOCAP_full_release CREMA-D --labels happy=happiness angry=anger
    """
    from ..evaluation.cross_report import cross_table
    from ..training.cross_corpus import cross_corpora

    sources = list(itertools.takewhile(lambda word: not word.startswith("-"), words))
    arguments = parse_words([*([recipe] if recipe else []), *words[len(sources) :]])
    quiet()
    rows = cross_corpora(sources, *arguments)
    click.echo(f"\n{cross_table(rows)}\n\nRuns, predictions, table and figure: {arguments[-1].output_dir}")
