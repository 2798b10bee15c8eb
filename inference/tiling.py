"""Where overlapping tiles are, and which pixels of the image each of them predicts.

The network sees the image at some scale; its prediction is needed on the image's own grid. `inference/laying.py`
resamples each tile directly onto that grid, so that there is never an array of the scaled image's size with a channel
per class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.copies import to_device


@dataclass(frozen=True)
class Span:
    """One tile along one axis.

    start, stop: its pixels of the scaled image. out_start, out_stop: the image's own pixels whose centres it contains.
    """

    start: int
    stop: int
    out_start: int
    out_stop: int

    @property
    def out_slice(self) -> slice:
        """The image's own pixels as a slice."""
        return slice(self.out_start, self.out_stop)


@dataclass(frozen=True)
class View:
    """The image at one scale: its size, its rows and columns of tiles, and their weights.

    row_weights [H], column_weights [W]: their product is the weight of each tile in the average at a pixel.
    """

    size: tuple[int, int]
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]
    row_weights: Tensor
    column_weights: Tensor


def views(
    size: tuple[int, int], scales: Sequence[float], tile: int | None, overlap: float, device: torch.device
) -> list[View]:
    """The views of an image of `size` at all scales; without `tile` the whole image is one tile."""
    found = []
    for scale in scales:
        scaled = tuple(max(1, math.floor(side * scale + 0.5)) for side in size)
        rows, columns = (spans(s, out, tile or s, overlap) for s, out in zip(scaled, size, strict=True))
        weights = 1 / (cover_counts(rows, size[0]) * len(scales)), 1 / cover_counts(columns, size[1])
        found.append(View((scaled[0], scaled[1]), rows, columns, *(to_device(w, device) for w in weights)))
    return found


def tile_starts(length: int, tile: int, overlap: float, min_shared: int = 0) -> tuple[int, ...]:
    """First pixels of tiles of `tile` pixels spread evenly over `length`; neighbours share `overlap` of one or more.

    min_shared: pixels they share at least. One tile starting at 0 if `length` is at most `tile`.
    """
    if tile < 1 or not 0 <= overlap < 1:
        raise ValueError(f"tiles need a positive side and an overlap of at least 0 and below 1, got {tile}, {overlap}.")
    if length <= tile:
        return (0,)
    stride = max(1, min(int(tile * (1 - overlap)), tile - min_shared))
    num_steps = -(-(length - tile) // stride)
    return tuple(i * (length - tile) // num_steps for i in range(num_steps + 1))


def spans(scaled: int, out: int, tile: int, overlap: float) -> tuple[Span, ...]:
    """The tiles along an axis of `scaled` pixels that shows `out` pixels of the image; they contain them all.

    If the image is enlarged a lot, a small tile may not contain the centre of any pixel: such tiles are omitted.
    """
    # Between two tiles that share no pixel there would be nothing to interpolate with.
    min_shared = 0 if scaled == out else 1
    tile = min(max(tile, 1 + min_shared), scaled)
    starts = tile_starts(scaled, tile, overlap, min_shared)
    tiles = (
        Span(
            start,
            start + tile,
            out_start=_image_pixel(start, scaled, out, round_up=True) if start > 0 else 0,
            out_stop=_image_pixel(start + tile - 1, scaled, out, round_up=False) + 1 if start + tile < scaled else out,
        )
        for start in starts
    )
    return tuple(span for span in tiles if span.out_start < span.out_stop)


def cover_counts(along: tuple[Span, ...], out: int) -> Tensor:
    """How many tiles contain each of `out` pixels: [out] float32, 1 or more."""
    counts = torch.zeros(out)
    for span in along:
        counts[span.out_slice] += 1
    return counts


def _image_pixel(scaled_pixel: int, scaled: int, out: int, *, round_up: bool) -> int:
    # Pixel p's centre lies at (p + 0.5) * scaled / out - 0.5; in integers, so that tiles never disagree by rounding.
    numerator, denominator = (2 * scaled_pixel + 1) * out - scaled, 2 * scaled
    return -(-numerator // denominator) if round_up else numerator // denominator
