"""The known data sets, by the name that `--dataset` takes."""

from datasets import camvid, cityscapes, kitti, mapillary, streets
from datasets.spec import DatasetSpec

DATASETS: dict[str, DatasetSpec] = {
    "camvid": camvid.SPEC,
    "cityscapes": cityscapes.SPEC,
    "kitti": kitti.SPEC,
    "mapillary": mapillary.SPEC,
    "streets": streets.SPEC,
}


def dataset_spec(name: str) -> DatasetSpec:
    """The declaration of data set `name`. Raises ValueError, with the known names, for any other."""
    if name not in DATASETS:
        raise ValueError(f"--dataset {name!r} is unknown. Choose one of: {', '.join(DATASETS)}.")
    return DATASETS[name]
