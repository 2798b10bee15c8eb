"""The same work for many files, on several processes, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datasets.workers import prepare_worker

Result = TypeVar("Result")

_WORTH_A_PROCESS = 16  # pieces of work, of some milliseconds each, that pay for starting a process


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

    work: must be picklable where processes are spawned. show: draw a progress bar named `title`.
    """
    num_workers = min(num_workers, count // _WORTH_A_PROCESS)
    loader: Any = DataLoader(
        _Work(work, count),
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_unchanged,
        worker_init_fn=prepare_worker,
    )
    yield from tqdm(loader, desc=title, unit="file", disable=not show, leave=False, dynamic_ncols=True)


def _unchanged(result: Result) -> Result:
    return result
