"""Files are read ahead and written behind in threads, so that the network does not wait for them."""

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

AHEAD = 2  # items that are read, or wait to be written, beside the one at hand: their memory is what limits it


def read_ahead(
    items: Iterable[Item], read: Callable[[Item], Result], ahead: int = AHEAD
) -> Generator[tuple[Item, Future[Result]], None, None]:
    """Each item in turn with `read(item)`, begun in a thread while earlier ones are worked on.

    One thread reads, so items may be parts of one stream. An error of `read` is raised where the result is asked for.
    Who stops early and then closes what is read from must close this first: the thread may be in the middle of a read.
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
        executor.shutdown(cancel_futures=bool(waiting))  # some wait only where nobody asks for them any more


class WriteBehind:
    """Runs jobs in threads; at most `AHEAD` for each thread wait, the next waits for one to end.

    The first error of a job is raised by the next call, or where the `with` block ends; a block that fails itself drops
    the jobs not yet begun.
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
    """How long something worked, of the time since it was made; several threads may work at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = time.perf_counter()
        self._seconds = 0.0

    @contextmanager
    def working(self) -> Iterator[None]:
        """The block is work."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._add(time.perf_counter() - start)

    @property
    def seconds(self) -> float:
        """Worked so far."""
        return self._seconds

    def share(self) -> float:
        """Share of the time spent working, 0..1."""
        return self.seconds / max(time.perf_counter() - self._begun, 1e-9)

    def per_second(self, count: int) -> float:
        """So many things in the time since it was made."""
        return count / max(time.perf_counter() - self._begun, 1e-9)

    def _add(self, seconds: float) -> None:
        with self._lock:
            self._seconds += seconds
