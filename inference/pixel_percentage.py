"""Pixels of each class in colour masks and id maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.files import files_below
from datasets.labels import UNKNOWN_ID, pack_colors, read_label_file, train_ids, unpack_color
from datasets.legend import percentages
from datasets.specs.spec import COLORS, EITHER, IDS, Color, DatasetSpec
from inference.writers import KINDS, MASK_SIZE_NOTE, SOURCE_NOTE
from utils.files import natural_order
from utils.images import IGNORE_COLOR, IMAGE_SUFFIXES, read_note, read_palette

SHARES_TABLE, SHARES_PICTURE = "class_shares.csv", "class_shares.png"  # over the frames of a folder or of a video






# What a pixel counts as: its train id, None for an unknown value; and for what has no class, its value in words.
Counts = Counter[tuple[int | None, str]]

# Files that Cityscapes has for one image; the first that exists is counted. Others distinguish instances.
CITYSCAPES_KINDS = ("labelIds", "labelTrainIds", "color")

# Values without a class that are listed one by one; photos have thousands.
MOST_LISTED = 10


@dataclass(frozen=True)
class Row:
    """One line of the table. train_id: `ignore_label` for values declared as no class, None for unknown ones."""

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
    names = [name for name in files_below(path) if name.lower().endswith(IMAGE_SUFFIXES)]
    names = [name for name in sorted(names, key=natural_order) if not name.endswith(SHARES_PICTURE)]
    found = [path / name for name in names if (path / name).is_file()]
    there = set(found)
    files = [p for p in found if not _shows_again(p, there)]
    if not files:
        raise ValueError(f"{path} contains no images ({', '.join(IMAGE_SUFFIXES)}).")
    return files


def count_file(path: Path, spec: DatasetSpec, ids: str) -> Counts:
    """The pixels of each class in one mask, read as the data set's own label files are.

    ids: what one channel holds: `label` or `train` ids; `auto`: train ids if the file name says so, else label ids.
    Raises the errors of `read_label_file`.
    """
    auto = ids == "auto"
    if auto:
        ids = "train" if "trainids" in path.stem.lower() else "label"
    is_result = read_note(path, SOURCE_NOTE) is not None
    pixels = _read(path, spec, may_be_colors=auto and ids == "label" and not is_result)
    size = read_note(path, MASK_SIZE_NOTE)
    if size is not None:  # the rest is legend
        width, height = (int(side) for side in size.split("x"))
        pixels = pixels[:height, :width]
    train_id_of: Mapping[Any, int]
    named: list[tuple[Any, str]]
    if pixels.ndim == 3:
        # Of the two colours that a class may have, results show one and label files hold the other.
        shown = {color: i for i, color in enumerate(spec.palette)}
        train_id_of = {IGNORE_COLOR: spec.ignore_label} | shown if is_result else shown | spec.train_id_of_color()
        values, numbers = np.unique(pack_colors(pixels), return_counts=True)
        named = [(unpack_color(value), f"colour {unpack_color(value)}") for value in values.tolist()]
    else:
        of_train_id = {i: i for i in (*range(spec.num_classes), spec.ignore_label)}
        train_id_of = spec.train_id_of_label_id() if ids == "label" else of_train_id
        values, numbers = np.unique(pixels, return_counts=True)
        named = [(value, f"id {value}") for value in values.tolist()]
    counts: Counts = Counter()
    for (value, text), number in zip(named, numbers.tolist(), strict=True):
        train_id = train_id_of.get(value)
        is_class = train_id is not None and train_id != spec.ignore_label
        counts[train_id, "" if is_class else f"no class: {text}"] += number
    return counts


def rows(counts: Counts, spec: DatasetSpec) -> list[Row]:
    """The table: every class of the data set in train id order, then what has no class, the largest first."""
    others = sorted(((*key, n) for key, n in counts.items() if key[1]), key=lambda item: -item[2])
    listed, rest = others[:MOST_LISTED], others[MOST_LISTED:]
    if rest:
        train_id = None if any(i is None for i, _, _ in rest) else spec.ignore_label
        listed.append((train_id, f"no class: {len(rest)} more", sum(n for _, _, n in rest)))
    listed = [(i, name, counts[i, ""]) for i, name in enumerate(spec.class_names)] + listed
    colors = [*spec.palette, *[(255, 255, 255)] * (len(listed) - spec.num_classes)]
    shares = percentages([n for _, _, n in listed])
    return [
        Row(name, train_id, color, pixels, percent)
        for (train_id, name, pixels), color, percent in zip(listed, colors, shares, strict=True)
    ]


def _read(path: Path, spec: DatasetSpec, *, may_be_colors: bool) -> NDArray[np.integer]:
    """Ids [H, W] or colours [H, W, 3] of a mask."""
    pixels = read_label_file(path, EITHER)
    if pixels.ndim == 3 or not may_be_colors or any(layout.masks != COLORS for layout in spec.layouts):
        return pixels
    # Predictions for a set of colours are grey files of ids; but a grey file may also show grey colours of classes.
    colors = read_label_file(path, COLORS)
    is_known = [(train_ids(*read, spec) != UNKNOWN_ID).all() for read in ((colors, COLORS), (pixels, IDS))]
    return pixels if is_known == [False, True] and not read_palette(path) else colors


def _shows_again(path: Path, there: set[Path]) -> bool:
    stem, _, kind = path.stem.rpartition("_")
    if stem.endswith(("_gtFine", "_gtCoarse")):
        better = CITYSCAPES_KINDS[: CITYSCAPES_KINDS.index(kind)] if kind in CITYSCAPES_KINDS else CITYSCAPES_KINDS
    else:
        better = ("ids",) if kind in KINDS and kind != "ids" else ()
    return any(path.with_name(f"{stem}_{other}.png") in there for other in better)
