"""Errors that are about one picture name it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.memory import is_out_of_memory


@contextmanager
def errors_naming(picture: Path) -> Iterator[None]:
    """Around the prediction of `picture`: where that takes too much memory, ValueError says of which."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{picture}: {error}") from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(f"{picture}: too large for the device's memory; cut it into smaller tiles.") from error
