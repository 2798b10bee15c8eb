"""Shared by the benchmarks: images to measure on, a stopwatch, table rows, a description of the machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))  # makes the project importable

from datasets.streets.write import write_streets
from network.checkpoint import versions
from training.run_log import commit
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


def seconds(work: Callable[[], object], device: torch.device, in_a_row: int = 1) -> float:
    """Wall time per call, over `in_a_row` calls followed by a wait for the device."""
    start = time.perf_counter()
    for _ in range(in_a_row):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / in_a_row


def matrix_peak(device: torch.device) -> float | None:
    """Additions and multiplications per second in a large bfloat16 matrix product; None on a CPU."""
    if device.type != "cuda":
        return None
    side = 8192
    factors = torch.randn(2, side, side, device=device).bfloat16()
    times = [seconds(lambda: factors[0] @ factors[1], device, in_a_row=8) for _ in range(20)]
    return 2 * side**3 / statistics.median(times)


class Results:
    """Rows of figures in a JSON file with the machine, the versions and the commit, rewritten with each row."""

    def __init__(self, path: Path | None, device: torch.device, **settings: Any) -> None:
        self.path = path
        gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
        known = os.environ.get("KERBLINE_COMMIT") or commit(Path(__file__).parent.parent)
        about = {"machine": describe_machine(), "gpu": gpu, "versions": versions(), "commit": known}
        self.content: dict[str, Any] = {"command": sys.argv, **about, **settings, "rows": []}

    def add(self, **figures: Any) -> None:
        self.content["rows"].append(figures)
        if self.path:
            self.path.write_text(json.dumps(self.content, indent=1, default=str))


def describe_machine() -> str:
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), model)
    return (
        f"{model}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, "
        f"PyTorch {torch.__version__}, OpenCV {cv2.__version__}"
    )
