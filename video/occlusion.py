"""Which propagated pixels not to trust, judged by appearance and by forward-backward consistency of the flow."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.images import Uint8Array
from video.flow_chain import Displacement
from video.warping import grey_difference

DIFFERENT = 20.0  # grey levels: a pixel that differs more from the true frame shows something else
DOUBTFUL = 10.0  # of `doubt`
MISS = 1.0  # pixels: largest forward-backward error that still counts as consistent
MISS_UNSEEN = 2.0  # the same if there is no true frame to compare with


def unlike(warped: Uint8Array, true: Uint8Array) -> NDArray[np.float32]:
    """[H, W] float32, grey levels: how much the warped image differs from the true one.

    Averaged over 3x3 pixels, so that noise does not count.
    """
    return cv2.blur(grey_difference(warped, true), (3, 3))  # type: ignore[return-value]


def doubt(difference: NDArray[np.float32], miss: NDArray[np.float32]) -> NDArray[np.float32]:
    """[H, W] float32: the difference in grey levels, halved where the flow is consistent, doubled where it is not.

    Neither cue alone works as well (docs/propagation.md). In uniform areas flow cannot be exact and need not be.
    """
    return difference * np.sqrt(np.clip(miss, 0.25, 4.0))


def hidden(motion: Displacement, difference: NDArray[np.float32] | None) -> NDArray[np.bool_]:
    """[H, W]: what the labelled frame does not show. difference: from `unlike`; None without a true frame."""
    if motion.visible is not None:
        return ~motion.visible
    assert motion.miss is not None
    if difference is None:
        return motion.miss > MISS_UNSEEN
    return (motion.miss > MISS) & (doubt(difference, motion.miss) > DOUBTFUL)


def wrong(motion: Displacement, difference: NDArray[np.float32] | None) -> NDArray[np.bool_]:
    """[H, W]: pixels that look different from the true frame.

    None if visibility is known: then the motion is exact, and only light and small details differ.
    """
    if difference is None or motion.visible is not None:
        return np.zeros(motion.flow.shape[:2], bool)
    return difference > DIFFERENT


def trust(difference: NDArray[np.float32]) -> NDArray[np.float32]:
    """[H, W] float32 in 0 … 1: the weight of a pixel's label, given how different the pixel looks."""
    return 0.05 + 0.95 * np.exp(-((difference / DIFFERENT) ** 2))
