"""Pictures of predictions: overlays, mistakes, frames of a video."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.legend import PAPER, ClassShare, with_legend
from datasets.specs.spec import IGNORE_LABEL, SegClass
from utils.images import Uint8Array, colorize, tint

LINE_STRENGTH = 0.4  # of the lines between classes: stronger ones hide a detailed photo, as they surround every speck
UNWANTED_LIGHT = 0.6  # brightness of the photo outside the wanted classes
RIGHT_LIGHT = 0.45  # brightness of the photo where a prediction is right or unknown


def highlight(
    image: Uint8Array, prediction: Uint8Array, wanted: frozenset[int] | None
) -> tuple[Uint8Array, Uint8Array]:
    """Photo [H, W, 3] and train ids [H, W] to show: outside the wanted classes dark grey and without a class."""
    if wanted is None:
        return image, prediction
    rest = ~np.isin(prediction, list(wanted))
    shown = np.where(rest[..., None], dark_grey(image, UNWANTED_LIGHT), image)
    return shown, np.where(rest, np.uint8(IGNORE_LABEL), prediction)


def dark_grey(image: Uint8Array, light: float) -> Uint8Array:
    """`image` [H, W, 3] in grey, with its brightness multiplied by `light`: [H, W, 1] uint8."""
    return cv2.convertScaleAbs(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), alpha=light)[..., None]  # type: ignore[return-value]


def overlay(image: Uint8Array, prediction: Uint8Array, classes: Sequence[SegClass]) -> Uint8Array:
    """The photo [H, W, 3] tinted by the class colours, with light lines where train ids [H, W] meet."""
    tinted = tint(image, prediction, [c.color for c in classes])
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
    return np.where(wrong[..., None], colorize(prediction, [c.color for c in classes]), dark_grey(image, RIGHT_LIGHT))


def frame_painter(
    size: tuple[int, int], classes: Sequence[SegClass], wanted: frozenset[int] | None
) -> tuple[Callable[[Uint8Array, Uint8Array], Uint8Array], tuple[int, int]]:
    """A function that overlays frames [H, W, 3] with train ids [H, W], beside a constant legend; and its frames' size.

    size: of the video, (width, height). wanted: train ids that are shown; None: all.
    """
    listed = [ClassShare(i, c.name, c.color, 0, 0.0) for i, c in enumerate(classes) if wanted is None or i in wanted]
    blank = with_legend(np.zeros((size[1], size[0], 3), np.uint8), listed, percents=False)
    height, width = blank.shape[:2]
    # H.264 has no odd sizes.
    blank = cv2.copyMakeBorder(blank, 0, height % 2, 0, width % 2, cv2.BORDER_CONSTANT, value=PAPER)  # type: ignore[assignment]

    def paint(image: Uint8Array, prediction: Uint8Array) -> Uint8Array:
        sheet = blank.copy()
        sheet[: image.shape[0], : image.shape[1]] = overlay(*highlight(image, prediction, wanted), classes)
        return sheet

    return paint, (blank.shape[1], blank.shape[0])
