"""Scores, all computed from integer counts: a confusion matrix and, if requested, the counts at borders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from utils.distributed import sum_over_processes
from utils.text import format_table

# Columns of the counts: pixels near the border in both, in the truth, in the prediction; the prediction's border pixels
# that are close to the truth's, and all; the truth's border pixels that are close to the prediction's, and all.
NUM_COUNTS = 7


def boundary_scores(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Boundary IoU and F-score of each class from counts [C, 7], float64, NaN if the truth has no border of it."""
    both, true, guessed, guessed_close, guessed_line, true_close, true_line = counts.to(torch.float64).unbind(1)
    nan = torch.full_like(both, math.nan)
    iou = torch.where(true > 0, both / (true + guessed - both).clamp(min=1), nan)
    precision, recall = guessed_close / guessed_line.clamp(min=1), true_close / true_line.clamp(min=1)
    f = torch.where(true_line > 0, 2 * precision * recall / (precision + recall).clamp(min=1e-12), nan)
    return iou, f


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
        assert labels.shape == predictions.shape, f"{list(labels.shape)} labels, {list(predictions.shape)} predictions"
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
        keys = [key for key in PER_CLASS if not all(math.isnan(value) for value in self.per_class[key])]
        means = [self.totals.get(f"mean_{key}") for key in keys]
        rows = [["class", *(TITLES[key] for key in keys)]]
        for i, name in enumerate(self.class_names):
            rows.append([name, *(_percent(self.per_class[key][i]) for key in keys)])
        rows.append(["mean", *("" if mean is None else _percent(mean) for mean in means)])
        lines = [format_table(rows)]
        lines.append(f"pixel accuracy {_percent(self.totals['pixel_accuracy'])}")
        if self.absent:
            lines.append(f"not in the truth, left out of the mean: {', '.join(self.absent)}")
        return "\n".join(lines)


def scores(matrix: Tensor, class_names: Sequence[str], boundary: Tensor | None = None) -> Scores:
    """All scores of a confusion matrix [C, C], rows truth, columns prediction.

    boundary: [C, 7], the counts of `inference.evaluation.boundary_counts`, for the scores at borders.
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
    return "-" if math.isnan(value) else f"{100 * value:.2f}"
