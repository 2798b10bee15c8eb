"""Label relaxation: near a boundary, any class found nearby counts as correct (CVPR 2019, section 3.3).

Let S(p) be the classes found within `border` pixels of a pixel p. Training maximises the likelihood of the union of
S(p): the loss is `w(S) * (lse_all - lse_S)`, the difference between the log-sum-exps over all classes and over
S(p). On a GPU the kernels of `loss.relaxation_triton` compute it, elsewhere `loss.cross_entropy`.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor

from loss.cross_entropy import (
    Loss,
    RelaxedSets,
    SetTarget,
    at_least_float32,
    class_weights,
    count_classes,
    no_sets,
    to_classes,
)
from loss.published import published_loss, published_target
from utils.device import why_no_triton


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


class RelaxedCrossEntropy(Loss):
    """Cross entropy with relaxed labels at class boundaries.

    The loss is the mean of `w(S) * (lse_all - lse_S)` over the batch's labelled pixels, 0 if there are none.
    w(S) is the mean over S(p) of the class weights from `loss.cross_entropy`, whose shares are those of the classes
    in the relaxed sets of the image.

    num_classes: C; ignore_label: train id of pixels to ignore.
    border: a class is allowed within this many pixels of its region, in a square window.
    strict_classes: train ids whose pixels are not relaxed.
    upper_bound: how much more the rarest class counts, 0 for equal weights.
    batch_weighting: compute the classes' shares over the batch, not per image.
    published: compute it as the published code does (`loss.published`).
    ValueError: a border below 1, or strict classes that are not train ids.
    """

    is_strict: Tensor

    def __init__(
        self,
        num_classes: int,
        ignore_label: int = 255,
        border: int = 1,
        strict_classes: Collection[int] = (),
        upper_bound: float = 1.0,
        batch_weighting: bool = False,
        published: bool = False,
    ) -> None:
        super().__init__(num_classes, ignore_label)
        unknown = sorted(c for c in strict_classes if not 0 <= c < num_classes)
        if unknown:
            raise ValueError(f"strict_classes {unknown} are not train ids. Choose from 0 to {num_classes - 1}.")
        if border < 1:
            raise ValueError(f"border must be at least 1 pixel, got {border}. For no relaxation use CrossEntropy.")
        self.border, self.strict_classes = border, tuple(sorted(set(strict_classes)))
        # For kernels; not kept in checkpoints, since it belongs to the run and not to the network.
        is_strict = torch.zeros(num_classes, dtype=torch.bool)
        is_strict[list(self.strict_classes)] = True
        self.register_buffer("is_strict", is_strict, persistent=False)
        self.upper_bound = upper_bound
        self.batch_weighting = batch_weighting
        self.published = published

    def compare(self, logits: Tensor, labels: Tensor, relax: bool) -> Tensor:
        """See `Loss.compare`; without `relax` it is class-weighted cross entropy."""
        if self.published:
            classes = to_classes(labels, self.num_classes, self.ignore_label)
            target = published_target(classes, self.num_classes, self.border if relax else 0, self.strict_classes)
            return published_loss(logits, target, self.upper_bound, self.batch_weighting, relax)
        if _has_kernels(logits):
            return self._fused(logits, labels, relax)
        return super().compare(logits, labels, relax)

    def target(self, labels: Tensor, relax: bool, dtype: torch.dtype) -> SetTarget:
        """See `Loss.target`."""
        classes = to_classes(labels, self.num_classes, self.ignore_label)
        labelled = classes != self.num_classes
        sets = no_sets(classes)
        if relax:
            sets = relaxed_sets(classes, self.num_classes, self.border, self.strict_classes)
        weights = self._pixel_weights(classes, sets, at_least_float32(dtype))
        weights /= labelled.sum().clamp(min=1)
        return SetTarget(classes.masked_fill(~labelled, 0), weights, sets)

    def _fused(self, logits: Tensor, labels: Tensor, relax: bool) -> Tensor:
        from loss.relaxation_triton import fused_loss_sum  # needs Triton, which comes with PyTorch for CUDA

        with torch.cuda.device_of(logits):  # Triton launches on the current device, wherever the tensors are
            total, num_labelled = fused_loss_sum(
                logits,
                labels,
                self.is_strict,
                ignore_label=self.ignore_label,
                border=self.border if relax else 0,
                upper_bound=self.upper_bound,
                batch_weighting=self.batch_weighting,
            )
        return total / num_labelled.clamp(min=1)

    def _pixel_weights(self, classes: Tensor, sets: RelaxedSets, dtype: torch.dtype) -> Tensor:
        """w(S) for each pixel, 0 where ignored: [B, H, W]."""
        num_classes, columns = self.num_classes, self.num_classes + 1
        batch, plane = classes.shape[0], classes[0].numel()
        # A member's cell in a table [B, C + 1]. Own classes are counted at every pixel, other members added.
        cell = sets.members + sets.pixels // plane * columns
        counts = count_classes(classes, num_classes).flatten() + torch.bincount(
            cell[1:].flatten(), minlength=batch * columns
        )
        present = counts.view(batch, columns)[:, :-1]  # the last column counts ignored pixels and empty places
        table = class_weights(present, present.sum(1), self.upper_bound, self.batch_weighting, dtype)
        table = F.pad(table, (0, 1))
        weights = table.gather(1, classes.flatten(1)).flatten()
        weights[sets.pixels] = table.flatten()[cell].sum(0) / (sets.members != num_classes).sum(0)
        return weights.view_as(classes)


def _has_kernels(logits: Tensor) -> bool:
    """Whether `loss.relaxation_triton` can compute the loss; not for float64, which only tests use."""
    if not logits.is_cuda or logits.dtype == torch.float64:
        return False
    if problem := why_no_triton():
        warnings.warn(f"{problem}: label relaxation runs in plain PyTorch, slower.", stacklevel=2)
        return False
    return True
