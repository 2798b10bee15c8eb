"""What moves image and labels together: scale, crop, flip; and the training augmentation as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from config import AugmentConfig
from transforms.photometric import color_jitter, random_bilateral_blur, random_gaussian_blur
from utils.images import Uint8Array

Rng = np.random.Generator
Place = tuple[int, int]  # row, column

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
    image_size: tuple[int, ...], crop_size: tuple[int, int], scale: float, center: Place | None, generator: Rng
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
    return Window(*starts, height, width)


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


def resize_shorter_side(image: Uint8Array, labels: Uint8Array, side: int) -> tuple[Uint8Array, Uint8Array, float]:
    """Both resized so that the shorter side has `side` pixels, and the factor."""
    height, width = labels.shape
    factor = side / min(height, width)
    size = (round(height * factor), round(width * factor))
    whole = Window(0, 0, height, width)
    return resample(image, whole, size, 0, labels=False), resample(labels, whole, size, 0, labels=True), factor


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
        self, image: Uint8Array, labels: Uint8Array, center: Place | None, generator: Rng
    ) -> tuple[Uint8Array, Uint8Array]:
        """image [H, W, 3], labels [H, W] -> crop. center: (row, column) that the crop shows, or None."""
        if self.config.pre_size:
            image, labels, factor = resize_shorter_side(image, labels, self.config.pre_size)
            center = (int(center[0] * factor), int(center[1] * factor)) if center else None
        image, labels = self.crop(image, labels, center, generator)
        if generator.random() < 0.5:
            image, labels = cv2.flip(image, 1), cv2.flip(labels, 1)  # type: ignore[assignment]
        if self.config.color_aug:
            image = color_jitter(image, self.config.color_aug, generator)
        if self.config.bblur:
            image = random_bilateral_blur(image, generator)
        elif self.config.gblur:
            image = random_gaussian_blur(image, generator)
        return image, labels

    def crop(
        self, image: Uint8Array, labels: Uint8Array, center: Place | None, generator: Rng
    ) -> tuple[Uint8Array, Uint8Array]:
        """Draw scale and position first, then resample only the window that the crop needs, once.

        The scale is drawn log-uniformly, so that halving is as likely as doubling.
        """
        scale = float(np.exp(generator.uniform(np.log(self.config.scale_min), np.log(self.config.scale_max))))
        window = draw_window(labels.shape, self.size, scale, center, generator)
        image = resample(image, window, self.size, MEAN_COLOR, labels=False)
        return image, resample(labels, window, self.size, self.ignore_label, labels=True)
