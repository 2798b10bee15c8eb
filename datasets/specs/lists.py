"""Text files that list the images of a split, and how files are named. Imports nothing heavy."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from datasets.specs.spec import Layout


def listed_names(path: Path, layout: Layout, root: Path, files: Mapping[str, str]) -> dict[str, int]:
    """The names of the images that the list `path` names, one per line -> line number.

    files: of every image there is, path below the layout's image folder -> name. A line is a name or a path, with or
    without suffix, below the image folder, below `root` or absolute; as written comes before any other reading. One
    that names no image and begins with a # and a space is a comment. Raises FileNotFoundError naming file and line if
    another names none, ValueError if it may mean two or is already listed, and if the list is empty.
    """
    known = [files, {name: name for name in files.values()}]
    known += [{compose(key): name for key, name in table.items()} for table in known]
    listed: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), start=1):
        found = _meant(line, layout, root, known)
        if not found and re.match(r"\s*(#+\s|#*$)", line):
            continue
        where, image_dir = f"{path}, line {number}", root / layout.image_dir
        if not found:
            raise FileNotFoundError(f"{where}: no image {line.strip()} in {image_dir}{_hint(line)}.")
        if len(found) > 1:
            images = " or ".join(f"{image_dir / name}" for name in sorted(found))
            raise ValueError(f"{where}: {line.strip()} may mean {images}; write the absolute path.")
        [name] = found
        if name in listed:
            raise ValueError(f"{where}: {name} is already listed in line {listed[name]}.")
        listed[name] = number
    if not listed:
        raise ValueError(f"{path}: the list is empty.")
    return listed


def read_lines(path: Path) -> list[str]:
    """The lines of a list; bytes that are not UTF-8 become what they are in file names.

    Raises ValueError if it holds bytes of value 0, which no file name does, but every UTF-16 text.
    """
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    if "\0" in text:
        raise ValueError(f"{path} is not UTF-8 text, but maybe UTF-16; save it as UTF-8.")
    return text.split("\n")


def readings(line: str, layout: Layout, root: Path) -> Iterator[list[str]]:
    """The paths below the image folder that a line may mean: as written, then without outer spaces, then with /."""
    image_dir = Path(os.path.normpath((root / layout.image_dir).absolute()))
    bare = line.strip()
    for text in dict.fromkeys((line, bare, bare.replace("\\", "/"))) if bare else ():
        paths = [image_dir / text, root.absolute() / text]
        if Path(text).is_absolute():  # links may lead to the same place
            paths.append(image_dir / os.path.relpath(Path(text).resolve(), image_dir.resolve()))
        normal = [Path(os.path.normpath(path)) for path in paths]
        below = [path.relative_to(image_dir).as_posix() for path in normal if path.is_relative_to(image_dir)]
        yield list(dict.fromkeys(below))


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


def unicode_forms(name: str) -> tuple[str, ...]:
    """`name`, then with accents as macOS writes them and as others do: names that look the same."""
    return tuple(dict.fromkeys((name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))))


def compose(name: str) -> str:
    """`name` in the Unicode form (NFC) in which names that look the same are equal."""
    return unicodedata.normalize("NFC", name)


def _meant(line: str, layout: Layout, root: Path, known: Sequence[Mapping[str, str]]) -> set[str]:
    """The images that a line may mean by the first reading that any fits: its path, its name, its name and a suffix.

    known: path -> name and name -> name, then both with their keys in one Unicode form.
    """
    for paths in readings(line, layout, root):
        bare = [without_suffix(path, layout) for path in paths]
        composed, composed_bare = (list(map(compose, keys)) for keys in (paths, bare))
        files, names, files_alike, names_alike = known
        for table, keys in (
            (files, paths), (names, paths), (names, bare),
            (files_alike, composed), (names_alike, composed), (names_alike, composed_bare),
        ):  # fmt: skip
            if found := {table[key] for key in keys if key in table}:
                return found
    return set()


def _hint(line: str) -> str:
    text = line.strip()
    if re.search("[\ud800-\udfff]", text):
        return "; the list is not UTF-8 text"
    if text.startswith("#"):
        return "; a comment has a space after its #"
    return "; a list has one name per line" if len(text.split()) > 1 or "," in text else ""
