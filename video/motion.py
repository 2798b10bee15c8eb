"""Motion between the frames of one video, by their steps: frame 0 is the labelled one, -1 the one before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from utils.images import Uint8Array
from video.flow import Flow
from video.warping import FlowArray


@dataclass(frozen=True)
class Displacement:
    """Where the pixels of a frame are in another one.

    flow: [H, W, 2] float32, pixels right and down. visible: [H, W] bool, whether what is seen here is seen there too,
    where that is known and need not be estimated; else None.
    """

    flow: FlowArray
    visible: NDArray[np.bool_] | None = None


class Motion(Protocol):
    """Answers where the pixels of frame `step` are in frame `other`."""

    def __call__(self, step: int, other: int) -> Displacement:
        """See the class."""
        ...


class EstimatedMotion:
    """Motion by an estimator of flow, from the frames.

    frames: step -> [H, W, 3] uint8 RGB, all of one size. Flows are kept, so that several steps share them.
    """

    def __init__(self, frames: Mapping[int, Uint8Array], flow: Flow) -> None:
        self._frames = frames
        self._flow = flow
        self._known: dict[tuple[int, int], FlowArray] = {}

    def __call__(self, step: int, other: int) -> Displacement:
        """See `Motion`. Raises KeyError where one of the frames is not there."""
        if (step, other) not in self._known:
            self._known[step, other] = self._flow(self._frames[step], self._frames[other])
        return Displacement(self._known[step, other])
