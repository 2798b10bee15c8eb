"""Read and write images and label maps: OpenCV inside, RGB outside; damaged files are errors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.files import atomic_path

if TYPE_CHECKING:
    from PIL import Image

# Formats that `read_image` can decode. It goes by the content, whatever the suffix; this is for finding image files.
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".jp2", ".gif",
    ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip

EXIF_ORIENTATION = 0x112
UPRIGHT = 1  # its value in an image that needs no rotation

LARGEST_OF_12_BITS = 4095 >> 8  # as `read_image` returns it from a 16-bit file

Uint8Array = NDArray[np.uint8]

# OpenCV decodes the beginning of a truncated file and fills the rest with grey; a missing end marker reveals it.
_END_MARKERS = {b"\xff\xd8": b"\xff\xd9", b"\x89P": b"IEND\xaeB`\x82"}

_PILLOW_ERRORS = (OSError, SyntaxError, ValueError)  # for a file of unknown format, or a damaged one


def read_image(path: Path | str) -> Uint8Array:
    """An image file as [H, W, 3] uint8 RGB, turned upright by its EXIF orientation; grey and alpha are converted.

    Raises FileNotFoundError, or ValueError if the file is not an image or is truncated.
    """
    return _decode(Path(path), cv2.IMREAD_COLOR_RGB)  # type: ignore[return-value]


def dark_notice(path: Path, image: Uint8Array) -> str | None:
    """A hint if `image`, read from `path`, is nearly black, as 12-bit values are in a 16-bit file; else None."""
    if image.max() > LARGEST_OF_12_BITS:
        return None
    return f"notice: {path} is nearly black; a 12-bit photo in a 16-bit file must be stretched to all 16 bits first"


def read_label_ids(path: Path | str) -> NDArray[np.integer]:
    """A one-channel label file as [H, W] integers (uint8 or uint16), values as stored.

    Raises FileNotFoundError, or ValueError if the file is damaged or has colours instead of ids.
    """
    path = Path(path)
    ids = _as_stored(path)
    if ids.ndim != 2:
        raise ValueError(f"{path}: a label file must have one channel of ids, not {ids.shape[2]} channels.")
    return ids


def read_colors_or_ids(path: Path | str) -> NDArray[np.integer]:
    """A mask that may be either: [H, W] ids from a grey or paletted file, else [H, W, 3] uint8 RGB."""
    path = Path(path)
    pixels = _as_stored(path)
    if pixels.ndim == 2:
        return pixels
    if pixels.dtype != np.uint8:
        raise ValueError(f"{path}: a colour mask must have 8 bits per channel, but this one is {pixels.dtype}.")
    return np.ascontiguousarray(pixels[:, :, 2::-1])


def read_palette(path: Path | str) -> list[tuple[int, int, int]]:
    """The RGB colours of a PNG's palette, by index; empty if it has no palette."""
    try:
        with opened_by_pillow(Path(path)) as picture:
            flat = (picture.getpalette("RGB") or []) if picture.format == "PNG" else []
    except _PILLOW_ERRORS:  # OpenCV reads some files that Pillow does not
        return []
    return list(zip(flat[0::3], flat[1::3], flat[2::3], strict=True))


def exif_orientation(path: Path | str) -> int:
    """The EXIF orientation, 1 to 8, by which `read_image` turns an image upright; also 1 if it has none."""
    path = Path(path)
    try:
        with opened_by_pillow(path) as picture:
            # For a PNG without EXIF data before its pixels, Pillow would decode all of them to look after them.
            if picture.format == "PNG" and b"eXIf" not in path.read_bytes():
                return UPRIGHT
            orientation = picture.getexif().get(EXIF_ORIENTATION, UPRIGHT)
    except _PILLOW_ERRORS:
        return UPRIGHT
    return orientation if orientation in range(1, 9) else UPRIGHT


def write_image(path: Path, image: NDArray[np.integer]) -> None:
    """Write [H, W, 3] RGB uint8 or [H, W] uint8 or uint16 atomically, in the format of the suffix.

    Raises OSError if that is not possible.
    """
    pixels = image if image.ndim == 2 else image[:, :, ::-1]
    success, encoded = cv2.imencode(path.suffix, np.ascontiguousarray(pixels))
    if not success:
        raise OSError(f"{path}: cannot be encoded as {path.suffix}.")
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def opened_by_pillow(path: Path) -> Image.Image:
    """The image, of any size, with its dimensions and metadata but not yet decoded."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # by default, images of more than 179 megapixels are refused as an attack
    return Image.open(path)


def _as_stored(path: Path) -> NDArray[np.integer]:
    """The numbers in the file, [H, W] or [H, W, channels] BGR: palette indices, not colours; grey not stretched."""
    encoded = _read_bytes(path)
    if encoded[:2] != b"\x89P":
        return _decode(path, cv2.IMREAD_UNCHANGED, encoded)
    bits, color_type = encoded[24:25], encoded[25:26]
    if color_type == b"\x03":  # palette; OpenCV would give its colours
        return _palette_indices(path)
    pixels = _decode(path, cv2.IMREAD_UNCHANGED, encoded)
    if color_type == b"\x00" and bits in (b"\x01", b"\x02", b"\x04"):
        return pixels // (255 // (2 ** bits[0] - 1))  # OpenCV stretches grey levels of fewer than 8 bits to 0 … 255
    return pixels


def _palette_indices(path: Path) -> Uint8Array:
    from PIL import UnidentifiedImageError

    try:
        with opened_by_pillow(path) as picture:
            return np.array(picture)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path}: cannot be decoded ({error}).") from error


def _check_complete(path: Path) -> None:
    # Cameras and editors may append data after the end marker, so a different ending alone proves nothing.
    from PIL import UnidentifiedImageError

    try:
        with opened_by_pillow(path) as picture:
            picture.load()
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path}: the image is truncated or damaged ({error}); copy or download it again.") from error


def _read_bytes(path: Path) -> bytes:
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected an image file.")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"no such file: {path}") from None


def _decode(path: Path, flags: int, encoded: bytes | None = None) -> NDArray[np.integer]:
    encoded = _read_bytes(path) if encoded is None else encoded
    if not encoded:
        raise ValueError(f"{path}: the file is empty.")
    marker = _END_MARKERS.get(encoded[:2])
    if marker is not None and not encoded.endswith(marker):
        _check_complete(path)
    try:
        pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    except cv2.error as error:
        raise ValueError(f"{path}: cannot be decoded ({error.err}).") from error
    if pixels is None:
        raise ValueError(f"{path}: not an image, or damaged.")
    return pixels  # type: ignore[return-value]
