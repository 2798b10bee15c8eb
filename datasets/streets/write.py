"""Write drawn streets to disk in CamVid's folder layout.

For each split, ROOT/<split>/<stem>.jpg (images), <split>annot/<stem>.png (labels, 11 = void) and, if requested,
<split>flow/<stem>.npz (flow [H, W, 2] float32, visible [H, W] bool).
ROOT/streets.json holds the parameters. A stem is `<street>_<frame number>`; a street lies in one split.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datasets.streets.render import draw, flow_and_visibility
from datasets.streets.world import build_world
from utils.parallel import default_num_workers, in_parallel

MARKER = "streets.json"
DRAWING_VERSION = 3  # increase it when the same parameters give different files
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
SMALLEST_SIDE = 32


@dataclass(frozen=True, kw_only=True)
class StreetsPlan:
    """The parameters that determine every byte of a written set; the flags explain them."""

    num_train: int = 240
    num_val: int = 39
    num_test: int = 39
    frames_per_sequence: int = 3
    height: int = 240
    width: int = 320
    seed: int = 0
    with_flow: bool = False
    version: int = DRAWING_VERSION


@dataclass(frozen=True)
class Street:
    """One street, whose frames lie in one split; its number is counted across all splits."""

    split: str
    number: int
    num_frames: int

    def stem(self, frame: int) -> str:
        """File name of a frame, without suffix."""
        return f"street{self.number:04d}_{frame:06d}"


def write_streets(root: Path, *, num_workers: int | None = None, **values: Any) -> bool:
    """Write a data set of drawn streets to `root`, a new or empty folder, unless the same one already exists there.

    num_workers: processes, None for one per core; the files do not depend on it. values: those of `StreetsPlan`.
    Returns whether anything was written. The set appears under its final name when it is complete.
    Raises ValueError for a bad value, FileExistsError if `root` holds anything else.
    """
    plan = StreetsPlan(**values)
    if plan.num_train + plan.num_val + plan.num_test == 0:
        raise ValueError("--num_train, --num_val and --num_test are all 0: there is nothing to write.")
    if min(plan.height, plan.width) < SMALLEST_SIDE:
        raise ValueError(f"--size must be at least {SMALLEST_SIDE}x{SMALLEST_SIDE}, got {plan.height}x{plan.width}.")
    root = Path(root).resolve()  # the target of a link is filled, the link stays
    if read_plan(root) == plan:
        return False
    if root.exists() and (not root.is_dir() or any(root.glob("[!.]*"))):
        raise FileExistsError(f"--root {root} holds other files than would be drawn; choose a new or empty folder.")
    place = root if root.exists() else root.parent  # on the same disk, so that a move is a rename
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=place, ignore_cleanup_errors=True) as temporary:
        _write_all(Path(temporary), plan, num_workers or default_num_workers())
        root.mkdir(exist_ok=True)
        for path in sorted(Path(temporary).iterdir(), key=lambda path: path.name == MARKER):  # the marker last
            path.rename(root / path.name)
    return True


def read_plan(root: Path) -> StreetsPlan | None:
    """The plan of the streets in `root`; None if there are none, or of another version."""
    try:
        found = json.loads((root / MARKER).read_text())
        plan = StreetsPlan(**found)
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None
    return plan if asdict(plan) == found and plan.version == DRAWING_VERSION else None


def streets_of(plan: StreetsPlan) -> Iterator[Street]:
    """The streets of a set, in drawing order."""
    number = 0
    for split, num_images in (("train", plan.num_train), ("val", plan.num_val), ("test", plan.num_test)):
        for first in range(0, num_images, plan.frames_per_sequence):
            yield Street(split, number, min(plan.frames_per_sequence, num_images - first))
            number += 1


def _write_all(folder: Path, plan: StreetsPlan, num_workers: int) -> None:
    streets = list(streets_of(plan))
    for split in dict.fromkeys(street.split for street in streets):  # a split without images has no folder
        for name in (split, f"{split}annot", *((f"{split}flow",) if plan.with_flow else ())):
            (folder / name).mkdir()
    list(in_parallel(partial(_write_street, folder, plan), streets, num_workers, title="draw streets", unit="street"))
    (folder / MARKER).write_text(json.dumps(asdict(plan), indent=1) + "\n")


def _write_street(folder: Path, plan: StreetsPlan, street: Street) -> None:
    world, size = build_world((plan.seed, street.number), street.num_frames), (plan.height, plan.width)
    for t in range(street.num_frames):
        split, stem = street.split, street.stem(t)
        image, labels = draw(world, t, *size)
        (folder / split / f"{stem}.jpg").write_bytes(cv2.imencode(".jpg", image[..., ::-1], JPEG)[1].tobytes())
        (folder / f"{split}annot" / f"{stem}.png").write_bytes(cv2.imencode(".png", labels)[1].tobytes())
        if plan.with_flow:
            flow, visible = flow_and_visibility(world, t, 1, *size)
            np.savez_compressed(folder / f"{split}flow" / f"{stem}.npz", flow=flow, visible=visible)
