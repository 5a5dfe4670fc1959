"""Draw the README's figure of the shift by running the shift itself: `python examples/draw_shift.py docs/shift.png`."""

import argparse

import torch
from matplotlib.figure import Figure

from shift_ser import temporal_shift

FRAMES, CHANNELS, SPEECH = 8, 8, 6  # the last two frames are padding


def main() -> None:
    """Number the frames, shift them, and colour each cell by the frame its content came from."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", help="PNG to write")
    path = parser.parse_args().path
    frames = torch.arange(1.0, FRAMES + 1).view(1, FRAMES, 1).repeat(1, 1, CHANNELS)
    mask = (torch.arange(FRAMES) < SPEECH)[None]
    panels = {
        "input\n(frames 7 and 8 are padding)": frames * mask[..., None],
        "forward, proportion 1/4\n2 of 8 channels delayed": temporal_shift(
            frames, proportion=1 / 4, attention_mask=mask
        ),
        "bidirectional, proportion 1/4\n2 delayed, 2 advanced": temporal_shift(
            frames, proportion=1 / 4, direction="bidirectional", attention_mask=mask
        ),
    }
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    for axes, (title, panel) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        grid = panel[0].T
        axes.imshow(grid.where(grid > 0, torch.nan), cmap="viridis", vmin=0, vmax=FRAMES, aspect="auto")
        for channel in range(CHANNELS):
            for time in range(FRAMES):
                source, kept = int(grid[channel, time]), int(grid[channel, time]) == time + 1
                color = "white" if 0 < source < 6 else "black" if source else "0.6"
                weight = "normal" if kept or not source else "bold"
                axes.text(time, channel, str(source), ha="center", va="center", color=color, fontweight=weight)
        axes.axvline(SPEECH - 0.5, color="0.3", linestyle="--", linewidth=1)
        axes.set(title=title, xlabel="time (frame)", xticks=range(FRAMES), yticks=range(CHANNELS))
        axes.set_xticklabels(range(1, FRAMES + 1))
        axes.tick_params(length=0)
        axes.spines[:].set_color("0.7")
        axes.set_ylabel("channel")
    figure.suptitle("Each cell shows the frame its content comes from (bold: another frame; 0: nothing)")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
