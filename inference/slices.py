"""How much of a large image's probabilities is held at a time: a slice of rows, and if necessary a strip of columns.

A slice begins at the first pixel that is not finished and is as high as memory allows; what several rows of tiles
share stays in memory until all of them have been added, so that no tile is computed twice. Only if the tiles of one row
do not fit into memory together is the image cut into strips; tiles across a cut are computed for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inference.tiling import Span, View
from utils.columns import counted

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
