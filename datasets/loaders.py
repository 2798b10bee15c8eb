"""Loaders as a config describes them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from config import AugmentConfig, DataConfig
from datasets.class_uniform import ClassIndex, build_class_index, draw_epoch, with_places
from datasets.frames import find_propagated_pairs
from datasets.index import Pair, dataset_root, find_coarse_pairs, find_pairs
from datasets.sampler import EpochSampler, part_of
from datasets.segmentation import Draw, TrainingSet, ValidationSet, load_labels
from datasets.spec import DatasetSpec
from transforms.presets import train_transform
from utils.distributed import Processes
from utils.flags import parse_numbers

Loader = DataLoader[tuple[Tensor, Tensor]]

_MOST_WORKERS = 8


@dataclass(frozen=True)
class LoaderOptions:
    """How samples are loaded. num_workers: None for one per core; processes: who shares the samples."""

    processes: Processes
    num_workers: int | None = None
    pin_memory: bool = False

    def for_loader(self) -> dict[str, Any]:
        """Keyword arguments of `DataLoader`."""
        count = default_num_workers() if self.num_workers is None else self.num_workers
        options: dict[str, Any] = {"num_workers": count, "pin_memory": self.pin_memory}
        if count:
            options |= {"persistent_workers": True, "worker_init_fn": _one_thread, "prefetch_factor": 3}
        return options


@dataclass(frozen=True)
class TrainData:
    """Training loader, and the sampler that wants to be told the epoch.

    class_pixels: how often each class occurs in the training labels, where that was asked for or known anyway.
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
    root = dataset_root(spec, data.dataset_dir)
    pairs = find_pairs(spec, root, data.train_split, data.cv)
    if any(pair.labels is None for pair in pairs):
        raise ValueError(f"--train_split {data.train_split}: this split of {spec.name} has no labels to train on.")
    boosted = parse_numbers(data.coarse_boost_classes, "--coarse_boost_classes")
    coarse = find_coarse_pairs(spec, root) if boosted else []
    propagated = find_propagated_pairs(spec, root, pairs, max_skip=data.maxSkip, scene_flow=data.scf)
    if propagated and not (data.class_uniform_pct and data.max_cu_epoch):
        raise ValueError("--maxSkip and --scf add to the class-uniform choice, which is off (--class_uniform_pct).")
    wanted = count_pixels or (data.class_uniform_pct and data.max_cu_epoch)
    class_index = _class_index(data, spec, pairs, propagated, coarse, boosted, seed) if wanted else None

    def draw(epoch: int) -> list[Draw]:
        share = data.class_uniform_pct if epoch < data.max_cu_epoch else 0.0
        return draw_epoch(
            seed=seed,
            epoch=epoch,
            num_images=len(pairs),
            length=len(pairs) * data.repeat,
            share=share,
            class_index=class_index,
        )

    me = options.processes
    sampler = EpochSampler(draw, rank=me.rank, num_processes=me.count, batch=data.bs_mult)
    if len(sampler) == 0:
        raise ValueError(f"{len(pairs)} training images are too few for {me.count} processes.")
    dataset = TrainingSet(pairs + propagated + coarse, spec, train_transform(augment, spec.ignore_label), seed)
    loader: Loader = DataLoader(dataset, batch_size=data.bs_mult, sampler=sampler, **options.for_loader())
    return TrainData(loader, sampler, class_index.pixels if class_index else None)


def val_loader(data: DataConfig, spec: DatasetSpec, options: LoaderOptions, *, at_most: int | None = None) -> Loader:
    """Whole validation images, each on exactly one process."""
    pairs: list[Pair] = find_pairs(spec, dataset_root(spec, data.dataset_dir), "val", data.cv)[:at_most]
    dataset = ValidationSet(part_of(pairs, options.processes.rank, options.processes.count), spec)
    return DataLoader(dataset, batch_size=data.bs_mult_val, collate_fn=_stack_whole_images, **options.for_loader())


def default_num_workers() -> int:
    """One per core that this process may use, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_WORKERS)


def _class_index(
    data: DataConfig,
    spec: DatasetSpec,
    pairs: list[Pair],
    propagated: list[Pair],
    coarse: list[Pair],
    boosted: tuple[int, ...],
    seed: int,
) -> ClassIndex:
    """Where classes are: in `pairs`, `propagated` and, the `boosted` ones, in `coarse`; counted in this order."""
    if any(not 0 <= c < spec.num_classes for c in boosted):
        raise ValueError(
            f"--coarse_boost_classes {data.coarse_boost_classes}: {spec.name} has train ids 0 to "
            f"{spec.num_classes - 1}."
        )

    def index_of(some: list[Pair]) -> ClassIndex:
        return build_class_index(
            len(some), lambda i: load_labels(some[i], spec), spec.num_classes, data.class_uniform_tile, seed
        )

    index = index_of(pairs)
    if propagated:
        index = with_places(index, index_of(propagated), range(spec.num_classes), len(pairs))
    if coarse:
        index = with_places(index, index_of(coarse), boosted, len(pairs) + len(propagated))
    return index


def _one_thread(worker: int) -> None:
    # One process per core is the parallelism; threads on top of it only get in each other's way.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _stack_whole_images(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    if len({image.shape for image, _ in samples}) > 1:
        raise ValueError("the validation images differ in size; they need --bs_mult_val 1.")
    images, labels = zip(*samples, strict=True)
    return torch.stack(images), torch.stack(labels)
