"""The known data sets, by the name that `--dataset` takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from datasets.specs import camvid, cityscapes, folder, kitti, mapillary, streets
from datasets.specs.spec import DatasetSpec

DATASETS: dict[str, DatasetSpec] = {
    "camvid": camvid.SPEC,
    "camvid32": camvid.SPEC_32,
    "cityscapes": cityscapes.SPEC,
    "kitti": kitti.SPEC,
    "mapillary": mapillary.SPEC,
    "streets": streets.SPEC,
}

# Data sets that come with a table of their classes: their declaration is read from it, or compared with it.
READERS: dict[str, Callable[[Path], DatasetSpec]] = {
    "folder": folder.read_spec,
    "mapillary": mapillary.read_spec_1,
    "mapillary2": mapillary.read_spec_2,
}

NAMES = tuple(sorted({*DATASETS, *READERS}))


def dataset_spec(name: str, root: Path | None = None) -> DatasetSpec:
    """The declaration of data set `name`; with its folder `root`, completed or checked by the class table there.

    Raises ValueError, with the known names, for any other; ValueError if only the folder defines the classes and `root`
    is None; and the errors of reading a class table.
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
