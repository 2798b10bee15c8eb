"""Exact motion from frames of a drawn street to its labelled one, from the geometry: a `video.motion.Motion`."""

from __future__ import annotations

import re
from pathlib import Path

from datasets.streets.render import flow_and_visibility
from datasets.streets.world import build_world
from datasets.streets.write import DRAWING_VERSION, MARKER, StreetsPlan, read_plan, streets_of
from video.motion import Displacement


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
        """See `video.motion.Motion`; `visible` is known."""
        size = self._plan.height, self._plan.width
        return Displacement(*flow_and_visibility(self._world, self._frame + step, -step, *size))


def _numbers(name: str) -> tuple[int, int]:
    """The street number and the frame number in a name like street0003_000001."""
    found = re.fullmatch(r"street(\d+)_(\d+)", name)
    if found is None:
        raise ValueError(f"{name} is not named like a drawn frame, street0003_000001.")
    return int(found[1]), int(found[2])
