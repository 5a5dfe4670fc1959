"""What larger corpora would take: parts that are measured here, and what follows for more utterances and workers.

    python -m benchmarks.scaling [--utterances N ...] [--workers N ...]

Measured: reading a corpus once (fingerprints and lengths), planning folds, opening a frame cache. Taken from
`benchmarks.speed` and given as options: the encoder's pass and a head's epoch. The rest is arithmetic, and no claim.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from shift_ser.corpora import load_corpus
from shift_ser.corpora.corpus import scan_recordings
from shift_ser.training.feature_cache import FrameCache
from shift_ser.training.protocols import plan_folds
from shift_ser.training.shards import shard_name, shard_size, write_shard

from .workload import lengths, num_frames, write_recordings

SECONDS = 4.5  # mean length of an utterance
CHANNELS, BYTES = 768, 2  # of the frames of a base encoder, in bfloat16


def reading(count: int = 200) -> float:
    """Seconds to read an utterance once, in 16-bit files that lie in the system's memory."""
    paths = write_recordings(lengths(count, longest=7.5).tolist())
    table = paths[0].with_name("labels.csv")
    rows = [f"{path.name},{row % 4},{row % 10}" for row, path in enumerate(paths)]
    table.write_text("\n".join(["audio,label,speaker", *rows]), encoding="utf-8")
    corpus = load_corpus(str(table))
    return _time(lambda: scan_recordings(corpus)) / count


def planning(count: int) -> float:
    """Seconds to plan and check five groups of speakers of a corpus, an utterance."""
    names = [f"{row:08d}" for row in range(count)]
    columns = {"utterance": names, "speaker": [f"speaker {row % 1000}" for row in range(count)]}
    return _time(lambda: plan_folds(columns, protocol="speaker_groups")) / count


def opening(shards: int = 500) -> float:
    """Seconds to map a shard of a frame cache."""
    with tempfile.TemporaryDirectory() as folder:
        for index in range(shards):
            frames = {f"{index}-{row}": torch.zeros(1, 8) for row in range(32)}
            write_shard(Path(folder) / shard_name(index, shards), frames, input_name="encoder_hidden_states")
        return _time(lambda: FrameCache.open(folder)) / shards


def _time(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, compute, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--utterances", type=int, nargs="+", default=[5531, 265_000, 10_000_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 10, 100, 1000], help="of one core each")
    parser.add_argument("--encode", type=float, default=0.038, help="core-seconds of the encoder a second of speech")
    parser.add_argument("--head", type=float, default=0.0265, help="core-seconds of a head's epoch an utterance")
    args = parser.parse_args(arguments)
    read, opened = reading(), opening()
    planned = {count: planning(count) for count in (10_000, 80_000)}
    each = ", ".join(f"{seconds * 1e6:.0f} us of {count:,}" for count, seconds in planned.items())
    print(
        f"Measured: reading {read * 1e3:.2f} ms an utterance, opening {opened * 1e3:.2f} ms a shard, planning {each}."
    )
    print(
        f"Given: the encoder {args.encode} core-s a second of speech, a head's epoch {args.head} core-s an utterance.\n"
    )
    columns = [
        "utterances",
        "hours",
        "read once, core-h",
        "plan, min",
        "cache, GB",
        "files",
        "open, s",
        "epoch, core-h",
    ]
    print("| " + " | ".join([*columns, *(f"encode, h, {count} workers" for count in args.workers)]) + " |")
    print("|" + "---:|" * (len(columns) + len(args.workers)))
    for count in args.utterances:
        size = shard_size(count)
        shards = -(-count // size)
        cache = count * num_frames(SECONDS) * CHANNELS * BYTES
        row = [f"{count:,}", f"{count * SECONDS / 3600:,.0f}", f"{count * read / 3600:,.2f}"]
        row += [f"{count * planned[80_000] / 60:,.1f}", f"{cache / 1e9:,.1f}", f"{shards:,}", f"{shards * opened:,.1f}"]
        row += [f"{count * args.head / 3600:,.1f}"]
        for workers in args.workers:  # a worker takes whole shards, and all wait for the last
            utterances = min(count, -(-shards // workers) * size)
            row.append(f"{utterances * SECONDS * args.encode / 3600:,.2f}")
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
