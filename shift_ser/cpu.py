"""Memory of finished tensors, kept for the next ones.

On a CPU every step of training makes and drops tensors of the same sizes. glibc gives large ones back to the system
at once and asks for new pages for the next, each of which the kernel has to fill with zeros first: often more time than
the operation itself takes.
"""

import ctypes
import logging
import os

logger = logging.getLogger(__name__)


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # mallopt's numbers for them (glibc, malloc.h)
_NEVER, _STEP = 2**31 - 1, 64 * 2**20
_VARIABLES = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Tell the C library's allocator to keep freed memory in this process instead of giving it back to the system.

    Call it once, before tensors are made; nothing but speed changes. The price: the process holds its peak of memory
    until it ends, and a little more for what gets fragmented. The same without this call, for any program:
    `MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_TOP_PAD_=67108864 python ...`; whoever has set one of
    these variables, or `GLIBC_TUNABLES`, is not overruled.

    Returns:
        Whether it was done. It is not where the C library is not glibc (macOS, Windows, musl), and with another
        allocator preloaded it has no effect.
    """
    said = [name for name in _VARIABLES if name in os.environ]
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    if said:
        logger.info("the allocator is left as %s says", " and ".join(said))
        return False
    options = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _STEP))
    return all([mallopt(number, value) == 1 for number, value in options])
