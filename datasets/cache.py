"""Images and labels decoded once: kept as plain arrays in files that are mapped into memory.

One file per sample: a header of 4096 bytes (JSON padded with spaces), image [H, W, 3] uint8 RGB, labels [H, W] uint8
train ids. A training crop reads only its own rows. 4 bytes per pixel: 8.4 MB for 2048x1024.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from datasets.files import Sample
from datasets.segmentation import BadFiles, load_sample
from datasets.specs.spec import DatasetSpec
from utils.command import USER_ERRORS, one_line
from utils.files import atomic_path, writable_folder
from utils.images import Uint8Array
from utils.parallel import in_parallel

HEADER_BYTES = 4096  # one page, so that the pixels are page-aligned
CACHE_VERSION = 4  # increase it when the same files would decode differently


@dataclass(frozen=True)
class DecodedCache:
    """Decoded samples of one data set in `folder`. Reading never writes; `fill` does."""

    folder: Path
    spec: DatasetSpec

    @cached_property
    def _mapping(self) -> str:
        return repr((CACHE_VERSION, self.spec))

    def path_of(self, sample: Sample) -> Path:
        """The file of `sample`, which depends on its paths and on the mapping of label values."""
        identity = repr((self._mapping, [path.absolute() for path in _paths(sample)]))
        name = hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
        return self.folder / self.spec.name / name[:2] / f"{name[2:]}.pixels"

    def load(self, sample: Sample) -> tuple[Uint8Array, Uint8Array]:
        """Image [H, W, 3] uint8 RGB and train ids [H, W] uint8, read-only; from its own files if it is not cached."""
        try:
            with self.path_of(sample).open("rb") as file:
                content = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
            height, width = _header(content)["size"]
            image, labels = np.split(content[HEADER_BYTES:], [3 * height * width])
            return image.reshape(height, width, 3), labels.reshape(height, width)
        except (OSError, ValueError, KeyError):
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
    sample, path = samples[index], cache.path_of(samples[index])
    try:
        stamps = [[found.st_size, found.st_mtime_ns] for found in (file.stat() for file in _paths(sample))]
        if _is_current(path, stamps):
            return None
        image, labels = load_sample(sample, cache.spec)
    except USER_ERRORS as error:
        path.unlink(missing_ok=True)  # what was cached is outdated
        return one_line(error)
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            file.write(json.dumps({"size": labels.shape, "stamps": stamps}).encode().ljust(HEADER_BYTES))
            file.write(image.tobytes() + labels.tobytes())
    except OSError as error:
        raise OSError(f"--cache_dir {cache.folder}: {error.strerror}.") from error
    return None


def _is_current(path: Path, stamps: list[list[int]]) -> bool:
    """Whether `path` is complete and was made from files of these sizes and times."""
    try:
        with path.open("rb") as file:
            header = _header(np.frombuffer(file.read(HEADER_BYTES), np.uint8))
        height, width = header["size"]
        return header["stamps"] == stamps and path.stat().st_size == HEADER_BYTES + 4 * height * width
    except (OSError, ValueError, KeyError):
        return False


def _header(content: Uint8Array) -> dict[str, Any]:
    return dict(json.loads(content[:HEADER_BYTES].tobytes()))


def _paths(sample: Sample) -> list[Path]:
    assert sample.label_path is not None, f"{sample.name} has no labels"
    return [sample.image_path, sample.label_path]
