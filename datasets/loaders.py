"""Build the loaders that a config describes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from config import AugmentConfig, DataConfig
from datasets.cache import DecodedCache
from datasets.class_positions import ClassIndex, IndexPlan, draw_epoch, index_of_classes, with_places
from datasets.files import Sample, dataset_root, find_coarse_samples, find_samples
from datasets.frames import frames_of_video
from datasets.segmentation import CropRequest, Load, SkippingSet, TrainingSet, TrainLoader, ValidationSet, collate
from datasets.specs.spec import DatasetSpec
from transforms.presets import train_transform
from utils.distributed import Processes, wait_for_all
from utils.flags import parse_numbers
from utils.parallel import default_num_workers, prepare_worker
from utils.text import counted

Item = TypeVar("Item")


class EpochSampler(Sampler[CropRequest]):
    """This process's part of each epoch's samples. The processes partition the epoch, in whole rounds of `batch`.

    draw: epoch -> all samples of that epoch, the same on every process.
    """

    def __init__(self, draw: Callable[[int], list[CropRequest]], *, rank: int, num_processes: int, batch: int) -> None:
        self.draw = draw
        self.rank = rank
        self.num_processes = num_processes
        self.batch = batch
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the next iteration visits."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[CropRequest]:
        samples = self.draw(self.epoch)
        return iter(samples[self.rank : self._usable(len(samples)) : self.num_processes])

    def __len__(self) -> int:
        return self._usable(len(self.draw(self.epoch))) // self.num_processes

    def _usable(self, length: int) -> int:
        # Every process takes the same number of steps with full batches. A smaller set is used as far as it is equal
        # on every process.
        step = self.num_processes * self.batch
        return length - length % step if length >= step else length - length % self.num_processes


def part_of(items: Sequence[Item], index: int, count: int) -> list[Item]:
    """Every `count`-th item from `index` on: over all indices, each item exactly once."""
    return list(items[index::count])


class Loader(Protocol):
    """Yields batches: (images [B, 3, H, W] uint8, labels [B, H, W] uint8)."""

    def __len__(self) -> int:
        """The number of batches."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches."""


@dataclass(frozen=True)
class LoaderOptions:
    """How samples are loaded. num_workers: None for one per core; processes: among which the samples are split."""

    processes: Processes
    num_workers: int | None = None
    pin_memory: bool = False

    def count(self) -> int:
        """The number of loader processes."""
        return default_num_workers(self.processes) if self.num_workers is None else self.num_workers

    def for_loader(self) -> dict[str, Any]:
        """Keyword arguments of `DataLoader`."""
        options: dict[str, Any] = {"num_workers": self.count(), "pin_memory": self.pin_memory}
        # A loader with persistent workers draws a seed once, one without workers at each epoch. From the global
        # generator, which dropout uses, a run would depend on the number of workers and on interruptions.
        options["generator"] = torch.Generator()
        if self.count():
            options |= {"worker_init_fn": prepare_worker, "persistent_workers": True, "prefetch_factor": 3}
        return options


@dataclass(frozen=True)
class TrainData:
    """Training loader, and the sampler, which needs to know the epoch.

    class_pixels: how often each class occurs in the training labels; None unless requested or known anyway.
    """

    loader: Loader
    sampler: EpochSampler
    class_pixels: tuple[int, ...] | None

    def epoch(self, epoch: int) -> Loader:
        """The loader, set to visit `epoch`."""
        self.sampler.set_epoch(epoch)
        return self.loader


def train_data(
    data: DataConfig,
    augment: AugmentConfig,
    spec: DatasetSpec,
    options: LoaderOptions,
    *,
    seed: int,
    count_pixels: bool = False,
) -> TrainData:
    """Everything that training draws its batches from: (images [B, 3, H, W] uint8, labels [B, H, W] uint8)."""
    transform = train_transform(augment, spec.ignore_label)  # tells wrong flags before anything is prepared
    root = dataset_root(spec, data.dataset_dir)
    pairs = find_samples(spec, root, data.train_split if data.cv is None else "train", data.cv)
    if any(pair.label_path is None for pair in pairs):
        raise ValueError(f"--train_split {data.train_split}: this split of {spec.name} has no labels to train on.")
    boosted = parse_numbers(data.coarse_boost_classes, "--coarse_boost_classes")
    coarse = find_coarse_samples(spec, root) if boosted else []
    propagated = frames_of_video(data, spec, root, pairs, show=options.processes.is_main)
    wanted = count_pixels or (data.class_uniform_pct and data.max_cu_epoch)
    find_classes = partial(_index, data, spec, root, options, seed)
    class_index = _class_index(data, spec, pairs, propagated, coarse, boosted, find_classes) if wanted else None

    def draw(epoch: int) -> list[CropRequest]:
        share = data.class_uniform_pct if epoch < data.max_cu_epoch else 0.0
        return draw_epoch(
            seed=seed,
            epoch=epoch,
            num_images=len(pairs),
            length=len(pairs) * data.repeat,
            share=share,
            class_index=class_index,
        )

    processes = options.processes
    sampler = EpochSampler(draw, rank=processes.rank, num_processes=processes.world_size, batch=data.bs_mult)
    if len(sampler) == 0:
        raise ValueError(f"{counted(len(pairs), 'training image')} for {processes.world_size} processes; start fewer.")
    load = _load(data, spec, pairs + propagated + coarse, options)
    samples = TrainingSet(pairs + propagated + coarse, spec, transform, seed, load)
    loader = DataLoader(
        SkippingSet(samples, len(pairs), data.skip_bad),
        batch_size=data.bs_mult,
        sampler=sampler,
        collate_fn=collate,
        **options.for_loader(),
    )
    return TrainData(TrainLoader(loader, data.skip_bad), sampler, class_index.pixels if class_index else None)


def val_loader(data: DataConfig, spec: DatasetSpec, options: LoaderOptions, *, at_most: int | None = None) -> Loader:
    """Whole validation images, each on exactly one process."""
    pairs: list[Sample] = find_samples(spec, dataset_root(spec, data.dataset_dir), "val", data.cv)[:at_most]
    load = _load(replace(data, skip_bad=0), spec, pairs, options)  # a score covers all images
    dataset = ValidationSet(part_of(pairs, options.processes.rank, options.processes.world_size), spec, load)
    return DataLoader(dataset, batch_size=data.bs_mult_val, collate_fn=_stack_whole_images, **options.for_loader())


def _load(data: DataConfig, spec: DatasetSpec, pairs: list[Sample], options: LoaderOptions) -> Load | None:
    """How pairs are read: from `--cache_dir`, filled by one process of each machine, else from their files (None)."""
    if data.cache_dir is None:
        return None
    cache, processes = DecodedCache(Path(data.cache_dir), spec), options.processes
    if processes.local_rank == 0:
        cache.fill(pairs, num_workers=options.count(), skip_bad=data.skip_bad, show=processes.is_main)
    wait_for_all()
    return cache.load


def _index(
    data: DataConfig, spec: DatasetSpec, root: Path, options: LoaderOptions, seed: int, pairs: list[Sample]
) -> ClassIndex:
    """The index of `pairs`, made and written by one process of each machine and read by the others."""
    plan = IndexPlan(pairs, spec, root, data.class_uniform_tile, seed)
    processes, count = options.processes, options.count()
    find = partial(
        index_of_classes, plan, Path(data.index_dir), num_workers=count, skip_bad=data.skip_bad, show=processes.is_main
    )
    if processes.local_rank != 0:
        wait_for_all()
        return find(write=False)
    index = find(write=True)
    wait_for_all()
    return index


def _class_index(
    data: DataConfig,
    spec: DatasetSpec,
    pairs: list[Sample],
    propagated: list[Sample],
    coarse: list[Sample],
    boosted: tuple[int, ...],
    index_of: Callable[[list[Sample]], ClassIndex],
) -> ClassIndex:
    """Where classes are: in `pairs`, `propagated` and, the `boosted` ones, in `coarse`; counted in this order."""
    if any(not 0 <= c < spec.num_classes for c in boosted):
        raise ValueError(
            f"--coarse_boost_classes {data.coarse_boost_classes}: {spec.name} has train ids 0 to "
            f"{spec.num_classes - 1}."
        )
    index = index_of(pairs)
    if propagated:
        index = with_places(index, index_of(propagated), range(spec.num_classes), len(pairs))
    if coarse:
        index = with_places(index, index_of(coarse), boosted, len(pairs) + len(propagated))
    return index


def _stack_whole_images(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    if len({image.shape for image, _ in samples}) > 1:
        raise ValueError("the validation images differ in size; use --bs_mult_val 1.")
    images, labels = zip(*samples, strict=True)
    return torch.stack(images), torch.stack(labels)
