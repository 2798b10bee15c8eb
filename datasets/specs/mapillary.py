"""Mapillary Vistas (Neuhold et al., ICCV 2017), images of many sizes.

1.1 and 1.2 have 65 evaluated classes, 2.0 has 123. Their classes are in tables of the format that comes with the data.
That of 1.x is part of this project; that of 2.0 is read from the data set's folder, and a checkpoint stores the classes
that it was trained on.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets.specs.class_table import check_classes, read_color, read_table, require
from datasets.specs.spec import DatasetSpec, Layout, SegClass

CONFIG_2 = "config_v2.0.json"


def read_config(path: Path) -> dict[str, Any]:
    """`classes`, `ignored_ids` and `ignored_colors` of a config file; an id is the position in the file's list.

    Raises ValueError naming what is wrong in it.
    """
    classes: list[SegClass] = []
    ignored: list[SegClass] = []
    for label_id, label in enumerate(read_table(path, "labels")[1]):
        where = f"{path}, label {label_id}"
        is_class = isinstance(label.get("readable"), str) and isinstance(label.get("evaluate"), bool)
        require(is_class, f'{where}: needs "readable", a name, and "evaluate", true or false.')
        seg_class = SegClass(label["readable"], read_color(label.get("color"), where), (label_id,))
        (classes if label["evaluate"] else ignored).append(seg_class)
    check_classes(classes, path)
    return {
        "classes": tuple(classes),
        "ignored_ids": tuple(i for c in ignored for i in c.label_ids),
        "ignored_colors": tuple(c.color for c in ignored),
    }


MAPILLARY = DatasetSpec(
    name="mapillary",
    title="Mapillary Vistas 1.x",
    # As the archives of 1.1, and as those of 1.2, which come with 2.0, unpack.
    layouts=(Layout("{folder}/images", "{folder}/labels"), Layout("{folder}/images", "{folder}/v1.2/labels")),
    splits={
        "train": ("training",),
        "val": ("validation",),
        "trainval": ("training", "validation"),
        "test": ("testing",),
    },
    unlabelled=("test",),
    num_images={"train": 18000, "val": 2000, "trainval": 20000, "test": 5000},
    **read_config(Path(__file__).with_name("mapillary_v1.json")),
)


def read_mapillary_2(root: Path) -> DatasetSpec:
    """The data set 2.0 in `root`, with the classes that its config file marks as evaluated.

    Raises FileNotFoundError if that file is missing, ValueError naming what is wrong in it.
    """
    path = root / CONFIG_2
    if not path.is_file():
        raise FileNotFoundError(f"no {path}, which defines the labels of Mapillary Vistas 2.0. Copy it there.")
    table, layout = read_config(path), Layout("{folder}/images", "{folder}/v2.0/labels")
    return replace(MAPILLARY, name="mapillary2", title="Mapillary Vistas 2.0", layouts=(layout,), **table)
