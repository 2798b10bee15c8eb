"""The settings of `python -m datasets.synthetic`; see config.py. Their values are checked in write.py."""

from __future__ import annotations

from dataclasses import dataclass

from config import NUM_WORKERS, ErrorConfig
from utils.flags import option


@dataclass(frozen=True, kw_only=True)
class StreetsSetConfig:
    """the set"""

    root: str = option("", "folder to write to; drawn streets in it are replaced, anything else stays", required=True)
    size: str = option("240x320", "image size, HEIGHTxWIDTH")
    num_train: int = option(240, "training images")
    num_val: int = option(39, "validation images")
    num_test: int = option(39, "test images")
    frames_per_sequence: int = option(3, "frames per street")
    seed: int = option(0, "seed; changes the streets")
    with_flow: bool = option(False, "also write optical flow and visibility")


@dataclass(frozen=True, kw_only=True)
class StreetsDeviceConfig:
    """the machine"""

    num_workers: int | None = option(None, NUM_WORKERS)


@dataclass(frozen=True, kw_only=True)
class StreetsConfig:
    """Draw streets and write them as a data set: python -m datasets.synthetic --root DIR."""

    data: StreetsSetConfig
    device: StreetsDeviceConfig
    errors: ErrorConfig
