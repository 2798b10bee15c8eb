"""Where overlapping tiles are, and which pixels of the image each of them predicts.

The network sees the image at some scale; its prediction is needed on the image's own grid. Each tile is resampled
directly onto that grid, so that there is never an array of the scaled image's size with a channel
per class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.device import to_device
from utils.text import counted


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


_BAND_BYTES = 5 << 19  # of float32 probabilities on a CPU; measured best among 1, 2.5, 5 and 10 MB
_BLOCK = 64  # columns interpolated by one small matrix, which is faster than gathering single columns


@dataclass(frozen=True)
class Lerp:
    """Linear interpolation along one axis, each position between two pixels: below, above [n] int64, weight [n].

    All on the CPU.
    """

    below: Tensor
    above: Tensor
    weight: Tensor

    def source(self, part: slice) -> slice:
        """The pixels that the positions `part` need."""
        return slice(int(self.below[part.start]), int(self.above[part.stop - 1]) + 1)

    def matrix(self, part: slice) -> Tensor:
        """The interpolation at `part` as a matrix [pixels needed, positions]: small parts are fast to multiply with."""
        source, position = self.source(part), torch.arange(part.stop - part.start)
        matrix = torch.zeros(source.stop - source.start, len(position))
        matrix[self.below[part] - source.start, position] += 1 - self.weight[part]
        matrix[self.above[part] - source.start, position] += self.weight[part]
        return matrix


@dataclass(frozen=True)
class Laid:
    """A tile along one axis: which of its pixels are added to n pixels of the image, and with what weight.

    source: the tile's pixels that are needed. lerp: counted from the first of them; None if the tile has the
    image's own scale. weights: [n], the tile's share in the average.
    """

    source: slice
    lerp: Lerp | None
    weights: Tensor


def laid(span: Span, scaled: int, weights: Tensor, part: slice) -> Laid:
    """The tile `span` of an axis of `scaled` pixels, for the image's pixels `part`, which it contains.

    weights: of all pixels of the image along this axis.
    """
    if scaled == len(weights):
        return Laid(slice(part.start - span.start, part.stop - span.start), None, weights[part])
    centers = (torch.arange(part.start, part.stop, dtype=torch.float64) + 0.5) * (scaled / len(weights)) - 0.5
    inside = (centers - span.start).clamp(0, span.stop - span.start - 1)
    below = inside.floor().long()
    above = (below + 1).clamp(max=span.stop - span.start - 1)
    source = slice(int(below[0]), int(above[-1]) + 1)
    lerp = Lerp(below - source.start, above - source.start, (inside - below).float())
    return Laid(source, lerp, weights[part])


def add_tile(total: Tensor, logits: Tensor, mirrored: Tensor | None, rows: Laid, columns: Laid) -> None:
    """Add a tile's weighted probabilities to `total` [C, n, m] float32.

    logits: [C, h, w], any dtype and layout; mirrored: those of the mirrored tile, for the mean of both, or None.
    """
    blocks = None if columns.lerp is None else _blocks(columns.lerp, total.device)
    for band in _bands(total, rows, columns):
        source = band if rows.lerp is None else rows.lerp.source(band)
        source = slice(rows.source.start + source.start, rows.source.start + source.stop)
        values = _probabilities(logits, mirrored, source, columns.source)
        if rows.lerp is not None:
            values = to_device(rows.lerp.matrix(band).T, total.device) @ values
        if blocks is not None:
            values = torch.cat([values[:, :, needed] @ matrix for needed, matrix in blocks], dim=2)
        total[:, band] += values.mul_(rows.weights[band, None]).mul_(columns.weights)


def _bands(total: Tensor, rows: Laid, columns: Laid) -> list[slice]:
    """The rows of `total` that are computed together."""
    num_rows = len(rows.weights)
    step = num_rows
    if total.device.type == "cpu":
        num_classes = total.shape[0]
        source_rows = rows.source.stop - rows.source.start
        widest = max(columns.source.stop - columns.source.start, len(columns.weights))
        step = max(1, _BAND_BYTES * num_rows // (4 * num_classes * widest * max(source_rows, num_rows)))
    return [slice(top, min(top + step, num_rows)) for top in range(0, num_rows, step)]


def _probabilities(logits: Tensor, mirrored: Tensor | None, rows: slice, columns: slice) -> Tensor:
    """Part of the probabilities [C, rows, columns], averaged with the mirrored ones if there are any."""
    probabilities = logits[:, rows, columns].float().contiguous().softmax(0)
    if mirrored is not None:
        width = mirrored.shape[2]
        other = mirrored[:, rows, width - columns.stop : width - columns.start].float().contiguous().softmax(0)
        probabilities.add_(other.flip(2)).mul_(0.5)
    return probabilities


def _blocks(lerp: Lerp, device: torch.device) -> list[tuple[slice, Tensor]]:
    """The interpolation of all columns: which are needed for each block of them, and the block's matrix."""
    starts = range(0, len(lerp.weight), _BLOCK)
    parts = [slice(start, min(start + _BLOCK, len(lerp.weight))) for start in starts]
    return [(lerp.source(part), to_device(lerp.matrix(part), device)) for part in parts]


GIB = 2**30
PIXEL, FLOAT, LONG = 4, 4, 8  # bytes; a pixel is three colours and a label
RESIZING = 3  # float32 RGB arrays that exist while a row of tiles is resized


@dataclass(frozen=True)
class Slice:
    """The rows of tiles of each view that are added up together.

    bands: [(view, its rows of tiles), ...]. top: first row held. num_done: rows that are finished afterwards.
    """

    top: int
    bands: tuple[tuple[View, tuple[Span, ...]], ...]
    num_done: int


def slices(views: Sequence[View], height: int, num_rows: int) -> list[Slice]:
    """All rows of tiles, from the top down, in slices of `num_rows` rows, at least those of the highest tile."""
    found: list[Slice] = []
    top = 0
    members: list[tuple[int, Span]] = []
    for number, row in _from_the_top(views):
        if row.out_stop - top > num_rows:
            found.append(_slice(views, top, members, row.out_start))
            top, members = row.out_start, []
        members.append((number, row))
    return [*found, _slice(views, top, members, height)]


def held_at_a_time(
    views: Sequence[View], size: tuple[int, int], num_classes: int, num_tiles: int, max_memory: float
) -> tuple[int, int]:
    """Rows and columns of an image of `size` whose probabilities fit into `max_memory` GiB besides its pixels.

    num_tiles: tiles per step. The network's own memory is extra. Raises ValueError if nothing fits.
    """
    height, width = size
    least_rows, least_columns = (
        max(span.out_stop - span.out_start for view in views for span in along(view))
        for along in (lambda view: view.rows, lambda view: view.columns)
    )
    num_strips = 1
    while True:
        columns = -(-width // num_strips)
        pixels = PIXEL * height * width + max(_resizing(view, size, columns, num_tiles) for view in views)
        per_row = columns * (num_classes * FLOAT + LONG)
        rows = int(min(height, (max_memory * GIB - pixels) / per_row))  # infinite memory is no limit
        if rows >= least_rows:
            return rows, columns
        if columns <= least_columns:
            check_memory(size, num_classes, least_rows * per_row + pixels - PIXEL * height * width, max_memory)
        num_strips += 1


def check_memory(size: tuple[int, int], num_classes: int, besides: int, max_memory: float) -> None:
    """Raises ValueError if an image's pixels, its labels and `besides` bytes do not fit into `max_memory` GiB."""
    height, width = size
    needed = (PIXEL * height * width + besides) / GIB
    if needed > max_memory:
        raise ValueError(
            f"--max_memory {max_memory:g}: an image of {width}x{height} pixels and "
            f"{counted(num_classes, 'class', 'es')} needs {needed:.4g} GiB besides the network; allow more, "
            "or use smaller tiles."
        )


def _from_the_top(views: Sequence[View]) -> list[tuple[int, Span]]:
    rows = [(number, row) for number, view in enumerate(views) for row in view.rows]
    return sorted(rows, key=lambda item: (item[1].out_start, item[1].out_stop))


def _slice(views: Sequence[View], top: int, members: Sequence[tuple[int, Span]], end: int) -> Slice:
    bands = [(view, tuple(row for n, row in members if n == number)) for number, view in enumerate(views)]
    return Slice(top, tuple((view, rows) for view, rows in bands if rows), end - top)


def _resizing(view: View, size: tuple[int, int], columns: int, num_tiles: int) -> int:
    """Bytes of the resized rows of tiles that exist at a time, for this many columns of the image."""
    if view.size == size:
        return 0
    num_bands = min(len(view.rows), -(-num_tiles // len(view.columns)) + 1)
    tile_height, tile_width = (spans[0].stop - spans[0].start for spans in (view.rows, view.columns))
    band_width = min(view.size[1], view.size[1] * columns // size[1] + 2 * tile_width)
    return num_bands * tile_height * band_width * 3 * FLOAT * RESIZING


@dataclass(frozen=True)
class ResizeFilter:
    """How pixels of a resized axis are mixed from source pixels: each from `indices` [n, K] with `weights` [n, K]."""

    indices: Tensor
    weights: Tensor

    def source(self) -> slice:
        """The source pixels that are needed."""
        return slice(int(self.indices.min()), int(self.indices.max()) + 1)


def resize_filter(size: int, new_size: int, part: slice) -> ResizeFilter:
    """The linear filter, widened when shrinking so that no source pixel is skipped, for pixels `part` of the result."""
    step = size / new_size
    reach = max(step, 1.0)
    centers = (torch.arange(part.start, part.stop, dtype=torch.float64) + 0.5) * step
    first = (centers - reach + 0.5).floor().long()
    indices = first[:, None] + torch.arange(int(2 * reach) + 2)
    weights = (1 - ((indices + 0.5 - centers[:, None]) / reach).abs()).clamp(min=0)
    weights[(indices < 0) | (indices >= size)] = 0
    weights /= weights.sum(1, keepdim=True)
    used = weights.amax(0) > 0
    return ResizeFilter(indices.clamp(0, size - 1)[:, used], weights[:, used].float())


def resized_part(image: Tensor, size: tuple[int, int], rows: slice, columns: slice) -> Tensor:
    """Rows and columns of `image` [H, W, 3] resized to `size`: [rows, columns, 3], float32 unless nothing changes."""
    if size == tuple(image.shape[:2]):
        return image[rows, columns]
    by_axis = resize_filter(image.shape[0], size[0], rows), resize_filter(image.shape[1], size[1], columns)
    values = image[by_axis[0].source(), by_axis[1].source()]
    # First the axis after which fewer pixels are left.
    for axis in sorted((0, 1), key=lambda axis: size[axis] / image.shape[axis]):
        values = _mix(values, axis, by_axis[axis])
    return values


def _mix(values: Tensor, axis: int, by: ResizeFilter) -> Tensor:
    offset = by.source().start
    shape = [1] * values.ndim
    shape[axis] = -1
    total: Tensor | None = None
    for k in range(by.indices.shape[1]):
        picked = values.index_select(axis, to_device(by.indices[:, k] - offset, values.device)).float()
        weight = to_device(by.weights[:, k].view(shape), values.device)
        total = picked.mul_(weight) if total is None else total.addcmul_(picked, weight)
    assert total is not None
    return total
