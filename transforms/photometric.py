"""Colour and sharpness of the image alone; uint8 in, uint8 out."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from utils.images import Uint8Array

GRAY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601, of R, G, B


def color_jitter(image: Uint8Array, strength: float, generator: np.random.Generator) -> Uint8Array:
    """Brightness, contrast, saturation (factors 1 ± strength) and hue (± strength turns), in random order."""
    brightness, contrast, saturation = generator.uniform(1 - strength, 1 + strength, 3)
    turn = generator.uniform(-min(strength, 0.5), min(strength, 0.5))
    steps: list[Callable[[Uint8Array], Uint8Array]] = [
        lambda pixels: adjust_brightness(pixels, brightness),
        lambda pixels: adjust_contrast(pixels, contrast),
        lambda pixels: adjust_saturation(pixels, saturation),
        lambda pixels: adjust_hue(pixels, turn),
    ]
    for step in generator.permutation(len(steps)):
        image = steps[step](image)
    return image


def adjust_brightness(image: Uint8Array, factor: float) -> Uint8Array:
    """image * factor."""
    return cv2.convertScaleAbs(image, alpha=factor)  # type: ignore[return-value]


def adjust_contrast(image: Uint8Array, factor: float) -> Uint8Array:
    """Distance from the mean grey times factor."""
    mean = float(np.dot(cv2.mean(image)[:3], GRAY_WEIGHTS))
    values = np.arange(256) * factor + mean * (1 - factor)
    return cv2.LUT(image, np.clip(np.rint(values), 0, 255).astype(np.uint8))  # type: ignore[return-value]


def adjust_saturation(image: Uint8Array, factor: float) -> Uint8Array:
    """Distance from the pixel's own grey times factor."""
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, gray, 1 - factor, 0)  # type: ignore[return-value]


def adjust_hue(image: Uint8Array, turn: float) -> Uint8Array:
    """Hue moved by `turn`, 1.0 being once around the circle."""
    if round(turn * 256) % 256 == 0:
        return image  # there and back through 8-bit hue costs up to 7 grey levels
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(turn * 256) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)  # type: ignore[return-value]


def random_gaussian_blur(image: Uint8Array, generator: np.random.Generator) -> Uint8Array:
    """Blur with a sigma drawn from 0.15 to 1.3 pixels, as the published recipe does."""
    return cv2.GaussianBlur(image, (0, 0), sigmaX=float(generator.uniform(0.15, 1.3)))  # type: ignore[return-value]


def random_bilateral_blur(image: Uint8Array, generator: np.random.Generator) -> Uint8Array:
    """Blur that keeps edges, with a colour sigma of 10 to 100 grey levels."""
    sigma = float(generator.uniform(10, 100))
    return cv2.bilateralFilter(image, 5, sigma, sigma)  # type: ignore[return-value]
