"""Kill a run at random moments, let it go on, and compare what it leaves with a run that nobody killed.

    python -m benchmarks.kill_and_resume --kills 20 --seed 0                # frames of the demo's frozen encoder
    python -m benchmarks.kill_and_resume --kills 20 --seed 0 --fine_tuning   # a tiny random encoder is trained too

A round starts in an empty folder, is ended by SIGKILL after a time drawn evenly over the length of the undisturbed run,
started again, killed again, until it is done; rounds follow until there were enough kills. Every file that a round
leaves in its folder (results, predictions, weights, cards, figure) must be there in the undisturbed run with the same
bytes, but for seconds and memory: the `cost` in results, its sentence in cards, `checksums.json`. Exit status 1 if one
is not. What is killed is the run itself: packages are imported before.
"""

import argparse
import multiprocessing
import os
import random
import re
import sys
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Every step of a fold: training, validation, refit, scoring, saving; and the step from fold to fold.
RUN = "--folds 1 2 --refit true --num_train_epochs 2 --learning_rate 1e-3 --per_device_train_batch_size 8"

FINE_TUNING = "--scenario fine_tuning --encoder_augmentation true --folds 1 2 --num_train_epochs 2"
FINE_TUNING += " --learning_rate 1e-3 --per_device_train_batch_size 8"


def run(words: list[str], log: Path) -> None:
    """One whole run, in a process of its own that writes what it has to say into a file."""
    os.dup2(os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND), sys.stderr.fileno())
    import torch

    from shift_ser.training.arguments import parse_arguments
    from shift_ser.training.cross_validation import CrossValidation

    torch.set_num_threads(1)
    CrossValidation(*parse_arguments(words)).run()


def without_cost(content: bytes) -> bytes:
    """A file without the seconds and the memory that its results tell."""
    in_card = rb"took [0-9]+ s on average .*? MB of memory at most"
    return re.sub(rb'"cost": \{.*?\}|' + in_card, b"", content, flags=re.S)


class Rounds:
    """Runs that are started, killed and started again in numbered folders.

    Args:
        folder: Where the rounds' folders go.
        words: Flags of `run_ser.py`, without folders.
    """

    def __init__(self, folder: Path, words: list[str]) -> None:
        self.folder, self.words = folder, words
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["shift_ser.training.cross_validation"])

    def start(self, name: str, log: Path) -> BaseProcess:
        """Start the run of a round, or let it go on."""
        paths = {"output_dir": self.folder / name / "out", "cache_dir": self.folder / name / "cache"}
        words = [*self.words, "--disable_tqdm", "true", *(f"--{key}={path}" for key, path in paths.items())]
        process = self.context.Process(target=run, args=(words, log))
        process.start()
        return process

    def attempt(self, name: str, *, seconds: float | None = None) -> bool:
        """Start the run of a round, or let it go on; whether it came to its end within the time."""
        log = self.folder / f"{name}.log"
        process = self.start(name, log)
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
            return False
        if process.exitcode != 0:
            sys.exit(f"{log.read_text()}\nerror: the run of {name} ended with exit code {process.exitcode}")
        return True

    def timed(self, name: str) -> float:
        """Seconds that a whole run takes."""
        start = time.perf_counter()
        self.attempt(name)
        return time.perf_counter() - start

    def pair(self, name: str, offset: float) -> tuple[list[int | None], str]:
        """Two runs in one folder, the second some seconds after the first: exit codes, and what they said."""
        logs = [self.folder / f"{name}, {which}.log" for which in ("first", "second")]
        first = self.start(name, logs[0])
        time.sleep(offset)
        second = self.start(name, logs[1])
        for process in (first, second):
            process.join()
        return [first.exitcode, second.exitcode], "\n".join(log.read_text() for log in logs if log.exists())

    def files(self, name: str) -> dict[str, bytes]:
        """What a round has left, but for the seconds and the memory that its results tell."""
        folder = self.folder / name / "out"
        return {
            str(path.relative_to(folder)): without_cost(path.read_bytes())
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".lock") and path.name != "checksums.json"
        }

    def newest(self, name: str) -> str:
        """The file or folder of a round that was touched last."""
        folder = self.folder / name
        paths = sorted(folder.rglob("*"), key=lambda path: path.stat().st_mtime_ns)
        return str(paths[-1].relative_to(folder)) if paths else "nothing yet"


def main() -> int:
    """Parse, run, kill, compare, print; returns the exit status."""
    parser = argparse.ArgumentParser(description="Kill a run at random moments and compare what it leaves.")
    parser.add_argument("--kills", type=int, default=20, help="at least; the last round is brought to its end")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fine_tuning", action="store_true", help="train a tiny random encoder too")
    parser.add_argument("--encoder", help="default: demo_encoder; with --fine_tuning a tiny random one is made")
    parser.add_argument("--corpus", help="default: a synthetic one of 40 utterances is made")
    parser.add_argument("--run", help="flags of the run, in place of those that every step of a fold belongs to")
    args = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore::UserWarning:multiprocessing.resource_tracker"}
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        corpus = args.corpus or make_corpus(Path(folder) / "corpus")
        tiny = args.fine_tuning and not args.encoder
        encoder = make_encoder(Path(folder) / "encoder") if tiny else args.encoder or "demo_encoder"
        flags = args.run or (FINE_TUNING if args.fine_tuning else RUN)
        rounds = Rounds(Path(folder), ["--encoder", str(encoder), "--corpus", str(corpus), *flags.split()])
        rounds.attempt("warm up", seconds=0)  # the process that the runs are forked from imports its packages
        duration = rounds.timed("undisturbed")
        expected = rounds.files("undisturbed")
        print(f"An undisturbed run takes {duration:.1f} s and leaves {len(expected)} files.\n")
        print("| round | kill | after s | last written |\n| ---: | ---: | ---: | --- |")
        kills, number, different = 0, 0, []
        while kills < args.kills:
            number += 1
            name = f"round {number}"
            while not rounds.attempt(name, seconds=(seconds := draw.uniform(0, duration))):
                kills += 1
                print(f"| {number} | {kills} | {seconds:.2f} | {rounds.newest(name)} |", flush=True)
            found = rounds.files(name)
            different += [f"{name}: {file}" for file in expected | found if expected.get(file) != found.get(file)]
        print(f"\n{kills} kills in {number} rounds; files that differ: {', '.join(different) or 'none'}")
    return 1 if different else 0


def make_corpus(folder: Path) -> Path:
    """A small spoken corpus."""
    from shift_ser.corpora.synthetic import make_synthetic_corpus

    return make_synthetic_corpus(folder, num_utterances=40, seed=0)


def make_encoder(folder: Path) -> Path:
    """A tiny random encoder."""
    import torch
    from transformers import AutoModel, HubertConfig

    from shift_ser import ShiftFeatureExtractor

    torch.manual_seed(0)
    config = HubertConfig(
        hidden_size=96, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, conv_dim=(16, 16, 16),
        conv_stride=(5, 8, 8), conv_kernel=(10, 8, 8), num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer", do_stable_layer_norm=True,
    )  # fmt: skip
    AutoModel.from_config(config).save_pretrained(folder)
    ShiftFeatureExtractor().save_pretrained(folder)
    return folder


if __name__ == "__main__":
    sys.exit(main())
