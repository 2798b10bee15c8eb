"""What an evaluation keeps of each image: its counts, with those at borders and of confidence, and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from datasets.specs.spec import IGNORE_LABEL, SegClass
from inference.confidence import LEVELS, count_confidence
from inference.results import label_id_map
from inference.visualize import draw_mistakes, overlay
from utils.files import atomic_path
from utils.images import Uint8Array, shrink, write_image
from utils.metrics import NUM_COUNTS, boundary_counts, confusion_matrix

SMALL_SIDE = 320  # longer side of the small pictures, in pixels
JPEG_QUALITY = 80
PICTURES = ("pred", "rgb", "maps", "compose", "diff", "confidence")  # folders of the files written for each image


@dataclass(frozen=True)
class ImageResult:
    """Of one evaluated image.

    counts: [C, C + 7] int64, its confusion matrix and the counts at borders; 0 without labels. confidence: [3, 256]
    int64, see `count_confidence`; 0 if it was not asked for. size: width, height. photo: small JPEG. maps: small PNG,
    see `map_channels`; both as bytes.
    """

    counts: NDArray[np.int64]
    confidence: NDArray[np.int64]
    size: NDArray[np.int64]
    photo: Uint8Array
    maps: Uint8Array

    def save(self, folder: Path, name: str, settings: str) -> None:
        """Write the result of the image `name`, with the fingerprint of its settings."""
        with atomic_path(folder / "counts" / f"{name}.npz") as temporary:
            np.savez(temporary, fingerprint=settings, **vars(self))

    @classmethod
    def load(cls, folder: Path, name: str, settings: str) -> ImageResult | None:
        """What `save` wrote; None if the file is missing, damaged, or of other settings."""
        try:
            with np.load(folder / "counts" / f"{name}.npz") as file:
                if str(file["fingerprint"]) != settings:
                    return None
                return cls(**{kind: file[kind] for kind in file.files if kind != "fingerprint"})
        except Exception:  # a damaged header makes NumPy raise anything
            return None


def evaluate_image(
    image: Uint8Array, labels: Uint8Array, prediction: Uint8Array, num_classes: int,
    confidence: Uint8Array | None = None,
) -> ImageResult:  # fmt: skip
    """The result of an image [H, W, 3] from train ids [H, W]."""
    sure = np.zeros((3, LEVELS), np.int64) if confidence is None else count_confidence(confidence, prediction, labels)
    counts = np.zeros((num_classes, num_classes + NUM_COUNTS), np.int64)
    if (labels != IGNORE_LABEL).any():
        both = torch.from_numpy(labels), torch.from_numpy(prediction)
        counts[:, :num_classes] = confusion_matrix(*both, num_classes, IGNORE_LABEL).numpy()
        counts[:, num_classes:] = boundary_counts(labels, prediction, num_classes, IGNORE_LABEL)
    photo = cv2.cvtColor(shrink(image, SMALL_SIDE), cv2.COLOR_RGB2BGR)
    maps = shrink(map_channels(labels, prediction, confidence), SMALL_SIDE, cv2.INTER_NEAREST)
    jpeg = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    png = cv2.imencode(".png", cv2.cvtColor(maps, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 9])[1]
    return ImageResult(counts, sure, np.array(image.shape[1::-1]), jpeg, png)


def map_channels(labels: Uint8Array, prediction: Uint8Array, confidence: Uint8Array | None) -> Uint8Array:
    """Maps in one image [H, W, 3]: red the predicted train ids, green the true ones; blue half the confidence, plus 128
    where wrong.
    """
    wrong = np.where((labels != prediction) & (labels != IGNORE_LABEL), 128, 0).astype(np.uint8)
    return np.stack([prediction, labels, wrong if confidence is None else wrong + confidence // 2], axis=2)


def picture_paths(folder: Path, name: str, kinds: Sequence[str] = PICTURES) -> dict[str, Path]:
    """Where the pictures of an evaluated image go."""
    return {kind: folder / kind / f"{name}.png" for kind in kinds}


def write_pictures(
    paths: Mapping[str, Path], image: Uint8Array, labels: Uint8Array, prediction: Uint8Array,
    classes: Sequence[SegClass], confidence: Uint8Array | None = None,
) -> None:
    """Write those pictures of an evaluated image that `paths` names.

    pred: the label ids that benchmark servers expect; rgb: the photo [H, W, 3]; maps: train ids for the page, see
    `map_channels`; compose: the overlay; diff: the mistakes; confidence: as it is.
    """
    draw: dict[str, Callable[[], Any]] = {
        "pred": lambda: label_id_map(prediction, classes),
        "rgb": lambda: image,
        "maps": lambda: map_channels(labels, prediction, confidence),
        "compose": lambda: overlay(image, prediction, classes),
        "diff": lambda: draw_mistakes(image, labels, prediction, classes),
        "confidence": lambda: confidence,
    }
    for kind, path in paths.items():
        write_image(path, draw[kind]())
