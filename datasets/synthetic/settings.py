"""The settings of `python -m datasets.synthetic`; see config.py. What a value may be, write.py checks."""

from __future__ import annotations

from dataclasses import dataclass

from utils.flags import option


@dataclass(frozen=True, kw_only=True)
class StreetsSetConfig:
    """the set"""

    root: str = option("", "folder to write; drawn streets there are replaced, anything else stays", required=True)
    size: str = option("240x320", "image size, HEIGHTxWIDTH")
    num_train: int = option(240, "training images")
    num_val: int = option(39, "validation images")
    num_test: int = option(39, "test images")
    frames_per_sequence: int = option(3, "frames per street")
    seed: int = option(0, "another seed, other streets")
    with_flow: bool = option(False, "also write optical flow and visibility")


@dataclass(frozen=True, kw_only=True)
class StreetsDeviceConfig:
    """the machine"""

    num_workers: int | None = option(None, "processes; default: one per core of this process")
    debug: bool = option(False, "show the traceback of an error")


@dataclass(frozen=True, kw_only=True)
class StreetsConfig:
    """Draw streets and write them as a data set: python -m datasets.synthetic --root DIR."""

    data: StreetsSetConfig
    device: StreetsDeviceConfig
