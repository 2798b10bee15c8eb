"""Columns of text, in which letters of some scripts are two places wide."""

from __future__ import annotations

import unicodedata


def display_width(text: str) -> int:
    """How many places `text` takes in a terminal: two for the wide letters of East Asia, none for combining marks."""
    return sum(
        0 if unicodedata.category(c) in ("Mn", "Me", "Cf") else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )


def padded(text: str, width: int) -> str:
    """`text` with spaces behind it, up to `width` places."""
    return text + " " * (width - display_width(text))
