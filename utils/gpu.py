"""What a GPU needs to be kept at work: copies beside its work, and a watch that counts by its own clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from utils.background import Stopwatch
from utils.images import Uint8Array


def to_device(table: Tensor, device: torch.device) -> Tensor:
    """`table` on the device, without waiting for what a GPU still has to do; a plain copy would."""
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table.to(device)


class Uploads:
    """Copies pictures to a device. To a GPU they run beside its work on earlier pictures."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._queue = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, picture: Uint8Array) -> Tensor:
        """The picture on the device; on a CPU it may share the memory of `picture`."""
        here = torch.from_numpy(np.ascontiguousarray(picture))
        if self._queue is None:
            return here
        pinned = here.pin_memory()
        with torch.cuda.stream(self._queue):
            there = pinned.to(self._device, non_blocking=True)
        work = torch.cuda.current_stream(self._device)
        work.wait_stream(self._queue)
        there.record_stream(work)
        return there


class Arriving:
    """Labels on their way from a device to the host; a GPU goes on with the next picture meanwhile."""

    def __init__(self, labels: Tensor) -> None:
        """labels: any shape, uint8."""
        self._host = labels
        self._copied: torch.cuda.Event | None = None
        if labels.is_cuda:
            queue = torch.cuda.Stream(labels.device)
            queue.wait_stream(torch.cuda.current_stream(labels.device))
            self._host = torch.empty(labels.shape, dtype=labels.dtype, pin_memory=True)
            with torch.cuda.stream(queue):
                self._host.copy_(labels, non_blocking=True)
                self._copied = queue.record_event()
            labels.record_stream(queue)

    def array(self) -> Uint8Array:
        """The labels, waited for."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._host.numpy()


class DeviceStopwatch(Stopwatch):
    """How long a device worked. What a GPU is given in a block it does later, so that its own clock is asked."""

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
        begun, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        work = torch.cuda.current_stream(self._device)
        begun.record(work)
        try:
            yield
        finally:
            done.record(work)
            self._given.append((begun, done))
            while self._given and self._given[0][1].query():
                self._count_first()

    @property
    def seconds(self) -> float:
        """Worked so far; what was given to a GPU is waited for."""
        while self._given:
            self._given[0][1].synchronize()
            self._count_first()
        return super().seconds

    def _count_first(self) -> None:
        begun, done = self._given.popleft()
        self._add(begun.elapsed_time(done) / 1000)
