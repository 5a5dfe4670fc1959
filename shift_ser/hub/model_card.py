"""The model card: `README.md` of a saved model, written from a run's results, or before there is a run.

`python -m shift_ser.hub.model_card` writes the cards of the six published shift models, and the demo's from its run.
"""

import argparse
import hashlib
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..corpora import CORPORA
from ..corpora.corpus import CorpusInfo
from ..evaluation.metrics import score_names, score_of
from ..evaluation.public import public_name, public_results
from ..evaluation.report import fold_table, headline, intervals_text, name_of
from ..evaluation.run_folder import CONFUSION, FINAL, RESULTS, fold_folder, main_figure, read_json, write_text
from ..model.heads import variants
from ..model.losses import DIMENSIONS, PROBLEM_TYPES
from ..training.adapters import AdapterOptions
from ..training.arguments import DataArguments, ModelArguments, RunArguments
from ..training.protocols import protocol_text, protocol_title

TEMPLATE = "model_card.md.jinja"
PUBLISHED_ENCODERS = {"feature_extraction": "facebook/hubert-base-ls960", "fine_tuning": "facebook/wav2vec2-base"}
FOLDERS = {"synthetic": "corpora/demo", "iemocap": DataArguments.corpus}  # where the README has them
UNITS = {"fold_unit": "session", "validation": "session"}
EPOCHS = {
    "last": "last",
    "selected": "selected on a validation set",
    "refit": "selected on a validation set, then trained anew on train and validation set",
}
SCORED_FOLDS = "models of the folds, each on speakers it never heard; this model saw every speaker"
PUBLISHED_VARIANTS = ("shiftcnn", "shiftlstm", "shiftformer")  # the paper's models; a head of one's own is not one


def run_card(
    results: Mapping[str, Any],
    *,
    model: str,
    of: Mapping[str, Any] | None = None,
    why: str = "",
    final: bool = False,
    figure: str | None = "",
) -> str:
    """The card of a run, or of the model of one of its folds.

    Args:
        results: What `CrossValidation.run` returned and `results.json` holds.
        model: Hub name or folder that the examples load.
        of: The entry in `folds` whose weights lie beside the card; `None` for the whole run.
        why: Why it is this one, a clause that ends the sentence "These weights are those of fold 1".
        final: Whether the weights beside the card are those of the final model, which saw every speaker.
        figure: Path of the figure, as seen from the card; `None` leaves it out. Default: the run's own, beside it.

    Returns:
        Markdown with the YAML block that the Hub reads. The block has the headline's scores only, never the oracle's,
        and only if every fold of the run is done.
    """
    results = public_results(results)
    settings, corpus = results["settings"], CorpusInfo(**results["corpus"])
    summary = results["summary"]
    command = training_command(settings, source=FOLDERS.get(corpus.name, results["source"]))
    run = {
        "final": results["final"] if final else None,
        "fold": of and {"name": name_of(of, seeds=settings["seeds"] or []), "test_group": of["test_group"]},
        "why": why,
        "several_seeds": len(settings["seeds"] or []) > 1,
        "num_done": summary["folds"],
        "num_folds": summary["num_folds"],
        "table": fold_table(results["folds"], num_folds=summary["num_folds"], missing=results["missing"]),
        "intervals": intervals_text(results),
        "scores": list(summary["test"]),
        "figure": None if figure is None else figure or main_figure(results),
        "shows_classes": main_figure(results) == CONFUSION,
        "folds": list({result["fold"]: result for result in results["folds"]}.values()),
        "split_hash": split_hash(results),
        "command": f"{command} \\\n    --final true" if final else command,
        "augment": settings.get("augment"),
        "mixup": settings.get("mixup_alpha"),
        "cost": _cost(results),
        "versions": results["versions"],
    }
    data = _metadata(settings, corpus=corpus, eval_results=_eval_results(results, final=final))
    return _card(data, settings, corpus=corpus, model=model, run=run)


def untrained_card(variant: str, scenario: str) -> str:
    """The card of a published model that nobody has trained with this package: no score, the command that trains it.

    Args:
        variant: `shiftcnn`, `shiftlstm`, `shiftformer`, or one of the models they are compared with.
        scenario: `feature_extraction` or `fine_tuning`.
    """
    settings = {"variant": variant, "scenario": scenario, "encoder": PUBLISHED_ENCODERS[scenario]}
    settings |= {name: getattr(RunArguments, name) for name in ("protocol", "refit")} | UNITS
    settings["selection_metric"] = RunArguments.selection_metric
    corpus = CORPORA["iemocap"].info
    data = _metadata(settings, corpus=corpus, eval_results=None)
    return _card(data, settings, corpus=corpus, model=f"./runs/{variant}_{scenario}/fold1", run=None)


def write_fold_cards(output_dir: str | Path, results: Mapping[str, Any]) -> None:
    """Write `README.md` beside the models of finished folds and the final one; its examples load it by a local path."""
    output_dir = Path(output_dir).absolute()
    start = Path.cwd() if output_dir.is_relative_to(Path.cwd()) else output_dir.parent
    for result in results["folds"]:
        folder = output_dir / fold_folder(result, seeds=results["settings"]["seeds"])
        model = f"./{folder.relative_to(start).as_posix()}"  # without ./ it might be a name on the Hub
        write_text(folder / "README.md", run_card(results, model=model, of=result, figure=None))
    if results.get("final"):
        model = f"./{(output_dir / FINAL).relative_to(start).as_posix()}"
        write_text(output_dir / FINAL / "README.md", run_card(results, model=model, final=True, figure=None))


def results_text(results: Mapping[str, Any]) -> str:
    """What `results.md` holds: the corpus, the table of folds, and how far the numbers can be trusted."""
    table = fold_table(results["folds"], num_folds=results["summary"]["num_folds"], missing=results["missing"])
    return f"{results['corpus']['description']}\n\n{table}\n{intervals_text(results)}\n"


def repository_name(settings: Mapping[str, Any], *, corpus: str) -> str:
    """Name of a model after its head, its encoder and its corpus.

    Example:
        >>> repository_name({"variant": "shiftformer", "encoder": "facebook/hubert-base-ls960"}, corpus="iemocap")
        'shiftformer-hubert-iemocap'
    """
    family = re.sub(r"[^A-Za-z0-9_]", "-", public_name(settings["encoder"]).rpartition("/")[2]).strip("-").split("-")[0]
    return f"{settings['variant']}-{family}-{corpus}"


def hub_name(encoder: str) -> str | None:
    """The encoder's name if it is one of the Hub, `None` if it is a folder here."""
    is_name = re.fullmatch(r"\w[\w.-]*/[\w.-]+", encoder)
    return encoder if is_name and not Path(encoder).exists() else None


def training_command(settings: Mapping[str, Any], *, source: str) -> str:
    """The command that makes a run with these settings: every flag that is not at its default.

    Args:
        settings: The `settings` of a run.
        source: Where the corpus is, as others may read it.
    """
    kinds = (ModelArguments, DataArguments, RunArguments)
    defaults = {item.name: getattr(item.default, "value", item.default) for kind in kinds for item in fields(kind)}
    words = ["--corpus", source, "--encoder", public_name(settings["encoder"])]
    for name, value in settings.items():
        if name in defaults and name != "encoder" and value is not None and value != defaults[name]:
            values = value if isinstance(value, list) else [value]
            words += [f"--{name}", *(str(item).lower() if isinstance(item, bool) else str(item) for item in values)]
    flags = re.sub(r" (?=--)", " \\\n    ", shlex.join(words))
    return f"shift-ser train \\\n    {flags}"


def _metadata(
    settings: Mapping[str, Any], *, corpus: CorpusInfo, eval_results: list[EvalResult] | None
) -> ModelCardData:
    """What the Hub indexes."""
    licence = {name: getattr(corpus, name) for name in ("license", "license_name", "license_link")}
    problem = PROBLEM_TYPES[settings.get("problem_type") or "single_label_classification"]
    tags = ["audio", "speech", "speech-emotion-recognition", "temporal-shift", settings["variant"]]
    return ModelCardData(
        language=corpus.language.split(",") if corpus.language and "," in corpus.language else corpus.language,
        **{name: value for name, value in licence.items() if value},
        library_name="transformers",
        pipeline_tag="audio-classification",
        tags=[*tags, "synthetic"] if corpus.synthetic else tags,
        datasets=[corpus.hub_dataset] if corpus.hub_dataset else None,
        metrics=[
            *(["accuracy", "recall", "f1"] if problem.classes else []),
            *(["ccc", "rmse"] if problem.dimensions else []),
        ],
        base_model=hub_name(settings["encoder"]),
        model_name=repository_name(settings, corpus=corpus.name) if eval_results else None,
        eval_results=eval_results,
    )


def _eval_results(results: Mapping[str, Any], *, final: bool) -> list[EvalResult] | None:
    """The headline for the model index, with its protocol; `None` while folds are missing."""
    summary, settings = results["summary"], results["settings"]
    if summary["folds"] < summary["num_folds"]:
        return None
    corpus = CorpusInfo(**results["corpus"])
    protocol, folds, kind = settings["protocol"], len(settings["plans"]), headline(results["folds"][0])
    shared: dict[str, Any] = {
        "task_type": "audio-classification",
        "task_name": "Speech emotion recognition",
        "dataset_type": corpus.hub_dataset or corpus.name,
        "dataset_name": corpus.title,
        "dataset_config": f"{protocol_title(settings)}, protocol {protocol}",
        "dataset_split": "test",
        "dataset_args": {"protocol": protocol, "epoch": EPOCHS[kind], "split_hash": split_hash(results)}
        | ({"scored": SCORED_FOLDS} if final else {}),
    }
    macro = {"average": "macro"}
    named: dict[str, tuple[str, str, dict[str, Any]]] = {
        name: (name.partition("_")[0], score_of(name).title, {}) for name in score_names(summary["test"])
    }
    known = {"wa": ("accuracy", "WA", {}), "ua": ("recall", "UA", macro), "f1": ("f1", "macro F1", macro)}
    named |= {name: told for name, told in known.items() if name in named}
    spreads = {"std": "std_over_folds", "std_seeds": "std_over_seeds"}
    return [
        EvalResult(
            **shared,
            metric_type=kind,
            metric_name=f"{name}, mean of {folds} folds ({protocol})",
            metric_value=round(score["mean"], 4),
            metric_args=options
            | {spreads[spread]: round(score[spread], 4) for spread in spreads if score.get(spread) is not None},
        )
        for score, (kind, name, options) in ((summary["test"][key], named[key]) for key in named)
    ]


def split_hash(results: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits over the split hashes of all folds."""
    plans = results["settings"]["plans"]
    return hashlib.sha256(" ".join(plans[fold] for fold in sorted(plans, key=int)).encode()).hexdigest()[:16]


def _cost(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a fold took; `None` where an older release did not measure it."""
    costs = [fold["cost"] for fold in results["folds"] if "cost" in fold]
    if not costs:
        return None
    return {
        "trained": costs[0]["trainable_parameters"],
        "parameters": costs[0]["parameters"],
        "seconds": sum(cost["seconds"] for cost in costs) / len(costs),
        "memory": max(cost["peak_memory_mb"] for cost in costs),
    }


def _card(
    data: ModelCardData,
    settings: Mapping[str, Any],
    *,
    corpus: CorpusInfo,
    model: str,
    run: Mapping[str, Any] | None,
) -> str:
    """The template with what is known of a model; `run` is `None` of one that nobody has trained."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    template = environment.from_string((files(__package__) / TEMPLATE).read_text(encoding="utf-8"))
    repository = repository_name(settings, corpus=corpus.name)
    body = template.render(
        head=variants()[settings["variant"]][1],
        encoder=public_name(settings["encoder"]),
        family=repository.split("-")[1],
        frozen=settings["scenario"] == "feature_extraction",
        adapter=settings.get("adapter"),
        rank=settings.get("adapter_rank") or AdapterOptions.rank,
        last_layers=settings.get("unfreeze_layers"),
        corpus=corpus,
        problem=PROBLEM_TYPES[settings.get("problem_type") or "single_label_classification"],
        dimensions=settings.get("dimensions") or DIMENSIONS,
        model=model,
        protocol=protocol_text(settings),
        recipe=f"{settings['variant']}_{settings['scenario']}",
        repository=repository,
        source=FOLDERS.get(corpus.name),
        run=run,
    )
    body = re.sub(r"\n{3,}", "\n\n", body)  # what the template leaves out leaves empty lines
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}"))


def main(argv: list[str] | None = None) -> None:
    """Write the cards of the published models, and the demo's if its run is there."""
    parser = argparse.ArgumentParser(prog="python -m shift_ser.hub.model_card", description="Write the model cards.")
    parser.add_argument("--folder", type=Path, default=Path("model_cards"), help="where the cards go")
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="the demo's run, if it was made")
    args = parser.parse_args(argv)
    for scenario, encoder in PUBLISHED_ENCODERS.items():
        for variant in PUBLISHED_VARIANTS:
            name = repository_name({"variant": variant, "encoder": encoder}, corpus="iemocap")
            write_text(args.folder / f"{name}.md", untrained_card(variant, scenario))
    if (args.demo / RESULTS).exists():
        figure = "shiftformer-demo-confusion.png"
        shutil.copyfile(args.demo / CONFUSION, args.folder / figure)
        card = run_card(read_json(args.demo / RESULTS), model="./runs/demo/fold1", figure=figure)
        write_text(args.folder / "shiftformer-demo.md", card)


if __name__ == "__main__":
    main()
