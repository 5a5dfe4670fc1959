"""Draw the blocks of the heads with the shift in each placement: `python examples/draw_blocks.py docs/blocks.png`."""

import argparse
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

SHIFT, PLAIN = "#D55E00", "#dbe7f3"
CNN = ["depthwise conv, 7", "LayerNorm", "4x linear", "GELU", "linear"]
ATTENTION = ["attention"]
MLP = ["4x linear", "GELU", "linear"]
# Each panel: its title, and its parts from bottom to top: a shift, a plain step, or a branch beside a shortcut
# (steps of the branch, whether the shortcut is shifted).
PANELS: dict[str, list[str | tuple[list[str], bool]]] = {
    "CNN": [(CNN, False)],
    "ShiftCNN: residual": [(CNN, True)],
    "CNN: in place": ["shift", (CNN, False)],
    "LSTM": ["bidirectional LSTM"],
    "ShiftLSTM: in place": ["shift", "bidirectional LSTM"],
    "Transformer": [(ATTENTION, False), "LayerNorm", (MLP, False), "LayerNorm"],
    "Transformer: residual": [(ATTENTION, True), "LayerNorm", (MLP, False), "LayerNorm"],
    "Transformer: in place": ["shift", (ATTENTION, False), "LayerNorm", (MLP, False), "LayerNorm"],
    "Shiftformer: replace": ["shift", (MLP, False), "LayerNorm"],
}
STEP, HALF = 0.8, 1.0  # height of a step and half the width of a box


def draw_box(axes: Axes, x: float, y: float, text: str, *, half: float = HALF) -> None:
    """A step, or a shift in its colour, centred at x above y."""
    shifted = text == "shift"
    style: dict[str, Any] = {"boxstyle": "round,pad=0.02", "fc": SHIFT if shifted else PLAIN, "ec": "0.35", "lw": 0.8}
    axes.add_patch(FancyBboxPatch((x - half, y + 0.12), 2 * half, STEP - 0.24, **style))
    axes.text(x, y + STEP / 2, text, ha="center", va="center", fontsize=8.5, color="white" if shifted else "black")


def draw_arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """An arrow between two places."""
    axes.annotate(
        "", end, start, arrowprops={"arrowstyle": "-|>", "lw": 0.9, "color": "0.35", "shrinkA": 0, "shrinkB": 0}
    )


def draw_branch(axes: Axes, y: float, steps: list[str], *, shifted: bool) -> float:
    """A branch on the left beside its shortcut on the right, summed at the top; gives the height above."""
    left, right, top = -0.75, 1.1, y + 0.3 + STEP * len(steps)
    axes.plot([0, 0], [y, y + 0.15], color="0.35", lw=0.9)
    axes.plot([left, right], [y + 0.15, y + 0.15], color="0.35", lw=0.9)
    for number, step in enumerate(steps):
        draw_box(axes, left, y + 0.25 + STEP * number, step)
    middle = (y + 0.15 + top) / 2
    if shifted:
        draw_box(axes, right, middle - STEP / 2, "shift", half=0.45)
    spans = [(y + 0.15, middle - 0.28), (middle + 0.28, top + 0.2)] if shifted else [(y + 0.15, top + 0.2)]
    for low, high in spans:
        axes.plot([right, right], [low, high], color="0.35", lw=0.9)
    draw_arrow(axes, (right, top + 0.2), (0.14, top + 0.2))
    axes.plot([left, left], [top - 0.05, top + 0.2], color="0.35", lw=0.9)
    draw_arrow(axes, (left, top + 0.2), (-0.14, top + 0.2))
    circle = {"boxstyle": "circle,pad=0.1", "fc": "w", "ec": "0.35"}
    axes.text(0, top + 0.2, "+", ha="center", va="center", fontsize=11, bbox=circle)
    return top + 0.42


def draw_block(axes: Axes, title: str, parts: list[str | tuple[list[str], bool]]) -> float:
    """One block; gives its height."""
    y = 0.45
    axes.text(0, 0, "frames", ha="center", va="center", fontsize=9)
    draw_arrow(axes, (0, 0.15), (0, y + 0.12))
    for part in parts:
        if isinstance(part, str):
            draw_box(axes, 0, y, part)
            y += STEP
        else:
            y = draw_branch(axes, y, part[0], shifted=part[1])
    draw_arrow(axes, (0, y - 0.1), (0, y + 0.4))
    axes.set_title(title, fontsize=11)
    return y + 0.5


def main() -> None:
    """Draw all blocks in two rows on one scale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", help="PNG to write")
    figure = Figure(figsize=(11, 11), layout="constrained")
    places = figure.subplots(2, (len(PANELS) + 1) // 2).flat
    heights = [draw_block(axes, title, parts) for axes, (title, parts) in zip(places, PANELS.items(), strict=False)]
    for axes in figure.axes:
        axes.set(xlim=(-1.85, 1.7), ylim=(-0.3, max(heights)))
        axes.axis("off")
    figure.suptitle(
        "The blocks of the heads and where the shift sits (padding is set to zero after each block)", fontsize=12
    )
    figure.savefig(parser.parse_args().path, dpi=110)


if __name__ == "__main__":
    main()
