"""Draw streets and write them as a data set: python -m datasets.streets --root DIR."""

from __future__ import annotations

from datasets.settings import StreetsConfig
from utils.flags import parse_command_line

if __name__ == "__main__":
    CONFIG = parse_command_line(StreetsConfig)  # before heavy imports, so that --help answers at once

import time
from dataclasses import asdict
from pathlib import Path

from datasets.streets.write import write_streets
from utils.command import run_command


def main(config: StreetsConfig) -> int:
    """Write the set, or report that it exists."""
    values, start = asdict(config.data), time.perf_counter()
    root, size = values.pop("root"), values.pop("size")
    height, _, width = size.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise ValueError(f"--size must be HEIGHTxWIDTH like 240x320, got {size!r}.")
    written = write_streets(Path(root), height=int(height), width=int(width), **values)
    took = f"written in {time.perf_counter() - start:.0f} s" if written else "already there, with the same parameters"
    print(f"streets at {root}: {took}.")
    return 0


if __name__ == "__main__":
    run_command(main, CONFIG)
