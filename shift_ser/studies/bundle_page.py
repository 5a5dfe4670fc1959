"""The page of a bundle: our numbers, with their intervals, beside the reported ones."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..evaluation.run_folder import RESULTS, read_json
from ..model.heads import variants

PAPER = (
    "Shen et al., Mingling or Misalignment? Temporal Shift for Speech Emotion Recognition with Pre-trained"
    " Representations, doi 10.34133/icomputing.0073"
)
# Percent, on IEMOCAP, the best epoch on the test fold; second-hand, from the table of a paper that cites it.
REPORTED: dict[tuple[str, str], dict[str, float]] = {
    ("shiftcnn", "fine_tuning"): {"ua": 74.5},
    ("shiftlstm", "fine_tuning"): {"ua": 74.7},
    ("shiftformer", "fine_tuning"): {"ua": 74.8},
    ("shiftcnn", "feature_extraction"): {"wa": 71.9, "ua": 72.8},
    ("shiftlstm", "feature_extraction"): {"wa": 69.8, "ua": 70.6},
    ("shiftformer", "feature_extraction"): {"wa": 72.1, "ua": 72.7},
}
_HEADER = (
    "| model | scenario | encoder | protocol | seeds | WA | WA, 95 % interval | UA | UA, 95 % interval"
    " | best epoch on the test fold, WA / UA | reported on IEMOCAP, WA / UA |"
    "\n|---|---|---|---|---:|---:|---:|---:|---:|---:|---:|"
)
_READ = (
    "WA and UA: mean over folds and seeds of the epoch that the protocol takes (`test_blind`: chosen on the validation"
    " set; `authors`: the last); intervals are of the pooled predictions, over folds. *Reported* is what the paper"
    " reports: the best epoch on the test fold, which is to be held against the column before it and is no result of"
    " ours. It is second-hand, from a citing paper's table; models that are not in it have no number here."
)
_CHECKED = (
    "`shift-ser study --verify FOLDER` computes every score, interval and sentence of this bundle again from the"
    " predictions, and the fingerprint of the labels where every utterance was tested. It does not look at audio, does"
    " not train, and does not draw the figures again. As the runs told them, and not to be had from the predictions,"
    " are: scores of single epochs (and so the best epoch on the test fold), mingling, misalignment, numbers of"
    " parameters, time and memory, versions, hardware, the commands, and the fingerprint of the samples."
)


def page_text(folder: Path, bundle: Mapping[str, Any], groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The page in Markdown, a function of the bundle's other files.

    Args:
        folder: The bundle.
        bundle: What `bundle.json` holds; `files` is not needed.
        groups: Of each study, what `study_groups` returned.
    """
    corpus, parts = bundle["corpus"], [f"# {bundle['title']}", bundle["corpus"]["description"]]
    if corpus["synthetic"]:
        parts.append(
            "**The speech is synthetic: no person speaks in it. These numbers say nothing about emotion in people.**"
        )
    if corpus["name"] != "iemocap":
        parts.append(
            f"**The reported numbers are of IEMOCAP, ours of {corpus['title']}: they are not to be compared.**"
        )
    rows = list(_rows(folder, bundle["studies"], groups))
    if rows:
        parts += ["## Ours beside the reported", "\n".join([_HEADER, *rows]), _READ, f"Reported: {PAPER}."]
    parts += ["## Studies", "\n".join(_studies(bundle["studies"]))]
    parts += ["## Corpus", "\n".join(_corpus(corpus))]
    parts += ["## How it was made", "\n".join(f"    {command}" for command in bundle["commands"])]
    parts += ["\n".join(f"- {name}: {value}" for name, value in bundle["versions"].items())]
    parts += ["\n".join(f"- {name}: {_listed(value)}" for name, value in bundle["hardware"].items())]
    return "\n\n".join([*parts, "## What can be checked", _CHECKED]) + "\n"


def _rows(folder: Path, studies: Mapping[str, Any], groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """A row for each head as published and protocol, of the studies that vary the protocol."""
    for name, entry in studies.items():
        if "protocol" not in entry["varied"]:
            continue
        for group in groups[name]:
            results = read_json(folder / name / group["cells"][0] / RESULTS)
            settings = results["settings"]
            told = REPORTED.get((settings["variant"], settings["scenario"]), {})
            oracle = _oracle([read_json(folder / name / cell / RESULTS) for cell in group["cells"]])
            cells = [
                variants()[settings["variant"]][1].title,
                settings["scenario"].replace("_", " "),
                settings["encoder"],
                settings["protocol"],
                str(len(group["cells"])),
                *(
                    part
                    for score in ("wa", "ua")
                    for part in (f"{100 * group[score]['mean']:.2f}", _ends(group[score]))
                ),
                " / ".join(f"{100 * value:.2f}" for value in oracle),
                " / ".join(f"{told[score]:.1f}" if score in told else "-" for score in ("wa", "ua")) if told else "-",
            ]
            yield f"| {' | '.join(cells)} |"


def _oracle(results: list[Mapping[str, Any]]) -> list[float]:
    scores = [[fold["columns"]["oracle"][name] for each in results for fold in each["folds"]] for name in ("wa", "ua")]
    return [sum(values) / len(values) for values in scores]


def _ends(score: Mapping[str, Any]) -> str:
    return "none" if score["low"] is None else f"{100 * score['low']:.2f} to {100 * score['high']:.2f}"


def _studies(studies: Mapping[str, Any]) -> Iterator[str]:
    for name, entry in studies.items():
        cells = {place["cell"] for place in entry["places"]}
        missing = f"; **{len(entry['missing'])} are missing**" if entry["missing"] else ""
        yield f"- [{name}]({name}/summary.md): {len(cells) - len(entry['missing'])} of {len(cells)} cells{missing}"


def _corpus(corpus: Mapping[str, Any]) -> Iterator[str]:
    counted = corpus["counts"]
    yield f"- {corpus['title']}: {counted['utterances']} utterances of {counted['speakers']} speakers"
    for key, name in (("by_session", "by session"), ("by_label", "by label")):
        if counted[key]:
            yield f"- {name}: {', '.join(f'{value} {count}' for value, count in counted[key].items())}"
    same = corpus["counts_are_published"]
    yield (
        "- the counts are "
        + {True: "the published ones", False: "NOT the published ones", None: "of no publication"}[same]
    )
    part = "" if counted["all_tested"] else " (of all utterances: as told, since some were tested by no fold)"
    yield f"- fingerprints: {', '.join(f'{name} {value}' for name, value in corpus['fingerprints'].items())}{part}"
    yield from (f"- PROBLEM: {problem}" for problem in corpus["problems"])


def _listed(value: Any) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)
