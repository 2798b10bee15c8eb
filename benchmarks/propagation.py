"""How accurate propagated labels are on a densely labelled video, and how long a pair takes.

python benchmarks/propagation.py data/camvid                       # CamVid val: 101 frames, each with its own label
python benchmarks/propagation.py data/camvid --curve curve.png     # also plot mIoU over coverage
python benchmarks/propagation.py data/camvid --video drive.mp4     # the time at 2048x1024, on its enlarged frames
python benchmarks/propagation.py --streets                         # on drawn streets, whose motion is known

Each frame's labels are propagated to the frames 1, 2, 3 and 5 steps later (`--back`: earlier) and compared with the
human labels of those. `plain DIS`: OpenCV's, medium preset, directly from the later frame to the labelled one; its
doubt is the forward-backward error. Coverage: share of the labelled pixels that are compared.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from common import describe_machine
from numpy.typing import NDArray

from datasets.files import Sample, find_samples
from datasets.segmentation import load_sample
from datasets.specs.registry import dataset_spec
from datasets.streets.write import write_streets
from utils.images import Uint8Array, read_image, read_label_ids, write_image
from utils.parallel import prepare_worker
from utils.plots import new_plot
from utils.video_io import open_video
from video.flow import Displacement, FlowChain, StreetFlow, build_flow, compose, inside, warp_image, warp_labels
from video.propagation import VOID_TESTS, compare, occlusion, propagate

SPEC = dataset_spec("camvid")
STEPS = (1, 2, 3, 5)
COVERAGES = (1.0, 0.96, 0.89, 0.81, 0.67)
BINS = np.concatenate([[0.0], np.geomspace(0.01, 1e4, 400)])  # of doubt
OUTSIDE = 1e9
METHODS = ("copying", "plain DIS", "ours, label", "ours, joint")


@dataclass
class Tally:
    """Counts [bins of doubt, truth, prediction] of one method and step."""

    counts: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((len(BINS) + 1, SPEC.num_classes, SPEC.num_classes), np.int64)
    )

    def add(self, truth: Uint8Array, labels: Uint8Array, doubts: NDArray[np.float32]) -> None:
        known = (truth != SPEC.ignore_label) & (labels != SPEC.ignore_label)
        shape = self.counts.shape
        cell = np.ravel_multi_index((np.digitize(doubts[known], BINS), truth[known], labels[known]), shape)
        self.counts += np.bincount(cell, minlength=self.counts.size).reshape(shape)

    def curve(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Coverage and mIoU, from the least doubtful pixels to all."""
        summed = self.counts.cumsum(0)
        hits = np.diagonal(summed, axis1=1, axis2=2)
        union = summed.sum(1) + summed.sum(2) - hits
        present = summed[-1].sum(1) > 0
        miou = (hits / np.maximum(union, 1))[:, present].mean(1)
        return summed.sum((1, 2)) / summed[-1].sum(), miou

    def miou_at(self, coverage: float) -> float:
        return float(np.interp(coverage, *self.curve()))


Tallies = dict[tuple[str, int], Tally]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("root", type=Path, nargs="?", help="CamVid, 11 classes")
    p.add_argument("--every", type=int, default=1, help="start only from every n-th frame (default: %(default)s)")
    p.add_argument("--back", action="store_true", help="propagate labels to earlier frames instead of later ones")
    p.add_argument("--curve", type=Path, help="plot mIoU over coverage to this PNG file")
    p.add_argument("--video", help="instead, time pairs of 2048x1024 from the frames of this video")
    p.add_argument("--streets", action="store_true", help="instead, compare with the exact labels of drawn streets")
    flags = p.parse_args()
    cv2.setNumThreads(1)
    print(describe_machine())
    if flags.streets:
        measure_on_streets()
        return
    if flags.root is None:
        p.error("give the folder of CamVid, or --streets")
    pairs = find_samples(SPEC, flags.root, "val")
    if flags.video:
        measure_time(flags.video, load_sample(pairs[0], SPEC)[1])
        return
    tallies, kept = carry_all([load_sample(pair, SPEC) for pair in pairs], flags.every, -1 if flags.back else 1)
    print_tables(tallies, kept)
    if flags.curve:
        draw_curves(tallies, kept, flags.curve)


def carry_all(
    video: Sequence[tuple[Uint8Array, Uint8Array]], every: int, sign: int
) -> tuple[Tallies, dict[int, tuple[float, float]]]:
    """Tallies of all methods, and for ours with default settings, per step: coverage, and mIoU where not void."""
    tallies = {(method, step): Tally() for method in METHODS for step in STEPS}
    default = {step: Tally() for step in STEPS}
    for start in range(0, len(video), every):
        frames = {k: video[start + k][0] for k in range(-5, 6) if k * sign >= 0 and 0 <= start + k < len(video)}
        labels = video[start][1]
        motion = FlowChain(frames, build_flow("dis"))
        for step in STEPS:
            if (k := step * sign) not in frames:
                continue
            truth, found = video[start + k][1], motion(k)
            difference = compare(warp_image(frames[0], found.flow), frames[k])
            doubts = np.where(inside(found.flow), occlusion(difference, found.miss), OUTSIDE)
            for mode in ("label", "joint"):
                tallies[f"ours, {mode}", step].add(truth, carried(frames, labels, found, k, mode, VOID_TESTS), doubts)
            default[step].add(truth, carried(frames, labels, found, k, "label", ()), doubts)
            tallies["copying", step].add(truth, labels, np.zeros(labels.shape, np.float32))
            tallies["plain DIS", step].add(truth, *plain_dis(frames[k], frames[0], labels))
    of_all = {step: tallies["ours, label", step].counts.sum() for step in STEPS}
    return tallies, {k: (default[k].counts.sum() / of_all[k], default[k].miou_at(1.0)) for k in STEPS}


def carried(frames: dict[int, Uint8Array], labels: Uint8Array, found: Displacement, step: int, mode: str,
            keep: Sequence[str]) -> Uint8Array:  # fmt: skip
    (made,) = propagate(frames, labels, lambda _: found, [step], mode=mode, keep=keep)
    return made.labels


def plain_dis(image: Uint8Array, labelled: Uint8Array, labels: Uint8Array) -> tuple[Uint8Array, NDArray[np.float32]]:
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    here, there = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (image, labelled))
    back, forth = dis.calc(here, there, None), dis.calc(there, here, None)
    way = compose(back, forth)
    return warp_labels(labels, back), np.where(inside(back), cv2.magnitude(way[..., 0], way[..., 1]), OUTSIDE)


def print_tables(tallies: Tallies, kept: dict[int, tuple[float, float]]) -> None:
    head = "| " + " | ".join(["", *(f"{step} steps" for step in STEPS)]) + " |\n" + "|---" * (len(STEPS) + 1) + "|"
    print(f"\n## mIoU over all pixels\n\n{head}")
    for method in METHODS:
        print(table_row(method, [f"{tallies[method, step].miou_at(1.0):.3f}" for step in STEPS]))
    print(f"\n## mIoU at equal coverage\n\n{head}")
    for coverage in COVERAGES[1:]:
        for method in METHODS[1:]:
            cells = [f"{tallies[method, step].miou_at(coverage):.3f}" for step in STEPS]
            print(table_row(f"{method}, {100 * coverage:.0f} %", cells))
    print(f"\n## What becomes void by default (--mode label)\n\n{head}")
    print(table_row("coverage, %", [f"{100 * kept[step][0]:.1f}" for step in STEPS]))
    print(table_row("mIoU", [f"{kept[step][1]:.3f}" for step in STEPS]))
    same = [f"{tallies['plain DIS', step].miou_at(kept[step][0]):.3f}" for step in STEPS]
    print(table_row("plain DIS at that coverage", same))


def table_row(name: str, cells: Sequence[str]) -> str:
    return "| " + " | ".join([name, *cells]) + " |"


def draw_curves(tallies: Tallies, kept: dict[int, tuple[float, float]], path: Path) -> None:
    with new_plot(path, (6.4, 4.2), dpi=100) as figure:
        axes = figure.add_subplot()
        for number, step in enumerate(STEPS):
            for method, style in (("plain DIS", "--"), ("ours, label", "-")):
                coverage, miou = tallies[method, step].curve()
                seen = coverage > 0.5
                name, color = f"{method}, +{step}", f"C{number}"
                axes.plot(100 * coverage[seen], miou[seen], style, color=color, label=name)
            axes.plot(100 * kept[step][0], kept[step][1], "o", color=f"C{number}")
        axes.set(xlabel="coverage, % of the labelled pixels", ylabel="mIoU", xlim=(50, 100))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, ncols=2, loc="lower left")


# Streets: the middle one of eleven frames of each of four streets.
STREETS, NUM_FRAMES, STREET_STEPS = 4, 11, (1, 2, 5)


def measure_on_streets() -> None:
    with tempfile.TemporaryDirectory(prefix="kerbline-bench-") as name:
        root = Path(name) / "streets"
        write_streets(root, num_train=STREETS * NUM_FRAMES, num_val=0, num_test=0, frames_per_sequence=NUM_FRAMES,
                      height=480, width=640)  # fmt: skip
        pairs = find_samples(SPEC, root, "train")
        columns = [f"{share}, ±{k}" for k in STREET_STEPS for share in ("visible right", "kept right", "hidden void")]
        print(f"\n## Drawn streets, 480x640\n\n{table_row('%', columns)}\n" + "|---" * (1 + len(columns)) + "|")
        for flow in ("exact", "dis"):
            counts = sum(street_counts(pairs[first : first + NUM_FRAMES], root, flow)
                         for first in range(0, len(pairs), NUM_FRAMES))  # fmt: skip
            print(table_row(flow, [f"{100 * hits / of:.2f}" for hits, of in counts.reshape(-1, 2)]))


def street_counts(pairs: Sequence[Sample], root: Path, flow: str) -> NDArray[np.int64]:
    """[steps, 3, 2]: how many visible pixels are right, kept ones right, hidden ones void; each with its total."""
    middle = NUM_FRAMES // 2
    video = {number - middle: load_sample(pair, SPEC) for number, pair in enumerate(pairs)}
    frames = {k: image for k, (image, _) in video.items()}
    exact = StreetFlow(root, pairs[middle].name)
    motion = exact if flow == "exact" else FlowChain(frames, build_flow(flow))
    counts = np.zeros((len(STREET_STEPS), 3, 2), np.int64)
    for made in propagate(frames, video[0][1], motion, [sign * k for k in STREET_STEPS for sign in (-1, 1)]):
        visible, right = exact(made.step).visible, made.labels == video[made.step][1]
        void = made.labels == SPEC.ignore_label
        for row, (hits, of) in enumerate(((right, visible), (right, ~void), (void, ~visible))):
            counts[STREET_STEPS.index(abs(made.step)), row] += (hits & of).sum(), of.sum()
    return counts


# Time: every job decodes 11 frames and a label map, and writes the 10 pairs around it.
REACH = 5
JOBS = 4


def measure_time(video: str, labels: Uint8Array) -> None:
    with tempfile.TemporaryDirectory(prefix="kerbline-bench-") as name:
        folder = Path(name)
        ids = cv2.resize(labels, (2048, 1024), interpolation=cv2.INTER_NEAREST)
        write_image(folder / "labels.png", ids)
        for number, image in enumerate(enlarged(video, 2 * REACH + 1)):
            write_image(folder / f"{number:02d}.png", image)
        print("\n## Seconds per pair of 2048x1024, from decoding to the written pair\n")
        rates = [time_jobs(folder, num_processes) for num_processes in (1, 2)]
        print(f"- two processes make {rates[1] / rates[0]:.2f} times as many pairs as one")


def time_jobs(folder: Path, num_processes: int) -> float:
    """Pairs per second."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, context, initializer=prepare_worker, initargs=(0,)) as pool:
        list(pool.map(nothing, range(2 * num_processes)))  # let processes start and import before timing starts
        begun = time.perf_counter()
        clock, core = np.array(list(pool.map(one_job, [folder] * JOBS, range(JOBS)))).T
        rate = 2 * REACH * JOBS / (time.perf_counter() - begun)
    spread = f"{np.median(clock):.2f} ({clock.min():.2f} to {clock.max():.2f}) s wall time"
    print(
        f"- {num_processes} processes: median {spread}, {np.median(core):.2f} s core time; {rate:.2f} pairs/s"
    )
    return rate


def enlarged(video: str, count: int) -> Iterator[Uint8Array]:
    with open_video(video) as opened:
        frames = [frame for _, frame in islice(opened.frames, count)]
    if len(frames) < count:
        raise SystemExit(f"{video} has fewer than {count} frames.")
    for frame in frames:
        yield cv2.resize(frame, (2048, 1024), interpolation=cv2.INTER_CUBIC)


def nothing(_: int) -> None:
    time.sleep(0.1)


def one_job(folder: Path, number: int) -> tuple[float, float]:
    """Seconds per pair: wall time and core time."""
    begun = time.perf_counter(), time.process_time()
    frames = {k: read_image(folder / f"{REACH + k:02d}.png") for k in range(-REACH, REACH + 1)}
    labels = read_label_ids(folder / "labels.png").astype(np.uint8)
    steps = [k for k in frames if k]
    for made in propagate(frames, labels, FlowChain(frames, build_flow("dis")), steps):
        write_image(folder / f"{number}_{made.step}_image.png", made.image)
        write_image(folder / f"{number}_{made.step}_labels.png", made.labels)
    ended = time.perf_counter(), time.process_time()
    return (ended[0] - begun[0]) / len(steps), (ended[1] - begun[1]) / len(steps)


if __name__ == "__main__":
    main()
