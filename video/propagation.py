"""Make labelled frames before and after a labelled one by moving its image and labels along the same flow.

Unknown pixels become void: those out of view in the labelled frame (`outside`), those hidden in it (`hidden`), and
those that look different from the true frame (`residual`). How well this works: docs/propagation.md.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.images import Uint8Array
from video.flow import FindDisplacement, grey_difference, inside, warp_image, warp_labels

VOID_TESTS = ("outside", "hidden", "residual")  # a pixel counts under the first that it fails

DIFFERENT = 20.0  # grey levels: a pixel that differs more from the true frame shows something else
OCCLUDED = 10.0  # of `occlusion`
MISS = 1.0  # pixels: largest forward-backward error that still counts as consistent

RADIUS = 2  # pixels: the voters of `refine_labels` form a 5x5 square
DISTANCE = 1.2  # in pixels, and
COLOUR = 15.0  # in RGB: the distances at which a vote has lost 40 % of its weight


@dataclass(frozen=True)
class Propagated:
    """One propagated pair.

    step: frames after the labelled one; negative: before it. image: [H, W, 3] uint8 RGB. labels: [H, W] uint8 train
    ids. void_shares: per test of VOID_TESTS, the share of all pixels that it made void, each pixel counted once.
    residual: mean difference between the warped image and the true frame in grey levels, over the labelled pixels;
    NaN if there is none.
    """

    step: int
    image: Uint8Array
    labels: Uint8Array
    void_shares: dict[str, float]
    residual: float


def propagate(
    frames: Mapping[int, Uint8Array],
    labels: Uint8Array,
    find_displacement: FindDisplacement,
    steps: Sequence[int],
    *,
    mode: str = "joint",
    keep: Collection[str] = (),
    ignore_label: int = 255,
) -> Iterator[Propagated]:
    """Propagate the image and labels of frame 0 to each of `steps`, nearest first.

    frames: step -> [H, W, 3] uint8 RGB, all of one size. labels: [H, W] uint8 train ids of frame 0, `ignore_label`
    where void. mode: "joint" warps image and labels, "label" only the labels, to the true frame. keep: tests of
    VOID_TESTS to skip.
    """
    for step in sorted(steps, key=abs):
        displacement = find_displacement(step)
        flow = displacement.flow
        warped, carried = warp_image(frames[0], flow), warp_labels(labels, flow)
        difference = compare(warped, frames[step])
        image = warped if mode == "joint" else frames[step]
        failed = {"outside": ~inside(flow)}
        if displacement.visible is not None:  # exact flow leaves nothing to improve: only light and details differ
            failed["hidden"] = ~displacement.visible
        else:
            assert displacement.miss is not None
            failed["hidden"] = (displacement.miss > MISS) & (occlusion(difference, displacement.miss) > OCCLUDED)
            failed["residual"] = difference > DIFFERENT
            # A label weighs less where the pixel looks different.
            carried = refine_labels(carried, image, 0.05 + 0.95 * np.exp(-((difference / DIFFERENT) ** 2)))
        shares, void = dict.fromkeys(VOID_TESTS, 0.0), np.zeros(labels.shape, bool)
        for test, fails in failed.items():
            if test not in keep:
                shares[test] = float((fails & ~void).mean())
                void |= fails
        carried[void] = ignore_label
        known = carried != ignore_label
        residual = float(difference[known].mean()) if known.any() else math.nan
        yield Propagated(step, image, carried, shares, residual)


def compare(warped: Uint8Array, true: Uint8Array) -> NDArray[np.float32]:
    """[H, W] float32, grey levels: how much the images differ, over 3x3 pixels, so that noise does not count."""
    return cv2.blur(grey_difference(warped, true), (3, 3))  # type: ignore[return-value]


def occlusion(difference: NDArray[np.float32], miss: NDArray[np.float32]) -> NDArray[np.float32]:
    """[H, W] float32: the difference in grey levels, halved where the flow is consistent, doubled where it is not.

    Neither cue alone works as well (docs/propagation.md). In uniform areas flow cannot be exact and need not be.
    """
    return difference * np.sqrt(np.clip(miss, 0.25, 4.0))


def refine_labels(labels: Uint8Array, guide: Uint8Array, weights: NDArray[np.float32]) -> Uint8Array:
    """Move the borders of `labels` [H, W] uint8 to edges of `guide`: where classes meet, the neighbours vote.

    Each pixel there gets the class of most neighbours of similar colour. guide: [H, W, 3] uint8. weights: [H, W]
    float32 in 0 … 1, of each pixel's vote.
    """
    window = np.ones((2 * RADIUS + 1, 2 * RADIUS + 1), np.uint8)
    mixed = cv2.dilate(labels, window) != cv2.erode(labels, window)
    rows, columns = np.nonzero(mixed)
    # Everything is padded and flat, so that a neighbour is at a fixed distance.
    frame = (RADIUS, RADIUS, RADIUS, RADIUS)
    stride = labels.shape[1] + 2 * RADIUS
    at = (rows + RADIUS) * stride + columns + RADIUS
    colours = cv2.copyMakeBorder(guide, *frame, cv2.BORDER_REPLICATE).reshape(-1, 3)
    colours = colours.astype(np.float32) * np.float32(np.sqrt(0.5) / COLOUR)
    weights = cv2.copyMakeBorder(weights, *frame, cv2.BORDER_CONSTANT, value=0.0).ravel()  # type: ignore[assignment]
    classes = np.flatnonzero(np.bincount(labels.ravel(), minlength=256)).astype(np.uint8)
    position = np.zeros(256, np.intp)  # of a class among those that occur
    position[classes] = np.arange(len(classes))
    votes_for = position[cv2.copyMakeBorder(labels, *frame, cv2.BORDER_REPLICATE).ravel()]
    votes = np.zeros(len(at) * len(classes), np.float32)
    first, own = np.arange(len(at)) * len(classes), colours[at]
    for dy in range(-RADIUS, RADIUS + 1):
        for dx in range(-RADIUS, RADIUS + 1):
            voters = at + dy * stride + dx
            unlike = colours[voters] - own
            far = np.float32((dx * dx + dy * dy) / (2 * DISTANCE**2))
            weight = np.exp(-np.einsum("ij,ij->i", unlike, unlike) - far) * weights[voters]
            votes[first + votes_for[voters]] += weight  # each index occurs only once, so += loses none
    refined = labels.copy()
    refined[mixed] = classes[votes.reshape(-1, len(classes)).argmax(1)]
    return refined
