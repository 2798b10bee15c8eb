"""Class weights from how often each class occurs: rarer classes count more."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch
from torch import Tensor


def count_classes(classes: Tensor, num_classes: int) -> Tensor:
    """Count the pixels of each class, image by image.

    classes: [B, ...] int64 in 0 ... `num_classes`, where `num_classes` itself stands for "ignored".
    Returns [B, num_classes + 1] int64; the last column counts the ignored pixels.
    """
    batch, columns = classes.shape[0], num_classes + 1
    image = torch.arange(batch, device=classes.device).view(-1, *[1] * (classes.dim() - 1))
    return torch.bincount((classes + image * columns).flatten(), minlength=batch * columns).view(batch, columns)


def balanced_weights(pixels: Sequence[int], power: float) -> list[float]:
    """Weight of each class over a whole data set: (median share / share) ** power, 1 for a class without pixels.

    Power 1 is the median of the classes' shares / share, over the whole set (Eigen and Fergus, ICCV 2015, count only
    images that show the class); 0.5 goes half the way. pixels: how often each class occurs.
    """
    median = statistics.median([count for count in pixels if count] or [1])
    return [(median / count) ** power if count else 1.0 for count in pixels]


def class_weights(
    counts: Tensor, total: Tensor, upper_bound: float, batch_weighting: bool, dtype: torch.dtype
) -> Tensor:
    """Weight of each class: `1 + upper_bound * (1 - share)`. The weight of an absent class is never used.

    counts: [B, C] how often each class occurs in each image; total: [B] the denominators of the shares.
    batch_weighting: compute shares over the whole batch, so that all images have the same weights.
    Returns [B, C] of `dtype`.
    """
    if batch_weighting:
        counts = counts.sum(0, keepdim=True).expand_as(counts)
        total = total.sum(0, keepdim=True).expand_as(total)
    share = counts.to(dtype) / total.clamp(min=1).to(dtype).unsqueeze(1)
    return 1 + upper_bound * (1 - share)
