"""The pairs around labelled frames: find the frames of the video, propagate, write and record; and draw a few."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from datasets.files import Sample, files_below
from datasets.frames import PAIR_NOTE, Record, frames_around, pair_to_write, record_of, video_frames
from datasets.labels import label_pixels
from datasets.legend import ClassShare, class_list, with_legend
from datasets.segmentation import load_sample
from datasets.specs.spec import BY_FRAME_NUMBER, Color, DatasetSpec
from utils.command import USER_ERRORS, one_line
from utils.files import atomic_path, natural_order
from utils.images import Uint8Array, read_image, read_note, side_by_side, tint, write_image, write_png
from utils.plots import text_font
from utils.text import counted, escape
from video.flow import build_flow, frames_beyond
from video.flow_chain import FindDisplacement, FlowChain, StreetFlow
from video.propagation import Propagated, propagate
from video.settings import PropagationConfig

MANIFEST = "manifest.jsonl"
VERSION = 1  # increase it when the same files and settings would give other pairs

SHEET_ROWS = 4  # labelled frames on the sheet
CELL_WIDTH = 320  # of an image on the sheet, in pixels
GAP = 8
FONT_SIZE = 14
VOID_COLOR = (255, 0, 220)  # of the stripes on unlabelled pixels; no data set has a class of this colour
STRIPE = 8  # pixels from one stripe to the next


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
    spec: DatasetSpec, root: Path, pairs: Sequence[Sample], out: Path, chosen: PropagationConfig
) -> tuple[list[LabelledSequence], list[str]]:
    """The video around each of `pairs`, and what is missing. out: root of the pairs to make.

    A video may begin or end within reach; a frame that is missing between others is reported, and those beyond it are
    skipped. Raises ValueError if the set has no video, no value for "no class" or cannot have this --stride,
    FileNotFoundError if no labelled frame has a neighbour.
    """
    if chosen.stride != 1 and spec.propagated and spec.propagated.name == BY_FRAME_NUMBER:
        raise ValueError(f"{spec.name} names propagated frames by number; leave --stride out.")
    video = video_frames(spec, root)
    found, missing = [], []
    for pair in pairs:
        try:
            frames, gaps = _frames_without_gaps(spec, video, pair, chosen)
            steps = sorted((step for step in frames if 0 < abs(step) <= chosen.propagate), key=lambda k: (abs(k), k))
            to_make = {step: pair_to_write(spec, root, pair, step, out) for step in steps}
        except ValueError as error:
            missing.append(f"{pair.name}: {one_line(error)}")
            continue
        if to_make:
            found.append(LabelledSequence(pair, frames, to_make))
        else:
            missing.append(f"{pair.name}: its video has no frame {counted(chosen.stride, 'step')} before or after it")
        if to_make and gaps:
            missing.append(f"{pair.name}: its video lacks {' and '.join(gaps)}, so no pairs are made beyond")
    if found:
        masks = next(iter(found[0].to_make.values())).masks
        label_pixels(np.zeros((1, 1), np.uint8), masks, spec)  # fails now if no value means "no class"
    else:
        layouts = spec.video.layouts if spec.video else ()
        folders = ", ".join(str(root / layout.image_dir.format(folder="")) for layout in layouts)
        raise FileNotFoundError(
            f"{spec.name}: no video found around the labelled frames ({missing[0]}). Looked in {folders}. If its frame "
            "numbers are further apart, but the frames close enough in time, use --stride."
        )
    return found, missing


def _frames_without_gaps(
    spec: DatasetSpec, video: Mapping[str, Sample], pair: Sample, chosen: PropagationConfig
) -> tuple[dict[int, Path], list[str]]:
    """The frames by step, up to the first that is missing on either side; and the names of those, if others follow."""
    most = chosen.propagate + frames_beyond(chosen.flow)
    numbers = [step * chosen.stride for step in range(-most, most + 1) if step]
    there = {number // chosen.stride: path for number, path in frames_around(spec, video, pair.name, numbers).items()}
    frames, gaps = {0: pair.image_path}, []
    for direction in (-1, 1):
        ahead = [direction * step for step in range(1, most + 1)]
        kept = list(takewhile(there.__contains__, ahead))
        frames |= {step: there[step] for step in kept}
        if spec.video and any(step in there for step in ahead[len(kept) : chosen.propagate]):
            gaps.append(spec.video.name_of(pair.name, ahead[len(kept)] * chosen.stride))
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

    def __call__(self, sequence: LabelledSequence) -> tuple[list[Record], str]:
        """Read, propagate and write all pairs of `sequence`.

        Returns their records, and why the rest could not be made, "" if all were: one bad file stops no other sequence.
        """
        records: list[Record] = []
        chosen = self.chosen
        try:
            image, labels = load_sample(sequence.pair, self.spec)
            frames = {step: image if step == 0 else read_image(path) for step, path in sequence.frames.items()}
            height, width = labels.shape
            for step, frame in frames.items():
                if frame.shape[:2] != labels.shape:
                    size = f"{frame.shape[1]}x{frame.shape[0]}"
                    raise ValueError(f"{sequence.frames[step]} is {size}, but the labelled frame is {width}x{height}")
            find_displacement: FindDisplacement
            if chosen.flow == "exact":
                find_displacement = StreetFlow(self.root, sequence.pair.name, chosen.stride)
            else:
                find_displacement = FlowChain(frames, build_flow(chosen.flow, chosen.flow_weights, self.device))
            for made in propagate(
                frames, labels, find_displacement, list(sequence.to_make),
                mode=chosen.mode, keep=chosen.kept_tests, ignore_label=self.spec.ignore_label,
            ):  # fmt: skip
                records.append(self._write(made, sequence))
        except USER_ERRORS as error:
            return records, f"{sequence.pair.name}: {one_line(error)}"
        return records, ""

    def find_done(self, sequence: LabelledSequence) -> tuple[list[Record], LabelledSequence]:
        """The records of the pairs that are complete on disk and made in this way from these files, and the rest."""
        found = {step: record_of(pair) for step, pair in sequence.to_make.items()}
        done = {step: r for step, r in found.items() if r and r["made_with"] == self._fingerprint(sequence, step)}
        left = {step: pair for step, pair in sequence.to_make.items() if step not in done}
        return list(done.values()), replace(sequence, to_make=left)

    def _write(self, made: Propagated, sequence: LabelledSequence) -> Record:
        pair = sequence.to_make[made.step]
        assert pair.label_path is not None, f"{pair.name} is to have labels"
        record: Record = {
            "image": pair.image_path.relative_to(self.out).as_posix(),
            "labels": pair.label_path.relative_to(self.out).as_posix(),
            "from": sequence.pair.name,
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
        return record

    def _fingerprint(self, sequence: LabelledSequence, step: int) -> str:
        """A hash of all that the pair depends on; of files size and time, since reading them would take too long."""
        chosen, way, beyond = self.chosen, 1 if step > 0 else -1, frames_beyond(self.chosen.flow)
        seen = [sequence.frames.get(k) for k in range(-beyond * way, step + (beyond + 1) * way, way)]
        weights = Path(chosen.flow_weights) if chosen.flow_weights else None
        files = [path for path in (*seen, sequence.pair.label_path, weights) if path]
        stamps = [(path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        meaning = repr((self.spec.classes, self.spec.ignored_ids, self.spec.ignored_colors))
        method: dict[str, object] = {"flow": chosen.flow, "weights": chosen.flow_weights, "mode": chosen.mode}
        method |= {"keep": chosen.kept_tests, "stride": chosen.stride}
        return hashlib.sha256(json.dumps([VERSION, method, meaning, step, stamps]).encode()).hexdigest()[:16]


def write_manifest(folder: Path, root: Path) -> None:
    """List all pairs in `folder`, of earlier runs too, from the records in their label files. root: of their paths."""
    notes = (read_note(folder / path, PAIR_NOTE) for path in files_below(folder) if path.endswith(".png"))
    records = [json.loads(note) for note in notes if note]
    lines = {record["image"]: json.dumps(record) for record in records if (root / record["image"]).is_file()}
    with atomic_path(folder / MANIFEST) as temporary:
        temporary.write_text("".join(f"{lines[image]}\n" for image in sorted(lines, key=natural_order)))


def draw_sheet(spec: DatasetSpec, sequences: Sequence[LabelledSequence], records: Sequence[Record]) -> Uint8Array:
    """A contact sheet [H, W, 3] uint8 RGB: some labelled frames, each between four of its pairs, and a legend."""
    done = {(record["from"], record["step"]): record for record in records}
    counts = Counter(name for name, _ in done)
    most = max(counts.values())
    complete = [s for s in sequences if counts[s.pair.name] == most]  # so that equal steps are aligned
    num_rows = min(SHEET_ROWS, len(complete))
    rows, occurring = [], set[int]()
    for sequence in (complete[len(complete) * i // num_rows] for i in range(num_rows)):
        name = sequence.pair.name
        steps = sorted(step for step in sequence.to_make if (name, step) in done)
        shown = {steps[round(i * (len(steps) - 1) / 3)] for i in range(4)}
        cells = []
        for step in sorted({0, *shown}):
            image, labels = load_sample(sequence.to_make[step] if step else sequence.pair, spec)
            void = f"{step:+d}, no class {100 * done[name, step]['no_class']:.0f} %" if step else ""
            cells.append(draw_cell(void or escape(name.split("/")[-1]), image, labels, spec.palette))
            occurring |= set(np.unique(labels).tolist())
        rows.append(side_by_side(cells, GAP))
    below = [np.pad(row, ((0, GAP), (GAP, GAP), (0, 0)), constant_values=255) for row in rows]
    page = np.pad(np.concatenate(below), ((GAP, 0), (0, 0), (0, 0)), constant_values=255)
    legend = class_list(spec.classes, frozenset(occurring))
    return with_legend(page, [*legend, ClassShare(spec.ignore_label, "no class", VOID_COLOR, 0, 0.0)], percents=False)


def draw_cell(title: str, image: Uint8Array, labels: Uint8Array, palette: Sequence[Color]) -> Uint8Array:
    """`title` above `image` [H, W, 3], shrunk, with its train ids [H, W] overlaid, stripes where there is no class."""
    size = (CELL_WIDTH, max(1, round(CELL_WIDTH * labels.shape[0] / labels.shape[1])))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT)  # type: ignore[assignment]
    picture = tint(image, labels, palette)
    y, x = np.indices(labels.shape)
    picture[(labels >= len(palette)) & ((x + y) % STRIPE < STRIPE // 2)] = VOID_COLOR
    head = Image.new("RGB", (CELL_WIDTH, FONT_SIZE + 6), "white")
    ImageDraw.Draw(head).text((0, 0), title, "black", text_font(FONT_SIZE))
    return np.concatenate([np.asarray(head), picture])
