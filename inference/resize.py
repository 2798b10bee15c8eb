"""Resize an image, also only a part of the result: a part does not depend on how it was cut out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from utils.copies import to_device


@dataclass(frozen=True)
class ResizeFilter:
    """How pixels of a resized axis are mixed from source pixels: each from `indices` [n, K] with `weights` [n, K]."""

    indices: Tensor
    weights: Tensor

    def source(self) -> slice:
        """The source pixels that are needed."""
        return slice(int(self.indices.min()), int(self.indices.max()) + 1)


def resize_filter(size: int, new_size: int, part: slice) -> ResizeFilter:
    """The linear filter, widened when shrinking so that no source pixel is skipped, for pixels `part` of the result."""
    step = size / new_size
    reach = max(step, 1.0)
    centers = (torch.arange(part.start, part.stop, dtype=torch.float64) + 0.5) * step
    first = (centers - reach + 0.5).floor().long()
    indices = first[:, None] + torch.arange(int(2 * reach) + 2)
    weights = (1 - ((indices + 0.5 - centers[:, None]) / reach).abs()).clamp(min=0)
    weights[(indices < 0) | (indices >= size)] = 0
    weights /= weights.sum(1, keepdim=True)
    used = weights.amax(0) > 0
    return ResizeFilter(indices.clamp(0, size - 1)[:, used], weights[:, used].float())


def resized_part(image: Tensor, size: tuple[int, int], rows: slice, columns: slice) -> Tensor:
    """Rows and columns of `image` [H, W, 3] resized to `size`: [rows, columns, 3], float32 unless nothing changes."""
    if size == tuple(image.shape[:2]):
        return image[rows, columns]
    by_axis = resize_filter(image.shape[0], size[0], rows), resize_filter(image.shape[1], size[1], columns)
    values = image[by_axis[0].source(), by_axis[1].source()]
    # First the axis after which fewer pixels are left.
    for axis in sorted((0, 1), key=lambda axis: size[axis] / image.shape[axis]):
        values = _mix(values, axis, by_axis[axis])
    return values


def _mix(values: Tensor, axis: int, by: ResizeFilter) -> Tensor:
    offset = by.source().start
    shape = [1] * values.ndim
    shape[axis] = -1
    total: Tensor | None = None
    for k in range(by.indices.shape[1]):
        picked = values.index_select(axis, to_device(by.indices[:, k] - offset, values.device)).float()
        weight = to_device(by.weights[:, k].view(shape), values.device)
        total = picked.mul_(weight) if total is None else total.addcmul_(picked, weight)
    assert total is not None
    return total
