"""Errors about one image name it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.memory import is_out_of_memory


@contextmanager
def errors_naming(picture: Path) -> Iterator[None]:
    """Around the prediction of `picture`: turns its ValueErrors and out-of-memory errors into ValueErrors naming it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{picture}: {error}") from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(f"{picture}: too large for the device's memory; use smaller tiles.") from error
