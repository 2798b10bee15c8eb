"""Labelled frames with the frames of their video around them, and the list of the pairs that were made from them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from datasets.files import Sample, files_below
from datasets.frames import PAIR_NOTE, Record, frames_around, pair_to_write, video_frames
from datasets.specs.spec import BY_FRAME_NUMBER, DatasetSpec
from utils.command import one_line
from utils.files import atomic_path, natural_order
from utils.images import read_note
from utils.text import counted

MANIFEST = "manifest.jsonl"


@dataclass(frozen=True)
class LabelledSequence:
    """A labelled frame and its video.

    frames: step -> file, including the labelled frame itself (step 0). to_make: step -> the pair that propagation
    writes, nearest steps first; `frames` has every frame on the way to it, and may have more beyond.
    """

    pair: Sample
    frames: Mapping[int, Path]
    to_make: Mapping[int, Sample]


def find_sequences(
    spec: DatasetSpec, root: Path, pairs: Sequence[Sample], out: Path, *, reach: int, stride: int, beyond: int = 0
) -> tuple[list[LabelledSequence], list[str]]:
    """The video around each of `pairs`, up to `reach` steps of `stride` frame numbers either way, and what is missing.

    A video may begin or end within reach; a frame that is missing between others is reported, and those beyond it are
    skipped. out: root of the pairs to make. beyond: how many frames past these to keep as well, if there are any.
    Raises ValueError if the set has no video or cannot have this `stride`, FileNotFoundError if no labelled frame has
    a neighbour.
    """
    if stride != 1 and spec.propagated and spec.propagated.name == BY_FRAME_NUMBER:
        raise ValueError(f"--stride {stride}: {spec.name} names propagated frames by number; leave --stride out.")
    video = video_frames(spec, root)
    found, missing = [], []
    for pair in pairs:
        try:
            frames, gaps = _frames_without_gaps(spec, video, pair, reach, stride, beyond)
            steps = sorted((step for step in frames if 0 < abs(step) <= reach), key=lambda step: (abs(step), step))
            to_make = {step: pair_to_write(spec, root, pair, step, out) for step in steps}
        except ValueError as error:
            missing.append(f"{pair.name}: {one_line(error)}")
            continue
        if to_make:
            found.append(LabelledSequence(pair, frames, to_make))
        else:
            missing.append(f"{pair.name}: its video has no frame {counted(stride, 'step')} before or after it")
        if to_make and gaps:
            missing.append(f"{pair.name}: its video lacks {' and '.join(gaps)}, so no pairs are made beyond")
    if not found:
        layouts = spec.video.layouts if spec.video else ()
        folders = dict.fromkeys(
            str(root / layout.image_dir.format(folder=folder))
            for layout in layouts for folders in spec.splits.values() for folder in folders
        )  # fmt: skip
        raise FileNotFoundError(
            f"{spec.name}: no video found around the labelled frames ({missing[0]}). Looked in {', '.join(folders)}. "
            "If its frame numbers are further apart, but the frames close enough in time, use --stride."
        )
    return found, missing


def _frames_without_gaps(
    spec: DatasetSpec, video: Mapping[str, Sample], pair: Sample, reach: int, stride: int, beyond: int
) -> tuple[dict[int, Path], list[str]]:
    """The frames by step, up to the first that is missing on either side; and the names of those, if others follow."""
    most = reach + beyond
    numbers = [step * stride for step in range(-most, most + 1) if step]
    there = {number // stride: path for number, path in frames_around(spec, video, pair.name, numbers).items()}
    frames, gaps = {0: pair.image_path}, []
    for direction in (-1, 1):
        ahead = [direction * step for step in range(1, most + 1)]
        kept = list(takewhile(there.__contains__, ahead))
        frames |= {step: there[step] for step in kept}
        if spec.video and any(step in there for step in ahead[len(kept) : reach]):
            gaps.append(spec.video.name_of(pair.name, ahead[len(kept)] * stride))
    return frames, gaps


def write_manifest(folder: Path, root: Path) -> None:
    """List all pairs in `folder`, of earlier runs too, from the records in their label files. root: of their paths."""
    notes = (read_note(folder / path, PAIR_NOTE) for path in files_below(folder) if path.endswith(".png"))
    records = [json.loads(note) for note in notes if note]
    lines = {record["image"]: json.dumps(record) for record in records if (root / record["image"]).is_file()}
    with atomic_path(folder / MANIFEST) as temporary:
        temporary.write_text("".join(f"{lines[image]}\n" for image in sorted(lines, key=natural_order)))


def summarize_steps(records: Iterable[Record]) -> list[dict[str, Any]]:
    """For each step, smallest first: number of pairs, and the means of their shares and difference."""
    groups: defaultdict[int, list[Record]] = defaultdict(list)
    for record in records:
        groups[record["step"]].append(record)
    return [
        {
            "step": step,
            "pairs": len(group),
            "no_class": _mean(record["no_class"] for record in group),
            "void": {test: _mean(record["void"][test] for record in group) for test in group[0]["void"]},
            "difference": _mean(record["difference"] for record in group),
        }
        for step, group in sorted(groups.items())
    ]


def steps_table(steps: Sequence[Mapping[str, Any]]) -> str:
    """What `summarize_steps` found, as a table with one line per step."""
    tests = list(steps[0]["void"]) if steps else []
    lines = ["step   pairs  no class %  " + "".join(f"{test + ' %':>12}" for test in tests) + "  difference"]
    for found in steps:
        shares = "".join(f"{100 * found['void'][test]:12.1f}" for test in tests)
        difference = "-" if found["difference"] is None else f"{found['difference']:.1f}"
        lines.append(
            f"{found['step']:+4d}  {found['pairs']:6d}  {100 * found['no_class']:10.1f}  {shares}  {difference:>10}"
        )
    return "\n".join(lines)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 4) if known else None
