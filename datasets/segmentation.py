"""Images and labels as arrays, and the training and validation sets made of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm import tqdm

from datasets.files import Sample
from datasets.labels import read_mask, train_ids, unknown_values
from datasets.specs.spec import DatasetSpec
from utils.command import USER_ERRORS, one_line
from utils.images import Uint8Array, read_image

MOST_NAMED = 8  # unknown values that one error lists

# How a pair becomes image [H, W, 3] uint8 RGB and train ids [H, W] uint8.
Load = Callable[[Sample], tuple[Uint8Array, Uint8Array]]

# Joint transform of one sample: image, labels, where to centre the crop (row, column) or None, random generator.
Transform = Callable[
    [Uint8Array, Uint8Array, "tuple[int, int] | None", np.random.Generator], tuple[Uint8Array, Uint8Array]
]


@dataclass(frozen=True)
class CropRequest:
    """One training sample to make: which pair, centred where, in which epoch and position in the epoch."""

    epoch: int
    place: int
    pair_index: int
    center: tuple[int, int] | None = None


def load_labels(pair: Sample, spec: DatasetSpec) -> Uint8Array:
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
            f"{pair.label_path}: label values {values} are not among {spec.name}'s (first at row {first.row}, column "
            f"{first.column}); check --dataset, or run python -m datasets.verify."
        )
    return labels


def load_sample(pair: Sample, spec: DatasetSpec) -> tuple[Uint8Array, Uint8Array]:
    """Image [H, W, 3] uint8 RGB and train ids [H, W] uint8. Raises ValueError if their sizes differ."""
    image, labels = read_image(pair.image_path), load_labels(pair, spec)
    if image.shape[:2] != labels.shape:
        raise ValueError(
            f"{pair.image_path} is {image.shape[1]}x{image.shape[0]}, its labels {pair.label_path} are "
            f"{labels.shape[1]}x{labels.shape[0]} pixels (width x height); they must have the same size."
        )
    return image, labels


class TrainingSet(Dataset[tuple[Tensor, Tensor]]):
    """Augmented crops. Indexed by a `CropRequest`; a sample depends only on (seed, epoch, place), not on the process.

    Samples are (image [3, H, W] uint8, labels [H, W] uint8). load: None to decode the files.
    """

    def __init__(
        self, pairs: Sequence[Sample], spec: DatasetSpec, transform: Transform, seed: int, load: Load | None = None
    ) -> None:
        self.pairs = list(pairs)
        self.load = load or partial(load_sample, spec=spec)
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, draw: CropRequest) -> tuple[Tensor, Tensor]:
        image, labels = self.load(self.pairs[draw.pair_index])
        generator = np.random.default_rng((self.seed, draw.epoch, draw.place))
        return as_tensors(*self.transform(image, labels, draw.center, generator))


class ValidationSet(Dataset[tuple[Tensor, Tensor]]):
    """Whole images and labels, unchanged. load: None to decode the files."""

    def __init__(self, pairs: Sequence[Sample], spec: DatasetSpec, load: Load | None = None) -> None:
        self.pairs = list(pairs)
        self.load = load or partial(load_sample, spec=spec)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return as_tensors(*self.load(self.pairs[index]))


def as_tensors(image: Uint8Array, labels: Uint8Array) -> tuple[Tensor, Tensor]:
    """(image [3, H, W] uint8, labels [H, W] uint8), contiguous copies."""
    planes = np.empty((3, *labels.shape), np.uint8)
    cv2.split(image, list(planes))  # six times as fast as NumPy's transpose
    return torch.from_numpy(planes), torch.from_numpy(np.array(labels))


# An image, its labels, and a message for each unreadable pair that they replace.
TrainingItem = tuple[Tensor, Tensor, list[str]]


class BadFiles:
    """Counts the files that cannot be read and are skipped, and warns of each, once however often it is drawn.

    skip_bad: how many there may be. when: when they were skipped, for the warning. show: warn.
    """

    def __init__(self, skip_bad: int, when: str = "", *, show: bool = True) -> None:
        self.skip_bad = skip_bad
        self.skipped = f"skipped {when}" if when else "skipped"
        self.show = show
        self._problems: set[str] = set()

    @property
    def count(self) -> int:
        """How many there were so far."""
        return len(self._problems)

    def skip(self, problem: str) -> None:
        """Continue without the file that `problem` names. Raises ValueError with it where that is one too many."""
        if problem in self._problems:
            return
        self._problems.add(problem)
        if self.count > self.skip_bad:
            raise one_too_many(problem, self.skip_bad)
        if self.show:
            tqdm.write(f"warning: {self.skipped}, {self.count} of at most {self.skip_bad}: {problem}", file=sys.stderr)


def one_too_many(problem: str, skip_bad: int) -> ValueError:
    """The error of a file that may no longer be skipped."""
    return ValueError(f"{problem} (--skip_bad {skip_bad} is exhausted)" if skip_bad else problem)


class SkippingSet(Dataset[TrainingItem]):
    """`samples`, with another image in place of one that cannot be read; which one depends only on the draw.

    num_images: the substitute is one of this many first pairs. skip_bad: how many files a sample may skip.
    """

    def __init__(self, samples: TrainingSet, num_images: int, skip_bad: int) -> None:
        self.samples = samples
        self.num_images = num_images
        self.skip_bad = skip_bad

    def __getitem__(self, draw: CropRequest) -> TrainingItem:
        problems: dict[int, str] = {}  # of the pairs tried
        while True:
            try:
                return *self.samples[draw], list(problems.values())
            except USER_ERRORS as error:
                untried = np.setdiff1d(np.arange(self.num_images), [*problems, draw.pair_index])
                if len(problems) == self.skip_bad or not len(untried):
                    raise one_too_many(one_line(error), self.skip_bad) from error
                problems[draw.pair_index] = one_line(error)
            generator = np.random.default_rng((self.samples.seed, draw.epoch, draw.place, len(problems)))
            draw = replace(draw, pair_index=int(generator.choice(untried)), center=None)


class TrainLoader:
    """Batches of (images [B, 3, H, W] uint8, labels [B, H, W] uint8); reports what was skipped, and counts it."""

    def __init__(self, loader: DataLoader[TrainingItem], skip_bad: int) -> None:
        self.loader = loader
        self.bad_files = BadFiles(skip_bad)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels, problems in self.loader:
            for problem in problems:
                self.bad_files.skip(problem)
            yield images, labels


def collate(samples: Sequence[TrainingItem]) -> tuple[Any, Any, list[str]]:
    """Samples of one size -> batch."""
    images, labels, problems = zip(*samples, strict=True)
    return default_collate(list(images)), default_collate(list(labels)), [text for texts in problems for text in texts]
