"""Motion from the frames of a video to their labelled frame. Frame 0 is the labelled one, -1 the one before it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.streets.render import flow_and_visibility
from datasets.streets.world import build_world
from datasets.streets.write import DRAWING_VERSION, MARKER, StreetsPlan, read_plan, streets_of
from utils.images import Uint8Array
from video.flow import DisFlow, Flow
from video.warping import FlowArray, compose, grey_difference, warp_image

SURE = 3  # frames over which a chain drifts so little that another search gains nothing
WINDOW = 7  # pixels: side of the square over which two motions are compared by their warped images


@dataclass(frozen=True)
class Displacement:
    """Where the pixels of a frame are in the labelled one.

    flow: [H, W, 2] float32, pixels right and down. visible: [H, W] bool, whether what is seen here is seen there too,
    if that is known. miss: [H, W] float32, the forward-backward error in pixels, if it is not.
    """

    flow: FlowArray
    visible: NDArray[np.bool_] | None = None
    miss: NDArray[np.float32] | None = None


class Motion(Protocol):
    """Gives where the pixels of frame `step` are in frame 0."""

    def __call__(self, step: int) -> Displacement:
        """See the class."""
        ...


class EstimatedMotion:
    """Motion from a flow estimator that is given consecutive frames.

    Motion over several frames chains the flows between neighbours: small motions are estimated more reliably than
    large ones. One more search, started from the chain, corrects its drift; it is used where the images match better.

    frames: step -> [H, W, 3] uint8 RGB, all of the same size; a chain skips missing frames. An estimator that looks at
    three also sees those beyond the steps asked for. Call with steps from 0 outwards: only the last motion on each side
    is kept, since those of large frames would fill the memory.
    """

    def __init__(self, frames: Mapping[int, Uint8Array], flow: Flow) -> None:
        self._frames = frames
        self._flow = flow
        self._search = DisFlow()
        self._last: dict[bool, tuple[int, FlowArray, FlowArray]] = {}

    def __call__(self, step: int) -> Displacement:
        """See `Motion`. Raises ValueError if frame `step` is missing: there is nothing to estimate from."""
        if step not in self._frames:
            raise ValueError(f"the frame at step {step:+d} is missing; its motion cannot be estimated.")
        back, forth = self._chains(step)
        if abs(step) > SURE:
            back = self._without_drift(step, back)
        way = compose(back, forth)
        return Displacement(back, miss=cv2.magnitude(way[..., 0], way[..., 1]))  # type: ignore[arg-type]

    def _chains(self, step: int) -> tuple[FlowArray, FlowArray]:
        """The flow from `step` to 0 and that from 0 to `step`."""
        known, back, forth = self._last.get(step > 0, (0, None, None))
        if abs(known) > abs(step):
            known, back, forth = 0, None, None
        side = range(known, step, 1 if step > 0 else -1)
        path = [k for k in side if k in self._frames or k == 0] + [step]
        for near, far in pairwise(path):
            first, last = self._frames[near], self._frames[far]
            one_back = self._flow(last, first, self._frames.get(2 * near - far))
            one_forth = self._flow(first, last, self._frames.get(2 * far - near))
            back = one_back if back is None else compose(one_back, back)
            forth = one_forth if forth is None else compose(forth, one_forth)
        assert back is not None and forth is not None, step
        self._last[step > 0] = step, back, forth
        return back, forth

    def _without_drift(self, step: int, chain: FlowArray) -> FlowArray:
        image, labelled = self._frames[step], self._frames[0]
        searched = self._search.refine(image, labelled, chain)
        before, after = (grey_difference(warp_image(labelled, flow), image) for flow in (chain, searched))
        better = cv2.blur(after, (WINDOW, WINDOW)) < cv2.blur(before, (WINDOW, WINDOW))
        return np.where(better[..., None], searched, chain)


class StreetMotion:
    """Exact motion and visibility around one frame of a written set of streets.

    root: folder of the set. name: the labelled frame's name, `<sequence>_<frame number>`. The street is rebuilt
    from streets.json, so no other file is needed.
    Raises ValueError if `root` holds no streets, or streets of another version, or no such frame.
    """

    def __init__(self, root: Path, name: str) -> None:
        made_with = read_plan(root)
        if made_with is None:
            raise ValueError(f"--flow exact only works for drawn streets, and {root} holds no {MARKER}.")
        if made_with.get("version") != DRAWING_VERSION:
            raise ValueError(f"{root / MARKER}: drawn by another version; redraw the set for --flow exact.")
        self._plan = StreetsPlan(**made_with)  # type: ignore[arg-type]
        number, self._frame = _numbers(name)
        street = next((s for s in streets_of(self._plan) if s.number == number), None)
        if street is None or self._frame >= street.num_frames:
            raise ValueError(f"{name} is not a frame of the streets in {root}.")
        self._world = build_world((self._plan.seed, number), street.num_frames)

    def __call__(self, step: int) -> Displacement:
        """See `video.flow_chain.Motion`; `visible` is known."""
        size = self._plan.height, self._plan.width
        return Displacement(*flow_and_visibility(self._world, self._frame + step, -step, *size))


def _numbers(name: str) -> tuple[int, int]:
    """The street number and the frame number in a name like street0003_000001."""
    found = re.fullmatch(r"street(\d+)_(\d+)", name)
    if found is None:
        raise ValueError(f"{name} is not named like a drawn frame, street0003_000001.")
    return int(found[1]), int(found[2])
