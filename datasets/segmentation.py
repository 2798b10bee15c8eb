"""Images and labels as arrays, and the training set made of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from datasets.files import Sample
from datasets.labels import read_label_file, train_ids, unknown_values
from datasets.specs.spec import DatasetSpec
from transforms.augmentation import TrainTransform
from utils.command import USER_ERRORS, one_line
from utils.images import Uint8Array, read_image

FEWEST_PASTED = 20  # pixels; of fewer, a class's crop would mostly show what is left of a label beside the image
PASTED_SHARE = 0.7  # of the rare classes that an image shows
MOST_NAMED = 8  # unknown values that one error lists

# How a sample becomes image [H, W, 3] uint8 RGB and train ids [H, W] uint8.
Load = Callable[[Sample], tuple[Uint8Array, Uint8Array]]


@dataclass(frozen=True)
class CropRequest:
    """One crop to make: from which sample, centred where (row, column), in which epoch and position in the epoch."""

    epoch: int
    position: int
    sample_index: int
    center: tuple[int, int] | None = None


def load_labels(sample: Sample, spec: DatasetSpec) -> Uint8Array:
    """The train ids [H, W] uint8 of `sample`, `ignore_label` where there is no class.

    Raises ValueError naming the file and the unknown values.
    """
    assert sample.label_path is not None, f"{sample.name} has no labels"
    pixels = read_label_file(sample.label_path, sample.masks)
    labels = train_ids(pixels, sample.masks, spec)
    unknown = unknown_values(pixels, labels)
    if unknown:
        values = ", ".join(str(value) for value, *_ in unknown[:MOST_NAMED])
        row, column = min(place for _, _, *place in unknown)
        raise ValueError(
            f"{sample.label_path}: label values {values} are not among {spec.name}'s (first at row {row}, column "
            f"{column}); check --dataset, or run python -m datasets.verify."
        )
    return labels


def load_sample(sample: Sample, spec: DatasetSpec) -> tuple[Uint8Array, Uint8Array]:
    """Image [H, W, 3] uint8 RGB and train ids [H, W] uint8, all ignored if it has no label file.

    Raises ValueError if their sizes differ.
    """
    image = read_image(sample.image_path)
    labels = load_labels(sample, spec) if sample.label_path else np.full(image.shape[:2], spec.ignore_label, np.uint8)
    if image.shape[:2] != labels.shape:
        raise ValueError(
            f"{sample.image_path} is {image.shape[1]}x{image.shape[0]}, its labels {sample.label_path} are "
            f"{labels.shape[1]}x{labels.shape[0]} pixels (width x height); they must have the same size."
        )
    return image, labels


class BadFiles:
    """Counts the files that cannot be read and are skipped, and warns of each, once however often it is drawn.

    skip_bad: how many there may be. when: when they were skipped, for the warning.
    """

    def __init__(self, skip_bad: int, when: str = "in training") -> None:
        self.skip_bad, self.when = skip_bad, when
        self.problems: set[str] = set()

    def skip(self, problem: str) -> None:
        """Continue without the file that `problem` names. Raises ValueError with it where that is one too many."""
        if problem in self.problems:
            return
        self.problems.add(problem)
        if (count := len(self.problems)) > self.skip_bad:
            raise ValueError(f"{problem} (--skip_bad {self.skip_bad} is exhausted)" if self.skip_bad else problem)
        tqdm.write(f"warning: skipped {self.when}, {count} of at most {self.skip_bad}: {problem}", file=sys.stderr)


class TrainingSet(Dataset[tuple[Tensor, Tensor, str]]):
    """Augmented crops, indexed by a `CropRequest`, on which alone and on the seed they depend, not on the process.

    Items are (image [3, H, W] uint8, labels [H, W] uint8, problems). In place of an image that cannot be read comes
    another of the first `num_images` samples, and `problems` says why, a line for each; at most `skip_bad` lines.
    Onto a share of the crops, `paste_share`, classes of `paste_classes` are pasted as they are in another image.
    """

    def __init__(
        self, samples: Sequence[Sample], load: Load, transform: TrainTransform, seed: int, *, num_images: int,
        skip_bad: int = 0, paste_share: float = 0.0, paste_classes: Sequence[int] = (),
    ) -> None:  # fmt: skip
        self.paste_share, self.paste_classes = paste_share, np.array(paste_classes, dtype=int)
        self.samples, self.load, self.transform, self.seed = list(samples), load, transform, seed
        self.num_images, self.skip_bad = num_images, skip_bad

    def crop(self, request: CropRequest) -> tuple[Tensor, Tensor]:
        """(image [3, H, W] uint8, labels [H, W] uint8). Raises the errors of reading the files."""
        image, labels = self.load(self.samples[request.sample_index])
        generator = np.random.default_rng((self.seed, request.epoch, request.position))
        image, labels = self.transform(image, labels, request.center, generator)
        if self.paste_share and generator.random() < self.paste_share:
            # Counted from the crop's own sample, so that one drawn in its place is not pasted the same bad file.
            other = (request.sample_index + int(generator.integers(self.num_images))) % self.num_images
            image, labels = self._paste(image, labels, self.samples[other], generator)
        return as_tensors(image, labels)

    def _paste(
        self, image: Uint8Array, labels: Uint8Array, sample: Sample, generator: np.random.Generator
    ) -> tuple[Uint8Array, Uint8Array]:
        """Paste rare classes of `sample`, augmented and cropped around one of them, with their labels: like ClassMix
        (arXiv:2007.07936), but of the classes that are scarce, most of those that are there, and labelled by people.
        """
        other_image, other_labels = self.load(sample)
        pixels = cv2.calcHist([other_labels], [0], None, [256], [0, 256]).ravel()[self.paste_classes]
        present = self.paste_classes[pixels >= FEWEST_PASTED]
        if not len(present):
            return image, labels
        rows, columns = np.nonzero(other_labels == generator.choice(present))
        place = generator.integers(len(rows))
        center = int(rows[place]), int(columns[place])
        other_image, other_labels = self.transform(other_image, other_labels, center, generator)
        pasted = np.isin(other_labels, present[generator.random(len(present)) < PASTED_SHARE])
        return np.where(pasted[..., None], other_image, image), np.where(pasted, other_labels, labels)

    def __getitem__(self, request: CropRequest) -> tuple[Tensor, Tensor, str]:
        problems: dict[int, str] = {}  # of the samples tried
        while True:
            try:
                return *self.crop(request), "\n".join(problems.values())
            except USER_ERRORS as error:
                untried = np.setdiff1d(np.arange(self.num_images), [*problems, request.sample_index])
                if len(problems) == self.skip_bad or not len(untried):
                    raise ValueError(one_line(error)) from error
                problems[request.sample_index] = one_line(error)
            generator = np.random.default_rng((self.seed, request.epoch, request.position, len(problems)))
            request = replace(request, sample_index=int(generator.choice(untried)), center=None)


def as_tensors(image: Uint8Array, labels: Uint8Array) -> tuple[Tensor, Tensor]:
    """(image [3, H, W] uint8, labels [H, W] uint8), contiguous copies."""
    planes = np.empty((3, *labels.shape), np.uint8)
    cv2.split(image, list(planes))  # six times as fast as NumPy's transpose
    return torch.from_numpy(planes), torch.from_numpy(np.array(labels))
