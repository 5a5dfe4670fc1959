"""Small slips made in a copy of the package, one at a time: does a test fail? A sample of those cosmic-ray knows.

    python -m benchmarks.mutants                                  # every module of the table, hours
    python -m benchmarks.mutants --only training/fold.py --count 12 --seed 0
    python -m benchmarks.mutants --again                          # those that survived, after a test was written
    python -m benchmarks.mutants --slips                          # those of a list made by hand, by its own tests
    python -m benchmarks.mutants --count 0                        # the table of what is done

Of each module some places are drawn by the seed, and at each of them one of its mutants; annotations are left out, for
they change nothing. A mutant meets its docstrings' examples and the fast test files that the table names for its
module, up to the first failure. What is done is kept in a file, and a run that was broken off goes on there. Mutants
that survive are shown, but those that the table knows to be equivalent. Exit status 1 if there is one.
"""

import argparse
import ast
import difflib
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .mutants_slips import SLIPS, Slip
from .mutants_table import EQUIVALENT, GUARDS, MODULES

ROOT = Path(__file__).resolve().parents[1]
# What the tests import of others, once for all mutants; nothing of the package itself.
PRELOAD = ["pytest", "transformers.trainer", "transformers.models.hubert.modeling_hubert", "datasets", "scipy.stats"]
PRELOAD += ["sklearn.metrics", "matplotlib.pyplot", "huggingface_hub", "soundfile", "safetensors.torch"]
# The environment's plugins may be imported before pytest could look into their assertions.
QUIET = "ignore::pytest.PytestAssertRewriteWarning"
LIMIT = 30.0, 3.0  # seconds that tests may take: these, and so many times what they take without a mutant


@dataclass(frozen=True)
class Mutant:
    """A module with one slip.

    Attributes:
        module: Path of the module below `shift_ser`.
        operator: Name of what cosmic-ray does.
        number: Which of the places where it can do that.
        line: Where the slip is.
        before: The code of that place, on one line.
        after: What became of it.
    """

    module: str
    operator: str
    number: int
    line: int
    before: str
    after: str

    @property
    def slip(self) -> str:
        """The slip, as the table names it."""
        return f"{self.before}  ->  {self.after}"

    @property
    def is_known(self) -> bool:
        """Whether the table says why no test can tell it from the module: a guard, the slip, or any of its line."""
        unguarded = {self.before.replace(guard, without) for guard, without in GUARDS.items()}
        known = {self.slip, self.before} & EQUIVALENT.get(self.module, {}).keys()
        return self.after in unguarded or bool(known)


def places_of(source: str) -> dict[tuple[int, int], list[tuple[str, int]]]:
    """By line and column, the operators that can do something there, each with the number of that place."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    found: dict[tuple[int, int], list[tuple[str, int]]] = defaultdict(list)
    nodes = [*ast_nodes(get_ast(source))]
    for name in sorted(operator_names()):
        kind = get_operator(name)
        if kind.arguments() or name.endswith("NoOp"):
            continue
        places = [place for node in nodes for place in kind().mutation_positions(node)]
        for number, (start, _) in enumerate(places):
            found[start].append((name, number))
    return found


def mutate(module: str, source: str, operator: str, number: int) -> tuple[Mutant, str] | None:
    """A mutant and its whole code; nothing where it would run as the module does, or not at all."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    try:
        code = mutate_code(source, get_operator(operator)(), number)
    except AttributeError:  # cosmic-ray cannot replace the `name.Error` of an `except`
        return None
    if code is None or _without_annotations(code) in (_without_annotations(source), None):
        return None
    before, after = source.splitlines(), code.splitlines()
    changes = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    _, first, last, start, end = next(change for change in changes if change[0] != "equal")
    texts = (" ".join(" ".join(lines).split()) for lines in (before[first:last], after[start:end]))
    return Mutant(module, operator, number, first + 1, *texts), code


def _without_annotations(source: str) -> str | None:
    """What a module runs, `None` if it is no Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return ast.dump(tree)


def draw(module: str, source: str, count: int | None, seed: int) -> Iterator[tuple[Mutant, str]]:
    """One mutant at each of the places drawn."""
    rng, places = random.Random(f"{seed} {module}"), places_of(source)
    order, drawn = rng.sample(sorted(places), len(places)), 0
    for place in order:
        if drawn == count:
            return
        if made := mutate(module, source, *rng.choice(places[place])):
            drawn += 1
            yield made


class Copy:
    """A copy of the repository, and the tests that run in it.

    Args:
        folder: Where the copy goes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        os.environ["HF_HUB_OFFLINE"] = "1"  # as the tests have it, before what is preloaded reads it
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOAD)

    def test(self, files: list[str], limit: float | None = None) -> tuple[str, str, float]:
        """`passed`, `failed` or `timeout`; the last lines of what pytest said; seconds."""
        log = self.folder.parent / "log.txt"
        process = self.context.Process(target=_run_tests, args=(self.folder, files, log))
        start = time.perf_counter()
        process.start()
        process.join(limit)
        seconds = time.perf_counter() - start
        if process.is_alive():
            process.kill()
            process.join()
            return "timeout", "", seconds
        said = log.read_text(encoding="utf-8", errors="replace").splitlines()
        told = next((line for line in said if line.startswith(("FAILED", "ERROR"))), said[-1] if said else "")
        return ("failed" if process.exitcode else "passed"), told, seconds

    def must_pass(self, files: list[str]) -> float:
        """Run tests before there is any slip; returns seconds."""
        answer, told, seconds = self.test(files)
        if answer != "passed":
            sys.exit(f"error: the tests must pass before a slip is made: {told}")
        return seconds


def _run_tests(folder: Path, files: list[str], log: Path) -> None:
    """Pytest over some files of the copy, up to the first failure."""
    output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True  # two mutants of one second and one size would be one to Python
    os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    import pytest

    base = f"--basetemp={log.parent / 'tests'}"
    sys.exit(
        pytest.main(
            ["-x", "-q", "-n", "0", "-m", "not slow", "--no-header", "--tb=no", "-rfE", base, "-W", QUIET, *files]
        )
    )


class Results:
    """What is done, a line of JSON each; of code that has changed since, nothing is told.

    Args:
        path: The file; need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[Mutant, str] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            entry = json.loads(line)
            mutant = Mutant(**entry["mutant"])
            if mutant.before in " ".join((ROOT / "shift_ser" / mutant.module).read_text(encoding="utf-8").split()):
                self.done[mutant] = entry["answer"]

    def add(self, mutant: Mutant, answer: str, told: str, seconds: float) -> None:
        """Keep one result, and show it."""
        self.done[mutant] = answer
        self.path.parent.mkdir(parents=True, exist_ok=True)
        entry = {"mutant": asdict(mutant), "answer": answer, "told": told, "seconds": round(seconds, 1)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        print(f"{answer}: {mutant.module}:{mutant.line}: {mutant.slip}", flush=True)

    def table(self) -> Iterator[str]:
        """Counts of each module, and the mutants that survived."""
        yield "| module | mutants | caught | equivalent | survived |\n|---|---:|---:|---:|---:|"
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for mutant, answer in self.done.items():
            known = answer == "survived" and mutant.is_known
            counts[mutant.module]["equivalent" if known else answer] += 1
        counts["together"] = sum(counts.values(), Counter())
        for module, count in counts.items():
            numbers = (count[answer] for answer in ("caught", "equivalent", "survived"))
            yield f"| {module} | {count.total()} | " + " | ".join(map(str, numbers)) + " |"
        for mutant in self.survived():
            yield f"survived: {mutant.module}:{mutant.line}: {mutant.slip}"

    def survived(self) -> list[Mutant]:
        """Those that no test failed on, though one could."""
        return [mutant for mutant, answer in self.done.items() if answer == "survived" and not mutant.is_known]


def try_mutants(copy: Copy, results: Results, args: argparse.Namespace) -> None:
    """Make the mutants that are asked for, of one module after the other."""
    for module in args.only:
        path = copy.folder / "shift_ser" / module
        tests = [str(path), *(f"tests/{name}" for name in MODULES[module].split())]
        source = path.read_text(encoding="utf-8")
        if args.again:
            found = (mutate(module, source, m.operator, m.number) for m in results.survived() if m.module == module)
            drawn = [made for made in found if made]
        else:
            drawn = [made for made in draw(module, source, args.count, args.seed) if made[0] not in results.done]
        if not drawn:
            continue
        limit = LIMIT[0] + LIMIT[1] * copy.must_pass(tests)
        print(f"{module}: {len(drawn)} mutants", flush=True)
        for mutant, code in drawn:
            path.write_text(code, encoding="utf-8")
            answer, told, seconds = copy.test(tests, limit)
            path.write_text(source, encoding="utf-8")
            results.add(mutant, "survived" if answer == "passed" else "caught", told or answer, seconds)


def try_slips(copy: Copy, slips: Sequence[Slip]) -> int:
    """Make slips of the list; returns how many survive."""
    tests = list(dict.fromkeys(f"tests/{name}" for slip in slips for name in slip.tests.split()))
    limit, survived = LIMIT[0] + LIMIT[1] * copy.must_pass(tests), 0
    for slip in slips:
        path = copy.folder / "shift_ser" / slip.module
        source = path.read_text(encoding="utf-8")
        path.write_text(slip.made(source), encoding="utf-8")
        answer, told, _ = copy.test([f"tests/{name}" for name in slip.tests.split()], limit)
        path.write_text(source, encoding="utf-8")
        survived += answer == "passed"
        print(f"{'survived' if answer == 'passed' else 'caught'}: {slip.title}: {told or answer}", flush=True)
    print(f"slips: tried {len(slips)}, caught {len(slips) - survived}, survived {survived}")
    return survived


def main(words: list[str] | None = None) -> int:
    """Draw, test, keep, print; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=MODULES, default=[*MODULES], metavar="MODULE", help="of the table")
    parser.add_argument("--count", type=int, help="places drawn from a module; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="test those once more that survived")
    parser.add_argument(
        "--slips", nargs="?", const="", metavar="WORD", help="those of the list, with a word in the title"
    )
    parser.add_argument("--results", type=Path, default=ROOT / "runs" / "mutants.jsonl", help="what is done")
    args = parser.parse_args(words)
    results = Results(args.results)
    if args.count != 0:
        with tempfile.TemporaryDirectory() as folder:
            copy = Copy(Path(folder) / "copy")
            if args.slips is not None:
                return int(try_slips(copy, [slip for slip in SLIPS if args.slips in slip.title]) > 0)
            try_mutants(copy, results, args)
    print("\n".join(results.table()))
    return int(len(results.survived()) > 0)


if __name__ == "__main__":
    sys.exit(main())
