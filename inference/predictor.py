"""Predict an image with a network: averaged over scales, mirrored images and overlapping tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inference.confidence import soften
from inference.settings import MAX_MEMORY, OVERLAP
from inference.sliding_window import FLOAT, View, blend, check_memory, find_views, fit_chunk, resize
from utils.device import give_back_freed_memory, normalise, resolve_device, to_device, upsample
from utils.images import Uint8Array

# The trunks halve the image up to five times; below this, less than one pixel would be left.
MIN_SIDE = 32

# How many values `most_probable` handles together, to fit a CPU's cache or a GPU's memory.
_BAND = 5 << 18
_WHOLE_GPU, _BAND_GPU = 1 << 28, 1 << 25  # those of the image, or of a part of it if they are more


class Predictor:
    """Applies a network, in evaluation mode on one device, to whole images of any size.

    net: normalised images [B, 3, H, W] -> logits [B, C, H, W], or coarser ones, which are upsampled here.

    scales: the image is predicted at these scales, and the probabilities are averaged. flip: average with the mirrored
    image. tile: side of the tiles that the scaled image is cut into, in pixels; None: whole. overlap: share of a tile
    that its neighbour also covers. batch_size: tiles per step. max_memory: GiB that an image's pixels and
    probabilities may take; the network's own memory, which depends on tile and batch size, is extra. amp: dtype to
    autocast to; None: float32. mean, std: of each channel, for RGB in 0..1. temperature: that the probabilities are
    softened with, see `inference.confidence`. confidence: whether `predict` tells it too.
    """

    def __init__(
        self, net: nn.Module, num_classes: int, *, mean: Sequence[float], std: Sequence[float],
        device: str | torch.device = "auto", scales: Sequence[float] = (1.0,), flip: bool = False,
        tile: int | None = None, overlap: float = OVERLAP, batch_size: int = 1, max_memory: float = MAX_MEMORY,
        amp: torch.dtype | None = None, temperature: float = 1.0, confidence: bool = False,
    ) -> None:  # fmt: skip
        if min(scales, default=0) <= 0 or batch_size < 1 or (tile is not None and tile < 1) or not 0 <= overlap < 1:
            raise ValueError("scales, batch_size and tile must be positive, --sliding_overlap at least 0 and below 1.")
        self.device = resolve_device(device) if isinstance(device, str) else device
        self.net = net.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.num_classes, self.mean, self.std = num_classes, tuple(map(float, mean)), tuple(map(float, std))
        self.scales, self.flip, self.tile, self.overlap = tuple(scales), flip, tile, overlap
        self.batch_size, self.max_memory, self.amp = batch_size, max_memory, amp
        self.temperature, self.confidence = temperature, confidence
        self._shape_before: tuple[int, ...] | None = None

    @torch.inference_mode()
    def predict(self, image: Uint8Array) -> Tensor:
        """Most probable train ids [H, W] uint8, on the device, of an RGB image [H, W, 3] uint8.

        With `confidence` [2, H, W] uint8: the train ids, and the probability of each in 255ths.
        """
        pixels, views = self._upload(image)
        height, width = image.shape[:2]
        size = (height, width)
        num_tiles = sum(len(view.rows) * len(view.columns) for view in views)
        if num_tiles == 1 and views[0].size == size and not (self.flip or self.confidence):  # the largest logit decides
            check_memory(size, 0, self.max_memory)
            logits = self._network_logits(normalise(pixels.permute(2, 0, 1)[None], self.mean, self.std))
            check_memory(size, logits.nbytes, self.max_memory)
            return most_probable(logits[0], _padded_size(height, width))[:height, :width]
        found = torch.empty(2 if self.confidence else 1, *size, dtype=torch.uint8, device=self.device)
        num_rows = fit_chunk(views, size, self.num_classes, self.max_memory)
        for top, probabilities in self._chunks(pixels, views, num_rows):
            rows = found[:, top : top + probabilities.shape[1]]
            rows[0] = most_probable(probabilities)
            for band in _bands(probabilities, width) if self.confidence else ():
                rows[1, band] = soften(probabilities[:, band], self.temperature).amax(0).mul_(255).round_()
        return found if self.confidence else found[0]

    @torch.inference_mode()
    def probabilities(self, image: Uint8Array) -> Tensor:
        """Class probabilities [C, H, W] float32, on the device, of an RGB image [H, W, 3] uint8."""
        pixels, views = self._upload(image)
        height, width = image.shape[:2]
        check_memory((height, width), self.num_classes * FLOAT * height * width, self.max_memory)
        [(_, probabilities)] = self._chunks(pixels, views, height)
        return soften(probabilities, self.temperature)

    def _upload(self, image: Uint8Array) -> tuple[Tensor, list[View]]:
        """The image [H, W, 3] uint8 on the device, and its views for the network."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise ValueError(f"an image must be [H, W, 3] uint8, got {list(image.shape)} {image.dtype}.")
        if image.shape != self._shape_before:
            give_back_freed_memory()
            self._shape_before = image.shape
        views = find_views(image.shape[:2], self.scales, self.tile, self.overlap, self.device)
        return to_device(image, self.device), views

    def _chunks(self, pixels: Tensor, views: Sequence[View], num_rows: int) -> Iterator[tuple[int, Tensor]]:
        """(first row, finished probabilities [C, rows, W]), from the top down.

        pixels: the image [H, W, 3]. num_rows: how many rows are held at a time, at least those of the highest tile.
        Each array is valid until the next one is requested.
        """
        height, width = pixels.shape[:2]
        total = torch.zeros(self.num_classes, num_rows, width, device=self.device)
        top = 0
        from_the_top = sorted(((view, row) for view in views for row in view.rows), key=lambda item: item[1].out_start)
        for view, row in from_the_top:
            if row.out_stop - top > num_rows:  # no later tile reaches above this one
                num_done = row.out_start - top
                yield top, total[:, :num_done]
                top = row.out_start
                for plane in total:  # move up, class by class, to copy less at a time
                    kept = plane[num_done:].clone()
                    plane[: len(kept)] = kept
                    plane[len(kept) :] = 0
            band = resize(pixels, view.size, slice(row.start, row.stop), slice(0, view.size[1]))
            for first in range(0, len(view.columns), self.batch_size):
                columns = view.columns[first : first + self.batch_size]
                tiles = torch.stack([band[:, column.start : column.stop] for column in columns])
                images = normalise(tiles.permute(0, 3, 1, 2), self.mean, self.std)
                logits = self._logits(images)
                mirrored = self._logits(images.flip(3)) if self.flip else [None] * len(columns)
                for column, of_tile, of_mirrored in zip(columns, logits, mirrored, strict=True):
                    blend(total, of_tile, of_mirrored, view, row, column, top)
        yield top, total[:, : height - top]

    def _logits(self, images: Tensor) -> Tensor:
        """Logits [B, C, H, W] float32 of normalised images [B, 3, H, W]."""
        height, width = images.shape[2:]
        logits = upsample(self._network_logits(images).float().contiguous(), _padded_size(height, width))
        return logits[:, :, :height, :width]

    def _network_logits(self, images: Tensor) -> Tensor:
        """The network's own output for the padded images: logits [B, C, h, w], maybe coarser, of any float type."""
        height, width = images.shape[2:]
        rows, columns = _padded_size(height, width)
        images = F.pad(images, (0, columns - width, 0, rows - height))  # with 0, the mean colour after normalisation
        with torch.autocast(self.device.type, dtype=self.amp, enabled=self.amp is not None):
            logits: Tensor = self.net(images.contiguous(memory_format=torch.channels_last))
        assert logits.shape[1] == self.num_classes, f"{logits.shape[1]} logits for {self.num_classes} classes"
        return logits


def _padded_size(height: int, width: int) -> tuple[int, int]:
    return max(MIN_SIDE, height), max(MIN_SIDE, width)


def most_probable(values: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """The class of the largest value, the first of equal ones: [C, h, w] float -> [h, w] uint8.

    size: rows and columns to upsample the values to beforehand, as `utils.device.upsample` does. On a CPU a few rows at
    a time, so that of the arrays of the image's size only the classes leave the cache.
    """
    height, width = size or values.shape[1:]
    if (height, width) != values.shape[1:]:
        return _of_upsampled(values.float().contiguous(), (height, width))
    if values.is_cuda:
        return _first_largest(values)
    classes = torch.empty(height, width, dtype=torch.uint8)
    for band in _bands(values, width):
        classes[band] = _first_largest(values[:, band].float().contiguous())
    return classes


def _of_upsampled(values: Tensor, size: tuple[int, int]) -> Tensor:
    """The classes of `values` [C, h, w] upsampled to `size`: along all rows, and between them where it matters.

    If the same class is the largest in two adjacent rows, it is the largest everywhere between them: it is ahead of
    every other class at both ends. In street scenes that leaves at most a tenth of the pixels to be computed.
    """
    height, width = size
    if values.is_cuda and len(values) * height * width <= _WHOLE_GPU:
        return _first_largest(upsample(values[None], size)[0])  # no synchronisation to learn how many pixels are left
    classes = torch.empty(height, width, dtype=torch.uint8, device=values.device)
    num_rows = values.shape[1]
    # Each row of the result lies between two of `values`, the first on the first and the last on the last.
    positions = torch.linspace(0, num_rows - 1, height, dtype=torch.float64)
    above = positions.floor().long().clamp(max=num_rows - 1)
    below, weights = (above + 1).clamp(max=num_rows - 1), (positions - above).float()
    ends = [0, *torch.bincount(above, minlength=num_rows).cumsum(0).tolist()]  # of the results before each row
    for band in _bands(values, width):
        source, part = slice(band.start, min(band.stop + 1, num_rows)), slice(ends[band.start], ends[band.stop])
        rows = upsample(values[None, :, source], (source.stop - source.start, width))[0]
        of_rows = _first_largest(rows)
        first, second = (to_device(row[part] - band.start, values.device) for row in (above, below))
        classes[part] = of_rows[first]
        pixels = (classes[part] != of_rows[second]).flatten().nonzero()[:, 0]
        line = pixels // width
        start, end = (rows.flatten(1).index_select(1, row[line] * width + pixels % width) for row in (first, second))
        mixed = torch.lerp(start, end, to_device(weights[part], values.device)[line])
        classes[part].view(-1)[pixels] = _first_largest(mixed[:, None])[0]
    return classes


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
    """The rows of `values`, then `width` wide, that are handled together."""
    num_rows = values.shape[1]
    step = max(1, (_BAND_GPU if values.is_cuda else _BAND) // (len(values) * width))
    return [slice(top, min(top + step, num_rows)) for top in range(0, num_rows, step)]
