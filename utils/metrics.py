"""Scores, all computed from integer counts: a confusion matrix and, if requested, the counts at borders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from utils.boundary import NUM_COUNTS, boundary_scores
from utils.columns import display_width, padded
from utils.distributed import sum_over_processes

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
    """Scores per class, in train id order, NaN where undefined; and over all classes.

    absent: classes without a pixel in the truth; they are excluded from the means. boundary_iou, boundary_f: see
    `utils/boundary.py`; all NaN if borders were not counted.
    """

    class_names: tuple[str, ...]
    iou: tuple[float, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    f1: tuple[float, ...]
    share: tuple[float, ...]
    boundary_iou: tuple[float, ...]
    boundary_f: tuple[float, ...]
    mean_iou: float
    mean_accuracy: float
    pixel_accuracy: float
    mean_boundary_iou: float
    mean_boundary_f: float
    absent: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None instead of NaN."""
        per_class = {
            name: {key: _number(getattr(self, key)[i]) for key in PER_CLASS}
            for i, name in enumerate(self.class_names)
        }
        totals = {key: _number(getattr(self, key)) for key in TOTALS}
        return {**totals, "absent": list(self.absent), "classes": per_class}

    def table(self) -> str:
        """A text table: one line per class, in percent, then the means."""
        width = max(len("class"), *(display_width(name) for name in self.class_names))
        keys = [key for key in PER_CLASS if not all(math.isnan(value) for value in getattr(self, key))]
        lines = [f"{'class':<{width}}  " + " ".join(f"{TITLES[key]:>6}" for key in keys)]
        for i, name in enumerate(self.class_names):
            lines.append(f"{padded(name, width)}  " + " ".join(_percent(getattr(self, key)[i]) for key in keys))
        means = {"iou": self.mean_iou, "boundary_iou": self.mean_boundary_iou, "boundary_f": self.mean_boundary_f}
        shown = " ".join(_percent(means[key]) if key in means else " " * 6 for key in keys)
        lines.append(f"{'mean':<{width}}  {shown}")
        lines.append(f"pixel accuracy {_percent(self.pixel_accuracy).strip()}")
        if self.absent:
            lines.append(f"not in the truth, left out of the mean: {', '.join(self.absent)}")
        return "\n".join(lines)


def scores(matrix: Tensor, class_names: Sequence[str], boundary: Tensor | None = None) -> Scores:
    """All scores of a confusion matrix [C, C], rows truth, columns prediction.

    boundary: [C, 7], the counts of `utils/boundary.py`, for the scores at borders.
    """
    counts = matrix.to(torch.float64)
    hits, truth, guess = counts.diagonal(), counts.sum(1), counts.sum(0)
    present = truth > 0
    nan = torch.full_like(hits, math.nan)

    def ratio(part: Tensor, whole: Tensor) -> Tensor:
        return torch.where(present, torch.where(whole > 0, part / whole.clamp(min=1), 0), nan)

    iou, recall = ratio(hits, truth + guess - hits), ratio(hits, truth)
    total = float(counts.sum())
    borders = boundary_scores(torch.zeros(len(hits), NUM_COUNTS) if boundary is None else boundary)
    return Scores(
        class_names=tuple(class_names),
        iou=tuple(iou.tolist()),
        precision=tuple(ratio(hits, guess).tolist()),
        recall=tuple(recall.tolist()),
        f1=tuple(ratio(2 * hits, truth + guess).tolist()),
        share=tuple((truth / max(total, 1)).tolist()),
        boundary_iou=borders.iou,
        boundary_f=borders.f,
        mean_iou=float(iou[present].mean()) if total else math.nan,
        mean_accuracy=float(recall[present].mean()) if total else math.nan,
        pixel_accuracy=float(hits.sum()) / total if total else math.nan,
        mean_boundary_iou=borders.mean_iou,
        mean_boundary_f=borders.mean_f,
        absent=tuple(name for name, here in zip(class_names, present.tolist(), strict=True) if not here),
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _percent(value: float) -> str:
    return f"{'-':>6}" if math.isnan(value) else f"{100 * value:6.2f}"
