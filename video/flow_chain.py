"""The flow from the frames of a video to their labelled frame. Frame 0 is the labelled one, -1 the one before it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.streets.render import flow_and_visibility
from datasets.streets.world import build_world
from datasets.streets.write import DRAWING_VERSION, MARKER, StreetsPlan, read_plan, streets_of
from utils.images import Uint8Array
from video.flow import EstimateFlow, FlowArray, compose, dis_flow, warp_image

SURE = 3  # frames over which a chain drifts so little that another search gains nothing
WINDOW = (7, 7)  # pixels over which two flows are compared by their warped images


@dataclass(frozen=True)
class Displacement:
    """Where the pixels of a frame are in the labelled one.

    flow: [H, W, 2] float32, pixels right and down. visible: [H, W] bool, whether what is seen here is seen there too,
    if that is known. miss: [H, W] float32, the forward-backward error in pixels, if it is not.
    """

    flow: FlowArray
    visible: NDArray[np.bool_] | None = None
    miss: NDArray[np.float32] | None = None


FindDisplacement = Callable[[int], Displacement]  # of frame `step`


class FlowChain:
    """Displacements from a flow estimator that is given consecutive frames.

    Flow over several frames chains the flows between neighbours: small motions are estimated more reliably than large
    ones. One more search, started from the chain, corrects its drift; it is used where the images match better.

    frames: step -> [H, W, 3] uint8 RGB, all of the same size, without gaps. Call with steps from 0 outwards: only the
    last flow on each side is kept, since those of large frames would fill the memory.
    """

    def __init__(self, frames: Mapping[int, Uint8Array], estimate: EstimateFlow) -> None:
        self.frames = frames
        self.estimate = estimate
        self.last: dict[int, tuple[int, FlowArray, FlowArray]] = {}  # by side: the step, its flow to 0 and from 0

    def __call__(self, step: int) -> Displacement:
        """See `FindDisplacement`."""
        back, forth = self._chain(step)
        if abs(step) > SURE:
            back = self._without_drift(step, back)
        way = compose(back, forth)
        return Displacement(back, miss=cv2.magnitude(way[..., 0], way[..., 1]))  # type: ignore[arg-type]

    def _chain(self, step: int) -> tuple[FlowArray, FlowArray]:
        """The flow from `step` to 0 and that from 0 to `step`."""
        side = 1 if step > 0 else -1
        nothing = np.zeros((*self.frames[0].shape[:2], 2), np.float32)
        known, back, forth = self.last.get(side, (0, nothing, nothing))
        for near in range(known, step, side):
            here, there = self.frames[near], self.frames[near + side]
            one_back, one_forth = self.estimate(there, here), self.estimate(here, there)
            back = compose(one_back, back) if near else one_back
            forth = compose(forth, one_forth) if near else one_forth
        self.last[side] = step, back, forth
        return back, forth

    def _without_drift(self, step: int, chain: FlowArray) -> FlowArray:
        image, labelled = self.frames[step], self.frames[0]
        searched = dis_flow(image, labelled, start=chain)
        before, after = (grey_difference(warp_image(labelled, flow), image) for flow in (chain, searched))
        better = cv2.blur(after, WINDOW) < cv2.blur(before, WINDOW)
        return np.where(better[..., None], searched, chain)


def grey_difference(image: Uint8Array, other: Uint8Array) -> NDArray[np.float32]:
    """[H, W] float32: the absolute difference of two images [H, W, 3], averaged over the colours, in grey levels."""
    difference = cv2.absdiff(image, other)
    return cv2.transform(difference, np.full((1, 3), 1 / 3)).astype(np.float32)


class StreetFlow:
    """Exact displacements, with visibility, to one frame of a written set of streets.

    root: folder of the set. name: the labelled frame's name, `<sequence>_<frame number>`. stride: frames in a step.
    The street is rebuilt from streets.json, so no other file is needed.
    Raises ValueError if `root` holds no streets, or streets of another version, or no such frame.
    """

    def __init__(self, root: Path, name: str, stride: int = 1) -> None:
        self.stride = stride
        made_with = read_plan(root)
        if made_with is None:
            raise ValueError(f"--flow exact only works for drawn streets, and {root} holds no {MARKER}.")
        if made_with.get("version") != DRAWING_VERSION:
            raise ValueError(f"{root / MARKER}: drawn by another version; redraw the set for --flow exact.")
        self.plan = StreetsPlan(**made_with)  # type: ignore[arg-type]
        found = re.fullmatch(r"street(\d+)_(\d+)", name)
        number, self.frame = map(int, found.groups()) if found else (-1, -1)
        street = next((s for s in streets_of(self.plan) if s.number == number and self.frame < s.num_frames), None)
        if street is None:
            raise ValueError(f"{name} is not a frame of the streets in {root}, like street0003_000001.")
        self.world = build_world((self.plan.seed, number), street.num_frames)

    def __call__(self, step: int) -> Displacement:
        """See `FindDisplacement`."""
        later = step * self.stride
        size = self.plan.height, self.plan.width
        return Displacement(*flow_and_visibility(self.world, self.frame + later, -later, *size))
