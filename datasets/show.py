"""Write a contact sheet of augmented crops with their labels: python -m datasets.show --dataset NAME."""

from __future__ import annotations

from dataclasses import dataclass, replace

from config import LARGEST_SIDE, AugmentConfig, ErrorConfig, SetConfig
from utils.flags import NOT_NEGATIVE, POSITIVE, option, parse_command_line


@dataclass(frozen=True, kw_only=True)
class ShowDataConfig(SetConfig):
    """the data"""

    split: str | None = option("train", "split to take the crops from")


@dataclass(frozen=True, kw_only=True)
class ShowAugmentConfig(AugmentConfig):
    """augmentation"""

    crop_size: int = option(
        0, "side of the square crop; default: as in training, or the shorter side of smaller images",
        must_be=NOT_NEGATIVE, at_most=LARGEST_SIDE,
    )  # fmt: skip


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
    augment: ShowAugmentConfig
    sheet: SheetConfig
    errors: ErrorConfig


if __name__ == "__main__":
    CONFIG = parse_command_line(ShowConfig)  # before heavy imports, so that --help answers at once

from pathlib import Path

import numpy as np

from datasets.files import dataset_root, find_samples, load_spec
from datasets.legend import draw_sheet
from datasets.segmentation import load_sample
from transforms.augmentation import TrainTransform
from utils.command import run_command
from utils.files import writable_file
from utils.images import read_image, write_image
from utils.text import counted, escape


def main(config: ShowConfig) -> int:
    """Write the sheet: each crop next to its labels, and a legend of the classes that occur."""
    sheet, split = config.sheet, config.data.split or "train"
    writable_file(Path(sheet.out), "--out", (".png", ".jpg", ".jpeg"))
    spec = load_spec(config.data.dataset, config.data.dataset_dir)
    samples = find_samples(spec, dataset_root(spec.name, config.data.dataset_dir), split, config.data.cv)
    if any(sample.label_path is None for sample in samples):
        raise ValueError(f"--split {split}: this split of {spec.name} has no labels to show.")
    chosen = [samples[i] for i in np.random.default_rng(sheet.seed).permutation(len(samples))[: sheet.num]]
    augment = config.augment
    if not augment.crop_size:
        shorter = augment.pre_size or max(min(read_image(sample.image_path).shape[:2]) for sample in chosen)
        augment = replace(augment, crop_size=min(shorter, AugmentConfig.crop_size))
    transform = TrainTransform(augment, spec.ignore_label)
    crops = [
        transform(*load_sample(chosen[i % len(chosen)], spec), None, np.random.default_rng((sheet.seed, i)))
        for i in range(sheet.num)
    ]
    write_image(Path(sheet.out), draw_sheet(crops, spec.classes, sheet.columns))
    print(f"wrote {escape(sheet.out)}: {counted(sheet.num, 'crop')} of {spec.title}, {split}")
    return 0


if __name__ == "__main__":
    run_command(main, CONFIG)
