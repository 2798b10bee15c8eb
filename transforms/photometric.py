"""Colour and sharpness of the image alone; uint8 in, uint8 out.

Colour steps work on "wide" images: [H, W, 3] uint16, 257 to a grey level, so that 255 is 65535 and integer arithmetic
saturates where a picture does. Rounded to 8 bits after each step, four of them are up to 4.7 grey levels off.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.images import Uint8Array

WideImage = NDArray[np.uint16]

WIDE = 257  # wide steps to a grey level
GRAY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601, of R, G, B
_BAND_ROWS = 64  # rows whose hue is changed at a time: what is in between stays in the core's cache


def color_jitter(image: Uint8Array, strength: float, generator: np.random.Generator) -> Uint8Array:
    """Brightness, contrast, saturation (factors 1 ± strength) and hue (± strength turns), in random order.

    image: [H, W, 3] RGB. Within one grey level of the same steps in floating point, each cut off at 0 and 255.
    """
    brightness, contrast, saturation = generator.uniform(1 - strength, 1 + strength, 3)
    turn = generator.uniform(-min(strength, 0.5), min(strength, 0.5))
    steps: list[Callable[[WideImage], None]] = [
        lambda wide: adjust_brightness(wide, brightness),
        lambda wide: adjust_contrast(wide, contrast),
        lambda wide: adjust_saturation(wide, saturation),
        lambda wide: adjust_hue(wide, turn),
    ]
    wide = widen(image)
    for step in generator.permutation(len(steps)):
        steps[step](wide)
    return narrow(wide)


def widen(image: Uint8Array) -> WideImage:
    """0..255 -> 0..65535, a new array."""
    return np.multiply(image, np.uint16(WIDE), dtype=np.uint16)


def narrow(wide: WideImage) -> Uint8Array:
    """0..65535 -> 0..255, rounded, a new array."""
    return cv2.convertScaleAbs(wide, alpha=1 / WIDE)  # type: ignore[return-value]


def adjust_brightness(wide: WideImage, factor: float) -> None:
    """In place: values times factor."""
    cv2.addWeighted(wide, factor, wide, 0, 0, dst=wide)


def adjust_contrast(wide: WideImage, factor: float) -> None:
    """In place: distance from the image's mean grey times factor."""
    mean = float(np.dot(cv2.mean(wide)[:3], GRAY_WEIGHTS))
    cv2.addWeighted(wide, factor, wide, 0, mean * (1 - factor), dst=wide)


def adjust_saturation(wide: WideImage, factor: float) -> None:
    """In place: distance from the pixel's own grey times factor."""
    to_gray = np.tile(GRAY_WEIGHTS, (3, 1))
    cv2.transform(wide, factor * np.eye(3) + (1 - factor) * to_gray, dst=wide)


def adjust_hue(wide: WideImage, turn: float) -> None:
    """In place: hue of the HSV colour circle moved by `turn`, 1.0 being once around; exact to one wide step.

    A third of a turn swaps channels. What is left, at most a sixth, moves each channel towards the one before it on the
    circle: by `reach`, less the way that the channel after it has still to go before this one's turn comes.
    """
    thirds = round(3 * turn)
    sixths = 6 * turn - 2 * thirds
    order = [(channel - thirds) % 3 for channel in range(3)]
    backwards = sixths < 0
    if backwards:
        order.reverse()
    for top in range(0, len(wide), _BAND_ROWS):
        band = wide[top : top + _BAND_ROWS]
        rows = len(band)
        channels = cv2.split(band)
        a, b, c = (channels[k] for k in order)
        ring = np.concatenate((c, a, b, c, a))
        before, own, after = ring[: 3 * rows], ring[rows : 4 * rows], ring[2 * rows :]
        spread = cv2.subtract(cv2.max(cv2.max(a, b), c), cv2.min(cv2.min(a, b), c))
        reach = np.tile(cv2.addWeighted(spread, abs(sixths), spread, 0, 0), (3, 1))
        # cv2's add and subtract stop at 0 and 65535, which these lines rely on.
        highest = cv2.add(own, cv2.subtract(reach, cv2.subtract(after, own)))
        lowest = cv2.subtract(own, cv2.subtract(reach, cv2.subtract(own, after)))
        moved = np.split(cv2.max(cv2.min(before, highest), lowest), 3)
        cv2.merge(moved[::-1] if backwards else moved, dst=band)


def random_gaussian_blur(image: Uint8Array, generator: np.random.Generator) -> Uint8Array:
    """Blur with a sigma drawn from 0.15 to 1.3 pixels, as the published recipe does."""
    return gaussian_blur(image, float(generator.uniform(0.15, 1.3)))


def gaussian_blur(image: Uint8Array, sigma: float) -> Uint8Array:
    """Gaussian blur, cut off at three sigma; beyond the border the border's pixels go on."""
    kernel = cv2.getGaussianKernel(2 * math.ceil(3 * sigma) + 1, sigma)
    # As fast as cv2.GaussianBlur, whose weights of 8 bits are up to 2.5 grey levels off.
    return cv2.sepFilter2D(image, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)  # type: ignore[return-value]


def random_bilateral_blur(image: Uint8Array, generator: np.random.Generator) -> Uint8Array:
    """Blur that keeps edges, with a colour sigma of 10 to 100 grey levels."""
    sigma = float(generator.uniform(10, 100))
    return cv2.bilateralFilter(image, 5, sigma, sigma)  # type: ignore[return-value]
