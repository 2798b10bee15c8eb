"""Shared by the benchmarks: images to measure on, a stopwatch, table rows, a description of the machine."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))  # makes the project importable

from datasets.streets.write import write_streets
from utils.images import read_image, write_image

Lap = tuple[float, float]  # milliseconds of wall time and of core time
TABLE_HEAD = "| ms | median | 10 % | 90 % | core time |\n|---|---|---|---|---|"


class Stopwatch:
    def __init__(self) -> None:
        self._mark = (time.perf_counter(), time.thread_time())

    def lap(self) -> Lap:
        """Milliseconds since the last lap."""
        now = (time.perf_counter(), time.thread_time())
        wall, core = (1000 * (new - old) for new, old in zip(now, self._mark, strict=True))
        self._mark = now
        return wall, core


def row(name: str, laps: Sequence[Lap]) -> str:
    low, middle, high = np.percentile([wall for wall, _ in laps], (10, 50, 90))
    return f"| {name} | {middle:.2f} | {low:.2f} | {high:.2f} | {np.median([core for _, core in laps]):.2f} |"


def draw_streets(root: Path, count: int) -> Path:
    """Streets at 2048x1024, their images as PNG."""
    write_streets(root, num_train=count, num_val=0, num_test=0, frames_per_sequence=1, height=1024, width=2048)
    for path in (root / "train").glob("*.jpg"):
        write_image(path.with_suffix(".png"), read_image(path))
        path.unlink()
    return root


def describe_machine() -> str:
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), model)
    return (
        f"{model}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, "
        f"PyTorch {torch.__version__}, OpenCV {cv2.__version__}"
    )
