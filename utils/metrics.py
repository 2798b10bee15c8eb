"""Scores, all computed from integer counts: a confusion matrix and, if requested, the counts at borders."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.images import Uint8Array
from utils.text import format_table

# The scores of a class, and those of all classes, each with its name in tables.
PER_CLASS = {"iou": "IoU", "precision": "prec.", "recall": "recall", "f1": "F1", "share": "share",
             "boundary_iou": "bIoU", "boundary_f": "bF"}  # fmt: skip
TOTALS = {"mean_iou": "mIoU", "mean_accuracy": "mean accuracy", "pixel_accuracy": "pixel accuracy",
          "mean_boundary_iou": "mean boundary IoU", "mean_boundary_f": "mean boundary F-score"}  # fmt: skip

# Columns of the counts at borders: pixels near the border in both, in the truth, in the prediction; the prediction's
# border pixels that are close to the truth's, and all; the truth's that are close to the prediction's, and all.
NUM_COUNTS = 7

# The largest distance that is close, as a share of the image diagonal: the value that the authors of boundary IoU use
# for Cityscapes, 11 pixels at 2048x1024. They use 0.02 for smaller images of larger objects.
CLOSE = 0.005


def confusion_matrix(labels: Tensor, prediction: Tensor, num_classes: int, ignore_label: int) -> Tensor:
    """Counts of pixels [C, C] int64, rows truth, columns prediction, of train ids; ignored pixels are left out."""
    assert labels.shape == prediction.shape, f"{list(labels.shape)} labels, {list(prediction.shape)} predictions"
    truth, guess = labels.flatten().long(), prediction.flatten().long()
    # An extra bin instead of a mask avoids synchronising with the device.
    cell = torch.where(truth == ignore_label, num_classes**2, truth * num_classes + guess)
    return torch.bincount(cell, minlength=num_classes**2 + 1)[: num_classes**2].view(num_classes, num_classes)


def scores(counts: Tensor, class_names: Sequence[str]) -> dict[str, Any]:
    """All scores of a confusion matrix [C, C], rows truth, columns prediction: from 0 to 1, None where undefined.

    counts: the matrix, or [C, C + 7]: with `boundary_counts` beside it, for the scores at borders.
    Returns those named in TOTALS; `classes`: by class those named in PER_CLASS; `absent`: the classes without a pixel
    in the truth, which are left out of the means.
    """
    num_classes, counts = len(counts), counts.to(torch.float64)
    matrix = counts[:, :num_classes]
    boundary = counts[:, num_classes:] if counts.shape[1] > num_classes else counts.new_zeros(num_classes, NUM_COUNTS)
    hits, truth, guess = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    present = truth > 0

    def ratio(part: Tensor, whole: Tensor) -> Tensor:
        return torch.where(present, torch.where(whole > 0, part / whole.clamp(min=1), 0), math.nan)

    iou, recall = ratio(hits, truth + guess - hits), ratio(hits, truth)
    boundary_iou, boundary_f = boundary_scores(boundary)
    precision, f1, share = ratio(hits, guess), ratio(2 * hits, truth + guess), truth / matrix.sum().clamp(min=1)
    per_class = torch.stack([iou, precision, recall, f1, share, boundary_iou, boundary_f], 1).tolist()
    totals = (  # the mean of nothing, and 0 / 0, are NaN
        iou[present].mean(), recall[present].mean(), hits.sum() / matrix.sum(), boundary_iou.nanmean(),
        boundary_f.nanmean(),
    )  # fmt: skip
    classes = {name: _named(PER_CLASS, values) for name, values in zip(class_names, per_class, strict=True)}
    absent = [name for name, here in zip(class_names, present.tolist(), strict=True) if not here]
    return {**_named(TOTALS, map(float, totals)), "absent": absent, "classes": classes}


def scores_table(found: Mapping[str, Any]) -> str:
    """What `scores` found as a text table: one line per class, in percent, then the means."""
    classes = found["classes"]
    keys = [key for key in PER_CLASS if any(one[key] is not None for one in classes.values())]
    rows = [["class", *(PER_CLASS[key] for key in keys)]]
    rows += [[name, *(_percent(one[key]) for key in keys)] for name, one in classes.items()]
    rows.append(["mean", *(_percent(found[f"mean_{key}"]) if f"mean_{key}" in TOTALS else "" for key in keys)])
    lines = [format_table(rows), f"pixel accuracy {_percent(found['pixel_accuracy'])}"]
    if found["absent"]:
        lines.append(f"not in the truth, left out of the mean: {', '.join(found['absent'])}")
    return "\n".join(lines)


def boundary_scores(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Boundary IoU and F-score of each class from counts [C, 7], float64, NaN if the truth has no border of it."""
    both, true, guessed, guessed_close, guessed_line, true_close, true_line = counts.to(torch.float64).unbind(1)
    nan = torch.full_like(both, math.nan)
    iou = torch.where(true > 0, both / (true + guessed - both).clamp(min=1), nan)
    precision, recall = guessed_close / guessed_line.clamp(min=1), true_close / true_line.clamp(min=1)
    f = torch.where(true_line > 0, 2 * precision * recall / (precision + recall).clamp(min=1e-12), nan)
    return iou, f


def close_pixels(height: int, width: int) -> int:
    """The largest distance that is close in an image of that size, in pixels; at least 1."""
    return max(1, round(CLOSE * math.hypot(height, width)))


def boundary_counts(
    labels: Uint8Array, prediction: Uint8Array, num_classes: int, ignore_label: int
) -> NDArray[np.int64]:
    """The counts for the scores: [C, 7] for train ids [H, W]; counts of several images may be added.

    Predictions at ignored pixels do not count: they are treated as ignored too.
    """
    prediction = np.where(labels == ignore_label, labels, prediction)
    close = close_pixels(*labels.shape)
    counts = np.zeros((num_classes, NUM_COUNTS), np.int64)
    near_true, near_predicted = near_border(labels, close), near_border(prediction, close)
    for column, chosen, ids in (
        (0, near_true & near_predicted & (labels == prediction), labels), (1, near_true, labels),
        (2, near_predicted, prediction),
    ):  # fmt: skip
        counts[:, column] = np.bincount(ids[chosen], minlength=ignore_label + 1)[:num_classes]
    lines = [np.flatnonzero(border_lines(ids, ignore_label)) for ids in (labels, prediction)]
    of_class = [ids.ravel()[line] for ids, line in zip((labels, prediction), lines, strict=True)]
    for train_id in np.unique(np.concatenate(of_class)):
        true, predicted = (line[classes == train_id] for line, classes in zip(lines, of_class, strict=True))
        counts[train_id, 3:] = (
            _num_close(predicted, true, labels.shape, close), len(predicted),
            _num_close(true, predicted, labels.shape, close), len(true),
        )  # fmt: skip
    return counts


def near_border(labels: Uint8Array, close: int) -> NDArray[np.bool_]:
    """[H, W]: within `close` pixels, diagonal steps included, of another label or of the image's edge."""
    # The padding outside the image is a label of no class: the largest for one filter, the smallest for the other.
    kernel = np.ones((3, 3), np.uint8)
    highest = cv2.dilate(labels, kernel, iterations=close, borderType=cv2.BORDER_CONSTANT, borderValue=255)
    lowest = cv2.erode(labels, kernel, iterations=close, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return highest != lowest


def border_lines(labels: Uint8Array, ignore_label: int) -> NDArray[np.bool_]:
    """[H, W]: pixels with a neighbour of another class above, below, left or right."""
    lines = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        along, across = lines.swapaxes(0, axis), labels.swapaxes(0, axis)
        differ = (across[1:] != across[:-1]) & (across[1:] != ignore_label) & (across[:-1] != ignore_label)
        along[1:] |= differ
        along[:-1] |= differ
    return lines


def _num_close(pixels: NDArray[np.int64], others: NDArray[np.int64], shape: tuple[int, int], close: int) -> int:
    """How many of `pixels` lie within `close` of one of `others`; both are positions in a flat image of `shape`."""
    mask = np.zeros(shape, np.uint8)
    mask.ravel()[others] = 1
    cv2.dilate(mask, np.ones((3, 3), np.uint8), mask, iterations=close)
    return int(mask.ravel()[pixels].sum(dtype=np.int64))


def _named(names: Iterable[str], values: Iterable[float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in zip(names, values, strict=True)}


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
