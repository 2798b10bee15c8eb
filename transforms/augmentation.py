"""The training augmentation: scale, crop and flip, which move image and labels together; colour and blur of the image.

Colour steps work on "wide" images: [H, W, 3] uint16, 257 steps per grey level, so that 255 becomes 65535 and integer
arithmetic saturates where an image does. With rounding to 8 bits after each step, four steps would be up to 4.7 grey
levels off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from config import AugmentConfig
from utils.images import Uint8Array

Place = tuple[int, int]  # row, column
WideImage = NDArray[np.uint16]

WIDE = 257  # wide steps per grey level
GRAY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601, of R, G, B
BAND_ROWS = 128  # rows whose hue is turned together, so that intermediate results stay in a cache


def color_jitter(image: Uint8Array, strength: float, generator: Generator) -> Uint8Array:
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


def gaussian_blur(image: Uint8Array, sigma: float) -> Uint8Array:
    """Gaussian blur, truncated at three sigma; border pixels are replicated beyond the border."""
    kernel = cv2.getGaussianKernel(2 * math.ceil(3 * sigma) + 1, sigma)
    # As fast as cv2.GaussianBlur, whose 8-bit weights are up to 2.5 grey levels off.
    return cv2.sepFilter2D(image, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)  # type: ignore[return-value]


# ImageNet's mean colour, so that padding is zero after normalisation.
MEAN_COLOR = (124, 116, 104)


@dataclass(frozen=True)
class Window:
    """A rectangle of the source image, in its pixels; it may reach beyond the image."""

    top: int
    left: int
    height: int
    width: int


def draw_window(
    image_size: tuple[int, ...], crop_size: tuple[int, int], scale: float, center: Place | None, generator: Generator
) -> Window:
    """The source window that a crop of `crop_size` shows at `scale` (2.0: objects look twice as large).

    Along an axis where the image is larger than the window, the window lies inside it; otherwise it contains the image.
    """
    height, width = (max(1, round(size / scale)) for size in crop_size)
    starts = []
    for axis, length in enumerate((height, width)):
        slack = image_size[axis] - length
        low, high = min(0, slack), max(0, slack)
        if center is not None:
            low = max(low, min(high, center[axis] - length + 1))
            high = min(high, max(low, center[axis]))
        starts.append(int(generator.integers(low, high + 1)))
    return Window(starts[0], starts[1], height, width)


def resample(
    pixels: Uint8Array, window: Window, size: tuple[int, int], fill: int | tuple[int, int, int], *, labels: bool
) -> Uint8Array:
    """`window` of `pixels` resized to `size`: nearest neighbour for labels, else bilinear (area beyond halving).

    Places beyond the image get `fill`, which is not blended with it.
    """
    rows, above, below = _inside(window.top, window.height, pixels.shape[0], size[0])
    columns, left, right = _inside(window.left, window.width, pixels.shape[1], size[1])
    part = pixels[rows, columns]
    inner = (size[0] - above - below, size[1] - left - right)
    if part.shape[:2] != inner:
        # Down to half the size, bilinear reads every pixel and takes an eighth of the time that area takes.
        image_method = cv2.INTER_AREA if window.height > 2 * size[0] else cv2.INTER_LINEAR
        # EXACT: OpenCV's plain nearest neighbour is half a pixel off from bilinear.
        method = cv2.INTER_NEAREST_EXACT if labels else image_method
        part = cv2.resize(part, inner[::-1], interpolation=method)  # type: ignore[assignment]
    if inner != size:
        margins = (above, below, left, right)
        part = cv2.copyMakeBorder(part, *margins, cv2.BORDER_CONSTANT, value=fill)  # type: ignore[assignment]
    return np.ascontiguousarray(part)


def _inside(start: int, length: int, image_length: int, size: int) -> tuple[slice, int, int]:
    """Along one axis: the image's pixels in a window, and how many of `size` to fill before and after them."""
    low, high = max(start, 0), min(start + length, image_length)
    before = min(round((low - start) * size / length), size - 1)
    after = min(round((start + length - high) * size / length), size - 1 - before)
    return slice(low, high), before, after


class TrainTransform:
    """The training augmentation: crop, mirror, colour, blur. The same generator gives the same crop in every process.

    Raises ValueError if the scale range is empty.
    """

    def __init__(self, config: AugmentConfig, ignore_label: int) -> None:
        if config.scale_min > config.scale_max:
            raise ValueError(f"--scale_min {config.scale_min} is larger than --scale_max {config.scale_max}.")
        self.config, self.ignore_label = config, ignore_label
        self.size = (config.crop_size, config.crop_width or config.crop_size)

    def __call__(
        self, image: Uint8Array, labels: Uint8Array, center: Place | None, generator: Generator
    ) -> tuple[Uint8Array, Uint8Array]:
        """image [H, W, 3], labels [H, W] -> crop. center: (row, column) that the crop shows, or None."""
        if self.config.pre_size:
            whole, factor = Window(0, 0, *labels.shape), self.config.pre_size / min(labels.shape)
            size = (round(whole.height * factor), round(whole.width * factor))
            image, labels = (resample(pixels, whole, size, 0, labels=pixels is labels) for pixels in (image, labels))
            center = (int(center[0] * factor), int(center[1] * factor)) if center else None
        image, labels = self.crop(image, labels, center, generator)
        if generator.random() < 0.5:
            image, labels = cv2.flip(image, 1), cv2.flip(labels, 1)  # type: ignore[assignment]
        if self.config.color_aug:
            image = color_jitter(image, self.config.color_aug, generator)
        if self.config.bblur:
            sigma = float(generator.uniform(10, 100))  # grey levels: edges that differ more stay
            image = cv2.bilateralFilter(image, 5, sigma, sigma)  # type: ignore[assignment]
        elif self.config.gblur:
            image = gaussian_blur(image, float(generator.uniform(0.15, 1.3)))  # pixels, as in the published recipe
        return image, labels

    def crop(
        self, image: Uint8Array, labels: Uint8Array, center: Place | None, generator: Generator
    ) -> tuple[Uint8Array, Uint8Array]:
        """Draw scale and position first, then resample only the window that the crop needs, once.

        The scale is drawn log-uniformly, so that halving is as likely as doubling.
        """
        scale = float(np.exp(generator.uniform(np.log(self.config.scale_min), np.log(self.config.scale_max))))
        window = draw_window(labels.shape, self.size, scale, center, generator)
        image = resample(image, window, self.size, MEAN_COLOR, labels=False)
        return image, resample(labels, window, self.size, self.ignore_label, labels=True)
