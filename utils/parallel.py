"""Processes for many files."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from utils.command import STOP_SIGNALS
from utils.device import keep_freed_memory
from utils.distributed import Item, Processes, find_processes

Result = TypeVar("Result")

SMALL_FILES = 16  # files of a few milliseconds each for which it pays to start a process


def available_cores() -> int:
    """The number of cores that this process may use; it may be less than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_num_workers(processes: Processes) -> int:
    """One per core that this process may use; processes on one machine share its cores."""
    return max(1, available_cores() // processes.local_world_size)


def prepare_worker(worker: int) -> None:
    """Set up a loader process, number `worker`."""
    for number in STOP_SIGNALS:  # they may reach all processes; the main one ends the others
        signal.signal(number, signal.SIG_IGN)
    # There is one process per core; threads on top of that would only compete.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    keep_freed_memory()


class _Work(Dataset[Result], Generic[Item, Result]):
    def __init__(self, work: Callable[[Item], Result], items: Sequence[Item]) -> None:
        self.work, self.items = work, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Result:
        return self.work(self.items[index])


def _unchanged(result: Result) -> Result:
    return result


def in_parallel(
    work: Callable[[Item], Result], items: Sequence[Item], num_workers: int, *, title: str, unit: str = "file",
    least: int = 1,
) -> Iterator[Result]:
    """`work(item)` of each item, in order, by `num_workers` processes (0 or 1: by this one), with a progress bar.

    least: items for which it pays to start a process. What `work` raises is raised here.
    """  # fmt: skip
    num_workers = min(num_workers, len(items) // least)
    loader: Any = DataLoader(
        _Work(work, items),
        batch_size=None,
        num_workers=num_workers if num_workers > 1 else 0,
        collate_fn=_unchanged,
        worker_init_fn=prepare_worker,
        # Else the system's usual way: forking is fastest, but a forked process cannot use the GPU.
        multiprocessing_context="spawn" if num_workers > 1 and torch.cuda.is_initialized() else None,
    )
    hidden = None if find_processes().is_main else True  # None: shown on a terminal
    yield from tqdm(loader, desc=title, unit=unit, disable=hidden, leave=False, dynamic_ncols=True)
