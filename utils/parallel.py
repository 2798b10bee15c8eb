"""Work in parallel: processes for many files, and threads that read ahead and write behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from utils.command import STOP_SIGNALS
from utils.device import keep_freed_memory
from utils.distributed import Item, Processes

Result = TypeVar("Result")

AHEAD = 2  # items read ahead or waiting to be written, besides the current one; limited by their memory
_WORTH_A_PROCESS = 16  # items of a few milliseconds each for which starting a process pays


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


class _Work(Dataset[Result], Generic[Result]):
    def __init__(self, work: Callable[[int], Result], count: int) -> None:
        self.work, self.count = work, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Result:
        return self.work(index)


def _unchanged(result: Result) -> Result:
    return result


def in_parallel(
    work: Callable[[int], Result], count: int, *, num_workers: int, title: str, show: bool
) -> Iterator[Result]:
    """`work(0)`, …, `work(count - 1)`, in this order; what `work` raises is raised here.

    For items of milliseconds each: processes are forked. show: draw a progress bar named `title`.
    """
    loader: Any = DataLoader(
        _Work(work, count),
        batch_size=None,
        num_workers=min(num_workers, count // _WORTH_A_PROCESS),
        collate_fn=_unchanged,
        worker_init_fn=prepare_worker,
    )
    yield from tqdm(loader, desc=title, unit="file", disable=None if show else True, leave=False, dynamic_ncols=True)


def as_finished(work: Callable[[Item], Result], items: Iterable[Item], num_workers: int) -> Iterator[Result]:
    """`work(item)` for each item, in the order of completion, on `num_workers` processes (0 or 1: in this one).

    For items of seconds each. work: must be picklable; what it raises is raised here.
    """
    if num_workers <= 1:
        yield from map(work, items)
        return
    # "spawn": forking a process that runs threads may hang, and the caller may be one.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=prepare_worker, initargs=(0,))
    try:
        for future in as_completed([pool.submit(work, item) for item in items]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def read_ahead(
    items: Iterable[Item], read: Callable[[Item], Result], ahead: int = AHEAD
) -> Generator[tuple[Item, Future[Result]], None, None]:
    """Each item in turn with `read(item)`, started in a thread while earlier items are processed.

    One thread reads, so items may be parts of one stream. An error in `read` is raised when the result is requested.
    If you stop early, close this generator before you close the source: the thread may be in the middle of a read.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    executor = ThreadPoolExecutor(1, "read")
    try:
        for item in items:
            waiting.append((item, executor.submit(read, item)))
            if len(waiting) > ahead:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        executor.shutdown(cancel_futures=bool(waiting))  # some still wait only if the caller stopped early


@contextmanager
def write_behind(num_threads: int = 1) -> Iterator[Callable[..., None]]:
    """A function that runs `job(*arguments)` in one of the threads; it blocks while `AHEAD` jobs per thread wait.

    Jobs of one thread run in their order. The first error in a job is raised by the next call, or at the end of the
    block; if the block itself fails, jobs that have not started are dropped.
    """
    executor = ThreadPoolExecutor(num_threads, "write")
    pending: deque[Future[Any]] = deque()

    def submit(job: Callable[..., Any], *arguments: Any) -> None:
        pending.append(executor.submit(job, *arguments))
        while len(pending) > AHEAD * num_threads or (pending and pending[0].done()):
            pending.popleft().result()

    try:
        yield submit
        while pending:
            pending.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)
