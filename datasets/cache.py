"""Images and labels decoded once: kept as plain arrays in files that are mapped into memory.

One file per pair: a header of 4096 bytes (JSON padded with spaces), image [H, W, 3] uint8 RGB, labels [H, W] uint8
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

_HEAD = 4096  # one page, so that the pixels are page-aligned
_VERSION = 3  # increase it when the same files would decode differently


@dataclass(frozen=True)
class DecodedCache:
    """Decoded pairs of one data set in `folder`. Reading never writes; `fill` does."""

    folder: Path
    spec: DatasetSpec

    @cached_property
    def _mapping(self) -> str:
        return repr((_VERSION, self.spec))

    def path_of(self, pair: Sample) -> Path:
        """The file of `pair`, which depends on its paths and on the mapping of label values."""
        identity = repr((self._mapping, pair.image_path.absolute(), _labels_of(pair).absolute()))
        name = hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
        return self.folder / self.spec.name / name[:2] / f"{name[2:]}.pixels"

    def load(self, pair: Sample) -> tuple[Uint8Array, Uint8Array]:
        """Image [H, W, 3] uint8 RGB and train ids [H, W] uint8, read-only; from the pair's own files if not cached."""
        try:
            with self.path_of(pair).open("rb") as file:
                pixels = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
            return _split(pixels, _head(pixels))
        except (OSError, ValueError, KeyError):
            return load_sample(pair, self.spec)

    def fill(self, pairs: Sequence[Sample], *, num_workers: int, skip_bad: int = 0, show: bool = True) -> None:
        """Decode the pairs that are not cached, or whose files or cached pixels changed since. May be interrupted.

        skip_bad: how many pairs that cannot be decoded are skipped. show: draw a progress bar and warn.
        Raises ValueError naming the file if there are more, OSError if the folder cannot be written.
        """
        writable_folder(self.folder, "--cache_dir")
        work = partial(_keep, self, list(pairs))
        bad_files = BadFiles(skip_bad, "while decoding images", show=show)
        for problem in in_parallel(work, len(pairs), num_workers=num_workers, title="decode images", show=show):
            if problem is not None:
                bad_files.skip(problem)


def _keep(cache: DecodedCache, pairs: Sequence[Sample], index: int) -> str | None:
    """Make sure that the cache holds what the files of a pair hold. Returns the reason if they cannot be decoded."""
    pair, path = pairs[index], cache.path_of(pairs[index])
    try:
        source = _digest_of_files(pair)
        if _is_sound(path, source):
            return None
        image, labels = load_sample(pair, cache.spec)
    except USER_ERRORS as error:
        path.unlink(missing_ok=True)  # what was cached is outdated
        return one_line(error)
    pixels = image.tobytes() + labels.tobytes()
    head = {"size": labels.shape, "source": source, "pixels": hashlib.blake2b(pixels).hexdigest()}
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            file.write(json.dumps(head).encode().ljust(_HEAD))
            file.write(pixels)
    except OSError as error:
        raise OSError(f"--cache_dir {cache.folder}: {error.strerror}.") from error
    return None


def _is_sound(path: Path, source: str) -> bool:
    try:
        content = path.read_bytes()
        head = _head(np.frombuffer(content, np.uint8))
        return head["source"] == source and head["pixels"] == hashlib.blake2b(content[_HEAD:]).hexdigest()
    except (OSError, ValueError, KeyError):
        return False


def _digest_of_files(pair: Sample) -> str:
    contents = [path.read_bytes() for path in (pair.image_path, _labels_of(pair))]
    return " ".join(hashlib.blake2b(content, digest_size=32).hexdigest() for content in contents)


def _labels_of(pair: Sample) -> Path:
    assert pair.label_path is not None, f"{pair.name} has no labels"
    return pair.label_path


def _head(pixels: Uint8Array) -> dict[str, Any]:
    return dict(json.loads(pixels[:_HEAD].tobytes()))


def _split(pixels: Uint8Array, head: dict[str, Any]) -> tuple[Uint8Array, Uint8Array]:
    height, width = head["size"]
    body = pixels[_HEAD:]
    if len(body) != 4 * height * width:
        raise ValueError("the file is truncated")
    image, labels = body[: 3 * height * width], body[3 * height * width :]
    return image.reshape(height, width, 3), labels.reshape(height, width)
