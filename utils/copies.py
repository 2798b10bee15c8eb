"""Asynchronous copies between host and device, which overlap with a GPU's work."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(table: Tensor, device: torch.device) -> Tensor:
    """`table` on the device, without waiting for pending work of a GPU; a plain copy would wait."""
    return _pinned(table.contiguous()).to(device, non_blocking=True) if device.type == "cuda" else table.to(device)


def uploaded(picture: NDArray[np.uint8], device: torch.device) -> Tensor:
    """The image on the device; a copy to a GPU overlaps with the work on earlier images.

    On a CPU it may share the memory of `picture`.
    """
    here = torch.from_numpy(np.ascontiguousarray(picture))
    if device.type != "cuda":
        return here
    work, queue = torch.cuda.current_stream(device), uploads(device)
    with torch.cuda.stream(queue):
        there = _pinned(here).to(device, non_blocking=True)
    work.wait_stream(queue)
    there.record_stream(work)
    return there


class Arriving:
    """Labels being copied from a device to the host; meanwhile, a GPU continues with the next image."""

    def __init__(self, labels: Tensor) -> None:
        """labels: any shape, uint8."""
        self._host = labels
        self._copied: torch.cuda.Event | None = None
        if labels.is_cuda:
            queue = downloads(labels.device)
            queue.wait_stream(torch.cuda.current_stream(labels.device))
            self._host = _pinned(torch.empty(labels.shape, dtype=labels.dtype))
            with torch.cuda.stream(queue):
                self._host.copy_(labels, non_blocking=True)
            labels.record_stream(queue)
            self._copied = torch.cuda.Event(blocking=True)  # waiting sleeps instead of spinning
            self._copied.record(queue)

    def array(self) -> NDArray[np.uint8]:
        """Wait for the labels and return them."""
        if self._copied is not None:
            self._copied.synchronize()
        array: NDArray[np.uint8] = self._host.numpy()
        return array


@cache
def uploads(device: torch.device) -> torch.cuda.Stream:
    """The queue of copies to the GPU."""
    return torch.cuda.Stream(device)


@cache
def downloads(device: torch.device) -> torch.cuda.Stream:
    """The queue of copies from the GPU."""
    return torch.cuda.Stream(device)


def _pinned(here: Tensor) -> Tensor:
    """`here` in pinned memory, from which a GPU copies asynchronously; unchanged if the system allows no more of it."""
    try:
        return here.pin_memory()
    except RuntimeError:
        return here
