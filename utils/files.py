"""Files: written so that no half-written one is ever visible, their names in order, and fingerprints of settings."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def first_free(name: str, is_taken: Callable[[str], bool]) -> str:
    """The first of `name`, `name`-2, `name`-3, … that is not taken."""
    if not is_taken(name):
        return name
    return next(numbered for number in count(2) if not is_taken(numbered := f"{name}-{number}"))


def natural_order(name: str) -> tuple[list[tuple[str, int]], str]:
    """A key that sorts names as text, but the numbers in them by value: frame2 before frame10."""
    parts = re.findall(r"([^0-9]*)([0-9]*)", name)
    return [(text, int(digits or -1)) for text, digits in parts], name


def fingerprint(settings: Any, files: Sequence[Path], root: Path | None = None) -> str:
    """A hash of plain values, and of names, sizes and times of files: what is made of the same is the same.

    root: folder that the names are relative to, so that a set that was moved is still the same.
    """
    names = [os.path.relpath(path, root) if root else str(path.resolve()) for path in files]
    stamps = [(name, path.stat().st_size, path.stat().st_mtime_ns) for name, path in zip(names, files, strict=True)]
    return hashlib.blake2b(repr((settings, stamps)).encode(), digest_size=16).hexdigest()


PLOT_SUFFIXES = (".png", ".jpg", ".jpeg", ".pdf", ".svg")  # formats of a plot


UMASK = os.umask(0)  # read once, before there are threads: meanwhile it is 0, and files written then are for everyone
os.umask(UMASK)

_TEMPORARY = f".new-{platform.node()}-"  # then the process that writes
_OLD = 24 * 3600.0  # seconds after which another machine's temporary file is nobody's


@cache
def _remove_left_behind(folder: Path) -> None:
    """Remove the temporary files of processes that were killed; once for each folder."""
    for left in folder.glob(".new-*") if os.name == "posix" else ():
        with suppress(PermissionError, FileNotFoundError, ValueError):  # another user's, removed by another process
            try:
                if left.name.startswith(_TEMPORARY):
                    os.kill(int(left.name.removeprefix(_TEMPORARY).partition("-")[0]), 0)  # only asks whether it lives
                elif time.time() > left.stat().st_mtime + _OLD:
                    left.unlink()
            except ProcessLookupError:
                left.unlink()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path next to `path` to write to; synced and renamed to `path` if the block succeeds.

    The temporary name keeps the suffix, since some writers choose the format by it; it is short, since `path` may have
    the longest name possible. An OSError of the block that names no file gets `path` as its file name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_behind(path.parent)
    handle, name = tempfile.mkstemp(prefix=f"{_TEMPORARY}{os.getpid()}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        # mkstemp creates private files; a result is for everyone whom the umask allows.
        temporary.chmod(0o666 & ~UMASK)
        temporary.replace(path)
    except OSError as error:
        # A failed write, as on a full disk, does not name the file; the temporary name would not help.
        if error.errno is None and str(path) not in str(error):  # of NumPy
            raise OSError(f"{path}: {error}") from error
        if error.errno is not None and error.filename in (None, name):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def json_text(content: Any, **options: Any) -> str:
    """Plain values as JSON, with null for NaN and infinity, which JSON does not have. options: of `json.dumps`."""
    return json.dumps(_finite(content), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain values, with null for NaN."""
    with atomic_path(path) as temporary:
        temporary.write_text(json_text(content, indent=1) + "\n", encoding="utf-8")


def write_csv(path: Path, header: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    """Write a table; None becomes an empty field, bytes of a name that are not text a backslash escape."""
    rows: list[str] = []
    writer = csv.writer(SimpleNamespace(write=rows.append), lineterminator="\r\n")  # so that both are quoted in names
    writer.writerows([header, *lines])
    text = "".join(row.removesuffix("\r\n") + "\n" for row in rows)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def writable_folder(folder: Path, flag: str) -> Path:
    """Make `folder` and check that files can be written there. Raises OSError naming `flag` if not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise OSError(f"{flag} {folder} cannot be written: {error.strerror}. Choose a writable folder.") from error


def writable_file(file: Path, flag: str, suffixes: Sequence[str] = ()) -> None:
    """Check, before any work is done, that `file` can be written: make its folder, and check that it is not a folder.

    suffixes: allowed endings; () for any. Raises OSError or ValueError naming `flag` if not.
    """
    writable_folder(file.parent, flag)
    if file.is_dir():
        raise ValueError(f"{flag} {file} is a folder; give a file name.")
    if suffixes and file.suffix.lower() not in suffixes:
        raise ValueError(f"{flag} {file}: the name must end in one of {', '.join(suffixes)}.")
