"""How many threads of the CPU train a head."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

logger = logging.getLogger(__name__)

SMALL_WIDTH = 256  # channels of frames up to which a step is too little work to be shared


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads of the CPU while inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_of_head(width: int) -> int:
    """Threads on which a head of this width is trained on frames that are kept: one for a small head, else all.

    Two threads wait for each other after every operation. Where the operations are small and another process is at
    work beside, waiting takes many times as long as the work. `OMP_NUM_THREADS` is obeyed.
    """
    count = torch.get_num_threads()
    if count == 1 or width > SMALL_WIDTH or "OMP_NUM_THREADS" in os.environ:
        return count
    logger.info(
        "one thread trains this head, whose frames have %d channels; OMP_NUM_THREADS sets another number", width
    )
    return 1
