"""Pictures of a prediction: colour mask with legend, overlay, label ids. One set per input, nothing overwritten."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from datasets.spec import IGNORE_LABEL, Color, SegClass, written_ids
from inference.legend import ClassShare, class_shares, with_legend
from utils.files import atomic_path
from utils.images import Uint8Array
from utils.pictures import blend, colorize

OVERLAY_STRENGTH = 0.5
KINDS = ("color", "overlay", "ids")

# Notes inside the PNG files: which input a result is of, and how much of it is the mask, the rest being legend.
SOURCE_NOTE = "kerbline-source"
MASK_SIZE_NOTE = "kerbline-mask-size"


@dataclass(frozen=True)
class ResultPaths:
    """Where the pictures of one input go: colour mask with legend, overlay on the photo, label ids."""

    color: Path
    overlay: Path
    ids: Path

    def all(self) -> tuple[Path, Path, Path]:
        """The three of them."""
        return self.color, self.overlay, self.ids


def result_paths(folder: Path, name: str, source: Path) -> ResultPaths:
    """Paths below `folder` for input `source`, called <name>_color.png and so on.

    A result of the same input may be replaced; where any other file has such a name, -2, -3, ... is added to it.
    """
    number = 1
    while True:
        numbered = name if number == 1 else f"{name}-{number}"
        paths = ResultPaths(*(folder / f"{numbered}_{kind}.png" for kind in KINDS))
        if all(not path.exists() or read_note(path, SOURCE_NOTE) == _source_id(source) for path in paths.all()):
            return paths
        number += 1


def result_names(images: Sequence[Path], folder: Path) -> list[str]:
    """A distinct name for the results of each of `images`, all below `folder`: the path there without its suffix.

    Where two would share it (a.jpg, a.png), the suffix is kept: a_jpg, a_png.
    """
    relative = [image.relative_to(folder) for image in images]
    # Lower case: Windows and macOS hold A.png and a.png to be the same.
    plain = [path.with_suffix("").as_posix() for path in relative]
    lowered = [name.lower() for name in plain]
    names: list[str] = []
    taken = {name for name in lowered if lowered.count(name) == 1}
    for name, low, path in zip(plain, lowered, relative, strict=True):
        if lowered.count(low) > 1:
            stem = name = f"{name}_{path.suffix[1:]}"
            number = 2
            while name.lower() in taken:
                name, number = f"{stem}-{number}", number + 1
            taken.add(name.lower())
        names.append(name)
    return names


def write_results(
    paths: ResultPaths, image: Uint8Array, labels: Uint8Array, classes: Sequence[SegClass], source: Path
) -> list[ClassShare]:
    """Write all pictures of one input and return the shares of its classes, the largest first.

    image: [H, W, 3] RGB. labels: [H, W] train ids.
    """
    mask = colorize(labels, palette(classes))
    shares = class_shares(labels, classes)
    height, width = labels.shape
    note = {SOURCE_NOTE: _source_id(source)}
    write_png(paths.color, with_legend(mask, shares), {**note, MASK_SIZE_NOTE: f"{width}x{height}"})
    write_png(paths.overlay, overlay(image, labels, classes), note)
    write_png(paths.ids, label_id_map(labels, classes), note)
    return shares


def label_id_map(labels: Uint8Array, classes: Sequence[SegClass]) -> NDArray[np.integer]:
    """Train ids [H, W] as the values that the data set's label files hold: uint8, uint16 where they need it."""
    ids = written_ids(classes)
    table: NDArray[np.integer] = np.full(256, IGNORE_LABEL, np.uint16 if max(ids) > IGNORE_LABEL else np.uint8)
    table[: len(classes)] = ids
    return table[labels]


def overlay(image: Uint8Array, labels: Uint8Array, classes: Sequence[SegClass]) -> Uint8Array:
    """The photo [H, W, 3] tinted by the class colours, with light lines where train ids `labels` [H, W] meet."""
    tinted = blend(image, labels, palette(classes), OVERLAY_STRENGTH)
    lines = class_borders(labels)
    tinted[lines] = (0.35 * tinted[lines] + 0.65 * 255).astype(np.uint8)
    return tinted


def class_borders(labels: Uint8Array) -> NDArray[np.bool_]:
    """[H, W], true where train ids [H, W] change; lines of 1 pixel, thicker in large pictures."""
    borders = np.zeros(labels.shape, np.uint8)
    borders[:-1] |= labels[:-1] != labels[1:]
    borders[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    thickness = max(1, round((borders.size**0.5) / 700))
    return cv2.dilate(borders, np.ones((thickness, thickness), np.uint8)).astype(bool)


def palette(classes: Sequence[SegClass]) -> list[Color]:
    """RGB colours in train id order."""
    return [seg_class.color for seg_class in classes]


def write_png(path: Path, pixels: NDArray[np.integer], notes: dict[str, str]) -> None:
    """Write [H, W, 3] RGB or [H, W] as PNG, atomically, with text notes inside."""
    info = PngImagePlugin.PngInfo()
    for key, text in notes.items():
        info.add_text(key, text)
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=info, compress_level=4)


def read_note(path: Path, key: str) -> str | None:
    """A text note of a PNG file of ours; None where there is none."""
    try:
        with Image.open(path) as picture:
            value = picture.info.get(key)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return value if isinstance(value, str) else None


def is_result(path: Path) -> bool:
    """Whether a demo wrote this file."""
    return path.suffix.lower() == ".png" and read_note(path, SOURCE_NOTE) is not None


def _source_id(source: Path) -> str:
    # Tells inputs apart without telling where they lie.
    return hashlib.sha256(str(source.resolve()).encode()).hexdigest()[:16]
