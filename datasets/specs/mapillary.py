"""Mapillary Vistas (Neuhold et al., ICCV 2017), images of many sizes.

1.1 and 1.2 have 65 evaluated classes, 2.0 has 123. The classes of 1.x are declared here. Those of 2.0 are read from the
config file that comes with the data: this project does not declare them, and a checkpoint stores the classes that it
was trained on.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from datasets.specs.class_table import check_classes, read_color, read_table, require
from datasets.specs.spec import DatasetSpec, Layout, SegClass

CONFIG_2 = "config_v2.0.json"
NUM_CLASSES_2 = 123

MAPILLARY_CLASSES = (
    SegClass("Bird", (165, 42, 42)),
    SegClass("Ground Animal", (0, 192, 0)),
    SegClass("Curb", (196, 196, 196)),
    SegClass("Fence", (190, 153, 153)),
    SegClass("Guard Rail", (180, 165, 180)),
    SegClass("Barrier", (90, 120, 150)),
    SegClass("Wall", (102, 102, 156)),
    SegClass("Bike Lane", (128, 64, 255)),
    SegClass("Crosswalk - Plain", (140, 140, 200)),
    SegClass("Curb Cut", (170, 170, 170)),
    SegClass("Parking", (250, 170, 160)),
    SegClass("Pedestrian Area", (96, 96, 96)),
    SegClass("Rail Track", (230, 150, 140)),
    SegClass("Road", (128, 64, 128)),
    SegClass("Service Lane", (110, 110, 110)),
    SegClass("Sidewalk", (244, 35, 232)),
    SegClass("Bridge", (150, 100, 100)),
    SegClass("Building", (70, 70, 70)),
    SegClass("Tunnel", (150, 120, 90)),
    SegClass("Person", (220, 20, 60)),
    SegClass("Bicyclist", (255, 0, 0)),
    SegClass("Motorcyclist", (255, 0, 100)),
    SegClass("Other Rider", (255, 0, 200)),
    SegClass("Lane Marking - Crosswalk", (200, 128, 128)),
    SegClass("Lane Marking - General", (255, 255, 255)),
    SegClass("Mountain", (64, 170, 64)),
    SegClass("Sand", (230, 160, 50)),
    SegClass("Sky", (70, 130, 180)),
    SegClass("Snow", (190, 255, 255)),
    SegClass("Terrain", (152, 251, 152)),
    SegClass("Vegetation", (107, 142, 35)),
    SegClass("Water", (0, 170, 30)),
    SegClass("Banner", (255, 255, 128)),
    SegClass("Bench", (250, 0, 30)),
    SegClass("Bike Rack", (100, 140, 180)),
    SegClass("Billboard", (220, 220, 220)),
    SegClass("Catch Basin", (220, 128, 128)),
    SegClass("CCTV Camera", (222, 40, 40)),
    SegClass("Fire Hydrant", (100, 170, 30)),
    SegClass("Junction Box", (40, 40, 40)),
    SegClass("Mailbox", (33, 33, 33)),
    SegClass("Manhole", (100, 128, 160)),
    SegClass("Phone Booth", (142, 0, 0)),
    SegClass("Pothole", (70, 100, 150)),
    SegClass("Street Light", (210, 170, 100)),
    SegClass("Pole", (153, 153, 153)),
    SegClass("Traffic Sign Frame", (128, 128, 128)),
    SegClass("Utility Pole", (0, 0, 80)),
    SegClass("Traffic Light", (250, 170, 30)),
    SegClass("Traffic Sign (Back)", (192, 192, 192)),
    SegClass("Traffic Sign (Front)", (220, 220, 0)),
    SegClass("Trash Can", (140, 140, 20)),
    SegClass("Bicycle", (119, 11, 32)),
    SegClass("Boat", (150, 0, 255)),
    SegClass("Bus", (0, 60, 100)),
    SegClass("Car", (0, 0, 142)),
    SegClass("Caravan", (0, 0, 90)),
    SegClass("Motorcycle", (0, 0, 230)),
    SegClass("On Rails", (0, 80, 100)),
    SegClass("Other Vehicle", (128, 64, 64)),
    SegClass("Trailer", (0, 0, 110)),
    SegClass("Truck", (0, 0, 70)),
    SegClass("Wheeled Slow", (0, 0, 192)),
    SegClass("Car Mount", (32, 32, 32)),
    SegClass("Ego Vehicle", (120, 10, 10)),
)

MAPILLARY = DatasetSpec(
    name="mapillary",
    title="Mapillary Vistas 1.x",
    classes=MAPILLARY_CLASSES,
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
    ignored_ids=(65,),
    ignored_colors=((0, 0, 0),),
)


def read_mapillary_2(root: Path) -> DatasetSpec:
    """The data set 2.0 in `root`, with the classes that its config file marks as evaluated.

    An id is the position in the file's list. Raises FileNotFoundError if that file is missing, ValueError if it is
    wrong or the number of evaluated classes is not that of 2.0.
    """
    path = root / CONFIG_2
    if not path.is_file():
        raise FileNotFoundError(f"no {path}, which defines the labels of Mapillary Vistas 2.0. Copy it there.")
    classes: list[SegClass] = []
    ignored: list[SegClass] = []
    for label_id, label in enumerate(read_table(path, "labels")[1]):
        where = f"{path}, label {label_id}"
        is_class = isinstance(label.get("readable"), str) and isinstance(label.get("evaluate"), bool)
        require(is_class, f'{where}: needs "readable", a name, and "evaluate", true or false.')
        seg_class = SegClass(label["readable"], read_color(label.get("color"), where), (label_id,))
        (classes if label["evaluate"] else ignored).append(seg_class)
    check_classes(classes, path)
    told = f"{len(classes)} evaluated classes; Mapillary Vistas 2.0 has {NUM_CLASSES_2}"
    require(len(classes) == NUM_CLASSES_2, f"{path}: {told}.")
    return replace(
        MAPILLARY,
        name="mapillary2",
        title="Mapillary Vistas 2.0",
        classes=tuple(classes),
        layouts=(Layout("{folder}/images", "{folder}/v2.0/labels"),),
        ignored_ids=tuple(i for c in ignored for i in c.label_ids),
        ignored_colors=tuple(c.color for c in ignored),
    )
