"""The figures of a study: scores over proportion and over encoder layer, mingling over misalignment."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from ..evaluation.run_folder import aside
from ..model.encoders import FEATURE_PROJECTION
from ..model.heads import HEADS, placements
from .grid import fraction

Group = Mapping[str, Any]

SETTINGS = ("encoder", "encoder_layer", "corpus")  # what tells one panel from the next
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
PLACEMENT_COLORS = {"none": "#7f7f7f", "in_place": "#009E73", "residual": "#D55E00", "replace": "#0072B2"}
LINE_MARKERS = "os^Dv"  # of lines, a new one when all colours are used
MARKERS = "Dos^vP*Xph<>"  # of the heads, in the order of their table


def draw_figures(folder: Path, groups: Sequence[Group], *, varied: Iterable[str]) -> list[Path]:
    """Draw what the grid varies, as PNG.

    Args:
        folder: Where to.
        groups: What `study_table.group_rows` gave.
        varied: Options that differ between groups.

    Returns:
        The files: `proportion.png` if the proportion varies, `encoder_layer.png` if the layer does, and `mingling.png`
        if some blocks were measured and proportion or placement varies. What is not drawn is not left from before.
    """
    varied = [name for name in varied if name != "seed"]
    measured = [group for group in groups if group["mingling"] is not None]
    wanted: dict[str, tuple[bool, Callable[[], Figure]]] = {
        "proportion.png": ("shift_proportion" in varied, lambda: plot_proportion(groups, varied=varied)),
        "encoder_layer.png": ("encoder_layer" in varied, lambda: plot_layers(groups, varied=varied)),
        "mingling.png": (
            bool(measured) and bool({"shift_proportion", "shift_placement"} & set(varied)),
            lambda: plot_mingling(measured, varied=varied),
        ),
    }
    drawn = []
    for name, (asked, draw) in wanted.items():
        path = folder / name
        path.unlink(missing_ok=True)
        if asked and groups:
            with aside(path) as part:
                draw().savefig(part, format="png", dpi=130)
            drawn.append(path)
    return drawn


def plot_proportion(groups: Sequence[Group], *, varied: Sequence[str]) -> Figure:
    """WA (upper row) and UA (lower row) over the proportion, a column for each corpus and encoder."""
    settings = [name for name in SETTINGS if name in varied]
    names = [name for name in varied if name not in {*settings, "shift_proportion", "shift_placement", "head_type"}]
    positions = {value: place for place, value in enumerate(sorted({group["shift_proportion"] for group in groups}))}

    def draw(axes: Axes, panel: Sequence[Group], metric: str) -> None:
        lines = _split(panel, ["head_type", "shift_placement", *names])
        shifted = [key for key in lines if key[1] != "none"]
        for key, line in lines.items():
            rank, title = every.index(key), _title(key, names)
            if key[1] == "none":
                _reference(axes, line[0][metric], rank, title)
                continue
            if none := [group for group in line if group["shift_proportion"] == 0]:
                _reference(axes, none[0][metric], rank, "")
            offset = 0.07 * (shifted.index(key) - (len(shifted) - 1) / 2)
            _line(axes, [positions[group["shift_proportion"]] + offset for group in line], line, metric, rank, title)
        axes.plot([], [], color="0.4", linestyle="--", label="dashed: the same without a shift")
        axes.set_xticks(list(positions.values()), [fraction(value) for value in positions])
        axes.set_xlim(-0.4, len(positions) - 0.6)
        axes.set_xlabel("share of channels moved per direction")

    every = list(_split(groups, ["head_type", "shift_placement", *names]))
    return _panels(groups, settings, draw, "Scores over the proportion of the shift")


def plot_layers(groups: Sequence[Group], *, varied: Sequence[str]) -> Figure:
    """WA and UA over the encoder's layer, a column for each corpus and encoder."""
    settings = [name for name in SETTINGS if name in varied and name != "encoder_layer"]
    names = [name for name in varied if name not in {*SETTINGS, "shift_placement", "head_type"}]
    every = list(_split(groups, ["head_type", "shift_placement", *names]))
    layers = sorted({group["encoder_layer"] for group in groups}, key=_layer_order)
    positions = {layer: place for place, layer in enumerate(layers)}

    def draw(axes: Axes, panel: Sequence[Group], metric: str) -> None:
        for key, line in _split(panel, ["head_type", "shift_placement", *names]).items():
            rank, title = every.index(key), _title(key, names)
            offset = 0.07 * (rank - (len(every) - 1) / 2)
            places = [positions[group["encoder_layer"]] + offset for group in line]
            _line(axes, places, line, metric, rank, title)
        axes.set_xticks(list(positions.values()), [_layer_name(layer) for layer in layers])
        axes.set_xlim(-0.4, len(layers) - 0.6)
        axes.set_xlabel("layer of the encoder (local: feature projection, 0: input of the first layer)")

    return _panels(groups, settings, draw, "Scores over the encoder's layer", width=2.5 + 0.7 * len(layers))


def plot_mingling(groups: Sequence[Group], *, varied: Sequence[str]) -> Figure:
    """Mingling over misalignment: coloured by placement, and again by UA; a row for each corpus and encoder."""
    settings = [name for name in SETTINGS if name in varied]
    rows, markers, colors = _split(groups, settings), head_markers(), placement_colors()
    figure = Figure(figsize=(12.5, 0.8 + 4.4 * len(rows)), layout="constrained")
    scores = [group["ua"]["mean"] for group in groups]
    grid = figure.subplots(len(rows), 2, squeeze=False, sharex=True, sharey=True)
    for (key, panel), (left, right) in zip(rows.items(), grid, strict=True):
        for group in panel:
            place, marker = (group["misalignment"], group["mingling"]), markers[group["head_type"]]
            style = {"marker": marker, "s": 90, "edgecolors": "black", "linewidths": 0.6}
            left.scatter(*place, color=colors[_placement(group)], **style)
            score = [group["ua"]["mean"]]
            shade = right.scatter(*place, c=score, cmap="viridis", vmin=min(scores), vmax=max(scores), **style)
            if _placement(group) != "none":
                left_side = HEADS[group["head_type"]].has_attention  # or labels would cover others
                style = {"xytext": (-8 if left_side else 8, -3), "ha": "right" if left_side else "left", "fontsize": 9}
                left.annotate(fraction(group["shift_proportion"]), place, textcoords="offset points", **style)
        for axes in (left, right):
            axes.set(xlabel="misalignment of shortcut and branch", ylabel="mingling of frames", title=_setting(key))
            axes.margins(0.12)
            axes.grid(alpha=0.25)
        bar = figure.colorbar(shade, ax=right, label="UA (mean over folds and seeds)")
        bar.ax.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    handles = _marks("placement ", colors, {_placement(group) for group in groups}, "color")
    named = {model_name(head, "none"): marker for head, marker in markers.items()}
    handles += _marks("", named, {model_name(group["head_type"], "none") for group in groups}, "marker")
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.suptitle("Mingling and misalignment of the trained blocks on held-out speech (labels: proportion)")
    return figure


def head_markers() -> dict[str, str]:
    """The marker of each head."""
    return dict(zip(HEADS, itertools.cycle(MARKERS), strict=False))


def placement_colors() -> dict[str, str]:
    """The colour of each placement that some head has."""
    others = [placement for placement in placements() if placement not in PLACEMENT_COLORS]
    return PLACEMENT_COLORS | dict(zip(others, itertools.cycle(COLORS[3:6]), strict=False))


def _placement(group: Group) -> str:
    """Where the shift sits, `none` if nothing is moved."""
    return group["shift_placement"] if group["shift_proportion"] > 0 else "none"


def _marks(prefix: str, styles: Mapping[str, str], shown: set[str], kind: str) -> list[Line2D]:
    """Legend entries of the placements (by colour) or heads (by marker) that are shown."""
    plain: dict[str, Any] = {"linestyle": "", "marker": "o", "color": "0.5", "markersize": 9}
    return [
        Line2D([], [], **{**plain, kind: style}, label=f"{prefix}{name}")
        for name, style in styles.items()
        if name in shown
    ]


def _panels(
    groups: Sequence[Group],
    settings: list[str],
    draw: Callable[[Axes, Sequence[Group], str], None],
    title: str,
    width: float = 5.6,
) -> Figure:
    """WA over UA (one row where they are equal), a column for each setting, one scale, one legend below."""
    columns = _split(groups, settings)
    metrics = {"ua": "WA = UA"} if _balanced(groups) else {"wa": "WA", "ua": "UA"}
    figure = Figure(figsize=(max(7.5, width * len(columns)), 1.5 + 3.3 * len(metrics)), layout="constrained")
    grid = figure.subplots(len(metrics), len(columns), squeeze=False, sharey=True)
    entries: dict[str, Any] = {}
    for column, (key, panel) in enumerate(columns.items()):
        for axes, (metric, name) in zip(grid[:, column], metrics.items(), strict=True):
            draw(axes, panel, metric)
            axes.axhline(
                panel[0]["chance"][metric],
                color="0.6",
                linestyle=":",
                label="chance (WA: largest class, UA: 1 / classes)",
            )
            axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
            axes.set(ylabel=f"{name} (test folds)", title=_setting(key) if axes is grid[0, column] else "")
            axes.grid(axis="y", alpha=0.25)
            entries |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(f"{title}\n{_bars(groups)}", fontsize=11)
    return figure


def _balanced(groups: Sequence[Group]) -> bool:
    """Whether WA and UA are the same everywhere, as in a corpus with as many utterances of each class in each fold."""
    parts = [(group["wa"][name], group["ua"][name]) for group in groups for name in ("mean", "low", "high")]
    chance = [(group["chance"]["wa"], group["chance"]["ua"]) for group in groups]
    return all(wa == ua or (wa is not None and math.isclose(wa, ua, abs_tol=1e-9)) for wa, ua in parts + chance)


def _bars(groups: Sequence[Group]) -> str:
    if any(group["ua"]["low"] is not None for group in groups):
        return "bars: 95 % confidence intervals over folds"
    return "bars: standard deviation over folds and seeds"


def _line(axes: Axes, places: Sequence[float], line: Sequence[Group], metric: str, rank: int, label: str) -> None:
    """Means with their bars, from left to right; where the colours are used up, another marker tells lines apart."""
    scores = [group[metric] for group in line]
    means = [score["mean"] for score in scores]
    bars: list[list[float]] = [[], []]
    for score in scores:
        spread = score["std"] or 0.0
        whole = score["low"] is not None
        bars[0].append(max(0.0, score["mean"] - score["low"]) if whole else spread)
        bars[1].append(max(0.0, score["high"] - score["mean"]) if whole else spread)
    order = sorted(range(len(places)), key=places.__getitem__)
    x, y = [places[index] for index in order], [means[index] for index in order]
    yerr = [[side[index] for index in order] for side in bars]
    again, color = divmod(rank, len(COLORS))
    axes.errorbar(
        x, y, yerr=yerr, color=COLORS[color], label=label, marker=LINE_MARKERS[again % len(LINE_MARKERS)], markersize=5,
        capsize=2.5, linewidth=1.6, elinewidth=1,
    )  # fmt: skip


def _reference(axes: Axes, score: Mapping[str, Any], rank: int, label: str) -> None:
    axes.axhline(score["mean"], color=COLORS[rank % len(COLORS)], linestyle="--", linewidth=1.3, label=label)


def _split(groups: Iterable[Group], names: Sequence[str]) -> dict[tuple[Any, ...], list[Group]]:
    """Groups by the values of some options, in the order in which they come."""
    parts: dict[tuple[Any, ...], list[Group]] = {}
    for group in groups:
        parts.setdefault(tuple(_hashable(group[name]) for name in names), []).append(group)
    return parts


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _title(key: Sequence[Any], names: Sequence[str]) -> str:
    """What a line's legend says."""
    head, placement, *rest = key
    told = [f"{name.removeprefix('shift_')} {_shown(name, value)}" for name, value in zip(names, rest, strict=True)]
    return ", ".join([model_name(head, placement), *told])


def model_name(head: str, placement: str) -> str:
    """The published name of a head with its shift; another placement is said beside the head's own name.

    Example:
        >>> model_name("cnn", "residual"), model_name("cnn", "in_place"), model_name("linear", "none")
        ('ShiftCNN', 'CNN, shift in place', 'Linear head')
    """
    published = {variant.placement: variant.title for variant in HEADS[head].variants.values()}
    return published.get(placement) or f"{published['none']}, shift {placement.replace('_', ' ')}"


def _shown(name: str, value: Any) -> str:
    if name == "shift_proportion":
        return fraction(value)
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _setting(key: Sequence[Any]) -> str:
    return ", ".join(map(_setting_name, key))


def _setting_name(value: int | str | None) -> str:
    """A corpus or an encoder by its name, or a layer."""
    if value is None or value == FEATURE_PROJECTION:
        return "last layer" if value is None else "local frames (feature projection)"
    return Path(value).name if isinstance(value, str) else f"layer {value}"


def _layer_order(layer: int | str | None) -> float:
    """From what is nearest to speech to the last frames."""
    if layer is None:
        return float("inf")
    return -1.0 if layer == FEATURE_PROJECTION else float(layer)


def _layer_name(layer: int | str | None) -> str:
    if layer is None:
        return "last"
    return "local" if layer == FEATURE_PROJECTION else str(layer)
