"""The checkpoints of a training: which of them are whole, after whatever moment it was killed at."""

import json
import logging
import shutil
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

logger = logging.getLogger(__name__)


def last_whole_checkpoint(folder: str | Path) -> str | None:
    """The checkpoint to go on from; unfinished ones that came after it are removed.

    The Trainer writes its state last, after weights, optimizer and random numbers, and deletes older checkpoints only
    then. So the newest checkpoint is whole if its state can be read: half a JSON object cannot.

    Args:
        folder: The Trainer's `output_dir`; need not exist.

    Returns:
        Path of the newest whole checkpoint, `None` if there is none.
    """
    while Path(folder).is_dir() and (newest := get_last_checkpoint(str(folder))):
        try:
            json.loads(Path(newest, TRAINER_STATE_NAME).read_text(encoding="utf-8"))
            return newest
        except (OSError, ValueError):
            logger.info("the unfinished checkpoint %s is removed", newest)
            shutil.rmtree(newest)
    return None
