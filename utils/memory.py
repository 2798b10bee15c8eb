"""Memory of the process: what happens to freed memory, and recognising when there is too little.

Keeping and returning memory needs glibc 2.33; elsewhere it does nothing.
"""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = -1

_KEPT_BETWEEN_SIZES = 1 << 30


class _HeapInfo(ctypes.Structure):
    """`struct mallinfo2`; bytes."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
        )
    )  # fmt: skip


def keep_freed_memory() -> None:
    """Keep freed memory for the next array instead of returning it to the system.

    Arrays may have any size, in threads other than the main one up to 64 MiB. Otherwise the arrays of images, and a
    network's activations on a CPU, are returned each time, and new pages, which the system must clear, can cost as
    much as the work on them.
    """
    glibc = find_glibc()
    if glibc is not None:
        glibc.mallopt(_M_MMAP_MAX, 0)  # all arrays live on the heap
        glibc.mallopt(_M_TRIM_THRESHOLD, _NEVER)


def give_back_freed_memory() -> None:
    """Return kept memory to the system if it exceeds a GiB: the next arrays have other sizes and may not fit."""
    glibc = find_glibc()
    statistics = Path("/proc/self/statm")
    if glibc is not None and statistics.exists():
        held = int(statistics.read_text().split()[1]) * mmap.PAGESIZE
        if held - glibc.mallinfo2().uordblks > _KEPT_BETWEEN_SIZES:
            glibc.malloc_trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: a device's, or the computer's own as reported by NumPy or PyTorch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # PyTorch's, not imported here
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def find_glibc() -> ctypes.CDLL | None:
    """The C library, if it can keep and return memory as needed here; else None."""
    try:
        library = ctypes.CDLL(None)
        library.mallinfo2.restype = _HeapInfo
    except (AttributeError, OSError, TypeError):  # an older or another one; on Windows, CDLL needs a name
        return None
    return library
