"""Text files that list the images of a split, and how files are named. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from datasets.spec import Layout


def listed_names(path: Path, layout: Layout) -> dict[str, int]:
    """The names of images that `path` lists, one per line -> line number; lines that begin with # are comments.

    A name may be written as a path that begins with the layout's image folder, and with its suffix. Raises ValueError
    naming file and line if a name is listed twice, and the file if it is not text or lists nothing.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: the list is not UTF-8 text ({error.reason}).") from error
    names: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name = without_suffix(text.replace("\\", "/").removeprefix("./").removeprefix(f"{layout.image_dir}/"), layout)
        if name in names:
            raise ValueError(f"{path}, line {number}: {name} is already listed in line {names[name]}.")
        names[name] = number
    if not names:
        raise ValueError(f"{path}: the list is empty.")
    return names


def no_such_image(path: Path, line: int, image_dir: Path) -> str:
    """The message for line `line`, counted from 1, of the list `path`, which names no image in `image_dir`."""
    text = path.read_text(encoding="utf-8-sig").splitlines()[line - 1].strip()
    one_each = "; a list has one name per line" if len(text.split()) > 1 or "," in text else ""
    return f"{path}, line {line}: no image {text} in {image_dir}{one_each}."


def without_suffix(name: str, layout: Layout) -> str:
    """`name` without its image suffix, in lower or upper case; unchanged if it has none."""
    for suffix in layout.image_suffixes:
        if name.lower().endswith(suffix.lower()):
            return name[: -len(suffix)]
    return name


def in_capitals_too(suffix: str) -> tuple[str, ...]:
    """`_L.png` -> `_L.png`, `_L.PNG`: the accepted spellings of a suffix."""
    stem, dot, ending = suffix.rpartition(".")
    return tuple(dict.fromkeys((suffix, f"{stem}{dot}{ending.upper()}")))
