"""Seconds from `train.py` to its first step, and from Ctrl-C to its end: python -m benchmarks.startup

The light network on drawn streets, 8 crops of 192x240, two loader processes; the index of class positions is there.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from datasets.streets.write import write_streets

ROUNDS = 5
FLAGS = (
    "--dataset streets --arch DeepMNV3V3PlusD_m1 --crop_size 192 --crop_width 240 --bs_mult 8 --num_workers 2 --adam "
    "--lr 0.001 --class_uniform_pct 0.5"
)


def start_and_stop(folder: Path, name: str) -> tuple[float, float]:
    """Seconds to the first step, and from Ctrl-C after it to the end."""
    places = ["--dataset_dir", folder / "streets", "--index_dir", folder / "index", "--ckpt", folder, "--exp", name]
    began = time.perf_counter()
    # A shell's background job, and what it starts, would ignore Ctrl-C.
    training = subprocess.Popen(
        [sys.executable, "train.py", *FLAGS.split(), *map(str, places)], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    metrics = folder / name / "metrics.jsonl"
    while not (metrics.exists() and '"train"' in metrics.read_text()):
        if training.poll() is not None:
            raise SystemExit(f"train.py ended with {training.returncode}.")
        time.sleep(0.02)
    first_step = time.perf_counter()
    training.send_signal(signal.SIGINT)
    training.wait()
    return first_step - began, time.perf_counter() - first_step


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_streets(folder / "streets", num_train=24, num_val=4, num_test=0)
        start_and_stop(folder, "first")  # makes the index
        found = [start_and_stop(folder, f"run{number}") for number in range(ROUNDS)]
    for what, seconds in zip(("to the first step", "from Ctrl-C to the end"), zip(*found, strict=True), strict=True):
        print(f"{what}: {median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")


if __name__ == "__main__":
    main()
