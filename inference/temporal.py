"""Smooth the classes of a video along its motion, so that they flicker less.

Each pixel's probabilities are mixed with those of the same spot in the frame before, found by optical flow. Where the
frame before looks different (something came into view, or the flow is wrong) nothing is mixed in.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from utils.device import to_device
from utils.images import Uint8Array

KEPT = 0.7  # weight of the past where both frames look the same
ALIKE = 12.0  # difference in brightness, of 255, at which about a third of that weight is left
FLOW_SCALE = 0.5  # motion is found at this size of the frame: four times as fast, and steadier

Flow = NDArray[np.float32]


class Smoother:
    """Call it with the frames of a video in order."""

    def __init__(self) -> None:
        self._before: tuple[Uint8Array, Tensor] | None = None

    @torch.inference_mode()
    def __call__(self, image: Uint8Array, probabilities: Tensor) -> Tensor:
        """Smoothed probabilities [C, H, W] of the frame [H, W, 3] RGB with these probabilities."""
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if self._before is not None:
            grey_before, smoothed_before = self._before
            flow = flow_to(grey, grey_before)  # type: ignore[arg-type]
            weight = alike(grey, grey_before, flow) * KEPT  # type: ignore[arg-type]
            kept = to_device(torch.from_numpy(weight), probabilities.device)
            probabilities = probabilities + kept * (moved(smoothed_before, flow) - probabilities)
        self._before = grey, probabilities  # type: ignore[assignment]
        return probabilities


def flow_to(grey: Uint8Array, other: Uint8Array) -> Flow:
    """Optical flow [H, W, 2]: how many pixels to the right and down each pixel of `grey` is found in `other` [H, W]."""
    height, width = grey.shape
    size = max(16, round(width * FLOW_SCALE)), max(16, round(height * FLOW_SCALE))
    here, there = (cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in (grey, other))
    flow = np.zeros((size[1], size[0], 2), np.float32)
    cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(here, there, flow)
    large = cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR)
    return (large * np.array([width / size[0], height / size[1]])).astype(np.float32)


def alike(grey: Uint8Array, other: Uint8Array, flow: Flow) -> NDArray[np.float32]:
    """[H, W]: 1 where `other`, moved by the flow, looks like `grey`, falling to 0; 0 where it came from outside."""
    height, width = grey.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = x + flow[..., 0], y + flow[..., 1]
    warped = cv2.remap(other, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    # Blurred slightly, so that noise does not count.
    difference = cv2.blur(cv2.absdiff(grey, warped).astype(np.float32), (5, 5))
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return np.where(inside, np.exp(-((difference / ALIKE) ** 2)), 0).astype(np.float32)


def moved(values: Tensor, flow: Flow) -> Tensor:
    """`values` [C, H, W] fetched from where the flow [H, W, 2] points."""
    height, width = flow.shape[:2]
    x = torch.arange(width, dtype=torch.float32) + torch.from_numpy(flow[..., 0])
    y = torch.arange(height, dtype=torch.float32)[:, None] + torch.from_numpy(flow[..., 1])
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=2)
    there = to_device(grid, values.device)[None]
    return F.grid_sample(values[None], there, padding_mode="border", align_corners=False)[0]


def flicker(labels: Uint8Array, before: Uint8Array, grey: Uint8Array, grey_before: Uint8Array) -> float:
    """Share of the pixels seen in both frames whose class changed from the frame before. All [H, W]."""
    flow = flow_to(grey, grey_before)
    height, width = labels.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    warped = cv2.remap(before, x + flow[..., 0], y + flow[..., 1], cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    seen = alike(grey, grey_before, flow) > 0.5
    return float((labels != warped)[seen].mean()) if seen.any() else 0.0
