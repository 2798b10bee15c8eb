"""What makes a training step of the light network fast on a CPU, as ratios within one run.

    python benchmarks/training_step.py

Forward pass, cross entropy and backward pass for 8 crops of 240x320 in bfloat16, without data loading and optimizer:
median of alternating rounds, with the smallest and largest.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from common import describe_machine
from torch import Tensor, nn

from network.blocks import DepthwiseConv2d, JoiningConv2d
from network.deepv3 import build_network
from utils.device import autocast_dtype, keep_freed_memory, upsample

ARCH = "DeepMNV3V3PlusD_m1"
NUM_CLASSES = 11


class OverBoth(nn.Module):
    """The decoder's first convolution as usual: over the concatenation of its two inputs."""

    def __init__(self, joining: JoiningConv2d) -> None:
        super().__init__()
        self.weight = joining.weight

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """inputs: fine [B, F, H, W] and context [B, C, h, w] -> [B, out_channels, H, W]."""
        fine, context = inputs
        return F.conv2d(torch.cat([fine, upsample(context, (fine.shape[2], fine.shape[3]))], dim=1), self.weight)


def with_pytorchs_gradients(net: nn.Module) -> nn.Module:
    """A copy whose depthwise convolutions use PyTorch's own backward pass."""
    net = copy.deepcopy(net)
    for name, conv in list(net.named_modules()):
        if isinstance(conv, DepthwiseConv2d):
            own = nn.Conv2d(
                conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,  # type: ignore[arg-type]
                conv.groups, bias=False,
            )  # fmt: skip
            own.weight = conv.weight
            net.set_submodule(name, own)
    return net


def with_whole_joining(net: nn.Module) -> nn.Module:
    """A copy whose first decoder convolution runs over both inputs at once."""
    net = copy.deepcopy(net)
    net.set_submodule("final.0", OverBoth(net.get_submodule("final.0")))  # type: ignore[arg-type]
    return net


def step(net: nn.Module, images: Tensor, labels: Tensor, dtype: torch.dtype | None) -> Callable[[], None]:
    def run() -> None:
        net.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            logits = net(images)
        F.cross_entropy(logits.float(), labels).backward()

    return run


def measure(ways: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each variant, in alternating rounds after two warm-up rounds."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 2):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            if turn >= 2:
                times[name].append(time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    dtype = autocast_dtype(torch.device("cpu"), bf16=None, fp16=False)
    net = build_network(ARCH, NUM_CLASSES).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(8, 3, 240, 320).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, NUM_CLASSES, (8, 240, 320))
    print(f"{describe_machine()}, {torch.get_num_threads()} threads, {rounds} rounds, {ARCH}, {dtype}\n")

    ways = {"the step": net}
    returned = measure({"the step, memory returned": step(net, images, labels, dtype)}, rounds)
    keep_freed_memory()  # irreversible, hence the order
    ways |= {
        "depthwise gradients as PyTorch's": with_pytorchs_gradients(net),
        "one convolution over both inputs of the decoder": with_whole_joining(net),
    }
    times = measure({name: step(way, images, labels, dtype) for name, way in ways.items()}, rounds)
    own = times["the step"]
    print("| | s | times the step |\n|---|---|---|")
    for name, values in (times | returned).items():
        ratios = [value / ours for value, ours in zip(values, own, strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {name} | {statistics.median(values):.3f} | {spread} |")


if __name__ == "__main__":
    main()
