"""`python -m datasets.synthetic --root DIR`: draw streets and write them as a data set."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def parse_size(text: str) -> tuple[int, int]:
    """Height and width from text like 240x320."""
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise ValueError(f"--size must be HEIGHTxWIDTH like 240x320, got {text!r}.")
    return int(height), int(width)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m datasets.synthetic", description=__doc__)
    p.add_argument("--root", type=Path, required=True, help="folder to write; replaced only if it holds drawn streets")
    p.add_argument("--size", default="240x320", help="image size, HEIGHTxWIDTH (default: %(default)s)")
    p.add_argument("--num_train", type=int, default=240, help="training images (default: %(default)s)")
    p.add_argument("--num_val", type=int, default=39, help="validation images (default: %(default)s)")
    p.add_argument("--num_test", type=int, default=39, help="test images (default: %(default)s)")
    p.add_argument("--frames_per_sequence", type=int, default=3, help="frames per street (default: %(default)s)")
    p.add_argument("--seed", type=int, default=0, help="another seed, other streets (default: %(default)s)")
    p.add_argument("--with_flow", action="store_true", help="also write optical flow and visibility")
    p.add_argument("--num_workers", type=int, help="processes (default: one per core)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Write the set; returns the exit status."""
    flags = parser().parse_args(argv)
    from datasets.synthetic.write import write_streets  # after the flags, so that --help answers at once

    start = time.perf_counter()
    try:
        height, width = parse_size(flags.size)
        written = write_streets(
            flags.root, num_train=flags.num_train, num_val=flags.num_val, num_test=flags.num_test,
            frames_per_sequence=flags.frames_per_sequence, height=height, width=width, seed=flags.seed,
            with_flow=flags.with_flow, num_workers=flags.num_workers,
        )  # fmt: skip
    except (ValueError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    took = f"written in {time.perf_counter() - start:.0f} s" if written else "there already, with the same parameters"
    print(f"streets at {flags.root}: {took}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
