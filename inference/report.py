"""report.html: one file with the scores and small images, for any browser, without network access.

Layout and style are in `page.html`, behaviour in `page.js`; here they get their data. Full images are in the folders
next to the page and are loaded on demand.
"""

from __future__ import annotations

import base64
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from torch import Tensor

from datasets.specs.spec import SegClass
from inference.results import Kept
from utils.files import atomic_path
from utils.metrics import PER_CLASS, Scores
from utils.text import counted, escape

MOST_PICTURES = 1000  # in the page, those with the lowest scores; with more it would open slowly


def write_page(path: Path, data: Mapping[str, Any]) -> None:
    """Write the page that shows `data`, see `page_data`."""
    here = Path(__file__).parent
    # "<" could end the script element, for example in a file name.
    embedded = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    script = (here / "page.js").read_text(encoding="utf-8")
    parts = {"script": script, "title": html.escape(str(data["title"])), "data": embedded}
    page = (here / "page.html").read_text(encoding="utf-8")
    text = re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], page)  # at once: a title may hold such a mark
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def page_data(
    title: str, about: str, classes: Sequence[SegClass], names: Sequence[str], kept: Sequence[Kept | None],
    *, overall: Scores | None, per_image: Sequence[Scores], confusion: Tensor, pictures: bool, facts: Mapping[str, Any],
) -> dict[str, Any]:
    """What the page shows, as plain values.

    kept: the small images of `names`; None if they are missing. overall, per_image: None and () for a split without
    labels. pictures: whether full images are next to the page.
    """  # fmt: skip
    by_score = sorted(range(len(names)), key=lambda i: _short(per_image[i].mean_iou) or 0.0 if per_image else 0.0)
    pictured = set(by_score[:MOST_PICTURES])
    tiles = [("image" if len(names) == 1 else "images", str(len(names)))]
    if overall is not None:
        values = (("mIoU", overall.mean_iou), ("boundary IoU", overall.mean_boundary_iou),
                  ("boundary F", overall.mean_boundary_f), ("pixel accuracy", overall.pixel_accuracy))
        tiles = [*((name, "–" if math.isnan(value) else f"{100 * value:.1f}") for name, value in values), *tiles]
    if "speed" in facts:
        tiles.append(("network busy", f"{100 * facts['speed']['network_share']:.0f} %"))
    per_class = overall.as_dict()["classes"] if overall else {}
    blank = dict.fromkeys(PER_CLASS)
    about += f"; small versions of {counted(len(pictured), 'image')}" if len(pictured) < len(names) else ""
    return {
        "title": title,
        "about": about,
        "labelled": overall is not None,
        "pictures": pictures,
        "tiles": tiles,
        "settings": facts["settings"],
        "classes": [{"name": c.name, "color": c.color, **per_class.get(c.name, blank)} for c in classes],
        "confusion": confusion.tolist(),
        "images": [
            {
                "name": escape(name),
                "file": quote(name, errors="surrogateescape"),
                **_pictures(one, i in pictured),
                **_scores(per_image[i] if per_image else None),
            }
            for i, (name, one) in enumerate(zip(names, kept, strict=True))
        ],
    }


def _pictures(kept: Kept | None, embed: bool) -> dict[str, Any]:
    if kept is None or not embed:
        return {"size": kept.size if kept else (2, 1), "photo": None, "map": None}
    return {"size": kept.size, "photo": _embedded("jpeg", kept.photo), "map": _embedded("png", kept.labels)}


def _scores(scores: Scores | None) -> dict[str, Any]:
    if scores is None:
        return {"iou": None}
    return {
        "iou": _short(scores.mean_iou),
        "boundary_iou": _short(scores.mean_boundary_iou),
        "accuracy": _short(scores.pixel_accuracy),
        "by_class": [_short(value) for value in scores.iou],
    }


def _embedded(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _short(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
