"""What all commands share: how errors are told, which folders are taken, how a run logs."""

import difflib
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click
from huggingface_hub.errors import StrictDataclassError

from ..evaluation.run_folder import RESULTS
from ..extras import missing_module

logger = logging.getLogger(__name__)

MODEL_FILE = "config.json"
_TABLES = (".csv", ".tsv")  # of predictions


class Failed(click.ClickException):
    """Something failed or is incomplete: exit code 1."""


class Commands(click.Group):
    """The group of commands; an error is one line on stderr, without usage and traceback."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Take a command; its raw docstring spells click's mark of lines that are not to be wrapped, a backspace."""
        cmd.help = (cmd.help or "").replace("\\b", "\b")
        super().add_command(cmd, name)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command of `args` and leave the program with its exit code."""
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as error:
            _leave(str(error), code=2)
        except click.ClickException as error:
            _leave(f"error: {error.format_message()}", code=error.exit_code)
        except click.Abort:
            _leave("stopped", code=1)
        except ModuleNotFoundError as error:
            _leave(f"error: {missing_module(error.name)}", code=1)
        except (ValueError, OSError, ImportError, StrictDataclassError) as error:
            logger.debug("the error's traceback", exc_info=True)
            _leave(f"error: {error}", code=1)
        sys.exit(code if isinstance(code, int) else 0)


def _leave(message: str, *, code: int) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(code)


class Folder(click.ParamType):
    """A folder that holds a certain file; a mistyped one is answered with the likely one.

    Args:
        kind: What the folder is called in messages.
        files: Files of which it must hold one; messages name the first.
        hub: Whether a name on the Hub, `namespace/name`, is taken too.
        csv: Whether a CSV file is taken too.
    """

    name = "folder"

    def __init__(self, kind: str, *files: str, hub: bool = False, csv: bool = False) -> None:
        self.kind, self.files, self.hub, self.csv = kind, files, hub, csv

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The same text, if there is such a folder or it may be a name on the Hub."""
        path = Path(value)
        is_table = self.csv and path.suffix.lower() in _TABLES
        if (is_table and path.is_file()) or self._is_one(path) or (self.hub and is_hub_name(value)):
            return value
        if is_table and not path.exists():
            beside = [str(other) for other in path.parent.glob(f"*{path.suffix}")]
            self.fail(f"there is no file {value!r}{nearest(value, beside)}", param, ctx)
        close = next(self._likely(path), None)
        hint = f": there is no {str(path / self.files[0])!r}" if path.is_dir() or not close else ""
        hint += f"; did you mean {str(close)!r}?" if close else ""
        self.fail(f"{value!r} is not {self.kind}{hint}", param, ctx)

    def _is_one(self, folder: Path) -> bool:
        return any((folder / file).is_file() for file in self.files)

    def _likely(self, path: Path) -> Iterator[Path]:
        """Folders with the file: in this one, around it, and beside it under a similar name."""
        patterns = [f"{depth}/{file}" for depth in ("*", "*/*") for file in self.files]
        if path.is_dir():
            yield from (found.parent for pattern in patterns for found in sorted(path.glob(pattern)))
        yield from (folder for folder in path.parents if self._is_one(folder))
        beside = [found.parent for pattern in patterns for found in sorted(path.parent.glob(pattern))]
        yield from map(Path, difflib.get_close_matches(str(path), [str(each) for each in beside], n=1))


RUN = Folder("the folder of a finished run", RESULTS)
RUN_OR_CSV = Folder("the folder of a finished run or a CSV file of predictions", RESULTS, csv=True)
RUN_MODEL_OR_CSV = Folder(
    "the folder of a finished run or of a saved model, or a CSV file of predictions", RESULTS, MODEL_FILE, hub=True,
    csv=True,
)  # fmt: skip
MODEL = Folder("the folder of a saved model or a name on the Hub", MODEL_FILE, hub=True)


def is_hub_name(name: str) -> bool:
    """Whether a text can be the name of a repository on the Hub and is no place beside folders here.

    Example:
        >>> is_hub_name("facebook/hubert-base-ls960"), is_hub_name("runs/demo/fold1")
        (True, False)
    """
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not Path(name).parent.is_dir()


@contextmanager
def from_folder_or_hub(option: str, name: str) -> Iterator[None]:
    """Say which option names what could not be loaded."""
    try:
        yield
    except OSError as error:
        if Path(name).exists():
            raise
        why = " ".join(str(error).split())
        raise Failed(f"{option} {name!r} is no folder here and could not be had from the Hub: {why}") from error


def quiet(level: int = logging.INFO) -> None:
    """Log lines as they are; no progress bars of transformers; freed memory is kept (see `cpu.keep_freed_memory`)."""
    from transformers.utils import logging as transformers_logging

    from ..cpu import keep_freed_memory

    logging.basicConfig(level=level, format="%(message)s")
    transformers_logging.disable_progress_bar()
    keep_freed_memory()


def hint(name: str, known: Sequence[str]) -> str:
    """What a mistyped name may have meant: the nearest of the known ones, or all of them."""
    return nearest(name, known).removeprefix("; ") or f"there are {', '.join(known)}"


def nearest(name: str, known: Sequence[str]) -> str:
    """`; did you mean ...?` with the nearest of the known names, or nothing."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
