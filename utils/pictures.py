"""Label maps as images."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from datasets.spec import IGNORE_LABEL, Color
from utils.images import Uint8Array

IGNORE_COLOR: Color = (0, 0, 0)


def colorize(labels: Uint8Array, palette: Sequence[Color]) -> Uint8Array:
    """Train ids [H, W] uint8 -> RGB [H, W, 3] uint8; ids that are not a class become black."""
    table = np.tile(np.array(IGNORE_COLOR, np.uint8), (IGNORE_LABEL + 1, 1))
    table[: len(palette)] = palette
    return table[labels]


def blend(image: Uint8Array, labels: Uint8Array, palette: Sequence[Color], opacity: float = 0.55) -> Uint8Array:
    """`image` overlaid with the colours of `labels`; it is unchanged where there is no class."""
    # uint8 throughout: for a very large image, 8-byte numbers would take all memory.
    mixed = cv2.addWeighted(image, 1 - opacity, colorize(labels, palette), opacity, 0)
    return np.where((labels < len(palette))[..., None], mixed, image)


def dark_grey(image: Uint8Array, light: float) -> Uint8Array:
    """`image` [H, W, 3] in grey, with its brightness multiplied by `light`: [H, W, 1] uint8."""
    return cv2.convertScaleAbs(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), alpha=light)[..., None]  # type: ignore[return-value]


def shrunk(picture: Uint8Array, largest_side: int, interpolation: int = cv2.INTER_AREA) -> Uint8Array:
    """`picture` [H, W, 3] or [H, W], shrunk if a side is longer than `largest_side` pixels.

    interpolation: OpenCV's constant; labels need one that does not blend pixels.
    """
    factor = largest_side / max(picture.shape[:2])
    if factor >= 1:
        return picture
    size = (max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor)))
    return cv2.resize(picture, size, interpolation=interpolation)  # type: ignore[return-value]


def side_by_side(pictures: Sequence[Uint8Array], gap: int = 6) -> Uint8Array:
    """RGB images of the same height side by side, with a white gap."""
    bar = np.full((pictures[0].shape[0], gap, 3), 255, np.uint8)
    row = [part for picture in pictures for part in (picture, bar)][:-1]
    return np.concatenate(row, axis=1)
