"""Drawn frames of a video: the classes overlaid, and a constant legend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datasets.spec import SegClass
from inference.legend import PAPER, class_list, with_legend
from inference.writers import highlighted, overlay
from utils.images import Uint8Array


class FramePainter:
    """Draws the frames of a video of `size` (width, height): the classes overlaid, and a constant legend.

    wanted: train ids that are shown; None: all.
    """

    def __init__(self, size: tuple[int, int], classes: Sequence[SegClass], wanted: frozenset[int] | None) -> None:
        self.classes = classes
        self.wanted = wanted
        blank = np.zeros((size[1], size[0], 3), np.uint8)
        listed = class_list(classes, frozenset(range(len(classes))) if wanted is None else wanted)
        self._sheet = even(with_legend(blank, listed, percents=False), PAPER)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a drawn frame, both even."""
        return self._sheet.shape[1], self._sheet.shape[0]

    def __call__(self, image: Uint8Array, labels: Uint8Array) -> Uint8Array:
        """The frame [H, W, 3] with train ids [H, W] overlaid, above or next to the legend."""
        sheet = self._sheet.copy()
        sheet[: image.shape[0], : image.shape[1]] = overlay(*highlighted(image, labels, self.wanted), self.classes)
        return sheet


def even(picture: Uint8Array, color: tuple[int, int, int]) -> Uint8Array:
    """`picture` [H, W, 3], one row or column of `color` larger where its height or width is odd."""
    height, width = picture.shape[:2]
    sheet = np.full((height + height % 2, width + width % 2, 3), color, np.uint8)
    sheet[:height, :width] = picture
    return sheet
