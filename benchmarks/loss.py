"""Time and memory of label relaxation, relative to plain cross entropy on the same logits in the same run.

    python -m benchmarks.loss                        # on a GPU if there is one, else on the CPU
    python -m benchmarks.loss --labels data/camvid/trainannot --ignore_id 11

Forward and backward, median of alternating pairs, with the smallest and largest ratio. "multi-hot" is the published
formulation: a target of C + 1 planes, the logarithm of probabilities, and border weights; "published" is the same as
weights of class sets (`--published_loss`). Extra memory is the peak size of live tensors besides logits and labels.
On a GPU, the kernels that each loss launches are counted, and `--json` keeps how long each takes.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import Results
from loss.relaxation import relaxed_cross_entropy

IGNORE = 255
SIDE = 896
CASES = {"cpu": ((2, 19), (1, 65)), "cuda": ((2, 19), (8, 19), (1, 65))}

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The reference for all comparisons; it needs int64 labels."""
    return F.cross_entropy(logits, labels.long(), ignore_index=IGNORE)


def multi_hot(logits: Tensor, labels: Tensor) -> Tensor:
    """The published formulation as described in the paper: probabilities, a target of C + 1 planes, class weights."""
    num_classes = logits.shape[1]
    classes = labels.long().where(labels != IGNORE, num_classes)
    one_hot = F.one_hot(classes, num_classes + 1).permute(0, 3, 1, 2).float()
    outside = F.pad(one_hot, (1,) * 4)
    outside[:, -1] = F.pad(one_hot[:, -1], (1,) * 4, value=1.0)
    target = F.max_pool2d(outside, 3, 1)
    allowed, num_allowed = target[:, :-1], target[:, :-1].sum(1)
    share = target.sum((2, 3)) / target.sum((1, 2, 3)).unsqueeze(1)
    weights = (1 + (1 - share) * (share > 0))[:, :-1, None, None]
    probabilities = logits.softmax(1)
    union = (allowed * probabilities).sum(1, keepdim=True)
    cost = -(allowed * weights * torch.maximum(probabilities, allowed * union).clamp(min=1e-30).log()).sum(1)
    used = num_allowed > 0
    images = (cost / num_allowed.clamp(min=1) * used).sum((1, 2)) / (used.sum((1, 2)) + 1)
    return images.sum()


def real_labels(folder: Path, ignore_id: int, count: int, side: int) -> Tensor:
    """`count` label maps [count, side, side] uint8 from PNG files, enlarged without blending."""
    files = sorted(folder.glob("*.png"))
    maps = []
    for path in files[:: max(1, len(files) // count)][:count]:
        ids = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        factor = side / min(ids.shape)
        large = cv2.resize(ids, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)[:side, :side]
        maps.append(np.where(large == ignore_id, IGNORE, large))
    if len(maps) < count:
        raise SystemExit(f"error: --labels {folder}: {count} PNG files are needed, found {len(maps)}.")
    return torch.from_numpy(np.stack(maps).astype(np.uint8))


def random_labels(num_classes: int, count: int, side: int) -> Tensor:
    """Noise: every pixel is on a boundary. The worst case; no real image comes close."""
    return torch.randint(0, num_classes, (count, side, side), generator=torch.Generator().manual_seed(1)).byte()


def block_labels(num_classes: int, count: int, side: int) -> Tensor:
    """Squares of 56 pixels, some of them void: about one pixel in fourteen is at a boundary, as on a street."""
    generator = torch.Generator().manual_seed(2)
    squares = -(-side // 56)
    grid = torch.randint(0, num_classes + 1, (count, squares, squares), generator=generator)
    labels = grid.repeat_interleave(56, 1).repeat_interleave(56, 2)[:, :side, :side]
    return labels.masked_fill(labels == num_classes, IGNORE).byte()


def seconds(loss: Loss, logits: Tensor, labels: Tensor) -> float:
    """Seconds of one forward and backward pass."""
    logits.grad = None
    wait(logits.device)
    start = time.perf_counter()
    loss(logits, labels).backward()
    wait(logits.device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    """Wait until the device has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratios(loss: Loss, reference: Loss, logits: Tensor, labels: Tensor, pairs: int) -> tuple[list[float], float]:
    """Time of `loss` divided by that of `reference`, in alternating pairs, and the median seconds of `loss`."""
    found, own = [], []
    for turn in range(pairs + 1):
        times = [seconds(which, logits, labels) for which in (reference, loss)[:: 1 if turn % 2 else -1]]
        before, after = times if turn % 2 else times[::-1]
        if turn:  # the first pair warms up
            found.append(after / before)
            own.append(after)
    return found, statistics.median(own)


def extra_bytes(loss: Loss, logits: Tensor, labels: Tensor) -> int:
    """Peak memory that forward and backward allocate, including the gradient."""
    logits.grad = None
    gc.collect()
    if logits.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss(logits, labels).backward()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        loss(logits, labels).backward()
    # `recorded.events()` sums allocations per operator; only the raw events show which were alive at once.
    raw = recorded.profiler.kineto_results.events()  # type: ignore[union-attr]
    steps = sorted((event.start_ns(), event.nbytes()) for event in raw if event.name() == "[memory]")
    return max(itertools.accumulate((size for _, size in steps), initial=0))


def copy_floor(logits: Tensor) -> float:
    """Seconds to read the logits twice and write the gradient once, at the bandwidth of a large copy."""
    other = torch.empty_like(logits)
    times = []
    for _ in range(20):
        wait(logits.device)
        start = time.perf_counter()
        other.copy_(logits.detach())
        wait(logits.device)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 3 / 2  # a copy is one read and one write


def kernels(loss: Loss, logits: Tensor, labels: Tensor) -> list[tuple[str, float]]:
    """What one forward and backward pass runs on the GPU, with microseconds; nothing on a CPU."""
    if logits.device.type != "cuda":
        return []
    logits.grad = None
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        loss(logits, labels).backward()
        wait(logits.device)
    on_device = [event for event in recorded.events() if event.device_type == DeviceType.CUDA]
    return [(event.name[:80], event.device_time) for event in on_device]


def table(
    device: torch.device, side: int, folder: Path | None, ignore_id: int, pairs: int, results: Results
) -> None:
    """Measure and print a row per case and loss."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, PyTorch {torch.__version__}, float32, {side}x{side}, median of {pairs} pairs\n")
    print("| logits | labels | loss | time / cross entropy (smallest-largest) | ms | of floor | memory | launches |")
    print("|---|---|---|---|---|---|---|---|")
    for batch, num_classes in CASES[device.type]:
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(batch, num_classes, side, side, generator=generator).mul_(3).to(device).requires_grad_()
        kinds = {"random": random_labels(num_classes, batch, side)}
        if folder:
            kinds = {"real": real_labels(folder, ignore_id, batch, side)} | kinds
        kinds["blocks"] = block_labels(num_classes, batch, side)
        floor = copy_floor(logits)
        results.add(shape=list(logits.shape), loss="two reads and one write", ms=1e3 * floor)
        print(f"| {list(logits.shape[:2])} | - | two reads and one write | - | {1e3 * floor:.3f} | 1 | - | - |")
        for kind, labels in kinds.items():
            measure_case(logits, labels.to(device), kind, pairs, floor, results)


def measure_case(logits: Tensor, labels: Tensor, kind: str, pairs: int, floor: float, results: Results) -> None:
    """The rows of one shape and kind of labels."""
    reference = extra_bytes(cross_entropy, logits, labels)
    losses: dict[str, Loss] = {
        "cross entropy": cross_entropy,
        "relaxation": relaxed_cross_entropy,
        "published": partial(relaxed_cross_entropy, published=True),
        "multi-hot": multi_hot,
    }
    for loss_name, loss in losses.items():
        found, own = ratios(loss, cross_entropy, logits, labels, pairs)
        memory = extra_bytes(loss, logits, labels) / reference
        spread = f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})"
        launched = kernels(loss, logits, labels)
        results.add(
            shape=list(logits.shape), labels=kind, loss=loss_name, ms=1e3 * own, ratios=found, of_floor=own / floor,
            memory=memory, launches=len(launched), kernels=launched,
        )  # fmt: skip
        print(
            f"| {list(logits.shape[:2])} | {kind} | {loss_name} | {spread} | {1e3 * own:.2f} | {own / floor:.2f} | "
            f"{memory:.2f} | {len(launched) or '-'} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, help="folder of label maps (PNG, one channel) for the real case")
    parser.add_argument("--ignore_id", type=int, default=IGNORE, help="the value of void in them")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--side", type=int, default=SIDE, help="of the square label maps")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    results = Results(arguments.json, device)
    table(device, arguments.side, arguments.labels, arguments.ignore_id, arguments.pairs, results)


if __name__ == "__main__":
    main()
