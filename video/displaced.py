"""Spatially displaced sampling: every pixel is fetched from where its motion points, with gradients for both."""

from __future__ import annotations

import torch
from torch import Tensor


def displaced(image: Tensor, motion: Tensor) -> Tensor:
    """`image` [B, C, H, W] at (x, y) + motion, bilinear. motion: [B, 2, H, W] pixels right and down, of one type.

    A place outside the image counts as the nearest one inside, and the motion gets no gradient from there. A motion
    that is no number makes pixels that are none. Whole pixels are fetched exactly, which `grid_sample` does not do: it
    wants places from -1 to 1, and rounds on the way there and back. Raises ValueError where the shapes do not fit.
    """
    batch, channels, height, width = image.shape
    if motion.shape != (batch, 2, height, width):
        raise ValueError(
            f"images {list(image.shape)} want a motion {[batch, 2, height, width]}, got {list(motion.shape)}."
        )
    columns = torch.arange(width, device=image.device)
    rows = torch.arange(height, device=image.device)[:, None]
    left, right, to_right = _neighbours(motion[:, 0] + columns, width)
    upper, lower, down = _neighbours(motion[:, 1] + rows, height)
    pixels = image.flatten(2)

    def at(y: Tensor, x: Tensor) -> Tensor:
        places = (y * width + x).flatten(1)[:, None].expand(-1, channels, -1)
        return pixels.gather(2, places).view(image.shape)

    above, below = (torch.lerp(at(y, left), at(y, right), to_right) for y in (upper, lower))
    return torch.lerp(above, below, down)


def _neighbours(places: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Along one axis: the pixels before and after each place [B, H, W], and how far it is behind [B, 1, H, W]."""
    places = places.clamp(0, size - 1)
    floor = places.detach().nan_to_num().floor()  # an index has to be a number; the distance stays none
    before = floor.long()
    return before, (before + 1).clamp(max=size - 1), (places - floor)[:, None]
