"""Time beside a plain baseline and beside what people would pick instead, if that is installed.

    python -m benchmarks                       # all, on the machine at hand, into results/*.json
    python -m benchmarks step sample --rounds 15
    python -m benchmarks compare results older/results

In each round all contenders work once, in one process, in an order that turns; a ratio is that of one round. Given are
the medians of times and ratios, with the 10th and 90th percentile. `compare` names what got slower against the same
contender, beyond both spreads. requirements-peers.txt installs the peers.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from benchmarks.common import Results, draw_streets, seconds
from config import AS_IN_TRAINING, AugmentConfig
from datasets.files import find_samples
from datasets.segmentation import load_sample
from datasets.specs.registry import dataset_spec
from inference.load import load_model
from inference.settings import SNAPSHOT, EvalConfig
from loss.relaxation import relaxed_cross_entropy
from network.checkpoint import IMAGENET_MEAN, IMAGENET_STD
from network.deepv3 import build_network
from transforms.augmentation import TrainTransform
from utils.device import autocast_dtype, keep_freed_memory, resolve_device
from utils.flags import parse_command_line
from utils.images import read_image

OURS = "Kerbline"
NUM_CLASSES, BATCH, SIZE = 11, 8, (240, 320)
Contenders = dict[str, Callable[[], object]]


def is_there(package: str) -> bool:
    return find_spec(package) is not None


# A training step: 8 crops of 240x320, AdamW, without data loading.


def step_of(
    net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], device: torch.device, *, best: bool
) -> Callable[[], None]:
    """best: channels last, and bfloat16 where the hardware has it."""
    dtype = autocast_dtype(device, bf16=None, fp16=False) if best else None
    layout = torch.channels_last if best else torch.contiguous_format
    net = net.to(device).train().to(memory_format=layout)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, *SIZE, generator=generator).to(device).contiguous(memory_format=layout)
    labels = torch.randint(0, NUM_CLASSES, (BATCH, SIZE[0] // 20, SIZE[1] // 20), generator=generator)
    labels = labels.repeat_interleave(20, 1).repeat_interleave(20, 2).to(device)

    def run() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            logits = net(images)
        logits = logits["out"] if isinstance(logits, dict) else logits
        loss(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


@contextlib.contextmanager
def step(device: torch.device, _: Path, arch: str = "DeepMNV3V3PlusD_m1") -> Iterator[Contenders]:
    """A step with relaxation, and others' with cross entropy."""
    found = {
        OURS: step_of(build_network(arch, NUM_CLASSES), relaxed_cross_entropy, device, best=True),
        "the same network, plain": step_of(build_network(arch, NUM_CLASSES), F.cross_entropy, device, best=False),
    }
    if is_there("segmentation_models_pytorch"):
        import segmentation_models_pytorch as smp

        encoder = "tu-mobilenetv3_large_100" if "MNV3" in arch else "tu-tf_efficientnet_lite0"
        net = smp.DeepLabV3Plus(encoder, encoder_weights=None, classes=NUM_CLASSES)
        found["segmentation_models.pytorch"] = step_of(net, F.cross_entropy, device, best=True)
    if is_there("torchvision") and "MNV3" in arch:
        from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

        net = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=NUM_CLASSES)
        found["torchvision"] = step_of(net, F.cross_entropy, device, best=True)
    yield found


@contextlib.contextmanager
def step_lite(device: torch.device, folder: Path) -> Iterator[Contenders]:
    """The same with EfficientNet-Lite0."""
    with step(device, folder, "DeepEffLite0V3PlusD_m1") as found:
        yield found


# Data


@contextlib.contextmanager
def sample(_: torch.device, folder: Path) -> Iterator[Contenders]:
    """A training crop of 896 from PNG files of 2048x1024: decode, scale, crop, flip, colours, blur."""
    spec = dataset_spec("streets")
    pairs = find_samples(spec, streets(folder), "train")
    transform = TrainTransform(AugmentConfig(crop_size=896), spec.ignore_label)
    generator, turn = np.random.default_rng(0), iter(range(10**9))

    def ours() -> None:
        image, labels = load_sample(pairs[next(turn) % len(pairs)], spec)
        transform(image, labels, None, generator)

    def plain() -> None:
        pair = pairs[next(turn) % len(pairs)]
        scale = generator.uniform(0.5, 2)
        image, labels = Image.open(pair.image_path).convert("RGB"), Image.open(str(pair.label_path))
        size = (round(scale * image.width), round(scale * image.height))
        image, labels = image.resize(size, Image.Resampling.BILINEAR), labels.resize(size, Image.Resampling.NEAREST)
        left, top = (int(generator.integers(max(1, side - 896))) for side in size)
        box = (left, top, left + 896, top + 896)
        np.asarray(image.crop(box)), np.asarray(labels.crop(box))

    found: Contenders = {OURS: ours, "Pillow, without colours and blur": plain}
    if is_there("albumentations"):
        import albumentations as A

        composed = A.Compose([
            A.RandomScale((-0.5, 1.0), p=1), A.PadIfNeeded(896, 896), A.RandomCrop(896, 896), A.HorizontalFlip(),
            A.ColorJitter(0.25, 0.25, 0.25, 0.25, p=1), A.GaussianBlur(p=0.5), A.Normalize(),
        ])  # fmt: skip

        def others() -> None:
            pair = pairs[next(turn) % len(pairs)]
            image = cv2.imread(str(pair.image_path), cv2.IMREAD_COLOR_RGB)
            composed(image=image, mask=cv2.imread(str(pair.label_path), cv2.IMREAD_UNCHANGED))

        found["albumentations"] = others
    yield found


@contextlib.contextmanager
def decode(_: torch.device, folder: Path) -> Iterator[Contenders]:
    """A PNG of 2048x1024, with its check sums."""
    path = next((streets(folder) / "train").glob("*.png"))
    yield {
        OURS: lambda: read_image(path),
        "Pillow": lambda: np.asarray(Image.open(path).convert("RGB")),
        "OpenCV": lambda: cv2.imread(str(path), cv2.IMREAD_COLOR_RGB),
    }


def streets(folder: Path) -> Path:
    root = folder / "streets"
    return root if root.is_dir() else draw_streets(root, 6)


# Evaluation


@contextlib.contextmanager
def evaluation(device: torch.device, folder: Path) -> Iterator[Contenders]:
    """A split of six images from files to scores, with the network that the project carries, loaded anew each time."""
    import eval as command

    root, spec = folder / "camvid", dataset_spec("camvid")
    generator = np.random.default_rng(0)
    source = find_samples(dataset_spec("streets"), streets(folder), "train")
    for number, pair in enumerate(source):
        for name, pixels in (("test", read_image(pair.image_path)), ("testannot", None)):
            path = root / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            ids = np.kron(generator.integers(0, NUM_CLASSES, (16, 32)), np.ones((64, 64))).astype(np.uint8)
            Image.fromarray(ids if pixels is None else pixels).save(path)
    flags = ["--snapshot", SNAPSHOT, "--dataset_dir", str(root), "--split", "test", "--device", str(device)]
    flags += [*AS_IN_TRAINING.split(), "--ckpt_path", str(folder / "eval")]

    def ours(*more: str) -> None:
        config = parse_command_line(EvalConfig, [*flags, *more])
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            command.main(config)

    def plain() -> None:
        net = load_model().net.eval().to(device)
        score: Any = None
        if is_there("torchmetrics"):
            from torchmetrics.classification import MulticlassJaccardIndex

            score = MulticlassJaccardIndex(spec.num_classes, ignore_index=255).to(device)
        counts = torch.zeros(NUM_CLASSES**2, dtype=torch.long)
        mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD))
        for path in sorted((root / "test").glob("*.png")):
            image = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None].float() / 255
            labels = torch.from_numpy(np.array(Image.open(root / "testannot" / path.name)))[None].long()
            with torch.no_grad():
                prediction = net(((image - mean) / std).to(device)).argmax(1)
            if score is None:
                counts += torch.bincount((NUM_CLASSES * labels + prediction.cpu()).flatten(), minlength=NUM_CLASSES**2)
            else:
                score.update(prediction, labels.to(device))
        if score is not None:
            score.compute()

    name = "plain loop" + (" with torchmetrics" if is_there("torchmetrics") else "")
    yield {OURS: ours, f"{OURS} --bf16": partial(ours, "--bf16"), name: plain}


WORKS = {work.__name__: work for work in (step, step_lite, sample, decode, evaluation)}


def measure(
    contenders: Contenders, device: torch.device, rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each, in rounds whose order turns; the first two warm up."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 2):
        names = list(contenders)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = clock()
            seconds(contenders[name], device)
            times[name] += [clock() - start] if turn >= 2 else []
    return times


def spread(values: list[float] | np.ndarray) -> tuple[float, float, float]:
    """10th percentile, median, 90th percentile."""
    low, middle, high = np.percentile(values, (10, 50, 90))
    return float(low), float(middle), float(high)


def run(names: list[str], device: torch.device, rounds: int, out: Path, *, core_time: bool) -> None:
    """Measure `names`, print a table of each and write it as JSON."""
    keep_freed_memory()  # as the commands do
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            about = WORKS[name].__doc__
            results = Results(out / f"{name}.json", device, work=name, about=about, core_time=core_time)
            with WORKS[name](device, Path(folder)) as contenders:
                times = measure(contenders, device, rounds, time.process_time if core_time else time.perf_counter)
            unit = "ms of core time" if core_time else "ms"
            print(f"\n{name}: {about}\n\n| | {unit} | times {OURS}'s |\n|---|---|---|")
            for contender, taken in times.items():
                ratio = spread(np.divide(taken, times[OURS]))
                low, middle, high = (1e3 * value for value in spread(taken))
                print(f"| {contender} | {middle:.1f} ({low:.1f} to {high:.1f}) | {ratio[1]:.2f} ({ratio[0]:.2f} to "
                      f"{ratio[2]:.2f}) |", flush=True)  # fmt: skip
                results.add(contender=contender, ms=[1e3 * value for value in taken], ratio=ratio)


def slower(new: Path, old: Path) -> list[str]:
    """What takes longer than before, beside the same contender, beyond the spread of both; one line each."""
    told = []
    for path in sorted(new.glob("*.json")):
        if not (old / path.name).is_file():
            continue
        ratios = [{row["contender"]: row["ratio"] for row in json.loads(file.read_text())["rows"] if "ratio" in row}
                  for file in (path, old / path.name)]  # fmt: skip
        for contender in ratios[0].keys() & ratios[1].keys() - {OURS}:
            (_, now, most), (least, before, _) = ratios[0][contender], ratios[1][contender]
            if most < least:
                told.append(f"{path.stem}: {now:.2f} times as fast as {contender}, {before:.2f} before")
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help=f"of {', '.join(WORKS)} (default: all); or: compare NEW OLD")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--core_time", action="store_true", help="time of the cores, if they have other work")
    parser.add_argument("--out", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    if arguments.what[:1] == ["compare"]:
        if len(arguments.what) != 3:
            parser.error("compare needs two folders of results: the new one and the old one")
        told = slower(*map(Path, arguments.what[1:]))
        print("\n".join(told) or "nothing is slower beyond the spread of both")
        return bool(told)
    if unknown := set(arguments.what) - WORKS.keys():
        parser.error(f"{unknown.pop()!r} is unknown; choose from {', '.join(WORKS)}")
    run(arguments.what or list(WORKS), resolve_device(arguments.device), arguments.rounds, arguments.out,
        core_time=arguments.core_time)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
