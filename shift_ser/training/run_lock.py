"""One run at a time in a folder."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather_object
from filelock import FileLock, Timeout

from ..evaluation.run_folder import write_json

LOCK = ".lock"
HOLDER = ".lock.json"  # who holds it: host, pid, since


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold a run's folder, made if it is not there; the operating system frees that of a process that died.

    With several processes the main one holds it for all.

    Raises:
        BlockingIOError: If another run holds it, in all processes; the message says which one.
    """
    state = PartialState()
    lock, problem = FileLock(folder / LOCK), ""
    if state.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            problem = f"output_dir {str(folder)!r} is in use by another run: {_holder(folder)}"
        else:
            since = datetime.now().astimezone().isoformat(timespec="seconds")
            write_json(folder / HOLDER, {"host": socket.gethostname(), "pid": os.getpid(), "since": since})
    if told := [message for message in gather_object([problem]) if message]:
        raise BlockingIOError(told[0])
    try:
        yield
    finally:
        if state.is_main_process:
            (folder / HOLDER).unlink(missing_ok=True)
            lock.release()


def _holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (OSError, ValueError, KeyError):  # it is just starting, or just done
        return "it started this moment"
