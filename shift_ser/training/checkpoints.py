"""Checkpoints with checksums: one is whole, or it is none."""

import json
import logging
import shutil
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from ..evaluation.run_folder import CHECKSUMS, changed_files, read_json, write_checksums

logger = logging.getLogger(__name__)


def seal(checkpoint: str | Path) -> None:
    """Write down the checksums of every file of a checkpoint, last of all: from then on it counts as whole."""
    write_checksums(checkpoint, _files(Path(checkpoint)))


def is_whole(checkpoint: str | Path) -> bool:
    """Whether every file of a checkpoint is there as it was written, and no other one."""
    checkpoint = Path(checkpoint)
    try:
        return not changed_files(checkpoint) and _files(checkpoint) == set(read_json(checkpoint / CHECKSUMS))
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


def _files(checkpoint: Path) -> set[str]:
    paths = {path for path in checkpoint.rglob("*") if path.is_file()} - {checkpoint / CHECKSUMS}
    return {path.relative_to(checkpoint).as_posix() for path in paths}
