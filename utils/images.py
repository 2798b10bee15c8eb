"""Read and write image and label files: OpenCV inside, RGB outside; what cannot be read is an error naming the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from utils import decoding
from utils.decoding import Uint8Array
from utils.files import atomic_path


def write_png(path: Path, pixels: NDArray[np.integer], notes: dict[str, str]) -> None:
    """Write [H, W, 3] RGB or [H, W] as PNG, atomically, with text notes inside."""
    info = PngImagePlugin.PngInfo()
    for key, text in notes.items():
        info.add_text(key, text)
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=info, compress_level=4)


def read_note(path: Path, key: str) -> str | None:
    """A text note of a PNG file written by `write_png`; None if there is none."""
    try:
        # Not Image.open, which refuses very large images; nothing is decoded here.
        with PngImagePlugin.PngImageFile(path) as picture:
            value = picture.info.get(key)
    except (OSError, SyntaxError, ValueError):
        return None
    return value if isinstance(value, str) else None


# Formats that `read_image` can decode. It goes by the content, whatever the suffix; this is for finding image files.
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".jp2", ".gif",
    ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip


def read_image(path: Path | str) -> Uint8Array:
    """An image file as [H, W, 3] uint8 RGB, turned upright; grey, CMYK and 16 bits are converted, alpha is dropped.

    Of several frames or pages it is the first.
    Raises FileNotFoundError, or ValueError if the file is damaged or nothing that can be read.
    """
    return decoding.decode_photo(_read_bytes(path), path)


def read_label_ids(path: Path | str, *, or_colors: bool = False) -> NDArray[np.integer]:
    """A label file of ids as [H, W] integers (uint8 or uint16), values as stored.

    or_colors: one of several channels is read as well, as [H, W, 3] uint8 RGB.
    Raises FileNotFoundError, or ValueError if the file is damaged, has colours instead of ids, or is in a format that
    changes values; so does `read_label_colors`.
    """
    pixels = decoding.decode_values(_read_bytes(path), path)
    if pixels.ndim == 2:
        return pixels
    if not or_colors:
        raise ValueError(
            f"{path}: a label file must have one channel of ids, not {pixels.shape[2]} channels; save it as a grey PNG."
        )
    return _as_rgb(pixels, path)


def read_label_colors(path: Path | str) -> Uint8Array:
    """A label file of colours as [H, W, 3] uint8 RGB, not turned: also of a palette or of greys. Alpha is dropped."""
    return _as_rgb(decoding.decode_values(_read_bytes(path), path, colors=True), path)


def read_palette(path: Path | str) -> list[tuple[int, int, int]]:
    """The RGB colours of a PNG's palette, by index; empty if it has no palette."""
    return decoding.palette(_read_bytes(path))


def image_size(path: Path | str) -> tuple[int, int]:
    """Width and height of an image, turned upright, from its header. Raises the errors of `read_image`."""
    encoded = _read_bytes(path)
    return decoding.size_in_header(encoded) or decoding.decode_photo(encoded, path).shape[1::-1]


def write_image(path: Path, image: NDArray[np.integer]) -> None:
    """Write [H, W, 3] RGB uint8 or [H, W] uint8 or uint16 atomically, in the format of the suffix, one of OpenCV's.

    Raises OSError if the format cannot hold it, or the file cannot be written.
    """
    pixels = image if image.ndim == 2 else image[:, :, ::-1]
    success, encoded = cv2.imencode(path.suffix, np.ascontiguousarray(pixels))
    if not success:
        raise OSError(f"{path}: cannot be encoded as {path.suffix}.")
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def _as_rgb(pixels: NDArray[np.integer], path: Path | str) -> Uint8Array:
    if pixels.dtype == np.uint16:
        high, low = pixels >> 8, pixels & 255
        if low.any() and (low != high).any():  # 8 bits are widened either with zeros or with themselves
            raise ValueError(f"{path}: a colour mask must have 8 bits per channel, but this one uses 16.")
        pixels = high.astype(np.uint8)
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    to_rgb = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}
    if channels not in to_rgb:
        raise ValueError(f"{path}: a colour mask must have three channels, not {channels}.")
    return cv2.cvtColor(pixels, to_rgb[channels])  # type: ignore[return-value]


def _read_bytes(path: Path | str) -> bytes:
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected an image file.")
    try:
        encoded = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"no such file: {path}") from None
    if not encoded:
        raise ValueError(f"{path}: the file is empty.")
    return encoded


IGNORE_COLOR = (0, 0, 0)


def colorize(labels: Uint8Array, palette: Sequence[tuple[int, int, int]]) -> Uint8Array:
    """Train ids [H, W] uint8 -> RGB [H, W, 3] uint8; ids that are not a class become black."""
    table = np.tile(np.array(IGNORE_COLOR, np.uint8), (256, 1))
    table[: len(palette)] = palette
    return table[labels]


def tint(image: Uint8Array, labels: Uint8Array, palette: Sequence[tuple[int, int, int]]) -> Uint8Array:
    """`image` mixed with the colours of `labels`; it is unchanged where there is no class."""
    # uint8 throughout: for a very large image, 8-byte numbers would take all memory.
    mixed = cv2.addWeighted(image, 0.5, colorize(labels, palette), 0.5, 0)
    return np.where((labels < len(palette))[..., None], mixed, image)


def shrink(picture: Uint8Array, largest_side: int, interpolation: int = cv2.INTER_AREA) -> Uint8Array:
    """`picture` [H, W, 3] or [H, W], shrunk if a side is longer than `largest_side` pixels.

    interpolation: OpenCV's constant; labels need one that does not blend pixels.
    """
    factor = largest_side / max(picture.shape[:2])
    if factor >= 1:
        return picture
    size = (max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor)))
    return cv2.resize(picture, size, interpolation=interpolation)  # type: ignore[return-value]


def side_by_side(pictures: Sequence[Uint8Array], gap: int = 6) -> Uint8Array:
    """RGB images of the same height side by side, with a white gap."""
    bar = np.full((pictures[0].shape[0], gap, 3), 255, np.uint8)
    row = [part for picture in pictures for part in (picture, bar)][:-1]
    return np.concatenate(row, axis=1)
