"""How well a motion reconstructs the target frame from the source frame; needs no labels."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

WHITE = 255.0
COLOR, GRADIENT, SMOOTHNESS = 0.7, 0.2, 0.1  # the weights of the published training


class SDCLoss(NamedTuple):
    """The loss and the terms of its weighted sum."""

    total: Tensor
    color: Tensor
    gradient: Tensor
    smoothness: Tensor


def sdc_loss(prediction: Tensor, target: Tensor, motion: Tensor) -> SDCLoss:
    """0.7 colour + 0.2 colour gradient + 0.1 smoothness of the motion.

    prediction, target: [B, C, H, W] float32, values 0 to 255. motion: [B, 2, H, W] float32 pixels; it produced the
    prediction. In the loss, colours range from 0 to 1 and motion is in pixels. Each term is a mean, so it depends
    neither on the number nor on the size of the images. Gradients are signed: an edge from dark to bright does not
    match one from bright to dark.
    """
    error = (prediction - target) / WHITE
    color = error.abs().mean()
    gradient = _roughness(error)  # the difference of two gradients is the gradient of the difference
    smoothness = _roughness(motion)
    return SDCLoss(COLOR * color + GRADIENT * gradient + SMOOTHNESS * smoothness, color, gradient, smoothness)


def _roughness(values: Tensor) -> Tensor:
    """Mean change from each pixel to the next in its row, plus that in its column."""
    return values.diff(dim=3).abs().mean() + values.diff(dim=2).abs().mean()
