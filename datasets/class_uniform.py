"""Class-uniform sampling: a share of an epoch's crops is centred on classes drawn uniformly (CVPR 2019, section 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.segmentation import Draw
from utils.images import Uint8Array

# One row per place where a class can be found: pair index, row, column.
Places = NDArray[np.int32]


@dataclass(frozen=True)
class ClassIndex:
    """For every class, by train id, the places where it is to be found; empty where it never occurs.

    pixels: how many pixels each class has.
    """

    places: tuple[Places, ...]
    pixels: tuple[int, ...]


def build_class_index(
    num_pairs: int, load_labels: Callable[[int], Uint8Array], num_classes: int, tile: int, seed: int
) -> ClassIndex:
    """Per tile and class one real pixel of that class, partial tiles included.

    load_labels: pair index -> train ids [H, W].
    """
    found: list[list[tuple[int, int, int]]] = [[] for _ in range(num_classes)]
    pixels = np.zeros(num_classes, np.int64)
    for pair_index in range(num_pairs):
        labels = load_labels(pair_index)
        generator = np.random.default_rng((seed, pair_index))
        for train_id, row, column in pixels_of_classes(labels, num_classes, tile, generator):
            found[train_id].append((pair_index, row, column))
        pixels += np.bincount(labels.ravel(), minlength=num_classes)[:num_classes]
    return ClassIndex(tuple(np.array(rows, np.int32).reshape(-1, 3) for rows in found), tuple(pixels.tolist()))


def pixels_of_classes(
    labels: Uint8Array, num_classes: int, tile: int, generator: np.random.Generator
) -> list[tuple[int, int, int]]:
    """(train id, row, column) of one random pixel per tile and class present in labels [H, W]."""
    chosen = []
    height, width = labels.shape
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            part = labels[top : top + tile, left : left + tile]
            counts = np.bincount(part.ravel(), minlength=num_classes)[:num_classes]
            for train_id in np.flatnonzero(counts):
                which = int(generator.integers(counts[train_id]))
                position = int(np.flatnonzero(part.ravel() == train_id)[which])
                row, column = divmod(position, part.shape[1])
                chosen.append((int(train_id), top + row, left + column))
    return chosen


def draw_epoch(
    *, seed: int, epoch: int, num_images: int, length: int, share: float, class_index: ClassIndex | None
) -> list[Draw]:
    """The samples of one epoch, shuffled: `share` of them class-uniform, the rest each image equally often.

    num_images: plain images are pairs 0 … num_images - 1; class places may name further pairs. The length is kept even
    if classes are absent: those present share the class-uniform part.
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
    """`fine`, joined by the places of `classes` in a second list of pairs, counted from `first_pair` on."""
    offset = np.array([first_pair, 0, 0], np.int32)
    places = tuple(
        np.concatenate([own, more + offset]) if train_id in classes else own
        for train_id, (own, more) in enumerate(zip(fine.places, coarse.places, strict=True))
    )
    return ClassIndex(places, fine.pixels)
