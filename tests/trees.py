"""Small trees of the data sets' layouts, written by the tests."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from utils.images import write_image


def write_pair(image: Path, labels: Path | None, ids: Any = 0, size: tuple[int, int] = (4, 8)) -> None:
    """A random picture, another for every path, and its label file: one id, an id map [H, W] or colours [H, W, 3]."""
    pixels = np.asarray(ids)
    if pixels.ndim == 0:
        pixels = np.full(size, ids)
    generator = np.random.default_rng(zlib.crc32(os.fsencode(image)))
    write_image(image, generator.integers(0, 256, (*pixels.shape[:2], 3)).astype(np.uint8))
    if labels is not None:
        write_image(labels, pixels.astype(np.uint16 if pixels.max() > 255 else np.uint8))


def cityscapes_tree(
    root: Path,
    prefix: tuple[str, str] = ("", ""),
    cities: tuple[str, ...] = ("aachen", "zurich", "monchengladbach"),
    suffix: str = "_gtFine_labelIds.png",
    label_id: int = 26,
) -> None:
    """One frame, number 000019, of each city: `cities` in train, the official three in val."""
    for split, names in (("train", cities), ("val", ("frankfurt", "lindau", "munster"))):
        for city in names:
            stem = f"{split}/{city}/{city}_000000_000019"
            write_pair(
                root / f"{prefix[0]}leftImg8bit/{stem}_leftImg8bit.png",
                root / f"{prefix[1]}gtFine/{stem}{suffix}",
                label_id,
            )


def kitti_tree(root: Path, count: int = 4) -> None:
    """`count` labelled frames, numbers 10 of their scenes."""
    for number in range(count):
        write_pair(
            root / f"training/image_2/{number:06d}_10.png", root / f"training/semantic/{number:06d}_10.png", 7
        )


def write_classes(root: Path, *classes: dict[str, Any], **further: Any) -> None:
    """classes.json of a folder of one's own."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "classes.json").write_text(json.dumps({"classes": classes, **further}), encoding="utf-8")


ROAD = {"name": "road", "color": [64, 32, 32]}
CAR = {"name": "car", "color": "#00ff66"}
VOID = {"name": "void", "color": [0, 0, 0], "ids": [9], "ignored": True}


def folder_tree(root: Path, count: int = 10, *classes: dict[str, Any], **further: Any) -> None:
    """images/ and labels/ with `count` pairs named 00, 01, …: the left half is class 0, the right half class 1."""
    write_classes(root, *(classes or (ROAD, CAR)), **further)
    ids = np.repeat([[0, 0, 1, 1]], 6, 0)
    for number in range(count):
        write_pair(root / f"images/{number:02d}.jpg", root / f"labels/{number:02d}.png", ids)


def png(width: int, height: int, compressed: bytes, *, bits: int = 8, color: int = 0) -> bytes:
    """A PNG whose only data are `compressed`, rows that each begin with the byte of a filter. color: 0 grey, 2 RGB."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)), (b"IDAT", compressed),
              (b"IEND", b""))  # fmt: skip
    parts = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
             for kind, data in chunks]  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def write_gray_png(path: Path, bits: int, rows: list[list[int]]) -> None:
    """A grey PNG of 1, 2 or 4 bits a pixel, which neither OpenCV nor Pillow can write."""
    lines = ["".join(f"{value:0{bits}b}" for value in row) for row in rows]
    packed = [int(line.ljust(-(-len(line) // 8) * 8, "0"), 2).to_bytes(-(-len(line) // 8), "big") for line in lines]
    compressed = zlib.compress(b"".join(b"\0" + line for line in packed))
    path.write_bytes(png(len(rows[0]), len(rows), compressed, bits=bits))


def files_of(root: Path) -> dict[str, bytes]:
    """The content of every file below `root`, by its path there."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
