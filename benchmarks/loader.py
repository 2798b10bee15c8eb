"""How long a training sample takes, step by step, and how well loader processes scale.

python benchmarks/loader.py            # streets at 2048x1024, drawn first (a minute) and written as PNG
python benchmarks/loader.py --dataset cityscapes --dataset_dir data/cityscapes
python benchmarks/loader.py --batches 2000    # also watch the memory of the processes over 2000 batches

Prints Markdown tables: median, 10th and 90th percentile over the samples, and median core time, which other processes
on the machine affect less. Images come from the system's page cache: each file is read once before timing starts.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from common import TABLE_HEAD, Lap, Stopwatch, describe_machine, draw_streets, row

from config import AugmentConfig, DataConfig
from datasets.files import Sample, find_samples
from datasets.loaders import DecodedCache, LoaderOptions, train_data
from datasets.segmentation import CropRequest, Load, TrainingSet, as_tensors, load_sample
from datasets.specs.registry import dataset_spec
from datasets.specs.spec import DatasetSpec
from transforms.augmentation import TrainTransform, color_jitter, gaussian_blur
from utils.distributed import Processes
from utils.parallel import prepare_worker

AUGMENT = AugmentConfig(crop_size=896, scale_min=0.5, scale_max=2.0, color_aug=0.25, gblur=True)
BATCH = 8
STEPS = ("decode", "resample", "colour", "blur", "hand-over")


def main() -> None:
    flags = parse_flags()
    folder = Path(tempfile.mkdtemp(prefix="kerbline-bench-"))
    try:
        root = flags.dataset_dir or draw_streets(folder / "streets", flags.images)
        spec = dataset_spec(flags.dataset if flags.dataset_dir else "streets")
        print(describe_machine())
        samples(spec, root, folder / "cache", flags.samples)
        for cache_dir in (None, str(folder / "cache")):
            workers(spec, root, cache_dir, folder, flags.seconds)
            if flags.batches:
                memory(spec, root, cache_dir, folder, flags.batches)
    finally:
        shutil.rmtree(folder)


def parse_flags() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--dataset", default="cityscapes", help="which set --dataset_dir holds (default: %(default)s)")
    p.add_argument("--dataset_dir", type=Path, help="measure on a data set of your own instead of streets")
    p.add_argument("--images", type=int, default=16, help="streets to draw (default: %(default)s)")
    p.add_argument("--samples", type=int, default=100, help="samples per table (default: %(default)s)")
    p.add_argument("--seconds", type=float, default=20, help="time per number of workers (default: %(default)s)")
    p.add_argument("--batches", type=int, default=0, help="watch memory over this many batches (default: do not)")
    return p.parse_args()


def samples(spec: DatasetSpec, root: Path, cache_dir: Path, count: int) -> None:
    """Both tables of one sample's steps, on one core, set up like a loader process."""
    prepare_worker(0)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    pairs = find_samples(spec, root, "train")
    cache = DecodedCache(cache_dir, spec)
    cache.fill(pairs, num_workers=0)
    for title, load in (("from PNG", partial(load_sample, spec=spec)), ("from the decode-once cache", cache.load)):
        bare, steps, whole = time_samples(spec, pairs, load, count)
        print(f"\n## One sample {title}\n\n{TABLE_HEAD}")
        for name, laps in (*zip(STEPS, zip(*steps, strict=True), strict=True), ("whole sample", whole)):
            print(row(name, laps))
        print(row("bare cv2.imread of the two files", bare))
        ratio, core_ratio = np.median(whole, axis=0) / np.median(bare, axis=0)
        print(f"\nwhole sample / bare decoding: {ratio:.2f}, in core time {core_ratio:.2f}")
    os.sched_setaffinity(0, cores)


def time_samples(
    spec: DatasetSpec, pairs: list[Sample], load: Load, count: int
) -> tuple[list[Lap], list[list[Lap]], list[Lap]]:
    """Bare decoding, each step, and whole samples, alternating sample by sample."""
    transform = TrainTransform(AUGMENT, spec.ignore_label)
    dataset = TrainingSet(pairs, load, transform, 0, num_images=len(pairs))
    bare, steps, whole = [], [], []
    for place in range(-len(pairs), count):
        pair = pairs[place % len(pairs)]
        generator = np.random.default_rng((0, place % (1 << 20)))
        clock = Stopwatch()
        cv2.imread(str(pair.image_path), cv2.IMREAD_COLOR)
        cv2.imread(str(pair.label_path), cv2.IMREAD_UNCHANGED)
        bare_time = clock.lap()
        image, labels = load(pair)
        laps = [clock.lap()]
        image, labels = transform.crop(image, labels, None, generator)
        if generator.random() < 0.5:
            image, labels = cv2.flip(image, 1), cv2.flip(labels, 1)
        laps.append(clock.lap())
        image = color_jitter(image, AUGMENT.color_aug, generator)
        laps.append(clock.lap())
        image = gaussian_blur(image, float(generator.uniform(0.15, 1.3)))
        laps.append(clock.lap())
        into_shared_memory(as_tensors(image, labels))
        laps.append(clock.lap())
        into_shared_memory(dataset.crop(CropRequest(0, place % (1 << 20), place % len(pairs))))
        whole_time = clock.lap()
        if place >= 0:  # before that, every file is read once to fill the page cache
            bare.append(bare_time)
            steps.append(laps)
            whole.append(whole_time)
    return bare, steps, whole


def into_shared_memory(sample: tuple[torch.Tensor, torch.Tensor]) -> None:
    """As a loader process does for each batch: new shared memory, written once."""
    for tensor in sample:
        torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(tensor.numel())).copy_(tensor.ravel())


def loader(
    spec: DatasetSpec, root: Path, cache_dir: str | None, folder: Path, num_workers: int
) -> Callable[[], Iterator]:
    """Endless batches of class-uniform and plain samples, as in `train.py`."""
    data = DataConfig(
        dataset=spec.name, dataset_dir=str(root), index_dir=str(folder / "index"), cache_dir=cache_dir,
        bs_mult=BATCH, repeat=8,
    )  # fmt: skip
    found = train_data(data, AUGMENT, spec, LoaderOptions(Processes(0, 1, 0), num_workers), seed=0)
    return lambda: itertools.chain.from_iterable(found.epoch(epoch) for epoch in itertools.count())


def workers(spec: DatasetSpec, root: Path, cache_dir: str | None, folder: Path, seconds: float) -> None:
    """Images per second of one and two loader processes, alternating."""
    print(f"\n## Loader, batches of {BATCH}, {source(cache_dir)}\n")
    print("| workers | images/s, median of 3 | all |\n|---|---|---|")
    speeds: dict[int, list[float]] = {1: [], 2: []}
    for _, count in itertools.product(range(3), speeds):
        batches = loader(spec, root, cache_dir, folder, count)()
        for _ in range(4 * count):  # until processes have started and their first batches are consumed
            next(batches)
        begun, number = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds / 3:
            number += len(next(batches)[0])
        speeds[count].append(number / (time.perf_counter() - begun))
        del batches
    for count, values in speeds.items():
        print(f"| {count} | {np.median(values):.1f} | {', '.join(f'{v:.1f}' for v in values)} |")
    print(f"\ntwo / one: {np.median(speeds[2]) / np.median(speeds[1]):.2f}")


def source(cache_dir: str | None) -> str:
    return "from the cache" if cache_dir else "from PNG"


def memory(spec: DatasetSpec, root: Path, cache_dir: str | None, folder: Path, num_batches: int) -> None:
    """Proportional memory of this process and its two workers, shared pages counted once, while batches are loaded."""
    print(f"\n## Memory over {num_batches} batches of {BATCH}, two workers, {source(cache_dir)}\n")
    print("| batch | MB, all processes |\n|---|---|")
    for number, (images, _) in enumerate(loader(spec, root, cache_dir, folder, 2)(), start=1):
        del images
        if number % (num_batches // 10) == 0:
            print(f"| {number} | {used_memory():.0f} |", flush=True)
        if number >= num_batches:
            return


def used_memory() -> float:
    """Megabytes of memory of this process and its children, without files mapped from the cache."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    total = 0
    for process in ("self", *children):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                total += int(line.split()[1])
    return total / 1024


if __name__ == "__main__":
    main()
