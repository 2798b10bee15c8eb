"""How the process deals with memory that is free again. Both functions do nothing where the C library is not glibc."""

from __future__ import annotations

import ctypes

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = -1

_KEPT_BETWEEN_SIZES = 1 << 30


class _HeapInfo(ctypes.Structure):
    """`struct mallinfo2` of glibc 2.33 and later; bytes."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
        )
    )  # fmt: skip


def keep_freed_memory() -> None:
    """Keep freed memory for the next array, however large, instead of giving it back to the system.

    The arrays of pictures, and a network's activations on a CPU, are given back each time otherwise, and fresh pages,
    which the system must clear, can cost as much as the work on them.
    """
    libc = _c_library()
    if libc is not None and hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)  # no array lives outside of the heap
        libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)


def give_back_freed_memory() -> None:
    """Give kept memory back where it is more than a GiB: before arrays of other sizes, for which it may not do."""
    libc = _c_library()
    if libc is not None and hasattr(libc, "mallinfo2"):
        libc.mallinfo2.restype = _HeapInfo
        if libc.mallinfo2().fordblks > _KEPT_BETWEEN_SIZES:
            libc.malloc_trim(0)


def _c_library() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has no library without a name
        return None
