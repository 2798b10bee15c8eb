"""How the logits of a tile are added to the image: softmax, mirror, interpolation and sum in one pass.

On a CPU this is done a few rows at a time, so that only the logits and the sum leave the cache; whole tiles, step by
step, took three times as long.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from inference.tiling import Span
from utils.copies import to_device

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
