"""From files to pixels: damage is an error that names the file, values are exact, and nothing else is printed."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests.trees import png, write_gray_png
from utils import decoding
from utils.images import (
    image_size,
    read_image,
    read_label_colors,
    read_label_ids,
    write_image,
)

read_colors_or_ids = partial(read_label_ids, or_colors=True)

IDS = np.indices((40, 60)).sum(0).astype(np.uint8) // 9
PHOTO = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8), (0, 0), 2)


def encoded(pixels: np.ndarray, kind: str, mode: str | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int) -> bytes:
    data = Image.Exif()
    data[0x112] = orientation
    return data.tobytes()


@pytest.fixture
def problem(tmp_path, capfd) -> Iterator[Callable[..., str]]:
    """What is said of a file with this content; that the file is named, and nothing printed, is checked."""

    def say(content: bytes, read: Callable[[Path], Any] = read_image) -> str:
        path = tmp_path / "file"
        path.write_bytes(content)
        with pytest.raises(ValueError) as raised:
            read(path)
        start, name, text = str(raised.value).partition(f"{path}: ")
        assert (start, bool(name)) == ("", True)
        return text

    yield say
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


# Damage


@pytest.mark.parametrize("kind", ["grey", "palette", "16 bits", "colours", "photo with notes"])
def test_a_bit_that_flips_anywhere_in_a_png_is_found(kind, problem):
    notes = PngImagePlugin.PngInfo()
    notes.add_text("a", "note")
    contents = {
        "grey": encoded(IDS, "PNG"),
        "palette": encoded(IDS, "PNG", "P"),
        "16 bits": encoded(IDS.astype(np.uint16) * 300, "PNG"),
        "colours": encoded(np.stack([IDS] * 3, 2), "PNG"),
        "photo with notes": encoded(PHOTO, "PNG", exif=exif(6), pnginfo=notes),
    }
    content = contents[kind]
    reader = read_image if kind.startswith("photo") else read_colors_or_ids
    for place in np.random.default_rng(1).integers(8, len(content), 40):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        assert "truncated or damaged" in problem(bytes(damaged), reader)
    for cut in (1, 5, 12, 13, len(content) // 2, len(content) - 9):
        assert "truncated or damaged" in problem(content[:-cut], reader)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}, {"mode": "CMYK"}])
def test_a_jpeg_whose_data_do_not_add_up_is_damaged(options, problem):
    content = encoded(PHOTO, "JPEG", quality=90, **options)
    middle = len(content) * 2 // 3
    assert "truncated or damaged" in problem(content[: middle // 2] + content[middle:])
    assert "truncated or damaged" in problem(content[:middle] + b"\xff\xd9")
    for cut in (1, 2, 50, middle, len(content) - 20):
        assert "truncated or damaged" in problem(content[:-cut])


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "jpeg", None])
def test_a_tiff_whose_data_do_not_add_up_is_damaged(compression, problem):
    content = encoded(PHOTO, "TIFF", compression=compression)
    for cut in (1, 30, len(content) // 2):
        assert "truncated or damaged" in problem(content[:-cut])
    zeroed = content[:60] + bytes(len(content) // 2) + content[60 + len(content) // 2 :]
    if "tiff" in str(compression):  # the others take any data for pixels
        assert "truncated or damaged" in problem(zeroed)


def rows_of(pixels: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in pixels)


@pytest.mark.parametrize("kind", ["a wrong sum", "no sum", "a row too few", "a filter that does not exist"])
def test_damage_that_the_check_sums_of_a_pngs_chunks_do_not_tell_is_found(kind, problem, capfd):
    compressed = zlib.compress(rows_of(PHOTO))
    data = {
        "a wrong sum": compressed[:-4] + bytes(4), "no sum": compressed[:-4],
        "a row too few": zlib.compress(rows_of(PHOTO[1:])),
        "a filter that does not exist": zlib.compress(b"\x09" + rows_of(PHOTO)[1:]),
    }  # fmt: skip
    assert "truncated or damaged" in problem(png(PHOTO.shape[1], PHOTO.shape[0], data[kind], color=2))
    capfd.readouterr()  # libpng prints a line of its own


@pytest.mark.skipif(decoding.isal_zlib is None, reason="needs the optional kornia-rs and isal")
@pytest.mark.parametrize("size", [(60, 80), (1, 1), (7, 33)])
def test_plain_png_files_have_opencvs_values_without_opencv(size, tmp_path, monkeypatch):
    path, rows, columns = tmp_path / "a.png", *size
    for pixels, read in ((PHOTO[:rows, :columns], read_image), (PHOTO[:rows, :columns, 0], read_label_ids)):
        path.write_bytes(encoded(pixels, "PNG"))
        expected = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB if pixels.ndim == 3 else cv2.IMREAD_UNCHANGED)
        with monkeypatch.context() as without:
            without.setattr("cv2.imdecode", None)
            assert np.array_equal(read(path), expected)
        assert read(path).flags.writeable


def test_zeros_before_a_jpegs_end_and_notes_behind_it_are_no_damage(tmp_path):
    content = encoded(PHOTO, "JPEG")
    (tmp_path / "a.jpg").write_bytes(content)
    for whole in (content + b"a camera's note", content[:-2] + bytes(9) + b"\xff\xd9"):
        (tmp_path / "b.jpg").write_bytes(whole)
        assert (read_image(tmp_path / "b.jpg") == read_image(tmp_path / "a.jpg")).all()


def test_odd_headers_of_cameras_are_no_damage_unless_the_end_is_missing(tmp_path, problem):
    content = encoded(PHOTO, "JPEG")
    start = content.find(b"\xff\xda")
    spectrum = start + int.from_bytes(content[start + 2 : start + 4], "big")  # the last coefficient, 63 by the standard
    odd = (
        content[:spectrum] + b"\0" + content[spectrum + 1 :],
        content.replace(b"JFIF\0\1", b"JFIF\0\2"),
        content[:start] + b"\0\0\0\0" + content[start:],
    )
    (tmp_path / "a.jpg").write_bytes(content)
    for photo in odd:
        (tmp_path / "b.jpg").write_bytes(photo)
        assert (read_image(tmp_path / "b.jpg") == read_image(tmp_path / "a.jpg")).all()
        assert "truncated or damaged" in problem(photo[:-300])


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"mode": "L"}, {"mode": "CMYK"}, {"keep_rgb": True}])
def test_a_jpeg_has_the_values_that_opencv_gives(options, tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(PHOTO, "JPEG", **options))
    expected = cv2.imread(str(tmp_path / "a.jpg"), cv2.IMREAD_COLOR_RGB)
    assert (read_image(tmp_path / "a.jpg") == expected).all()


def test_what_a_png_says_besides_its_pixels_changes_nothing_and_prints_nothing(tmp_path, capfd):
    (tmp_path / "a.png").write_bytes(encoded(PHOTO, "PNG", icc_profile=b"no profile" * 20))
    assert (read_image(tmp_path / "a.png") == PHOTO).all()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "JPEG2000", "AVIF", "BMP", "PPM"])
def test_an_image_that_is_cut_off_is_damaged_in_every_format(kind, problem):
    content = encoded(PHOTO, kind)
    for length in (40, len(content) // 2):
        assert "truncated or damaged" in problem(content[:length])
    assert "or it is a video, a page" in problem(b"<!DOCTYPE html><html>")


def test_a_gif_of_a_few_bytes_cannot_hold_many_pixels(problem):
    size = (30000).to_bytes(2, "little") * 2
    content = b"GIF89a" + size + b"\0\0\0,\0\0\0\0" + size + b"\0\x02\x02D\x01\0;"
    assert "damaged (29 bytes cannot hold 30000x30000 pixels)" in problem(content)


def test_an_image_too_large_for_the_memory_is_named(problem, monkeypatch):
    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("simplejpeg.decode_jpeg", fail)
    assert "out of memory" in problem(encoded(PHOTO, "JPEG"))


# Files that are sound but cannot be read


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf", "HEIC"),
        (b"\0\0\0\x18ftypheix\0\0\0\0mif1heix", "HEIC"),
        (encoded(IDS.astype(np.float32), "TIFF"), "TIFF, of float32 values"),
        (encoded(PHOTO, "TIFF", compression="zstd"), "TIFF, compression zstd"),
        (b"P6 40000 30000 255\n" + bytes(99), "has 40000x30000 pixels; at most"),
        (b"P5 2000000 2 255\n" + bytes(99), "has 2000000x2 pixels; at most"),
        (encoded(IDS, "TIFF").replace(b"\x01\x01\x04\0\x01\0\0\0" + len(IDS).to_bytes(4, "little"),
                                      b"\x01\x01\x04\0\x01\0\0\0\x00\x00\x00\x40"), "x1073741824 pixels; at most"),
    ],
)
def test_what_cannot_be_read_is_told_with_the_way_out(content, told, problem):
    text = problem(content)
    assert told in text
    assert "damaged" not in text


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF"])
def test_an_image_of_too_many_pixels_is_told_its_size(kind, problem):
    pixels = np.zeros((2, 3), np.uint8)
    content = bytearray(encoded(pixels, kind))
    if kind == "PNG":
        content[16:24] = (40_000).to_bytes(4, "big") + (30_000).to_bytes(4, "big")
        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    elif kind == "JPEG":
        start = content.find(b"\xff\xc0") + 5
        content[start : start + 4] = (30_000).to_bytes(2, "big") + (40_000).to_bytes(2, "big")
    elif kind == "BMP":
        content[18:26] = (40_000).to_bytes(4, "little") + (30_000).to_bytes(4, "little")
    else:
        content = bytearray(encoded(pixels, kind, tiffinfo={}))
        for tag, size in ((0x100, 40_000), (0x101, 30_000)):
            place = content.find(tag.to_bytes(2, "little"), 4)
            content[place + 2 : place + 12] = b"\4\0\1\0\0\0" + size.to_bytes(4, "little")
    assert "has 40000x30000 pixels; at most" in problem(bytes(content))


@pytest.mark.parametrize("options", [{"mode": "CMYK"}, {"save_all": True, "append_images": [Image.new("RGB", (9, 9))]}])
def test_of_tiff_cmyk_and_the_first_of_several_pages_are_read(options, tmp_path):
    (tmp_path / "a.tif").write_bytes(encoded(PHOTO, "TIFF", **options))
    assert np.abs(read_image(tmp_path / "a.tif").astype(int) - PHOTO).max() <= 1


# Photos that are turned


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "avif", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_and_mirrored_as_exif_or_avif_says(suffix, orientation, tmp_path):
    upright = np.full((30, 50, 3), 40, np.uint8)
    upright[:15, :25], upright[:15, 25:], upright[15:, 25:] = (230, 0, 0), (0, 200, 0), (0, 0, 220)
    undone = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
        6: np.rot90(upright), 7: np.rot90(upright, 2).transpose(1, 0, 2), 8: np.rot90(upright, -1),
    }  # fmt: skip
    path = tmp_path / f"a.{suffix}"
    options = {"tiffinfo": {0x112: orientation}} if suffix == "tif" else {"exif": exif(orientation)}
    Image.fromarray(np.ascontiguousarray(undone[orientation])).save(path, **options)  # Pillow gives AVIF irot and imir
    image = read_image(path)
    assert image.shape == upright.shape
    for row, column in ((7, 12), (7, 37), (22, 12), (22, 37)):
        assert np.abs(image[row, column].astype(int) - upright[row, column]).max() < 25
    assert image_size(path) == (50, 30)


def test_a_photo_is_turned_whatever_precedes_its_exif_data(tmp_path):
    content = encoded(PHOTO, "JPEG", exif=exif(6))
    comment = b"\xff\xfe\0\x06\xff\xda\0\0"  # with the bytes that begin the pixels
    (tmp_path / "a.jpg").write_bytes(content[:2] + comment + content[2:])
    assert read_image(tmp_path / "a.jpg").shape == (80, 60, 3)


def test_damaged_exif_data_leave_the_photo_as_it_is_and_print_nothing(tmp_path, capfd):
    content = encoded(PHOTO, "JPEG", exif=exif(6))
    (tmp_path / "a.jpg").write_bytes(content.replace(b"\x01\x12", b"\xf1\x12", 1).replace(b"MM\0*", b"MM\xff*"))
    assert read_image(tmp_path / "a.jpg").shape == PHOTO.shape
    assert capfd.readouterr().err == ""


# Label files


@pytest.mark.parametrize(
    ("kind", "options", "told"),
    [
        ("JPEG", {"quality": 100}, "is a JPEG: values are not exact"),
        ("WEBP", {}, "is a lossy WebP: values are not exact"),
        ("AVIF", {}, "is an AVIF: values are not exact"),
        ("JPEG2000", {"irreversible": True}, "is a JPEG 2000: values are not exact"),
        ("TIFF", {"compression": "jpeg"}, "is a TIFF of lossy compression: values are not exact"),
    ],
)
def test_formats_that_change_values_are_no_label_files_whatever_their_name(kind, options, told, problem):
    for reader in (read_label_ids, read_label_colors, read_colors_or_ids):
        assert told in problem(encoded(PHOTO, kind, **options), reader)
        assert "is a HEIC: values are not exact" in problem(b"\0\0\0\x18ftypmif1\0\0\0\0heic", reader)


@pytest.mark.parametrize(
    ("kind", "options"), [("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {}), ("JPEG2000", {})]
)
def test_formats_that_keep_values_are_read_as_colors(kind, options, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(PHOTO, kind, **options))
    assert (read_label_colors(tmp_path / "a.png") == PHOTO).all()


def test_values_that_are_no_whole_numbers_are_refused(problem):
    assert "8 or 16 bits per value, but this one is float32" in problem(
        encoded(IDS.astype(np.float32), "TIFF"), read_colors_or_ids
    )


def test_the_same_colors_are_read_however_a_png_stores_them(tmp_path):
    colors = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)
    expected = colors[IDS % 2]
    write_image(tmp_path / "rgb.png", expected)
    write_image(tmp_path / "grey.png", expected[..., 0])
    write_image(tmp_path / "16.png", expected.astype(np.uint16) * 257)
    write_image(tmp_path / "shifted.png", expected.astype(np.uint16) << 8)
    Image.fromarray(expected).convert("RGBA").save(tmp_path / "alpha.png")
    Image.fromarray(expected).quantize(2).save(tmp_path / "palette.png")
    Image.fromarray(expected).quantize(2).save(tmp_path / "clear.png", transparency=0)
    Image.fromarray(expected[..., 0] > 0).save(tmp_path / "bits.png")
    Image.fromarray(expected).save(tmp_path / "turned.png", exif=exif(6))
    for path in tmp_path.iterdir():
        assert (read_label_colors(path) == expected).all(), path.name


def test_colors_that_need_16_bits_are_refused(problem):
    for reader in (read_label_colors, read_colors_or_ids):
        said = problem(cv2.imencode(".png", PHOTO.astype(np.uint16) * 257 + 1)[1].tobytes(), reader)
        assert "must have 8 bits per channel" in said


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_label_files_are_never_turned(kind, orientation, tmp_path):
    options = {"exif": exif(orientation)} if kind == "PNG" else {"tiffinfo": {0x112: orientation}}
    for mode in ("L", "P", "RGB") if kind == "PNG" else ("L", "RGB"):
        (tmp_path / "a.png").write_bytes(encoded(IDS, kind, mode, **options))
        assert (read_colors_or_ids(tmp_path / "a.png").reshape(*IDS.shape, -1)[..., 0] == IDS).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_indices_and_levels_of_few_bits_are_read_as_they_are(bits, tmp_path):
    values = np.arange(2**bits, dtype=np.uint8)[None]
    write_gray_png(tmp_path / "grey.png", bits, values.tolist())
    picture = Image.fromarray(values).convert("P")
    picture.putpalette([9, 8, 7] * 2**bits)
    picture.save(tmp_path / "palette.png", bits=bits, transparency=0)
    assert (tmp_path / "palette.png").read_bytes()[24] == bits
    for name in ("grey.png", "palette.png"):
        assert (read_label_ids(tmp_path / name) == values).all()
