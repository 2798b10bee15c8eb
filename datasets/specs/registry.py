"""The known data sets, by the name that `--dataset` takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from datasets.specs import class_table
from datasets.specs.camvid import CAMVID, CAMVID32, STREETS
from datasets.specs.cityscapes import CITYSCAPES, KITTI
from datasets.specs.mapillary import MAPILLARY, read_mapillary_2
from datasets.specs.spec import DatasetSpec

DATASETS = {spec.name: spec for spec in (CAMVID, CAMVID32, CITYSCAPES, KITTI, MAPILLARY, STREETS)}

# Data sets whose declaration is read from a table of classes that comes with the data.
READERS: dict[str, Callable[[Path], DatasetSpec]] = {
    "folder": class_table.read_spec,
    "mapillary2": read_mapillary_2,
}

NAMES = tuple(sorted({*DATASETS, *READERS}))


def dataset_spec(name: str, root: Path | None = None) -> DatasetSpec:
    """The declaration of data set `name`; where only its folder defines the classes, from the class table in `root`.

    Raises ValueError for another name, or if `root` is needed and None; and the errors of reading a class table.
    """
    check_name(name)
    if root is not None and name in READERS:
        return READERS[name](root)
    if name not in DATASETS:
        raise ValueError(
            f"--dataset {name}: its classes are defined in its folder; give that with --dataset_dir. "
            "A checkpoint that was trained on it stores them: leave --dataset out."
        )
    return DATASETS[name]


def check_name(name: str) -> None:
    """Raises ValueError, with the known names, unless `name` is one of them."""
    if name not in NAMES:
        raise ValueError(f"--dataset {name!r} is unknown. Choose one of: {', '.join(NAMES)}.")
