"""What is kept of each image: the demos' files with notes in them, and an evaluation's counts and pictures.

With both, --resume finds what was made with the same settings by `fingerprint`.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from datasets.legend import counted_shares, pixels_per_class, with_legend
from datasets.specs.spec import IGNORE_LABEL, SegClass, class_colors, written_ids
from inference.visualize import draw_mistakes, highlight, overlay
from utils.files import atomic_path, first_free
from utils.images import Uint8Array, colorize, read_note, shrink, write_image, write_png
from utils.metrics import NUM_COUNTS, ConfusionMatrix, boundary_counts

KINDS = ("color", "overlay", "ids")  # what the demos write of an image
SHARES_TABLE, SHARES_PICTURE = "class_shares.csv", "class_shares.png"  # over the frames of a folder or of a video

# Text notes inside the demos' PNG files: the input of a result, the fingerprint of its settings, the pixels of each
# class, and the size of the mask in it; the rest is legend.
SOURCE_NOTE = "kerbline-source"
SETTINGS_NOTE = "kerbline-settings"
COUNTS_NOTE = "kerbline-pixels"
MASK_SIZE_NOTE = "kerbline-mask-size"

ResultPaths = Mapping[str, Path]  # kind -> file; only these are made


def fingerprint(settings: Any, files: Sequence[Path]) -> str:
    """A hash of plain values and of the identity of files: two results with the same one are the same."""
    stamps = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps([settings, stamps], sort_keys=True).encode()).hexdigest()[:16]


def label_id_map(prediction: Uint8Array, classes: Sequence[SegClass]) -> NDArray[np.integer]:
    """Train ids [H, W] as the values that the data set's label files hold: uint8, or uint16 if they need it."""
    ids = written_ids(classes)
    table: NDArray[np.integer] = np.full(256, IGNORE_LABEL, np.uint16 if max(ids) > IGNORE_LABEL else np.uint8)
    table[: len(classes)] = ids
    return table[prediction]


# The demos' results


def choose_kinds(outputs: str) -> list[str]:
    """The kinds of results that `--outputs` lists. Raises ValueError if it lists none, or others than there are."""
    listed = {kind.strip().lower() for kind in outputs.split(",")} - {""}
    if not listed or listed - set(KINDS):
        raise ValueError(f"--outputs {outputs!r} must list some of: {', '.join(KINDS)}.")
    return [kind for kind in KINDS if kind in listed]


def result_paths(
    folder: Path, images: Sequence[Path], base: Path = Path(), kinds: Sequence[str] = KINDS
) -> list[ResultPaths]:
    """Paths below `folder` for each of `images`, all below `base`: <path there without suffix>_color.png and so on.

    If two would share the name (a.jpg, a.png), the suffix is kept: a_jpg, a_png. A result of the same input may be
    replaced; if any other file has the name of any kind, -2, -3, ... is added to it.
    """
    relative = [image.relative_to(base) for image in images]
    # Lower case: for Windows and macOS A.png and a.png are the same file.
    sharing = Counter(path.with_suffix("").as_posix().lower() for path in relative)
    taken: set[str] = set()
    found: list[ResultPaths] = []
    for image, path in zip(images, relative, strict=True):
        name, source = path.with_suffix("").as_posix(), _source_id(image)

        def is_anothers(name: str, source: str = source) -> bool:
            # Path.exists raises if a name is too long; demo_folder.py reports that.
            files = [Path(f"{folder / name}_{kind}.png") for kind in KINDS]
            there = [file for file in files if os.path.exists(file)]  # noqa: PTH110
            return name.lower() in taken or any(read_note(file, SOURCE_NOTE) != source for file in there)

        name = first_free(name if sharing[name.lower()] == 1 else f"{name}_{path.suffix[1:]}", is_anothers)
        taken.add(name.lower())
        found.append({kind: folder / f"{name}_{kind}.png" for kind in kinds})
    return found


def write_results(
    paths: ResultPaths, image: Uint8Array, prediction: Uint8Array, classes: Sequence[SegClass], source: Path,
    *, wanted: frozenset[int] | None = None, settings: str = "",
) -> list[int]:
    """Write the results of one input that `paths` names, and return the pixels of each class, in train id order.

    image: [H, W, 3] RGB. prediction: [H, W] train ids. wanted: train ids that are shown; None: all. settings: the
    fingerprint of what the results depend on, see `read_counts`.
    """
    counts = pixels_per_class(prediction, len(classes))
    note = {SOURCE_NOTE: _source_id(source), SETTINGS_NOTE: settings, COUNTS_NOTE: " ".join(map(str, counts))}
    if "ids" in paths:
        write_png(paths["ids"], label_id_map(prediction, classes), note)
    if paths.keys() & {"color", "overlay"}:
        shown_image, shown_prediction = highlight(image, prediction, wanted)
    if "color" in paths:
        shares = [share for share in counted_shares(counts, classes) if wanted is None or share.train_id in wanted]
        height, width = prediction.shape
        mask = with_legend(colorize(shown_prediction, class_colors(classes)), shares)
        write_png(paths["color"], mask, {**note, MASK_SIZE_NOTE: f"{width}x{height}"})
    if "overlay" in paths:
        write_png(paths["overlay"], overlay(shown_image, shown_prediction, classes), note)
    return counts


def read_counts(paths: ResultPaths, settings: str) -> list[int] | None:
    """What `write_results` returned with these settings; None if a result is missing or was made with others."""
    if any(read_note(path, SETTINGS_NOTE) != settings for path in paths.values()):
        return None
    return [int(count) for count in (read_note(next(iter(paths.values())), COUNTS_NOTE) or "").split()]


def is_result(path: Path) -> bool:
    """Whether a demo wrote this file."""
    return path.name.endswith((SHARES_TABLE, SHARES_PICTURE)) or (
        path.suffix.lower() == ".png" and read_note(path, SOURCE_NOTE) is not None
    )


def _source_id(source: Path) -> str:
    # Distinguishes inputs without disclosing their paths.
    return hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:16]


# An evaluation's results

SMALL_SIDE = 320  # longer side of the small pictures, in pixels
JPEG_QUALITY = 80
PICTURES = ("pred", "rgb", "maps", "compose", "diff")  # folders of the files written for each image


@dataclass(frozen=True)
class ImageResult:
    """Of one evaluated image.

    counts: [C, C + 7] int64, its confusion matrix and the counts at borders; 0 without labels. size: (width, height).
    photo: small JPEG. maps: small PNG, see `map_channels`.
    """

    counts: NDArray[np.int64]
    size: tuple[int, int]
    photo: bytes
    maps: bytes

    def save(self, folder: Path, name: str, settings: str) -> None:
        """Write the result of the image `name`, with the fingerprint of its settings."""
        photo, maps = (np.frombuffer(picture, np.uint8) for picture in (self.photo, self.maps))
        with atomic_path(folder / "counts" / f"{name}.npz") as temporary:
            np.savez(temporary, counts=self.counts, size=self.size, fingerprint=settings, photo=photo, maps=maps)

    @classmethod
    def load(cls, folder: Path, name: str, settings: str) -> ImageResult | None:
        """What `save` wrote; None if the file is missing, damaged, or of other settings."""
        try:
            with np.load(folder / "counts" / f"{name}.npz") as file:
                if str(file["fingerprint"]) != settings:
                    return None
                width, height = file["size"].tolist()
                return cls(file["counts"], (width, height), file["photo"].tobytes(), file["maps"].tobytes())
        except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error):
            return None


def evaluate_image(
    image: Uint8Array, labels: Uint8Array | None, prediction: Uint8Array, num_classes: int
) -> ImageResult:
    """The result of an image [H, W, 3] from train ids [H, W]; without counts if there are no labels."""
    counts = np.zeros((num_classes, num_classes + NUM_COUNTS), np.int64)
    if labels is not None:
        confusion = ConfusionMatrix(num_classes, IGNORE_LABEL)
        confusion.update(torch.from_numpy(labels), torch.from_numpy(prediction))
        counts[:, :num_classes] = confusion.matrix.numpy()
        counts[:, num_classes:] = boundary_counts(labels, prediction, num_classes, IGNORE_LABEL)
    photo = cv2.cvtColor(shrink(image, SMALL_SIDE), cv2.COLOR_RGB2BGR)
    maps = shrink(map_channels(labels, prediction), SMALL_SIDE, cv2.INTER_NEAREST)
    jpeg = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    png = cv2.imencode(".png", cv2.cvtColor(maps, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 9])[1]
    return ImageResult(counts, (image.shape[1], image.shape[0]), jpeg.tobytes(), png.tobytes())


def map_channels(labels: Uint8Array | None, prediction: Uint8Array) -> Uint8Array:
    """Three maps in one image [H, W, 3]: red the predicted train ids, green the true ones, blue 255 where wrong."""
    labels = np.full_like(prediction, IGNORE_LABEL) if labels is None else labels
    wrong = np.where((labels != prediction) & (labels != IGNORE_LABEL), 255, 0).astype(np.uint8)
    return np.stack([prediction, labels, wrong], axis=2)


def picture_paths(folder: Path, name: str, kinds: Sequence[str] = PICTURES) -> dict[str, Path]:
    """Where the pictures of an evaluated image go."""
    return {kind: folder / kind / f"{name}.png" for kind in kinds}


def write_pictures(
    paths: Mapping[str, Path], image: Uint8Array, labels: Uint8Array | None, prediction: Uint8Array,
    classes: Sequence[SegClass],
) -> None:
    """Write those pictures of an evaluated image that `paths` names.

    pred: the label ids that benchmark servers expect; rgb: the photo [H, W, 3]; maps: train ids for the page, see
    `map_channels`; compose: the overlay; diff: the mistakes.
    """
    draw: dict[str, Callable[[], NDArray[np.integer]]] = {
        "pred": lambda: label_id_map(prediction, classes),
        "rgb": lambda: image,
        "maps": lambda: map_channels(labels, prediction),
        "compose": lambda: overlay(image, prediction, classes),
        "diff": lambda: draw_mistakes(image, map_channels(labels, prediction)[..., 1], prediction, classes),
    }
    for kind, path in paths.items():
        write_image(path, draw[kind]())
