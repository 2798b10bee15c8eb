"""Pixels of each class in colour masks and id maps."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.spec import Color, DatasetSpec
from inference.shares import SHARES_PICTURE, percentages
from inference.writers import KINDS, MASK_SIZE_NOTE
from utils.images import IMAGE_SUFFIXES, read_colors_or_ids
from utils.noted_png import read_note

# What a pixel counts as: a train id, or for a pixel without a class, a description of its value.
Counts = Counter[int | str]

# Files that Cityscapes has for one image; the first that exists is counted. Others distinguish instances.
CITYSCAPES_KINDS = ("labelIds", "labelTrainIds", "color")

# Unknown colours listed one by one; photos and JPEG masks have thousands.
MOST_STRANGERS = 10


@dataclass(frozen=True)
class Row:
    """One line of the table. train_id: None for what has no class."""

    name: str
    train_id: int | None
    color: Color
    pixels: int
    percent: float


def mask_files(path: Path) -> list[Path]:
    """`path` itself, or the images in the folder `path` and its subfolders, sorted.

    Of the three results of a demo, and of Cityscapes' files of one image, only the ids are taken: the others show the
    same image. Raises FileNotFoundError or ValueError if there is nothing.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    if not path.is_dir():
        return [path]
    pictures = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
    found = [p for p in pictures if not p.name.startswith(".") and not p.name.endswith(SHARES_PICTURE)]
    there = set(found)
    files = [p for p in found if not _shows_again(p, there)]
    if not files:
        raise ValueError(f"{path} contains no images ({', '.join(IMAGE_SUFFIXES)}).")
    return files


def count_file(path: Path, spec: DatasetSpec, ids: str) -> Counts:
    """The pixels of each class in one mask.

    ids: what one channel holds: `label` or `train` ids; `auto`: train ids if the file name says so, else label ids.
    """
    pixels = _without_legend(path, read_colors_or_ids(path))
    if pixels.ndim == 3:
        return _count_colors(pixels, spec, labels=read_note(path, MASK_SIZE_NOTE) is None)
    if ids == "auto":
        ids = "train" if "trainids" in path.stem.lower() else "label"
    return _count_ids(pixels, spec, ids)


def rows(counts: Counts, spec: DatasetSpec) -> list[Row]:
    """The table: every class of the data set in train id order, then what has no class, the largest first."""
    strangers = sorted(((name, n) for name, n in counts.items() if isinstance(name, str)), key=lambda item: -item[1])
    listed, rest = strangers[:MOST_STRANGERS], strangers[MOST_STRANGERS:]
    if rest:
        listed.append((f"no class: {len(rest)} more", sum(n for _, n in rest)))
    pixels = [counts[train_id] for train_id in range(spec.num_classes)] + [n for _, n in listed]
    names = [*spec.class_names, *(name for name, _ in listed)]
    train_ids: list[int | None] = [*range(spec.num_classes), *(None for _ in listed)]
    colors = [*spec.palette, *((255, 255, 255) for _ in listed)]
    return [Row(*values) for values in zip(names, train_ids, colors, pixels, percentages(pixels), strict=True)]


def _count_colors(pixels: np.ndarray, spec: DatasetSpec, *, labels: bool) -> Counts:
    """labels: whether it may be a label file, in which a class may have other colours than in results."""
    packed = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    of_labels = {color: i for color, i in spec.train_id_of_color().items() if labels and i != spec.ignore_label}
    of_color = of_labels | {color: i for i, color in enumerate(spec.palette)}
    train_ids = {(r << 16) | (g << 8) | b: train_id for (r, g, b), train_id in of_color.items()}
    counts: Counts = Counter()
    for value, number in zip(*(found.tolist() for found in np.unique(packed, return_counts=True)), strict=True):
        rgb = f"no class: colour ({value >> 16}, {value >> 8 & 255}, {value & 255})"
        counts[train_ids.get(value, rgb)] += number
    return counts


def _count_ids(pixels: np.ndarray, spec: DatasetSpec, ids: str) -> Counts:
    table = spec.train_id_of_label_id() if ids == "label" else {i: i for i in range(spec.num_classes)}
    counts: Counts = Counter()
    for value, number in zip(*(found.tolist() for found in np.unique(pixels, return_counts=True)), strict=True):
        train_id = table.get(value, spec.ignore_label)
        counts[f"no class: id {value}" if train_id == spec.ignore_label else train_id] += number
    return counts


def _without_legend(path: Path, pixels: np.ndarray) -> np.ndarray:
    size = read_note(path, MASK_SIZE_NOTE)
    if size is None:
        return pixels
    width, height = (int(side) for side in size.split("x"))
    return pixels[:height, :width]


def _shows_again(path: Path, there: set[Path]) -> bool:
    stem, _, kind = path.stem.rpartition("_")
    if stem.endswith(("_gtFine", "_gtCoarse")):
        better = CITYSCAPES_KINDS[: CITYSCAPES_KINDS.index(kind)] if kind in CITYSCAPES_KINDS else CITYSCAPES_KINDS
    else:
        better = ("ids",) if kind in KINDS and kind != "ids" else ()
    return any(path.with_name(f"{stem}_{other}.png") in there for other in better)
