"""Images of what a network is given and what it predicts, in the run folder and in TensorBoard."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from datasets.spec import DatasetSpec
from training.log import RunLog
from utils.images import Uint8Array, write_image
from utils.pictures import colorize, shrunk, side_by_side

NUM_SAMPLES = 4  # images per scoring
NUM_KEPT = 12  # scorings of which they are kept
LARGEST_SAMPLE = 1536  # side of those with labels, in pixels: at 12 megapixels, a long training's would fill a disk


def write_sample(log: RunLog, epoch: int, number: int, picture: Uint8Array) -> None:
    """Write picture [H, W, 3] as sample `number` of what the network does after `epoch` epochs.

    Of each sample the first, the latest and others evenly spread between them are kept, NUM_KEPT in all.
    """
    write_image(log.folder / "samples" / f"epoch{epoch:03d}_{number}.png", picture)
    log.image(f"sample{number}", picture)
    kept = sorted((_epoch_of(path), path) for path in (log.folder / "samples").glob(f"epoch*_{number}.png"))
    while len(kept) > NUM_KEPT:
        _, crowded = min((kept[i + 1][0] - kept[i - 1][0], i) for i in range(1, len(kept) - 1))
        kept.pop(crowded)[1].unlink(missing_ok=True)


def labelled_sample(spec: DatasetSpec, image: Tensor, labels: Tensor, guess: Tensor) -> Uint8Array:
    """Image, truth and prediction side by side. image [3, H, W] uint8; labels, guess [H, W] train ids."""
    return shrunk(_beside_labels(spec, image, labels, guess), LARGEST_SAMPLE)


def write_augmentation(log: RunLog, spec: DatasetSpec, images: Tensor, labels: Tensor) -> None:
    """Write crops [B, 3, H, W] uint8 next to their labels [B, H, W], in the main process only."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        if log.active:
            write_image(log.folder / "augmentation" / f"{number}.png", _beside_labels(spec, image, label))


def as_picture(image: Tensor) -> Uint8Array:
    """[3, H, W] uint8 on any device -> [H, W, 3]."""
    picture: Uint8Array = image.permute(1, 2, 0).contiguous().cpu().numpy()
    return picture


def _epoch_of(path: Path) -> int:
    return int(path.stem.removeprefix("epoch").split("_")[0])


def _beside_labels(spec: DatasetSpec, image: Tensor, *labels: Tensor) -> Uint8Array:
    return side_by_side([as_picture(image), *(colorize(ids.numpy(), spec.palette) for ids in labels)])
