"""Scores, all computed from integer counts: a confusion matrix and, if requested, the counts at borders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.distributed import sum_over_processes

Labels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

# The largest distance that is close, as a share of the image diagonal: the value that the authors of boundary IoU use
# for Cityscapes, 11 pixels at 2048x1024. They use 0.02 for smaller images of larger objects.
CLOSE = 0.005

# Columns of the counts: pixels near the border in both, in the truth, in the prediction; the prediction's border pixels
# that are close to the truth's, and all; the truth's border pixels that are close to the prediction's, and all.
NUM_COUNTS = 7


def close_pixels(height: int, width: int) -> int:
    """The largest distance that is close in an image of that size, in pixels; at least 1."""
    return max(1, round(CLOSE * math.hypot(height, width)))


def boundary_counts(truth: Labels, guess: Labels, num_classes: int, ignore_label: int) -> NDArray[np.int64]:
    """The counts for the scores: [C, 7] for train ids [H, W]; counts of several images may be added.

    Predictions at ignored pixels do not count: they are treated as ignored too.
    """
    guess = np.where(truth == ignore_label, truth, guess)
    close = close_pixels(*truth.shape)
    counts = np.zeros((num_classes, NUM_COUNTS), np.int64)
    near_truth, near_guess = near_border(truth, close), near_border(guess, close)
    for column, chosen, classes in (
        (0, near_truth & near_guess & (truth == guess), truth), (1, near_truth, truth), (2, near_guess, guess)
    ):  # fmt: skip
        counts[:, column] = np.bincount(classes[chosen], minlength=ignore_label + 1)[:num_classes]
    lines = [np.flatnonzero(border_lines(labels, ignore_label)) for labels in (truth, guess)]
    of_class = [labels.ravel()[line] for labels, line in zip((truth, guess), lines, strict=True)]
    for train_id in np.unique(np.concatenate(of_class)):
        true, guessed = (line[classes == train_id] for line, classes in zip(lines, of_class, strict=True))
        counts[train_id, 3:] = (
            _num_close(guessed, true, truth.shape, close), len(guessed),
            _num_close(true, guessed, truth.shape, close), len(true),
        )  # fmt: skip
    return counts


def near_border(labels: Labels, close: int) -> Mask:
    """[H, W]: within `close` pixels, diagonal steps included, of another label or of the image's edge."""
    # The padding outside the image is a label of no class: the largest for one filter, the smallest for the other.
    kernel = np.ones((3, 3), np.uint8)
    highest = cv2.dilate(labels, kernel, iterations=close, borderType=cv2.BORDER_CONSTANT, borderValue=255)
    lowest = cv2.erode(labels, kernel, iterations=close, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return highest != lowest


def border_lines(labels: Labels, ignore_label: int) -> Mask:
    """[H, W]: pixels with a neighbour of another class above, below, left or right."""
    lines = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        along, across = lines.swapaxes(0, axis), labels.swapaxes(0, axis)
        differ = (across[1:] != across[:-1]) & (across[1:] != ignore_label) & (across[:-1] != ignore_label)
        along[1:] |= differ
        along[:-1] |= differ
    return lines


def boundary_scores(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Boundary IoU and F-score of each class from counts [C, 7], float64, NaN if the truth has no border of it."""
    both, true, guessed, guessed_close, guessed_line, true_close, true_line = counts.to(torch.float64).unbind(1)
    nan = torch.full_like(both, math.nan)
    iou = torch.where(true > 0, both / (true + guessed - both).clamp(min=1), nan)
    precision, recall = guessed_close / guessed_line.clamp(min=1), true_close / true_line.clamp(min=1)
    f = torch.where(true_line > 0, 2 * precision * recall / (precision + recall).clamp(min=1e-12), nan)
    return iou, f


def _num_close(pixels: NDArray[np.int64], others: NDArray[np.int64], shape: tuple[int, int], close: int) -> int:
    """How many of `pixels` lie within `close` of one of `others`; both are positions in a flat image of `shape`."""
    mask = np.zeros(shape, np.uint8)
    mask.ravel()[others] = 1
    cv2.dilate(mask, np.ones((3, 3), np.uint8), mask, iterations=close)
    return int(mask.ravel()[pixels].sum(dtype=np.int64))


PER_CLASS = ("iou", "precision", "recall", "f1", "share", "boundary_iou", "boundary_f")
TOTALS = ("mean_iou", "mean_accuracy", "pixel_accuracy", "mean_boundary_iou", "mean_boundary_f")
TITLES = {"iou": "IoU", "precision": "prec.", "recall": "recall", "f1": "F1", "share": "share", "boundary_iou": "bIoU",
          "boundary_f": "bF"}  # fmt: skip


class ConfusionMatrix:
    """Counts of pixels: `matrix` [C, C] int64, rows truth, columns prediction, on `device`."""

    def __init__(self, num_classes: int, ignore_label: int, device: torch.device | str = "cpu") -> None:
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, labels: Tensor, predictions: Tensor) -> None:
        """Count one batch. Both are train ids of the same shape; ignored pixels are left out."""
        if labels.shape != predictions.shape:
            raise ValueError(
                f"labels {tuple(labels.shape)} and predictions {tuple(predictions.shape)} differ in shape."
            )
        truth, guess = labels.flatten().long(), predictions.flatten().long()
        # An extra bin instead of a mask avoids synchronising with the device.
        size = self.num_classes
        cell = torch.where(truth == self.ignore_label, size * size, truth * size + guess)
        self.matrix += torch.bincount(cell, minlength=size * size + 1)[: size * size].view(size, size)

    def reduce(self) -> Tensor:
        """The matrix summed over all processes, on the CPU."""
        return sum_over_processes(self.matrix.clone()).cpu()


@dataclass(frozen=True)
class Scores:
    """Scores of a confusion matrix, 0..1, NaN where undefined.

    per_class: those named in PER_CLASS, in train id order; totals: those named in TOTALS. absent: classes without a
    pixel in the truth; they are excluded from the means. Scores at borders are all NaN if borders were not counted.
    """

    class_names: tuple[str, ...]
    per_class: dict[str, list[float]]
    totals: dict[str, float]
    absent: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None instead of NaN."""
        classes = {
            name: {key: _number(values[i]) for key, values in self.per_class.items()}
            for i, name in enumerate(self.class_names)
        }
        totals = {key: _number(value) for key, value in self.totals.items()}
        return {**totals, "absent": list(self.absent), "classes": classes}

    def table(self) -> str:
        """A text table: one line per class, in percent, then the means."""
        width = max(len("class"), *(len(name) for name in self.class_names))
        keys = [key for key in PER_CLASS if not all(math.isnan(value) for value in self.per_class[key])]
        lines = [f"{'class':<{width}}  " + " ".join(f"{TITLES[key]:>6}" for key in keys)]
        for i, name in enumerate(self.class_names):
            lines.append(f"{name:<{width}}  " + " ".join(_percent(self.per_class[key][i]) for key in keys))
        shown = " ".join(_percent(self.totals[f"mean_{key}"]) if f"mean_{key}" in TOTALS else " " * 6 for key in keys)
        lines.append(f"{'mean':<{width}}  {shown}")
        lines.append(f"pixel accuracy {_percent(self.totals['pixel_accuracy']).strip()}")
        if self.absent:
            lines.append(f"not in the truth, left out of the mean: {', '.join(self.absent)}")
        return "\n".join(lines)


def scores(matrix: Tensor, class_names: Sequence[str], boundary: Tensor | None = None) -> Scores:
    """All scores of a confusion matrix [C, C], rows truth, columns prediction.

    boundary: [C, 7], the counts of `utils/metrics.py`, for the scores at borders.
    """
    counts = matrix.to(torch.float64)
    hits, truth, guess = counts.diagonal(), counts.sum(1), counts.sum(0)
    present = truth > 0

    def ratio(part: Tensor, whole: Tensor) -> Tensor:
        return torch.where(present, torch.where(whole > 0, part / whole.clamp(min=1), 0), math.nan)

    iou, recall = ratio(hits, truth + guess - hits), ratio(hits, truth)
    boundary_iou, boundary_f = boundary_scores(torch.zeros(len(hits), NUM_COUNTS) if boundary is None else boundary)
    precision, f1, share = ratio(hits, guess), ratio(2 * hits, truth + guess), truth / counts.sum().clamp(min=1)
    per_class = (iou, precision, recall, f1, share, boundary_iou, boundary_f)
    totals = (  # the mean of nothing, and 0 / 0, are NaN
        iou[present].mean(), recall[present].mean(), hits.sum() / counts.sum(), boundary_iou.nanmean(),
        boundary_f.nanmean(),
    )  # fmt: skip
    return Scores(
        class_names=tuple(class_names),
        per_class={name: values.tolist() for name, values in zip(PER_CLASS, per_class, strict=True)},
        totals={name: float(value) for name, value in zip(TOTALS, totals, strict=True)},
        absent=tuple(name for name, here in zip(class_names, present.tolist(), strict=True) if not here),
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _percent(value: float) -> str:
    return f"{'-':>6}" if math.isnan(value) else f"{100 * value:6.2f}"
