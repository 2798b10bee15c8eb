"""Which carried pixels are not to be believed, by how they look and by whether the way there leads back."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.images import Uint8Array
from video.motion import Displacement
from video.warping import grey_difference

DIFFERENT = 20.0  # grey levels: what differs more from the true frame is something else
DOUBTFUL = 10.0  # of `doubt`
MISS = 1.0  # pixels; one who arrives nearer to where he started has found back
MISS_UNSEEN = 2.0  # the same where no true frame can be compared with


def unlike(warped: Uint8Array, true: Uint8Array) -> NDArray[np.float32]:
    """[H, W] float32, grey levels: how different the warped picture is from the true one.

    Averaged over 3x3 pixels, since noise is no difference.
    """
    return cv2.blur(grey_difference(warped, true), (3, 3))  # type: ignore[return-value]


def doubt(difference: NDArray[np.float32], miss: NDArray[np.float32]) -> NDArray[np.float32]:
    """[H, W] float32: the difference in grey levels, halved where the way there leads back, doubled where it does not.

    Neither alone tells as well (docs/propagation.md). In even areas flow cannot be exact and need not be.
    """
    return difference * np.sqrt(np.clip(miss, 0.25, 4.0))


def hidden(motion: Displacement, difference: NDArray[np.float32] | None) -> NDArray[np.bool_]:
    """[H, W]: what the labelled frame does not show. difference: of `unlike`, None without a true frame."""
    if motion.visible is not None:
        return ~motion.visible
    assert motion.miss is not None
    if difference is None:
        return motion.miss > MISS_UNSEEN
    return (motion.miss > MISS) & (doubt(difference, motion.miss) > DOUBTFUL)


def wrong(motion: Displacement, difference: NDArray[np.float32] | None) -> NDArray[np.bool_]:
    """[H, W]: what looks like something else than the true frame.

    Nothing where visibility is known: then the motion is exact, and what differs is light and small detail.
    """
    if difference is None or motion.visible is not None:
        return np.zeros(motion.flow.shape[:2], bool)
    return difference > DIFFERENT


def trust(difference: NDArray[np.float32]) -> NDArray[np.float32]:
    """[H, W] float32 in 0 … 1: how much a pixel's label counts that looks so different."""
    return 0.05 + 0.95 * np.exp(-((difference / DIFFERENT) ** 2))
