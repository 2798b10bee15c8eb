"""Pictures of predictions: overlays, mistakes, frames of a video, and class shares over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.legend import PAPER, class_list, with_legend
from datasets.specs.spec import IGNORE_LABEL, SegClass, class_colors
from utils.images import Uint8Array, colorize, dark_grey, tint
from utils.plots import drawable, new_plot

OVERLAY_STRENGTH = 0.5
LINE_STRENGTH = 0.4  # of the lines between classes: stronger ones hide a detailed photo, as they surround every speck
UNWANTED_LIGHT = 0.6  # brightness of the photo outside the wanted classes
RIGHT_LIGHT = 0.45  # brightness of the photo where a prediction is right or unknown
MOST_NAMES = 18  # in a column of its legend


def highlight(
    image: Uint8Array, prediction: Uint8Array, wanted: frozenset[int] | None
) -> tuple[Uint8Array, Uint8Array]:
    """Photo [H, W, 3] and train ids [H, W] to show: outside the wanted classes dark grey and without a class."""
    if wanted is None:
        return image, prediction
    rest = ~np.isin(prediction, list(wanted))
    shown = np.where(rest[..., None], dark_grey(image, UNWANTED_LIGHT), image)
    return shown, np.where(rest, np.uint8(IGNORE_LABEL), prediction)


def overlay(image: Uint8Array, prediction: Uint8Array, classes: Sequence[SegClass]) -> Uint8Array:
    """The photo [H, W, 3] tinted by the class colours, with light lines where train ids [H, W] meet."""
    tinted = tint(image, prediction, class_colors(classes), OVERLAY_STRENGTH)
    lines = class_borders(prediction)
    tinted[lines] = ((1 - LINE_STRENGTH) * tinted[lines] + LINE_STRENGTH * 255).astype(np.uint8)
    return tinted


def class_borders(prediction: Uint8Array) -> NDArray[np.bool_]:
    """[H, W], true where train ids [H, W] change; lines of 1 pixel, thicker in large images."""
    borders = np.zeros(prediction.shape, np.uint8)
    borders[:-1] |= prediction[:-1] != prediction[1:]
    borders[:, :-1] |= prediction[:, :-1] != prediction[:, 1:]
    thickness = max(1, round((borders.size**0.5) / 1400))
    return cv2.dilate(borders, np.ones((thickness, thickness), np.uint8)).astype(bool)


def draw_mistakes(
    image: Uint8Array, labels: Uint8Array, prediction: Uint8Array, classes: Sequence[SegClass]
) -> Uint8Array:
    """The colour of the predicted class where it is wrong, else the photo, dark and grey. All [H, W]; result RGB."""
    wrong = (prediction != labels) & (labels < len(classes))
    return np.where(wrong[..., None], colorize(prediction, class_colors(classes)), dark_grey(image, RIGHT_LIGHT))


def frame_painter(
    size: tuple[int, int], classes: Sequence[SegClass], wanted: frozenset[int] | None
) -> tuple[Callable[[Uint8Array, Uint8Array], Uint8Array], tuple[int, int]]:
    """A function that overlays frames [H, W, 3] with train ids [H, W], beside a constant legend; and its frames' size.

    size: of the video, (width, height). wanted: train ids that are shown; None: all.
    """
    listed = class_list(classes, frozenset(range(len(classes))) if wanted is None else wanted)
    blank = with_legend(np.zeros((size[1], size[0], 3), np.uint8), listed, percents=False)
    height, width = blank.shape[:2]
    # H.264 has no odd sizes.
    blank = cv2.copyMakeBorder(blank, 0, height % 2, 0, width % 2, cv2.BORDER_CONSTANT, value=PAPER)  # type: ignore[assignment]

    def paint(image: Uint8Array, prediction: Uint8Array) -> Uint8Array:
        sheet = blank.copy()
        sheet[: image.shape[0], : image.shape[1]] = overlay(*highlight(image, prediction, wanted), classes)
        return sheet

    return paint, (blank.shape[1], blank.shape[0])


def draw_shares(
    path: Path, shares: Sequence[Sequence[float]], classes: Sequence[SegClass], wanted: frozenset[int] | None,
    seconds: Sequence[float] | None = None,
) -> None:
    """Draw the shares, in percent, of N frames [N, C] as areas on top of each other, in the class colours.

    wanted: train ids that are drawn; None: all. Of those, the ones that occur are in the legend. seconds: when each
    frame begins, and when the last one ends, N + 1 values; None: they are images, numbered from 1.
    """
    edges = np.arange(len(shares) + 1) + 0.5 if seconds is None else np.asarray(seconds)
    values = np.array([*shares, shares[-1]])  # the last one lasts until the last edge
    drawn = [i for i in range(len(classes)) if (wanted is None or i in wanted) and values[:, i].any()]
    num_columns = -(-len(drawn) // MOST_NAMES)
    with new_plot(path, (8 + 2 * num_columns, 4.5), 150) as figure:
        axes = figure.add_subplot()
        areas = axes.stackplot(
            edges, values[:, drawn].T, step="post", linewidth=0,
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
