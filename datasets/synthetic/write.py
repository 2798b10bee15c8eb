"""Write drawn streets to disk in CamVid's folder layout.

ROOT/{train,val,test}/<stem>.jpg images, ROOT/{train,val,test}annot/<stem>.png labels (0..10, 11 = void),
ROOT/{train,val,test}flow/<stem>.npz if requested (flow [H, W, 2] float32 and visible [H, W] bool),
ROOT/{train,val,test}.txt lists of `<image> <label>` relative to ROOT, and ROOT/streets.json, the parameters.
A stem is `<sequence>_<frame number>`; every sequence is a separate street and lies in one split.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from datasets.spec import PROPAGATED
from datasets.synthetic.motion import flow_and_visibility
from datasets.synthetic.render import draw
from datasets.synthetic.scene import build_scene
from utils.columns import counted
from utils.cores import available_cores

SPLITS = ("train", "val", "test")
MARKER = "streets.json"
DRAWING_VERSION = 2  # increase it when the same parameters give different files
JPEG_QUALITY = 95
SMALLEST_SIDE = 32
PART = ".part"  # suffix of the folder in which a set is drawn
OF_DRAWN_STREETS = (PROPAGATED, "video")  # folders that others add, with frames named after the drawn ones


@dataclass(frozen=True)
class StreetsPlan:
    """The parameters that determine every byte of a written set."""

    num_train: int
    num_val: int
    num_test: int
    frames_per_sequence: int
    height: int
    width: int
    seed: int
    with_flow: bool
    version: int = DRAWING_VERSION


@dataclass(frozen=True)
class Street:
    """One street; its frames lie in one split.

    number: counted across all splits.
    """

    split: str
    number: int
    num_frames: int

    def stem(self, frame: int) -> str:
        """File name of a frame, without suffix."""
        return f"street{self.number:04d}_{frame:06d}"


def write_streets(
    root: Path,
    *,
    num_train: int = 240,
    num_val: int = 39,
    num_test: int = 39,
    frames_per_sequence: int = 3,
    height: int = 240,
    width: int = 320,
    seed: int = 0,
    with_flow: bool = False,
    num_workers: int | None = None,
    progress: bool = True,
) -> bool:
    """Write a data set of drawn streets below `root`, unless the same one already exists there.

    If `root` holds other streets, the drawn files are replaced; anything else in it stays.

    num_train, num_val, num_test: images per split. frames_per_sequence: consecutive frames of one street.
    height, width: image size in pixels. num_workers: processes, None for one per core; the files do not depend on it.
    Returns whether anything was written. The set appears under its final name when it is complete.
    Raises ValueError for a bad value, FileExistsError if `root` holds anything other than drawn streets, or files
    that only fit the existing streets.
    """
    plan = StreetsPlan(num_train, num_val, num_test, frames_per_sequence, height, width, seed, with_flow)
    _check(plan, num_workers)
    root = Path(root).resolve()  # the target of a link is filled, the link stays
    if read_plan(root) == asdict(plan):
        return False
    _refuse_foreign(root)
    place = root if root.exists() else root.parent  # on the same disk, so that a move is a rename
    place.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{root.name}.", suffix=PART, dir=place))
    try:
        temporary.chmod(0o755)  # mkdtemp excludes other users, a data set should not
        _write_all(temporary, plan, num_workers or available_cores(), progress)
        _move_into_place(temporary, root, plan)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True


def _check(plan: StreetsPlan, num_workers: int | None) -> None:
    for name in ("num_train", "num_val", "num_test"):
        if getattr(plan, name) < 0:
            raise ValueError(f"--{name} must not be negative, got {getattr(plan, name)}.")
    if plan.num_train + plan.num_val + plan.num_test == 0:
        raise ValueError("--num_train, --num_val and --num_test are all 0: there is nothing to write.")
    if plan.frames_per_sequence < 1:
        raise ValueError(f"--frames_per_sequence must be at least 1, got {plan.frames_per_sequence}.")
    if min(plan.height, plan.width) < SMALLEST_SIDE:
        raise ValueError(f"--size must be at least {SMALLEST_SIDE}x{SMALLEST_SIDE}, got {plan.height}x{plan.width}.")
    if plan.seed < 0:
        raise ValueError(f"--seed must not be negative, got {plan.seed}.")
    if num_workers is not None and num_workers < 1:
        raise ValueError(f"--num_workers must be at least 1, got {num_workers}.")


def read_plan(root: Path) -> dict[str, object] | None:
    """The parameters of the streets in `root`, a `StreetsPlan` as a dictionary; None if there are none."""
    try:
        plan = json.loads((root / MARKER).read_text())
    except (OSError, ValueError):
        return None
    return plan if isinstance(plan, dict) else None


def _refuse_foreign(root: Path) -> None:
    """Drawn streets may be replaced; anything else stays, and files that only fit them must be moved away first."""
    if not root.exists():
        return
    if not root.is_dir():
        raise FileExistsError(f"--root {root} is not a folder. Choose a new or empty one.")
    if read_plan(root) is None:
        if any(not path.name.endswith(PART) for path in root.iterdir()):
            raise FileExistsError(
                f"--root {root} holds files but no {MARKER}; they are kept. Choose a new or empty folder."
            )
        return
    for folder in (root / name for name in OF_DRAWN_STREETS):
        if any(path.is_file() for path in folder.rglob("*")):
            raise FileExistsError(
                f"{folder} belongs to the existing streets and would not fit others. Move it away, or choose "
                "another --root."
            )
    stranger = next(_strangers(root), None)
    if stranger is not None:
        raise FileExistsError(f"{stranger} was not drawn and would be lost. Move it away, or choose another --root.")


def _strangers(root: Path) -> Iterator[Path]:
    """Files in the folders of drawn files that were not drawn."""
    for folder in (root / name for name in _drawn_names() if (root / name).is_dir()):
        yield from (path for path in folder.iterdir() if not re.fullmatch(r"street\d+_\d+\.\w+", path.name))


def _drawn_names() -> Iterator[str]:
    """Names of everything that may be written to the root, the marker last."""
    for split in SPLITS:
        yield from (split, f"{split}annot", f"{split}flow", f"{split}.txt")
    yield MARKER


def _move_into_place(temporary: Path, root: Path, plan: StreetsPlan) -> None:
    if read_plan(root) == asdict(plan):
        return  # another process has already written the same files
    _refuse_foreign(root)
    if not root.exists():
        temporary.rename(root)
        return
    (root / MARKER).write_text("{}\n")  # if interrupted here: drawn streets without a plan, so they are redrawn
    for name in _drawn_names():
        if name != MARKER:
            _remove(root / name)
        if (temporary / name).exists():
            (temporary / name).replace(root / name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def streets_of(plan: StreetsPlan) -> Iterator[Street]:
    """The streets of a set, in drawing order."""
    number = 0
    for split, num_images in zip(SPLITS, (plan.num_train, plan.num_val, plan.num_test), strict=True):
        for first in range(0, num_images, plan.frames_per_sequence):
            yield Street(split, number, min(plan.frames_per_sequence, num_images - first))
            number += 1


def _write_all(folder: Path, plan: StreetsPlan, num_workers: int, progress: bool) -> None:
    sequences = list(streets_of(plan))
    for split in dict.fromkeys(s.split for s in sequences):  # an empty folder would be a split without its images
        for name in (split, f"{split}annot", *((f"{split}flow",) if plan.with_flow else ())):
            (folder / name).mkdir()
        stems = [s.stem(k) for s in sequences if s.split == split for k in range(s.num_frames)]
        lines = [f"{split}/{stem}.jpg {split}annot/{stem}.png\n" for stem in stems]
        (folder / f"{split}.txt").write_text("".join(lines))
    num_workers = min(num_workers, len(sequences))
    total, done = sum(s.num_frames for s in sequences), 0
    for num_frames in _run(folder, plan, sequences, num_workers):
        done += num_frames
        if progress:
            end = "\n" if done == total else ""
            print(f"\rstreets: drew {done} of {counted(total, 'image')}", end=end, file=sys.stderr, flush=True)
    (folder / MARKER).write_text(json.dumps(asdict(plan), indent=1) + "\n")


def _run(folder: Path, plan: StreetsPlan, sequences: list[Street], num_workers: int) -> Iterator[int]:
    if num_workers == 1:
        for sequence in sequences:
            yield _write_sequence(folder, plan, sequence)
        return
    # New processes are spawned: a fork of a process that runs torch threads may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_prepare_process)
    try:
        for future in [pool.submit(_write_sequence, folder, plan, sequence) for sequence in sequences]:
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, or on a full disk: do not start pending streets


def _prepare_process() -> None:
    cv2.setNumThreads(1)  # the processes share the cores already
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends its workers


def _write_sequence(folder: Path, plan: StreetsPlan, sequence: Street) -> int:
    """Draw and write one street; returns the number of frames."""
    scene = build_scene((plan.seed, sequence.number), sequence.num_frames)
    for t in range(sequence.num_frames):
        stem, split = sequence.stem(t), sequence.split
        image, view, planes = draw(scene, t, plan.height, plan.width)
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
                   cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]  # fmt: skip
        _write_image(folder / split / f"{stem}.jpg", image[..., ::-1], quality)
        labels = np.ascontiguousarray(view.labels)
        _write_image(folder / f"{split}annot" / f"{stem}.png", labels, [cv2.IMWRITE_PNG_COMPRESSION, 6])
        if plan.with_flow:
            flow, visible = flow_and_visibility(scene, t, view, planes)
            np.savez_compressed(folder / f"{split}flow" / f"{stem}.npz", flow=flow, visible=visible)
    return sequence.num_frames


def _write_image(path: Path, image: np.ndarray, options: list[int]) -> None:
    ok, data = cv2.imencode(path.suffix, np.ascontiguousarray(image), options)
    assert ok, path
    path.write_bytes(data.tobytes())
