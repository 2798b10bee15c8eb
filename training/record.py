"""What a run records besides its flags, so that `training.compare` can tell what else differs between runs."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from datasets.index import Pair
from datasets.spec import DatasetSpec
from utils.checkpoint import versions
from utils.distributed import processes

PROJECT = Path(__file__).parent.parent


def record_start(dtype: torch.dtype | None, data: str | None = None) -> dict[str, Any]:
    """What a training starts with. dtype: that of autocast, None for none; data: see `data_fingerprint`."""
    return {
        "commit": commit(PROJECT),
        "data": data,
        "processes": processes().count,
        "numbers": str(dtype or torch.float32).removeprefix("torch."),
        "versions": versions(),
    }


def commit(folder: Path) -> str | None:
    """`git describe` of the checkout in `folder`, with -dirty if tracked files have changed; None if it is none."""
    if not (folder / ".git").exists():  # a copy within another project's checkout
        return None
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    except OSError:  # git is not installed
        return None


def data_fingerprint(spec: DatasetSpec, *splits: Sequence[Pair]) -> str:
    """A hash of what the files of `splits` are called, of their sizes, and of what their labels mean.

    Not of their times and folders, so a copy is the same data; nor of their contents, which would have to be read.
    """
    meaning = (spec.class_names, [*spec.train_id_of_label_id().items()], [*spec.train_id_of_color().items()])
    digest = hashlib.blake2b(repr((spec.name, meaning)).encode(), digest_size=4)
    for pairs in splits:
        files = [(pair.name, _size(pair.image), _size(pair.labels) if pair.labels else 0) for pair in pairs]
        digest.update(repr(files).encode())
    return digest.hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size
