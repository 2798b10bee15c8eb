"""How accurate the borders of classes are: boundary IoU and boundary F-score, from integer counts.

Boundary IoU (Cheng et al., CVPR 2021, arXiv:2103.16562) compares only each class's pixels within a few pixels of its
border: in a large region, the many inner pixels hide how accurate the border is. The boundary F-score
(Csurka et al., BMVC 2013) compares the borders themselves: precision is the share of the predicted border that lies
close to the true one, recall the share of the true border that lies close to the predicted one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Labels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

# The largest distance that is close, as a share of the image diagonal: the value that the authors of boundary IoU use
# for Cityscapes, 11 pixels at 2048x1024. They use 0.02 for smaller images of larger objects.
CLOSE = 0.005

# Columns of the counts: pixels near the border in both, in the truth, in the prediction; the prediction's border pixels
# that are close to the truth's, and all; the truth's border pixels that are close to the prediction's, and all.
NUM_COUNTS = 7


@dataclass(frozen=True)
class BoundaryScores:
    """Scores per class, NaN if the truth has no border of it; the means exclude those."""

    iou: tuple[float, ...]
    f: tuple[float, ...]
    mean_iou: float
    mean_f: float


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


def boundary_scores(counts: Tensor) -> BoundaryScores:
    """The scores of counts [C, 7]."""
    both, true, guessed, guessed_close, guessed_line, true_close, true_line = counts.to(torch.float64).unbind(1)
    nan = torch.full_like(both, math.nan)
    iou = torch.where(true > 0, both / (true + guessed - both).clamp(min=1), nan)
    precision, recall = guessed_close / guessed_line.clamp(min=1), true_close / true_line.clamp(min=1)
    f = torch.where(true_line > 0, 2 * precision * recall / (precision + recall).clamp(min=1e-12), nan)
    return BoundaryScores(tuple(iou.tolist()), tuple(f.tolist()), float(iou.nanmean()), float(f.nanmean()))


def _num_close(pixels: NDArray[np.int64], others: NDArray[np.int64], shape: tuple[int, int], close: int) -> int:
    """How many of `pixels` lie within `close` of one of `others`; both are positions in a flat image of `shape`."""
    mask = np.zeros(shape, np.uint8)
    mask.ravel()[others] = 1
    cv2.dilate(mask, np.ones((3, 3), np.uint8), mask, iterations=close)
    return int(mask.ravel()[pixels].sum(dtype=np.int64))
