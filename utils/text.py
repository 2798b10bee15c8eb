"""Text for terminals: names on one line, columns, in which letters of some scripts are wide, and counted nouns."""

from __future__ import annotations

import unicodedata


def escape(text: object) -> str:
    """`text` on one line: control characters, and bytes of a file name that are not text, as backslash escapes."""
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c
        for c in str(text)
    )


def display_width(text: str) -> int:
    """The width of `text` in a terminal: two columns for wide East Asian characters, none for combining marks."""
    return sum(
        0 if unicodedata.category(c) in ("Mn", "Me", "Cf") else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )


def padded(text: str, width: int) -> str:
    """`text` padded with trailing spaces to `width` columns."""
    return text + " " * (width - display_width(text))


def counted(number: int, noun: str, ending: str = "s") -> str:
    """`number` and `noun`, in the plural unless it is one: `1 process`, `2 processes`."""
    return f"{number} {noun}{'' if number == 1 else ending}"
