"""What an evaluation keeps of each image: its counts, with those at borders and of confidence, and pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
from utils.metrics import NUM_COUNTS, ConfusionMatrix

SMALL_SIDE = 320  # longer side of the small pictures, in pixels
JPEG_QUALITY = 80
PICTURES = ("pred", "rgb", "maps", "compose", "diff", "confidence")  # folders of the files written for each image

# The largest distance that is close, as a share of the image diagonal: the value that the authors of boundary IoU use
# for Cityscapes, 11 pixels at 2048x1024. They use 0.02 for smaller images of larger objects.
CLOSE = 0.005


@dataclass(frozen=True)
class ImageResult:
    """Of one evaluated image.

    counts: [C, C + 7] int64, its confusion matrix and the counts at borders; 0 without labels. confidence: [3, 256]
    int64, see `count_confidence`; 0 if it was not asked for. size: (width, height). photo: small JPEG. maps: small PNG,
    see `map_channels`.
    """

    counts: NDArray[np.int64]
    confidence: NDArray[np.int64]
    size: tuple[int, int]
    photo: bytes
    maps: bytes

    def save(self, folder: Path, name: str, settings: str) -> None:
        """Write the result of the image `name`, with the fingerprint of its settings."""
        photo, maps = (np.frombuffer(picture, np.uint8) for picture in (self.photo, self.maps))
        with atomic_path(folder / "counts" / f"{name}.npz") as temporary:
            np.savez(
                temporary, counts=self.counts, confidence=self.confidence, size=self.size, fingerprint=settings,
                photo=photo, maps=maps,
            )  # fmt: skip

    @classmethod
    def load(cls, folder: Path, name: str, settings: str) -> ImageResult | None:
        """What `save` wrote; None if the file is missing, damaged, or of other settings."""
        try:
            with np.load(folder / "counts" / f"{name}.npz") as file:
                if str(file["fingerprint"]) != settings:
                    return None
                width, height = file["size"].tolist()
                photo, maps = (file[kind].tobytes() for kind in ("photo", "maps"))
                return cls(file["counts"], file["confidence"], (width, height), photo, maps)
        except Exception:  # a damaged header makes NumPy raise anything
            return None


def evaluate_image(
    image: Uint8Array, labels: Uint8Array | None, prediction: Uint8Array, num_classes: int,
    confidence: Uint8Array | None = None,
) -> ImageResult:  # fmt: skip
    """The result of an image [H, W, 3] from train ids [H, W]; without counts if there are no labels."""
    sure = np.zeros((3, LEVELS), np.int64) if confidence is None else count_confidence(confidence, prediction, labels)
    counts = np.zeros((num_classes, num_classes + NUM_COUNTS), np.int64)
    if labels is not None:
        confusion = ConfusionMatrix(num_classes, IGNORE_LABEL)
        confusion.update(torch.from_numpy(labels), torch.from_numpy(prediction))
        counts[:, :num_classes] = confusion.matrix.numpy()
        counts[:, num_classes:] = boundary_counts(labels, prediction, num_classes, IGNORE_LABEL)
    photo = cv2.cvtColor(shrink(image, SMALL_SIDE), cv2.COLOR_RGB2BGR)
    maps = shrink(map_channels(labels, prediction, confidence), SMALL_SIDE, cv2.INTER_NEAREST)
    jpeg = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    png = cv2.imencode(".png", cv2.cvtColor(maps, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 9])[1]
    return ImageResult(counts, sure, (image.shape[1], image.shape[0]), jpeg.tobytes(), png.tobytes())


def map_channels(
    labels: Uint8Array | None, prediction: Uint8Array, confidence: Uint8Array | None = None
) -> Uint8Array:
    """Maps in one image [H, W, 3]: red the predicted train ids, green the true ones; blue half the confidence, plus 128
    where wrong.
    """
    labels = np.full_like(prediction, IGNORE_LABEL) if labels is None else labels
    wrong = np.where((labels != prediction) & (labels != IGNORE_LABEL), 128, 0).astype(np.uint8)
    return np.stack([prediction, labels, wrong if confidence is None else wrong + confidence // 2], axis=2)


def picture_paths(folder: Path, name: str, kinds: Sequence[str] = PICTURES) -> dict[str, Path]:
    """Where the pictures of an evaluated image go."""
    return {kind: folder / kind / f"{name}.png" for kind in kinds}


def write_pictures(
    paths: Mapping[str, Path], image: Uint8Array, labels: Uint8Array | None, prediction: Uint8Array,
    classes: Sequence[SegClass], confidence: Uint8Array | None = None,
) -> None:
    """Write those pictures of an evaluated image that `paths` names.

    pred: the label ids that benchmark servers expect; rgb: the photo [H, W, 3]; maps: train ids for the page, see
    `map_channels`; compose: the overlay; diff: the mistakes; confidence: as it is.
    """
    draw: dict[str, Callable[[], NDArray[np.integer] | None]] = {
        "pred": lambda: label_id_map(prediction, classes),
        "rgb": lambda: image,
        "maps": lambda: map_channels(labels, prediction, confidence),
        "compose": lambda: overlay(image, prediction, classes),
        "diff": lambda: None if labels is None else draw_mistakes(image, labels, prediction, classes),
        "confidence": lambda: confidence,
    }
    for kind, path in paths.items():
        if (picture := draw[kind]()) is not None:
            write_image(path, picture)


def close_pixels(height: int, width: int) -> int:
    """The largest distance that is close in an image of that size, in pixels; at least 1."""
    return max(1, round(CLOSE * math.hypot(height, width)))


def boundary_counts(truth: Uint8Array, guess: Uint8Array, num_classes: int, ignore_label: int) -> NDArray[np.int64]:
    """The counts for the scores: [C, 7] for train ids [H, W]; counts of several images may be added.

    Predictions at ignored pixels do not count: they are treated as ignored too.
    """
    guess = np.where(truth == ignore_label, truth, guess)
    close = close_pixels(*truth.shape)
    counts = np.zeros((num_classes, NUM_COUNTS), np.int64)
    near_truth, near_guess = near_border(truth, close), near_border(guess, close)
    for column, chosen, classes in (
        (0, near_truth & near_guess & (truth == guess), truth), (1, near_truth, truth), (2, near_guess, guess)
    ):  # fmt: skip
        counts[:, column] = np.bincount(classes[chosen], minlength=ignore_label + 1)[:num_classes]
    lines = [np.flatnonzero(border_lines(labels, ignore_label)) for labels in (truth, guess)]
    of_class = [labels.ravel()[line] for labels, line in zip((truth, guess), lines, strict=True)]
    for train_id in np.unique(np.concatenate(of_class)):
        true, guessed = (line[classes == train_id] for line, classes in zip(lines, of_class, strict=True))
        counts[train_id, 3:] = (
            _num_close(guessed, true, truth.shape, close), len(guessed),
            _num_close(true, guessed, truth.shape, close), len(true),
        )  # fmt: skip
    return counts


def near_border(labels: Uint8Array, close: int) -> NDArray[np.bool_]:
    """[H, W]: within `close` pixels, diagonal steps included, of another label or of the image's edge."""
    # The padding outside the image is a label of no class: the largest for one filter, the smallest for the other.
    kernel = np.ones((3, 3), np.uint8)
    highest = cv2.dilate(labels, kernel, iterations=close, borderType=cv2.BORDER_CONSTANT, borderValue=255)
    lowest = cv2.erode(labels, kernel, iterations=close, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return highest != lowest


def border_lines(labels: Uint8Array, ignore_label: int) -> NDArray[np.bool_]:
    """[H, W]: pixels with a neighbour of another class above, below, left or right."""
    lines = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        along, across = lines.swapaxes(0, axis), labels.swapaxes(0, axis)
        differ = (across[1:] != across[:-1]) & (across[1:] != ignore_label) & (across[:-1] != ignore_label)
        along[1:] |= differ
        along[:-1] |= differ
    return lines


def _num_close(pixels: NDArray[np.int64], others: NDArray[np.int64], shape: tuple[int, int], close: int) -> int:
    """How many of `pixels` lie within `close` of one of `others`; both are positions in a flat image of `shape`."""
    mask = np.zeros(shape, np.uint8)
    mask.ravel()[others] = 1
    cv2.dilate(mask, np.ones((3, 3), np.uint8), mask, iterations=close)
    return int(mask.ravel()[pixels].sum(dtype=np.int64))
