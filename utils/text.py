"""Text for terminals: names on one line, and counted nouns."""

from __future__ import annotations

import unicodedata


def escape(text: object) -> str:
    """`text` on one line: control characters, and bytes of a file name that are not text, as backslash escapes."""
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c
        for c in str(text)
    )


def counted(number: int, noun: str, ending: str = "s") -> str:
    """`number` and `noun`, in the plural unless it is one: `1 process`, `2 processes`."""
    return f"{number} {noun}{'' if number == 1 else ending}"
