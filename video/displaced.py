"""Spatially displaced sampling: each pixel is fetched from where its motion points; differentiable in both."""

from __future__ import annotations

import torch
from torch import Tensor


def displaced(image: Tensor, motion: Tensor) -> Tensor:
    """`image` [B, C, H, W] at (x, y) + motion, bilinear. motion: [B, 2, H, W] pixels right and down, of the same dtype.

    A place outside the image is clamped to the nearest one inside, and gives the motion no gradient. NaN in the motion
    gives NaN pixels. Whole-pixel motion is exact, unlike with `grid_sample`, which expects places from -1 to 1 and
    rounds when converting to them and back. Raises ValueError if the shapes do not match.
    """
    batch, channels, height, width = image.shape
    if motion.shape != (batch, 2, height, width):
        raise ValueError(
            f"images {list(image.shape)} need motion {[batch, 2, height, width]}, got {list(motion.shape)}."
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
    """On one axis: the pixels before and after each place [B, H, W], and its distance from the former [B, 1, H, W]."""
    places = places.clamp(0, size - 1)
    floor = places.detach().nan_to_num().floor()  # an index cannot be NaN; the distance stays NaN
    before = floor.long()
    return before, (before + 1).clamp(max=size - 1), (places - floor)[:, None]
