"""The index of class-uniform sampling on disk: made in parallel, stored under a hash of all that determines it."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.class_uniform import ClassIndex, Scan, class_index, scan_labels
from datasets.index import Pair
from datasets.parallel import in_parallel
from datasets.segmentation import load_labels
from datasets.skipping import BadFiles
from datasets.spec import DatasetSpec
from utils.command import USER_ERRORS, one_line
from utils.files import atomic_path, writable_folder

_VERSION = 1  # increase it when the same files would give another index


@dataclass(frozen=True)
class IndexPlan:
    """All that determines an index. root: base of its relative paths; tile: side in pixels."""

    pairs: Sequence[Pair]
    spec: DatasetSpec
    root: Path
    tile: int
    seed: int

    def label_paths(self) -> list[str]:
        """The label files, relative to the root; those of propagated frames may lie outside it."""
        return [Path(os.path.relpath(path, self.root)).as_posix() for path in self._label_files()]

    def key(self) -> str:
        """A hash of the files, their sizes and times, the mapping of values, tile and seed."""
        digest = hashlib.blake2b(repr((_VERSION, self.spec, self.tile, self.seed)).encode(), digest_size=12)
        for name, path in zip(self.label_paths(), self._label_files(), strict=True):
            found = path.stat()
            digest.update(repr((name, found.st_size, found.st_mtime_ns)).encode())
        return digest.hexdigest()

    def _label_files(self) -> list[Path]:
        return [pair.labels for pair in self.pairs if pair.labels is not None]

    def scan(self, pair_index: int) -> Scan | str:
        """What the labels of a pair contain; the reason if they cannot be read."""
        try:
            labels = load_labels(self.pairs[pair_index], self.spec)
        except USER_ERRORS as error:
            return one_line(error)
        return scan_labels(labels, self.spec.num_classes, self.tile, np.random.default_rng((self.seed, pair_index)))


def index_of_classes(
    plan: IndexPlan, folder: Path, *, num_workers: int, skip_bad: int = 0, write: bool = True, show: bool = True
) -> ClassIndex:
    """The index stored in `folder`, else a new one, which is stored if `write`.

    skip_bad: how many unreadable label files are skipped, each with a warning; an index with such gaps is not stored.
    show: draw a progress bar and warn. Raises ValueError naming the file if there are more.
    """
    path = folder / f"{plan.spec.name}_{plan.key()}.npz"
    kept = _load(path, plan)
    if kept is not None:
        return kept
    if write:
        writable_folder(folder, "--index_dir")
    bad_files = BadFiles(skip_bad, "while indexing classes", show=show)
    scans: list[Scan] = []
    nothing = Scan(np.empty((0, 3), np.int32), np.zeros(plan.spec.num_classes, np.int64))
    for scan in in_parallel(plan.scan, len(plan.pairs), num_workers=num_workers, title="index classes", show=show):
        if isinstance(scan, str):
            bad_files.skip(scan)
        scans.append(nothing if isinstance(scan, str) else scan)
    index = class_index(scans, plan.spec.num_classes)
    if write and bad_files.count == 0:
        _save(path, plan, index)
    return index


def _save(path: Path, plan: IndexPlan, index: ClassIndex) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            label_files=np.array(plan.label_paths()),
            pixels=np.array(index.pixels, np.int64),
            places=np.concatenate(index.places),
            num_places=np.array([len(places) for places in index.places]),
        )


def _load(path: Path, plan: IndexPlan) -> ClassIndex | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            ends = np.cumsum(file["num_places"])[:-1]
            if file["label_files"].tolist() == plan.label_paths():
                return ClassIndex(tuple(np.split(file["places"], ends)), tuple(file["pixels"].tolist()))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # missing or damaged: it is made again
    return None
