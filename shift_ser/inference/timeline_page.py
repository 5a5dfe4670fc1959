"""A timeline as HTML: player, waveform, what is heard when, probabilities over time; a click plays from there."""

import colorsys
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import numpy as np

from .timeline import Timeline

COLUMNS = 800  # of the waveform
_LONG_FORM = 3600  # seconds from which times have hours
# Colours of well known labels; others get evenly spread hues.
COLOURS = {
    "angry": "#d9483b", "anger": "#d9483b", "happy": "#e8a317", "happiness": "#e8a317", "excited": "#f07f2e",
    "neutral": "#8b95a5", "sad": "#3f7fd1", "sadness": "#3f7fd1", "fear": "#8e5cc4", "disgust": "#5f9e4a",
    "surprise": "#20a7a0", "calm": "#58b7a6", "bored": "#a58a6d", "frustrated": "#b4596e",
}  # fmt: skip
CSS = """
.ser{font-size:15px;line-height:1.4;color:var(--body-text-color,#222);padding:14px;border-radius:8px;
 background:var(--block-background-fill,#fff)}
.ser audio{width:100%;height:40px;margin-bottom:10px}
.ser .track{position:relative;cursor:pointer;touch-action:manipulation}
.ser svg{display:block;width:100%}
.ser .wave{height:84px}.ser .curves{height:120px}
.ser .name{font-size:12px;opacity:.65;margin:10px 0 3px}
.ser .bar{position:relative;height:34px;border-radius:6px;overflow:hidden;
 background:var(--background-fill-secondary,#f1f2f4)}
.ser .bar span{position:absolute;top:0;bottom:0;color:#fff;font-size:13px;font-weight:600;line-height:34px;
 text-align:center;overflow:hidden;white-space:nowrap;box-shadow:inset -1px 0 0 #fff8}
.ser .axis{position:relative;height:18px;font-size:11px;opacity:.65;font-variant-numeric:tabular-nums}
.ser .axis span{position:absolute;transform:translateX(-50%);top:3px}
.ser .axis span:first-child{transform:none}.ser .axis span:last-child{transform:translateX(-100%)}
.ser .head{position:absolute;top:0;bottom:0;width:2px;left:0;background:var(--body-text-color,#222);pointer-events:none}
.ser .key{display:flex;flex-wrap:wrap;gap:4px 16px;margin:8px 0 12px;font-size:13px}
.ser .key i{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:6px}
.ser .all{max-height:340px;overflow-y:auto;border-top:1px solid var(--border-color-primary,#ddd)}
.ser table{width:100%;border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:14px}
.ser th{position:sticky;top:0;background:var(--block-background-fill,#fff);font-weight:600;font-size:12px;opacity:.8}
.ser td,.ser th{padding:5px 8px;text-align:left;border-bottom:1px solid var(--border-color-primary,#eee)}
.ser tr[data-t]{cursor:pointer}.ser tr[data-t]:hover{background:var(--background-fill-secondary,#f5f6f8)}
.ser .meter{display:inline-block;width:min(38%,140px);height:8px;border-radius:4px;margin-right:8px;
 vertical-align:middle;background:var(--background-fill-secondary,#eee);overflow:hidden}
.ser .meter b{display:block;height:100%}
.ser .told{padding:4px}
"""
# For the element that holds the page: a click plays from there, and a line shows where the player is.
SCRIPT = """
const player = () => element.querySelector('.ser audio');
element.addEventListener('click', (event) => {
  const audio = player(), row = event.target.closest('[data-t]'), track = event.target.closest('.track');
  if (!audio || !(row || track)) return;
  const box = track && track.getBoundingClientRect();
  audio.currentTime = row ? +row.dataset.t : (event.clientX - box.left) / box.width * +track.dataset.seconds;
  audio.play();
});
element.addEventListener('timeupdate', () => {
  const audio = player(), track = element.querySelector('.track');
  if (audio && track) for (const line of element.querySelectorAll('.head'))
    line.style.left = 100 * audio.currentTime / +track.dataset.seconds + '%';
}, true);
"""


class Envelope:
    """The largest sample of each column of a waveform, of a recording that is read once and of unknown length.

    While it grows, neighbouring columns are joined, so that memory stays that of twice as many columns.
    """

    def __init__(self) -> None:
        self.size, self._peaks, self._rest = 64, np.zeros(0, np.float32), np.zeros(0, np.float32)

    def add(self, samples: np.ndarray) -> None:
        """Take further samples `(samples,)`."""
        samples = np.concatenate([self._rest, np.abs(samples)])
        whole = len(samples) // self.size * self.size
        found = samples[:whole].reshape(-1, self.size).max(axis=1)
        self._peaks, self._rest = np.concatenate([self._peaks, found]), samples[whole:]
        while len(self._peaks) >= 2 * COLUMNS:
            if len(self._peaks) % 2:  # the last column has no neighbour yet: it stands for as many samples
                left = np.full(self.size, self._peaks[-1], np.float32)
                self._rest, self._peaks = np.concatenate([left, self._rest]), self._peaks[:-1]
            self._peaks = self._peaks.reshape(-1, 2).max(axis=1)
            self.size *= 2

    def peaks(self) -> np.ndarray:
        """Of each column, from 0 to 1 of the loudest one."""
        peaks = np.append(self._peaks, self._rest.max()) if len(self._rest) else self._peaks
        return peaks / max(float(peaks.max(initial=0)), 1e-9)


def colours(labels: Sequence[str]) -> dict[str, str]:
    """A colour for each label.

    Example:
        >>> colours(["sad", "smug"])
        {'sad': '#3f7fd1', 'smug': '#40bfbf'}
    """
    unknown = [label for label in labels if label.lower() not in COLOURS]
    hues = [(number + 0.5) / len(unknown) for number in range(len(unknown))]
    made = ["#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, 0.5, 0.5)) for hue in hues]
    found = dict(zip(unknown, made, strict=True))
    return {label: COLOURS.get(label.lower()) or found[label] for label in labels}


def timeline_page(found: Timeline, peaks: np.ndarray, *, source: str) -> str:
    """The page of one recording.

    Args:
        found: Its timeline.
        peaks: Of its waveform's columns, from 0 to 1.
        source: Address of the recording, for the player.
    """
    player = f'<audio controls preload="metadata" src="{escape(source)}"></audio>'
    if not found.segments:
        told = "Nobody speaks in this recording, so far as the voice activity detector hears: silence and noise have no"
        return f'<div class="ser">{player}<div class="told">{told} emotion.</div></div>'
    colour = colours(found.labels)
    track = f'<div class="track" data-seconds="{found.duration:.3f}">'
    parts = [
        '<div class="ser">', player, track, _wave(found, peaks, colour), _bar(found, colour), "</div>",
        _axis(found.duration), _key(found, colour), '<div class="name">probability over time, from 0 to 100 %</div>',
        track, _curves(found, colour), "</div>", _axis(found.duration), '<div class="name">segments</div>',
        _table(found, colour), "</div>",
    ]  # fmt: skip
    return "".join(parts)


def clock(seconds: float, *, places: int = 0) -> str:
    """Minutes and seconds, with hours where there are any.

    Example:
        >>> clock(61.26, places=1), clock(3725)
        ('1:01.3', '1:02:05')
    """
    seconds = round(seconds, places)
    hours, rest = divmod(seconds, _LONG_FORM)
    minutes, rest = divmod(rest, 60)
    last = f"{rest:0{3 + places if places else 2}.{places}f}"
    return f"{hours:.0f}:{minutes:02.0f}:{last}" if hours else f"{minutes:.0f}:{last}"


def _percent(value: float, whole: float) -> str:
    return f"{100 * value / whole:.3f}%"


def _wave(found: Timeline, peaks: np.ndarray, colour: dict[str, str]) -> str:
    """Bars of the waveform, in the colour of what is heard there."""
    times = (np.arange(len(peaks)) + 0.5) / len(peaks) * found.duration
    paths: dict[str, list[str]] = {}
    for place, (time, peak) in enumerate(zip(times, peaks, strict=True)):
        said = next((each["label"] for each in found.segments if each["start"] <= time < each["end"]), "")
        height = max(1.0, 48 * float(peak))
        paths.setdefault(said, []).append(f"M{place + 0.5:.1f} {50 - height:.1f}V{50 + height:.1f}")
    drawn = "".join(
        f'<path d="{"".join(lines)}" stroke="{colour.get(said, "#b9bfc8")}" stroke-width=".8" fill="none"/>'
        for said, lines in paths.items()
    )
    return f'<svg class="wave" viewBox="0 0 {len(peaks)} 100" preserveAspectRatio="none">{drawn}</svg>{_HEAD}'


_HEAD = '<div class="head"></div>'


def _bar(found: Timeline, colour: dict[str, str]) -> str:
    """A block for each segment, with its label where there is room for it."""
    blocks = []
    for each in found.segments:
        share = (each["end"] - each["start"]) / found.duration
        told = (
            f"{each['label']}, {each['score']:.0%}, {clock(each['start'], places=1)} to {clock(each['end'], places=1)}"
        )
        blocks.append(
            f'<span style="left:{_percent(each["start"], found.duration)};width:{100 * share:.3f}%;'
            f'background:{colour[each["label"]]}" title="{escape(told)}">'
            f"{escape(each['label']) if share > 0.08 else ''}</span>"
        )
    return f'<div class="bar">{"".join(blocks)}</div>'


def _axis(duration: float) -> str:
    """Five times from the beginning to the end."""
    places = 1 if duration < 20 else 0
    marks = [f'<span style="left:{25 * part}%">{clock(part * duration / 4, places=places)}</span>' for part in range(5)]
    return f'<div class="axis">{"".join(marks)}</div>'


def _key(found: Timeline, colour: dict[str, str]) -> str:
    """Each label with its colour and its share of the time that somebody speaks."""
    spoken = sum(each["end"] - each["start"] for each in found.segments)
    shares = {label: 0.0 for label in found.labels}
    for each in found.segments:
        shares[each["label"]] += (each["end"] - each["start"]) / spoken
    keys = [
        f'<span><i style="background:{colour[label]}"></i>{escape(label)} {share:.0%}</span>'
        for label, share in sorted(shares.items(), key=lambda item: -item[1])
    ]
    return f'<div class="key">{"".join(keys)}<span style="opacity:.65">of {clock(spoken)} spoken</span></div>'


def _curves(found: Timeline, colour: dict[str, str]) -> str:
    """A line for each label; it is broken where nobody speaks."""
    lines = []
    for number, label in enumerate(found.labels):
        drawn = " ".join(_runs(found, number))
        lines.append(
            f'<path d="{drawn}" stroke="{colour[label]}" fill="none" stroke-width="2" stroke-linejoin="round"'
            ' vector-effect="non-scaling-stroke"/>'
        )
    grid = "".join(f'<path d="M0 {y}H1000" stroke="#8883" vector-effect="non-scaling-stroke"/>' for y in (2, 50, 98))
    return f'<svg class="curves" viewBox="0 0 1000 100" preserveAspectRatio="none">{grid}{"".join(lines)}</svg>{_HEAD}'


def _runs(found: Timeline, number: int) -> Iterator[str]:
    """The path of each stretch of speech; no more points than a screen shows."""
    before = -1.0
    every = max(1, len(found.times) // (2 * COLUMNS))
    for (start, end), scores in zip(found.times[::every], found.scores[::every], strict=True):
        x, y = 1000 * (start + end) / 2 / found.duration, 98 - 96 * scores[number]
        joined = start - before < 0.05 + (end - start) * every
        yield f"{'L' if joined else 'M'}{x:.2f} {y:.1f}"
        before = end


def _table(found: Timeline, colour: dict[str, str]) -> str:
    """A row for each segment."""

    def row(each: dict[str, Any]) -> str:
        meter = f'<b style="width:{each["score"]:.1%};background:{colour[each["label"]]}"></b>'
        return (
            f'<tr data-t="{each["start"]:.3f}" title="play from here"><td>{clock(each["start"], places=1)}</td>'
            f"<td>{clock(each['end'], places=1)}</td><td>{escape(each['label'])}</td>"
            f'<td><span class="meter">{meter}</span>{each["score"]:.0%}</td></tr>'
        )

    rows = "".join(map(row, found.segments))
    head = "<tr><th>from</th><th>to</th><th>label</th><th>probability</th></tr>"
    return f'<div class="all"><table>{head}{rows}</table></div>'
