"""Backward warping: every pixel of the new image is sampled where its flow points."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.images import Uint8Array

FlowArray = NDArray[np.float32]


def places(flow: FlowArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where a flow [H, W, 2] points: x and y [H, W] float32, in pixels; pixel centres are at whole numbers."""
    height, width = flow.shape[:2]
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return flow[..., 0] + columns, flow[..., 1] + rows


def inside(flow: FlowArray) -> NDArray[np.bool_]:
    """[H, W]: whether the flow points into the image, up to the outer edge of its border pixels."""
    x, y = places(flow)
    height, width = flow.shape[:2]
    return (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)


def warp_image(image: Uint8Array, flow: FlowArray) -> Uint8Array:
    """`image` [H, W, 3] uint8 sampled along the flow: cubic between pixels; the nearest pixel beyond the border."""
    x, y = places(flow)
    return cv2.remap(image, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[return-value]


def warp_labels(labels: Uint8Array, flow: FlowArray) -> Uint8Array:
    """`labels` [H, W] uint8 sampled at the nearest pixel, which lies on the border for places beyond it."""
    x, y = places(flow)
    return cv2.remap(labels, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[return-value]


def compose(first: FlowArray, second: FlowArray) -> FlowArray:
    """The flow of going along `first` and from there along `second`, both [H, W, 2] float32.

    `second` is interpolated between pixels; beyond the border, it keeps its value at the border.
    """
    x, y = places(first)
    return first + cv2.remap(second, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def grey_difference(image: Uint8Array, other: Uint8Array) -> NDArray[np.float32]:
    """[H, W] float32: the absolute difference of two images [H, W, 3], averaged over the colours, in grey levels."""
    difference = cv2.absdiff(image, other)
    return cv2.transform(difference, np.full((1, 3), 1 / 3)).astype(np.float32)
