"""Frames of the video around labelled ones: those with propagated labels, and the true ones."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from config import DataConfig
from datasets.files import Sample, find_samples, normalize_unicode, samples_in
from datasets.specs.spec import DatasetSpec, Frames, Layout
from utils.distributed import find_processes
from utils.images import read_note
from utils.text import counted

SCENE_FLOW_REACH = 10  # frames on either side of a labelled one in KITTI's multi-view extension
PAIR_NOTE = "kerbline-pair"  # inside the label file, which is written last: the pair's record

Record = dict[str, Any]  # plain values, one line of the manifest


def samples_of_video(data: DataConfig, spec: DatasetSpec, root: Path, samples: list[Sample]) -> list[Sample]:
    """What `--maxSkip` and `--scf` add, without validation images; the main process prints how many frames that is."""
    if data.propagated_dir and not data.maxSkip:
        raise ValueError("--propagated_dir needs --maxSkip, the steps to use.")
    if (data.maxSkip or data.scf) and not (data.class_uniform_pct and data.max_cu_epoch):
        raise ValueError("--maxSkip and --scf need class-uniform sampling (--class_uniform_pct, --max_cu_epoch).")
    found: list[Sample] = []
    if data.maxSkip:
        around, place = [(-step, step) for step in range(1, data.maxSkip + 1)], Path(data.propagated_dir or root)
        found += find_labelled_frames(spec, spec.propagated, place, samples, around, f"--maxSkip {data.maxSkip}")
    if data.scf:
        steps = [step for step in range(-SCENE_FLOW_REACH, SCENE_FLOW_REACH + 1) if step]
        found += find_labelled_frames(spec, spec.scene_flow, root, samples, [steps], "--scf")
    if not found:
        return []
    try:
        held_out = {sample.name for sample in find_samples(spec, root, "val", data.cv, need_labels=False)}
    except FileNotFoundError:  # reported by validation, if it is needed
        held_out = set()
    kept = without_frames_of(found, held_out - {sample.name for sample in samples})
    if find_processes().is_main:
        skipped = f"; {len(found) - len(kept)} skipped: validation images show the same moments"
        told = f"{counted(len(kept), 'propagated frame')} for {counted(len(samples), 'training image')}"
        tqdm.write(told + skipped * (len(kept) < len(found)), file=sys.stderr)
    return sorted(kept)


def find_labelled_frames(
    spec: DatasetSpec, frames: Frames | None, root: Path, samples: Sequence[Sample],
    steps: Sequence[Sequence[int]], flag: str,
) -> list[Sample]:  # fmt: skip
    """The frames with labels below `root` around `samples`, sorted; there must be some for each group of `steps`.

    Raises ValueError if the set declares none, FileNotFoundError if none are found, or one of them has no label file.
    """
    if frames is None:
        raise ValueError(f"{flag}: {spec.name} declares no such frames.")
    there = frames_by_name(spec, frames, root)
    found: list[Sample] = []
    for group in steps:
        near = [frame for s in samples for step in group if (frame := find_frame(frames, there, s.name, step))]
        if not near:
            names = " or ".join(frames.name_of(samples[0].name, step) for step in (group[0], group[-1]))
            folders = [str(root / layout.image_dir.format(folder=f)) for layout, f in _places(spec, frames)]
            looked = " or ".join(dict.fromkeys(folders))
            raise FileNotFoundError(f"{flag}: no propagated frames like {names} in {looked}.")
        found += near
    lonely = next((frame for frame in found if frame.label_path is None), None)
    if lonely is not None:
        raise FileNotFoundError(f"{lonely.image_path} is a propagated frame without a label file.")
    return sorted(found)


def pair_to_write(spec: DatasetSpec, root: Path, labelled: Sample, step: int, propagated_root: Path) -> Sample:
    """The files in which training looks for the frame `step` after `labelled`, which is below `root`."""
    assert spec.propagated is not None, f"{spec.name}: a set with video has propagated frames"
    places = [(root / layout.image_dir.format(folder=f), f) for layout, f in _places(spec, Frames(spec.layouts))]
    folder = next((f for image_dir, f in places if labelled.image_path.is_relative_to(image_dir)), None)
    assert folder is not None, f"{labelled.image_path}: labels are propagated from images of train and val"
    layout, name = spec.propagated.layouts[0], spec.propagated.name_of(labelled.name, step)
    assert layout.label_dir is not None, f"{spec.name}: propagated frames have labels"
    file = labelled.image_path.name.lower()
    suffix = next((s for s in layout.image_suffixes if file.endswith(s.lower())), layout.image_suffixes[0])
    image_path = propagated_root / layout.image_dir.format(folder=folder) / f"{name}{suffix}"
    label_path = propagated_root / layout.label_dir.format(folder=folder) / f"{name}{layout.label_suffixes[0]}"
    return Sample(name, image_path, label_path, layout.masks)


def record_of(pair: Sample) -> Record | None:
    """The record of a propagated pair on disk; None if it is missing or incomplete."""
    return read_record(pair.label_path) if pair.label_path and pair.image_path.is_file() else None


def read_record(label_path: Path) -> Record | None:
    """The record in the label file of a propagated pair; None if it is missing, or holds none or another's."""
    try:
        record = json.loads(read_note(label_path, PAIR_NOTE) or "null")
    except (ValueError, RecursionError):
        return None
    is_ours = isinstance(record, dict) and isinstance(record.get("image"), str)
    return record if is_ours and isinstance(record.get("stride", 1), int) else None


def without_frames_of(propagated: Iterable[Sample], held_out: Iterable[str]) -> list[Sample]:
    """Those `propagated` frames that do not show the same moment of the same video as a frame in `held_out`.

    Frames whose names, including the folder, differ only in the number are assumed to be of one video.
    """
    moments = {moment for name in held_out if (moment := _moment(name))}
    videos = {video for video, _ in moments}
    kept = []
    for sample in propagated:
        moment = _moment(sample.name)
        # Most frames are of other videos; their files need not be opened for the stride.
        if moment and moment[0] in videos:
            moment = _moment(sample.name, (record_of(sample) or {}).get("stride", 1))
        if moment not in moments:
            kept.append(sample)
    return kept


def _moment(name: str, stride: int = 1) -> tuple[str, int] | None:
    """Video and frame number, if `name` ends in a number, or in the number of a labelled frame and a step from it."""
    parts = re.fullmatch(r"(.*?)(\d+)(?:_([+-]\d+))?", normalize_unicode(name), re.DOTALL)
    return (parts[1], int(parts[2]) + stride * int(parts[3] or 0)) if parts else None


def _places(spec: DatasetSpec, frames: Frames) -> list[tuple[Layout, str]]:
    """Where frames around labelled images may lie: a layout, and a folder of training or validation."""
    folders = [f for split in ("trainval", "train", "val") for f in spec.splits.get(split, ())]
    return [(layout, folder) for layout in frames.layouts for folder in dict.fromkeys(folders)]


def frames_by_name(spec: DatasetSpec, frames: Frames, root: Path) -> dict[str, Sample]:
    """The frames in the folders of training and validation; of two with one name, that of the first layout."""
    found = [frame for layout, folder in _places(spec, frames) for frame in samples_in(layout, root, folder)]
    return {normalize_unicode(frame.name): frame for frame in reversed(found)}


def find_frame(frames: Frames, there: Mapping[str, Sample], labelled: str, step: int) -> Sample | None:
    """The frame `step` after the one named `labelled`: before 100 comes 099 or 99, but before 0100 only 0099.

    there: from `frames_by_name`.
    """
    name = normalize_unicode(frames.name_of(labelled, step))
    if name in there or re.search(r"(?<!\d)0\d*$", labelled):
        return there.get(name)
    return there.get(re.sub(r"(?<!\d)0+(?=\d+$)", "", name))
