"""Snap class boundaries in labels to edges in the image: the neighbours of a pixel vote on its class."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.images import Uint8Array

RADIUS = 2  # pixels: the voters form a 5x5 square
DISTANCE = 1.2  # in pixels, and
COLOUR = 15.0  # in RGB: the distances at which a vote has lost 40 % of its weight


def vote(labels: Uint8Array, guide: Uint8Array, trust: NDArray[np.float32]) -> Uint8Array:
    """`labels` [H, W] uint8; where classes meet, each is replaced by the class of most neighbours of similar colour.

    guide: [H, W, 3] uint8, the image whose colours are compared. trust: [H, W] float32 in 0 … 1, the weight of each
    pixel's vote.
    """
    width = labels.shape[1]
    padded = cv2.copyMakeBorder(labels, RADIUS, RADIUS, RADIUS, RADIUS, cv2.BORDER_REPLICATE)
    window = np.ones((2 * RADIUS + 1, 2 * RADIUS + 1), np.uint8)
    mixed = (cv2.dilate(labels, window) != cv2.erode(labels, window)).ravel()
    rows, columns = np.divmod(np.flatnonzero(mixed), width)
    stride = width + 2 * RADIUS
    at = (rows + RADIUS) * stride + columns + RADIUS
    colours = cv2.copyMakeBorder(guide, RADIUS, RADIUS, RADIUS, RADIUS, cv2.BORDER_REPLICATE).reshape(-1, 3)
    colours = colours.astype(np.float32) * np.float32(np.sqrt(0.5) / COLOUR)
    weights = cv2.copyMakeBorder(trust, RADIUS, RADIUS, RADIUS, RADIUS, cv2.BORDER_CONSTANT, value=0.0).ravel()
    classes = np.flatnonzero(np.bincount(labels.ravel(), minlength=256)).astype(np.uint8)
    numbers = np.zeros(256, np.intp)
    numbers[classes] = np.arange(len(classes))
    votes_for = numbers[padded.ravel()]
    votes = np.zeros(len(at) * len(classes), np.float32)
    first = np.arange(len(at)) * len(classes)
    own = colours[at]
    for dy in range(-RADIUS, RADIUS + 1):
        for dx in range(-RADIUS, RADIUS + 1):
            voters = at + dy * stride + dx
            unlike = colours[voters] - own
            far = np.float32((dx * dx + dy * dy) / (2 * DISTANCE**2))
            weight = np.exp(-np.einsum("ij,ij->i", unlike, unlike) - far) * weights[voters]
            votes[first + votes_for[voters]] += weight  # each index occurs only once, so += loses none
    result = labels.copy()
    result[rows, columns] = classes[votes.reshape(-1, len(classes)).argmax(1)]
    return result
