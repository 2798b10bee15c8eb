"""Class tables that come with the data, as JSON. Imports nothing heavy."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from datasets.specs.lists import in_capitals_too, read_lines, readings, unicode_forms, without_suffix
from datasets.specs.spec import BY_FRAME_NUMBER, COLORS, EITHER, IDS, Color, DatasetSpec, Frames, Layout, SegClass
from utils.text import counted, escape

# Train ids are bytes; 255 is "no class", and 254 marks unknown values while a file is read.
MOST_CLASSES = 254


def read_table(path: Path, key: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The whole table, and its list of classes, under `key`.

    Raises ValueError naming the file if there is no such list.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}).") from error
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f'{path}: expected {{"{key}": [...]}}, a list of classes like {{"name": …, "color": …}}.')
    return content, entries


def color_of(value: Any, where: str) -> Color:
    """`[64, 32, 32]` or `"#402020"` -> (64, 32, 32). Raises ValueError that begins with `where`."""
    if isinstance(value, str) and len(value) == 7 and value.startswith("#"):
        with suppress(ValueError):  # reported below, like all other wrong colours
            value = list(bytes.fromhex(value[1:]))
    if isinstance(value, list) and len(value) == 3 and all(type(v) is int and 0 <= v <= 255 for v in value):
        return value[0], value[1], value[2]
    raise ValueError(f'{where}: a colour must be [red, green, blue] from 0 to 255, or "#rrggbb"; got {value!r}.')


def check_classes(classes: Sequence[SegClass], path: Path) -> None:
    """Raises ValueError naming the file if there are no classes, too many, or two with the same name."""
    if not 0 < len(classes) <= MOST_CLASSES:
        raise ValueError(f"{path}: {counted(len(classes), 'class', 'es')}; expected 1 to {MOST_CLASSES}.")
    check_distinct([c.name for c in classes], path, "name")


def check_distinct(values: Sequence[object], path: Path, what: str) -> None:
    """Raises ValueError naming the file and the first value that occurs twice."""
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{path}: the {what} {value!r} belongs to two classes.")
        seen.add(value)


CLASSES_FILE = "classes.json"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
LARGEST_ID = 65535  # of a 16-bit file
MASKS = {None: EITHER, "ids": IDS, "colors": COLORS}

# Without lists every fifth image, sorted by name, is held out for validation; fold k starts at the k-th.
VAL_EVERY = 5


def read_spec(root: Path) -> DatasetSpec:
    """The data set that lies in `root`.

    Raises FileNotFoundError if classes.json or one of the lists is missing, ValueError if one is wrong.
    """
    path = root / CLASSES_FILE
    if not path.is_file():
        raise FileNotFoundError(f"no {path}, which defines what the labels mean. PREPARE_DATASETS.md shows its format.")
    return described(path, root)


def described(path: Path, root: Path) -> DatasetSpec:
    """The data set in `root` as the table `path`, a classes.json, describes it; the errors of `read_spec`."""
    content, raw_classes = read_table(path, "classes")
    entries = [_entry(raw, place, f"{path}, class {place + 1}") for place, raw in enumerate(raw_classes)]
    classes = tuple(seg_class for seg_class, ignored in entries if not ignored)
    nothing = [seg_class for seg_class, ignored in entries if ignored]
    ignored_colors = tuple(dict.fromkeys(color for c in nothing for color in c.label_colors))
    check_classes(classes, path)
    check_distinct([i for c, _ in entries for i in c.label_ids], path, "id")
    check_distinct([c.color for c in classes], path, "colour")
    if content.get("masks") not in MASKS:
        raise ValueError(f'{path}: "masks" must be "ids" or "colors", got {content["masks"]!r}.')
    if content.get("masks") != "ids":
        # Ignored classes may share a colour: void is black in many sets, whatever its value.
        told_apart = [color for c in classes for color in dict.fromkeys(c.label_colors)]
        check_distinct([*told_apart, *ignored_colors], path, "colour in masks")
    return _spec(
        root,
        title=escape(content.get("title") or root.resolve().name),
        classes=classes,
        ignored_ids=(*(i for c in nothing for i in c.label_ids), *_ignore_label(content, classes, path)),
        ignored_colors=ignored_colors,
        masks=MASKS[content.get("masks")],
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


def _spec(root: Path, *, masks: str, **described: Any) -> DatasetSpec:
    lists = {split: root / f"{split}.txt" for split in ("train", "val", "test")}
    there = [split for split, path in lists.items() if path.is_file()]
    if there and not {"train", "val"} <= set(there):
        missing = " and ".join(str(lists[split]) for split in ("train", "val") if split not in there)
        raise FileNotFoundError(f"{lists[there[0]]} exists, but not {missing}. Add it, or remove all lists.")
    layout = Layout("images", "labels", IMAGE_SUFFIXES, masks=masks, list_file="{folder}.txt" if there else None)
    splits = {split: (split,) for split in there} | {"trainval": ("train", "val") if there else ("",)}
    return DatasetSpec(
        name="folder",
        layouts=(layout,),
        splits=splits,
        unlabelled=("test",) if "test" in there and not _has_labels(root, lists["test"], layout) else (),
        val_every=0 if there else VAL_EVERY,
        default_fold=None if there else 0,
        video=Frames((Layout("video", image_suffixes=IMAGE_SUFFIXES), layout), BY_FRAME_NUMBER),
        propagated=Frames((Layout("propagated/images", "propagated/labels", IMAGE_SUFFIXES, masks=masks),)),
        **described,
    )


def _entry(raw: dict[str, Any], place: int, where: str) -> tuple[SegClass, bool]:
    """One class, and whether it means "no class"."""
    name, ids = raw.get("name"), raw.get("ids", [raw.get("id", place)])
    if not isinstance(name, str) or not re.search(r"\S", name):
        raise ValueError(f'{where}: needs a "name".')
    where = f"{where} ({name})"
    if type(ids) is int:
        raise ValueError(f'{where}: "ids" is a list: write "ids": [{ids}].')
    if not isinstance(ids, list) or not ids or not all(type(i) is int and 0 <= i <= LARGEST_ID for i in ids):
        raise ValueError(f'{where}: "ids" must be whole numbers from 0 to {LARGEST_ID}, at least one; got {ids!r}.')
    if "color" not in raw:
        raise ValueError(f'{where}: needs a "color" like [64, 32, 32] or "#402020".')
    color = color_of(raw["color"], where)
    others = raw.get("label_colors", [list(color)])
    if not isinstance(others, list) or not others:
        raise ValueError(f'{where}: "label_colors" must be a list of colours, got {others!r}.')
    label_colors = tuple(color_of(value, where) for value in others)
    ignored = raw.get("ignored", False)
    if not isinstance(ignored, bool):
        raise ValueError(f'{where}: "ignored" must be true or false, got {ignored!r}.')
    return SegClass(name, color, tuple(ids), label_colors), ignored


def _ignore_label(content: dict[str, Any], classes: tuple[SegClass, ...], path: Path) -> tuple[int, ...]:
    value = content.get("ignore_label")
    if value is None:
        return ()
    if type(value) is not int or not 0 <= value <= LARGEST_ID:
        raise ValueError(f'{path}: "ignore_label" must be a whole number from 0 to {LARGEST_ID}, got {value!r}.')
    for seg_class in classes:
        if value in seg_class.label_ids:
            raise ValueError(f'{path}: "ignore_label" {value} is also an id of class {seg_class.name}.')
    return (value,)


def _has_labels(root: Path, test_list: Path, layout: Layout) -> bool:
    """Whether any of the listed images has labels; then all of them need some."""
    suffixes = [form for suffix in layout.label_suffixes for form in in_capitals_too(suffix)]
    paths = [path for line in read_lines(test_list) for paths in readings(line, layout, root) for path in paths]
    names = [form for path in paths for name in (path, without_suffix(path, layout)) for form in unicode_forms(name)]
    return any((root / f"{layout.label_dir}/{name}{suffix}").is_file() for name in names for suffix in suffixes)
