"""Class-uniform sampling: a share of an epoch's crops is centred on classes drawn uniformly (CVPR 2019, section 4)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.segmentation import Draw
from utils.images import Uint8Array

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
) -> list[Draw]:
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
    return [Draw(epoch, place, *chosen[which]) for place, which in enumerate(generator.permutation(length))]


def with_places(fine: ClassIndex, coarse: ClassIndex, classes: Sequence[int], first_pair: int) -> ClassIndex:
    """`fine`, with the places of `classes` in a second list of pairs added, whose first pair is `first_pair`."""
    offset = np.array([first_pair, 0, 0], np.int32)
    places = tuple(
        np.concatenate([own, more + offset]) if train_id in classes else own
        for train_id, (own, more) in enumerate(zip(fine.places, coarse.places, strict=True))
    )
    return ClassIndex(places, fine.pixels)
