"""Work in parallel: one pool of processes for many files, and threads that read ahead and write behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Generic, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from utils.command import WORKER_DIED
from utils.distributed import Processes
from utils.memory import keep_freed_memory


def available_cores() -> int:
    """The number of cores that this process may use; it may be less than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_num_workers(processes: Processes) -> int:
    """One per core that this process may use; processes on one machine share its cores."""
    return max(1, available_cores() // processes.local_world_size)


def prepare_worker(worker: int) -> None:
    """Set up a loader process, number `worker`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the main one ends the others
    # There is one process per core; threads on top of that would only compete.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    keep_freed_memory()


Item = TypeVar("Item")
Result = TypeVar("Result")

_WORTH_A_PROCESS = 16  # items of a few milliseconds each for which starting a process pays


class _Work(Dataset[Result], Generic[Result]):
    def __init__(self, work: Callable[[int], Result], count: int) -> None:
        self.work = work
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Result:
        return self.work(index)


def in_parallel(
    work: Callable[[int], Result], count: int, *, num_workers: int, title: str, show: bool
) -> Iterator[Result]:
    """`work(0)`, …, `work(count - 1)`, in this order; what `work` raises is raised here.

    work: must be picklable if processes are spawned. show: draw a progress bar named `title`.
    """
    num_workers = min(num_workers, count // _WORTH_A_PROCESS)
    loader: Any = DataLoader(
        _Work(work, count),
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_unchanged,
        worker_init_fn=prepare_worker,
    )
    yield from tqdm(loader, desc=title, unit="file", disable=None if show else True, leave=False, dynamic_ncols=True)


def as_finished(work: Callable[[Item], Result], items: Iterable[Item], num_workers: int) -> Iterator[Result]:
    """`work(item)` for each item, in the order of completion, on `num_workers` processes (0 or 1: in this one).

    For items of seconds each. work: must be picklable; what it raises is raised here. Raises OSError if a process
    dies.
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
    except BrokenProcessPool as error:
        raise OSError(WORKER_DIED) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _unchanged(result: Result) -> Result:
    return result


AHEAD = 2  # items read ahead or waiting to be written, besides the current one; limited by their memory


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


class WriteBehind:
    """Runs jobs in threads; at most `AHEAD` per thread are pending, and a further call blocks until one ends.

    The first error in a job is raised by the next call, or at the end of the `with` block; if the block itself fails,
    jobs that have not started are dropped.
    """

    def __init__(self, num_threads: int = 1) -> None:
        self._executor = ThreadPoolExecutor(num_threads, "write")
        self._pending: deque[Future[Any]] = deque()
        self._most = AHEAD * num_threads

    def __call__(self, job: Callable[..., Any], *arguments: Any) -> None:
        """Run `job(*arguments)` soon. Jobs of one thread run in this order."""
        self._pending.append(self._executor.submit(job, *arguments))
        while len(self._pending) > self._most or (self._pending and self._pending[0].done()):
            self._pending.popleft().result()

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            while error is None and self._pending:
                self._pending.popleft().result()
        finally:
            self._executor.shutdown(cancel_futures=True)


class Stopwatch:
    """Measures working time, in total and relative to the time since creation; several threads may work at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = time.perf_counter()
        self._seconds = 0.0

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count the block as work."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._add(time.perf_counter() - start)

    @property
    def seconds(self) -> float:
        """Working time so far."""
        return self._seconds

    def share(self) -> float:
        """Share of the time spent working, 0..1."""
        return self.seconds / max(time.perf_counter() - self._begun, 1e-9)

    def per_second(self, count: int) -> float:
        """`count` divided by the time since creation."""
        return count / max(time.perf_counter() - self._begun, 1e-9)

    def _add(self, seconds: float) -> None:
        with self._lock:
            self._seconds += seconds
