"""Class tables that come with the data, as JSON: classes.json of a folder of one's own, and what is common to all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets.specs.spec import COLORS, EITHER, IDS, Color, DatasetSpec, Frames, Layout, SegClass
from utils.text import escape

# Train ids are bytes; 255 is "no class", and 254 marks unknown values while a file is read.
MOST_CLASSES = 254
LARGEST_ID = 65535  # of a 16-bit file
CLASSES_FILE = "classes.json"
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
# Without lists every fifth image, sorted by name, is held out for validation; fold k starts at the k-th.
VAL_EVERY = 5


def read_table(path: Path, key: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The whole table, and its list of classes, under `key`. Raises ValueError naming the file if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}).") from error
    entries = content.get(key) if isinstance(content, dict) else None
    is_list = isinstance(entries, list) and bool(entries) and all(isinstance(entry, dict) for entry in entries)
    require(is_list, f'{path}: expected {{"{key}": [...]}}, a list of classes like {{"name": …, "color": …}}.')
    return content, entries  # type: ignore[return-value]


def read_color(value: Any, where: str) -> Color:
    """`[64, 32, 32]` or `"#402020"` -> (64, 32, 32). Raises ValueError that begins with `where`."""
    try:
        red, green, blue = bytes.fromhex(value.removeprefix("#")) if isinstance(value, str) else bytes(list(value))
        return red, green, blue
    except (TypeError, ValueError):
        told = f'a colour must be [red, green, blue] from 0 to 255, or "#rrggbb"; got {value!r}'
        raise ValueError(f"{where}: {told}.") from None


def check_classes(classes: Sequence[SegClass], path: Path) -> None:
    """Raises ValueError naming the file if there are no classes, too many, or two with the same name."""
    require(0 < len(classes) <= MOST_CLASSES, f"{path}: {len(classes)} classes; expected 1 to {MOST_CLASSES} classes.")
    check_distinct([c.name for c in classes], path, "name")


def check_distinct(values: Sequence[object], path: Path, what: str) -> None:
    """Raises ValueError naming the file and the first value that occurs twice."""
    seen: set[object] = set()
    for value in values:
        require(value not in seen, f"{path}: the {what} {value!r} belongs to two classes.")
        seen.add(value)


def require(condition: bool, message: str) -> None:
    """Raises ValueError with `message` unless `condition`."""
    if not condition:
        raise ValueError(message)


def read_spec(root: Path, table: Path | None = None) -> DatasetSpec:
    """The data set in `root`, as its classes.json describes it, or a file `table` of that format.

    Raises FileNotFoundError if classes.json or one of the lists is missing, ValueError naming what is wrong in it.
    """
    path = table or root / CLASSES_FILE
    if not path.is_file():
        raise FileNotFoundError(f"no {path}, which defines what the labels mean. PREPARE_DATASETS.md shows its format.")
    content, entries = read_table(path, "classes")
    found = [_read_class(entry, number, f"{path}, class {number + 1}") for number, entry in enumerate(entries)]
    classes = tuple(seg_class for seg_class, ignored in found if not ignored)
    nothing = [seg_class for seg_class, ignored in found if ignored]
    ignored_colors = tuple(dict.fromkeys(color for c in nothing for color in c.label_colors))
    ignored_ids = tuple(i for c in nothing for i in c.label_ids)
    check_classes(classes, path)
    check_distinct([i for c, _ in found for i in c.label_ids], path, "id")
    check_distinct([c.color for c in classes], path, "colour")
    ignore_label, masks = content.get("ignore_label"), content.get("masks")
    require(masks in (None, IDS, COLORS), f'{path}: "masks" must be "ids" or "colors", got {masks!r}.')
    masks = masks or EITHER
    if masks != IDS:
        # Ignored classes may share a colour: void is black in many sets, whatever its value.
        told_apart = [color for c in classes for color in dict.fromkeys(c.label_colors)]
        check_distinct([*told_apart, *ignored_colors], path, "colour in masks")
    if ignore_label is not None:
        require(_is_id(ignore_label), f'{path}: "ignore_label" must be 0 to {LARGEST_ID}, got {ignore_label!r}.')
        owner = next((c.name for c in classes if ignore_label in c.label_ids), None)
        require(owner is None, f'{path}: "ignore_label" {ignore_label} is also an id of class {owner}.')
        ignored_ids = (*ignored_ids, ignore_label)

    lists = [split for split in ("train", "val", "test") if (root / f"{split}.txt").is_file()]
    if lists and not {"train", "val"} <= set(lists):
        raise FileNotFoundError(f"{root}: there is {lists[0]}.txt; add train.txt and val.txt, or remove all lists.")
    layout = Layout("images", "labels", PHOTO_SUFFIXES, masks=masks, list_file="{folder}.txt" if lists else None)
    return DatasetSpec(
        name="folder",
        title=escape(content.get("title") or root.resolve().name),
        classes=classes,
        layouts=(layout,),
        splits={split: (split,) for split in lists} | {"trainval": ("train", "val") if lists else ("",)},
        ignored_ids=ignored_ids,
        ignored_colors=ignored_colors,
        val_every=0 if lists else VAL_EVERY,
        default_fold=None if lists else 0,
        video=Frames((Layout("video", image_suffixes=PHOTO_SUFFIXES), layout)),
        propagated=Frames(
            (Layout("propagated/images", "propagated/labels", PHOTO_SUFFIXES, masks=masks),), by_number=False
        ),
    )


def class_table(spec: DatasetSpec) -> dict[str, Any]:
    """The content of a classes.json with which label files of `spec` are read as by it; the inverse of `read_spec`."""
    classes = [
        {"name": c.name, "color": list(c.color), "ids": list(c.label_ids or (train_id,))}
        | ({"label_colors": [list(color) for color in c.label_colors]} if c.label_colors else {})
        for train_id, c in enumerate(spec.classes)
    ]
    ids = list(spec.ignored_ids or (spec.ignore_label,))
    nothing: dict[str, Any] = {"name": "no class", "color": [0, 0, 0], "ids": ids, "ignored": True}
    if spec.ignored_colors:
        nothing["label_colors"] = [list(color) for color in spec.ignored_colors]
    return {"title": spec.title, "classes": [*classes, nothing]}


def _read_class(entry: dict[str, Any], number: int, where: str) -> tuple[SegClass, bool]:
    """One class, and whether it means "no class"."""
    name, ids, ignored = entry.get("name"), entry.get("ids", [entry.get("id", number)]), entry.get("ignored", False)
    require(isinstance(name, str) and bool(name.strip()), f'{where}: needs a "name".')
    where = f"{where} ({name})"
    are_ids = isinstance(ids, list) and bool(ids) and all(map(_is_id, ids))
    require(are_ids, f'{where}: "ids" must be a list of whole numbers from 0 to {LARGEST_ID}; got {ids!r}.')
    require("color" in entry, f'{where}: needs a "color" like [64, 32, 32] or "#402020".')
    color = read_color(entry["color"], where)
    others = entry.get("label_colors", [list(color)])
    require(isinstance(others, list) and bool(others), f'{where}: "label_colors" must be a list, got {others!r}.')
    require(isinstance(ignored, bool), f'{where}: "ignored" must be true or false, got {ignored!r}.')
    return SegClass(str(name), color, tuple(ids), tuple(read_color(value, where) for value in others)), ignored


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST_ID
