"""Drawn frames of a video: the classes overlaid, with a constant legend, and their shares over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.legend import PAPER, class_list, with_legend
from datasets.specs.spec import SegClass
from inference.writers import highlighted, overlay
from utils.images import Uint8Array
from utils.plots import drawable, new_plot


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


MOST_STEPS = 1000  # about one a pixel; of more frames the means are drawn
MOST_NAMES = 18  # in a column of the legend


def draw_shares(
    path: Path, shares: Sequence[Sequence[float]], classes: Sequence[SegClass], wanted: frozenset[int] | None,
    seconds: Sequence[float] | None = None,
) -> None:
    """Draw the shares, in percent, of N frames [N, C] as areas on top of each other, in the class colours.

    wanted: train ids that are drawn; None: all. Of those, the ones that occur are in the legend. seconds: when each
    frame begins, and when the last one ends, N + 1 values; None: they are images, numbered from 1.
    """
    edges = np.arange(len(shares) + 1) + 0.5 if seconds is None else np.asarray(seconds)
    starts = np.unique(np.linspace(0, len(shares), min(len(shares), MOST_STEPS) + 1).round().astype(int))
    counts = np.diff(starts)[:, None]
    means = np.add.reduceat(np.asarray(shares, float), starts[:-1]) / counts
    drawn = [i for i in range(len(classes)) if (wanted is None or i in wanted) and means[:, i].any()]
    num_columns = -(-len(drawn) // MOST_NAMES)
    with new_plot(path, (8 + 2 * num_columns, 4.5), 150) as figure:
        axes = figure.add_subplot()
        areas = axes.stackplot(
            edges[starts], np.vstack([means, means[-1:]])[:, drawn].T, step="post", linewidth=0,
            colors=["#{:02x}{:02x}{:02x}".format(*classes[i].color) for i in drawn],
        )  # fmt: skip
        names = [drawable(classes[i].name, f"train id {i}") for i in drawn]
        figure.legend(areas[::-1], names[::-1], loc="outside right upper", frameon=False, ncols=num_columns or 1)
        if seconds is None:
            axes.locator_params("x", integer=True)
        axes.set_xlabel("image, in order of the names" if seconds is None else "seconds")
        axes.set_ylabel("share of the pixels, in percent")
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(0, 100 if wanted is None else None)
        axes.spines[["top", "right"]].set_visible(False)
