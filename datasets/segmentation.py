"""Images and labels as arrays, and the training and validation sets made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets.index import Pair
from datasets.label_files import read_mask, train_ids, unknown_values
from datasets.spec import DatasetSpec
from utils.images import Uint8Array, read_image

MOST_NAMED = 8  # unknown values that one error lists

# How a pair becomes image [H, W, 3] uint8 RGB and train ids [H, W] uint8.
Load = Callable[[Pair], tuple[Uint8Array, Uint8Array]]

# Joint transform of one sample: image, labels, where to centre the crop (row, column) or None, random generator.
Transform = Callable[
    [Uint8Array, Uint8Array, "tuple[int, int] | None", np.random.Generator], tuple[Uint8Array, Uint8Array]
]


@dataclass(frozen=True)
class Draw:
    """One training sample to make: which pair, centred where, in which epoch and position in the epoch."""

    epoch: int
    place: int
    pair_index: int
    center: tuple[int, int] | None = None


def load_labels(pair: Pair, spec: DatasetSpec) -> Uint8Array:
    """The train ids [H, W] uint8 of `pair`, `ignore_label` where there is no class.

    Raises ValueError naming the file and the unknown values.
    """
    pixels = read_mask(pair)
    labels = train_ids(pixels, pair.masks, spec)
    strangers = unknown_values(pixels, labels)
    if strangers:
        values = ", ".join(str(stranger.value) for stranger in strangers[:MOST_NAMED])
        first = min(strangers, key=lambda stranger: (stranger.row, stranger.column))
        raise ValueError(
            f"{pair.labels}: label values {values} are not among {spec.name}'s (first at row {first.row}, column "
            f"{first.column}); check --dataset, or run python -m datasets.verify."
        )
    return labels


def load_pair(pair: Pair, spec: DatasetSpec) -> tuple[Uint8Array, Uint8Array]:
    """Image [H, W, 3] uint8 RGB and train ids [H, W] uint8. Raises ValueError if their sizes differ."""
    image, labels = read_image(pair.image), load_labels(pair, spec)
    if image.shape[:2] != labels.shape:
        raise ValueError(
            f"{pair.image} is {image.shape[1]}x{image.shape[0]}, its labels {pair.labels} are "
            f"{labels.shape[1]}x{labels.shape[0]} pixels (width x height); they must have the same size."
        )
    return image, labels


class TrainingSet(Dataset[tuple[Tensor, Tensor]]):
    """Augmented crops. Indexed by a `Draw`; a sample depends only on (seed, epoch, place), not on the process.

    Samples are (image [3, H, W] uint8, labels [H, W] uint8). load: None to decode the files.
    """

    def __init__(
        self, pairs: Sequence[Pair], spec: DatasetSpec, transform: Transform, seed: int, load: Load | None = None
    ) -> None:
        self.pairs = list(pairs)
        self.load = load or partial(load_pair, spec=spec)
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        image, labels = self.load(self.pairs[draw.pair_index])
        generator = np.random.default_rng((self.seed, draw.epoch, draw.place))
        return as_tensors(*self.transform(image, labels, draw.center, generator))


class ValidationSet(Dataset[tuple[Tensor, Tensor]]):
    """Whole images and labels, unchanged. load: None to decode the files."""

    def __init__(self, pairs: Sequence[Pair], spec: DatasetSpec, load: Load | None = None) -> None:
        self.pairs = list(pairs)
        self.load = load or partial(load_pair, spec=spec)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return as_tensors(*self.load(self.pairs[index]))


def as_tensors(image: Uint8Array, labels: Uint8Array) -> tuple[Tensor, Tensor]:
    """(image [3, H, W] uint8, labels [H, W] uint8), contiguous copies."""
    planes = np.empty((3, *labels.shape), np.uint8)
    cv2.split(image, list(planes))  # six times as fast as NumPy's transpose
    return torch.from_numpy(planes), torch.from_numpy(np.array(labels))
