"""Copies between host and device that a GPU makes beside its work, and that nobody waits for before time."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(table: Tensor, device: torch.device) -> Tensor:
    """`table` on the device, without waiting for what a GPU still has to do; a plain copy would."""
    return _pinned(table.contiguous()).to(device, non_blocking=True) if device.type == "cuda" else table.to(device)


class Uploads:
    """Copies pictures to a device. To a GPU they run beside its work on earlier pictures."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._queue = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, picture: NDArray[np.uint8]) -> Tensor:
        """The picture on the device; on a CPU it may share the memory of `picture`."""
        here = torch.from_numpy(np.ascontiguousarray(picture))
        if self._queue is None:
            return here
        with torch.cuda.stream(self._queue):
            there = _pinned(here).to(self._device, non_blocking=True)
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
            queue = _downloads(labels.device)
            queue.wait_stream(torch.cuda.current_stream(labels.device))
            self._host = _pinned(torch.empty(labels.shape, dtype=labels.dtype))
            with torch.cuda.stream(queue):
                self._host.copy_(labels, non_blocking=True)
            labels.record_stream(queue)
            self._copied = torch.cuda.Event(blocking=True)  # who waits sleeps
            self._copied.record(queue)

    def array(self) -> NDArray[np.uint8]:
        """The labels, waited for."""
        if self._copied is not None:
            self._copied.synchronize()
        array: NDArray[np.uint8] = self._host.numpy()
        return array


@cache
def _downloads(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def _pinned(here: Tensor) -> Tensor:
    """`here` in memory that a GPU can copy by itself; where the system allows no more of it, as it is."""
    try:
        return here.pin_memory()
    except RuntimeError:
        return here
