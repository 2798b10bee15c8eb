"""The training augmentation that a config describes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from config import AugmentConfig
from transforms.joint import RandomScaleCrop, flip, resize_shorter_side
from transforms.photometric import color_jitter, random_bilateral_blur, random_gaussian_blur
from utils.images import Uint8Array

# ImageNet's mean colour, so that padding is zero after normalisation.
MEAN_COLOR = (124, 116, 104)


@dataclass(frozen=True)
class TrainTransform:
    """Crop, mirror, colour, blur. The same generator gives the same draws in every process."""

    config: AugmentConfig
    crop: RandomScaleCrop

    def __call__(
        self, image: Uint8Array, labels: Uint8Array, center: tuple[int, int] | None, generator: np.random.Generator
    ) -> tuple[Uint8Array, Uint8Array]:
        """image [H, W, 3], labels [H, W] -> crop. center: (row, column) that the crop shows, or None."""
        if self.config.pre_size:
            image, labels, factor = resize_shorter_side(image, labels, self.config.pre_size)
            center = (int(center[0] * factor), int(center[1] * factor)) if center else None
        image, labels = self.crop(image, labels, center, generator)
        if generator.random() < 0.5:
            image, labels = flip(image, labels)
        if self.config.color_aug:
            image = color_jitter(image, self.config.color_aug, generator)
        if self.config.bblur:
            image = random_bilateral_blur(image, generator)
        elif self.config.gblur:
            image = random_gaussian_blur(image, generator)
        return image, labels


def train_transform(config: AugmentConfig, ignore_label: int) -> TrainTransform:
    """The training augmentation. Raises ValueError if the scale range is empty."""
    if config.scale_min > config.scale_max:
        raise ValueError(f"--scale_min {config.scale_min} is larger than --scale_max {config.scale_max}.")
    crop = RandomScaleCrop(
        size=(config.crop_size, config.crop_width or config.crop_size),
        scale=(config.scale_min, config.scale_max),
        fill_label=ignore_label,
        fill_color=MEAN_COLOR,
    )
    return TrainTransform(config, crop)
