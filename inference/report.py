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

from torch import Tensor

from datasets.specs.spec import SegClass
from inference.confidence import CONFIDENCE_COLUMNS, Confidence
from inference.evaluation import ImageResult
from utils.files import atomic_path, write_csv, write_json
from utils.metrics import PER_CLASS, TOTALS, Scores, scores
from utils.text import counted, escape

MOST_PICTURES = 1000  # in the page, those with the lowest scores; with more it would open slowly
TILES = {
    "mIoU": "mean_iou", "boundary IoU": "mean_boundary_iou", "boundary F": "mean_boundary_f",
    "pixel accuracy": "pixel_accuracy",
}  # fmt: skip


def write_scores(
    folder: Path, suffix: str, names: Sequence[str], counts: Tensor, facts: Mapping[str, Any],
    class_names: Sequence[str],
    confidence: Sequence[Confidence] | None = None,
) -> tuple[Scores, list[Scores]]:
    """Write metrics.json, per_class.csv and per_image.csv (`suffix` added to the names).

    counts: [N, C, C + 7] of the images `names`, see `ImageResult`. confidence: of each, if asked for.
    Returns the scores of all and of each.
    """
    num_classes = len(class_names)
    overall, *per_image = (
        scores(one[:, :num_classes], class_names, one[:, num_classes:]) for one in (counts.sum(0), *counts)
    )
    values = overall.as_dict()
    confusion = counts.sum(0)[:, :num_classes].tolist()
    content = {**values, "num_images": len(names), "confusion": confusion, **facts}
    write_json(folder / f"metrics{suffix}.json", content)
    per_class = [(name, *(values["classes"][name][key] for key in PER_CLASS)) for name in class_names]
    write_csv(folder / f"per_class{suffix}.csv", ("class", *PER_CLASS), per_class)
    lines = []
    for i, one in enumerate(one.as_dict() for one in per_image):
        ious = (one["classes"][class_name]["iou"] for class_name in class_names)
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
    title: str, about: str, classes: Sequence[SegClass], names: Sequence[str], results: Sequence[ImageResult | None],
    *, overall: Scores | None, per_image: Sequence[Scores], confusion: Tensor, pictures: bool, facts: Mapping[str, Any],
    confidence: Sequence[Confidence] | None = None, reliability: Path | None = None,
) -> dict[str, Any]:
    """What the page shows, as plain values.

    results: of the images `names`; None if they are missing. overall, per_image: None and () for a split without
    labels. pictures: whether full images are next to the page. confidence: of each image; None if it was not asked for.
    reliability: the diagram, if there is one.
    """  # fmt: skip
    values = overall.as_dict() if overall else {"classes": {}}
    by_image: list[dict[str, Any] | None] = [*(one.as_dict() for one in per_image)] or [None] * len(names)
    by_score = sorted(range(len(names)), key=lambda i: (by_image[i] or {}).get("mean_iou") or 0.0)
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
        "confusion": confusion.tolist(),
        "reliability": reliability and embedded("png", reliability.read_bytes()),
        "images": [
            {**_image_data(name, result, scored, embed=i in pictured), "confidence": confidence and confidence[i].mean}
            for i, (name, result, scored) in enumerate(zip(names, results, by_image, strict=True))
        ],
    }


def embedded(kind: str, content: bytes) -> str:
    """A picture as text that a page can hold."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _image_data(name: str, result: ImageResult | None, scored: dict[str, Any] | None, *, embed: bool) -> dict[str, Any]:
    scores_of = scored or {"classes": {}}
    return {
        "name": escape(name),
        "file": quote(name, errors="surrogateescape"),
        "size": result.size if result else (2, 1),
        "photo": embedded("jpeg", result.photo) if result and embed else None,
        "map": embedded("png", result.maps) if result and embed else None,
        "iou": scores_of.get("mean_iou"),
        "boundary_iou": scores_of.get("mean_boundary_iou"),
        "accuracy": scores_of.get("pixel_accuracy"),
        "by_class": [one["iou"] for one in scores_of["classes"].values()],
    }
