"""Read files ahead and write them in the background, in threads, so that the network does not wait for them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

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
