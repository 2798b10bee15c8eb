"""A video with a few labels becomes a data set, in the layout of datasets/specs/class_table.py."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from datasets.files import Sample, named_files, normalize_unicode
from datasets.segmentation import load_sample
from datasets.specs.class_table import CLASSES_FILE, PHOTO_SUFFIXES, class_table, read_spec, read_table
from datasets.specs.registry import dataset_spec
from utils.command import USER_ERRORS, one_line
from utils.files import atomic_path, natural_order, writable_folder, write_json
from utils.images import write_image
from utils.text import escape
from utils.video_io import count_frames, open_video

SOURCE_FILE = "source.json"  # names the video that a set was made from
LABEL_SUFFIX = ".png"


def check_out(out: Path, video: Path, *, resume: bool) -> None:
    """Raise ValueError unless `out` is new or empty, or with `resume` a set made from this very video."""
    if not out.is_dir() or not any(out.iterdir()):
        return
    try:
        source = json.loads((out / SOURCE_FILE).read_text(encoding="utf-8"))["video"]
    except Exception:  # missing, or so damaged that anything may be raised
        source = None
    if source != str(video.resolve()):
        made_from = f"was made from {source}, not from {video}" if source else "is not empty"
        raise ValueError(f"--out {out} {made_from}; choose a new folder.")
    if not resume:
        raise ValueError(f"--out {out} was already made from {video}; add --resume, or choose a new folder.")


def find_classes(label_dir: Path, classes: str | None, dataset: str) -> dict[str, Any]:
    """The content of a classes.json that defines what the labels mean.

    classes: a classes.json. dataset: else the data set whose values the labels use. With neither, the classes.json in
    the labels' folder or next to it. Raises FileNotFoundError if that is missing, ValueError if it is wrong.
    """
    if dataset not in ("", "folder") and not classes:
        return class_table(dataset_spec(dataset))
    places = [Path(classes)] if classes else [label_dir / CLASSES_FILE, label_dir.parent / CLASSES_FILE]
    table = next((path for path in places if path.is_file()), None)
    if table is None:
        way_out = "Give one with --classes, or with --dataset the data set whose values the labels use."
        raise FileNotFoundError(f"no {' nor '.join(map(str, places))}, which defines what the labels mean. {way_out}")
    read_spec(label_dir, table)  # fails now if it is wrong, not when all frames have been decoded
    return read_table(table, "classes")[0]


def match_labels(video: Path, label_dir: Path) -> tuple[dict[str, tuple[Path, Path | int]], list[str]]:
    """Name -> label file, and its frame: a file of a folder of frames, or its number in a video file.

    Also a message for each label file that has no frame. Raises FileNotFoundError if none has.
    """
    label_paths = _named_files(label_dir, (LABEL_SUFFIX,))
    if not label_paths:
        raise FileNotFoundError(f"--labels {label_dir}: contains no label files (*{LABEL_SUFFIX}).")
    frames: Mapping[str, Path | int]
    if video.is_dir():
        frames, problem = _named_files(video, PHOTO_SUFFIXES), f"no frame of this name in {video}"
    else:
        num_frames = count_frames(video)
        numbers = {name: int(digits[0]) for name in label_paths if (digits := re.search(r"\d+$", name))}
        frames = {name: number for name, number in numbers.items() if number < num_frames}
        problem = f"its name does not end in a frame number; {video} has frames 0 to {num_frames - 1}"
    left_out = [f"{path}: {problem}" for name, path in label_paths.items() if name not in frames]
    matched = {name: (path, frames[name]) for name, path in label_paths.items() if name in frames}
    if not matched:
        raise FileNotFoundError(f"--labels {label_dir}: no label file matches a frame: {left_out[0]}")
    return matched, left_out


def make_dataset(
    video: Path, label_dir: Path, out: Path, classes: dict[str, Any], *, reach: int, stride: int
) -> list[str]:
    """Write classes, labelled frames and the frames around them to `out`.

    classes: from `find_classes`. reach, stride: as in `find_sequences`. Frames that exist are kept. Returns a message
    for each label file that was skipped. Raises what `match_labels` raises, before anything is written, and ValueError
    if no label file can be used.
    """
    matched, left_out = match_labels(video, label_dir)
    writable_folder(out, "--out")
    write_json(out / SOURCE_FILE, {"video": str(video.resolve())})
    write_json(out / CLASSES_FILE, classes)
    spec = read_spec(out)
    assert spec.video is not None, "the declaration of folder has it"
    around = out / "video"
    images: dict[str, Path] = {}
    wanted: defaultdict[int, list[Path]] = defaultdict(list)
    for name, (_, frame) in matched.items():
        if isinstance(frame, Path):
            images[name] = frame
            continue
        images[name] = around / f"{name}.png"
        for step in range(-reach * stride, reach * stride + 1, stride):
            wanted[frame + step].append(around / f"{spec.video.name_of(name, step)}.png")
    if wanted:
        _take_frames(video, wanted)
    elif not around.exists():
        around.symlink_to(video.resolve(), target_is_directory=True)  # the frames of a folder stay where they are
    for name, image in images.items():
        label_path = matched[name][0]
        try:
            load_sample(Sample(name, image, label_path, spec.layouts[0].masks), spec)
        except USER_ERRORS as error:
            left_out.append(one_line(error))
            continue
        for source, copy in ((image, f"images/{name}{image.suffix}"), (label_path, f"labels/{name}{LABEL_SUFFIX}")):
            with atomic_path(out / copy) as temporary:
                shutil.copy2(source, temporary)
    if not (out / "labels").is_dir():
        raise ValueError(f"--labels {label_dir}: no label file can be used: {left_out[-1]}")
    return left_out


def _named_files(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """The files below `folder` with these suffixes, in natural order, by their path without the suffix."""
    found = sorted(named_files(folder, suffixes), key=lambda named: natural_order(named[0]))
    return {normalize_unicode(name): path for name, path in found}


def _take_frames(video: Path, wanted: dict[int, list[Path]]) -> None:
    """Write the frames of these numbers to these files, unless they exist."""
    # One after another, since seeking by frame number is not exact in all formats; as stored, since labels lie on that.
    with open_video(str(video), square_pixels=False) as opened:
        for number, (_, frame) in enumerate(islice(opened.frames, max(wanted) + 1)):
            for path in wanted.get(number, ()):
                if not path.is_file():
                    write_image(path, frame)
        if opened.is_damaged():
            notice = "frames that cannot be decoded have no number, so labels of later ones may be on wrong frames"
            print(escape(f"warning: {video} is damaged: {notice}"), file=sys.stderr)
