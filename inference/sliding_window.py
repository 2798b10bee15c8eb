"""Overlapping tiles: where they lie, the pixels they show, and how their predictions are blended.

The network sees the image at some scale; its prediction is needed on the image's own grid. Each tile is resampled
directly onto that grid, so that there is never an array of the scaled image's size with a channel per class.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.device import to_device

GIB = 2**30
PIXEL, FLOAT, LONG = 4, 4, 8  # bytes; a pixel is three colours and a class
RESIZING = 3  # float32 RGB arrays that exist while a row of tiles is resized
_BAND_BYTES = 5 << 19  # of float32 probabilities on a CPU; measured best among 1, 2.5, 5 and 10 MB
_BLOCK = 64  # columns interpolated by one small matrix, which is faster than gathering single columns


@dataclass(frozen=True)
class Span:
    """One tile along one axis.

    start, stop: its pixels of the scaled image. out_start, out_stop: the image's own pixels whose centres it contains.
    """

    start: int
    stop: int
    out_start: int
    out_stop: int


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


def find_views(
    size: tuple[int, int], scales: Sequence[float], tile: int | None, overlap: float, device: torch.device
) -> list[View]:
    """The views of an image of `size` at all scales; without `tile` the whole image is one tile."""
    found = []
    for scale in scales:
        scaled = tuple(max(1, math.floor(side * scale + 0.5)) for side in size)
        rows, columns = (find_spans(s, out, tile or s, overlap) for s, out in zip(scaled, size, strict=True))
        weights = 1 / (count_covers(rows, size[0]) * len(scales)), 1 / count_covers(columns, size[1])
        found.append(View((scaled[0], scaled[1]), rows, columns, *(to_device(w, device) for w in weights)))
    return found


def tile_starts(length: int, tile: int, overlap: float, min_shared: int = 0) -> tuple[int, ...]:
    """First pixels of tiles of `tile` pixels spread evenly over `length`; neighbours share `overlap` of one or more.

    min_shared: pixels they share at least. One tile starting at 0 if `length` is at most `tile`.
    """
    if length <= tile:
        return (0,)
    stride = max(1, min(int(tile * (1 - overlap)), tile - min_shared))
    num_steps = -(-(length - tile) // stride)
    return tuple(i * (length - tile) // num_steps for i in range(num_steps + 1))


def find_spans(scaled: int, out: int, tile: int, overlap: float) -> tuple[Span, ...]:
    """The tiles along an axis of `scaled` pixels that shows `out` pixels of the image; they contain them all.

    If the image is enlarged a lot, a small tile may not contain the centre of any pixel: such tiles are omitted.
    """
    # Between two tiles that share no pixel there would be nothing to interpolate with.
    min_shared = 0 if scaled == out else 1
    tile = min(max(tile, 1 + min_shared), scaled)
    spans = []
    for start in tile_starts(scaled, tile, overlap, min_shared):
        stop = start + tile
        # Pixel p's centre lies at (p + 0.5) * scaled / out - 0.5; in integers, so that tiles agree exactly.
        first = -((scaled - (2 * start + 1) * out) // (2 * scaled)) if start > 0 else 0
        last = ((2 * stop - 1) * out - scaled) // (2 * scaled) if stop < scaled else out - 1
        spans.append(Span(start, stop, first, last + 1))
    return tuple(span for span in spans if span.out_start < span.out_stop)


def count_covers(spans: Sequence[Span], out: int) -> Tensor:
    """How many tiles contain each of `out` pixels: [out] float32, 1 or more."""
    counts = torch.zeros(out)
    for span in spans:
        counts[span.out_start : span.out_stop] += 1
    return counts


def fit_chunk(views: Sequence[View], size: tuple[int, int], num_classes: int, max_memory: float) -> int:
    """How many rows of an image of `size` may be held as probabilities, so that all fits into `max_memory` GiB.

    The network's own memory is extra. Raises ValueError if not even the highest tile fits.
    """
    height, width = size
    least = max(row.out_stop - row.out_start for view in views for row in view.rows)
    tile_bytes = [(view.rows[0].stop - view.rows[0].start) * view.size[1] * 3 * FLOAT for view in views]
    resizing = max(0 if view.size == size else RESIZING * n for view, n in zip(views, tile_bytes, strict=True))
    per_row = width * (num_classes * FLOAT + LONG)
    check_memory(size, resizing + least * per_row, max_memory)
    return int(min(height, (max_memory * GIB - PIXEL * height * width - resizing) / per_row))  # may be infinite


def check_memory(size: tuple[int, int], besides: int, max_memory: float) -> None:
    """Raises ValueError if an image's pixels, its classes and `besides` bytes do not fit into `max_memory` GiB."""
    height, width = size
    needed = (PIXEL * height * width + besides) / GIB
    if needed > max_memory:
        told = f"an image of {width}x{height} pixels needs {needed:.4g} GiB besides the network"
        raise ValueError(f"--max_memory {max_memory:g}: {told}; allow more, or use smaller tiles.")


def linear_filter(centers: Tensor, length: int, reach: float) -> tuple[Tensor, Tensor]:
    """Which of `length` pixels are mixed at each of n places, and with which weights: [n, K] int64, [n, K] float32.

    centers: [n] float64, increasing; pixel p extends from p to p + 1. reach: 1 to interpolate between two pixels.
    """
    first = (centers - reach + 0.5).floor().long()
    indices = first[:, None] + torch.arange(int(2 * reach) + 2)
    weights = (1 - ((indices + 0.5 - centers[:, None]) / reach).abs()).clamp(min=0)
    weights[(indices < 0) | (indices >= length)] = 0
    weights /= weights.sum(1, keepdim=True)
    used = weights.amax(0) > 0
    return indices.clamp(0, length - 1)[:, used], weights[:, used].float()


def resize(image: Tensor, size: tuple[int, int], rows: slice, columns: slice) -> Tensor:
    """Rows and columns of `image` [H, W, 3] resized to `size`: [rows, columns, 3], float32 unless nothing changes.

    Linear; widened when shrinking so that no pixel is skipped. Other resizers cannot make a part of the result alone.
    """
    if size == tuple(image.shape[:2]):
        return image[rows, columns]
    steps = [old / new for old, new in zip(image.shape[:2], size, strict=True)]
    filters = [
        linear_filter((torch.arange(part.start, part.stop, dtype=torch.float64) + 0.5) * step, old, max(step, 1.0))
        for part, step, old in zip((rows, columns), steps, image.shape[:2], strict=True)
    ]
    needed = [slice(int(indices.min()), int(indices.max()) + 1) for indices, _ in filters]
    values = image[needed[0], needed[1]]
    for axis in sorted((0, 1), key=lambda axis: -steps[axis]):  # first the axis after which fewer pixels are left
        indices, weights = (to_device(table, image.device) for table in filters[axis])
        shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
        mixed = values
        for k, (index, weight) in enumerate(zip(indices.T, weights.T, strict=True)):
            picked, weight = values.index_select(axis, index - needed[axis].start).float(), weight.reshape(shape)
            mixed = mixed.addcmul_(picked, weight) if k else picked.mul_(weight)
        values = mixed
    return values


def _blocks(
    span: Span, scaled: int, out: int, step: int, device: torch.device
) -> Iterator[tuple[slice, slice, Tensor | None]]:
    """A tile's pixels along an axis on which the image has `out` pixels and the view `scaled`, `step` at a time.

    For each block: which pixels, counted from the tile's first one on the image's grid; the tile's own pixels that they
    are mixed from; and how, as a matrix [own, mixed], or None if the tile has the image's own scale. Blocks are small,
    since the work grows with the square of their size.
    """
    for start in range(span.out_start, span.out_stop, step):
        stop = min(start + step, span.out_stop)
        block = slice(start - span.out_start, stop - span.out_start)
        if scaled == out:
            yield block, slice(start - span.start, stop - span.start), None
            continue
        centers = (torch.arange(start, stop, dtype=torch.float64) + 0.5) * (scaled / out) - span.start
        indices, weights = linear_filter(centers, span.stop - span.start, reach=1.0)
        source = slice(int(indices.min()), int(indices.max()) + 1)
        matrix = torch.zeros(source.stop - source.start, stop - start)
        matrix.T.scatter_add_(1, indices - source.start, weights)
        yield block, source, to_device(matrix, device)


def blend(
    total: Tensor, logits: Tensor, mirrored: Tensor | None, view: View, row: Span, column: Span, top: int
) -> None:
    """Add a tile's weighted probabilities to `total` [C, n, W] float32, which begins at row `top` of the image.

    logits: [C, h, w], any dtype and layout; mirrored: those of the mirrored tile, for the mean of both, or None.
    """
    (height, width), (num_rows, num_columns) = (len(view.row_weights), len(view.column_weights)), logits.shape[1:]
    part = total[:, row.out_start - top : row.out_stop - top, column.out_start : column.out_stop]
    step = part.shape[1]
    if total.device.type == "cpu":  # a few rows at a time, which stay in the cache
        num_bytes = FLOAT * len(total) * max(num_columns, part.shape[2]) * max(num_rows, step)
        step = max(1, _BAND_BYTES * step // num_bytes)
    columns = list(_blocks(column, view.size[1], width, _BLOCK if view.size[1] != width else width, total.device))
    for band, source, matrix in _blocks(row, view.size[0], height, step, total.device):
        values = logits[:, source].float().contiguous().softmax(0)
        if mirrored is not None:
            values.add_(mirrored[:, source].float().contiguous().softmax(0).flip(2)).mul_(0.5)
        if matrix is not None:
            values = matrix.T @ values
        mixed = [values[:, :, needed] @ mixing for _, needed, mixing in columns if mixing is not None]
        values = torch.cat(mixed, dim=2) if mixed else values
        row_weights = view.row_weights[row.out_start : row.out_stop][band, None]
        part[:, band] += values.mul_(row_weights).mul_(view.column_weights[column.out_start : column.out_stop])
