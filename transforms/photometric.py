"""Changes to colour and sharpness, of the image only; uint8 in, uint8 out.

Colour steps work on "wide" images: [H, W, 3] uint16, 257 steps per grey level, so that 255 becomes 65535 and integer
arithmetic saturates where an image does. With rounding to 8 bits after each step, four steps would be up to 4.7 grey
levels off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.images import Uint8Array

WideImage = NDArray[np.uint16]

WIDE = 257  # wide steps per grey level
GRAY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601, of R, G, B
BAND_ROWS = 128  # rows whose hue is turned together, so that intermediate results stay in a cache


def color_jitter(image: Uint8Array, strength: float, generator: np.random.Generator) -> Uint8Array:
    """Brightness, contrast, saturation (factors 1 ± strength) and hue (± strength turns), in random order.

    image: [H, W, 3] RGB. Within one grey level of the same steps in floating point, each clipped to 0 and 255.
    """
    brightness, contrast, saturation = generator.uniform(1 - strength, 1 + strength, 3).tolist()
    turn = float(generator.uniform(-min(strength, 0.5), min(strength, 0.5)))
    steps = [("brightness", brightness), ("contrast", contrast), ("saturation", saturation), ("hue", turn)]
    return change_colors(image, [steps[which] for which in generator.permutation(len(steps))])


def change_colors(image: Uint8Array, steps: Sequence[tuple[str, float]]) -> Uint8Array:
    """Apply steps in order: "brightness", "contrast", "saturation" by a factor, "hue" by turns."""
    wide = np.multiply(image, np.uint16(WIDE), dtype=np.uint16)
    for name, amount in steps:
        if name == "hue":
            for top in range(0, len(wide), BAND_ROWS):
                _turn_hue(wide[top : top + BAND_ROWS], amount)
        elif name == "saturation":
            cv2.transform(wide, amount * np.eye(3) + (1 - amount) * np.tile(GRAY_WEIGHTS, (3, 1)), dst=wide)
        else:
            center = float(np.dot(cv2.mean(wide)[:3], GRAY_WEIGHTS)) if name == "contrast" else 0.0
            cv2.addWeighted(wide, amount, wide, 0, center * (1 - amount), dst=wide)
    return cv2.convertScaleAbs(wide, alpha=1 / WIDE)  # type: ignore[return-value]


def _turn_hue(wide: WideImage, turn: float) -> None:
    """Rotate the hue on HSV's circle by `turn`, 1.0 being a full turn; exact to one wide step.

    A third of a turn permutes the channels. The rest, at most a sixth, moves each channel towards the one before it on
    the circle: by `reach`, less the distance that the channel after it must still move before this one may start.
    """
    thirds = round(3 * turn)
    sixths = 6 * turn - 2 * thirds
    order = [(channel - thirds) % 3 for channel in range(3)]
    backwards = sixths < 0
    if backwards:
        order.reverse()
    rows, width = wide.shape[:2]
    # One block of memory for all intermediate results: new arrays would evict each other from the cache.
    planes = np.empty((14, rows, width), np.uint16)
    before_a, a, b, c, after_c, reach, least = planes[:7]
    cv2.split(wide, [(a, b, c)[order.index(channel)] for channel in range(3)])
    before_a[:], after_c[:] = c, a
    cv2.max(cv2.max(a, b, dst=reach), c, dst=reach)
    cv2.min(cv2.min(a, b, dst=least), c, dst=least)
    cv2.subtract(reach, least, dst=reach)
    cv2.addWeighted(reach, abs(sixths), reach, 0, 0, dst=reach)
    # All three channels at once, stacked. These lines rely on cv2's add and subtract saturating at 0 and 65535.
    before, own, after, reaches, highest, lowest = (
        planes[first : first + 3].reshape(3 * rows, width) for first in (0, 1, 2, 5, 8, 11)
    )
    planes[6:8] = reach
    cv2.add(own, cv2.subtract(reaches, cv2.subtract(after, own, dst=highest), dst=highest), dst=highest)
    cv2.subtract(own, cv2.subtract(reaches, cv2.subtract(own, after, dst=lowest), dst=lowest), dst=lowest)
    cv2.max(cv2.min(before, highest, dst=highest), lowest, dst=highest)
    moved = list(planes[8:11])
    cv2.merge(moved[::-1] if backwards else moved, dst=wide)


def random_gaussian_blur(image: Uint8Array, generator: np.random.Generator) -> Uint8Array:
    """Blur with a sigma drawn from 0.15 to 1.3 pixels, as in the published recipe."""
    return gaussian_blur(image, float(generator.uniform(0.15, 1.3)))


def gaussian_blur(image: Uint8Array, sigma: float) -> Uint8Array:
    """Gaussian blur, truncated at three sigma; border pixels are replicated beyond the border."""
    kernel = cv2.getGaussianKernel(2 * math.ceil(3 * sigma) + 1, sigma)
    # As fast as cv2.GaussianBlur, whose 8-bit weights are up to 2.5 grey levels off.
    return cv2.sepFilter2D(image, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)  # type: ignore[return-value]


def random_bilateral_blur(image: Uint8Array, generator: np.random.Generator) -> Uint8Array:
    """Edge-preserving blur, with a colour sigma of 10 to 100 grey levels."""
    sigma = float(generator.uniform(10, 100))
    return cv2.bilateralFilter(image, 5, sigma, sigma)  # type: ignore[return-value]
