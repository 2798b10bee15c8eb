"""Time and memory of label relaxation, relative to plain cross entropy on the same logits in the same run.

    python -m benchmarks.loss                        # on a GPU if there is one, else on the CPU
    python -m benchmarks.loss --labels data/camvid/trainannot --ignore_id 11

Forward and backward, median of alternating pairs, with the smallest and largest ratio. "multi-hot" is the published
formulation: a target of C + 1 planes, the logarithm of probabilities, and border weights; "published" is the same as
weights of class sets (`--published_loss`). Extra memory is the peak size of live tensors besides logits and labels.
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
from torch.profiler import ProfilerActivity, profile

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


def real_labels(folder: Path, ignore_id: int, count: int) -> Tensor:
    """`count` label maps [count, SIDE, SIDE] uint8 from PNG files, enlarged without blending."""
    files = sorted(folder.glob("*.png"))
    maps = []
    for path in files[:: max(1, len(files) // count)][:count]:
        ids = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        factor = SIDE / min(ids.shape)
        large = cv2.resize(ids, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)[:SIDE, :SIDE]
        maps.append(np.where(large == ignore_id, IGNORE, large))
    if len(maps) < count:
        raise SystemExit(f"error: --labels {folder}: {count} PNG files are needed, found {len(maps)}.")
    return torch.from_numpy(np.stack(maps).astype(np.uint8))


def random_labels(num_classes: int, count: int) -> Tensor:
    """Noise: every pixel is on a boundary. The worst case; no real image comes close."""
    return torch.randint(0, num_classes, (count, SIDE, SIDE), generator=torch.Generator().manual_seed(1)).byte()


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


def table(device: torch.device, folder: Path | None, ignore_id: int, pairs: int) -> None:
    """Measure and print a row per case and loss."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, PyTorch {torch.__version__}, float32, {SIDE}x{SIDE}, median of {pairs} pairs\n")
    print("| logits | labels | loss | time / cross entropy (smallest-largest) | ms | memory / cross entropy |")
    print("|---|---|---|---|---|---|")
    for batch, num_classes in CASES[device.type]:
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(batch, num_classes, SIDE, SIDE, generator=generator).mul_(3).to(device).requires_grad_()
        kinds = {"random": random_labels(num_classes, batch)}
        if folder:
            kinds = {"real": real_labels(folder, ignore_id, batch)} | kinds
        for kind, labels in kinds.items():
            measure_case(logits, labels.to(device), kind, pairs)
        if device.type == "cuda":
            floor = 1e3 * copy_floor(logits)
            print(f"| {list(logits.shape[:2])} | - | two reads and one write | - | {floor:.2f} | - |")


def measure_case(logits: Tensor, labels: Tensor, kind: str, pairs: int) -> None:
    """The rows of one shape and kind of labels."""
    reference = extra_bytes(cross_entropy, logits, labels)
    losses: dict[str, Loss] = {
        "relaxation": relaxed_cross_entropy,
        "published": partial(relaxed_cross_entropy, published=True),
        "multi-hot": multi_hot,
    }
    for loss_name, loss in losses.items():
        found, own = ratios(loss, cross_entropy, logits, labels, pairs)
        memory = extra_bytes(loss, logits, labels) / reference
        spread = f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})"
        shape = list(logits.shape[:2])
        print(f"| {shape} | {kind} | {loss_name} | {spread} | {1e3 * own:.1f} | {memory:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, help="folder of label maps (PNG, one channel) for the real case")
    parser.add_argument("--ignore_id", type=int, default=IGNORE, help="the value of void in them")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--pairs", type=int, default=9)
    arguments = parser.parse_args()
    table(torch.device(arguments.device), arguments.labels, arguments.ignore_id, arguments.pairs)


if __name__ == "__main__":
    main()
