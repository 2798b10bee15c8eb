"""From the bytes of an image file to pixels. What cannot be decoded is an error that names the file and says why.

Decoders pass over damage, or print a line that names no file: so check sums are compared here, and nothing is printed.
"""

from __future__ import annotations

import ctypes
import io
import logging
import os
import re
import warnings
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError, _imaging

try:  # half of OpenCV's time for a PNG; everything works without
    from isal import isal_zlib
    from kornia_rs.io import decode_image_png_u8
except ImportError:
    isal_zlib = None  # type: ignore[assignment]

Uint8Array = NDArray[np.uint8]

PNG, JPEG, TIFF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
LIMIT = "OPENCV_IO_MAX_IMAGE_PIXELS"  # the environment variable that OpenCV reads
MOST_PIXELS = int(text) if (text := os.environ.get(LIMIT, "")).isdecimal() else 1 << 30
MOST_ON_A_SIDE = 1 << 20  # pixels; OpenCV's limit
GIF_PIXELS = 4096  # a byte can hold at most: more than a code of its compression stands for

DAMAGED = "the image is truncated or damaged ({}); copy or download it again"
UNSUPPORTED = "this kind of {} cannot be read; save it as JPEG or PNG of 8 bits"

_UNDOING = {6: 8, 8: 6}  # the orientation that undoes one; the others undo themselves

_NOT_EXACT = (
    "is {}: values are not exact. Save label files as PNG from their source; converting this file does not bring the "
    "values back"
)
# What the JPEG library warns of before the pixels; cameras of several makers write such headers.
_HARMLESS = "Invalid SOS|JFIF revision|Adobe color transform|extraneous bytes before marker 0x(c[0-24]|d[a-d]|[ef])"
# Formats that change values, by what is in them: lossy WebP has no VP8L data, lossy JPEG 2000 the wavelet 0.
_LOSSY = (
    (rb"\xff\xd8", "a JPEG"),
    (rb"(\xff\x4f\xff\x51|....jP  )((?!\xff\x90).)*?\xff\x52.{11}\0", "a JPEG 2000"),
    (rb"RIFF....WEBP(?!.*VP8L)", "a lossy WebP"),
    (rb"....ftyp.{0,60}avi[fs]", "an AVIF"),
    (rb"....ftyp.{0,60}he[iv][cxms]", "a HEIC"),
)
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_COLOR_TYPE = 17  # its place in the chunk IHDR; it is one of:
_GREY, _RGB, _PALETTE = 0, 2, 3
# What OpenCV can decode of TIFF; where it cannot, it leaves black. As Pillow calls them; None: it tells nothing.
_EXACT_TIFF = {None, "raw", "tiff_ccitt", "group3", "group4", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate",
               "packbits", "tiff_raw_16", "tiff_thunderscan"}  # fmt: skip

warnings.filterwarnings("ignore", module=r"PIL\.")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
logging.getLogger("PIL").setLevel(logging.CRITICAL)
with suppress(AttributeError, OSError):  # libtiff prints what Pillow also raises; some builds do not tell where it is
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


def decode_photo(encoded: bytes, name: Path | str) -> Uint8Array:
    """[H, W, 3] uint8 RGB, upright, of the first frame or page; grey, CMYK, alpha and 16 bits are converted.

    Raises ValueError that begins with `name`.
    """
    if encoded.startswith(JPEG):
        pixels = _decode_jpeg(encoded, name)
    else:
        pixels = _decode(encoded, name, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if encoded.startswith(TIFF):  # OpenCV has turned it, whatever the flags say
        return pixels
    return _turn(pixels, orientation(encoded))


def decode_values(encoded: bytes, name: Path | str, *, colors: bool = False) -> NDArray[np.integer]:
    """The values in a label file, not turned: [H, W], or [H, W, channels] BGR; uint8 or uint16.

    A PNG with a palette gives its indices or, with `colors`, its colours; grey of fewer than 8 bits gives its levels
    or, with `colors`, what they look like, 0 to 255.
    Raises ValueError that begins with `name`, also for formats that do not keep values exact.
    """
    if lossy := next((kind for pattern, kind in _LOSSY if re.match(pattern, encoded, re.DOTALL)), None):
        raise ValueError(f"{name}: {_NOT_EXACT.format(lossy)}.")
    pixels = _decode(encoded, name, cv2.IMREAD_UNCHANGED, indices=not colors, exact=True)
    if encoded.startswith(TIFF):  # which OpenCV has turned
        pixels = _turn(pixels, _UNDOING.get(stored := orientation(encoded), stored))
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{name}: label files have 8 or 16 bits per value, but this one is {pixels.dtype}.")
    bits = encoded[24] if encoded.startswith(PNG) else 8
    if pixels.ndim == 2 and bits < 8 and not colors:
        return pixels // (255 // (2**bits - 1))  # OpenCV stretches grey levels of fewer than 8 bits to 0 … 255
    return pixels


def palette(encoded: bytes) -> list[tuple[int, int, int]]:
    """The RGB colours of a PNG's palette, by index; empty for any other image."""
    flat = next((bytes(chunk[8:-4]) for kind, chunk in _png_chunks(encoded) if kind == b"PLTE"), b"")
    return list(zip(flat[0::3], flat[1::3], flat[2::3], strict=False))


def orientation(encoded: bytes) -> int:
    """How an image is stored, as EXIF numbers it, 1 to 8: by its EXIF data or AVIF's own `irot` and `imir`; else 1."""
    # Most files have none, and for a PNG Pillow would then decode the pixels to look behind them. A search for several
    # words takes a quarter of the time of decoding; for one, hardly any.
    if encoded.startswith(PNG):
        has_tags = any(kind == b"eXIf" for kind, _ in _png_chunks(encoded))
    else:
        has_tags = (b"Exif\0" if encoded.startswith(JPEG) else b"EXIF") in encoded
    if not (has_tags or encoded[4:8] == b"ftyp" or encoded.startswith(TIFF)):
        return 1
    try:
        with _opened(encoded) as picture:
            found = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow's parsers raise almost anything for damaged metadata
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def size_in_header(encoded: bytes) -> tuple[int, int] | None:
    """Width and height, turned upright, of an image whose header Pillow can read; else None."""
    try:
        with _opened(encoded) as picture:
            width, height = picture.size
    except Exception:  # as above
        return None
    is_turned = orientation(encoded) > 4 and not encoded.startswith(TIFF)  # of which Pillow tells the upright size
    return (height, width) if is_turned else (width, height)


def _opened(encoded: bytes) -> Image.Image:
    Image.MAX_IMAGE_PIXELS = None  # by default, images of more than 179 megapixels are refused as an attack
    return Image.open(io.BytesIO(encoded))


def _turn(pixels: NDArray[Any], stored: int) -> NDArray[Any]:
    if stored >= 5:
        pixels = cv2.transpose(pixels)
    if stored in (2, 3, 6, 7):
        pixels = cv2.flip(pixels, 1)
    if stored in (3, 4, 7, 8):
        pixels = cv2.flip(pixels, 0)
    return pixels


def _decode(
    encoded: bytes, name: Path | str, flags: int, *, indices: bool = False, exact: bool = False
) -> NDArray[Any]:
    """What OpenCV makes of it. indices: those of a PNG with a palette, not its colours. exact: refuse lossy TIFF."""
    source = _sound_png(encoded, name, indices=indices) if encoded.startswith(PNG) else encoded
    if source.startswith(PNG) and (plain := _decode_plain_png(source, flags)) is not None:
        return plain
    # Of others, decoders learn too late that there are too many pixels: when they have made room for them.
    size = None if source.startswith(PNG) else size_in_header(encoded)
    if size and (size[0] * size[1] > MOST_PIXELS or max(size) > MOST_ON_A_SIDE):
        raise _too_large(name, size)
    if size and encoded.startswith(b"GIF8") and size[0] * size[1] > GIF_PIXELS * len(encoded):
        told = f"{len(encoded)} bytes cannot hold {size[0]}x{size[1]} pixels"
        raise ValueError(f"{name}: {DAMAGED.format(told)}.")
    try:
        pixels = cv2.imdecode(np.frombuffer(source, np.uint8), flags)
    except cv2.error as error:
        if "CV_IO_MAX_IMAGE" in error.err:
            raise _too_large(name, size_in_header(encoded)) from error
        raise ValueError(f"{name}: cannot be decoded ({error.err}).") from error
    if encoded.startswith(TIFF) and (problem := _problem_of_tiff(encoded, exact=exact)):
        raise ValueError(f"{name}: {problem}.")
    if pixels is None:
        raise ValueError(f"{name}: {_why_not(encoded)}.")
    return pixels


def _decode_jpeg(encoded: bytes, name: Path | str) -> NDArray[Any]:
    """The values of OpenCV, from the same C library; but what is a warning there, of damage, is an error here."""
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(encoded)
        if height * width <= MOST_PIXELS:
            return simplejpeg.decode_jpeg(encoded, "RGB")
    except ValueError as error:
        text = str(error)
        surplus = re.search(r"(\d+) extraneous bytes before marker 0xd9", text)
        if surplus and encoded[: encoded.rfind(b"\xff\xd9")].endswith(bytes(int(surplus[1]))):
            return simplejpeg.decode_jpeg(encoded, "RGB", strict=False)  # zeros that a camera filled up with
        is_complete = encoded.rfind(b"\xff\xd9") > encoded.rfind(b"\xff\xda")  # the end, after the pixels' beginning
        with suppress(Exception):
            if "subsampling" in text or (is_complete and re.search(_HARMLESS, text)):  # Pillow knows more kinds
                with _opened(encoded) as picture:
                    return np.array(picture.convert("RGB"))
        raise ValueError(f"{name}: {DAMAGED.format(text)}.") from error
    except MemoryError as error:
        raise ValueError(f"{name}: cannot be decoded (out of memory).") from error
    raise _too_large(name, (width, height))


def _problem_of_tiff(encoded: bytes, *, exact: bool) -> str | None:
    """Why OpenCV should not read a TIFF, which passes over damage and what it cannot decode; of kinds Pillow reads."""
    try:
        with _opened(encoded) as picture:
            compression = picture.info.get("compression")
            if exact and compression in ("jpeg", "tiff_jpeg", "tiff_sgilog", "tiff_sgilog24"):
                return _NOT_EXACT.format("a TIFF of lossy compression")
            if compression not in (*_EXACT_TIFF, "jpeg", "tiff_jpeg"):
                return UNSUPPORTED.format(f"TIFF, compression {compression},")
            picture.load()
    except UnidentifiedImageError:  # a kind that Pillow cannot read, as of 16 bits and colours
        return None
    except Exception:  # Pillow's parsers raise almost anything for damaged data
        return DAMAGED.format("it cannot be decoded")
    return None


def _png_chunks(encoded: bytes) -> list[tuple[bytes, memoryview]]:
    """The chunks of a PNG that are there in full, up to the last one, IEND: type, and all of its bytes."""
    view, position = memoryview(encoded), len(PNG)
    chunks: list[tuple[bytes, memoryview]] = []
    while encoded.startswith(PNG) and position < len(view) and (not chunks or chunks[-1][0] != b"IEND"):
        end = position + 12 + int.from_bytes(view[position : position + 4], "big")
        if end <= len(view):
            chunks.append((bytes(view[position + 4 : position + 8]), view[position:end]))
        position = end
    return chunks


def _sound_png(encoded: bytes, name: Path | str, *, indices: bool) -> bytes:
    """The chunks that make the pixels, since libpng prints warnings of others. Raises ValueError if any is damaged."""
    chunks = _png_chunks(encoded)
    if any(zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big") for _, chunk in chunks):
        raise ValueError(f"{name}: {DAMAGED.format('a check sum is wrong')}.")
    if not chunks or chunks[0][0] != b"IHDR" or chunks[-1][0] != b"IEND":
        raise ValueError(f"{name}: {DAMAGED.format('the end is missing')}.")
    kept = [chunk for kind, chunk in chunks if kind in _PIXEL_CHUNKS]
    first = bytes(chunks[0][1])
    if indices and first[_COLOR_TYPE] == _PALETTE:  # made a grey PNG with the same values
        header = first[4:_COLOR_TYPE] + bytes([_GREY]) + first[_COLOR_TYPE + 1 : -4]
        kept = [chunk for chunk in kept[1:] if chunk[4:8] != b"PLTE"]
        return b"".join([PNG, first[:4], header, zlib.crc32(header).to_bytes(4, "big"), *kept])
    if first[_COLOR_TYPE] != _PALETTE:
        kept = [chunk for chunk in kept if chunk[4:8] != b"PLTE"]  # only a suggestion
    return b"".join([PNG, *kept]) if len(kept) < len(chunks) else encoded


def _decode_plain_png(source: bytes, flags: int) -> Uint8Array | None:
    """OpenCV's values, of RGB for a photo or grey for labels, 8 bits each; None for other kinds, and if it is damaged.

    source: as `_sound_png` gives it. The decoder compares no check sum of the compressed data, so isal does.
    """
    is_photo = flags != cv2.IMREAD_UNCHANGED
    if isal_zlib is None or source[24:29] != bytes([8, _RGB if is_photo else _GREY, 0, 0, 0]):
        return None
    width, height = (int.from_bytes(source[place : place + 4], "big") for place in (16, 20))
    size = height * (1 + width * (3 if is_photo else 1))  # each row begins with the number of its filter
    if width * height > MOST_PIXELS:
        return None
    try:
        inflater = isal_zlib.decompressobj()
        data = b"".join(chunk[8:-4] for kind, chunk in _png_chunks(source) if kind == b"IDAT")
        if len(inflater.decompress(data, size + 1)) != size or not inflater.eof:
            return None
        pixels = decode_image_png_u8(source, (height, width), "rgb" if is_photo else "mono")
    except Exception:  # OpenCV says what it is
        return None
    return pixels if is_photo else pixels[:, :, 0]


def _too_large(name: Path | str, size: tuple[int, int] | None) -> ValueError:
    has = f"has {size[0]}x{size[1]} pixels" if size else "is too large"
    return ValueError(
        f"{name}: {has}; at most {MOST_PIXELS} in all and {MOST_ON_A_SIDE} on a side are read. Cut it up, make it "
        f"smaller, or allow more with the environment variable {LIMIT}."
    )


def _why_not(encoded: bytes) -> str:
    """Why OpenCV, which does not say it, cannot decode a file."""
    if re.match(rb"....ftyp(?!.{0,56}avi[fs]).{0,56}(he[iv][cxms]|mif1|msf1)", encoded, re.DOTALL):
        return "a HEIC photo cannot be read; convert it to JPEG or PNG"
    stored = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED) if encoded.startswith(TIFF) else None
    if stored is not None:
        return UNSUPPORTED.format(f"TIFF, of {stored.dtype} values,")
    what = DAMAGED.format("or it is a video, a page or a git-lfs pointer")
    return f"{what}; if another program shows it, save it there as JPEG or PNG"
