"""Whether Triton can build its kernels here."""

from __future__ import annotations

import importlib.util
from functools import cache


@cache
def why_no_triton() -> str:
    """Why Triton's kernels cannot run here; empty if they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    try:
        from triton.runtime import driver

        _ = driver.active.utils  # compiled with the machine's C compiler on first access
    except Exception as error:  # whatever is missing, PyTorch works without Triton
        return f"Triton cannot build its kernels ({type(error).__name__}; it needs gcc and Python's headers)"
    return ""
