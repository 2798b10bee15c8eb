"""What is in an image and its label file: size, classes, and what is wrong with them."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.index import Pair
from datasets.label_files import UNKNOWN, read_mask, train_ids, unknown_values
from datasets.spec import EITHER, TRAIN_IDS, DatasetSpec
from utils.command import one_line
from utils.decoding import UPRIGHT
from utils.images import exif_orientation, read_image, read_palette

CHUNK = 8  # pairs handed to a process at once
MOST_VALUES = 20  # unknown values reported per file
ALIKE = ("palette", "three channels")  # kinds of findings that are the same for every file of a set


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
    turned: whether EXIF turns the image. holds_default_ignore: whether the labels contain 255 and no class claims it.
    """

    size: tuple[int, int] | None
    digest: str
    class_pixels: tuple[int, ...]
    findings: tuple[Finding, ...]
    turned: bool = False
    holds_default_ignore: bool = False


def examine(pair: Pair, spec: DatasetSpec) -> Examined:
    """Read and check both files. Never raises for a problem with a file."""
    findings: list[Finding] = []
    size, digest, turned = None, "", False
    try:
        image = read_image(pair.image)
        turned = exif_orientation(pair.image) != UPRIGHT
        size, digest = image.shape[:2], hashlib.blake2b(image.data, digest_size=16).hexdigest()
    except (ValueError, OSError) as error:
        findings.append(Finding("unreadable", str(pair.image), one_line(error)))
    of_labels = _examine_labels(pair, spec, size, turned) if pair.labels else Examined(None, "", (), ())
    return replace(of_labels, size=size, digest=digest, findings=(*findings, *of_labels.findings), turned=turned)


def palette_doubt(pair: Pair, pixels: NDArray[np.integer], spec: DatasetSpec) -> str | None:
    """What the palette of a label file says against reading it as ids; None where it says nothing, or is not asked.

    pixels: what the file holds, see `read_mask`. A palette counts where most of the indices that occur, and at least
    two, have the colour of a class: others are made up by programs, for the eye.
    """
    if pair.masks != EITHER or pixels.ndim != 2 or pair.labels is None:
        return None
    palette = dict(enumerate(read_palette(pair.labels)))
    if not palette:
        return None
    of_id, of_color = spec.train_id_of_label_id(), spec.train_id_of_color()
    occurring = np.unique(pixels).tolist()
    told = {i: of_color[palette[i]] for i in occurring if palette.get(i) in of_color}
    wrong = [i for i, train_id in told.items() if of_id.get(i) != train_id]
    if not wrong or len(told) < 2 or 2 * len(told) <= len(occurring):
        return None
    index = wrong[0]
    return (
        f"the palette says index {index} is the colour of {_class_name(told[index], spec)}, classes.json says index "
        f'{index} is {_class_name(of_id.get(index), spec)}; is it "masks": "colors"? ("masks": "ids" where it is not)'
    )


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


def _examine_labels(pair: Pair, spec: DatasetSpec, image_size: tuple[int, int] | None, turned: bool) -> Examined:
    """What `examine` says of the label file; nothing of the image."""
    file = str(pair.labels)
    try:
        pixels = read_mask(pair)
        doubt = palette_doubt(pair, pixels, spec)
    except (ValueError, OSError) as error:
        return Examined(None, "", (), (Finding("unreadable", file, one_line(error)),))
    labels = train_ids(pixels, pair.masks, spec)
    findings = [Finding("palette", file, f"{file}: {doubt}")] if doubt else []
    if image_size is not None and labels.shape != image_size:
        (height, width), (rows, columns) = image_size, labels.shape
        message = f"{file} is {columns}x{rows}, but its image {pair.image} is {width}x{height} (width x height)"
        if turned:
            message += "; the likely cause: the image is turned upright by its EXIF rotation, the mask is not"
        findings.append(Finding("size", file, message))
    strangers = unknown_values(pixels, labels)
    if strangers and _are_ids_in_three_channels(pixels, spec):
        what = f"{file}: these are ids in three equal channels: save one channel"
        findings.append(Finding("three channels", file, what))
        strangers = []
    for stranger in strangers[:MOST_VALUES]:
        place = f"pixels: {stranger.pixels}, the first at row {stranger.row}, column {stranger.column}"
        what = f"{file}: value {stranger.value} is not a class of {spec.title} ({place})"
        findings.append(Finding("label value", file, what))
    counts = np.bincount(labels.ravel(), minlength=256)
    class_pixels = (*counts[: spec.num_classes].tolist(), int(counts[UNKNOWN] + counts[spec.ignore_label]))
    default = spec.ignore_label
    declared = {*spec.ignored_ids, *(i for c in spec.classes for i in c.label_ids)}
    read_as_ids = pixels.ndim == 2 and pair.masks != TRAIN_IDS
    holds_default = read_as_ids and default not in declared and bool((pixels == default).any())
    return Examined(None, "", class_pixels, tuple(findings), holds_default_ignore=holds_default)


def _are_ids_in_three_channels(pixels: NDArray[np.integer], spec: DatasetSpec) -> bool:
    """Whether a mask of colours is grey throughout and most of its values are ids of the set."""
    if pixels.ndim != 3 or (pixels[..., :1] != pixels[..., 1:]).any():
        return False
    values = np.unique(pixels[..., 0]).tolist()
    known = spec.train_id_of_label_id()
    return 2 * sum(value in known for value in values) > len(values)


def _class_name(train_id: int | None, spec: DatasetSpec) -> str:
    if train_id is None:
        return "nothing"
    return "no class" if train_id == spec.ignore_label else f"`{spec.class_names[train_id]}`"


def _one_thread() -> None:
    cv2.setNumThreads(1)  # the processes share the cores already
