"""How the process deals with memory: with what is free again, and with too little of it.

What keeps memory and gives it back needs glibc 2.33 and does nothing elsewhere.
"""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

# Of glibc's malloc.h.
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
    """Keep freed memory for the next array instead of giving it back to the system.

    However large they are, in threads beside the main one up to 64 MiB. The arrays of pictures, and a network's
    activations on a CPU, are given back each time otherwise, and fresh pages, which the system must clear, can cost as
    much as the work on them.
    """
    glibc = find_glibc()
    if glibc is not None:
        glibc.mallopt(_M_MMAP_MAX, 0)  # no array lives outside of the heap
        glibc.mallopt(_M_TRIM_THRESHOLD, _NEVER)


def give_back_freed_memory() -> None:
    """Give kept memory back where it is more than a GiB: arrays of other sizes follow, which may not fit into it."""
    glibc = find_glibc()
    statistics = Path("/proc/self/statm")
    if glibc is not None and statistics.exists():
        held = int(statistics.read_text().split()[1]) * mmap.PAGESIZE
        if held - glibc.mallinfo2().uordblks > _KEPT_BETWEEN_SIZES:
            glibc.malloc_trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was too small: that of a device, or, as NumPy or PyTorch tells it, the computer's own."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # PyTorch's, not imported here
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def find_glibc() -> ctypes.CDLL | None:
    """The C library, where it is one whose memory can be kept and given back."""
    try:
        library = ctypes.CDLL(None)
        library.mallinfo2.restype = _HeapInfo
    except (AttributeError, OSError, TypeError):  # an older one, another one; Windows has none without a name
        return None
    return library
