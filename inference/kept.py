"""What is kept of each evaluated image: its counts and a small picture. An interrupted run continues from there."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from datasets.spec import IGNORE_LABEL
from utils.boundary import NUM_COUNTS, boundary_counts
from utils.files import atomic_path
from utils.images import Uint8Array
from utils.metrics import ConfusionMatrix
from utils.pictures import shrunk

SMALL_SIDE = 320  # longer side of the small pictures, in pixels
JPEG_QUALITY = 80


@dataclass(frozen=True)
class Kept:
    """Of one image. counts: [C, C + 7] int64, its confusion matrix and the counts at borders; 0 without truth.

    size: (width, height). photo: small JPEG. labels: small PNG, see `label_channels`.
    """

    counts: NDArray[np.int64]
    size: tuple[int, int]
    photo: bytes
    labels: bytes


def count(truth: Uint8Array | None, labels: Uint8Array, num_classes: int) -> NDArray[np.int64]:
    """The counts of one image from train ids [H, W]: [C, C + 7]."""
    if truth is None:
        return np.zeros((num_classes, num_classes + NUM_COUNTS), np.int64)
    confusion = ConfusionMatrix(num_classes, IGNORE_LABEL)
    confusion.update(torch.from_numpy(truth), torch.from_numpy(labels))
    borders = boundary_counts(truth, labels, num_classes, IGNORE_LABEL)
    return np.concatenate([confusion.matrix.numpy(), borders], axis=1)


def label_channels(truth: Uint8Array | None, labels: Uint8Array) -> Uint8Array:
    """Three maps in one image [H, W, 3]: red the predicted train ids, green the true ones, blue 255 where wrong."""
    if truth is None:
        truth = np.full_like(labels, IGNORE_LABEL)
    wrong = np.where((truth != labels) & (truth != IGNORE_LABEL), 255, 0).astype(np.uint8)
    return np.stack([labels, truth, wrong], axis=2)


def small(image: Uint8Array, channels: Uint8Array) -> tuple[bytes, bytes]:
    """Photo [H, W, 3] as a small JPEG, labels [H, W, 3] as a small PNG of the same size."""
    photo = cv2.cvtColor(shrunk(image, SMALL_SIDE), cv2.COLOR_RGB2BGR)
    labels = cv2.cvtColor(shrunk(channels, SMALL_SIDE, cv2.INTER_NEAREST), cv2.COLOR_RGB2BGR)
    encoded = (
        cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]),
        cv2.imencode(".png", labels, [cv2.IMWRITE_PNG_COMPRESSION, 9]),
    )
    return encoded[0][1].tobytes(), encoded[1][1].tobytes()


def save_kept(path: Path, kept: Kept, fingerprint: str) -> None:
    """Write `kept` with the fingerprint of its settings."""
    photo, labels = (np.frombuffer(picture, np.uint8) for picture in (kept.photo, kept.labels))
    size, mark = np.array(kept.size), np.array(fingerprint)
    with atomic_path(path) as temporary:
        np.savez(temporary, counts=kept.counts, size=size, fingerprint=mark, photo=photo, labels=labels)


def load_kept(path: Path, fingerprint: str) -> Kept | None:
    """What `save_kept` wrote; None if the file is missing, damaged, or of other settings."""
    try:
        with np.load(path) as file:
            if str(file["fingerprint"]) != fingerprint:
                return None
            width, height = file["size"].tolist()
            return Kept(file["counts"], (width, height), file["photo"].tobytes(), file["labels"].tobytes())
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return None


def kept_file(folder: Path, name: str) -> Path:
    """Where the image called `name` is kept."""
    return folder / "counts" / f"{name}.npz"
