"""Limit how much work is queued on a device, and measure how long it takes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from utils.background import AHEAD, Stopwatch


class DeviceQueue(Stopwatch):
    """Measures how long a device works. A GPU runs the work of a block later, so its own clock is used.

    A block counts from the start of its first operation to the end of its last. The work of at most `AHEAD` blocks is
    queued, to limit memory; a further block waits before it starts.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device
        self._given: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count the block as work."""
        if self._device.type != "cuda":
            with super().working():
                yield
            return
        while len(self._given) >= AHEAD:
            self._finish_first()
        begun, done = (torch.cuda.Event(enable_timing=True, blocking=True) for _ in range(2))
        work = torch.cuda.current_stream(self._device)
        begun.record(work)
        try:
            yield
        finally:
            done.record(work)
            self._given.append((begun, done))

    @property
    def seconds(self) -> float:
        """Working time so far; waits for the work queued on a GPU."""
        while self._given:
            self._finish_first()
        return super().seconds

    def _finish_first(self) -> None:
        begun, done = self._given.popleft()
        done.synchronize()
        self._add(begun.elapsed_time(done) / 1000)
