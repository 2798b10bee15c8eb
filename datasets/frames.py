"""Frames of the video around labelled ones: those with propagated labels, and the true ones."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from config import DataConfig
from datasets.files import Sample, find_images, label_file
from datasets.specs.lists import compose, unicode_forms
from datasets.specs.spec import DatasetSpec, Frames, Layout
from utils.images import read_note
from utils.text import counted

SCENE_FLOW_REACH = 10  # frames on either side of a labelled one in KITTI's multi-view extension


def find_propagated_samples(
    spec: DatasetSpec, root: Path, pairs: Sequence[Sample], max_skip: int, propagated_root: Path | None = None
) -> list[Sample]:
    """The propagated frames around `pairs`, every step from 1 to `max_skip` either way, sorted.

    propagated_root: root of the propagated frames, if it is not `root`. Raises ValueError if the set declares none,
    FileNotFoundError, naming the places searched, if none are found for a step or one of them has no label file.
    """
    frames = _declared(spec.propagated, f"--maxSkip: {spec.name} has no video and so no propagated frames.")
    found: list[Sample] = []
    for step in range(1, max_skip + 1):
        found += _labelled_frames(spec, frames, propagated_root or root, pairs, (-step, step), f"--maxSkip {max_skip}")
    return sorted(found)


def find_scene_flow_samples(spec: DatasetSpec, root: Path, pairs: Sequence[Sample]) -> list[Sample]:
    """The labelled frames of scene flow around `pairs`, sorted. Raises what `find_propagated_samples` raises."""
    frames = _declared(spec.scene_flow, f"--scf: {spec.name} has no scene-flow frames; only kitti has.")
    steps = [step for step in range(-SCENE_FLOW_REACH, SCENE_FLOW_REACH + 1) if step]
    return sorted(_labelled_frames(spec, frames, root, pairs, steps, "--scf"))


def num_with_frames(spec: DatasetSpec, pairs: Sequence[Sample], propagated: Sequence[Sample], max_skip: int) -> int:
    """The number of `pairs` around which at least one frame was `propagated`, up to `max_skip` steps away."""
    frames = _declared(spec.propagated, f"{spec.name} has no propagated frames.")
    there, steps = {pair.name for pair in propagated}, [s for s in range(-max_skip, max_skip + 1) if s]
    return sum(any(name in there for step in steps for name in _names(frames, pair.name, step)) for pair in pairs)


def pair_to_write(spec: DatasetSpec, root: Path, pair: Sample, step: int, propagated_root: Path) -> Sample:
    """The files in which `find_propagated_samples` looks for the frame `step` after `pair`, which lies below `root`.

    The image has the format of the labelled one. Raises ValueError if the set declares no propagated frames, or if
    training never looks for any around `pair`.
    """
    frames = _declared(spec.propagated, f"{spec.name} declares no propagated frames.")
    folder = next((f for f in _folders(spec) if _lies_in(spec, root, f, pair.image_path)), None)
    if folder is None:
        raise ValueError(f"{pair.image_path}: labels are propagated only from images of train and val.")
    layout, name = frames.layouts[0], frames.name_of(pair.name, step)
    assert layout.label_dir is not None, f"{spec.name}: propagated frames have labels"
    lower = pair.image_path.name.lower()
    suffix = next((s for s in layout.image_suffixes if lower.endswith(s.lower())), layout.image_suffixes[0])
    image_dir, label_dir = (
        propagated_root / part.format(folder=folder) for part in (layout.image_dir, layout.label_dir)
    )
    return Sample(name, image_dir / f"{name}{suffix}", label_dir / f"{name}{layout.label_suffixes[0]}", layout.masks)


def frames_around(spec: DatasetSpec, root: Path, pair: Sample, steps: Iterable[int]) -> dict[int, Path]:
    """The true frames of the video around a labelled one: step -> file, for the steps whose file exists.

    Raises ValueError if the set declares no video.
    """
    frames = _declared(spec.video, f"{spec.name} declares no video around its labelled frames.")
    return {step: found.image_path for step in steps if (found := _frame(spec, frames, root, pair, step))}


def _declared(frames: Frames | None, otherwise: str) -> Frames:
    if frames is None:
        raise ValueError(otherwise)
    return frames


def _labelled_frames(
    spec: DatasetSpec, frames: Frames, root: Path, pairs: Sequence[Sample], steps: Sequence[int], flag: str
) -> list[Sample]:
    found = [f for pair in pairs for step in steps if (f := _frame(spec, frames, root, pair, step))]
    if not found:
        names = " or ".join(frames.name_of(pairs[0].name, step) for step in (steps[0], steps[-1]))
        folders = " or ".join(str(root / layout.image_dir.format(folder=f)) for layout, f in _places(spec, frames))
        raise FileNotFoundError(
            f"{flag}: no propagated frames like {names} in {folders} around any image of the training split "
            "(--train_split)."
        )
    for pair in found:
        if pair.label_path is None:
            raise FileNotFoundError(f"{pair.image_path} is a propagated frame without a label file.")
    return found


def _frame(spec: DatasetSpec, frames: Frames, root: Path, pair: Sample, step: int) -> Sample | None:
    """The frame `step` after `pair`, at the first place that has its image; None if there is none."""
    for name in _names(frames, pair.name, step):
        for layout, folder in _places(spec, frames):
            for image in _image_candidates(layout, root, folder, name):
                if image.is_file():
                    labels, masks = label_file(layout, root, folder, name)
                    return Sample(name, image, labels, masks)
    return None


def _names(frames: Frames, labelled: str, step: int) -> list[str]:
    """Possible names of the frame: before 100 comes 099 or 99; but before 0100, 0099."""
    name = frames.name_of(labelled, step)
    padded = re.search(r"(?<!\d)0\d*$", labelled)
    return [name] if padded else list(dict.fromkeys((name, re.sub(r"(?<!\d)0+(?=\d+$)", "", name))))


def _places(spec: DatasetSpec, frames: Frames) -> list[tuple[Layout, str]]:
    """Where frames around labelled images may lie: a layout, and a folder of training or validation."""
    places = {layout.image_dir.format(folder=f): (layout, f) for layout in frames.layouts for f in _folders(spec)}
    return list(places.values())


def _folders(spec: DatasetSpec) -> list[str]:
    splits = [split for split in ("trainval", "train", "val") if split in spec.splits]
    return list(dict.fromkeys(folder for split in splits for folder in spec.splits[split]))


def _lies_in(spec: DatasetSpec, root: Path, folder: str, image: Path) -> bool:
    return any(image.is_relative_to(root / layout.image_dir.format(folder=folder)) for layout in spec.layouts)


def _image_candidates(layout: Layout, root: Path, folder: str, name: str) -> list[Path]:
    stems = [root / layout.image_dir.format(folder=folder) / form for form in unicode_forms(name)]
    suffixes = [form for suffix in layout.image_suffixes for form in (suffix, suffix.upper())]
    return [Path(f"{stem}{suffix}") for stem in stems for suffix in suffixes]


def frames_of_video(
    data: DataConfig, spec: DatasetSpec, root: Path, pairs: list[Sample], *, show: bool
) -> list[Sample]:
    """What `--maxSkip` and `--scf` add, without validation images. show: print how many frames that is."""
    if data.propagated_dir and not data.maxSkip:
        raise ValueError("--propagated_dir needs --maxSkip, the steps to use; add it, or leave --propagated_dir out.")
    if (data.maxSkip or data.scf) and not (data.class_uniform_pct and data.max_cu_epoch):
        raise ValueError(
            "--maxSkip and --scf add to the class-uniform sampling, which is off (--class_uniform_pct, --max_cu_epoch)."
        )
    elsewhere = Path(data.propagated_dir) if data.propagated_dir else None
    propagated = find_propagated_samples(spec, root, pairs, data.maxSkip, elsewhere) if data.maxSkip else []
    if propagated and show:
        reached = num_with_frames(spec, pairs, propagated, data.maxSkip)
        tqdm.write(
            f"--maxSkip {data.maxSkip}: {counted(len(propagated), 'propagated frame')} around {reached} of "
            f"{counted(len(pairs), 'training image')}",
            file=sys.stderr,
        )
    found = sorted(propagated + (find_scene_flow_samples(spec, root, pairs) if data.scf else []))
    kept = without_frames_of(found, _held_out(data, spec, root, pairs)) if found else []
    if len(kept) < len(found) and show:
        left_out = counted(len(found) - len(kept), "propagated frame")
        tqdm.write(f"{left_out} skipped: validation images show the same moments", file=sys.stderr)
    return kept


def _held_out(data: DataConfig, spec: DatasetSpec, root: Path, pairs: list[Sample]) -> set[str]:
    """Names of the validation images that are not among the training `pairs`."""
    try:
        held_out = find_images(spec, root, "val", data.cv)
    except FileNotFoundError:  # reported by validation, if it is needed
        return set()
    return {pair.name for pair in held_out} - {pair.name for pair in pairs}


PAIR_NOTE = "kerbline-pair"  # inside the label file, which is written last: the pair's record

Record = dict[str, Any]  # plain values, one line of the manifest
Place = tuple[str, int]  # of a frame in a video: the beginning of its name, and its number


def record_of(pair: Sample) -> Record | None:
    """The record of a propagated pair on disk; None if it is missing or incomplete."""
    note = read_note(pair.label_path, PAIR_NOTE) if pair.label_path and pair.label_path.is_file() else None
    return json.loads(note) if note and pair.image_path.is_file() else None


def without_frames_of(propagated: Iterable[Sample], held_out: Iterable[str]) -> list[Sample]:
    """Those `propagated` pairs that do not show the same moment of the same video as a frame in `held_out`.

    Frames whose names, including the folder, differ only in the number are assumed to be of one video.
    """
    places = {place for name in held_out if (place := _place(name))}
    videos = {start for start, _ in places}
    return [pair for pair in propagated if _start(pair) not in videos or _place_of(pair) not in places]


def _start(pair: Sample) -> str | None:
    # From the name, since most pairs are of other videos and their files need not be opened.
    place = _place(_labelled_and_step(pair.name)[0])
    return place[0] if place else None


def _place_of(pair: Sample) -> Place | None:
    labelled, step = _labelled_and_step(pair.name)
    record = record_of(pair) if step else None
    place = _place(labelled)
    return (place[0], place[1] + step * (record["stride"] if record else 1)) if place else None


def _labelled_and_step(name: str) -> tuple[str, int]:
    """The labelled frame and step from which `Frames` made the name; the name and 0 if it is the frame's own number."""
    parts = re.fullmatch(r"(.*)_([+-]\d+)", name, re.DOTALL)
    return (parts[1], int(parts[2])) if parts else (name, 0)


def _place(name: str) -> Place | None:
    parts = re.fullmatch(r"(.*?)(\d+)", compose(name), re.DOTALL)
    return (parts[1], int(parts[2])) if parts else None
