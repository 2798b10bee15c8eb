"""Make the pairs of a labelled frame: read its video, propagate, write and record; and draw some of them on a sheet."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from datasets.frames import PAIR_NOTE, Record, record_of
from datasets.labels import label_pixels
from datasets.legend import ClassShare, class_list, with_legend
from datasets.segmentation import load_sample
from datasets.specs.spec import Color, DatasetSpec
from utils.command import USER_ERRORS, one_line
from utils.images import Uint8Array, blend, read_image, side_by_side, write_image, write_png
from utils.plots import text_font
from utils.text import escape
from video.flow import SMALLEST, EstimateFlow, build_flow, frames_beyond
from video.flow_chain import FindDisplacement, FlowChain, StreetFlow
from video.propagation import Propagated, propagate
from video.sequences import LabelledSequence

VERSION = 1  # increase it when the same files and method would give other pairs

SHEET_ROWS = 4  # labelled frames on the sheet
WIDTH = 320  # of an image on the sheet, in pixels
GAP = 8
FONT_SIZE = 14
VOID_COLOR = (255, 0, 220)  # of the stripes on unlabelled pixels; no data set has a class of this colour
STRIPE = 8  # pixels from one stripe to the next


@dataclass(frozen=True)
class Method:
    """All that pairs depend on besides their source files. device: where the network of `flow` runs."""

    flow: str
    weights: str | None
    mode: str
    keep: tuple[str, ...]
    stride: int
    device: str = "cpu"


@dataclass(frozen=True)
class PairMaker:
    """Makes the pairs of one sequence after another. root: of the labelled frames. out: root of what is written."""

    spec: DatasetSpec
    root: Path
    out: Path
    method: Method

    def __call__(self, sequence: LabelledSequence) -> tuple[list[Record], str]:
        """Read, propagate and write all pairs of `sequence`.

        Returns their records, and why the rest could not be made, "" if all were: one bad file stops no other sequence.
        """
        records: list[Record] = []
        try:
            image, labels = load_sample(sequence.pair, self.spec)
            frames = {step: image if step == 0 else read_image(path) for step, path in sequence.frames.items()}
            _check_sizes(frames, sequence)
            if self.method.flow == "exact":
                find_displacement: FindDisplacement = StreetFlow(self.root, sequence.pair.name, self.method.stride)
            else:
                find_displacement = FlowChain(frames, _estimator(self.method))
            for made in propagate(
                frames, labels, find_displacement, list(sequence.to_make),
                mode=self.method.mode, keep=self.method.keep, ignore_label=self.spec.ignore_label,
            ):  # fmt: skip
                records.append(self._write(made, sequence))
        except USER_ERRORS as error:
            return records, f"{sequence.pair.name}: {one_line(error)}"
        return records, ""

    def find_done(self, sequence: LabelledSequence) -> tuple[list[Record], LabelledSequence]:
        """The records of the pairs that are complete on disk and made by this method from these files, and the rest."""
        found = {step: record_of(pair) for step, pair in sequence.to_make.items()}
        done = {step: r for step, r in found.items() if r and r["made_with"] == self._fingerprint(sequence, step)}
        left = {step: pair for step, pair in sequence.to_make.items() if step not in done}
        return list(done.values()), replace(sequence, to_make=left)

    def _write(self, made: Propagated, sequence: LabelledSequence) -> Record:
        pair, method = sequence.to_make[made.step], self.method
        assert pair.label_path is not None, f"{pair.name} is to have labels"
        record: Record = {
            "image": pair.image_path.relative_to(self.out).as_posix(),
            "labels": pair.label_path.relative_to(self.out).as_posix(),
            "from": sequence.pair.name,
            "step": made.step,
            "flow": method.flow,
            "mode": method.mode,
            "keep": list(method.keep),
            "stride": method.stride,
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
        way, beyond = 1 if step > 0 else -1, frames_beyond(self.method.flow)
        seen = [sequence.frames.get(k) for k in range(-beyond * way, step + (beyond + 1) * way, way)]
        weights = Path(self.method.weights) if self.method.weights else None
        files = [path for path in (*seen, sequence.pair.label_path, weights) if path]
        stamps = [(path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        meaning = repr((self.spec.classes, self.spec.ignored_ids, self.spec.ignored_colors))
        method = {key: value for key, value in asdict(self.method).items() if key != "device"}
        return hashlib.sha256(json.dumps([VERSION, method, meaning, step, stamps]).encode()).hexdigest()[:16]


@lru_cache(maxsize=1)
def _estimator(method: Method) -> EstimateFlow:
    # Once per process, since it may be a network.
    return build_flow(method.flow, weights=method.weights, device=method.device)


def _check_sizes(frames: Mapping[int, Uint8Array], sequence: LabelledSequence) -> None:
    height, width = frames[0].shape[:2]
    if min(height, width) < SMALLEST:
        raise ValueError(f"{sequence.pair.image_path} has {width}x{height} pixels, too few to estimate motion.")
    for step, frame in frames.items():
        if frame.shape[:2] != (height, width):
            raise ValueError(
                f"{sequence.frames[step]} is {frame.shape[1]}x{frame.shape[0]}, but the labelled frame is "
                f"{width}x{height} (width x height)"
            )


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
    width = max(row.shape[1] for row in rows)
    below = [np.pad(row, ((0, GAP), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    page = np.pad(np.concatenate(below), ((GAP, 0), (GAP, GAP), (0, 0)), constant_values=255)
    legend = class_list(spec.classes, frozenset(occurring))
    return with_legend(page, [*legend, ClassShare(spec.ignore_label, "no class", VOID_COLOR, 0, 0.0)], percents=False)


def draw_cell(title: str, image: Uint8Array, labels: Uint8Array, palette: Sequence[Color]) -> Uint8Array:
    """`title` above `image` [H, W, 3], shrunk, with its train ids [H, W] overlaid, stripes where there is no class."""
    size = (WIDTH, max(1, round(WIDTH * labels.shape[0] / labels.shape[1])))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT)  # type: ignore[assignment]
    picture = blend(image, labels, palette)
    y, x = np.indices(labels.shape)
    picture[(labels >= len(palette)) & ((x + y) % STRIPE < STRIPE // 2)] = VOID_COLOR
    head = Image.new("RGB", (WIDTH, FONT_SIZE + 6), "white")
    ImageDraw.Draw(head).text((0, 0), title, "black", text_font(FONT_SIZE, title))
    return np.concatenate([np.asarray(head), picture])
