"""Checkpoints with checksums: one is whole, or it is none."""

import json
import logging
import shutil
import zlib
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from ..evaluation.run_folder import read_json, write_json

logger = logging.getLogger(__name__)

CHECKSUMS = "checksums.json"
_BLOCK = 1 << 20  # bytes


def write_checksums(checkpoint: str | Path) -> None:
    """Write down size and CRC-32 of every file of a checkpoint, last of all: from then on it counts as whole."""
    write_json(Path(checkpoint) / CHECKSUMS, _checksums(Path(checkpoint)))


def is_whole(checkpoint: str | Path) -> bool:
    """Whether every file of a checkpoint is there as it was written."""
    try:
        return read_json(Path(checkpoint) / CHECKSUMS) == _checksums(Path(checkpoint))
    except (OSError, ValueError):
        return False


def last_whole_checkpoint(folder: str | Path) -> str | None:
    """The newest checkpoint to go on from; newer ones that cannot be used are removed.

    A checkpoint can be used if it is whole, and if the one of the best epoch so far, which it names, is whole as well:
    without that one the training would end with other weights than those it selects.

    Args:
        folder: The Trainer's `output_dir`; need not exist.

    Returns:
        Path of the checkpoint, `None` if there is none.
    """
    while Path(folder).is_dir() and (newest := get_last_checkpoint(str(folder))):
        if is_whole(newest):
            best = json.loads(Path(newest, TRAINER_STATE_NAME).read_text(encoding="utf-8")).get("best_global_step")
            if not best or is_whole(Path(folder) / f"checkpoint-{best}"):
                return newest
            logger.warning("the checkpoint %s is removed: that of its best epoch, step %s, is damaged", newest, best)
        else:
            logger.warning("the checkpoint %s is removed: it is unfinished or damaged", newest)
        shutil.rmtree(newest)
    return None


def _checksums(checkpoint: Path) -> dict[str, list[int]]:
    """Size and CRC-32 by the name of the file."""
    paths = (path for path in sorted(checkpoint.rglob("*")) if path.is_file())
    return {str(path.relative_to(checkpoint)): _checksum(path) for path in paths if path != checkpoint / CHECKSUMS}


def _checksum(path: Path) -> list[int]:
    size = value = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            size, value = size + len(block), zlib.crc32(block, value)
    return [size, value]
