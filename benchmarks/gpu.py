"""Training steps and inference on a GPU, next to the plain recipe; `benchmarks/gpu_session.sh` runs all of it.

    python -m benchmarks.gpu training --arch DeepWV3Plus:2 DeepMNV3V3PlusD_m1:8 --json training.json
    python -m benchmarks.gpu waiting memory blocks --arch DeepWV3Plus:1
    python -m benchmarks.gpu inference --arch DeepWV3Plus --json inference.json

A step is train.py's own (`forward_backward`, `optimizer_step`), from crops in pinned memory to new weights. The plain
recipe is eager, NCHW, float16 with a loss scaler and the published multi-hot relaxation. Times: median over windows of
a few steps, each followed by a wait for the device; shares: of the rate of a large bfloat16 matrix product in the same
process. With `--device cpu --tiny` everything runs on a small scale, to rehearse it.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import Results, matrix_peak, seconds
from benchmarks.loss import block_labels, multi_hot
from config import TrainConfig
from datasets.specs.registry import dataset_spec
from inference.predictor import Predictor
from loss import build_loss
from loss.relaxation import relaxed_cross_entropy
from network.checkpoint import IMAGENET_MEAN, IMAGENET_STD
from network.deepv3 import DeepLabV3Plus, build_network
from network.fuse import fast_network
from train import forward_backward, optimizer_step
from training.loop import Meters, Progress
from training.optim import WeightAverage, build_optimizer
from training.run_log import RunLog
from utils.device import autocast_dtype, compile_for, normalise
from utils.flags import parse_command_line

CITYSCAPES = dataset_spec("cityscapes")
NUM_CLASSES = CITYSCAPES.num_classes
Step = Callable[[], object]


def batch_of(batch: int, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Crops [B, 3, side, side] and labels [B, side, side] uint8 as the loader hands them over."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, side, side), generator=generator).byte()
    labels = block_labels(NUM_CLASSES, batch, side)
    return (images.pin_memory(), labels.pin_memory()) if device.type == "cuda" else (images, labels)


def new_network(arch: str, device: torch.device) -> DeepLabV3Plus:
    torch.manual_seed(0)
    with device:
        return build_network(arch, NUM_CLASSES).train()


def plain_step(arch: str, images: Tensor, labels: Tensor, device: torch.device) -> Step:
    """The plain recipe."""
    net = new_network(arch, device)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))

    def run() -> Tensor:
        pixels = (images.to(device, non_blocking=True).float() / 255 - mean) / std
        on_device = labels.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.float16 if device.type == "cuda" else torch.bfloat16):
            logits = net(pixels)
        loss = multi_hot(logits.float(), on_device)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    return run


def own_training(arch: str, device: torch.device, flags: Sequence[str] = ()) -> Any:
    """What train.py's step needs, without data."""
    config = parse_command_line(TrainConfig, ["--arch", arch, "--jointwtborder", "--lr", "0.001", *flags])
    net = new_network(arch, device).to(memory_format=torch.channels_last)
    if config.model.checkpoint_activations:
        net.checkpoint_activations()
    dtype = autocast_dtype(device, bf16=config.precision.bf16, fp16=config.precision.fp16)
    return SimpleNamespace(
        config=config, device=device, dtype=dtype, net=net, optimizer=build_optimizer(config.optim, net),
        average=WeightAverage(net, config.optim.ema) if config.optim.ema else None,
        model=compile_for(net, device) if config.precision.compile else net,
        scaler=torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
        losses=build_loss(config.loss, CITYSCAPES, device),
    )  # fmt: skip


def own_step(training: Any, images: Tensor, labels: Tensor) -> Step:
    """train.py's step."""

    def run() -> Tensor:
        loss = forward_backward(training, images, labels, training.losses[0], 1)
        optimizer_step(training)
        return loss

    return run


# The flags of train.py, or None for the plain recipe.
WAYS: dict[str, list[str] | None] = {
    "plain recipe": None, "train.py": [], "train.py --fp16": ["--fp16"], "compiled": ["--compile"],
    "plain recipe again": None,
}  # fmt: skip


def build_step(arch: str, images: Tensor, labels: Tensor, device: torch.device, flags: Sequence[str] | None) -> Step:
    """The step of one of the `WAYS`."""
    if flags is None:
        return plain_step(arch, images, labels, device)
    return own_step(own_training(arch, device, flags), images, labels)


def step_flops(arch: str, batch: int, side: int) -> float:
    """Additions and multiplications of forward and backward pass."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build_network(arch, NUM_CLASSES).train()(torch.empty(batch, 3, side, side)).sum().backward()
    return counter.get_total_flops()


def slowest_kernels(step: Step, count: int = 40) -> list[tuple[str, int, float]]:
    """Of one step: name, calls and milliseconds of what runs longest on the GPU, and of everything together."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        step()
        torch.cuda.synchronize()
    calls: Counter[str] = Counter()
    times: Counter[str] = Counter()
    for event in recorded.events():
        if event.device_type == DeviceType.CUDA:
            calls[event.name[:120]] += 1
            times[event.name[:120]] += event.device_time  # type: ignore[assignment]
    rows = [(name, calls[name], time / 1000) for name, time in times.most_common(count)]
    return [("all", sum(calls.values()), sum(times.values()) / 1000), *rows]


def training(arguments: argparse.Namespace, device: torch.device, results: Results) -> None:
    side, batch = arguments.crop, arguments.batch
    images, labels = batch_of(batch, side, device)
    peak = matrix_peak(device)
    flops = step_flops(arguments.arch, batch, side)
    rate = f"{flops / 1e12:.2f} TFLOP a step, matrix rate {(peak or 0) / 1e12:.0f} TFLOP/s"
    print(f"\n{arguments.arch}, {batch} crops of {side}, {rate}", flush=True)
    reference = None
    for name in arguments.ways or WAYS:
        row: dict[str, Any] = {"arch": arguments.arch, "batch": batch, "crop": side, "way": name}
        try:
            step = build_step(arguments.arch, images, labels, device, WAYS[name])
            first = [float(step()) for _ in range(arguments.warm_up)]
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            times = [seconds(step, device, arguments.in_a_row) for _ in range(arguments.windows)]
            if device.type == "cuda":
                row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
                row["kernels"] = slowest_kernels(step)
            middle = statistics.median(times)
            reference = reference or middle
            row |= {
                "ms": 1e3 * middle, "all_ms": [1e3 * time for time in times], "images_per_s": batch / middle,
                "over_plain": reference / middle, "of_peak": flops / middle / peak if peak else None,
                "losses": first,
            }  # fmt: skip
            print(
                f"{name}: {1e3 * middle:.1f} ms ({1e3 * min(times):.1f}-{1e3 * max(times):.1f}), "
                f"{batch / middle:.1f} images/s, x{reference / middle:.2f}, peak {row.get('peak_gib', 0):.1f} GiB, "
                f"{row['of_peak'] or 0:.0%} of the matrix rate",
                flush=True,
            )
        except Exception as error:  # the other ways are still worth measuring
            row["error"] = f"{type(error).__name__}: {error}"[:500]
            print(f"{name}: {row['error']}", flush=True)
        results.add(**row)
        step = None  # type: ignore[assignment]
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def waiting(arguments: argparse.Namespace, device: torch.device, results: Results) -> None:
    """Where 41 steps of train.py's loop, with its meters, wait for the GPU; it means to do so at steps 1, 21 and 41."""
    images, labels = batch_of(arguments.batch, arguments.crop, device)
    for flags in ([], ["--fp16"] if device.type == "cuda" else ["--no-bf16"]):
        own = own_training(arguments.arch, device, flags)
        step = own_step(own, images, labels)
        step()
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            log = RunLog(Path(folder), Path(folder), active=False)
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
            own.log = log
            with Meters(Progress(1), 41, own) as meters:
                for _ in range(41):
                    meters.add(forward_backward(own, images, labels, own.losses[0], 1), arguments.batch)
                    if not meters.is_bad(list):
                        optimizer_step(own)
                    meters.end_step(0.001)
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        where = Counter(
            f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message).lower()
        )
        print(f"{arguments.arch} {flags}: waits for the GPU in 41 steps: {dict(where)}", flush=True)
        results.add(arch=arguments.arch, flags=flags, waits=dict(where))


def memory(arguments: argparse.Namespace, device: torch.device, results: Results) -> None:
    """Peak memory of train.py's step, one crop, with and without --checkpoint_activations."""
    images, labels = batch_of(1, arguments.crop, device)
    for flags in ([], ["--checkpoint_activations"]):
        row: dict[str, Any] = {"arch": arguments.arch, "batch": 1, "crop": arguments.crop, "flags": flags}
        try:
            own = own_training(arguments.arch, device, flags)
            step = own_step(own, images, labels)
            times = [seconds(step, device) for _ in range(6)]
            row["ms"] = 1e3 * statistics.median(times[2:])
            if device.type == "cuda":
                row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
                row["reserved_gib"] = torch.cuda.max_memory_reserved() / 2**30
        except (Exception, SystemExit) as error:
            row["error"] = f"{type(error).__name__}: {error}"[:300]
        print(row, flush=True)
        results.add(**row)
        own = step = None  # type: ignore[assignment]
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def inference(arguments: argparse.Namespace, device: torch.device, results: Results) -> None:
    """From an image's bytes to its labels, and the network alone: with and without forms, compiled or not."""
    height, width = (64, 96) if arguments.tiny else (1024, 2048)
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    amp = torch.bfloat16
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.inference_mode():
        build_network(arguments.arch, NUM_CLASSES).eval()(torch.empty(1, 3, height, width))
    flops, peak = counter.get_total_flops(), matrix_peak(device)
    pixels = normalise(torch.from_numpy(picture).permute(2, 0, 1)[None].to(device), IMAGENET_MEAN, IMAGENET_STD)
    reference = None
    usual = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "device": device}
    for name in arguments.ways or ("plain", "eager", "compiled", "compiled, forms", "eager, forms"):
        row: dict[str, Any] = {"arch": arguments.arch, "size": [height, width], "way": name}
        try:
            net: nn.Module = new_network(arguments.arch, device).eval()
            own_amp = amp
            if name.startswith("plain"):
                own_amp = None  # float32 with TF32, PyTorch's default
            else:
                with mock.patch("network.fuse.is_hopper", lambda _, forms="forms" in name: forms):
                    net = fast_network(net, device, amp=amp, compile="compiled" in name)  # type: ignore[arg-type]
            predictor = Predictor(net, NUM_CLASSES, amp=own_amp, **usual)

            def logits(net: nn.Module = net, own_amp: torch.dtype | None = own_amp) -> Tensor:
                with torch.autocast(device.type, own_amp, enabled=own_amp is not None):
                    out: Tensor = net(pixels)
                return out

            with torch.inference_mode():
                for call, label in ((logits, "logits"), (lambda p=predictor: p.predict(picture), "labels")):
                    for _ in range(arguments.warm_up):
                        call()
                    times = [seconds(call, device, arguments.in_a_row) for _ in range(arguments.windows)]
                    row[f"{label}_ms"] = 1e3 * statistics.median(times)
                    row[f"{label}_all_ms"] = [1e3 * time for time in times]
                if device.type == "cuda":
                    row["kernels"] = slowest_kernels(logits, 20)
            reference = reference or row["labels_ms"]
            row["over_plain"] = reference / row["labels_ms"]
            row["of_peak"] = 1e3 * flops / row["labels_ms"] / peak if peak else None
            print(
                f"{arguments.arch}, {name}: logits {row['logits_ms']:.2f} ms, labels {row['labels_ms']:.2f} ms, "
                f"x{row['over_plain']:.2f}, {row['of_peak'] or 0:.0%} of the matrix rate",
                flush=True,
            )
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {error}"[:500]
            print(f"{arguments.arch}, {name}: {row['error']}", flush=True)
        results.add(**row)


def blocks(arguments: argparse.Namespace, device: torch.device, results: Results) -> None:
    """The relaxation of 8x19 logits with other numbers of pixels per program, on a GPU."""
    if device.type != "cuda":
        return
    side = arguments.crop
    labels = block_labels(NUM_CLASSES, 8, side).to(device)
    logits = torch.randn(8, NUM_CLASSES, side, side, device=device).mul_(3).requires_grad_()

    def run() -> None:
        logits.grad = None
        relaxed_cross_entropy(logits, labels).backward()

    pixels: list[dict[str, int]] = [{"_TILE": count} for count in (1024, 2048, 4096, 8192)]
    pixels += [{"_SETS_BLOCK": count} for count in (128, 256, 512, 1024)]
    for setting in pixels:
        with mock.patch.multiple("loss.relaxation_triton", **setting):
            run()
            times = [seconds(run, device, 10) for _ in range(7)]
            spent = slowest_kernels(run, 4)
        print(f"loss with {setting}: {1e3 * statistics.median(times):.3f} ms, {spent}", flush=True)
        results.add(blocks=setting, ms=1e3 * statistics.median(times), kernels=spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measures = {work.__name__: work for work in (training, waiting, memory, blocks, inference)}
    parser.add_argument("what", nargs="+", choices=measures)
    parser.add_argument("--arch", nargs="+", default=["DeepMNV3V3PlusD_m1:2"], help="networks, each with its batch")
    parser.add_argument("--ways", nargs="*", help="the ways to measure, by default all")
    parser.add_argument("--crop", type=int, default=896)
    parser.add_argument("--warm_up", type=int, default=4)
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--in_a_row", type=int, default=4, help="steps per window")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal: small crops, few steps")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.crop = 64
        arguments.warm_up = arguments.windows = arguments.in_a_row = 1
    device = torch.device(arguments.device)
    results = Results(arguments.json, device)
    for what in arguments.what:
        for named in arguments.arch:
            arch, _, batch = named.partition(":")
            own = {**vars(arguments), "arch": arch, "batch": int(batch or 1)}
            try:
                measures[what](argparse.Namespace(**own), device, results)
            except Exception as error:  # the others are still worth measuring
                traceback.print_exc()
                results.add(what=what, arch=arch, error=f"{type(error).__name__}: {error}"[:500])


if __name__ == "__main__":
    main()
