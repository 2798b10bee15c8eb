"""The most probable class of each pixel, from logits or probabilities that may be coarser than the image.

On a CPU this is done a few rows at a time, so that of the arrays of the image's size only the labels leave the cache
(`benchmarks/inference.py` compares it with `argmax`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from inference.sliding_window import Lerp
from utils.device import to_device, upsample

# How many values are handled together.
_BAND = 5 << 18
_WHOLE_GPU, _BAND_GPU = 1 << 28, 1 << 25  # those of the image, or of a part of it if they are more


def most_probable(values: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """The class of the largest value, the first of equal ones: [C, h, w] float -> [h, w] uint8.

    size: rows and columns to upsample the values to beforehand, as `utils.device.upsample` does.
    """
    height, width = size or values.shape[1:]
    if (height, width) != values.shape[1:]:
        return _of_upsampled(values.float().contiguous(), (height, width))
    if values.is_cuda:
        return _first_largest(values)
    labels = torch.empty(height, width, dtype=torch.uint8)
    for band in _bands(values, width):
        labels[band] = _first_largest(values[:, band].float().contiguous())
    return labels


def _of_upsampled(values: Tensor, size: tuple[int, int]) -> Tensor:
    """The labels of `values` [C, h, w] upsampled to `size`: along all rows, and between them where it matters.

    If the same class is the largest in two adjacent rows, it is the largest everywhere between them: it is ahead of
    every other class at both ends. In street scenes that leaves at most a tenth of the pixels to be computed.
    """
    height, width = size
    if values.is_cuda and len(values) * height * width <= _WHOLE_GPU:
        return _first_largest(upsample(values[None], size)[0])  # no synchronisation to learn how many pixels are left
    labels = torch.empty(height, width, dtype=torch.uint8, device=values.device)
    num_rows, lerp = values.shape[1], _aligned_lerp(values.shape[1], height)
    ends = [0, *torch.bincount(lerp.below, minlength=num_rows).cumsum(0).tolist()]  # of the pixels before each row
    for band in _bands(values, width):
        source, part = slice(band.start, min(band.stop + 1, num_rows)), slice(ends[band.start], ends[band.stop])
        rows = upsample(values[None, :, source], (source.stop - source.start, width))[0]
        classes = _first_largest(rows)
        below, above = (to_device(row[part] - band.start, values.device) for row in (lerp.below, lerp.above))
        labels[part] = classes[below]
        pixels = (labels[part] != classes[above]).flatten().nonzero()[:, 0]
        line = pixels // width
        start, end = (rows.flatten(1).index_select(1, row[line] * width + pixels % width) for row in (below, above))
        mixed = torch.lerp(start, end, to_device(lerp.weight[part], values.device)[line])
        labels[part].view(-1)[pixels] = _first_largest(mixed[:, None])[0]
    return labels


def _first_largest(values: Tensor) -> Tensor:
    """`values.argmax(0)` of [C, n, m] as uint8, on a CPU from passes that are fast there: two maxima and a comparison.

    If there is no largest value (NaN): the last class, on a GPU the first that is NaN.
    """
    if values.is_cuda:
        return values.argmax(0).to(torch.uint8)
    num_classes = len(values)
    ranks = torch.arange(num_classes, 0, -1, dtype=torch.uint8, device=values.device)[:, None, None]
    best = (values == values.amax(0)).view(torch.uint8).mul_(ranks).amax(0)
    return (num_classes - best).clamp_(max=num_classes - 1)


def _bands(values: Tensor, width: int) -> list[slice]:
    """The rows of `values`, then `width` wide, that are handled together, to fit a CPU's cache or a GPU's memory."""
    num_rows = values.shape[1]
    step = max(1, (_BAND_GPU if values.is_cuda else _BAND) // (len(values) * width))
    return [slice(top, min(top + step, num_rows)) for top in range(0, num_rows, step)]


def _aligned_lerp(num_rows: int, wanted: int) -> Lerp:
    """Interpolation of `num_rows` to `wanted` rows, the first onto the first and the last onto the last."""
    positions = torch.linspace(0, num_rows - 1, wanted, dtype=torch.float64)
    below = positions.floor().long().clamp(max=num_rows - 1)
    return Lerp(below, (below + 1).clamp(max=num_rows - 1), (positions - below).float())
