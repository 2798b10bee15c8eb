"""Names with numbers in them: one that is not taken yet, and their order."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import count


def first_free(name: str, is_taken: Callable[[str], bool]) -> str:
    """The first of `name`, `name`-2, `name`-3, … that is not taken."""
    if not is_taken(name):
        return name
    return next(numbered for number in count(2) if not is_taken(numbered := f"{name}-{number}"))


def natural_order(name: str) -> tuple[list[tuple[str, int]], str]:
    """A key that sorts names as text, but the numbers in them by value: frame2 before frame10."""
    parts = re.findall(r"([^0-9]*)([0-9]*)", name)
    return [(text, int(digits or -1)) for text, digits in parts], name
