"""What is in an image and its label file: size, classes, and what is wrong with them."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from datasets.index import Pair
from datasets.label_files import UNKNOWN, read_mask, train_ids, unknown_values
from datasets.spec import DatasetSpec
from utils.command import one_line
from utils.images import read_image

CHUNK = 8  # pairs handed to a process at once
MOST_VALUES = 20  # unknown values reported per file


@dataclass(frozen=True)
class Finding:
    """One problem. kind: for counting; file: the one to fix; message: what is wrong, and where."""

    kind: str
    file: str
    message: str


@dataclass(frozen=True)
class Examined:
    """What a pair holds.

    size: (height, width) of the image, None if it cannot be read. digest: of its pixels, so equal for the same image
    in two files. class_pixels: of each class in train id order, then of no class; () if there are no labels.
    """

    size: tuple[int, int] | None
    digest: str
    class_pixels: tuple[int, ...]
    findings: tuple[Finding, ...]


def examine(pair: Pair, spec: DatasetSpec) -> Examined:
    """Read and check both files. Never raises for a problem with a file."""
    findings: list[Finding] = []
    size, digest = None, ""
    try:
        image = read_image(pair.image)
        size, digest = image.shape[:2], hashlib.blake2b(image.data, digest_size=16).hexdigest()
    except (ValueError, OSError) as error:
        findings.append(Finding("unreadable", str(pair.image), one_line(error)))
    class_pixels, wrong = _examine_labels(pair, spec, size) if pair.labels else ((), [])
    return Examined(size, digest, class_pixels, (*findings, *wrong))


def examine_all(pairs: Sequence[Pair], spec: DatasetSpec, num_workers: int) -> Iterator[Examined]:
    """`examine` for each of `pairs`, in their order, on `num_workers` processes (0 or 1: in this one)."""
    task = partial(examine, spec=spec)
    if num_workers <= 1 or len(pairs) <= CHUNK:
        yield from map(task, pairs)
        return
    # "spawn": forking a process that runs threads may hang, and the caller may be one.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=_one_thread) as pool:
        yield from pool.map(task, pairs, chunksize=CHUNK)


def _examine_labels(
    pair: Pair, spec: DatasetSpec, image_size: tuple[int, int] | None
) -> tuple[tuple[int, ...], list[Finding]]:
    file = str(pair.labels)
    try:
        pixels = read_mask(pair)
    except (ValueError, OSError) as error:
        return (), [Finding("unreadable", file, one_line(error))]
    labels = train_ids(pixels, pair.masks, spec)
    findings = []
    if image_size is not None and labels.shape != image_size:
        (height, width), (rows, columns) = image_size, labels.shape
        message = f"{file} is {columns}x{rows}, but its image {pair.image} is {width}x{height} (width x height)"
        findings.append(Finding("size", file, message))
    for stranger in unknown_values(pixels, labels)[:MOST_VALUES]:
        place = f"pixels: {stranger.pixels}, the first at row {stranger.row}, column {stranger.column}"
        what = f"{file}: value {stranger.value} is not a class of {spec.name} ({place})"
        findings.append(Finding("label value", file, what))
    counts = np.bincount(labels.ravel(), minlength=256)
    class_pixels = (*counts[: spec.num_classes].tolist(), int(counts[UNKNOWN] + counts[spec.ignore_label]))
    return class_pixels, findings


def _one_thread() -> None:
    cv2.setNumThreads(1)  # the processes share the cores already
