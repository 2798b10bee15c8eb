"""Class-uniform sampling: a share of an epoch's crops is centred on classes drawn uniformly (CVPR 2019, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.files import Sample
from datasets.segmentation import BadFiles, CropRequest, load_labels
from datasets.specs.spec import DatasetSpec
from utils.command import USER_ERRORS, one_line
from utils.files import atomic_path, fingerprint, writable_folder
from utils.images import Uint8Array
from utils.parallel import SMALL_FILES, in_parallel

POSITIONS_VERSION = 3  # increase it when the same files would give other positions
PIXELS_PER_LOOK = 256  # pixels of a tile per random look into it


@dataclass(frozen=True)
class ClassPositions:
    """Where classes are in a list of samples.

    table: [N, 4] int32, rows of train id, sample index, row and column, in order of the samples.
    pixels: [number of samples, number of classes] int64.
    """

    table: NDArray[np.int32]
    pixels: NDArray[np.int64]

    @cached_property
    def by_class(self) -> list[NDArray[np.int32]]:
        """Sample index, row and column of all positions of each class that occurs."""
        rows = self.table[np.argsort(self.table[:, 0], kind="stable")]
        return np.split(rows[:, 1:], np.flatnonzero(np.diff(rows[:, 0])) + 1) if len(rows) else []

    def restrict(self, first: int, train_ids: Sequence[int]) -> ClassPositions:
        """Without the positions in samples from number `first` on that are not of `train_ids`."""
        stays = (self.table[:, 1] < first) | np.isin(self.table[:, 0], train_ids)
        return ClassPositions(self.table[stays], self.pixels)


def draw_epoch(
    *, seed: int, epoch: int, num_images: int, length: int, share: float, positions: ClassPositions | None
) -> list[CropRequest]:
    """The samples of one epoch, shuffled: `share` of them class-uniform, the rest each image equally often.

    num_images: plain images are samples 0 … num_images - 1; positions may be in further samples. The length does not
    change if classes are absent: those present share the class-uniform part.
    """
    generator = np.random.default_rng((seed, epoch))
    of_class = positions.by_class if positions else []
    num_uniform = round(length * share) if of_class else 0
    # Every image floor(n / num_images) times, the remainder drawn without repetition.
    order = np.concatenate([generator.permutation(num_images) for _ in range(-(-length // num_images))])
    chosen: list[tuple[int, tuple[int, int] | None]] = [(int(i), None) for i in order[: length - num_uniform]]
    first = int(generator.integers(len(of_class))) if of_class else 0
    for turn in range(num_uniform):
        rows = of_class[(first + turn) % len(of_class)]
        sample_index, row, column = rows[generator.integers(len(rows))].tolist()
        chosen.append((sample_index, (row, column)))
    return [CropRequest(epoch, position, *chosen[i]) for position, i in enumerate(generator.permutation(length))]


def scan_labels(
    labels: Uint8Array, num_classes: int, tile: int, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One random pixel per tile and class of labels [H, W], each pixel of the class as likely as the others.

    Returns rows of train id, row and column, [N, 3], and the number of pixels of each class, [num_classes].
    """
    found = [np.empty((0, 3), np.int64)]
    pixels = np.zeros(num_classes, np.int64)
    for top in range(0, labels.shape[0], tile):
        for left in range(0, labels.shape[1], tile):
            part = labels[top : top + tile, left : left + tile]
            counts = cv2.calcHist([part], [0], None, [256], [0, 256]).ravel()[:num_classes].astype(np.int64)
            pixels += counts
            found.append(_one_pixel_each(part, np.flatnonzero(counts), generator) + np.array([0, top, left]))
    return np.concatenate(found), pixels


def _one_pixel_each(part: Uint8Array, present: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """(train id, row, column) of one random pixel of each class in `present`."""
    # Random looks find the common classes without a pass over the tile per class; the remaining classes are searched.
    looked = generator.integers(part.size, size=1 + part.size // PIXELS_PER_LOOK)
    seen, first = np.unique(part.ravel()[looked], return_index=True)
    where = np.zeros(256, np.int64)
    where[seen] = looked[first]
    for train_id in np.setdiff1d(present, seen).tolist():
        candidates = np.flatnonzero(part == train_id)
        where[train_id] = candidates[generator.integers(len(candidates))]
    return np.stack([present, *np.divmod(where[present], part.shape[1])], axis=1)


@dataclass(frozen=True)
class PositionsPlan:
    """All that determines the class positions. root: base of relative paths; tile: side in pixels."""

    samples: Sequence[Sample]
    spec: DatasetSpec
    root: Path
    tile: int
    seed: int

    def key(self) -> str:
        """A hash of the label files, their sizes and times, the mapping of values, tile and seed."""
        settings = (POSITIONS_VERSION, self.spec, self.tile, self.seed)
        return fingerprint(settings, [s.label_path for s in self.samples if s.label_path], self.root)

    def scan(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.int64]] | str:
        """`scan_labels` of one sample; the reason if its labels cannot be read."""
        generator = np.random.default_rng((self.seed, index))
        try:
            labels = load_labels(self.samples[index], self.spec)
        except USER_ERRORS as error:
            return one_line(error)
        return scan_labels(labels, self.spec.num_classes, self.tile, generator)


def find_positions(plan: PositionsPlan, folder: Path, num_workers: int, skip_bad: int = 0) -> ClassPositions:
    """The class positions stored in `folder`, else new ones, which are stored there.

    skip_bad: how many unreadable label files are skipped, each with a warning; then nothing is stored, so that the
    next run tells of them too. Raises ValueError naming the file if there are more.
    """
    path, shape = folder / f"{plan.spec.name}_{plan.key()}.npz", (len(plan.samples), plan.spec.num_classes)
    with suppress(Exception), np.load(path) as file:  # missing, or so damaged that NumPy may raise anything
        return ClassPositions(file["table"].reshape(-1, 4), file["pixels"].reshape(shape))
    writable_folder(folder, "--index_dir")
    bad_files = BadFiles(skip_bad, "while finding class positions")
    tables, pixels = [np.empty((0, 4), np.int64)], np.zeros(shape, np.int64)
    scans = in_parallel(plan.scan, range(len(plan.samples)), num_workers, title="positions", least=SMALL_FILES)
    for index, scan in enumerate(scans):
        if isinstance(scan, str):
            bad_files.skip(scan)
        else:
            tables.append(np.insert(scan[0], 1, index, axis=1))
            pixels[index] = scan[1]
    positions = ClassPositions(np.concatenate(tables).astype(np.int32), pixels)
    if not bad_files.problems:
        with atomic_path(path) as temporary, temporary.open("wb") as stored:
            np.savez(stored, table=positions.table, pixels=positions.pixels)
    return positions
