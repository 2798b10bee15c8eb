"""The README's table of networks: parameters, operations and time of each: python benchmarks/networks.py [ARCH ...].

Operations: multiplications with their additions, for one image of 1024x2048. Time: the predictor's, from an image's
bytes to labels, median and range of a few runs; on a CPU it needs all cores for itself.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from config import ARCHITECTURES
from inference.predictor import Predictor
from network.checkpoint import IMAGENET_MEAN, IMAGENET_STD
from network.deepv3 import build_network
from network.fuse import fast_network
from utils.device import keep_freed_memory, resolve_device

NUM_CLASSES = 19
SIZE = (1024, 2048)


def count_operations(arch: str, **head: object) -> float:
    """Multiply-adds for one image of `SIZE`, counted without computing anything."""
    with torch.device("meta"):
        net, image = build_network(arch, NUM_CLASSES, **head).eval(), torch.empty(1, 3, *SIZE)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        net(image)
    return counter.get_total_flops() / 2


def milliseconds(arch: str, device: torch.device, rounds: int, amp: torch.dtype | None, **head: object) -> list[float]:
    torch.manual_seed(0)
    net = fast_network(build_network(arch, NUM_CLASSES, **head), device, amp=amp)
    predictor = Predictor(net, NUM_CLASSES, device=device, amp=amp, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    image = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
    times = []
    for _ in range(rounds + 1):  # the first one also allocates
        start = time.perf_counter()
        predictor.predict(image).cpu()
        times.append(1e3 * (time.perf_counter() - start))
    return times[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arch", nargs="*", default=ARCHITECTURES)
    parser.add_argument("--rounds", type=int, default=3, help="timed images per network; 0: do not time")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--refine", action="store_true", help="with the decoder stage at stride 2, where there is one")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    keep_freed_memory()
    device = resolve_device(arguments.device)
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| network | parameters | operations | milliseconds (range) |\n|---|---|---|---|")
    for arch in arguments.arch:
        head = {"refine": True} if arguments.refine else {}
        with torch.device("meta"):
            num_parameters = sum(p.numel() for p in build_network(arch, NUM_CLASSES, **head).parameters())
        amp = torch.bfloat16 if arguments.bf16 else None
        times = milliseconds(arch, device, arguments.rounds, amp, **head) if arguments.rounds else []
        took = f"{statistics.median(times):.0f} ({min(times):.0f} to {max(times):.0f})" if times else ""
        operations = count_operations(arch, **head) / 1e9
        print(f"| `{arch}` | {num_parameters / 1e6:.1f} M | {operations:.0f} G | {took} |", flush=True)


if __name__ == "__main__":
    main()
