"""Ways of doing a thing, measured in turn, each in the process that it asks for.

Two ways cannot share a process if one is to have the stock allocator and the other one keeps freed memory; and peaks of
memory belong to processes. So each way names its process; all are started beforehand, and only one works at a time.
"""

import multiprocessing
import os
import resource
import socket
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from multiprocessing.connection import Connection
from typing import Any, Protocol

import torch

from shift_ser.cpu import keep_freed_memory

# Imported once; the processes are forked from there.
_PRELOADED = ["benchmarks.feature_extraction", "benchmarks.inference", "benchmarks.fine_tuning", "benchmarks.shift"]
_MANY = 8
_PATIENCE = 10  # seconds that a process has to end


class Case(Protocol):
    """Something to measure. It is sent to its process before it is prepared."""

    def prepare(self) -> None:
        """Make models and data; not timed."""

    def run(self) -> None:
        """What is timed; may be called any number of times."""


@dataclass(frozen=True)
class Way:
    """One way of doing a thing.

    Attributes:
        case: What is timed.
        keeps_memory: Whether its process calls `keep_freed_memory`.
        process: Name of the process it runs in; ways of one name share it. Default: one of its own.
        num_processes: How many processes run the case at once; they meet as `accelerate launch` lets them.
    """

    case: Case
    keeps_memory: bool = True
    process: str = ""
    num_processes: int = 1


@dataclass(frozen=True)
class Line:
    """A ratio: some ways, each so many times, against some others.

    Attributes:
        title: What is done.
        a: How often each way is counted in what is compared, e.g. the batches of an epoch.
        b: The same for what it is compared with.
        a_words: What `a` is.
        b_words: What `b` is.
        unit: `s`: time; `MB`: peak memory of the process of the first way of each.
    """

    title: str
    a: Mapping[str, float]
    b: Mapping[str, float]
    a_words: str = "authors' way"
    b_words: str = "ours"
    unit: str = "s"


@dataclass(frozen=True)
class Experiment:
    """Ways that are measured in turn, and what is read off them.

    Attributes:
        words: What is compared, and what is extrapolated from what.
        ways: The ways by name, in the order in which they take turns.
        lines: The ratios.
        repeats: Rounds that count; one more goes before them.
    """

    words: str
    ways: Mapping[str, Way]
    lines: tuple[Line, ...]
    repeats: int = 3


@dataclass
class Measured:
    """What came out: seconds of each way in each round, and the peak memory of its process in MB."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)

    def row(self, line: Line) -> dict[str, Any]:
        """A line of the table: medians of both sides, and the ratio's median and spread over rounds.

        The spread is least and most; from `_MANY` rounds on it is the quartiles.
        """
        if line.unit == "MB":
            sides = [[self.peaks[next(iter(side))]] for side in (line.a, line.b)]
        else:
            sides = [self._rounds(side) for side in (line.a, line.b)]
        ratios = [a / b for a, b in zip(*sides, strict=True)]
        low, _, high = statistics.quantiles(ratios) if len(ratios) >= _MANY else (min(ratios), 0, max(ratios))
        return {
            "title": line.title,
            "a_words": line.a_words,
            "b_words": line.b_words,
            "unit": line.unit,
            "a": statistics.median(sides[0]),
            "b": statistics.median(sides[1]),
            "ratio": statistics.median(ratios),
            "low": low,
            "high": high,
            "ratios": ratios,
        }

    def _rounds(self, side: Mapping[str, float]) -> list[float]:
        counted = [[times * seconds for seconds in self.seconds[way]] for way, times in side.items()]
        return [sum(together) for together in zip(*counted, strict=True)]


class Worker:
    """A process that prepares and runs its cases when it is told to.

    Args:
        cases: What it may be told to run, by name.
        folder: Where its temporary files go.
        keeps_memory: Whether it keeps freed memory.
        environment: Variables to set there.
    """

    def __init__(
        self,
        cases: Mapping[str, Case],
        *,
        folder: str,
        keeps_memory: bool,
        environment: Mapping[str, str],
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        self._pipe, there = context.Pipe()
        options = (there, dict(cases), folder, keeps_memory, dict(environment))
        self._process = context.Process(target=_work, args=options)
        self._process.start()
        there.close()

    def start(self, name: str) -> None:
        """Let it run a case; `wait` must follow."""
        self._pipe.send(name)

    def wait(self) -> tuple[float, float]:
        """Seconds that the case took, and the peak of the process's memory so far in MB.

        Raises:
            RuntimeError: If the case failed.
        """
        try:
            answer = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"a process ended with exit code {self._process.exitcode}: was memory short?") from None
        if isinstance(answer, str):
            raise RuntimeError(f"a case failed:\n{answer}")
        return answer

    def close(self) -> None:
        """End the process, once it is done with what it does; if it does not come to an end, it is killed."""
        self._pipe.close()
        self._process.join(_PATIENCE)
        self._process.kill()
        self._process.join()


def measure(
    experiment: Experiment, *, folder: str, repeats: int | None = None, told: Callable[[str], None] = lambda words: None
) -> Measured:
    """Run every way once unmeasured, and then all ways in turn, round after round.

    Args:
        experiment: What to measure.
        folder: For temporary files.
        repeats: Rounds, in place of the experiment's own.
        told: Hears how far it is.

    Raises:
        RuntimeError: If a way fails.
        ValueError: If ways that share a process ask for different things of it.
    """
    repeats, measured = repeats or experiment.repeats, Measured()
    workers: dict[str, list[Worker]] = {}
    process_of = {name: way.process or name for name, way in experiment.ways.items()}
    try:
        for process in dict.fromkeys(process_of.values()):
            ways = {name: way for name, way in experiment.ways.items() if process_of[name] == process}
            cases = {name: way.case for name, way in ways.items()}
            options = {(way.keeps_memory, way.num_processes) for way in ways.values()}
            if len(options) > 1:
                raise ValueError(f"ways of the process {process!r} must ask for the same of it, got {options}")
            ((keeps_memory, count),) = options
            environments = _meeting(count)
            workers[process] = [
                Worker(cases, folder=folder, keeps_memory=keeps_memory, environment=environment)
                for environment in environments
            ]
        for round_number in range(repeats + 1):
            for name in experiment.ways:
                told(f"{name}, round {round_number} of {repeats}")
                seconds, measured.peaks[name] = _run(workers[process_of[name]], name)
                if round_number > 0:
                    measured.seconds.setdefault(name, []).append(seconds)
    finally:
        for worker in chain.from_iterable(workers.values()):
            worker.close()
    return measured


def _run(together: Sequence[Worker], name: str) -> tuple[float, float]:
    """Run a case in all these processes at once: the longest time, the sum of their peaks."""
    for worker in together:
        worker.start(name)
    seconds, peaks = zip(*[worker.wait() for worker in together], strict=True)
    return max(seconds), sum(peaks)


def _meeting(count: int) -> list[dict[str, str]]:
    """For each of several processes the variables by which they find each other; none for one."""
    if count == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def _work(
    pipe: Connection, cases: dict[str, Case], folder: str, keeps_memory: bool, environment: dict[str, str]
) -> None:
    """The life of a worker: it ends when the other end of the pipe is closed."""
    os.environ |= environment
    tempfile.tempdir = folder
    if keeps_memory:
        keep_freed_memory()
    ready = set()
    while True:
        try:
            name = pipe.recv()
        except EOFError:
            return
        try:
            if name not in ready:
                torch.manual_seed(0)
                cases[name].prepare()
                ready.add(name)
            start = time.perf_counter()
            cases[name].run()
            pipe.send((time.perf_counter() - start, _peak_megabytes()))
        except Exception:
            pipe.send(traceback.format_exc())


def _peak_megabytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
