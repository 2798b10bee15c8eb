"""What is kept of each evaluated image: its counts and a small picture. An interrupted run continues from there."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.specs.spec import IGNORE_LABEL, SegClass, class_colors
from inference.writers import label_id_map, overlay
from utils.files import atomic_path, write_csv, write_json
from utils.images import Uint8Array, colorize, dark_grey, shrunk, write_image
from utils.metrics import NUM_COUNTS, PER_CLASS, TOTALS, ConfusionMatrix, Scores, boundary_counts, scores

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


RIGHT_LIGHT = 0.45  # brightness of the photo where a prediction is right or unknown
PICTURES = ("pred", "rgb", "maps", "compose", "diff")  # folders of the files written for each image


def pictures_of(folder: Path, name: str, *, labelled: bool = True, dumped: bool = True) -> list[Path]:
    """The files written for an image: all if they are `dumped`, else the prediction if there are no labels."""
    kinds = [kind for kind in PICTURES if labelled or kind != "diff"] if dumped else [] if labelled else ["pred"]
    return [folder / kind / f"{name}.png" for kind in kinds]


def remove_pictures(folder: Path, name: str) -> None:
    """Remove what an earlier evaluation wrote for an image: it would not belong to the new scores."""
    for path in pictures_of(folder, name):
        path.unlink(missing_ok=True)


def write_prediction(folder: Path, name: str, labels: Uint8Array, classes: Sequence[SegClass]) -> None:
    """Write train ids [H, W] to pred/ as the label ids that benchmark servers expect."""
    write_image(folder / "pred" / f"{name}.png", label_id_map(labels, classes))


def write_pictures(
    folder: Path, name: str, image: Uint8Array, truth: Uint8Array | None, labels: Uint8Array,
    channels: Uint8Array, classes: Sequence[SegClass],
) -> None:
    """Write the photo to rgb/, its overlay with the prediction to compose/, and the mistakes, if known, to diff/.

    image: [H, W, 3]. truth, labels: [H, W] train ids. channels: both for the page, see `label_channels`, to maps/.
    """
    write_image(folder / "rgb" / f"{name}.png", image)
    write_image(folder / "maps" / f"{name}.png", channels)
    write_image(folder / "compose" / f"{name}.png", overlay(image, labels, classes))
    if truth is not None:
        write_image(folder / "diff" / f"{name}.png", mistakes(image, truth, labels, classes))


def mistakes(image: Uint8Array, truth: Uint8Array, labels: Uint8Array, classes: Sequence[SegClass]) -> Uint8Array:
    """The colour of the predicted class where it is wrong, else the photo, dark and grey. All [H, W]; result RGB."""
    wrong = (labels != truth) & (truth < len(classes))
    return np.where(wrong[..., None], colorize(labels, class_colors(classes)), dark_grey(image, RIGHT_LIGHT))


def write_scores(folder: Path, suffix: str, names: Sequence[str], counts: Tensor, facts: dict[str, Any],
                 class_names: Sequence[str]) -> tuple[Scores, list[Scores]]:
    """Write metrics.json, per_class.csv and per_image.csv (`suffix` added to the names).

    counts: [N, C, C + 7] of the images `names`, see `inference/results.py`. Returns the scores of all and of each.
    """
    overall, *per_image = (
        scores(one[:, : len(class_names)], class_names, one[:, len(class_names) :]) for one in (counts.sum(0), *counts)
    )
    confusion = counts.sum(0)[:, : len(class_names)].tolist()
    content = {**overall.as_dict(), "num_images": len(names), "confusion": confusion, **facts}
    write_json(folder / f"metrics{suffix}.json", content)
    per_class = overall.as_dict()["classes"]
    write_csv(folder / f"per_class{suffix}.csv", ("class", *PER_CLASS),
              [(name, *(per_class[name][key] for key in PER_CLASS)) for name in class_names])
    write_csv(folder / f"per_image{suffix}.csv", ("image", *TOTALS, *class_names),
              [(name, *(_blank_nan(getattr(one, key)) for key in TOTALS), *map(_blank_nan, one.iou))
               for name, one in zip(names, per_image, strict=True)])
    return overall, per_image


def _blank_nan(value: float) -> float | None:
    return None if value != value else value
