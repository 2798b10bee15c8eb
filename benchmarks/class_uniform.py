"""How long the class positions of class-uniform sampling take per label map.

python benchmarks/class_uniform.py     # streets at 2048x1024, drawn first (a minute)
python benchmarks/class_uniform.py --dataset cityscapes --dataset_dir data/cityscapes

Prints a Markdown table: median, 10th and 90th percentile, and median core time. Files come from the system's page
cache: each is read once before timing starts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from common import TABLE_HEAD, Stopwatch, describe_machine, draw_streets, row

from datasets.class_positions import PositionsPlan, find_positions, scan_labels
from datasets.files import find_samples
from datasets.segmentation import load_labels
from datasets.specs.registry import dataset_spec
from utils.parallel import prepare_worker


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--dataset", default="cityscapes", help="which set --dataset_dir holds (default: %(default)s)")
    p.add_argument("--dataset_dir", type=Path, help="measure on a data set of your own instead of streets")
    p.add_argument("--maps", type=int, default=200, help="label maps to time (default: %(default)s)")
    p.add_argument("--tile", type=int, default=1024, help="side of a tile, in pixels (default: %(default)s)")
    flags = p.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kerbline-bench-"))
    try:
        root = flags.dataset_dir or draw_streets(folder / "streets", count=16)
        spec = dataset_spec(flags.dataset if flags.dataset_dir else "streets")
        samples = find_samples(spec, root, "train")
        plan = PositionsPlan([samples[i % len(samples)] for i in range(flags.maps)], spec, root, flags.tile, seed=0)
        print(describe_machine())
        print(f"\n## One label map, tiles of {flags.tile}, on one core\n")
        one_map(plan)
        print(f"\n## All class positions of {flags.maps} label maps, starting the processes included\n")
        for num_workers in (0, len(os.sched_getaffinity(0))):
            begun = time.perf_counter()
            find_positions(plan, folder / str(num_workers), num_workers)
            per_map = 1000 * (time.perf_counter() - begun) / flags.maps
            print(f"- {num_workers or 'no'} loader processes: {per_map:.1f} ms per map")
    finally:
        shutil.rmtree(folder)


def one_map(plan: PositionsPlan) -> None:
    """Time decoding alone, decoding with the lookup of train ids, and the choice of pixels; taken in turns."""
    prepare_worker(0)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    for sample in set(plan.samples):
        load_labels(sample, plan.spec)
    names = ("bare cv2.imread", "decode and look up", "choose pixels", "decode, look up and choose")
    laps = []
    for number, sample in enumerate(plan.samples):
        generator = np.random.default_rng(number)
        clock = Stopwatch()
        cv2.imread(str(sample.label_path), cv2.IMREAD_UNCHANGED)
        bare = clock.lap()
        labels = load_labels(sample, plan.spec)
        decode = clock.lap()
        scan_labels(labels, plan.spec.num_classes, plan.tile, generator)
        choose = clock.lap()
        laps.append((bare, decode, choose, (decode[0] + choose[0], decode[1] + choose[1])))
    print(TABLE_HEAD)
    for name, column in zip(names, zip(*laps, strict=True), strict=True):
        print(row(name, column))
    os.sched_setaffinity(0, cores)


if __name__ == "__main__":
    main()
