"""Draw streets and write them as a data set: python -m datasets.streets --root DIR."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from config import NUM_WORKERS, ErrorConfig
from utils.flags import NOT_NEGATIVE, POSITIVE, option, parse_command_line


@dataclass(frozen=True, kw_only=True)
class StreetsSetConfig:
    """the set"""

    root: str = option("", "new or empty folder to write to", required=True)
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


if __name__ == "__main__":
    CONFIG = parse_command_line(StreetsConfig)  # before heavy imports, so that --help answers at once

from pathlib import Path

from datasets.streets.write import write_streets
from utils.command import run_command


def main(config: StreetsConfig) -> int:
    """Write the set, or report that it exists."""
    values = asdict(config.data)
    root, size = values.pop("root"), values.pop("size")
    height, _, width = size.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise ValueError(f"--size must be HEIGHTxWIDTH like 240x320, got {size!r}.")
    written = write_streets(Path(root), height=int(height), width=int(width), **values)
    print(f"streets at {root}: {'written' if written else 'already there, with the same parameters'}.")
    return 0


if __name__ == "__main__":
    run_command(main, CONFIG)
