"""How the process deals with memory that is free again."""

from __future__ import annotations

import ctypes

# Of glibc's malloc.h, and the most that it takes for the second.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20
_KEEP = 256 << 20


def keep_freed_memory() -> None:
    """Keep freed memory for the next array instead of giving it back to the system; a no-op without glibc.

    A picture's arrays are large enough to be given back each time, and fresh pages, which the system must clear, cost
    as much as the work on them. So it is with a network's activations on a CPU.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    mallopt(_M_TRIM_THRESHOLD, _KEEP)
