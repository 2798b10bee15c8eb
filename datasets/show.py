"""Write a contact sheet of augmented crops with their labels: python -m datasets.show --dataset NAME."""

from __future__ import annotations

from config import AugmentConfig
from datasets.settings import ShowConfig
from utils.flags import parse_command_line

if __name__ == "__main__":
    CONFIG = parse_command_line(ShowConfig)  # before heavy imports, so that --help answers at once

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from datasets.files import Sample, dataset_root, find_samples, load_spec
from datasets.labels import read_mask
from datasets.legend import class_shares, with_legend
from datasets.segmentation import load_sample
from datasets.specs.spec import DatasetSpec
from datasets.survey import palette_doubt
from transforms.presets import TrainTransform, train_transform
from utils.command import run_command
from utils.files import writable_file
from utils.images import Uint8Array, blend, colorize, read_image, shrunk, side_by_side, write_image
from utils.text import counted, escape

LARGEST_SIDE = 360  # of a crop on the sheet, in pixels
GAP = 12  # between crops, in pixels


def main(config: ShowConfig) -> int:
    """Write the sheet: each crop next to its labels, and a legend of the classes that occur."""
    sheet = config.sheet
    writable_file(Path(sheet.out), "--out", (".png", ".jpg", ".jpeg"))
    spec = load_spec(config.data.dataset, config.data.dataset_dir)
    split = config.data.split or "train"
    pairs = find_samples(spec, dataset_root(spec, config.data.dataset_dir), split, config.data.cv)
    if any(pair.label_path is None for pair in pairs):
        raise ValueError(f"--split {split}: this split of {spec.name} has no labels to show.")
    order = np.random.default_rng(sheet.seed).permutation(len(pairs))
    shown = [pairs[i] for i in order[: sheet.num]]
    notice_palette(shown, spec)
    transform = train_transform(fitted(config.augment, shown), spec.ignore_label)
    crops = [augmented(shown[i % len(shown)], spec, transform, (sheet.seed, i)) for i in range(sheet.num)]
    cells = [on_sheet(image, labels, spec) for image, labels in crops]
    shares = class_shares(np.concatenate([labels.ravel() for _, labels in crops]), spec.classes)
    write_image(Path(sheet.out), with_legend(grid(cells, sheet.columns), shares))
    crops_of = f"{counted(sheet.num, 'crop')} of {counted(len(pairs), 'image')}"
    print(f"wrote {escape(sheet.out)}: {crops_of} of {spec.title}, {split}")
    return 0


def notice_palette(pairs: Sequence[Sample], spec: DatasetSpec) -> None:
    """Say of the first label file of which it is so that its palette contradicts how its values are read."""
    for pair in pairs:
        if doubt := palette_doubt(pair, read_mask(pair), spec):
            print(escape(f"notice: {pair.label_path}: {doubt}"), file=sys.stderr)
            return


def fitted(augment: AugmentConfig, pairs: Sequence[Sample]) -> AugmentConfig:
    """`augment`; if it has no crop size, with that of training, but no larger than the largest image of `pairs`."""
    if augment.crop_size:
        return augment
    shorter = augment.pre_size or max(min(read_image(pair.image_path).shape[:2]) for pair in pairs)
    return replace(augment, crop_size=min(shorter, AugmentConfig().crop_size))


def augmented(
    pair: Sample, spec: DatasetSpec, transform: TrainTransform, seed: tuple[int, int]
) -> tuple[Uint8Array, Uint8Array]:
    """One crop of `pair`: image [h, w, 3] and train ids [h, w]."""
    image, labels = load_sample(pair, spec)
    return transform(image, labels, None, np.random.default_rng(seed))


def on_sheet(image: Uint8Array, labels: Uint8Array, spec: DatasetSpec) -> Uint8Array:
    """The crop, its labels, and the overlay of both, side by side and small enough for a sheet."""
    image = shrunk(image, LARGEST_SIDE)
    labels = shrunk(labels, LARGEST_SIDE, cv2.INTER_NEAREST_EXACT)
    return side_by_side([image, colorize(labels, spec.palette), blend(image, labels, spec.palette)], gap=2)


def grid(cells: list[Uint8Array], columns: int) -> Uint8Array:
    """Images of one size in rows of `columns`, on white."""
    height, width = cells[0].shape[:2]
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    sheet = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for place, cell in enumerate(cells):
        row, column = divmod(place, columns)
        top, left = row * (height + GAP), column * (width + GAP)
        sheet[top : top + height, left : left + width] = cell
    return sheet


if __name__ == "__main__":
    run_command(main, CONFIG)
