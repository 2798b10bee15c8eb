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

_BAND_ROWS, _BAND_ROWS_GPU = 32, 512  # on a GPU each band costs launches


def most_probable(values: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """The class of the largest value, the first where several are: [C, h, w] float -> [h, w] uint8.

    size: rows and columns to upsample the values to beforehand, as `utils.upsampling.upsample` does.
    """
    height, width = size or values.shape[1:]
    labels = torch.empty(height, width, dtype=torch.uint8, device=values.device)
    if (height, width) == values.shape[1:]:
        for band in _bands(height, values.device):
            labels[band] = _first_largest(values[:, band].float().contiguous())
        return labels
    values, taps = values.float().contiguous(), _aligned_taps(values.shape[1], height)
    for band in _bands(height, values.device):
        needed = values[None, :, taps.source(band)]
        wide = upsample(needed, (needed.shape[2], width))[0]
        labels[band] = _first_largest(to_device(taps.matrix(band).T, values.device) @ wide)
    return labels


def _first_largest(values: Tensor) -> Tensor:
    """`values.argmax(0)` of [C, n, m] as uint8, from passes that are fast on a CPU: two maxima and a comparison.

    Where there is no largest value (NaN), the last class.
    """
    num_classes = len(values)
    ranks = torch.arange(num_classes, 0, -1, dtype=torch.uint8, device=values.device)[:, None, None]
    best = (values == values.amax(0)).view(torch.uint8).mul_(ranks).amax(0)
    return (num_classes - best).clamp_(max=num_classes - 1)


def _bands(num_rows: int, device: torch.device) -> list[slice]:
    step = _BAND_ROWS if device.type == "cpu" else _BAND_ROWS_GPU
    return [slice(top, min(top + step, num_rows)) for top in range(0, num_rows, step)]


def _aligned_taps(num_rows: int, wanted: int) -> Taps:
    """Interpolation of `num_rows` to `wanted` rows, the first onto the first and the last onto the last."""
    positions = torch.linspace(0, num_rows - 1, wanted, dtype=torch.float64)
    below = positions.floor().long().clamp(max=num_rows - 1)
    return Taps(below, (below + 1).clamp(max=num_rows - 1), (positions - below).float())
