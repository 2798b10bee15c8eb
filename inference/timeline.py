"""A picture of how the class shares change over a video or a folder of frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.spec import SegClass
from utils.fonts import drawable
from utils.plots import new_plot

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
