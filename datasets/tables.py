"""Class tables that come with the data, as JSON. Imports nothing heavy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from datasets.spec import Color, SegClass
from utils.columns import counted

# Train ids are bytes; 255 is "no class", and 254 marks unknown values while a file is read.
MOST_CLASSES = 254


def read_table(path: Path, key: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The whole table, and its list of classes, under `key`.

    Raises ValueError naming the file if there is no such list.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}).") from error
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f'{path}: expected {{"{key}": [...]}}, a list of classes like {{"name": …, "color": …}}.')
    return content, entries


def color_of(value: Any, where: str) -> Color:
    """`[64, 32, 32]` or `"#402020"` -> (64, 32, 32). Raises ValueError that begins with `where`."""
    if isinstance(value, str) and len(value) == 7 and value.startswith("#"):
        with suppress(ValueError):  # reported below, like all other wrong colours
            value = list(bytes.fromhex(value[1:]))
    if isinstance(value, list) and len(value) == 3 and all(type(v) is int and 0 <= v <= 255 for v in value):
        return value[0], value[1], value[2]
    raise ValueError(f'{where}: a colour must be [red, green, blue] from 0 to 255, or "#rrggbb"; got {value!r}.')


def check_classes(classes: Sequence[SegClass], path: Path) -> None:
    """Raises ValueError naming the file if there are no classes, too many, or two with the same name."""
    if not 0 < len(classes) <= MOST_CLASSES:
        raise ValueError(f"{path}: {counted(len(classes), 'class', 'es')}; expected 1 to {MOST_CLASSES}.")
    check_distinct([c.name for c in classes], path, "name")


def check_distinct(values: Sequence[object], path: Path, what: str) -> None:
    """Raises ValueError naming the file and the first value that occurs twice."""
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{path}: the {what} {value!r} belongs to two classes.")
        seen.add(value)
