"""The most probable class of each pixel, from logits or probabilities that may be coarser than the image.

This happens a few rows at a time, so that on a CPU nothing as large as the image leaves the cache but the labels
(`benchmarks/inference.py` compares it with `argmax`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from inference.laying import Taps
from utils.gpu import to_device
from utils.upsampling import upsample

_BAND_ROWS = 32
_BAND_VALUES_GPU = 1 << 28  # 1 GiB


def most_probable(values: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """The class of the largest value, the first where several are: [C, h, w] float -> [h, w] uint8.

    size: rows and columns to upsample the values to beforehand, as `utils.upsampling.upsample` does.
    """
    height, width = size or values.shape[1:]
    labels = torch.empty(height, width, dtype=torch.uint8, device=values.device)
    bands = _bands(values, height, width)
    if (height, width) == values.shape[1:]:
        for band in bands:
            labels[band] = _first_largest(values[:, band].float().contiguous())
        return labels
    values, taps = values.float().contiguous(), _aligned_taps(values.shape[1], height)
    if len(bands) == 1:
        return _first_largest(upsample(values[None], (height, width))[0])
    for band in bands:
        needed = values[None, :, taps.source(band)]
        wide = upsample(needed, (needed.shape[2], width))[0]
        labels[band] = _first_largest(to_device(taps.matrix(band).T, values.device) @ wide)
    return labels


def _first_largest(values: Tensor) -> Tensor:
    """`values.argmax(0)` of [C, n, m] as uint8, on a CPU from passes that are fast there: two maxima and a comparison.

    Where there is no largest value (NaN), the last class, or on a GPU the first that is none.
    """
    if values.is_cuda:
        return values.argmax(0).to(torch.uint8)
    num_classes = len(values)
    ranks = torch.arange(num_classes, 0, -1, dtype=torch.uint8, device=values.device)[:, None, None]
    best = (values == values.amax(0)).view(torch.uint8).mul_(ranks).amax(0)
    return (num_classes - best).clamp_(max=num_classes - 1)


def _bands(values: Tensor, num_rows: int, num_columns: int) -> list[slice]:
    """The rows that are computed together: few enough for a CPU's cache, or for a GPU's memory."""
    step = max(1, _BAND_VALUES_GPU // (len(values) * num_columns)) if values.is_cuda else _BAND_ROWS
    return [slice(top, min(top + step, num_rows)) for top in range(0, num_rows, step)]


def _aligned_taps(num_rows: int, wanted: int) -> Taps:
    """Interpolation of `num_rows` to `wanted` rows, the first onto the first and the last onto the last."""
    positions = torch.linspace(0, num_rows - 1, wanted, dtype=torch.float64)
    below = positions.floor().long().clamp(max=num_rows - 1)
    return Taps(below, (below + 1).clamp(max=num_rows - 1), (positions - below).float())
