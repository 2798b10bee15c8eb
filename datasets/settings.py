"""The settings of `python -m datasets.verify` and `datasets.show`; see config.py."""

from __future__ import annotations

from dataclasses import dataclass

from config import DATASET_CHOICES, LARGEST_SIDE, AugmentConfig
from utils.flags import NOT_NEGATIVE, POSITIVE, option


@dataclass(frozen=True, kw_only=True)
class SetConfig:
    """the data"""

    dataset: str = option("", f"data set: {DATASET_CHOICES}", required=True)
    dataset_dir: str | None = option(
        None, "its root folder; else the environment variable KERBLINE_<NAME>, else DATASET_ROOTS in config.py"
    )
    split: str | None = option(None, "one split; default: all that are there, without video")
    cv: int | None = option(None, "cross-validation fold; default: the official split, or fold 0 where there is none")


@dataclass(frozen=True, kw_only=True)
class VerifyOutputConfig:
    """results"""

    json: str | None = option(None, "also write all that was found to this JSON file")
    plot: str | None = option(None, "also draw the classes' shares of the pixels into this picture")
    num_workers: int | None = option(None, "processes; default: one per core of this process", must_be=POSITIVE)
    debug: bool = option(False, "show the traceback of an error")


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Look at every file of a data set: python -m datasets.verify --dataset NAME. Exit code 0 only if all is well."""

    data: SetConfig
    output: VerifyOutputConfig


@dataclass(frozen=True, kw_only=True)
class ShowDataConfig(SetConfig):
    """the data"""

    split: str | None = option("train", "split to take the crops from")


@dataclass(frozen=True, kw_only=True)
class ShowAugmentConfig(AugmentConfig):
    """augmentation"""

    crop_size: int = option(
        0,
        "side of the square crop, in pixels; default: that of training, or the shorter side of smaller pictures",
        must_be=NOT_NEGATIVE,
        at_most=LARGEST_SIDE,
    )


@dataclass(frozen=True, kw_only=True)
class SheetConfig:
    """the sheet"""

    out: str = option("crops.png", "picture to write")
    num: int = option(12, "number of crops", must_be=POSITIVE)
    columns: int = option(3, "crops in a row", must_be=POSITIVE)
    seed: int = option(0, "another seed, other crops", must_be=NOT_NEGATIVE)
    debug: bool = option(False, "show the traceback of an error")


@dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """Write a sheet of augmented crops with their labels: python -m datasets.show --dataset NAME."""

    data: ShowDataConfig
    augment: ShowAugmentConfig
    sheet: SheetConfig
