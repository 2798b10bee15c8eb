"""The results of an evaluation: scores as JSON and CSV, and images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from datasets.spec import SegClass, palette
from inference.writers import label_id_map, overlay
from utils.files import write_csv, write_json
from utils.images import Uint8Array, write_image
from utils.metrics import PER_CLASS, TOTALS, Scores, scores
from utils.pictures import colorize, dark_grey

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
    return np.where(wrong[..., None], colorize(labels, palette(classes)), dark_grey(image, RIGHT_LIGHT))


def write_scores(folder: Path, suffix: str, names: Sequence[str], counts: Tensor, facts: dict[str, Any],
                 class_names: Sequence[str]) -> tuple[Scores, list[Scores]]:
    """Write metrics.json, per_class.csv and per_image.csv (`suffix` added to the names).

    counts: [N, C, C + 7] of the images `names`, see `inference/kept.py`. Returns the scores of all and of each.
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
