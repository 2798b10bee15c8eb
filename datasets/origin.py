"""What a set made from a video records of it, in source.json: which video it was, and which files were copied."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from datasets.index import files_below
from utils.files import write_json

SOURCE_FILE = "source.json"
FRAME_FOLDERS = ("images", "video")


@dataclass(frozen=True)
class Origin:
    """video: path of the file or folder. size, mtime_ns: of a file, which may be replaced under the same name."""

    video: str
    size: int | None = None
    mtime_ns: int | None = None


@dataclass(frozen=True)
class Made:
    """files: those of image and labels that were copied. labels: the folder that the labels came from."""

    files: tuple[str, ...]
    labels: str


@dataclass(frozen=True)
class Gathered:
    """What came from where. made: name of the labelled frame -> the files copied, relative to the set's root."""

    origin: Origin
    made: Mapping[str, Made] = field(default_factory=dict)


def origin_of(video: Path) -> Origin:
    """The origin that identifies `video`, a file or a folder."""
    if video.is_dir():
        return Origin(str(video.resolve()))
    stat = video.stat()
    return Origin(str(video.resolve()), stat.st_size, stat.st_mtime_ns)


def read_gathered(out: Path, video: Path, labels: Path) -> Gathered:
    """What `out` records, if more of `video`, labelled by the files in `labels`, may be added to it.

    Raises ValueError if it contains frames of another video, or files of unknown origin.
    """
    path, origin = out / SOURCE_FILE, origin_of(video)
    if not path.is_file():
        _check_unused(out, video, labels)
        return Gathered(origin)
    known = _read(path)
    if known.origin == origin:
        return known
    if not any(file for folder in FRAME_FOLDERS for file in files_below(out / folder)):
        return Gathered(origin)  # a run that failed before it wrote any frame
    if known.origin.video == origin.video:
        raise ValueError(f"{video} has changed since --out {out} was made from it; choose a new folder.")
    raise ValueError(f"--out {out} was made from {known.origin.video}, not from {video}; choose a new folder.")


def write_gathered(out: Path, gathered: Gathered) -> None:
    """Record it in `out`."""
    write_json(out / SOURCE_FILE, asdict(gathered))


def _check_unused(out: Path, video: Path, labels: Path) -> None:
    own = {video.resolve(), labels.resolve()}  # frames or labels may already be in their places
    for folder in (out / name for name in (*FRAME_FOLDERS, "labels")):
        if folder.resolve() not in own and any(files_below(folder)):
            raise ValueError(
                f"{folder} contains files, but no {out / SOURCE_FILE} records that they are from {video}; "
                "choose a new folder with --out."
            )


def _read(path: Path) -> Gathered:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        made = {name: Made(tuple(map(_below, one["files"])), one["labels"]) for name, one in content["made"].items()}
        return Gathered(Origin(**content["origin"]), made)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not record what {path.parent} was made from; choose a new folder.") from error


def _below(file: str) -> str:
    if Path(file).is_absolute() or ".." in Path(file).parts:  # such a file could be deleted
        raise ValueError(file)
    return file
