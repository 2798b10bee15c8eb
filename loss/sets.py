"""Which classes label relaxation allows at a pixel: those found within a few pixels of it (CVPR 2019, section 3.3)."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class RelaxedSets(NamedTuple):
    """The sets S(p) of the N pixels where S(p) has more than the pixel's own class.

    pixels: [N] int64, ascending, indices into the flattened [B, H, W].
    members: [K, N] int64, K the size of the largest set. A column holds a pixel's own class, then the other
        members of its set, each once, then C if its set is smaller.
    """

    pixels: Tensor
    members: Tensor


def no_sets(classes: Tensor) -> RelaxedSets:
    """Empty sets: every pixel keeps its own class."""
    empty = classes.new_zeros(0)
    return RelaxedSets(empty, empty.view(1, 0))


def relaxed_sets(classes: Tensor, num_classes: int, border: int, strict_classes: Collection[int] = ()) -> RelaxedSets:
    """Find the pixels near a boundary and the classes allowed there.

    classes: [B, H, W] int64, `num_classes` where ignored. Ignored pixels have no set; neither they nor places outside
    the image add to the sets of others. Pixels of `strict_classes` keep only their own class.
    """
    near_another = _window_has_several(classes, num_classes, border) & (classes != num_classes)
    for strict in strict_classes:
        near_another &= classes != strict
    image, row, column = near_another.nonzero(as_tuple=True)
    height, width = classes.shape[1:]
    padded = F.pad(classes, (border,) * 4, value=num_classes)
    padded_width = width + 2 * border
    centre = (image * (height + 2 * border) + row + border) * padded_width + column + border
    window = padded.flatten()[centre + _window_offsets(border, padded_width, classes.device).unsqueeze(1)]
    return RelaxedSets((image * height + row) * width + column, _distinct(window, num_classes))


def _window_has_several(classes: Tensor, num_classes: int, border: int) -> Tensor:
    """[B, H, W] bool: does the window around the pixel hold two different classes?"""
    ignored = classes == num_classes
    highest = classes.masked_fill(ignored, -1)
    lowest = (num_classes - 1 - classes).masked_fill(ignored, -1)  # mirrored, so that one maximum finds both
    both = torch.stack((highest, lowest)).int()
    both = _sliding_max(_sliding_max(both, 2, border), 3, border)
    return both.sum(0) > num_classes - 1


def _sliding_max(values: Tensor, axis: int, border: int) -> Tensor:
    """Maximum over the positions within `border` along `axis`, in the shape of `values`."""
    result = values.clone()
    for step in range(1, min(border + 1, values.shape[axis])):
        overlap = values.shape[axis] - step
        before, after = result.narrow(axis, 0, overlap), result.narrow(axis, step, overlap)
        torch.maximum(before, values.narrow(axis, step, overlap), out=before)
        torch.maximum(after, values.narrow(axis, 0, overlap), out=after)
    return result


def _window_offsets(border: int, row_stride: int, device: torch.device) -> Tensor:
    """Steps in a flattened map from a pixel to each position of its window, the pixel itself first: int64."""
    reach = torch.arange(-border, border + 1, device=device)
    offsets = (reach.unsqueeze(1) * row_stride + reach).flatten()
    centre = offsets.numel() // 2
    return torch.cat((offsets[centre : centre + 1], offsets[:centre], offsets[centre + 1 :]))


def _distinct(window: Tensor, num_classes: int) -> Tensor:
    """Move the first occurrence of each class in each column to the top and drop repeated and ignored ones.

    window: [positions, N] int64, `num_classes` where ignored. Returns [K, N], padded with `num_classes`.
    """
    is_new = _first_occurrence(window, num_classes)
    rank = is_new.cumsum(0, dtype=torch.int32)
    size = int(rank[-1].max()) if rank.numel() else 1
    position, column = is_new.nonzero(as_tuple=True)
    members = window.new_full((size, window.shape[1]), num_classes)
    members[rank[position, column].long() - 1, column] = window[position, column]
    return members


def _first_occurrence(window: Tensor, num_classes: int) -> Tensor:
    """[positions, N] bool: does the class occur here for the first time in its column? Never true for ignored."""
    is_new = window != num_classes
    bits_per_word = 62
    for first in range(0, num_classes, bits_per_word):
        bit = window - first
        in_word = (bit >= 0) & (bit < bits_per_word)
        bits = (1 << bit.clamp(0, bits_per_word - 1)) * in_word
        seen = torch.zeros_like(bits[0])
        for position, new in zip(bits, is_new, strict=True):
            new &= (seen & position) == 0
            seen |= position
    return is_new
