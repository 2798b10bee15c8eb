"""What a network says about an image: probabilities averaged over scales, mirror images and overlapping tiles."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import TypeVar, overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inference.tiling import cover_counts, resample, spans
from utils.device import resolve_device
from utils.images import Uint8Array
from utils.precision import normalise

# The trunks halve the image up to five times; below this they would see less than a pixel of it.
MIN_SIDE = 32

Item = TypeVar("Item")


class Predictor:
    """A network made ready for whole images of any size, in evaluation mode on one device.

    scales: the image is shown at these scales, the probabilities are averaged. flip: average with the mirrored image.
    tile: side of the tiles the scaled image is cut into, in pixels; None: whole. overlap: share of a tile that its
    neighbour covers too. batch_size: tiles per step. amp: dtype to autocast to; None: float32.
    mean, std: of each channel, for RGB in 0..1.
    """

    def __init__(
        self,
        net: nn.Module,
        num_classes: int,
        *,
        device: str | torch.device = "auto",
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        tile: int | None = None,
        overlap: float = 1 / 3,
        batch_size: int = 1,
        amp: torch.dtype | None = None,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales must be positive, got {tuple(scales)}.")
        if tile is not None and tile < 1:
            raise ValueError(f"the tile's side must be positive, got {tile}.")
        if not 0 <= overlap < 1:
            raise ValueError(f"the tiles' overlap must be 0 or more and below 1, got {overlap}.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}.")
        self.device = resolve_device(device) if isinstance(device, str) else device
        self.net = net.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.num_classes = num_classes
        self.scales = tuple(scales)
        self.flip = flip
        self.tile = tile
        self.overlap = overlap
        self.batch_size = batch_size
        self.amp = amp
        self.mean = tuple(mean)
        self.std = tuple(std)

    @overload
    def probabilities(self, image: Uint8Array) -> Tensor: ...
    @overload
    def probabilities(self, image: Sequence[Uint8Array]) -> list[Tensor]: ...
    def probabilities(self, image: Uint8Array | Sequence[Uint8Array]) -> Tensor | list[Tensor]:
        """Class probabilities [C, H, W] float32, on the device, of an RGB image [H, W, 3] uint8; a list for a list."""
        if isinstance(image, np.ndarray):
            return self._probabilities(image)
        return [self._probabilities(one) for one in image]

    @overload
    def labels(self, image: Uint8Array) -> Tensor: ...
    @overload
    def labels(self, image: Sequence[Uint8Array]) -> list[Tensor]: ...
    def labels(self, image: Uint8Array | Sequence[Uint8Array]) -> Tensor | list[Tensor]:
        """Most probable train ids [H, W] uint8, on the device, of an RGB image [H, W, 3] uint8; a list for a list."""
        if isinstance(image, np.ndarray):
            return self._probabilities(image).argmax(0).to(torch.uint8)
        return [self.labels(one) for one in image]

    @torch.inference_mode()
    def _probabilities(self, image: Uint8Array) -> Tensor:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise ValueError(f"an image is [H, W, 3] uint8, got {list(image.shape)} {image.dtype}.")
        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(self.device).permute(2, 0, 1)
        normalised = normalise(pixels[None], self.mean, self.std)[0]
        total = torch.zeros(self.num_classes, *image.shape[:2], device=self.device)
        for scale in self.scales:
            self._add_scale(total, _rescaled(normalised, scale))
        return total

    def _add_scale(self, total: Tensor, image: Tensor) -> None:
        """Add the probabilities [C, H, W] seen at one scale to `total`, divided by the number of scales."""
        (height, width), (scaled_height, scaled_width) = total.shape[1:], image.shape[1:]
        rows = spans(scaled_height, height, self.tile or scaled_height, self.overlap)
        columns = spans(scaled_width, width, self.tile or scaled_width, self.overlap)
        row_weights = 1 / (cover_counts(rows, height) * len(self.scales)).to(self.device)
        column_weights = 1 / cover_counts(columns, width).to(self.device)
        for tiles in batches(list(product(rows, columns)), self.batch_size):
            shown = torch.stack([image[:, row.start : row.stop, column.start : column.stop] for row, column in tiles])
            for values, (row, column) in zip(self._forward(shown), tiles, strict=True):
                values = resample(values, 1, row, scaled_height, height)
                values = resample(values, 2, column, scaled_width, width)
                values.mul_(row_weights[row.out_slice, None]).mul_(column_weights[column.out_slice])
                total[:, row.out_slice, column.out_slice] += values

    def _forward(self, images: Tensor) -> Tensor:
        """Probabilities [B, C, H, W] float32 of normalised images [B, 3, H, W]."""
        height, width = images.shape[2:]
        # Normalised, the mean colour is 0.
        images = F.pad(images, (0, max(0, MIN_SIDE - width), 0, max(0, MIN_SIDE - height)))
        probabilities = self._softmax(images)
        if self.flip:
            probabilities = (probabilities + self._softmax(images.flip(3)).flip(3)) / 2
        return probabilities[:, :, :height, :width]

    def _softmax(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, dtype=self.amp, enabled=self.amp is not None):
            logits = self.net(images.contiguous(memory_format=torch.channels_last))
        assert logits.shape[1] == self.num_classes, f"{logits.shape[1]} logits for {self.num_classes} classes"
        return logits.float().softmax(1)


def batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """`items` in groups of `size`; the last may be smaller."""
    for i in range(0, len(items), size):
        yield items[i : i + size]


def _rescaled(image: Tensor, scale: float) -> Tensor:
    """`image` [3, H, W] at `scale`, 1 pixel at least; one filter for all scales: linear, widened when shrinking."""
    size = tuple(max(1, math.floor(side * scale + 0.5)) for side in image.shape[1:])
    if size == tuple(image.shape[1:]):
        return image
    return F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]

