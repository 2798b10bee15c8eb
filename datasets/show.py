"""Write a contact sheet of augmented crops with their labels: python -m datasets.show --dataset NAME."""

from __future__ import annotations

from dataclasses import dataclass

from config import AugmentConfig, ErrorConfig, SetConfig
from utils.flags import NOT_NEGATIVE, POSITIVE, option, parse_command_line


@dataclass(frozen=True, kw_only=True)
class ShowDataConfig(SetConfig):
    """the data"""

    split: str | None = option("train", "split to take the crops from")


@dataclass(frozen=True, kw_only=True)
class SheetConfig:
    """the sheet"""

    out: str = option("crops.png", "image to write")
    num: int = option(12, "number of crops", must_be=POSITIVE)
    columns: int = option(3, "crops per row", must_be=POSITIVE)
    seed: int = option(0, "seed; changes the crops", must_be=NOT_NEGATIVE)


@dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """Write a sheet of augmented crops with their labels: python -m datasets.show --dataset NAME."""

    data: ShowDataConfig
    augment: AugmentConfig
    sheet: SheetConfig
    errors: ErrorConfig


if __name__ == "__main__":
    CONFIG = parse_command_line(ShowConfig)  # before heavy imports, so that --help answers at once

from pathlib import Path

import cv2
import numpy as np

from datasets.files import dataset_root, find_samples, load_spec
from datasets.legend import counted_shares, pixels_per_class, with_legend
from datasets.segmentation import load_sample
from datasets.specs.spec import DatasetSpec
from transforms.augmentation import TrainTransform
from utils.command import run_command
from utils.files import writable_file
from utils.images import Uint8Array, colorize, shrink, side_by_side, tint, write_image
from utils.text import counted, escape

LARGEST_CROP = 360  # longer side of a crop on the sheet, in pixels
CELL_GAP = 12  # between crops, in pixels


def main(config: ShowConfig) -> int:
    """Write the sheet: each crop next to its labels, and a legend of the classes that occur."""
    sheet, split = config.sheet, config.data.split or "train"
    writable_file(Path(sheet.out), "--out", (".png", ".jpg", ".jpeg"))
    spec = load_spec(config.data.dataset, config.data.dataset_dir)
    samples = find_samples(spec, dataset_root(spec.name, config.data.dataset_dir), split, config.data.cv)
    if any(sample.label_path is None for sample in samples):
        raise ValueError(f"--split {split}: this split of {spec.name} has no labels to show.")
    chosen = [samples[i] for i in np.random.default_rng(sheet.seed).permutation(len(samples))[: sheet.num]]
    transform = TrainTransform(config.augment, spec.ignore_label)
    crops = [
        transform(*load_sample(chosen[i % len(chosen)], spec), None, np.random.default_rng((sheet.seed, i)))
        for i in range(sheet.num)
    ]
    pixels = pixels_per_class(np.stack([labels for _, labels in crops]), spec.num_classes)
    picture = arrange([draw_crop(image, labels, spec) for image, labels in crops], sheet.columns)
    write_image(Path(sheet.out), with_legend(picture, counted_shares(pixels, spec.classes)))
    print(f"wrote {escape(sheet.out)}: {counted(sheet.num, 'crop')} of {spec.title}, {split}")
    return 0


def draw_crop(image: Uint8Array, labels: Uint8Array, spec: DatasetSpec) -> Uint8Array:
    """The crop, its labels, and the overlay of both, side by side and small enough for a sheet."""
    image = shrink(image, LARGEST_CROP)
    labels = shrink(labels, LARGEST_CROP, cv2.INTER_NEAREST_EXACT)
    return side_by_side([image, colorize(labels, spec.palette), tint(image, labels, spec.palette)], gap=2)


def arrange(cells: list[Uint8Array], columns: int) -> Uint8Array:
    """Images of one size in rows of `columns`, on white."""
    columns, (height, width, _) = min(columns, len(cells)), cells[0].shape
    sheet = np.full((-(-len(cells) // columns), height + CELL_GAP, columns, width + CELL_GAP, 3), 255, np.uint8)
    for i, cell in enumerate(cells):
        sheet[i // columns, :height, i % columns, :width] = cell
    sheet = sheet.reshape(sheet.shape[0] * sheet.shape[1], -1, 3)
    return np.ascontiguousarray(sheet[:-CELL_GAP, :-CELL_GAP])


if __name__ == "__main__":
    run_command(main, CONFIG)
