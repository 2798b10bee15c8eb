"""The same work for many files, on several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Generic, TypeVar

from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datasets.workers import prepare_worker
from utils.command import WORKER_DIED

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
