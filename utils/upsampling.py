"""Bilinear upsampling of logits and feature maps, with one convention for the whole project."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize `x` [B, C, h, w] bilinearly to `size` (rows, columns), corner pixels onto corner pixels.

    Published weights were trained with aligned corners; the other convention shifts thin objects.
    """
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)
