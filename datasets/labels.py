"""From the pixels of a label file, ids or colours, to train ids."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.specs.spec import COLORS, EITHER, TRAIN_IDS, Color, DatasetSpec, written_ids
from utils.images import Uint8Array, read_label_colors, read_label_ids

UNKNOWN_ID = 254  # marks unknown values; every train id is below it


def read_label_file(path: Path, masks: str) -> NDArray[np.integer]:
    """Ids [H, W] or colours [H, W, 3] uint8 RGB, as stored. masks: what the file holds, see `datasets.specs.spec`.

    Raises FileNotFoundError, or ValueError if the file is damaged, of a format that changes values, or holds something
    else.
    """
    return read_label_colors(path) if masks == COLORS else read_label_ids(path, or_colors=masks == EITHER)


def train_ids(pixels: NDArray[np.integer], masks: str, spec: DatasetSpec) -> Uint8Array:
    """Ids [H, W] or colours [H, W, 3] -> train ids [H, W] uint8; `ignore_label` for no class, UNKNOWN_ID for others.

    masks: what the file holds, see `datasets.specs.spec`.
    """
    if pixels.ndim == 3:
        codes = tuple((r << 16 | g << 8 | b, train_id) for (r, g, b), train_id in spec.train_id_of_color().items())
        return _table(24, codes)[pack_colors(pixels)]
    if masks == TRAIN_IDS:
        values = {train_id: train_id for train_id in (*range(spec.num_classes), spec.ignore_label)}
    else:
        values = spec.train_id_of_label_id()
    table = _table(16, tuple(values.items()))  # files have 8 or 16 bits
    if pixels.dtype == np.uint8:
        # 3.6 ms for 2048x1024 on one core; NumPy's indexing takes 10.
        return cv2.LUT(pixels, table[:256])  # type: ignore[return-value]
    return table[pixels]


def label_pixels(labels: Uint8Array, masks: str, spec: DatasetSpec) -> NDArray[np.integer]:
    """The inverse of `train_ids`: the label file of `labels` [H, W], as ids [H, W] or, for COLORS, colours [H, W, 3].

    Ids are uint8, or uint16 if they need it. Raises ValueError if no value of the set means "no class".
    """
    values: list[Any]
    if masks == COLORS:
        values = [c.label_colors[0] if c.label_colors else c.color for c in spec.classes]
        nothing: list[Any] = list(spec.ignored_colors)
    else:
        values, known = list(written_ids(spec.classes)), spec.train_id_of_label_id()
        nothing = [i for i in (*spec.ignored_ids, spec.ignore_label) if known[i] == spec.ignore_label]
    if not nothing:
        raise ValueError(f'{spec.title}: no value in its label files means "no class"; declare an ignored one.')
    table = np.array([*values, *nothing[:1] * (256 - len(values))], np.uint16)
    return (table if table.max() > np.iinfo(np.uint8).max else table.astype(np.uint8))[labels]


def unknown_values(pixels: NDArray[np.integer], labels: Uint8Array) -> list[tuple[int | Color, int, int, int]]:
    """The values of `pixels` that are UNKNOWN_ID in `labels`, smallest first: value, pixels, row and column of one."""
    unknown = labels == UNKNOWN_ID
    if not unknown.any():
        return []
    codes = pack_colors(pixels) if pixels.ndim == 3 else pixels
    places = np.flatnonzero(unknown)
    values, firsts, counts = np.unique(codes.ravel()[places], return_index=True, return_counts=True)
    rows, columns = np.divmod(places[firsts], labels.shape[1])
    named = [unpack_color(int(value)) if pixels.ndim == 3 else int(value) for value in values]
    return list(zip(named, counts.tolist(), rows.tolist(), columns.tolist(), strict=True))


def pack_colors(pixels: NDArray[np.integer]) -> NDArray[np.uint32]:
    """RGB [H, W, 3] uint8 -> one number per pixel, 0xRRGGBB."""
    red, green, blue = (pixels[..., channel].astype(np.uint32) for channel in range(3))
    return red << np.uint32(16) | green << np.uint32(8) | blue


def unpack_color(code: int) -> Color:
    """The inverse of `pack_colors`, for one number."""
    return code >> 16, code >> 8 & 255, code & 255


@lru_cache(maxsize=4)
def _table(bits: int, entries: tuple[tuple[int, int], ...]) -> Uint8Array:
    table = np.full(1 << bits, UNKNOWN_ID, np.uint8)  # 16 MiB for colours, for one look-up per pixel
    for value, train_id in entries:
        table[value] = train_id
    return table
