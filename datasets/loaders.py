"""Build the loaders that a config describes; the cache of decoded images that they may read."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from config import AugmentConfig, DataConfig
from datasets.class_positions import ClassPositions, PositionsPlan, draw_epoch, find_positions
from datasets.files import Sample, dataset_root, find_samples
from datasets.frames import samples_of_video
from datasets.segmentation import BadFiles, CropRequest, Load, TrainingSet, as_tensors, load_sample
from datasets.specs.spec import DatasetSpec
from transforms.augmentation import TrainTransform
from utils.command import USER_ERRORS, one_line
from utils.distributed import Processes, wait_for_all
from utils.files import atomic_path, fingerprint, writable_folder
from utils.flags import parse_numbers
from utils.images import Uint8Array
from utils.parallel import SMALL_FILES, default_num_workers, in_parallel, prepare_worker

CACHE_VERSION = 4  # increase it when the same files would decode differently


@dataclass(frozen=True)
class DecodedCache:
    """Decoded samples of one data set in `folder`, mapped into memory. Reading never writes; `fill` does.

    A training crop reads only its own rows. 4 bytes per pixel: 8.4 MB for 2048x1024.
    """

    folder: Path
    spec: DatasetSpec

    def paths_of(self, sample: Sample) -> tuple[Path, Path]:
        """The files of image and labels, named by the classes and by paths, sizes and times of the sample's files."""
        files = [path for path in (sample.image_path, sample.label_path) if path is not None]
        name = fingerprint((CACHE_VERSION, self.spec), files)
        stem = self.folder / self.spec.name / name[:2] / name[2:]
        return stem.with_suffix(".image.npy"), stem.with_suffix(".labels.npy")

    def load(self, sample: Sample) -> tuple[Uint8Array, Uint8Array]:
        """Image [H, W, 3] uint8 RGB and train ids [H, W] uint8, read-only; from its own files if it is not cached."""
        with suppress(Exception):  # missing, or so damaged that NumPy may raise anything
            image, labels = (np.load(path, mmap_mode="r") for path in self.paths_of(sample))
            if image.shape == (*labels.shape, 3) and image.dtype == labels.dtype == np.uint8:
                return image, labels
        return load_sample(sample, self.spec)

    def fill(self, samples: Sequence[Sample], *, num_workers: int, skip_bad: int = 0) -> None:
        """Decode the samples that are not cached, or whose files changed since. May be interrupted.

        skip_bad: how many samples that cannot be decoded are skipped, each with a warning.
        Raises ValueError naming the file if there are more, OSError if the folder cannot be written.
        """
        writable_folder(self.folder, "--cache_dir")
        bad_files = BadFiles(skip_bad, "while decoding images")
        for problem in in_parallel(self._keep, samples, num_workers, title="decode images", least=SMALL_FILES):
            if problem is not None:
                bad_files.skip(problem)

    def _keep(self, sample: Sample) -> str | None:
        """Make sure that the cache holds the sample. Returns the reason if its files cannot be decoded."""
        try:
            paths = self.paths_of(sample)
            if all(path.is_file() for path in paths):
                return None
            arrays = load_sample(sample, self.spec)
        except USER_ERRORS as error:
            return one_line(error)
        for path, array in zip(paths, arrays, strict=True):
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, array)
        return None


@dataclass(frozen=True)
class LoaderOptions:
    """How samples are loaded. num_workers: None for one per core; processes: among which the samples are split."""

    processes: Processes
    num_workers: int | None = None
    pin_memory: bool = False

    def count(self) -> int:
        """The number of loader processes."""
        return default_num_workers() if self.num_workers is None else self.num_workers

    def for_loader(self) -> dict[str, Any]:
        """Keyword arguments of `DataLoader`."""
        # A loader with persistent workers draws a seed once, one without workers at each epoch. From the global
        # generator, which dropout uses, a run would depend on the number of workers and on interruptions.
        options = {"num_workers": self.count(), "pin_memory": self.pin_memory, "generator": torch.Generator()}
        several = {"worker_init_fn": prepare_worker, "persistent_workers": True, "prefetch_factor": 3}
        return options | (several if self.count() else {})


@dataclass(frozen=True)
class TrainData:
    """Batches of (images [B, 3, H, W] uint8, labels [B, H, W] uint8) of one epoch.

    samples: those of the split. draw: epoch -> this process's crops of it. crops: those that the loader visits next.
    class_pixels: how often each class occurs in the training labels; None unless requested or known anyway.
    """

    samples: list[Sample]
    loader: DataLoader[tuple[Tensor, Tensor, str]]
    draw: Callable[[int], list[CropRequest]]
    crops: list[CropRequest]
    batch: int
    bad_files: BadFiles
    class_pixels: tuple[int, ...] | None

    def epoch(self, epoch: int, num_done: int = 0) -> TrainData:
        """Itself, set to visit `epoch` without its first `num_done` batches."""
        self.crops[:] = self.draw(epoch)[num_done * self.batch :]
        return self

    def names(self, epoch: int, first: int, count: int) -> list[str]:
        """The images of `count` of this process's batches of an epoch, from number `first` on."""
        dataset: Any = self.loader.dataset
        crops = self.draw(epoch)[first * self.batch : (first + count) * self.batch]
        return [dataset.samples[crop.sample_index].name for crop in crops]

    def __len__(self) -> int:
        return len(self.loader)  # the batches that are left

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels, problems in self.loader:
            for problem in filter(None, "\n".join(problems).split("\n")):
                self.bad_files.skip(problem)
            yield images, labels


def train_data(
    data: DataConfig, augment: AugmentConfig, spec: DatasetSpec, options: LoaderOptions, *, seed: int,
    count_pixels: bool = False,
) -> TrainData:  # fmt: skip
    """Everything that training draws its batches from."""
    transform = TrainTransform(augment, spec.ignore_label)  # tells wrong flags before anything is prepared
    root, processes = dataset_root(spec.name, data.dataset_dir), options.processes
    samples = find_samples(spec, root, data.train_split if data.cv is None else "train", data.cv)
    if any(sample.label_path is None for sample in samples):
        raise ValueError(f"--train_split {data.train_split}: this split of {spec.name} has no labels to train on.")
    propagated = samples_of_video(data, spec, root, samples)
    boosted, coarse = _boosted_samples(data, spec, root)
    all_samples = [*samples, *propagated, *coarse]
    positions: ClassPositions | None = None
    if count_pixels or data.paste or (data.class_uniform_pct and data.max_cu_epoch):
        plan = PositionsPlan(all_samples, spec, root, data.class_uniform_tile, seed)
        find = partial(find_positions, plan, Path(data.index_dir), options.count(), data.skip_bad)
        found = find() if processes.local_rank == 0 else None  # one process of each machine writes what the others read
        wait_for_all()
        positions = (found or find()).restrict(len(samples) + len(propagated), boosted)

    def draw(epoch: int) -> list[CropRequest]:
        share, length = data.class_uniform_pct if epoch < data.max_cu_epoch else 0.0, len(samples) * data.repeat
        crops = draw_epoch(
            seed=seed, epoch=epoch, num_images=len(samples), length=length, share=share, positions=positions
        )
        return part_of_process(crops, processes, data.bs_mult)

    crops = draw(0)
    if not crops:
        raise ValueError(f"{len(samples)} training images for {processes.world_size} processes; start fewer.")
    load = _load(data, spec, all_samples, options)
    class_pixels = tuple(positions.pixels[: len(samples)].sum(0).tolist()) if positions else None
    dataset = TrainingSet(
        all_samples, load, transform, seed, num_images=len(samples), skip_bad=data.skip_bad,
        paste_share=data.paste, paste_classes=rare_classes(class_pixels or ()),
    )  # fmt: skip
    loader = DataLoader(dataset, batch_size=data.bs_mult, sampler=crops, **options.for_loader())
    return TrainData(samples, loader, draw, crops, data.bs_mult, BadFiles(data.skip_bad), class_pixels)


def part_of_process(crops: list[CropRequest], processes: Processes, batch: int) -> list[CropRequest]:
    """This process's part of an epoch, in batches that are full and as many as each other process has.

    A set that is smaller than one batch of each is used as far as it is equal on every process.
    """
    step = processes.world_size * (batch if len(crops) >= processes.world_size * batch else 1)
    return crops[processes.rank : len(crops) - len(crops) % step : processes.world_size]


def rare_classes(pixels: Sequence[int]) -> list[int]:
    """The train ids that occur, but less often than the median of the classes that do. pixels: of each class."""
    median = statistics.median([count for count in pixels if count] or [0])
    return [train_id for train_id, count in enumerate(pixels) if 0 < count < median]


def val_loader(
    data: DataConfig, spec: DatasetSpec, options: LoaderOptions, *, at_most: int | None = None
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Whole validation images, each on exactly one process."""
    samples = find_samples(spec, dataset_root(spec.name, data.dataset_dir), "val", data.cv)[:at_most]
    load = _load(replace(data, skip_bad=0), spec, samples, options)  # a score covers all images
    own: Any = samples[options.processes.rank :: options.processes.world_size]
    collate = partial(_stack_whole_images, load)
    return DataLoader(own, batch_size=data.bs_mult_val, collate_fn=collate, **options.for_loader())


def _boosted_samples(data: DataConfig, spec: DatasetSpec, root: Path) -> tuple[tuple[int, ...], list[Sample]]:
    """The train ids of `--coarse_boost_classes`, and the coarsely labelled samples in which they are looked for."""
    boosted = parse_numbers(data.coarse_boost_classes, "--coarse_boost_classes")
    if not boosted:
        return (), []
    told = f"--coarse_boost_classes {data.coarse_boost_classes}: {spec.name} has"
    if spec.coarse_split is None:
        raise ValueError(f"{told} no coarse labels.")
    if not all(0 <= train_id < spec.num_classes for train_id in boosted):
        raise ValueError(f"{told} train ids 0 to {spec.num_classes - 1}.")
    return boosted, find_samples(spec, root, spec.coarse_split)


def _load(data: DataConfig, spec: DatasetSpec, samples: list[Sample], options: LoaderOptions) -> Load:
    """How samples are read: from `--cache_dir`, filled by one process of each machine, else from their files."""
    if data.cache_dir is None:
        return partial(load_sample, spec=spec)
    cache, processes = DecodedCache(Path(data.cache_dir), spec), options.processes
    if processes.local_rank == 0:
        cache.fill(samples, num_workers=options.count(), skip_bad=data.skip_bad)
    wait_for_all()
    return cache.load


def _stack_whole_images(load: Load, samples: list[Sample]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*(as_tensors(*load(sample)) for sample in samples), strict=True)
    if len({image.shape for image in images}) > 1:
        raise ValueError("the validation images differ in size; use --bs_mult_val 1.")
    return torch.stack(images), torch.stack(labels)
