"""Text for terminals: names on one line, counted nouns, tables."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def escape(text: object) -> str:
    """`text` on one line: control characters, and bytes of a file name that are not text, as backslash escapes."""
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c
        for c in str(text)
    )


def counted(number: int, noun: str, ending: str = "s") -> str:
    """`number` and `noun`, in the plural unless it is one: `1 process`, `2 processes`."""
    return f"{number} {noun}{'' if number == 1 else ending}"


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """A text table whose columns are as wide as they need to be; all but the first are flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return "\n".join("  ".join(line).rstrip() for line in lines)
