"""What inference costs apart from the network, and what each way to speed up a network gains.

    python benchmarks/inference.py
    python benchmarks/inference.py --arch DeepSRNX50V3PlusD_m1 DeepWV3Plus
    python benchmarks/inference.py --arch DeepWV3Plus --size 1024 2048                         # on a GPU
    python benchmarks/inference.py --snapshot best.pth --image street.jpg      # and how many labels bfloat16 changes

Ratios are to the plain eager float32 call of the same module, contiguous, in the same run: median of alternating
rounds, with the smallest and largest. How freed memory is handled is a setting of the whole process, so the plain call
has a process of its own, and so has each way to prepare the network; the third ratio is to a plain call that also keeps
its memory, on a GPU to one without TF32. With --together all share one process, which returns its memory. The predictor
computes labels from the image's bytes; on a GPU they stay there.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from common import describe_machine, matrix_peak, seconds
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from datasets.specs.registry import dataset_spec
from inference.load import load_model
from inference.predictor import Predictor
from inference.results import result_paths, write_results
from network.checkpoint import IMAGENET_MEAN, IMAGENET_STD
from network.deepv3 import DeepLabV3Plus, build_network
from network.fuse import fast_network
from utils.device import keep_freed_memory, upsample
from utils.images import Uint8Array, read_image

NUM_CLASSES = 19
IN_A_ROW = {"cpu": 1, "cuda": 8}  # calls of a network: a GPU receives the next image while it works
SCALES = (0.5, 1.0, 2.0)


class Instant(nn.Module):
    """Logits at no cost: random ones, cached by shape."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[int, ...], Tensor] = {}

    def forward(self, images: Tensor) -> Tensor:
        """images [B, 3, H, W] -> logits [B, NUM_CLASSES, H, W]."""
        shape = (images.shape[0], NUM_CLASSES, *images.shape[2:])
        if shape not in self.kept:
            self.kept[shape] = torch.randn(shape, device=images.device)
        return self.kept[shape]


def spread(values: list[float]) -> str:
    """Median, smallest and largest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def beside_the_network(device: torch.device, rounds: int) -> None:
    """Resize, tile, softmax, average, argmax and write an image of 2048x1024, with a network that costs nothing."""
    image = np.random.default_rng(0).integers(0, 256, (1024, 2048, 3), np.uint8)
    print(f"\n2048x1024, {NUM_CLASSES} classes, scales {SCALES}, flip; the network costs nothing\n")
    print("| tiles | labels, s | write ids, colours and overlay, s |\n|---|---|---|")
    for tile in (None, 1024):
        labels, predicting = predicted(image, tile, device, rounds)
        print(f"| {tile or 'none'} | {spread(predicting)} | {spread(written(image, labels, device, rounds))} |")
    print(f"\nThe memory traffic alone, at the bandwidth of a large copy: {traffic(device):.2f} s.")


def predicted(image: Uint8Array, tile: int | None, device: torch.device, rounds: int) -> tuple[Tensor, list[float]]:
    """Labels of the image, and the seconds that they take."""
    predictor = Predictor(
        Instant(), NUM_CLASSES, device=device, scales=SCALES, flip=True, tile=tile, mean=IMAGENET_MEAN, std=IMAGENET_STD
    )
    labels = predictor.predict(image)
    return labels, [seconds(lambda: predictor.predict(image), device) for _ in range(rounds)]


def written(image: Uint8Array, labels: Tensor, device: torch.device, rounds: int) -> list[float]:
    """Seconds to write one result; classes form squares, since noise costs a PNG more than streets do."""
    squares = np.kron(labels[:32, :64].cpu().numpy(), np.ones((32, 32), np.uint8))
    classes, source = dataset_spec("cityscapes").classes, Path("picture.png")
    with tempfile.TemporaryDirectory() as folder:
        (paths,) = result_paths(Path(folder), [source])
        return [seconds(lambda: write_results(paths, image, squares, classes, source), device) for _ in range(rounds)]


def traffic(device: torch.device) -> float:
    """Seconds to read every logit once and to read and write the sum once per scale, at the speed of a copy."""
    num_values = NUM_CLASSES * 2048 * 1024
    values, other = torch.zeros(2, num_values, device=device)
    copying = statistics.median(seconds(lambda: other.copy_(values), device) for _ in range(9))
    logits = sum(2 * scale**2 for scale in SCALES)  # twice because of the mirrored ones
    return copying / 2 * (logits + 2 * len(SCALES))


Size = tuple[int, int]  # rows and columns


class Way(NamedTuple):
    """A way to call a network. fast: as the commands do. keep: keep freed memory, on a CPU."""

    name: str
    fast: bool = False
    compile: bool = False
    keep: bool = True
    layout: torch.memory_format = torch.channels_last
    tf32: bool = True


PLAIN = Way("eager, float32, NCHW", keep=False, layout=torch.contiguous_format)
BESIDE = {
    "cpu": Way("freed memory kept", layout=torch.contiguous_format),
    "cuda": Way("likewise, no TF32", layout=torch.contiguous_format, tf32=False),
}
WAYS = (Way("and channels last"), Way("and layers folded", fast=True), Way("and compiled", fast=True, compile=True))


def calls(way: Way, arch: str, size: Size, device: torch.device) -> dict[str, Callable[[], Tensor]]:
    """The calls that are timed: to logits of the image's size, and to labels."""
    images = torch.randn(1, 3, *size, device=device).contiguous(memory_format=way.layout)
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)

    def new_network() -> DeepLabV3Plus:
        torch.manual_seed(0)
        net = build_network(arch, NUM_CLASSES).eval()
        return net.to(device, memory_format=way.layout)  # type: ignore[call-overload, no-any-return]

    if not way.fast:
        net = new_network()
        return {way.name: lambda: net(images), f"{way.name}: argmax": lambda: net(images).argmax(1)}
    timed = {}
    for amp in (None, torch.bfloat16):
        title = f"{way.name}, bfloat16" if amp else way.name
        fast = fast_network(new_network(), device, amp=amp, compile=way.compile)
        timed[f"{title}: logits"] = upsampling(fast, images, amp)
        timed[f"{title}: labels"] = predicting(fast, picture, device, amp)
    return timed


def run(timed: dict[str, Callable[[], Tensor]], device: torch.device) -> dict[str, float]:
    """The seconds of each call."""
    with torch.inference_mode():
        return {name: seconds(work, device, IN_A_ROW[device.type]) for name, work in timed.items()}


def serve(way: Way, arch: str, size: Size, device: torch.device, talk: Connection) -> None:
    """The process of one way: on request, run all its calls and send the seconds of each."""
    if way.keep:
        keep_freed_memory()
    torch.backends.cudnn.allow_tf32 = way.tf32
    timed = calls(way, arch, size, device)
    while talk.recv():
        talk.send(run(timed, device))


def networks(arch: str, size: Size, device: torch.device, rounds: int, *, compile: bool, together: bool) -> None:
    """Print rows for each way to run `arch`: one with logits of the image's size, one with labels."""
    beside = PLAIN if together else BESIDE[device.type]
    ways = [way for way in dict.fromkeys((PLAIN, beside, *WAYS)) if compile or not way.compile]
    times: dict[str, list[float]] = {}
    with ExitStack() as stack:
        if together:
            timed = [calls(way, arch, size, device) for way in ways]
            runs = [partial(run, own, device) for own in timed]
        else:
            runs = [partial(ask, stack.enter_context(process_of(way, arch, size, device))) for way in ways]
        for turn in range(rounds + 2):
            for one in runs:
                for name, taken in one().items():
                    times.setdefault(name, []).extend([taken] if turn >= 2 else [])  # the first rounds warm up
    num_flops, peak = flops(arch, size), matrix_peak(device)
    print(f"\n{arch}, {size[1]}x{size[0]}, {num_flops / 1e9:.0f} GFLOP")
    if peak:
        print(f"A bfloat16 matrix product reaches {peak / 1e12:.0f} TFLOP/s, the peak below.")
    references = [times[PLAIN.name], times[f"{PLAIN.name}: argmax"], times[beside.name]]
    print("\n| | s | images/s | of the peak | speed-up over the first | over the second | over the third |")
    print("|---|---|---|---|---|---|---|")
    for name, own in times.items():
        ratios = [[before / after for before, after in zip(reference, own, strict=True)] for reference in references]
        taken = statistics.median(own)
        share = f"{num_flops / taken / peak:.0%}" if peak else "-"
        print(f"| {name} | {taken:.4f} | {1 / taken:.2f} | {share} | {' | '.join(map(spread, ratios))} |", flush=True)


def upsampling(net: nn.Module, images: Tensor, amp: torch.dtype | None) -> Callable[[], Tensor]:
    """From normalised images to logits of their size."""

    def run() -> Tensor:
        with torch.autocast(images.device.type, amp, enabled=amp is not None):
            logits = net(images)
        return upsample(logits.float().contiguous(), (images.shape[2], images.shape[3]))

    return run


def predicting(
    net: nn.Module, picture: Uint8Array, device: torch.device, amp: torch.dtype | None
) -> Callable[[], Tensor]:
    """From an image to its labels, as the commands do: normalised pixels, network, most probable class."""
    predictor = Predictor(net, NUM_CLASSES, device=device, amp=amp, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return lambda: predictor.predict(picture)


def ask(talk: Connection) -> dict[str, float]:
    """Have the process behind `talk` run its calls now; the seconds of each."""
    talk.send(True)
    seconds_of: dict[str, float] = talk.recv()
    return seconds_of


@contextmanager
def process_of(way: Way, arch: str, size: Size, device: torch.device) -> Iterator[Connection]:
    """The connection to a process that serves `way`."""
    talk, other = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=serve, args=(way, arch, size, device, other), daemon=True)
    process.start()
    other.close()  # so that reading ends when the process does
    try:
        yield talk
        talk.send(False)
        process.join()
    except (EOFError, ConnectionError):
        raise SystemExit("a process ended early; see the error above") from None
    finally:
        process.terminate()


def flops(arch: str, size: Size) -> float:
    """Additions and multiplications of one call."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.inference_mode():
        build_network(arch, NUM_CLASSES).eval()(torch.empty(1, 3, *size))
    return counter.get_total_flops()


def changed_labels(snapshot: Path, image: Uint8Array, device: torch.device) -> None:
    """How many pixels of an image get another class in bfloat16."""
    torch.backends.cudnn.allow_tf32 = False  # the reference is float32 throughout
    model = load_model(snapshot)
    labels = []
    for amp in (None, torch.bfloat16):
        net = fast_network(copy.deepcopy(model.net), device, amp=amp)
        predictor = Predictor(net, len(model.classes), device=device, amp=amp, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        labels.append(predictor.predict(image))
    same = (labels[0] == labels[1]).float().mean().item()
    print(f"\n{model.arch}, {image.shape[1]}x{image.shape[0]}: bfloat16 gives {same:.2%} of the pixels the same label.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="*", default=["DeepMNV3V3PlusD_m1"], help="networks to run; none: skip")
    parser.add_argument("--snapshot", type=Path, nargs="*", default=[], help="trained networks whose labels to compare")
    parser.add_argument("--image", type=Path, help="the image to compare them on")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 1024), help="rows and columns of the image")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--together", action="store_true", help="all ways in one process, which keeps no freed memory")
    parser.add_argument("--network_only", action="store_true", help="skip everything around the network")
    arguments = parser.parse_args()
    if arguments.snapshot and not arguments.image:
        parser.error("--snapshot needs --image, the image to compare labels on")
    device = torch.device(arguments.device)
    if arguments.together and device.type != "cpu":
        parser.error("--together is for a CPU: TF32 too is a setting of the whole process")
    if not arguments.together:
        keep_freed_memory()  # as the commands do
    name = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    print(f"{name}{describe_machine()}, {torch.get_num_threads()} threads, {arguments.rounds} rounds")
    if not arguments.network_only:
        beside_the_network(device, arguments.rounds)
    for arch in arguments.arch:
        networks(
            arch,
            tuple(arguments.size),
            device,
            arguments.rounds,
            compile=arguments.compile,
            together=arguments.together,
        )
    for snapshot in arguments.snapshot:
        changed_labels(snapshot, read_image(arguments.image), device)


if __name__ == "__main__":
    main()
