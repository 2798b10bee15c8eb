"""Pixels of each class, and shares of a whole in percent with two decimals that add up to exactly 100.00."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from utils.images import Uint8Array

SHARES_TABLE, SHARES_PICTURE = "class_shares.csv", "class_shares.png"  # over the frames of a folder or of a video


def pixels_per_class(labels: Uint8Array, num_classes: int) -> list[int]:
    """The pixels of each class in train ids [H, W]; those without a class are not counted."""
    return np.bincount(labels.ravel(), minlength=num_classes)[:num_classes].tolist()


def percentages(counts: Sequence[int]) -> list[float]:
    """Percent of each count, rounded to hundredths by largest remainder, so that they sum to 100; all 0 for nothing."""
    total = sum(counts)
    if total == 0:
        return [0.0] * len(counts)
    hundredths = [10_000 * count // total for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda i: (-(10_000 * counts[i] % total), i))
    for i in by_remainder[: 10_000 - sum(hundredths)]:
        hundredths[i] += 1
    return [value / 100 for value in hundredths]
