"""Optical flow between two images: the estimators' interface, and the one that needs no weights."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np

from utils.images import Uint8Array
from video.warping import FlowArray

# Up to this many pixels, DIS searches at full size; above, at half: four times as fast, and details are large there.
SMALL = 1 << 19
SMALLEST = 16  # pixels per side; OpenCV's DIS may reject smaller images
SMOOTHNESS = 5.0  # of the motion; OpenCV's 20 smears it across object edges, and propagated labels lose mIoU


class Flow(Protocol):
    """Estimates the motion between two images of the same size."""

    def __call__(self, image: Uint8Array, other: Uint8Array, beyond: Uint8Array | None = None) -> FlowArray:
        """Two images [H, W, 3] uint8 RGB -> [H, W, 2] float32, pixels right and down.

        What is at pixel (x, y) of `image` is at (x, y) + flow[y, x] in `other`. beyond: the frame that is as far from
        `other` as `other` is from `image`, if there is one; only `sdc` looks at it.
        """
        ...


class DisFlow:
    """OpenCV's dense inverse search (Kroeger et al., ECCV 2016) on grey values."""

    def __call__(self, image: Uint8Array, other: Uint8Array, beyond: Uint8Array | None = None) -> FlowArray:
        """See `Flow`."""
        return self.refine(image, other, np.zeros((*image.shape[:2], 2), np.float32))

    def refine(self, image: Uint8Array, other: Uint8Array, start: FlowArray) -> FlowArray:
        """The flow, searched for around `start` [H, W, 2] float32. Raises ValueError if the images are too small."""
        if min(image.shape[:2]) < SMALLEST:
            raise ValueError(f"frames of {image.shape[1]}x{image.shape[0]} pixels are too small for --flow dis.")
        here, there = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (image, other))
        return _search(*here.shape).calc(here, there, start.copy())  # type: ignore[return-value]


def _search(height: int, width: int) -> cv2.DISOpticalFlow:
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    small = height * width <= SMALL
    dis.setFinestScale(0 if small else 1)
    dis.setPatchStride(3 if small else 4)
    dis.setVariationalRefinementAlpha(SMOOTHNESS)
    return dis
