"""The frames of video that training adds to the labelled ones: propagated ones and those of scene flow."""

from __future__ import annotations

import sys
from pathlib import Path

from tqdm import tqdm

from config import DataConfig
from datasets.frames import find_propagated_pairs, find_scene_flow_pairs, num_with_frames
from datasets.index import Pair, find_images
from datasets.records import without_frames_of
from datasets.spec import DatasetSpec
from utils.columns import counted


def frames_of_video(data: DataConfig, spec: DatasetSpec, root: Path, pairs: list[Pair], *, show: bool) -> list[Pair]:
    """What `--maxSkip` and `--scf` add, without validation images. show: print how many frames that is."""
    if data.propagated_dir and not data.maxSkip:
        raise ValueError("--propagated_dir needs --maxSkip, the steps to use; add it, or leave --propagated_dir out.")
    if (data.maxSkip or data.scf) and not (data.class_uniform_pct and data.max_cu_epoch):
        raise ValueError(
            "--maxSkip and --scf add to the class-uniform sampling, which is off (--class_uniform_pct, --max_cu_epoch)."
        )
    elsewhere = Path(data.propagated_dir) if data.propagated_dir else None
    propagated = find_propagated_pairs(spec, root, pairs, data.maxSkip, elsewhere) if data.maxSkip else []
    if propagated and show:
        reached = num_with_frames(spec, pairs, propagated, data.maxSkip)
        tqdm.write(
            f"--maxSkip {data.maxSkip}: {counted(len(propagated), 'propagated frame')} around {reached} of "
            f"{counted(len(pairs), 'training image')}",
            file=sys.stderr,
        )
    found = sorted(propagated + (find_scene_flow_pairs(spec, root, pairs) if data.scf else []))
    kept = without_frames_of(found, _held_out(data, spec, root, pairs)) if found else []
    if len(kept) < len(found) and show:
        left_out = counted(len(found) - len(kept), "propagated frame")
        tqdm.write(f"{left_out} skipped: validation images show the same moments", file=sys.stderr)
    return kept


def _held_out(data: DataConfig, spec: DatasetSpec, root: Path, pairs: list[Pair]) -> set[str]:
    """Names of the validation images that are not among the training `pairs`."""
    try:
        held_out = find_images(spec, root, "val", data.cv)
    except FileNotFoundError:  # reported by validation, if it is needed
        return set()
    return {pair.name for pair in held_out} - {pair.name for pair in pairs}
