"""`shift-ser evaluate`: scores of a run, of one saved model on a corpus, or of a file of predictions."""

import re
from collections.abc import Sequence
from pathlib import Path

import click

from .group import MODEL_FILE, RUN_MODEL_OR_CSV, Failed, from_folder_or_hub, quiet
from .training import parse_words, run_training


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("run", type=RUN_MODEL_OR_CSV, metavar="RUN|MODEL|CSV")
@click.option("--corpus", help="Folder of a corpus: score the saved models on it.")
@click.option("--robustness", is_flag=True, help="RUN: with noise, babble, reverberation, codecs, ...")
@click.option("--condition", "conditions", multiple=True, help="With --robustness: only this condition; repeatable.")
@click.option("--dialogs", is_flag=True, help="RUN: timelines of the held-out dialogs against the labels' times.")
@click.option("--window", "lengths", multiple=True, type=float, help="With --dialogs: length in s; repeatable. [4]")
@click.option(
    "--seen", type=click.Choice(["leave_out", "keep"]),
    help="MODEL: what to do with utterances that it was trained on, and their speakers. Default: refuse them.",
)  # fmt: skip
@click.option("--output", help="MODEL: CSV file for the predictions. Default: in MODEL/evaluation.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[--flag value ...]")
def evaluate(
    run: str, corpus: str | None, robustness: bool, conditions: Sequence[str], dialogs: bool, lengths: Sequence[float],
    seen: str | None, output: str | None, words: Sequence[str],
) -> None:  # fmt: skip
    r"""Scores of a finished RUN: its table, intervals and calibration, from its predictions.

    With --corpus its saved models are run again; the new predictions and results go to RUN/evaluation.

    MODEL is one saved model, such as RUN/fold1, or a name on the Hub: it is scored on any --corpus, whose labels may be
    joined, renamed or left out (--labels happy=hap,exc, --exclude, and all flags of `shift-ser train` that concern
    the corpus and the cache).

    CSV is a file of predictions, of this or another program: columns utterance, label, and prediction or a probability
    p_<label> for each label; or value_<dimension> and target_<dimension>; speaker, session, fold and seed where known.

    \b
    Example:  shift-ser evaluate runs/demo
              shift-ser evaluate runs/demo --corpus corpora/demo
              shift-ser evaluate runs/demo --corpus corpora/demo --robustness
              shift-ser evaluate runs/demo --corpus corpora/demo --dialogs --window 2 --window 4
              shift-ser evaluate runs/demo/fold1 --corpus IEMOCAP_full_release --exclude neutral
              shift-ser evaluate predictions.csv
    """
    is_run = not Path(run).is_file() and not (Path(run) / MODEL_FILE).is_file() and Path(run).is_dir()
    if not is_run and (robustness or conditions or dialogs or lengths):
        raise click.UsageError("--robustness, --condition, --dialogs and --window are for a run")
    if is_run and (seen or output):
        raise click.UsageError("--seen and --output are for a single model")
    if Path(run).is_file():
        if corpus or seen or output or words:
            raise click.UsageError("a file of predictions takes no flags")
        _evaluate_file(run)
    elif is_run:
        if (robustness and not corpus) or (conditions and not robustness):
            raise click.UsageError("--condition needs --robustness, which needs --corpus")
        if lengths and not dialogs:
            raise click.UsageError("--window needs --dialogs")
        if dialogs:
            _evaluate_dialogs(run, corpus, lengths)
        else:
            _evaluate_run(run, corpus, words, conditions if robustness else None)
    elif corpus is None:
        raise click.UsageError("a model needs --corpus CORPUS; the predictions of a fold are in its predictions.csv")
    else:
        _evaluate_model(run, corpus, words, seen, output)


def _evaluate_file(path: str) -> None:
    from ..evaluation.predictions import Predictions
    from ..evaluation.predictions_report import evaluate_predictions, evaluation_text

    click.echo(evaluation_text(evaluate_predictions(Predictions.read(path))))


def _evaluate_run(run: str, corpus: str | None, words: Sequence[str], conditions: Sequence[str] | None) -> None:
    """The table of a run; with a corpus its models are scored again, with conditions in each of them."""
    from ..evaluation.run_folder import RESULTS, TABLE, read_json, read_text
    from ..training.options import settings_words

    results = read_json(Path(run) / RESULTS)
    if corpus is None:
        if words:
            raise click.UsageError(f"{words[0]} needs --corpus")
        click.echo(read_text(Path(run) / TABLE), nl=False)
        if results["missing"]:
            raise Failed(f"{len(results['missing'])} folds are missing")
        return
    words = [*settings_words(results["settings"]), "--output_dir", run, "--corpus", corpus, *words]
    if conditions is None:
        run_training([*words, "--evaluate_only", "true"])
    else:
        _evaluate_robustness(words, conditions)


def _evaluate_dialogs(run: str, corpus: str | None, lengths: Sequence[float]) -> None:
    from ..evaluation.dialogs import dialogs_table
    from ..evaluation.run_folder import DIALOGS
    from ..inference.dialogs import evaluate_dialogs

    if corpus is None:
        raise click.UsageError("--dialogs needs --corpus")
    quiet()
    rows = evaluate_dialogs(run, corpus, chunk_lengths_s=lengths or (4.0,))
    click.echo(f"\n{dialogs_table(rows)}\n\nTable: {Path(run) / DIALOGS}")


def _evaluate_robustness(words: Sequence[str], conditions: Sequence[str]) -> None:
    from ..evaluation.robustness_report import robustness_table
    from ..evaluation.run_folder import ROBUSTNESS
    from ..training.cross_validation import CrossValidation
    from ..training.robustness_run import evaluate_robustness

    quiet()
    run = CrossValidation(*parse_words(words))
    rows = evaluate_robustness(run, conditions=conditions or None)
    click.echo(f"\n{robustness_table(rows)}\n\nPredictions, table and curves: {run.output_dir / ROBUSTNESS}")


def _evaluate_model(model: str, corpus: str, words: Sequence[str], seen: str | None, output: str | None) -> None:
    """Score one model on a corpus, write its predictions, print the scores."""
    from ..evaluation.predictions_report import evaluate_predictions, evaluation_text
    from ..training.arguments import parse_data_arguments
    from ..training.evaluate_model import evaluate_model, open_corpus, run_words

    quiet()
    words = ["--corpus", corpus, *words]
    try:
        parse_data_arguments(words)  # a mistyped flag is told first
        data_args = parse_data_arguments([*run_words(model, corpus), *words])
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    with from_folder_or_hub("MODEL", model):
        speech = open_corpus(model, data_args)
        predictions = evaluate_model(model, speech, seen=seen)
    path = Path(output) if output else _output_of(model, speech.info.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    predictions.write(path)
    click.echo(f"\n{speech.info.description}\n\n{evaluation_text(evaluate_predictions(predictions))}")
    click.echo(f"\nPredictions: {path}")


def _output_of(model: str, corpus: str) -> Path:
    from ..evaluation.run_folder import EVALUATION

    name = re.sub(r"[^\w.-]+", "_", corpus)
    folder = Path(model) / EVALUATION if Path(model).is_dir() else Path(EVALUATION) / Path(model).name
    return folder / f"{name}.csv"
