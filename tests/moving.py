"""A small video whose motion is known, its labels, and what a video file holds."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

TEXTURE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (48, 96, 3), np.uint8), (0, 0), 2.0)


def frame(number: int) -> np.ndarray:
    """A texture that moves two pixels to the left from each frame to the next, [48, 64, 3]."""
    return np.ascontiguousarray(cv2.normalize(TEXTURE, None, 0, 255, cv2.NORM_MINMAX)[:, 2 * number : 2 * number + 64])


def ids(number: int, left: int, right: int) -> np.ndarray:
    """What is left and right of the column that stands at 40 in frame 0, [48, 64]."""
    return np.where(np.arange(64) < 40 - 2 * number, left, right)[None].repeat(48, 0).astype(np.uint8)


def frames_of(path: Path) -> tuple[list[np.ndarray], float]:
    """The frames of a video, and how many a second it says to have."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (frame := capture.read()[1]) is not None:
        frames.append(frame)
    return frames, capture.get(cv2.CAP_PROP_FPS)
