"""Make the pairs of one labelled frame: read its video, propagate image and labels, write, and record the result."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from datasets.frames import PAIR_NOTE, Record, record_of
from datasets.labels import label_pixels
from datasets.segmentation import load_sample
from datasets.specs.spec import DatasetSpec
from utils.command import USER_ERRORS, one_line
from utils.images import Uint8Array, read_image, write_image, write_png
from video.flow import SMALLEST, Flow, build_flow, frames_beyond
from video.flow_chain import Displacement, EstimatedMotion, Motion, StreetMotion
from video.propagation import Propagated, propagate
from video.sequences import LabelledSequence

VERSION = 1  # increase it when the same files and method would give other pairs

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
class Made:
    """The result for one labelled frame: records of its pairs, and why the rest could not be made; "" if all were."""

    records: list[Record]
    problem: str = ""


@dataclass(frozen=True)
class Propagation:
    """Processes sequences one by one. root: of the labelled frames. out: root of what is written."""

    spec: DatasetSpec
    root: Path
    out: Path
    method: Method

    def make(self, sequence: LabelledSequence) -> Made:
        """Read, propagate and write all pairs of `sequence`; problems with its files are returned, not raised."""
        records: list[Record] = []
        try:
            image, labels = load_sample(sequence.pair, self.spec)
            frames = {step: image if step == 0 else read_image(path) for step, path in sequence.frames.items()}
            _check_sizes(frames, sequence)
            for made in self._propagated(frames, labels, sequence):
                records.append(self._write(made, sequence))
        except USER_ERRORS as error:
            return Made(records, f"{sequence.pair.name}: {one_line(error)}")
        return Made(records)

    def there(self, sequence: LabelledSequence) -> list[Record]:
        """The records of the pairs of `sequence` that are complete on disk and made by this method from these files."""
        found = [(self._fingerprint(sequence, step), pair) for step, pair in sequence.made.items()]
        records = [(fingerprint, record_of(pair)) for fingerprint, pair in found]
        return [record for fingerprint, record in records if record and record["made_with"] == fingerprint]

    def _propagated(
        self, frames: Mapping[int, Uint8Array], labels: Uint8Array, sequence: LabelledSequence
    ) -> Iterator[Propagated]:
        motion: Motion
        if self.method.flow == "exact":
            street = StreetMotion(self.root, sequence.pair.name)

            def motion(step: int) -> Displacement:
                return street(step * self.method.stride)
        else:
            motion = EstimatedMotion(frames, _flow(self.method.flow, self.method.weights, self.method.device))
        method, ignore = self.method, self.spec.ignore_label
        return propagate(
            frames, labels, motion, list(sequence.made), mode=method.mode, keep=method.keep, ignore_label=ignore
        )

    def _write(self, made: Propagated, sequence: LabelledSequence) -> Record:
        pair, method = sequence.made[made.step], self.method
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
            "no_class": _rounded((made.labels == self.spec.ignore_label).mean()),
            "void": {test: _rounded(share) for test, share in made.void_shares.items()},
            "difference": None if math.isnan(made.residual) else round(made.residual, 2),
            "made_with": self._fingerprint(sequence, made.step),
        }
        pair.label_path.unlink(missing_ok=True)  # or it would be next to an image that it does not belong to
        write_image(pair.image_path, made.image)
        write_png(pair.label_path, label_pixels(made.labels, pair.masks, self.spec), {PAIR_NOTE: json.dumps(record)})
        return record

    def _fingerprint(self, sequence: LabelledSequence, step: int) -> str:
        method = {key: value for key, value in asdict(self.method).items() if key != "device"}
        weights = [Path(self.method.weights)] if self.method.weights else []
        frames = sequence.on_the_way(step, frames_beyond(self.method.flow))
        files = [*frames, *([sequence.pair.label_path] if sequence.pair.label_path else []), *weights]
        stamps = [(path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        meaning = repr((self.spec.classes, self.spec.ignored_ids, self.spec.ignored_colors))
        return hashlib.sha256(json.dumps([VERSION, method, meaning, step, stamps]).encode()).hexdigest()[:16]


@lru_cache(maxsize=1)
def _flow(name: str, weights: str | None, device: str) -> Flow:
    return build_flow(name, weights=weights, device=device)  # once per process, since it may be a network


def _check_sizes(frames: Mapping[int, Uint8Array], sequence: LabelledSequence) -> None:
    height, width = frames[0].shape[:2]
    if min(height, width) < SMALLEST:
        raise ValueError(f"{sequence.pair.image_path} has {width}x{height} pixels, too few to estimate motion.")
    for step, frame in frames.items():
        if frame.shape[:2] != (height, width):
            other = f"{frame.shape[1]}x{frame.shape[0]}"
            raise ValueError(
                f"{sequence.frames[step]} is {other}, but the labelled frame is {width}x{height} (width x height)"
            )


def _rounded(share: float) -> float:
    return round(float(share), 4)
