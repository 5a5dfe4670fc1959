"""Damages of every file that a run leaves, and what each command makes of them."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
from click.testing import CliRunner

from shift_ser.cli import cli
from shift_ser.corpora.synthetic import make_synthetic_corpus
from shift_ser.evaluation.run_folder import CHECKSUMS
from shift_ser.hub.push import stage_upload
from shift_ser.training.cross_validation import CrossValidation
from shift_ser.training.trainer import ShiftTrainer

from .kill_and_resume import make_encoder, without_cost

LOCKS = {".lock", ".lock.json"}
FLAGS = "--num_train_epochs 2 --learning_rate 1e-3 --per_device_train_batch_size 8 --disable_tqdm true --use_cpu true"
Outcome = tuple[int, str, dict[str, bytes]]  # exit code, what was printed, the files that count
Answer = tuple[str, str]  # `right`, `clear error` or `wrong`, and what was said


@dataclass(frozen=True)
class World:
    """What the attack needs: a corpus, an encoder, finished runs and one that was stopped.

    Attributes:
        folder: Holds all of it; the damaged copy lies in `run`.
        kept: The undisturbed runs, never touched again.
    """

    folder: Path

    @property
    def run(self) -> Path:
        """Where every damaged copy lies: what a command prints holds no other path."""
        return self.folder / "run"

    @property
    def cache(self) -> Path:
        """Where the frames lie: the cache of one who names none."""
        return self.folder / "cache" / "frames"

    def words(self, *flags: str) -> list[str]:
        """Flags of the run."""
        places = f"--encoder {self.folder / 'encoder'} --corpus {self.folder / 'corpus'} --output_dir {self.run}"
        return [*f"{places} --cache_dir {self.cache} {FLAGS}".split(), *flags]

    def command(self, *words: str | Path) -> tuple[int, str]:
        """Exit code of a command, and what it printed; a traceback counts as neither answer nor error."""
        result = CliRunner().invoke(cli, [*map(str, words)], prog_name="shift-ser")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            return -1, f"{type(result.exception).__name__}: {result.exception}"
        return result.exit_code, result.output if result.exit_code else result.stdout

    def take(self, name: str) -> None:
        """Put a copy of a kept run, and of the frames, in place."""
        for target, source in ((self.run, self.folder / "kept" / name), (self.cache, self.folder / "frames")):
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target)


def make_world(folder: Path) -> World:
    """Train two whole runs and stop a third one in its second epoch."""
    make_synthetic_corpus(folder / "corpus", num_utterances=40, seed=0)
    make_encoder(folder / "encoder")
    world = World(folder)
    for name, flags in (("whole", ()), ("other", ("--learning_rate", "1e-2"))):
        code, said = world.command("train", *world.words(*flags))
        if code != 0:
            raise RuntimeError(said)
        (folder / "kept").mkdir(exist_ok=True)
        shutil.move(world.run, folder / "kept" / name)
    _stop(world)
    shutil.move(folder / "cache", folder / "frames")
    return world


def _stop(world: World) -> None:
    """Stop a run of one fold when its second checkpoint is written."""
    saved, write = [], ShiftTrainer._save_checkpoint

    def write_and_stop(self: ShiftTrainer, *args: object, **kwargs: object) -> None:
        write(self, *args, **kwargs)
        saved.append(self)
        if len(saved) == 2:
            raise KeyboardInterrupt

    with patch.object(ShiftTrainer, "_save_checkpoint", write_and_stop):
        code, said = world.command("train", *world.words("--folds", "1"))
    if code == 0 or len(saved) != 2:
        raise RuntimeError(f"the run was not stopped: {said}")
    shutil.move(world.run, world.folder / "kept" / "stopped")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but those of the lock."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in LOCKS)
    return {str(path.relative_to(folder)): without_cost(path.read_bytes()) for path in files}


# What is done to a file: its path, random numbers, and the same file of another fold or run; False if it does not fit.
Damage = Callable[[Path, np.random.Generator, Path], bool]


def delete(path: Path, rng: np.random.Generator, other: Path) -> bool:
    """The file is gone."""
    path.unlink()
    return True


def empty(path: Path, rng: np.random.Generator, other: Path) -> bool:
    """The file is there and holds nothing."""
    return _write(path, b"")


def cut(path: Path, rng: np.random.Generator, other: Path) -> bool:
    """The end is missing."""
    content = path.read_bytes()
    return _write(path, content[: rng.integers(len(content))])


def cut_at_a_line_end(path: Path, rng: np.random.Generator, other: Path) -> bool:
    """The end is missing, and what is left ends with a whole line."""
    content = path.read_bytes()
    ends = [match.end() for match in re.finditer(b"\n", content[:-1])]
    return bool(ends) and _write(path, content[: rng.choice(ends)])


def flip_a_bit(path: Path, rng: np.random.Generator, other: Path) -> bool:
    """One bit is another one."""
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    return _write(path, bytes(content))


def change_a_digit(path: Path, rng: np.random.Generator, other: Path) -> bool:
    """One digit of a text is another one."""
    content = bytearray(path.read_bytes())
    places = [match.start() for match in re.finditer(rb"\d", content)]
    if not _is_text(content) or not places:
        return False
    place = rng.choice(places)
    content[place] = 48 + (content[place] - 48 + rng.integers(1, 10)) % 10
    return _write(path, bytes(content))


def take_another(path: Path, rng: np.random.Generator, other: Path) -> bool:
    """Two files changed places."""
    ours, theirs = path.read_bytes(), other.read_bytes()
    return ours != theirs and _write(path, theirs) and (path.parent == other.parent or _write(other, ours))


def encode_otherwise(path: Path, rng: np.random.Generator, other: Path) -> bool:
    """A text is in UTF-16, or begins with a byte order mark."""
    content = path.read_bytes()
    if not _is_text(content):
        return False
    return _write(path, content.decode().encode("utf-16" if rng.random() < 0.5 else "utf-8-sig"))


def _write(path: Path, content: bytes) -> bool:
    path.write_bytes(content)
    return True


def _is_text(content: bytes | bytearray) -> bool:
    try:
        return content.decode().isprintable() or b"\0" not in content
    except UnicodeDecodeError:
        return False


DAMAGES: tuple[Damage, ...] = (
    delete, empty, cut, cut_at_a_line_end, flip_a_bit, change_a_digit, take_another, encode_otherwise,
)  # fmt: skip


class Commands:
    """What a user may do with a run that lies in place; each gives exit code, text and files.

    Args:
        world: Where the run lies.
    """

    def __init__(self, world: World) -> None:
        self.world, self.run = world, world.run
        self.recording = next(iter(sorted((world.folder / "corpus").rglob("wav/*/[!.]*.wav"))))

    def resume(self) -> Outcome:
        """Train: everything is done, or goes on; what lies there at the end counts, not what was said on the way."""
        code, said = self.world.command("train", *self.world.words())
        return code, said if code else "", contents(self.run)

    def resume_one_fold(self) -> Outcome:
        """Go on with the run that was stopped."""
        code, said = self.world.command("train", *self.world.words("--folds", "1"))
        return code, said if code else "", contents(self.run)

    def evaluate(self) -> Outcome:
        """Print the run's table."""
        return (*self.world.command("evaluate", self.run), {})

    def score_again(self) -> Outcome:
        """Score the saved models on the corpus; the scores count, wherever they come from."""
        code, said = self.world.command("evaluate", self.run, "--corpus", self.world.folder / "corpus")
        done = contents(self.run / "evaluation") if code == 0 else {}
        return code, said, done

    def compare(self) -> Outcome:
        """Compare with the other run."""
        return (*self.world.command("compare", self.run, self.world.folder / "kept" / "other"), {})

    def read_predictions(self) -> Outcome:
        """Scores from the predictions of one fold."""
        return (*self.world.command("evaluate", self.run / "fold1" / "predictions.csv"), {})

    def predict(self) -> Outcome:
        """Scores of one recording."""
        return (*self.world.command("predict", "--model", self.run / "fold1", self.recording), {})

    def stage(self) -> Outcome:
        """Lay out what would be pushed."""
        try:
            return 0, "", contents(stage_upload(self.run, repo_id="me/model"))
        except (ValueError, OSError) as error:
            return 1, str(error), {}


@dataclass(frozen=True)
class Case:
    """One damage of one file, and the command that meets it."""

    run: str
    place: Path
    file: str
    damage: Damage
    command: Callable[[], Outcome]
    expected: Outcome

    @property
    def title(self) -> str:
        """Run, command, damage and file."""
        what = self.damage.__name__.replace("_", " ")
        return f"{self.run}, {self.command.__name__} after: {what}, {self.place.name}/{self.file}"


def attack_damages(folder: Path, seed: int, count: int | None) -> Iterator[tuple[str, str, str]]:
    """Damage every file of a finished run (of one fold, for all have the same), of its frames and of a stopped one."""
    folder = folder.resolve()
    os.chdir(folder)
    world = make_world(folder)
    cases = [*_cases(world)]
    order = np.random.default_rng(seed).permutation(len(cases))[:count] if count else range(len(cases))
    for index in order:
        yield from _try(world, np.random.default_rng([seed, index]), cases[index])
    os.chdir(os.sep)


def _cases(world: World) -> Iterator[Case]:
    commands = Commands(world)
    for_whole = [commands.evaluate, commands.compare, commands.read_predictions, commands.predict, commands.stage]
    for_whole += [commands.score_again, commands.resume]
    for run, asked in (("whole", for_whole), ("stopped", [commands.resume_one_fold])):
        world.take(run)
        files = [(world.run, file) for file in contents(world.run) if not re.match("fold[2-5]", file)]
        if run == "whole":
            files += [(world.cache, file) for file in contents(world.cache)]
        for command in asked:
            world.take(run)
            expected = _run(command)
            if expected[0]:
                raise RuntimeError(f"{command.__name__} of the undamaged run failed: {expected[1]}")
            for place, file in files:
                yield from (Case(run, place, file, damage, command, expected) for damage in DAMAGES)


def _run(command: Callable[[], Outcome], *, figures: bool = False) -> Outcome:
    """What a command leaves; without new figures, which take as long as all the rest."""
    with nullcontext() if figures else patch.object(CrossValidation, "_plot", lambda *_, **__: None):
        return command()


def _try(world: World, rng: np.random.Generator, case: Case) -> Iterator[tuple[str, str, str]]:
    """Damage one file of a fresh copy, run one command, judge; nothing where the damage does not fit the file."""
    world.take(case.run)
    path, other = case.place / case.file, _other(world, case)
    kept = other.read_bytes() if other.exists() else b""
    try:
        if case.damage(path, rng, other):
            named = [path.name, other.name] if case.damage is take_another else [path.name]
            figures = path.suffix == ".png" and case.command.__name__ == "resume"
            yield case.title, *_judge(_run(case.command, figures=figures), case.expected, named)
    finally:
        if kept and "kept" in other.parts:
            other.write_bytes(kept)


def _other(world: World, case: Case) -> Path:
    """The file with which one changes places: that of another fold, epoch or run; the file itself if there is none."""
    path = case.place / case.file
    if "checkpoints" in path.parts:
        return next(other for other in sorted(path.parents[1].glob(f"*/{path.name}")) if other.parent != path.parent)
    if path.parent.name == "fold1":
        return path.parents[1] / "fold2" / path.name
    other = world.folder / "kept" / "other" / case.file
    return other if case.place == world.run and other.exists() else path


def _judge(answer: Outcome, expected: Outcome, named: list[str]) -> Answer:
    """Whether a command did what it does without damage, or named the file that is damaged."""
    code, said, files = answer
    if code == 0:
        told = (name for name in files | expected[2] if not name.endswith(CHECKSUMS))  # theirs change with the cost
        differ = [name for name in told if files.get(name) != expected[2].get(name)]
        if differ:
            return "wrong", f"exit code 0, and other files: {', '.join(differ)}"
        return ("right", "") if said == expected[1] else ("wrong", f"exit code 0, and it says: {said}")
    if code > 0 and any(name in said for name in named) and "Traceback" not in said:
        return "clear error", said
    return "wrong", f"exit code {code}, no file is named: {said}"
