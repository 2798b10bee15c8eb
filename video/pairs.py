"""The pairs around labelled frames: find the frames of the video, propagate, write and record."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from datasets.files import Sample, files_below
from datasets.frames import PAIR_NOTE, Record, find_frame, frames_by_name, pair_to_write, read_record, record_of
from datasets.labels import label_pixels
from datasets.segmentation import load_sample
from datasets.specs.spec import DatasetSpec, Frames
from utils.command import USER_ERRORS, one_line
from utils.files import atomic_path, fingerprint, natural_order
from utils.images import read_image, write_image, write_png
from utils.text import counted
from video.flow import FindDisplacement, FlowChain, StreetFlow, build_flow
from video.propagation import Propagated, propagate
from video.settings import PropagationConfig

MANIFEST = "manifest.jsonl"
VERSION = 1  # increase it when the same files and settings would give other pairs


@dataclass(frozen=True)
class LabelledSequence:
    """A labelled frame and its video.

    frames: step -> file, including the labelled frame itself (step 0). to_make: step -> the pair that propagation
    writes, nearest steps first; `frames` has every frame on the way to it.
    """

    labelled: Sample
    frames: Mapping[int, Path]
    to_make: Mapping[int, Sample]


def find_sequences(
    spec: DatasetSpec, root: Path, samples: Sequence[Sample], out: Path, chosen: PropagationConfig
) -> tuple[list[LabelledSequence], list[str]]:
    """The video around each of `samples`, and what is missing. out: root of the pairs to make.

    A video may begin or end within reach; a frame that is missing between others is reported, and those beyond it are
    skipped. Raises ValueError if the set has no video, no value for "no class" or cannot have this --stride,
    FileNotFoundError if no labelled frame has a neighbour.
    """
    if chosen.stride != 1 and spec.propagated and spec.propagated.by_number:
        raise ValueError(f"{spec.name} names propagated frames by number; leave --stride out.")
    if spec.video is None:
        raise ValueError(f"{spec.name} declares no video around its labelled frames.")
    video = frames_by_name(spec, spec.video, root)
    found, missing = [], []
    for labelled in samples:
        try:
            frames, gaps = _frames_without_gaps(spec.video, video, labelled, chosen)
            steps = sorted((step for step in frames if step), key=lambda k: (abs(k), k))
            to_make = {step: pair_to_write(spec, root, labelled, step, out) for step in steps}
        except ValueError as error:
            missing.append(f"{labelled.name}: {one_line(error)}")
            continue
        if to_make:
            found.append(LabelledSequence(labelled, frames, to_make))
        else:
            told = f"its video has no frame {counted(chosen.stride, 'step')} before or after it"
            missing.append(f"{labelled.name}: {told}")
        if to_make and gaps:
            missing.append(f"{labelled.name}: its video lacks {' and '.join(gaps)}, so no pairs are made beyond")
    if found:
        masks = next(iter(found[0].to_make.values())).masks
        label_pixels(np.zeros((1, 1), np.uint8), masks, spec)  # fails now if no value means "no class"
    else:
        folders = ", ".join(str(root / layout.image_dir.format(folder="")) for layout in spec.video.layouts)
        raise FileNotFoundError(
            f"{spec.name}: no video found around the labelled frames ({missing[0]}). Looked in {folders}. If its frame "
            "numbers are further apart, but the frames close enough in time, use --stride."
        )
    return found, missing


def _frames_without_gaps(
    video: Frames, there: Mapping[str, Sample], labelled: Sample, chosen: PropagationConfig
) -> tuple[dict[int, Path], list[str]]:
    """The frames by step, up to the first that is missing on either side; and the names of those, if others follow."""
    frames, gaps = {0: labelled.image_path}, []
    for direction in (-1, 1):
        steps = [direction * step for step in range(1, chosen.propagate + 1)]
        found = [find_frame(video, there, labelled.name, step * chosen.stride) for step in steps]
        num_kept = found.index(None) if None in found else len(found)
        frames |= {step: frame.image_path for step, frame in zip(steps[:num_kept], found, strict=False) if frame}
        if any(found[num_kept:]):
            gaps.append(video.name_of(labelled.name, steps[num_kept] * chosen.stride))
    return frames, gaps


@dataclass(frozen=True)
class PairMaker:
    """Makes the pairs of one sequence after another.

    root: of the labelled frames. out: root of what is written. device: where the network of --flow runs.
    """

    spec: DatasetSpec
    root: Path
    out: Path
    chosen: PropagationConfig
    device: str = "cpu"

    def __call__(self, sequence: LabelledSequence) -> str:
        """Read, propagate and write all pairs of `sequence`.

        Returns why the rest could not be made, "" if all were: one bad file stops no other sequence.
        """
        chosen = self.chosen
        try:
            image, labels = load_sample(sequence.labelled, self.spec)
            frames = {step: image if step == 0 else read_image(path) for step, path in sequence.frames.items()}
            height, width = labels.shape
            for step, frame in frames.items():
                if frame.shape[:2] != labels.shape:
                    size = f"{frame.shape[1]}x{frame.shape[0]}"
                    raise ValueError(f"{sequence.frames[step]} is {size}, but the labelled frame is {width}x{height}")
            find_displacement: FindDisplacement
            if chosen.flow == "exact":
                find_displacement = StreetFlow(self.root, sequence.labelled.name, chosen.stride)
            else:
                find_displacement = FlowChain(frames, build_flow(chosen.flow, chosen.flow_weights, self.device))
            for made in propagate(
                frames, labels, find_displacement, list(sequence.to_make),
                mode=chosen.mode, keep=chosen.kept_tests, ignore_label=self.spec.ignore_label,
            ):  # fmt: skip
                self._write(made, sequence)
        except USER_ERRORS as error:
            return f"{sequence.labelled.name}: {one_line(error)}"
        return ""

    def find_done(self, sequence: LabelledSequence) -> dict[int, Sample]:
        """The pairs, by step, that are complete on disk and made in this way from these files."""
        found = {step: record_of(pair) for step, pair in sequence.to_make.items()}
        made = {step for step, r in found.items() if r and r.get("made_with") == self._fingerprint(sequence, step)}
        return {step: pair for step, pair in sequence.to_make.items() if step in made}

    def without_done(self, sequence: LabelledSequence) -> LabelledSequence:
        """What is left to make of `sequence`."""
        done = self.find_done(sequence)
        return replace(sequence, to_make={step: pair for step, pair in sequence.to_make.items() if step not in done})

    def _write(self, made: Propagated, sequence: LabelledSequence) -> None:
        pair = sequence.to_make[made.step]
        assert pair.label_path is not None, f"{pair.name} is to have labels"
        record: Record = {
            "image": pair.image_path.relative_to(self.out).as_posix(),
            "labels": pair.label_path.relative_to(self.out).as_posix(),
            "from": sequence.labelled.name,
            "step": made.step,
            "flow": self.chosen.flow,
            "mode": self.chosen.mode,
            "keep": list(self.chosen.kept_tests),
            "stride": self.chosen.stride,
            "no_class": round(float((made.labels == self.spec.ignore_label).mean()), 4),
            "void": {test: round(share, 4) for test, share in made.void_shares.items()},
            "difference": None if math.isnan(made.residual) else round(made.residual, 2),
            "made_with": self._fingerprint(sequence, made.step),
        }
        # The label file is removed first and written last: as long as it exists, it belongs to the image next to it.
        pair.label_path.unlink(missing_ok=True)
        write_image(pair.image_path, made.image)
        write_png(pair.label_path, label_pixels(made.labels, pair.masks, self.spec), {PAIR_NOTE: json.dumps(record)})

    def _fingerprint(self, sequence: LabelledSequence, step: int) -> str:
        """A hash of all that the pair depends on."""
        chosen, way = self.chosen, 1 if step > 0 else -1
        seen = [sequence.frames[k] for k in range(0, step + way, way)]
        weights = Path(chosen.flow_weights) if chosen.flow_weights else None
        meaning = (self.spec.classes, self.spec.ignored_ids, self.spec.ignored_colors)
        method = (VERSION, chosen.flow, chosen.mode, chosen.kept_tests, chosen.stride, meaning, step)
        return fingerprint(method, [p for p in (*seen, sequence.labelled.label_path, weights) if p], self.root)


def write_manifest(folder: Path, root: Path) -> None:
    """List all pairs in `folder`, of earlier runs too, from the records in their label files. root: of their paths."""
    records = (read_record(folder / path) for path in files_below(folder) if path.endswith(".png"))
    lines = {record["image"]: json.dumps(record) for record in records if record and (root / record["image"]).is_file()}
    with atomic_path(folder / MANIFEST) as temporary:
        temporary.write_text("".join(f"{lines[image]}\n" for image in sorted(lines, key=natural_order)))
