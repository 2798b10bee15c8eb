"""Class-uniform sampling: a share of an epoch's crops is centred on classes drawn uniformly (CVPR 2019, section 4)."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.files import Sample
from datasets.segmentation import BadFiles, CropRequest, load_labels
from datasets.specs.spec import DatasetSpec
from utils.command import USER_ERRORS, one_line
from utils.files import atomic_path, writable_folder
from utils.images import Uint8Array
from utils.parallel import in_parallel

# One row per place where a class can be found: pair index, row, column.
Places = NDArray[np.int32]

_PIXELS_PER_LOOK = 256  # pixels of a tile per random look into it


@dataclass(frozen=True)
class Scan:
    """What one label map contains. places [N, 3]: train id, row, column; pixels: count of each class."""

    places: NDArray[np.int32]
    pixels: NDArray[np.int64]


@dataclass(frozen=True)
class ClassIndex:
    """For every class, by train id, the places where it is found; empty if it never occurs.

    pixels: count of each class.
    """

    places: tuple[Places, ...]
    pixels: tuple[int, ...]


def class_index(scans: Iterable[Scan], num_classes: int) -> ClassIndex:
    """The index of all pairs, from one scan per pair in the pairs' order."""
    rows: list[NDArray[np.int32]] = [np.empty((0, 4), np.int32)]
    pixels = np.zeros(num_classes, np.int64)
    for pair_index, scan in enumerate(scans):
        rows.append(np.insert(scan.places, 1, pair_index, axis=1))
        pixels += scan.pixels
    table = np.concatenate(rows)
    return ClassIndex(tuple(table[table[:, 0] == c, 1:] for c in range(num_classes)), tuple(pixels.tolist()))


def scan_labels(labels: Uint8Array, num_classes: int, tile: int, generator: np.random.Generator) -> Scan:
    """One random pixel per tile and class of labels [H, W], each pixel of the class as likely as the others."""
    places = [np.empty((0, 3), np.int64)]
    pixels = np.zeros(num_classes, np.int64)
    height, width = labels.shape
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            part = labels[top : top + tile, left : left + tile]
            counts = cv2.calcHist([part], [0], None, [256], [0, 256]).ravel()[:num_classes].astype(np.int64)
            pixels += counts
            places.append(_one_pixel_each(part, np.flatnonzero(counts), generator) + np.array([0, top, left]))
    return Scan(np.concatenate(places).astype(np.int32), pixels)


def _one_pixel_each(
    part: Uint8Array, present: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """(train id, row, column) of one random pixel of each class in `present`."""
    # Random looks find the common classes, each at a random pixel of its own, without a pass over the tile per class;
    # the remaining classes are searched.
    looked = generator.integers(part.size, size=1 + part.size // _PIXELS_PER_LOOK)
    seen, first = np.unique(part[np.divmod(looked, part.shape[1])], return_index=True)
    where = dict(zip(seen.tolist(), looked[first].tolist(), strict=True))
    for train_id in np.setdiff1d(present, seen).tolist():
        positions = np.flatnonzero(part == train_id)
        where[train_id] = positions[generator.integers(len(positions))]
    position = np.array([where[train_id] for train_id in present.tolist()], np.int64)
    return np.stack([present, *np.divmod(position, part.shape[1])], axis=1)


def draw_epoch(
    *, seed: int, epoch: int, num_images: int, length: int, share: float, class_index: ClassIndex | None
) -> list[CropRequest]:
    """The samples of one epoch, shuffled: `share` of them class-uniform, the rest each image equally often.

    num_images: plain images are pairs 0 … num_images - 1; class places may refer to further pairs. The length does not
    change if classes are absent: those present share the class-uniform part.
    """
    generator = np.random.default_rng((seed, epoch))
    present = [places for places in class_index.places if len(places)] if class_index else []
    num_uniform = round(length * share) if present else 0
    # Every image floor(n / num_images) times, the remainder drawn without repetition.
    order = np.concatenate([generator.permutation(num_images) for _ in range(-(-length // num_images))])
    chosen: list[tuple[int, tuple[int, int] | None]] = [(int(i), None) for i in order[: length - num_uniform]]
    first = int(generator.integers(len(present))) if present else 0
    for turn in range(num_uniform):
        places = present[(first + turn) % len(present)]
        pair_index, row, column = places[generator.integers(len(places))]
        chosen.append((int(pair_index), (int(row), int(column))))
    return [CropRequest(epoch, place, *chosen[which]) for place, which in enumerate(generator.permutation(length))]


def with_places(fine: ClassIndex, coarse: ClassIndex, classes: Sequence[int], first_pair: int) -> ClassIndex:
    """`fine`, with the places of `classes` in a second list of pairs added, whose first pair is `first_pair`."""
    offset = np.array([first_pair, 0, 0], np.int32)
    places = tuple(
        np.concatenate([own, more + offset]) if train_id in classes else own
        for train_id, (own, more) in enumerate(zip(fine.places, coarse.places, strict=True))
    )
    return ClassIndex(places, fine.pixels)


_VERSION = 1  # increase it when the same files would give another index


@dataclass(frozen=True)
class IndexPlan:
    """All that determines an index. root: base of its relative paths; tile: side in pixels."""

    pairs: Sequence[Sample]
    spec: DatasetSpec
    root: Path
    tile: int
    seed: int

    def label_paths(self) -> list[str]:
        """The label files, relative to the root; those of propagated frames may lie outside it."""
        return [Path(os.path.relpath(path, self.root)).as_posix() for path in self._label_files()]

    def key(self) -> str:
        """A hash of the files, their sizes and times, the mapping of values, tile and seed."""
        digest = hashlib.blake2b(repr((_VERSION, self.spec, self.tile, self.seed)).encode(), digest_size=12)
        for name, path in zip(self.label_paths(), self._label_files(), strict=True):
            found = path.stat()
            digest.update(repr((name, found.st_size, found.st_mtime_ns)).encode())
        return digest.hexdigest()

    def _label_files(self) -> list[Path]:
        return [pair.label_path for pair in self.pairs if pair.label_path is not None]

    def scan(self, pair_index: int) -> Scan | str:
        """What the labels of a pair contain; the reason if they cannot be read."""
        try:
            labels = load_labels(self.pairs[pair_index], self.spec)
        except USER_ERRORS as error:
            return one_line(error)
        return scan_labels(labels, self.spec.num_classes, self.tile, np.random.default_rng((self.seed, pair_index)))


def index_of_classes(
    plan: IndexPlan, folder: Path, *, num_workers: int, skip_bad: int = 0, write: bool = True, show: bool = True
) -> ClassIndex:
    """The index stored in `folder`, else a new one, which is stored if `write`.

    skip_bad: how many unreadable label files are skipped, each with a warning; an index with such gaps is not stored.
    show: draw a progress bar and warn. Raises ValueError naming the file if there are more.
    """
    path = folder / f"{plan.spec.name}_{plan.key()}.npz"
    kept = _load(path, plan)
    if kept is not None:
        return kept
    if write:
        writable_folder(folder, "--index_dir")
    bad_files = BadFiles(skip_bad, "while indexing classes", show=show)
    scans: list[Scan] = []
    nothing = Scan(np.empty((0, 3), np.int32), np.zeros(plan.spec.num_classes, np.int64))
    for scan in in_parallel(plan.scan, len(plan.pairs), num_workers=num_workers, title="index classes", show=show):
        if isinstance(scan, str):
            bad_files.skip(scan)
        scans.append(nothing if isinstance(scan, str) else scan)
    index = class_index(scans, plan.spec.num_classes)
    if write and bad_files.count == 0:
        _save(path, plan, index)
    return index


def _save(path: Path, plan: IndexPlan, index: ClassIndex) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            label_files=np.array(plan.label_paths()),
            pixels=np.array(index.pixels, np.int64),
            places=np.concatenate(index.places),
            num_places=np.array([len(places) for places in index.places]),
        )


def _load(path: Path, plan: IndexPlan) -> ClassIndex | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            ends = np.cumsum(file["num_places"])[:-1]
            if file["label_files"].tolist() == plan.label_paths():
                return ClassIndex(tuple(np.split(file["places"], ends)), tuple(file["pixels"].tolist()))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # missing or damaged: it is made again
    return None
