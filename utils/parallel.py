"""Processes for many files."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from utils.command import STOP_SIGNALS
from utils.device import keep_freed_memory
from utils.distributed import Item, find_processes

Result = TypeVar("Result")

SMALL_FILES = 16  # files of a few milliseconds each for which it pays to start a process


def default_num_workers() -> int:
    """One per core that this process may use, which may be fewer than there are; those of one machine share them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // find_processes().local_world_size)


def prepare_worker(worker: int) -> None:
    """Set up a loader process, number `worker`."""
    for number in STOP_SIGNALS:  # they may reach all processes; the main one ends the others
        signal.signal(number, signal.SIG_IGN)
    # There is one process per core; threads on top of that would only compete.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    keep_freed_memory()


def in_parallel(
    work: Callable[[Item], Result], items: Sequence[Item], num_workers: int, *, title: str, unit: str = "file",
    least: int = 1,
) -> Iterator[Result]:
    """`work(item)` of each item, in order, by `num_workers` processes (0 or 1: by this one), with a progress bar.

    least: items for which it pays to start a process. What `work` raises is raised here.
    """  # fmt: skip
    num_workers = min(num_workers, len(items) // least)
    loader: Any = DataLoader(
        items,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=num_workers if num_workers > 1 else 0,
        collate_fn=work,  # type: ignore[arg-type]  # without batches it is given one item
        worker_init_fn=prepare_worker,
        # Else the system's usual way: forking is fastest, but a forked process cannot use the GPU.
        multiprocessing_context="spawn" if num_workers > 1 and torch.cuda.is_initialized() else None,
    )
    hidden = None if find_processes().is_main else True  # None: shown on a terminal
    yield from tqdm(loader, desc=title, unit=unit, disable=hidden, leave=False, dynamic_ncols=True)
