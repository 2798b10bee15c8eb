"""Write a network for programs without this project, and check the file: python export.py --out net.onnx."""

from __future__ import annotations

from inference.settings import ExportConfig
from utils.flags import parse_command_line

if __name__ == "__main__":
    CONFIG = parse_command_line(ExportConfig)  # before heavy imports, so that --help answers at once

import copy
import hashlib
import sys
import timeit
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch

from config import as_dict
from datasets.files import dataset_root, find_samples, load_spec
from datasets.segmentation import load_sample
from inference.exported import PT2, Deployed, ExportedNetwork, quantise, write_exported
from inference.load import DEFAULT_DATASET, Model, load_model
from inference.predictor import MIN_SIDE, Predictor
from network.blocks import Network
from network.checkpoint import ONNX, SAFETENSORS, describe, halve, save_checkpoint
from network.fuse import fast_network
from utils.command import run_command
from utils.files import atomic_path, writable_file, write_json
from utils.images import IMAGE_SUFFIXES, Uint8Array, read_image
from utils.metrics import confusion_matrix, scores
from utils.text import escape

SIZES = ((192, 256), (181, 255), (97, 131))  # rows and columns of the checked images, without --size
MOST_IMAGES = 16  # that are checked, or calibrated on
LEAST_EQUAL, LEAST_HALF = 0.9999, 0.99  # share of equal labels, by the type that computes
TIMED_SIZE, TIMED_TIMES = (512, 1024), 5  # rows and columns of the timed image, without --size
MOST_LOST = 0.01  # mIoU
LEAST_INT8 = 0.8  # 0.88 in the smallest of `SIZES` goes with 0.3 points less mIoU, 0.67 was a file that was no use


def main(config: ExportConfig) -> int:
    """Write the file to a temporary one, check that, and rename it; write beside it what the check found."""
    out, size = Path(config.file.out), config.file.size
    writable_file(out, "--out", (ONNX, PT2, SAFETENSORS))
    if size and min(size) < MIN_SIDE:
        raise ValueError(f"--size {size[0]} {size[1]}: the networks need at least {MIN_SIDE} rows and columns.")
    model = load_model(**vars(config.model))
    if not isinstance(model.net, Network):
        raise ValueError(f"{config.model.snapshot} is an exported file; name the checkpoint that it was made from.")
    pictures = read_pictures(Path(config.check.images), "--images")

    with atomic_path(out) as file:
        write_file(file, model, config)
        both = load_model(file).predictor("cpu"), model.predictor("cpu")
        sizes = [size] if size else SIZES
        checks = [compare_labels(*both, *picture, one) for picture in pictures for one in sizes]
        found: dict[str, Any] = {"checks": checks, "milliseconds": time_both(both, pictures[0][1], size or TIMED_SIZE)}
        found["bytes"] = [Path(config.model.snapshot).stat().st_size, file.stat().st_size]
        if config.check.dataset_dir:
            found["mean_iou"] = score_both(both, model, config)
        write_json(out.with_suffix(".json"), {"settings": as_dict(config), **found})
        for line in checks:
            print("{picture}, {width}x{height}: {equal:.3%} of the labels are PyTorch's; ".format(**line)
                  + "largest difference of a probability: {largest_difference:.1e}".format(**line))  # fmt: skip
        least = LEAST_INT8 if config.file.int8 else LEAST_HALF if config.file.half else LEAST_EQUAL
        worst = min(checks, key=lambda line: line["equal"])
        if worst["equal"] < least:
            raise ValueError(
                f"the file gives other labels than PyTorch: only {worst['equal']:.3%} are equal ({least:.2%} are "
                f"asked for) in {worst['picture']} at {worst['width']}x{worst['height']}; the largest difference is in "
                f"row {worst['row']}, column {worst['column']}. {out} was not written."
            )
    rows, columns = size or TIMED_SIZE
    print("{:.0f} ms instead of {:.0f} in PyTorch".format(*found["milliseconds"]), f"for an image of {columns}x{rows}")
    if "mean_iou" in found:
        file_iou, iou = found["mean_iou"]
        print(f"mIoU {100 * file_iou:.2f}; the checkpoint has {100 * iou:.2f}")
        if iou - file_iou > MOST_LOST:
            print(f"warning: {100 * (iou - file_iou):.1f} points of mIoU are lost.", file=sys.stderr)
    elif config.file.int8:
        print("notice: 8 bits change some labels: --dataset_dir tells what that costs.")
    print(f"wrote {escape(out)} ({out.stat().st_size / 1e6:.1f} MB); report: {escape(out.with_suffix('.json'))}")
    return 0


def write_file(path: Path, model: Model, config: ExportConfig) -> None:
    """Write the network with everything that is needed to use it, in the format of the suffix."""
    assert isinstance(model.net, Network)
    size = config.file.size
    flags = without_paths(model.checkpoint.config)
    checkpoint = replace(model.checkpoint, arch=model.arch, classes=model.classes, config=flags)
    if path.suffix == SAFETENSORS:
        weights = model.net.state_dict()
        save_checkpoint(path, replace(checkpoint, state_dict=halve(weights) if config.file.half else weights))
        return
    net = fast_network(copy.deepcopy(model.net), torch.device("cpu"))
    net = net.half() if config.file.half else net
    deployed = Deployed(
        net, input=config.file.input, output=config.file.output, mean=checkpoint.mean, std=checkpoint.std,
        temperature=checkpoint.temperature,
    )  # fmt: skip
    source = {"sha256": hashlib.sha256(Path(config.model.snapshot).read_bytes()).hexdigest()}
    write_exported(path, deployed, {**describe(checkpoint), **source}, size)
    if config.file.int8:
        pictures = [picture for _, picture in read_pictures(Path(config.file.calibration), "--calibration")]
        quantise(path, [cv2.resize(one, size[::-1]) for one in pictures] if size else pictures)  # type: ignore[misc]


def without_paths(flags: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The flags of a training, without the folders of the machine that it ran on."""
    return {
        group: {name: value for name, value in values.items() if not (isinstance(value, str) and "/" in value)}
        for group, values in flags.items()
    }


def compare_labels(
    file: Predictor, reference: Predictor, name: str, picture: Uint8Array, size: tuple[int, int]
) -> dict[str, Any]:
    """Run both on a picture, resized; what an exported file gives by itself, in a batch of two.

    Returns the share of equal labels, and where the probabilities differ most.
    """
    image: Uint8Array = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    own, probabilities = (one.probabilities(image).numpy() for one in (file, reference))
    own_labels, labels = (one.predict(image).numpy() for one in (file, reference))
    if isinstance(file.net, ExportedNetwork):
        own_labels = file.net.label(np.stack([image, image[:, ::-1]]))[0]
    difference = np.abs(probabilities - own).max(0)
    row, column = np.unravel_index(difference.argmax(), difference.shape)
    return {
        "picture": name, "height": size[0], "width": size[1], "equal": float((labels == own_labels).mean()),
        "largest_difference": float(difference.max()), "row": int(row), "column": int(column),
    }  # fmt: skip


def time_both(both: tuple[Predictor, Predictor], picture: Uint8Array, size: tuple[int, int]) -> list[float]:
    """Median milliseconds for the picture, resized to `size`: of the file, and of the checkpoint in PyTorch."""
    image: Uint8Array = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    calls = (partial(predictor.predict, image) for predictor in both)
    # The first of each is slower.
    return [1000 * median(timeit.repeat(call, number=1, repeat=1 + TIMED_TIMES)[1:]) for call in calls]


def score_both(both: tuple[Predictor, Predictor], model: Model, config: ExportConfig) -> list[float]:
    """The mIoU of the file and of the checkpoint on a split, whole images at scale 1."""
    name, folder = config.model.dataset or model.checkpoint.dataset or DEFAULT_DATASET, config.check.dataset_dir
    spec = load_spec(name, folder)
    samples = find_samples(spec, dataset_root(name, folder), config.check.split)
    if samples[0].label_path is None:
        raise ValueError(f"--split {config.check.split}: {spec.name} has no labels for it, so there is no mIoU.")
    found = []
    for predictor in both:
        matrix = torch.zeros(spec.num_classes, spec.num_classes, dtype=torch.int64)
        for image, labels in (load_sample(sample, spec) for sample in samples):
            both_labels = torch.from_numpy(labels), predictor.predict(image)
            matrix += confusion_matrix(*both_labels, spec.num_classes, spec.ignore_label)
        found.append(scores(matrix, spec.class_names)["mean_iou"])
    return found


def read_pictures(path: Path, flag: str) -> list[tuple[str, Uint8Array]]:
    """The image, or the first ones of a folder, with their names. Raises ValueError if there is none."""
    paths = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES) if path.is_dir() else [path]
    if not paths:
        raise ValueError(f"{flag} {path} contains no images.")
    return [(one.name, read_image(one)) for one in paths[:MOST_IMAGES]]


if __name__ == "__main__":
    run_command(main, CONFIG)
