"""Frames of the video around labelled ones: those with propagated labels, and the true ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from datasets.index import Pair, label_file
from datasets.lists import unicode_forms
from datasets.spec import DatasetSpec, Frames, Layout

SCENE_FLOW_REACH = 10  # frames on either side of a labelled one in KITTI's multi-view extension


def find_propagated_pairs(
    spec: DatasetSpec, root: Path, pairs: Sequence[Pair], max_skip: int, propagated_root: Path | None = None
) -> list[Pair]:
    """The propagated frames around `pairs`, every step from 1 to `max_skip` either way, sorted.

    propagated_root: root of the propagated frames, if it is not `root`. Raises ValueError if the set declares none,
    FileNotFoundError, naming the places searched, if none are found for a step or one of them has no label file.
    """
    frames = _declared(spec.propagated, f"--maxSkip: {spec.name} has no video and so no propagated frames.")
    found: list[Pair] = []
    for step in range(1, max_skip + 1):
        found += _labelled_frames(spec, frames, propagated_root or root, pairs, (-step, step), f"--maxSkip {max_skip}")
    return sorted(found)


def find_scene_flow_pairs(spec: DatasetSpec, root: Path, pairs: Sequence[Pair]) -> list[Pair]:
    """The labelled frames of scene flow around `pairs`, sorted. Raises what `find_propagated_pairs` raises."""
    frames = _declared(spec.scene_flow, f"--scf: {spec.name} has no scene-flow frames; only kitti has.")
    steps = [step for step in range(-SCENE_FLOW_REACH, SCENE_FLOW_REACH + 1) if step]
    return sorted(_labelled_frames(spec, frames, root, pairs, steps, "--scf"))


def num_with_frames(spec: DatasetSpec, pairs: Sequence[Pair], propagated: Sequence[Pair], max_skip: int) -> int:
    """The number of `pairs` around which at least one frame was `propagated`, up to `max_skip` steps away."""
    frames = _declared(spec.propagated, f"{spec.name} has no propagated frames.")
    there, steps = {pair.name for pair in propagated}, [s for s in range(-max_skip, max_skip + 1) if s]
    return sum(any(name in there for step in steps for name in _names(frames, pair.name, step)) for pair in pairs)


def pair_to_write(spec: DatasetSpec, root: Path, pair: Pair, step: int, propagated_root: Path) -> Pair:
    """The files in which `find_propagated_pairs` looks for the frame `step` after `pair`, which lies below `root`.

    The image has the format of the labelled one. Raises ValueError if the set declares no propagated frames, or if
    training never looks for any around `pair`.
    """
    frames = _declared(spec.propagated, f"{spec.name} declares no propagated frames.")
    folder = next((f for f in _folders(spec) if _lies_in(spec, root, f, pair.image)), None)
    if folder is None:
        raise ValueError(f"{pair.image}: labels are propagated only from images of train and val.")
    layout, name = frames.layouts[0], frames.name_of(pair.name, step)
    assert layout.label_dir is not None, f"{spec.name}: propagated frames have labels"
    lower = pair.image.name.lower()
    suffix = next((s for s in layout.image_suffixes if lower.endswith(s.lower())), layout.image_suffixes[0])
    image_dir, label_dir = (
        propagated_root / part.format(folder=folder) for part in (layout.image_dir, layout.label_dir)
    )
    return Pair(name, image_dir / f"{name}{suffix}", label_dir / f"{name}{layout.label_suffixes[0]}", layout.masks)


def frames_around(spec: DatasetSpec, root: Path, pair: Pair, steps: Iterable[int]) -> dict[int, Path]:
    """The true frames of the video around a labelled one: step -> file, for the steps whose file exists.

    Raises ValueError if the set declares no video.
    """
    frames = _declared(spec.video, f"{spec.name} declares no video around its labelled frames.")
    return {step: found.image for step in steps if (found := _frame(spec, frames, root, pair, step))}


def _declared(frames: Frames | None, otherwise: str) -> Frames:
    if frames is None:
        raise ValueError(otherwise)
    return frames


def _labelled_frames(
    spec: DatasetSpec, frames: Frames, root: Path, pairs: Sequence[Pair], steps: Sequence[int], flag: str
) -> list[Pair]:
    found = [f for pair in pairs for step in steps if (f := _frame(spec, frames, root, pair, step))]
    if not found:
        names = " or ".join(frames.name_of(pairs[0].name, step) for step in (steps[0], steps[-1]))
        folders = " or ".join(str(root / layout.image_dir.format(folder=f)) for layout, f in _places(spec, frames))
        raise FileNotFoundError(
            f"{flag}: no propagated frames like {names} in {folders} around any image of the training split "
            "(--train_split)."
        )
    for pair in found:
        if pair.labels is None:
            raise FileNotFoundError(f"{pair.image} is a propagated frame without a label file.")
    return found


def _frame(spec: DatasetSpec, frames: Frames, root: Path, pair: Pair, step: int) -> Pair | None:
    """The frame `step` after `pair`, at the first place that has its image; None if there is none."""
    for name in _names(frames, pair.name, step):
        for layout, folder in _places(spec, frames):
            for image in _image_candidates(layout, root, folder, name):
                if image.is_file():
                    labels, masks = label_file(layout, root, folder, name)
                    return Pair(name, image, labels, masks)
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
