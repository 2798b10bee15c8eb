"""Draw streets and write them as a data set: python -m datasets.synthetic --root DIR."""

from __future__ import annotations

from datasets.synthetic.settings import StreetsConfig
from utils.flags import parse_command_line

if __name__ == "__main__":
    CONFIG = parse_command_line(StreetsConfig)  # before heavy imports, so that --help answers at once

import time
from pathlib import Path

from datasets.synthetic.write import write_streets
from utils.command import run_command


def main(config: StreetsConfig) -> int:
    """Write the set, or report that it exists."""
    data, start = config.data, time.perf_counter()
    height, width = parse_size(data.size)
    written = write_streets(
        Path(data.root),
        num_train=data.num_train,
        num_val=data.num_val,
        num_test=data.num_test,
        frames_per_sequence=data.frames_per_sequence,
        height=height,
        width=width,
        seed=data.seed,
        with_flow=data.with_flow,
        num_workers=config.device.num_workers,
    )
    took = f"written in {time.perf_counter() - start:.0f} s" if written else "already there, with the same parameters"
    print(f"streets at {data.root}: {took}.")
    return 0


def parse_size(text: str) -> tuple[int, int]:
    """Height and width from text like 240x320."""
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise ValueError(f"--size must be HEIGHTxWIDTH like 240x320, got {text!r}.")
    return int(height), int(width)


if __name__ == "__main__":
    run_command(main, CONFIG)
