"""Where overlapping tiles lie, and how what a network says about one is laid onto the image.

The network sees the image at some scale; its answer is wanted on the image's own grid. Each tile is resampled straight
onto that grid, so that no array of the scaled image's size with a channel per class is ever made.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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


def tile_starts(length: int, tile: int, overlap: float) -> tuple[int, ...]:
    """First pixels of tiles of `tile` pixels spread evenly over `length`; neighbours share `overlap` of one or more.

    One tile starting at 0 where `length` is no more than `tile`.
    """
    if tile < 1 or not 0 <= overlap < 1:
        raise ValueError(f"tiles want a positive side and an overlap from 0 to below 1, got {tile}, {overlap}.")
    if length <= tile:
        return (0,)
    stride = max(1, int(tile * (1 - overlap)))
    num_steps = -(-(length - tile) // stride)
    return tuple(i * (length - tile) // num_steps for i in range(num_steps + 1))


def spans(scaled: int, out: int, tile: int, overlap: float) -> tuple[Span, ...]:
    """The tiles along an axis of `scaled` pixels that shows `out` pixels of the image; they contain them all."""
    tile = min(tile, scaled)
    return tuple(
        Span(start, start + tile, _first_inside(start, scaled, out), _first_inside(start + tile, scaled, out))
        for start in tile_starts(scaled, tile, overlap)
    )


def cover_counts(along: tuple[Span, ...], out: int) -> Tensor:
    """How many tiles contain each of `out` pixels: [out] float32, 1 or more."""
    counts = torch.zeros(out)
    for span in along:
        counts[span.out_slice] += 1
    return counts


def resample(values: Tensor, axis: int, span: Span, scaled: int, out: int) -> Tensor:
    """Interpolate a tile's `values` linearly along `axis` at the centres of the image's pixels it contains."""
    if scaled == out:
        return values
    centers = (torch.arange(span.out_start, span.out_stop, dtype=torch.float64) + 0.5) * (scaled / out) - 0.5
    inside = (centers - span.start).clamp(0, span.stop - span.start - 1)
    below = inside.floor().long()
    above = (below + 1).clamp(max=span.stop - span.start - 1)
    shape = [1] * values.ndim
    shape[axis] = -1
    weight = (inside - below).to(values.dtype).view(shape).to(values.device)
    low = values.index_select(axis, below.to(values.device))
    return low.lerp_(values.index_select(axis, above.to(values.device)), weight)


def _first_inside(edge: int, scaled: int, out: int) -> int:
    # Pixel p lies at (p + 0.5) * scaled / out; in integers, so that neighbours never disagree by rounding.
    return min(out, max(0, -(-(2 * edge * out - scaled) // (2 * scaled))))
