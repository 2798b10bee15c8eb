"""Labelled frames with the frames of their video around them, and the pairs that propagation makes from them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.files import Sample
from datasets.frames import Record, frames_around, pair_to_write
from datasets.specs.spec import BY_FRAME_NUMBER, DatasetSpec
from utils.command import one_line
from utils.files import atomic_path, natural_order, write_json
from utils.text import counted

# When looking for the difference between the frame numbers of a video:
MOST_APART = 60  # largest difference tried
MOST_TRIED = 50  # labelled frames tried


@dataclass(frozen=True)
class LabelledSequence:
    """A labelled frame and its video.

    frames: step -> file, including the labelled frame itself (step 0). made: step -> the pair that propagation writes,
    nearest steps first; `frames` has every frame on the way to it, and may have more beyond.
    """

    pair: Sample
    frames: Mapping[int, Path]
    made: Mapping[int, Sample]

    def on_the_way(self, step: int, beyond: int = 0) -> list[Path]:
        """The files of the frames from the labelled one to `step`, both included; up to `beyond` more at either end."""
        way = 1 if step > 0 else -1
        return [self.frames[k] for k in range(-beyond * way, step + (beyond + 1) * way, way) if k in self.frames]


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
    found, missing = [], []
    for pair in pairs:
        try:
            sequence, problem = _sequence(spec, root, pair, out, reach, stride, beyond)
        except ValueError as error:
            problem, sequence = one_line(error), None
        if sequence is not None:
            found.append(sequence)
        if problem:
            missing.append(f"{pair.name}: {problem}")
    if not found:
        raise FileNotFoundError(_nothing_found(spec, root, pairs, missing, stride))
    return found, missing


def _sequence(
    spec: DatasetSpec, root: Path, pair: Sample, out: Path, reach: int, stride: int, beyond: int
) -> tuple[LabelledSequence | None, str]:
    most = reach + beyond
    numbers = [number * stride for number in range(-most, most + 1) if number]
    frames = {number // stride: path for number, path in frames_around(spec, root, pair, numbers).items()}
    steps, gaps = [], []
    for direction in (-1, 1):
        ahead = [direction * step for step in range(1, most + 1)]
        there = next((i for i, step in enumerate(ahead) if step not in frames), most)
        steps += ahead[:there]
        if any(step in frames for step in ahead[there:reach]):
            gaps.append(spec.video.name_of(pair.name, ahead[there] * stride) if spec.video else "")
    if not steps:
        return None, f"its video has no frame {counted(stride, 'step')} before or after it"
    to_make = sorted((step for step in steps if abs(step) <= reach), key=lambda s: (abs(s), s))
    made = {step: pair_to_write(spec, root, pair, step, out) for step in to_make}
    kept = {0: pair.image_path} | {step: frames[step] for step in sorted(steps)}
    problem = f"its video lacks {' and '.join(gaps)}, so no pairs are made beyond" if gaps else ""
    return LabelledSequence(pair, kept, made), problem


def _nothing_found(spec: DatasetSpec, root: Path, pairs: Sequence[Sample], missing: Sequence[str], stride: int) -> str:
    folders = dict.fromkeys(
        str(root / layout.image_dir.format(folder=folder))
        for layout in (spec.video.layouts if spec.video else ())
        for folders in spec.splits.values()
        for folder in folders
    )
    places = ", ".join(path for path in folders if Path(path).is_dir()) or "none of " + ", ".join(folders)
    apart = next((n for n in range(1, MOST_APART + 1) if _any_apart(spec, root, pairs[:MOST_TRIED], n)), None)
    hint = ""
    if apart and apart != stride:
        hint = f" Its frame numbers are {apart} apart; use --stride {apart} if the frames are close enough in time."
    return f"{spec.name}: no video found around the labelled frames ({missing[0]}). Looked in {places}.{hint}"


def _any_apart(spec: DatasetSpec, root: Path, pairs: Sequence[Sample], number: int) -> bool:
    try:
        return any(frames_around(spec, root, pair, (-number, number)) for pair in pairs)
    except ValueError:
        return False


MANIFEST = "manifest.jsonl"
SUMMARY = "summary.json"


def read_manifest(folder: Path) -> list[Record]:
    """The records in the manifest in `folder`; [] if there is none. Raises ValueError if it is not ours."""
    path = folder / MANIFEST
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except ValueError as error:
        raise ValueError(f"{path}: not a manifest of this project ({error}); move it elsewhere.") from error
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict) or not isinstance(record.get("image"), str):
            raise ValueError(f'{path}: not a manifest of this project (line {number}: no "image"); move it elsewhere.')
    return records


def write_manifest(folder: Path, records: Iterable[Record], root: Path) -> None:
    """Write `records` to the manifest in `folder`; earlier ones stay if their image, below `root`, exists."""
    lines = {record["image"]: record for record in read_manifest(folder) if (root / record["image"]).is_file()}
    lines |= {record["image"]: record for record in records}
    with atomic_path(folder / MANIFEST) as temporary:
        text = "".join(json.dumps(lines[image]) + "\n" for image in sorted(lines, key=natural_order))
        temporary.write_text(text, encoding="utf-8")


def write_summary(
    folder: Path, records: Sequence[Record], parameters: Mapping[str, Any], left_out: Sequence[str]
) -> None:
    """Write the parameters of a run, its results for each step, and what was skipped."""
    content = {"parameters": parameters, "pairs": len(records), "steps": by_step(records), "left_out": list(left_out)}
    write_json(folder / SUMMARY, content)


def by_step(records: Iterable[Record]) -> list[dict[str, Any]]:
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


def steps_table(records: Iterable[Record]) -> str:
    """`by_step` as a table."""
    steps = by_step(records)
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
