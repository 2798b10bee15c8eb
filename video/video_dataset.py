"""What a set made from a video records of it, in source.json: which video it was, and which files were copied."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from datasets.files import Sample, files_below
from datasets.labels import label_pixels
from datasets.segmentation import load_sample
from datasets.specs.folder import CLASSES_FILE, IMAGE_SUFFIXES, class_table, described, read_spec, read_table
from datasets.specs.lists import compose
from datasets.specs.registry import DATASETS, check_name, dataset_spec
from datasets.specs.spec import BY_FRAME_NUMBER, DatasetSpec, Frames, Layout
from utils.command import USER_ERRORS, one_line
from utils.files import atomic_path, natural_order, writable_folder, write_json
from utils.images import write_image
from utils.text import escape
from utils.video_io import count_frames, opened_video

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


LABEL_SUFFIX = ".png"


@dataclass(frozen=True)
class Source:
    """video: a video file, or a folder of frames. labels: folder of label files, named like the frames."""

    video: Path
    labels: Path

    def label_files(self) -> dict[str, Path]:
        """Name -> file. Raises FileNotFoundError if there are none."""
        found = [path for path in _in_order(self.labels) if path.lower().endswith(LABEL_SUFFIX)]
        if not found:
            raise FileNotFoundError(f"--labels {self.labels}: contains no label files (*{LABEL_SUFFIX}).")
        return {compose(path[: -len(LABEL_SUFFIX)]): self.labels / path for path in found}

    def frame_files(self) -> dict[str, Path]:
        """Of a folder of frames: name -> file. Raises FileNotFoundError if there are none."""
        found = [path for path in _in_order(self.video) if path.lower().endswith(IMAGE_SUFFIXES)]
        if not found:
            raise FileNotFoundError(f"--video {self.video}: contains no images ({', '.join(IMAGE_SUFFIXES)}).")
        return {compose(str(Path(path).with_suffix(""))): self.video / path for path in found}


def write_classes(out: Path, labels: Path, classes: str | None, dataset: str) -> DatasetSpec:
    """Write to `out` what the labels mean, and return the resulting set.

    Raises what `find_classes` raises, before anything is written.
    """
    content = find_classes(out, labels, classes, dataset)
    writable_folder(out, "--out")
    path = out / CLASSES_FILE
    if not path.is_file() or read_table(path, "classes")[0] != content:
        _write_table(path, content)
    return read_spec(out)


def find_classes(out: Path, labels: Path, classes: str | None, dataset: str) -> dict[str, Any]:
    """The content of a classes.json that defines what the labels mean.

    classes: a classes.json. dataset: else the data set whose values the labels use. With neither, the classes.json in
    the labels' folder or next to it. Raises FileNotFoundError if that is missing, ValueError if it is wrong, if nothing
    in it means "no class", or if `out` has labels of other classes.
    """
    table: Path | None = None
    if dataset not in ("", "folder") and not classes:
        check_name(dataset)
        if dataset not in DATASETS:
            raise ValueError(
                f"--dataset {dataset}: its classes are defined in its folder; give a classes.json with --classes."
            )
        content = class_table(dataset_spec(dataset))
    else:
        places = [Path(classes)] if classes else [labels / CLASSES_FILE, labels.parent / CLASSES_FILE]
        table = next((path for path in places if path.is_file()), None)
        if table is None:
            raise FileNotFoundError(
                f"no {' nor '.join(map(str, places))}, which defines what the labels mean. "
                "Give one with --classes, or with --dataset the data set whose values the labels use."
            )
        content = read_table(table, "classes")[0]
        _check_table(table, out)
    path = out / CLASSES_FILE
    # If no labels were gathered yet, the classes may still change: a mistake in them may be the reason.
    if path.is_file() and any(files_below(out / "labels")) and read_table(path, "classes")[0] != content:
        raise ValueError(f"--out {out} contains a set with other classes ({CLASSES_FILE}); choose a new folder.")
    return content


def plan(source: Source, out: Path) -> tuple[int, list[str]]:
    """How many label files have a frame, as far as is known without decoding, and a message for each that has none.

    Raises ValueError if `out` holds frames of another video.
    """
    labels = source.label_files()
    read_gathered(out, source.video, source.labels)
    if source.video.is_dir():
        left_out = _without_frame(labels, source)
    else:
        numbers, left_out = _numbers(labels)
        left_out += _beyond(numbers, labels, source, count_frames(source.video))
    return len(labels) - len(left_out), left_out


def gather(
    source: Source, out: Path, spec: DatasetSpec, *, reach: int, stride: int, resume: bool
) -> tuple[list[str], list[str]]:
    """Write the labelled frames and, from a video file, those around them below `out`.

    spec: of `out`. reach, stride: as in `find_sequences`. resume: keep frames that exist. Returns a message for each
    label file that was skipped, and the names of frames whose labels were gathered earlier but are no longer to be
    used: their image and labels are removed. Raises FileNotFoundError if no label file can be used.
    """
    labels = source.label_files()
    gathered = read_gathered(out, source.video, source.labels)
    # Before any frame is written, so that frames of two videos never share a folder, even after an interruption.
    write_gathered(out, gathered)
    if source.video.is_dir():
        frames, left_out = source.frame_files(), _without_frame(labels, source)
        images = {name: frames[name] for name in labels if name in frames}
    else:
        numbers, left_out = _numbers(labels)
        wanted: defaultdict[int, list[Path]] = defaultdict(list)
        for name, number in numbers.items():
            for step in range(-reach * stride, reach * stride + 1, stride):
                wanted[number + step].append(_frame_file(out, spec, name, step))
        num_frames = _take_frames(source.video, wanted, resume=resume)
        left_out += _beyond(numbers, labels, source, num_frames)
        images = {name: _frame_file(out, spec, name, 0) for name, number in numbers.items() if number < num_frames}
    copies: dict[str, dict[str, Path]] = {}
    for name, image in images.items():
        try:
            load_sample(Sample(name, image, labels[name], spec.layouts[0].masks), spec)
            copies[name] = _copies(name, image, labels[name], out, gathered)
        except USER_ERRORS as error:
            left_out.append(one_line(error))
    if not copies:
        raise FileNotFoundError(f"--labels {source.labels}: no label file matches a frame: {left_out[0]}")
    return left_out, _put(copies, labels, source.labels, out, gathered)


def with_frames_of(source: Source, spec: DatasetSpec) -> DatasetSpec:
    """`spec`, of the folder that `gather` filled, which also knows where the frames around labelled ones lie."""
    if not source.video.is_dir():
        return spec
    suffixes = tuple(sorted({path.suffix for path in source.frame_files().values()}))
    folder = str(source.video.resolve()).replace("{", "{{").replace("}", "}}")
    return replace(spec, video=Frames((Layout(folder, image_suffixes=suffixes),), BY_FRAME_NUMBER))


def _in_order(folder: Path) -> list[str]:
    return sorted(files_below(folder), key=natural_order)


def _check_table(table: Path, out: Path) -> None:
    """Raises ValueError naming the file `table` if it is wrong, or if no labels could be written with it."""
    spec = replace(described(table, out), title=str(table))
    label_pixels(np.zeros((1, 1), np.uint8), spec.layouts[0].masks, spec)


def _write_table(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_path(path) as temporary:
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # which JSON reads as well


def _without_frame(labels: Mapping[str, Path], source: Source) -> list[str]:
    frames = source.frame_files()
    return [f"{path}: no frame {name} in {source.video}" for name, path in labels.items() if name not in frames]


def _beyond(numbers: Mapping[str, int], labels: Mapping[str, Path], source: Source, num_frames: int) -> list[str]:
    last = num_frames - 1
    return [f"{labels[n]}: {source.video} has frames 0 to {last}" for n, number in numbers.items() if number > last]


def _numbers(labels: Mapping[str, Path]) -> tuple[dict[str, int], list[str]]:
    """The frame number at the end of each label file's name, and a message for each that has none."""
    found = {name: re.search(r"\d+$", name) for name in labels}
    numberless = [
        f"{labels[name]}: no frame number at the end of the name" for name, digits in found.items() if not digits
    ]
    return {name: int(digits[0]) for name, digits in found.items() if digits}, numberless


def _frame_file(out: Path, spec: DatasetSpec, name: str, step: int) -> Path:
    assert spec.video is not None, "the declaration of folder has it"
    return out / f"{spec.video.layouts[0].image_dir}/{spec.video.name_of(name, step)}.png"


def _take_frames(video: Path, wanted: Mapping[int, Sequence[Path]], *, resume: bool) -> int:
    """Write the wanted frames of the video; returns how many were read. Raises ValueError if it is not a video."""
    # Read one after another, since seeking by frame number is not exact in all formats.
    number = 0
    # Labels lie on the pixels as stored, whatever their shape.
    with opened_video(str(video), square_pixels=False) as opened:
        for number, (_, frame) in enumerate(islice(opened.frames, max(wanted, default=-1) + 1), 1):
            for path in wanted.get(number - 1, ()):
                if not (resume and path.is_file()):
                    write_image(path, frame)
        if opened.is_damaged():
            print(
                escape(f"warning: {video} is damaged: frames that cannot be decoded have no number, so labels of later "
                       "ones may be on wrong frames"),
                file=sys.stderr,
            )  # fmt: skip
    return number


def _copies(name: str, image: Path, labels: Path, out: Path, gathered: Gathered) -> dict[str, Path]:
    """File to be written below `out` -> its source; without files that are already in place.

    Raises ValueError if there is a file that was not gathered.
    """
    files = {f"images/{name}{image.suffix}": image, f"labels/{name}{LABEL_SUFFIX}": labels}
    wanted = {copy: file for copy, file in files.items() if not (out / copy).exists() or not file.samefile(out / copy)}
    ours = gathered.made[name].files if name in gathered.made else ()
    for copy, file in wanted.items():
        if copy not in ours and (out / copy).exists():
            raise ValueError(f"{file}: {out / copy} already exists with other content; remove one of them.")
    return wanted


def _put(
    copies: Mapping[str, Mapping[str, Path]], labels: Iterable[str], folder: Path, out: Path, gathered: Gathered
) -> list[str]:
    """Copy all files to their places, and remove what was made from labels that are no longer to be used.

    labels: names of all label files in `folder`. Returns the names of those removed. Labels from elsewhere stay.
    """
    here = str(folder.resolve())
    new = {name: Made(tuple(files), here) for name, files in copies.items()}
    stay = {n: m for n, m in gathered.made.items() if n not in labels and m.labels != here}
    # Before copying, or an interruption would leave unknown files.
    write_gathered(out, replace(gathered, made={**gathered.made, **new}))
    for files in copies.values():
        for copy, file in files.items():
            with atomic_path(out / copy) as temporary:
                shutil.copy2(file, temporary)
    kept = {file for made in (*new.values(), *stay.values()) for file in made.files}
    for earlier in (file for made in gathered.made.values() for file in made.files):
        if earlier not in kept:
            (out / earlier).unlink(missing_ok=True)
    write_gathered(out, replace(gathered, made=stay | new))
    gone = [name for name, made in gathered.made.items() if made.files and name not in new and name not in stay]
    return sorted(gone, key=natural_order)
