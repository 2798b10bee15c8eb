"""Names that are not taken yet."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count


def first_free(name: str, is_taken: Callable[[str], bool]) -> str:
    """The first of `name`, `name`-2, `name`-3, … that is not taken."""
    if not is_taken(name):
        return name
    return next(numbered for number in count(2) if not is_taken(numbered := f"{name}-{number}"))
