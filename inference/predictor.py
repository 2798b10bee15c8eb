"""Predict an image with a network: probabilities averaged over scales, mirrored images and overlapping tiles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar, overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inference.argmax import most_probable
from inference.settings import MAX_MEMORY, OVERLAP
from inference.sliding_window import (
    FLOAT,
    Span,
    View,
    add_tile,
    check_memory,
    held_at_a_time,
    laid,
    resized_part,
    slices,
    views,
)
from utils.device import normalise, resolve_device, uploaded, upsample
from utils.images import Uint8Array
from utils.memory import give_back_freed_memory, is_out_of_memory

# The trunks halve the image up to five times; below this, less than one pixel would be left.
MIN_SIDE = 32

Item = TypeVar("Item")


@dataclass(frozen=True)
class Tile:
    """One input of the network, cut from a view of the image. pixels: [h, w, 3], values 0..255, uint8 or float32."""

    row: Span
    column: Span
    pixels: Tensor


class Predictor:
    """Applies a network, in evaluation mode on one device, to whole images of any size.

    net: normalised images [B, 3, H, W] -> logits [B, C, H, W], or coarser ones, which are upsampled here.

    scales: the image is predicted at these scales, and the probabilities are averaged. flip: average with the mirrored
    image. tile: side of the tiles that the scaled image is cut into, in pixels; None: whole. overlap: share of a tile
    that its neighbour also covers. batch_size: tiles per step. max_memory: GiB that an image's pixels and
    probabilities may take; the network's own memory, which depends on tile and batch size, is extra. amp: dtype to
    autocast to; None: float32. mean, std: of each channel, for RGB in 0..1.
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
        overlap: float = OVERLAP,
        batch_size: int = 1,
        max_memory: float = MAX_MEMORY,
        amp: torch.dtype | None = None,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales must be positive, got {tuple(scales)}.")
        if tile is not None and tile < 1:
            raise ValueError(f"the side of a tile must be positive, got {tile}.")
        if not 0 <= overlap < 1:
            raise ValueError(f"the overlap of tiles must be at least 0 and below 1, got {overlap}.")
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
        self.max_memory = max_memory
        self.amp = amp
        self.mean = tuple(map(float, mean))
        self.std = tuple(map(float, std))
        self._size_before: tuple[int, ...] | None = None

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
            return self._labels(image)
        return [self._labels(one) for one in image]

    @torch.inference_mode()
    def _probabilities(self, image: Uint8Array) -> Tensor:
        pixels, seen = self._shown(image)
        height, width = image.shape[:2]
        check_memory((height, width), self.num_classes, self.num_classes * FLOAT * height * width, self.max_memory)
        _, probabilities = next(self._strip(pixels, seen, slice(0, width), height))
        return probabilities

    @torch.inference_mode()
    def _labels(self, image: Uint8Array) -> Tensor:
        pixels, seen = self._shown(image)
        height, width = image.shape[:2]
        if self._is_seen_once(seen, (height, width)):  # nothing to average: the largest logit decides
            check_memory((height, width), self.num_classes, 0, self.max_memory)
            logits = self._network_logits(normalise(pixels.permute(2, 0, 1)[None], self.mean, self.std))
            check_memory((height, width), self.num_classes, logits.nbytes, self.max_memory)
            return most_probable(logits[0], _padded_size(height, width))[:height, :width]
        rows, columns = held_at_a_time(seen, (height, width), self.num_classes, self.batch_size, self.max_memory)
        labels = torch.empty(height, width, dtype=torch.uint8, device=self.device)
        for left in range(0, width, columns):
            strip = slice(left, min(left + columns, width))
            for top, probabilities in self._strip(pixels, seen, strip, rows):
                labels[top : top + probabilities.shape[1], strip] = most_probable(probabilities)
        return labels

    def _is_seen_once(self, seen: Sequence[View], size: tuple[int, int]) -> bool:
        """Whether the network sees only the unscaled, whole image, once."""
        num_tiles = sum(len(view.rows) * len(view.columns) for view in seen)
        return num_tiles == 1 and seen[0].size == size and not self.flip

    def _shown(self, image: Uint8Array) -> tuple[Tensor, list[View]]:
        """The image [H, W, 3] uint8 on the device, and its views for the network."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise ValueError(f"an image must be [H, W, 3] uint8, got {list(image.shape)} {image.dtype}.")
        if image.shape != self._size_before:
            give_back_freed_memory()
            self._size_before = image.shape
        return uploaded(image, self.device), views(image.shape[:2], self.scales, self.tile, self.overlap, self.device)

    def _strip(self, pixels: Tensor, seen: Sequence[View], strip: slice, num_rows: int) -> Iterator[tuple[int, Tensor]]:
        """(first row, finished probabilities [C, rows, columns of the strip]), from the top down.

        num_rows: how many rows are held at a time. Each array is valid until the next one is requested.
        """
        total = torch.zeros(self.num_classes, num_rows, strip.stop - strip.start, device=self.device)
        parts = slices(seen, pixels.shape[0], num_rows)
        for part in parts:
            for view, rows in part.bands:
                for tiles in batches(cut_tiles(pixels, view, rows, strip), self.batch_size):
                    self._add(total, tiles, view, part.top, strip)
            yield part.top, total[:, : part.num_done]
            if part is not parts[-1]:
                _move_up(total, part.num_done)

    def _add(self, total: Tensor, tiles: Sequence[Tile], view: View, top: int, strip: slice) -> None:
        """Add the prediction of the tiles to `total`, which begins at row `top` and covers a strip."""
        shown = normalise(torch.stack([tile.pixels for tile in tiles]).permute(0, 3, 1, 2), self.mean, self.std)
        logits = self._logits(shown)
        mirrored = self._logits(shown.flip(3)) if self.flip else [None] * len(tiles)
        for tile, of_tile, of_mirrored in zip(tiles, logits, mirrored, strict=True):
            left, right = max(tile.column.out_start, strip.start), min(tile.column.out_stop, strip.stop)
            rows = laid(tile.row, view.size[0], view.row_weights, tile.row.out_slice)
            columns = laid(tile.column, view.size[1], view.column_weights, slice(left, right))
            part = total[:, tile.row.out_start - top : tile.row.out_stop - top]
            add_tile(part[:, :, left - strip.start : right - strip.start], of_tile, of_mirrored, rows, columns)

    def _logits(self, images: Tensor) -> Tensor:
        """Logits [B, C, H, W] float32 of normalised images [B, 3, H, W]."""
        height, width = images.shape[2:]
        logits = self._network_logits(images).float().contiguous()
        size = _padded_size(height, width)
        if logits.shape[2:] != size:
            logits = upsample(logits, size)
        return logits[:, :, :height, :width]

    def _network_logits(self, images: Tensor) -> Tensor:
        """The network's own output for normalised images [B, 3, H, W]: logits [B, C, h, w].

        They cover the padded images; they may be coarser than those, and of another float type.
        """
        height, width = images.shape[2:]
        rows, columns = _padded_size(height, width)
        images = F.pad(images, (0, columns - width, 0, rows - height))  # with 0, the mean colour after normalisation
        with torch.autocast(self.device.type, dtype=self.amp, enabled=self.amp is not None):
            logits: Tensor = self.net(images.contiguous(memory_format=torch.channels_last))
        assert logits.shape[1] == self.num_classes, f"{logits.shape[1]} logits for {self.num_classes} classes"
        return logits


def _padded_size(height: int, width: int) -> tuple[int, int]:
    """The size an image of `height` x `width` is padded to for the network."""
    return max(MIN_SIDE, height), max(MIN_SIDE, width)


def cut_tiles(pixels: Tensor, view: View, rows: Sequence[Span], strip: slice) -> Iterator[Tile]:
    """The tiles of a view that touch a strip of the image's columns, row by row. pixels: the image [H, W, 3]."""
    columns = [c for c in view.columns if c.out_start < strip.stop and c.out_stop > strip.start]
    left, right = columns[0].start, columns[-1].stop
    for row in rows:
        band = resized_part(pixels, view.size, slice(row.start, row.stop), slice(left, right))
        for column in columns:
            yield Tile(row, column, band[:, column.start - left : column.stop - left])


def batches(items: Iterable[Item], size: int) -> Iterator[Sequence[Item]]:
    """`items` in groups of `size`; the last may be smaller."""
    waiting = iter(items)
    while group := tuple(islice(waiting, size)):
        yield group


def _move_up(total: Tensor, num_rows: int) -> None:
    """Drop the first rows of `total` [C, H, W], move the others up, fill with 0."""
    for plane in total:  # plane by plane, to copy less at a time
        kept = plane[num_rows:].clone()
        plane[: len(kept)] = kept
        plane[len(kept) :] = 0


@contextmanager
def errors_naming(picture: Path) -> Iterator[None]:
    """Around the prediction of `picture`: turns its ValueErrors and out-of-memory errors into ValueErrors naming it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{picture}: {error}") from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(f"{picture}: too large for the device's memory; use smaller tiles.") from error
