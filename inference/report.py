"""An evaluation's tables, and the data of report.html, whose layout is `page.html` and whose behaviour `page.js`."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch

from datasets.specs.spec import SegClass
from inference.confidence import CONFIDENCE_COLUMNS, Confidence
from inference.evaluation import ImageResult
from utils.files import atomic_path, write_csv, write_json
from utils.metrics import PER_CLASS, TOTALS, scores
from utils.text import counted, escape

MOST_PICTURES = 1000  # in the page, those with the lowest scores; with more it would open slowly
TILES = {
    "mIoU": "mean_iou", "boundary IoU": "mean_boundary_iou", "boundary F": "mean_boundary_f",
    "pixel accuracy": "pixel_accuracy",
}  # fmt: skip


def write_scores(
    folder: Path, suffix: str, names: Sequence[str], results: Sequence[ImageResult], facts: Mapping[str, Any],
    class_names: Sequence[str], confidence: Sequence[Confidence] | None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:  # fmt: skip
    """Write metrics.json, per_class.csv and per_image.csv (`suffix` added to the names).

    confidence: of each image, if asked for. Returns the scores of all and of each.
    """
    counts = torch.from_numpy(np.stack([result.counts for result in results]))
    overall, *per_image = (scores(one, class_names) for one in (counts.sum(0), *counts))
    confusion = counts.sum(0)[:, : len(class_names)].tolist()
    content = {**overall, "num_images": len(names), "confusion": confusion, **facts}
    write_json(folder / f"metrics{suffix}.json", content)
    per_class = [(name, *(found[key] for key in PER_CLASS)) for name, found in overall["classes"].items()]
    write_csv(folder / f"per_class{suffix}.csv", ("class", *PER_CLASS), per_class)
    lines = []
    for i, one in enumerate(per_image):
        ious = (found["iou"] for found in one["classes"].values())
        lines.append((names[i], *(one[key] for key in TOTALS), *ious, *(confidence[i][:2] if confidence else ())))
    more = CONFIDENCE_COLUMNS if confidence else ()
    write_csv(folder / f"per_image{suffix}.csv", ("image", *TOTALS, *class_names, *more), lines)
    return overall, per_image


def write_page(path: Path, data: Mapping[str, Any]) -> None:
    """Write the page that shows `data`, see `page_data`."""
    page, script = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.html", "page.js"))
    # "<" could end the script element, for example in a file name.
    embedded = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {"script": script, "title": html.escape(str(data["title"])), "data": embedded}
    text = re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], page)  # at once: a title may hold such a mark
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def page_data(
    title: str, about: str, classes: Sequence[SegClass], names: Sequence[str], results: Sequence[ImageResult],
    *, overall: dict[str, Any] | None, per_image: Sequence[dict[str, Any]], pictures: bool, facts: Mapping[str, Any],
    confidence: Sequence[Confidence] | None = None, reliability: Path | None = None,
) -> dict[str, Any]:
    """What the page shows, as plain values.

    results: of the images `names`. overall, per_image: None and () for a split without labels. pictures: whether full
    images are next to the page. confidence: of each image; None if it was not asked for. reliability: the diagram, if
    there is one.
    """  # fmt: skip
    values = overall or {"classes": {}}
    by_image = [*per_image] or [{"classes": {}}] * len(names)
    by_score = sorted(range(len(names)), key=lambda i: by_image[i].get("mean_iou") or 0.0)
    pictured = set(by_score[:MOST_PICTURES])
    tiles = []
    if overall is not None:
        found = {name: values[key] for name, key in TILES.items()}
        tiles = [(name, "–" if value is None else f"{100 * value:.1f}") for name, value in found.items()]
    tiles.append(("image" if len(names) == 1 else "images", str(len(names))))
    if error := facts.get("confidence", {}).get("calibration_error"):
        tiles.append(("calibration error", f"{100 * error:.1f} %"))
    if "speed" in facts:
        tiles.append(("network busy", f"{100 * facts['speed']['network_share']:.0f} %"))
    blank = dict.fromkeys(PER_CLASS)
    about += f"; small versions of {counted(len(pictured), 'image')}" if len(pictured) < len(names) else ""
    return {
        "title": title,
        "about": about,
        "labelled": overall is not None,
        "pictures": pictures,
        "tiles": tiles,
        "settings": facts["settings"],
        "classes": [{"name": c.name, "color": c.color, **values["classes"].get(c.name, blank)} for c in classes],
        "confusion": np.sum([result.counts for result in results], axis=0)[:, : len(classes)].tolist(),
        "reliability": reliability and embedded("png", reliability.read_bytes()),
        "images": [
            {
                "name": escape(name),
                "file": quote(name, errors="surrogateescape"),
                "size": result.size.tolist(),
                "photo": embedded("jpeg", result.photo.tobytes()) if i in pictured else None,
                "map": embedded("png", result.maps.tobytes()) if i in pictured else None,
                "iou": scored.get("mean_iou"),
                "boundary_iou": scored.get("mean_boundary_iou"),
                "accuracy": scored.get("pixel_accuracy"),
                "by_class": [one["iou"] for one in scored["classes"].values()],
                "confidence": confidence and confidence[i].mean,
            }
            for i, (name, result, scored) in enumerate(zip(names, results, by_image, strict=True))
        ],
    }


def embedded(kind: str, content: bytes) -> str:
    """A picture as text that a page can hold."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
