"""Images and labels decoded once: kept as plain arrays in files that are mapped into memory.

Two files per sample, in NumPy's format: image [H, W, 3] uint8 RGB, labels [H, W] uint8 train ids. A training crop reads
only its own rows. 4 bytes per pixel: 8.4 MB for 2048x1024.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from datasets.files import Sample
from datasets.segmentation import BadFiles, load_sample
from datasets.specs.spec import DatasetSpec
from utils.command import USER_ERRORS, one_line
from utils.files import atomic_path, writable_folder
from utils.images import Uint8Array
from utils.parallel import in_parallel

CACHE_VERSION = 4  # increase it when the same files would decode differently


@dataclass(frozen=True)
class DecodedCache:
    """Decoded samples of one data set in `folder`. Reading never writes; `fill` does."""

    folder: Path
    spec: DatasetSpec

    def paths_of(self, sample: Sample) -> tuple[Path, Path]:
        """The files of image and labels, named by the classes and by paths, sizes and times of the sample's files."""
        files = [path for path in (sample.image_path, sample.label_path) if path is not None]
        identity = [(str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        name = hashlib.blake2b(repr((repr((CACHE_VERSION, self.spec)), identity)).encode(), digest_size=16).hexdigest()
        stem = self.folder / self.spec.name / name[:2] / name[2:]
        return stem.with_suffix(".image.npy"), stem.with_suffix(".labels.npy")

    def load(self, sample: Sample) -> tuple[Uint8Array, Uint8Array]:
        """Image [H, W, 3] uint8 RGB and train ids [H, W] uint8, read-only; from its own files if it is not cached."""
        try:
            image, labels = (np.load(path, mmap_mode="r") for path in self.paths_of(sample))
            return image, labels
        except (OSError, ValueError, EOFError):
            return load_sample(sample, self.spec)

    def fill(self, samples: Sequence[Sample], *, num_workers: int, skip_bad: int = 0, show: bool = True) -> None:
        """Decode the samples that are not cached, or whose files changed since. May be interrupted.

        skip_bad: how many samples that cannot be decoded are skipped. show: draw a progress bar and warn.
        Raises ValueError naming the file if there are more, OSError if the folder cannot be written.
        """
        writable_folder(self.folder, "--cache_dir")
        work = partial(_keep, self, list(samples))
        bad_files = BadFiles(skip_bad, "while decoding images", show=show)
        for problem in in_parallel(work, len(samples), num_workers=num_workers, title="decode images", show=show):
            if problem is not None:
                bad_files.skip(problem)


def _keep(cache: DecodedCache, samples: Sequence[Sample], index: int) -> str | None:
    """Make sure that the cache holds what the files of a sample hold. Returns the reason if they cannot be decoded."""
    try:
        paths = cache.paths_of(samples[index])
        if all(path.is_file() for path in paths):
            return None
        arrays = load_sample(samples[index], cache.spec)
    except USER_ERRORS as error:
        return one_line(error)
    try:
        for path, array in zip(paths, arrays, strict=True):
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, array)
    except OSError as error:
        raise OSError(f"--cache_dir {cache.folder}: {error.strerror}.") from error
    return None
