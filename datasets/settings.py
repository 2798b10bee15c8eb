"""The settings of `python -m datasets.verify`, `datasets.show` and `datasets.streets`; see config.py."""

from __future__ import annotations

from dataclasses import dataclass

from config import CV, DATASET_CHOICES, DATASET_DIR, LARGEST_SIDE, NUM_WORKERS, AugmentConfig, ErrorConfig
from utils.flags import NOT_NEGATIVE, POSITIVE, option


@dataclass(frozen=True, kw_only=True)
class SetConfig:
    """the data"""

    dataset: str = option("", f"data set: {DATASET_CHOICES}", required=True)
    dataset_dir: str | None = option(None, DATASET_DIR)
    split: str | None = option(None, "one split; default: all splits present, except video")
    cv: int | None = option(None, CV)


@dataclass(frozen=True, kw_only=True)
class VerifyOutputConfig:
    """results"""

    json: str | None = option(None, "also write everything that was found to this JSON file")
    plot: str | None = option(None, "also plot the classes' shares of the pixels to this image")
    num_workers: int | None = option(None, NUM_WORKERS, must_be=POSITIVE)


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Check every file of a data set: python -m datasets.verify --dataset NAME. Exit code 0 if no problem is found."""

    data: SetConfig
    output: VerifyOutputConfig
    errors: ErrorConfig


@dataclass(frozen=True, kw_only=True)
class ShowDataConfig(SetConfig):
    """the data"""

    split: str | None = option("train", "split to take the crops from")


@dataclass(frozen=True, kw_only=True)
class ShowAugmentConfig(AugmentConfig):
    """augmentation"""

    crop_size: int = option(
        0,
        "side of the square crop, in pixels; default: as in training, or the shorter side of smaller images",
        must_be=NOT_NEGATIVE,
        at_most=LARGEST_SIDE,
    )


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


@dataclass(frozen=True, kw_only=True)
class StreetsSetConfig:
    """the set"""

    root: str = option("", "folder to write to; drawn streets in it are replaced, anything else stays", required=True)
    size: str = option("240x320", "image size, HEIGHTxWIDTH")
    num_train: int = option(240, "training images", must_be=NOT_NEGATIVE)
    num_val: int = option(39, "validation images", must_be=NOT_NEGATIVE)
    num_test: int = option(39, "test images", must_be=NOT_NEGATIVE)
    frames_per_sequence: int = option(3, "frames per street", must_be=POSITIVE)
    seed: int = option(0, "seed; changes the streets", must_be=NOT_NEGATIVE)
    with_flow: bool = option(False, "also write optical flow and visibility")
    num_workers: int | None = option(None, NUM_WORKERS, must_be=POSITIVE)


@dataclass(frozen=True, kw_only=True)
class StreetsConfig:
    """Draw streets and write them as a data set: python -m datasets.streets --root DIR."""

    data: StreetsSetConfig
    errors: ErrorConfig
