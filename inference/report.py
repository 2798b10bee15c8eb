"""What an evaluation leaves behind: scores as JSON and CSV, pictures, and each image's counts to go on from."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from datasets.spec import SegClass
from inference.writers import label_id_map, overlay, palette
from utils.files import atomic_path
from utils.images import Uint8Array, write_image
from utils.metrics import Scores, scores
from utils.pictures import colorize

DUMP_FOLDERS = ("rgb", "pred", "compose", "diff")
RIGHT_COLOR_SHARE = 0.45  # how much of the photo is left where a prediction is right or cannot be told


def write_prediction(folder: Path, name: str, labels: Uint8Array, classes: Sequence[SegClass]) -> None:
    """Write train ids [H, W] to pred/ as the label ids that benchmark servers want."""
    write_image(folder / "pred" / f"{name}.png", label_id_map(labels, classes))


def write_pictures(
    folder: Path, name: str, image: Uint8Array, truth: Uint8Array | None, labels: Uint8Array,
    classes: Sequence[SegClass],
) -> None:
    """Write the photo to rgb/, the prediction laid over it to compose/, and where truth is known the mistakes to diff/.

    image: [H, W, 3]. truth, labels: [H, W] train ids.
    """
    write_image(folder / "rgb" / f"{name}.png", image)
    write_image(folder / "compose" / f"{name}.png", overlay(image, labels, classes))
    if truth is not None:
        write_image(folder / "diff" / f"{name}.png", mistakes(image, truth, labels, classes))


def mistakes(image: Uint8Array, truth: Uint8Array, labels: Uint8Array, classes: Sequence[SegClass]) -> Uint8Array:
    """The predicted class's colour where it is wrong; elsewhere the photo, dark and grey. All [H, W]; result RGB."""
    grey = (image.mean(2, keepdims=True) * RIGHT_COLOR_SHARE).astype(np.uint8).repeat(3, axis=2)
    wrong = (labels != truth) & (truth < len(classes))
    return np.where(wrong[..., None], colorize(labels, palette(classes)), grey)


def write_scores(folder: Path, suffix: str, names: Sequence[str], matrices: Tensor, settings: dict[str, Any],
                 class_names: Sequence[str]) -> Scores:
    """Write metrics.json, per_class.csv and per_image.csv (`suffix` added to the names); return the overall scores.

    matrices: [N, C, C] confusion matrices of the images `names`, rows truth, columns prediction.
    """
    total = matrices.sum(0)
    overall = scores(total, class_names)
    content = {**overall.as_dict(), "num_images": len(names), "confusion": total.tolist(), "settings": settings}
    with atomic_path(folder / f"metrics{suffix}.json") as path:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    keys = ("iou", "precision", "recall", "f1", "share")
    per_class = overall.as_dict()["classes"]
    write_csv(folder / f"per_class{suffix}.csv", ("class", *keys),
              [(name, *(per_class[name][key] for key in keys)) for name in class_names])
    per_image = [(name, scores(matrix, class_names)) for name, matrix in zip(names, matrices, strict=True)]
    write_csv(folder / f"per_image{suffix}.csv", ("image", "mean_iou", "pixel_accuracy", *class_names),
              [(name, *map(_blank_nan, (one.mean_iou, one.pixel_accuracy, *one.iou))) for name, one in per_image])
    return overall


def write_csv(path: Path, header: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    """Write a table; None becomes an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    with atomic_path(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def save_counts(path: Path, matrix: NDArray[np.int64], fingerprint: str) -> None:
    """Keep one image's confusion matrix [C, C], and of which settings it is."""
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, matrix=matrix, fingerprint=np.array(fingerprint))


def load_counts(path: Path, fingerprint: str) -> NDArray[np.int64] | None:
    """What `save_counts` kept; None where there is nothing, or of other settings."""
    try:
        with np.load(path) as kept:
            return kept["matrix"] if str(kept["fingerprint"]) == fingerprint else None
    except (OSError, ValueError, KeyError):
        return None


def _blank_nan(value: float) -> float | None:
    return None if value != value else value
