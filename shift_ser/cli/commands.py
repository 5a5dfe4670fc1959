"""The commands; each imports what it needs when it runs."""

import importlib.util
import logging
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from .adapt import adapt
from .evaluate import evaluate
from .group import MODEL, RUN, RUN_OR_CSV, Commands, Failed, from_folder_or_hub, hint, quiet
from .studies import cross, study
from .timeline import timeline
from .training import run_training

_WORDS = {"ignore_unknown_options": True, "allow_interspersed_args": False}
# From --engine of predict to what runs the model.
_ENGINES = {"local": "torch", "ray": "torch", "onnxruntime": "onnxruntime", "openvino": "openvino"}
_IN = {engine: f" in {engine}" for engine, runs in _ENGINES.items() if runs != "torch"}  # as the scores tell it


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="shift-ser", message="%(package)s %(version)s")
def cli() -> None:
    r"""Temporal shift heads for speech emotion recognition: train, evaluate, predict, export.

    \b
    Try it:     shift-ser demo
    Your data:  shift-ser train shiftformer_feature_extraction --corpus FOLDER
    Then:       shift-ser predict --model runs/shiftformer_feature_extraction/fold1 recordings/

    Exit codes: 0 done, 1 something failed or is incomplete, 2 the command was not understood.
    """


cli.add_command(evaluate)
cli.add_command(adapt)
cli.add_command(study)
cli.add_command(cross)
cli.add_command(timeline)


@cli.command(context_settings={**_WORDS, "help_option_names": []})
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[RECIPE] [--flag value ...]")
def train(words: Sequence[str]) -> None:
    """Train and evaluate over the folds of a corpus.

    RECIPE is a YAML file or the name of one that ships with the package; flags win over it. The same command goes on
    where a run was stopped. `shift-ser train --help` lists the flags, `--help-all` those of the Trainer too.
    """
    if {"--help", "-h", "--help-all", "--help_all"} & set(words):
        from ..training.options import describe_options

        everything = bool({"--help-all", "--help_all"} & set(words))
        recipe = [word for word in words if word not in ("--help", "-h", "--help-all", "--help_all")]
        try:
            click.echo(describe_options(recipe, everything=everything))
        except (ValueError, OSError) as error:
            raise click.UsageError(str(error)) from error
    else:
        run_training(words)


@cli.command(context_settings=_WORDS)
@click.option("--num_utterances", default=400, show_default=True, help="Utterances to speak.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[--flag value ...]")
def demo(num_utterances: int, words: Sequence[str]) -> None:
    r"""Speak a small corpus, train a Shiftformer over five folds, classify a file.

    Writes corpora/demo, cache/demo and runs/demo into the working folder; a minute or two on two cores. The corpus is
    spoken by espeak-ng voices: its scores say that the software works, nothing about emotion in people. Flags are
    those of `shift-ser train`.

    \b
    Example:  shift-ser demo
              shift-ser demo --num_train_epochs 2
    """
    if importlib.util.find_spec("espeakng_loader") is None:
        raise Failed('the demo speaks its corpus with espeak-ng: pip install "shift-ser[demo]"')
    from ..corpora.synthetic import make_synthetic_corpus
    from ..training.arguments import parse_arguments

    words = ["demo", *words]
    _, data_args, run_args = parse_arguments(words)
    quiet()
    corpus = make_synthetic_corpus(data_args.corpus, num_utterances=num_utterances)
    run_training(words)
    recording = next(iter(sorted(corpus.glob("Session1/sentences/wav/Ses01F_impro01/[!.]*.wav"))))
    model = Path(run_args.output_dir) / "fold1"
    words = ["shift-ser", "predict", "--model", str(model), os.path.relpath(recording)]
    click.echo(f"\n$ {shlex.join(words)}")
    cli.commands["predict"].main(words[2:], prog_name="shift-ser predict", standalone_mode=False)


@cli.command()
@click.argument("files", nargs=-1, required=True)
@click.option("--model", type=MODEL, required=True, help="Folder of a saved model, or its name on the Hub.")
@click.option(
    "--dtype", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", show_default=True,
    help="auto: bfloat16 where the machine computes it; float32 gives the exact scores.",
)  # fmt: skip
@click.option("--calibrated", is_flag=True, help="Divide logits by the model's temperature.")
@click.option("--labels", help="Only these labels, separated by commas; their scores sum to 1.")
@click.option("--abstain", type=float, default=0.0, help="Score below which a recording gets no label, such as 0.6.")
@click.option("--allow-truncated", is_flag=True, help="Read truncated recordings as far as they go.")
@click.option(
    "--max-memory", "--max_memory", type=float, metavar="GB",
    help="Most that one pass may take; a recording too long for it is an error. Default: what the machine has left.",
)  # fmt: skip
@click.option("--output", help="CSV file to write or to continue, instead of printing; with ray a folder of Parquet.")
@click.option(
    "--engine", type=click.Choice(list(_ENGINES)), default="local", show_default=True,
    help="ray: the workers of a Ray cluster (RAY_ADDRESS), else of this machine; FILES may be addresses such as s3://..."
    " onnxruntime, openvino: in place of torch, of a model that `shift-ser export` wrote.",
)  # fmt: skip
@click.option("--workers", type=int, help="With ray: processes that hold a model. Default: one for each CPU or GPU.")
@click.option("--embeddings", help="npz file to write with one vector for each recording, instead of labels.")
@click.option(
    "--embedding-of", type=click.Choice(["head", "encoder"]), default="head", show_default=True,
    help="Frames that become an embedding: those of the trained head, or those of the encoder.",
)  # fmt: skip
@click.option(
    "--pooling", type=click.Choice(["mean", "mean_and_deviation"]), default="mean", show_default=True,
    help="How frames become one vector.",
)  # fmt: skip
def predict(
    files: Sequence[str], model: str, dtype: str, calibrated: bool, labels: str | None, abstain: float,
    allow_truncated: bool, max_memory: float | None, output: str | None, engine: str, workers: int | None,
    embeddings: str | None, embedding_of: str, pooling: str,
) -> None:  # fmt: skip
    r"""Label and scores of audio FILES, and of all those in folders, of any rate and number of channels.

    With --output the same command goes on where it was stopped. Files that cannot be read are listed at the end, and
    the exit code is 1. Other files in a folder are listed, too. Videos, m4a and aac need the extra `av`.

    \b
    Example:  shift-ser predict --model runs/demo/fold1 one.wav two.flac
              shift-ser predict --model runs/demo/fold1 recordings/ --output scores.csv
              shift-ser predict --model runs/demo/fold1 recordings/ --embeddings vectors.npz
              shift-ser predict --model org/name s3://bucket/calls --engine ray --output s3://bucket/scores
              shift-ser predict --model exported/demo recordings/ --engine openvino --output scores.csv
    """
    if (engine == "ray" and (output is None or embeddings is not None)) or (engine != "ray" and workers is not None):
        raise click.UsageError("--engine ray must stand with --output and without --embeddings, --workers with ray")
    if embeddings is not None and engine in _IN:
        raise click.UsageError(f"--embeddings must stand without --engine {engine}, whose graph gives scores alone")
    if embeddings is not None and (output is not None or labels is not None or abstain or calibrated):
        raise click.UsageError("--embeddings must stand without --output, --labels, --abstain and --calibrated")
    from ..inference.predict import find_recordings, load_classifier
    from ..model.speech_input import printable

    quiet(logging.WARNING)
    loading: dict[str, Any] = {"dtype": dtype, "calibrated": calibrated, "allow_truncated": allow_truncated}
    loading["engine"] = _ENGINES[engine]
    with from_folder_or_hub("--model", model):
        classifier = load_classifier(model, **loading)
    room = None if max_memory is None else 1e9 * max_memory
    options = {"labels": labels.split(",") if labels else None, "abstain": abstain, "max_memory": room}
    name = f"{model} {str(classifier.dtype).removeprefix('torch.')}{' calibrated' if calibrated else ''}"
    name += (f" abstaining below {abstain:g}" if abstain else "") + _IN.get(engine, "")
    if engine == "ray":
        assert output is not None
        _on_cluster(files, output, (model, loading, options), classifier.model.config, name, workers)
        return
    skipped: dict[str, str] = {}
    paths = list(find_recordings(files, skipped=skipped))
    for path, why in skipped.items():
        click.echo(f"skipped: {printable(path)} ({why})", err=True)
    if not paths:
        raise Failed(f"no audio files in {', '.join(files)}")
    if embeddings is not None:
        from ..inference.embeddings import write_embeddings

        failed = write_embeddings(classifier, paths, embeddings, of=embedding_of, pooling=pooling, max_memory=room)
    elif output is None:
        failed = list(_show(classifier, paths, **options))
    else:
        failed = list(_write(classifier, paths, output, name, **options))
    if failed:
        verb = "classified" if embeddings is None else "read"
        raise Failed("\n".join([f"could not be {verb}:", *(f"{each.name}: {each.error}" for each in failed)]))


def _on_cluster(
    files: Sequence[str], output: str, model: tuple[Any, ...], config: Any, name: str, workers: int | None
) -> None:
    """Write rows of Parquet by Ray; fail where recordings could not be classified, which are rows too."""
    from ..inference.cluster import ClusterModel, classify_on_cluster, find_anywhere

    recordings = list(dict.fromkeys(recording for place in files for recording in find_anywhere(place)))
    if not recordings:
        raise Failed(f"no audio files in {', '.join(files)}")
    loaded = ClusterModel(*model)
    labels = _columns(config, **loaded.options)
    failed = classify_on_cluster(recordings, output, loaded, labels=labels, name=name, workers=workers)
    if failed:
        told = [f"{recording}: {error}" for recording, error in failed.items()]
        raise Failed("\n".join(["could not be classified, and have a row with the error:", *told]))


def _columns(config: Any, *, labels: Sequence[str] | None, abstain: float, **_: Any) -> list[str]:
    """The labels that come into question, and the dimensions."""
    from ..inference.predict import chosen_labels

    return [*chosen_labels(config, labels=labels, abstain=abstain), *(config.dimensions or [])]


def _show(classifier: Any, paths: Sequence[str], **options: Any) -> Iterator[Any]:
    """Print a line per file; yield what could not be classified."""
    from ..inference.predict import classify_recordings

    for result in classify_recordings(classifier, paths, **options):
        if result.scores is None:
            yield result
            continue
        scores = ", ".join(f"{label} {score:.3f}" for label, score in result.scores.items())
        told = scores if set(result.scores) == set(result.dimensions) else f"{result.label or 'no label'}  ({scores})"
        click.echo(f"{click.format_filename(result.name)}: {told}")


def _write(classifier: Any, paths: Sequence[str], output: str, model: str, **options: Any) -> Iterator[Any]:
    """Write a line per file that is not there yet, with a progress bar; yield what could not be classified."""
    from tqdm import tqdm

    from ..inference.predict import ScoreFile, classify_recordings

    with ScoreFile(output, labels=_columns(classifier.model.config, **options), model=model) as file:
        todo = [path for path in paths if path not in file.done]
        bar = tqdm(
            classify_recordings(classifier, todo, **options),
            total=len(paths),
            initial=len(paths) - len(todo),
            unit="file",
        )
        for result in bar:
            if result.scores is None:
                yield result
            else:
                file.write(result)


@cli.command()
@click.argument("run", type=RUN_OR_CSV)
@click.argument("other", type=RUN_OR_CSV)
def compare(run: str, other: str) -> None:
    r"""Compare two finished runs over the same folds and seeds: difference, interval and p, in a sentence.

    \b
    Example:  shift-ser compare runs/demo runs/demo_lstm
    """
    from ..evaluation.comparison import compare as compare_runs
    from ..evaluation.comparison import sentence, settings_line
    from ..evaluation.metrics import score_names

    comparison = compare_runs(run, other)
    for score in score_names(comparison):
        click.echo(sentence(comparison, score=score))
    if told := settings_line(comparison):
        click.echo(told)


@cli.command()
@click.argument("places", nargs=-1, required=True, metavar="[NAME] FOLDER")
def check(places: Sequence[str]) -> None:
    r"""Check whether a copy of a corpus is complete and readable; the exit code is 1 if something is wrong.

    NAME says which corpus FOLDER must hold; without it, the layout tells.

    \b
    Example:  shift-ser check IEMOCAP_full_release
              shift-ser check tess TESS
    """
    from ..corpora import CORPORA, check_corpus

    name, folder = (None, places[0]) if len(places) == 1 else (places[0], places[1])
    if len(places) > 2:
        raise click.UsageError(f"check takes [NAME] FOLDER, got {len(places)} words")
    if name is not None and name not in CORPORA:
        raise click.UsageError(f"NAME {name!r} is no known corpus; {hint(name, list(CORPORA))}")
    report = check_corpus(name, folder)
    click.echo(str(report))
    if not report.ok:
        raise Failed(f"{len(report.problems)} problems in {folder}")


@cli.command()
@click.argument("model", type=MODEL)
@click.argument("output_dir")
@click.option("--opset", default=20, show_default=True, help="Version of the ONNX operators.")
@click.option("--int8", is_flag=True, help="Matrix products in int8: smaller and faster.")
def export(model: str, output_dir: str, opset: int, int8: bool) -> None:
    r"""Write a saved MODEL as an ONNX folder that runs without torch; needs the extra `onnx`.

    \b
    Example:  shift-ser export runs/demo/fold1 exported/demo
    """
    import torch

    from ..evaluation.run_folder import check_model_files
    from ..hub.onnx import export_onnx
    from ..model.feature_extraction_shift_ser import ShiftFeatureExtractor
    from ..model.model_place import check_model_place
    from ..model.modeling_shift_ser import ShiftForSequenceClassification

    quiet(logging.ERROR)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it lists what it does without
    with from_folder_or_hub("MODEL", model):
        check_model_place(model)
        check_model_files(model)
        saved = ShiftForSequenceClassification.from_pretrained(model, dtype=torch.float32)
        feature_extractor = ShiftFeatureExtractor.from_pretrained(model)
    try:
        difference = export_onnx(saved, feature_extractor, output_dir, opset=opset, int8=int8)
    except RuntimeError as error:
        raise Failed(str(error)) from error
    what = "scores" if int8 else "logits"
    click.echo(f"{output_dir}: {what} within {difference:.0e} of torch's; its README.md shows how to run it")


@cli.command()
@click.argument("model", type=MODEL)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0: all.")
@click.option("--port", type=int, help="Default: the first free one from 7860 on.")
@click.option("--max_seconds", default=600.0, show_default=True, help="Longest recording that is accepted.")
@click.option("--max_megabytes", default=50, show_default=True, help="Largest file that is accepted.")
def app(model: str, host: str, port: int | None, max_seconds: float, max_megabytes: int) -> None:
    r"""A page in the browser: upload or record speech, see which emotion MODEL hears when; needs the extra `app`.

    \b
    Example:  shift-ser app runs/demo/fold1
    """
    from ..inference.app import card_words, launch_app, make_app
    from ..inference.predict import load_classifier

    quiet()
    with from_folder_or_hub("MODEL", model):
        classifier = load_classifier(model)
    title, limits = card_words(model)
    page = make_app(classifier, title=title or f"Speech emotion with {model}", limits=limits, max_seconds=max_seconds)
    launch_app(page, host=host, port=port, max_megabytes=max_megabytes)


@cli.command()
@click.argument("run", type=RUN)
@click.option("--hub_model_id", help="Name on the Hub, [namespace/]name; default: after head, encoder and corpus.")
@click.option("--hub_token", help="Token; default: that of HF_TOKEN or of `hf auth login`.")
@click.option("--private", is_flag=True, help="Make a new repository private.")
def push(run: str, hub_model_id: str | None, hub_token: str | None, private: bool) -> None:
    r"""Push a finished RUN to the Hub: one model with its code, card, results and figure, in one commit.

    \b
    Example:  shift-ser push runs/demo --hub_model_id my-name/shiftformer-demo
    """
    from ..hub.push import PushError, push_to_hub

    try:
        url = push_to_hub(run, repo_id=hub_model_id, token=hub_token, private=private or None)
    except PushError as error:
        raise Failed(str(error)) from error
    click.echo(f"Pushed: {url}")


@cli.command()
@click.argument("checkpoint")
@click.argument("output_dir")
@click.option("--variant", required=True, help="Which published model it is, such as shiftformer.")
@click.option("--encoder", type=MODEL, help="Name on the Hub or folder of the encoder, if the file holds only a head.")
@click.option(
    "--encoder_type", type=click.Choice(["hubert", "wav2vec2"]), default="hubert", show_default=True,
    help="Architecture of the encoder in the file, base size.",
)  # fmt: skip
@click.option("--labels", help="Class names by index, with commas; default: happy,angry,sad,neutral, as the authors.")
def convert(checkpoint: str, output_dir: str, labels: str | None, **options: Any) -> None:
    r"""Turn a CHECKPOINT file of the paper's authors into a folder that `from_pretrained` loads.

    \b
    Example:  shift-ser convert shiftformer1.pth converted --variant shiftformer
    """
    from ..hub.convert_original_checkpoint import ORIGINAL_LABELS, convert_checkpoint
    from ..model.heads import variants

    if options["variant"] not in variants():
        message = f"--variant {options['variant']!r} is not known; {hint(options['variant'], sorted(variants()))}"
        raise click.UsageError(message)
    names = tuple(labels.split(",")) if labels else ORIGINAL_LABELS
    convert_checkpoint(checkpoint, output_dir=output_dir, labels=names, **options)
    click.echo(f"saved {output_dir}")
