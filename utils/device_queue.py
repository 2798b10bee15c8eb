"""What a device is given to do: how far ahead, and how long it took."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from utils.background import AHEAD, Stopwatch


class DeviceQueue(Stopwatch):
    """How long a device worked. A GPU does later what it is given in a block, so that its own clock is asked.

    It counts from the beginning of the first to the end of the last that it does in a block. The work of `AHEAD` blocks
    is under way at most, whose memory is what limits it; a further one waits before it begins.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device
        self._given: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def working(self) -> Iterator[None]:
        """The block is work."""
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
        """Worked so far; what was given to a GPU is waited for."""
        while self._given:
            self._finish_first()
        return super().seconds

    def _finish_first(self) -> None:
        begun, done = self._given.popleft()
        done.synchronize()
        self._add(begun.elapsed_time(done) / 1000)
