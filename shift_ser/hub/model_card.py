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
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..corpora import CORPORA
from ..corpora.corpus import CorpusInfo
from ..evaluation.metrics import score_names, score_of
from ..evaluation.report import fold_table, headline, intervals_text, name_of
from ..evaluation.run_folder import CONFUSION, FINAL, RESULTS, fold_folder, main_figure, read_json, write_text
from ..model.heads import variants
from ..model.losses import DIMENSIONS, PROBLEM_TYPES
from ..training.adapters import AdapterOptions
from ..training.arguments import DataArguments, ModelArguments, RunArguments
from ..training.protocols import protocol_text, protocol_title
from .model_card_text import (
    ACT,
    ADAPTED,
    ADAPTERS,
    ALL_LAYERS,
    CITATION,
    COST,
    DATA,
    EPOCHS,
    INTENDED,
    LAST_LAYERS,
    LIMITS,
    MISUSE,
    NOT_TRAINED,
    SCENARIOS,
    SCORED_FOLDS,
    SPEAKERS_UNKNOWN,
    USE,
)
from .public import public_name, public_results

PUBLISHED_ENCODERS = {"feature_extraction": "facebook/hubert-base-ls960", "fine_tuning": "facebook/wav2vec2-base"}
FOLDERS = {"synthetic": "corpora/demo", "iemocap": DataArguments.corpus}  # where the README has them
UNITS = {"fold_unit": "session", "validation": "session"}
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
    command = training_command(settings, source=FOLDERS.get(corpus.name, results["source"]))
    command += " \\\n    --final true" if final else ""
    data = _metadata(settings, corpus=corpus, eval_results=_eval_results(results, final=final))
    sections = [
        *_opening(settings, corpus=corpus),
        _final_weights(results) if final else _weights(results, of=of, why=why),
        USE.format(model=model),
        f"## Results\n\n{_scores(results)}",
        "" if figure is None else f"![{_figure_title(results)}]({figure or main_figure(results)})",
        f"## Protocol\n\n{protocol_text(settings)}\n\n{_splits(results)}",
        f"## Training\n\n```bash\n{command}\n```\n\n{_cost(results)}{_versions(results)}",
        *_closing(corpus),
    ]
    return _card(data, sections)


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
    sections = [
        *_opening(settings, corpus=corpus),
        NOT_TRAINED.format(recipe=f"{variant}_{scenario}", name=repository_name(settings, corpus=corpus.name)),
        USE.format(model=f"./runs/{variant}_{scenario}/fold1"),
        f"## Protocol\n\n{protocol_text(settings)}",
        *_closing(corpus),
    ]
    return _card(_metadata(settings, corpus=corpus, eval_results=None), sections)


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


def _opening(settings: Mapping[str, Any], *, corpus: CorpusInfo) -> list[str]:
    variant = variants()[settings["variant"]][1]
    family = repository_name(settings, corpus=corpus.name).split("-")[1]
    encoder = public_name(settings["encoder"])
    told = SCENARIOS[settings["scenario"]].format(
        encoder=encoder, adapted=_adapted(settings), head=variant.title, description=variant.description
    )
    speech = corpus.heading or f"for speech emotion recognition ({corpus.title})"
    note = _outputs_note(settings, corpus)
    note = note if corpus.speakers_known else f"{note} {SPEAKERS_UNKNOWN}"
    return [f"# {variant.title} on {family}, {speech}", f"{told}\n\n{note}"]


def _outputs_note(settings: Mapping[str, Any], corpus: CorpusInfo) -> str:
    """What an utterance gets, and what that was learned from."""
    problem = PROBLEM_TYPES[settings.get("problem_type") or "single_label_classification"]
    named = ", ".join(settings.get("dimensions") or DIMENSIONS)
    values = f"a value for each of {named}, on the scale of the corpus"
    if not problem.classes:
        start = "**A demonstration, trained on synthetic speech: no people.** " if corpus.synthetic else ""
        return f"{start}An utterance gets {values} ({corpus.title})."
    note = (
        corpus.labels_note or f"An utterance gets one of the labels of the corpus ({corpus.description.rstrip('.')})."
    )
    if problem.soft:
        note += " It was trained on the distribution of the raters' votes."
    return f"{note} It also gets {values}." if problem.dimensions else note


def _figure_title(results: Mapping[str, Any]) -> str:
    classes = main_figure(results) == CONFUSION
    return "Confusion matrix of all folds pooled" if classes else "Predicted and true values of all folds pooled"


def _adapted(settings: Mapping[str, Any]) -> str:
    """What of the encoder was trained in fine-tuning."""
    if kind := settings.get("adapter"):
        return ADAPTED.format(kind=ADAPTERS[kind], rank=settings["adapter_rank"] or AdapterOptions.rank)
    count = settings.get("unfreeze_layers")
    return ALL_LAYERS if count is None else LAST_LAYERS.format(count=count)


def _cost(results: Mapping[str, Any]) -> str:
    """What a fold took; nothing where an older release did not measure it."""
    costs = [fold["cost"] for fold in results["folds"] if "cost" in fold]
    if not costs:
        return ""
    return COST.format(
        trained=costs[0]["trainable_parameters"],
        parameters=costs[0]["parameters"],
        seconds=sum(cost["seconds"] for cost in costs) / len(costs),
        memory=max(cost["peak_memory_mb"] for cost in costs),
    )


def _weights(results: Mapping[str, Any], *, of: Mapping[str, Any] | None, why: str) -> str:
    """Which of the run's models this is."""
    seeds = results["settings"]["seeds"] or []
    if of is None:
        each = "per fold and seed" if len(seeds) > 1 else "per fold"
        return f"The run leaves one model {each}; none of them is better by right, and the scores are means over all."
    row = "no row of the table below (means over seeds)" if len(seeds) > 1 else "only that row of the table below"
    return (
        f"**These weights are those of {name_of(of, seeds=seeds)}**{why}. They never heard {of['test_group']}, so {row}"
        " is about this very model; the means are about the method."
    )


def _final_weights(results: Mapping[str, Any]) -> str:
    """What the final model was trained on, and of whom the scores are."""
    final, seeds = results["final"], results["settings"]["seeds"] or []
    of_folds = ", ".join(map(str, final["of_folds"]))
    which = f" with seed {final['seed']}" if len(seeds) > 1 else ""
    chose = "the folds' validation sets selected" if results["folds"][0]["selected_epoch"] else "the folds trained for"
    temperature = (
        "" if final["temperature"] is None else " Its temperature is the median of those of the folds' models."
    )
    return (
        f"**These weights saw every speaker**: they were trained{which} on all {final['num_train']} utterances of"
        f" {final['num_speakers']} speakers, for {final['epochs']} epochs, the median of those that {chose}"
        f" ({of_folds}).{temperature} **The scores below are of the folds' models, each on speakers it never heard**;"
        " nobody is left to test these weights on, so they are the best estimate there is."
    )


def _scores(results: Mapping[str, Any]) -> str:
    summary = results["summary"]
    table = fold_table(results["folds"], num_folds=summary["num_folds"], missing=results["missing"])
    notes = []
    if "ua" in summary["test"]:
        notes.append("WA is accuracy, UA the mean of the classes' recalls, F1 the mean of their F1.")
    if "ccc" in summary["test"]:
        notes.append("CCC is the concordance correlation coefficient, RMSE the root mean square error.")
    if summary["folds"] < summary["num_folds"]:
        notes.append(f"Only {summary['folds']} of {summary['num_folds']} folds are done: not yet a result.")
    notes.append("The columns called oracle chose the epoch on the test set itself; they are not results.")
    if results["corpus"]["synthetic"]:
        notes.append("**The speech is synthetic; these scores say nothing about emotion in people.**")
    return f"{' '.join(notes)}\n\n{table}\n{intervals_text(results)}"


def _splits(results: Mapping[str, Any]) -> str:
    """Who trains, selects and tests in each fold, with the hashes by which a split is known."""
    lines = ["| fold | trains | selects | tests | split hash |", "| ---: | --- | --- | --- | --- |"]
    for result in {result["fold"]: result for result in results["folds"]}.values():
        group, plan = result["validation_group"], f"`{result['plan']}`"
        select = "nothing" if group is None else f"{group} ({result['num_validation']})"
        train, test = f"the others ({result['num_train']} utterances)", f"{result['test_group']} ({result['num_test']})"
        lines.append(f"| {result['fold']} | {train} | {select} | {test} | {plan} |")
    return "\n".join([*lines, "", f"All folds together: `{split_hash(results)}`."])


def _versions(results: Mapping[str, Any]) -> str:
    return "With " + ", ".join(f"{name} {release}" for name, release in results["versions"].items()) + "."


def _closing(corpus: CorpusInfo) -> list[str]:
    where = f"[{corpus.title}]({corpus.homepage})" if corpus.homepage else corpus.title
    licence = corpus.license_name or corpus.license or "not stated"
    texts = {
        "Data and licence": corpus.data or DATA.format(corpus=where, licence=licence),
        "Intended use": corpus.intended or INTENDED,
        "Misuse": f"{corpus.misuse or MISUSE} {ACT}",
        "Limits": corpus.limits or LIMITS.format(corpus=corpus.title),
    }
    return [*(f"## {title}\n\n{text}" for title, text in texts.items()), CITATION]


def _card(data: ModelCardData, sections: list[str]) -> str:
    body = "\n\n".join(section.strip() for section in sections if section)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n"))


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
