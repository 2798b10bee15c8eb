"""Label relaxation: near a boundary, any class found nearby counts as right (CVPR 2019, section 3.3).

With S(p) the classes found within `border` pixels of a pixel p, the likelihood that training raises is that of the
union of S(p): the loss is `w(S) * (lse_all - lse_S)`, the difference of the log-sum-exps over all classes and over
S(p), and its gradient `w(S) * (softmax_all - softmax_S)`. Away from boundaries S(p) is the pixel's own class, and
the loss is cross entropy, so only the pixels on a boundary are gathered and given more work. On a GPU the kernels of
`loss.relaxation_triton` compute the same.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Collection
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from loss.class_weights import class_weights, count_classes
from loss.cross_entropy import at_least_float32, check_inputs, to_classes


class RelaxedSets(NamedTuple):
    """The sets S(p) of the N pixels where S(p) has more than the pixel's own class.

    pixels: [N] int64, index into the flattened [B, H, W].
    members: [K, N] int64, K the size of the largest set. A column holds a pixel's own class, then the other
        members of its set, each once, then C where its set is smaller.
    """

    pixels: Tensor
    members: Tensor


def relaxed_sets(classes: Tensor, num_classes: int, border: int, strict_classes: Collection[int] = ()) -> RelaxedSets:
    """Find the pixels near a boundary and the classes allowed there.

    classes: [B, H, W] int64, `num_classes` where ignored. Ignored pixels have no set, and neither they nor the
    outside of the image add to another's. Pixels of `strict_classes` keep their own class alone.
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
    """Keep the first occurrence of each class in each column, without the ignored, moved to the top.

    window: [positions, N] int64, `num_classes` where ignored. Returns [K, N], filled up with `num_classes`.
    """
    is_new = _first_occurrence(window, num_classes)
    rank = is_new.cumsum(0, dtype=torch.int32)
    size = int(rank[-1].max()) if rank.numel() else 1
    position, column = is_new.nonzero(as_tuple=True)
    members = window.new_full((size, window.shape[1]), num_classes)
    members[rank[position, column].long() - 1, column] = window[position, column]
    return members


def _first_occurrence(window: Tensor, num_classes: int) -> Tensor:
    """[positions, N] bool: is the class at this position at no earlier one of its column? Never true for ignored."""
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


class _SetLoss(torch.autograd.Function):
    """Sum over pixels of `weight * (lse_all - lse_S)`, with its gradient written out."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, own: Tensor, weights: Tensor, sets: RelaxedSets) -> Tensor:
        """own: [B, H, W] int64 in 0 ... C-1; weights: [B, H, W], 0 where ignored. Returns a scalar."""
        num_classes, plane = logits.shape[1], logits.shape[2] * logits.shape[3]
        log_p = F.log_softmax(logits, 1, dtype=weights.dtype).contiguous()
        loss = -log_p.gather(1, own.unsqueeze(1)).squeeze(1)
        first = sets.pixels // plane * (num_classes * plane) + sets.pixels % plane
        index = first + sets.members.clamp(max=num_classes - 1) * plane
        is_member = sets.members != num_classes
        chosen = log_p.view(-1)[index].masked_fill(~is_member, -torch.inf)
        log_p_set = chosen.logsumexp(0)
        loss.view(-1)[sets.pixels] = -log_p_set
        softmax_set = (chosen - log_p_set).exp() * weights.view(-1)[sets.pixels]
        used = is_member.nonzero(as_tuple=True)
        ctx.save_for_backward(log_p, own, weights, sets.pixels, index[used], softmax_set[used])
        ctx.dtype = logits.dtype
        return (loss * weights).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        """Gradient with respect to the logits: `weight * (softmax_all - softmax_S)`."""
        log_p, own, weights, pixels, index, softmax_set = ctx.saved_tensors
        scaled = weights * grad
        result = log_p.exp().mul_(scaled.unsqueeze(1))
        scaled.view(-1)[pixels] = 0
        # No position is written twice in either line, so both are deterministic without accumulation.
        result.scatter_(1, own.unsqueeze(1), result.gather(1, own.unsqueeze(1)) - scaled.unsqueeze(1))
        flat = result.view(-1)
        flat[index] -= softmax_set * grad
        return result.to(ctx.dtype), None, None, None


class RelaxedCrossEntropy(nn.Module):
    """Cross entropy with relaxed labels at class boundaries.

    The loss is the mean over the batch's labelled pixels of `w(S) * (lse_all - lse_S)`, 0 where there is none.
    w(S) is the mean over S(p) of the class weights of `loss.class_weights`, whose shares are those of the classes
    in the relaxed sets of the image.

    num_classes: C; ignore_label: train id that is no class.
    border: a class is allowed within this many pixels of its region, in a square window.
    strict_classes: train ids whose own pixels are not relaxed.
    upper_bound: how much more the rarest class counts, 0 for equal weights.
    batch_weighting: take the classes' shares over the batch, not image by image.
    reduction: "mean" over the labelled pixels, or their "sum".
    published: reproduce the published code with its errors; see `published_loss`.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_label: int = 255,
        border: int = 1,
        strict_classes: Collection[int] = (),
        upper_bound: float = 1.0,
        batch_weighting: bool = False,
        reduction: str = "mean",
        published: bool = False,
    ) -> None:
        super().__init__()
        unknown = sorted(c for c in strict_classes if not 0 <= c < num_classes)
        if unknown:
            raise ValueError(f"strict_classes {unknown} are no train ids. Choose from 0 to {num_classes - 1}.")
        if border < 1:
            raise ValueError(f"border must be at least 1 pixel, got {border}. For no relaxation use CrossEntropy.")
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction {reduction!r} is unknown. Choose one of: mean, sum.")
        if published and reduction != "mean":
            raise ValueError("published=True reproduces one recorded reduction: leave reduction at 'mean'.")
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.border = border
        self.strict_classes = tuple(sorted(set(strict_classes)))
        # For the kernels; not kept in checkpoints, since it belongs to the run and not to the network.
        is_strict = torch.zeros(num_classes, dtype=torch.bool)
        is_strict[list(self.strict_classes)] = True
        self.register_buffer("is_strict", is_strict, persistent=False)
        self.upper_bound = upper_bound
        self.batch_weighting = batch_weighting
        self.reduction = reduction
        self.published = published

    is_strict: Tensor

    def forward(self, logits: Tensor, labels: Tensor, relax: bool = True) -> Tensor:
        """Return the scalar loss.

        logits: [B, C, H, W] raw scores; labels: [B, H, W] integer train ids.
        relax: False for the last epochs of training, with class-weighted cross entropy.
        ValueError: wrong shapes, or (on the CPU) a label that is neither a class nor the ignore label.
        """
        check_inputs(logits, labels, self.num_classes)
        if self.published:
            classes = to_classes(labels, self.num_classes, self.ignore_label)
            target = published_target(classes, self.num_classes, self.border if relax else 0, self.strict_classes)
            return published_loss(logits, target, self.upper_bound, self.batch_weighting)
        total, num_labelled = (self._fused if _has_kernels(logits) else self._plain)(logits, labels, relax)
        return total / num_labelled.clamp(min=1) if self.reduction == "mean" else total

    def _plain(self, logits: Tensor, labels: Tensor, relax: bool) -> tuple[Tensor, Tensor]:
        """Sum of the losses and number of labelled pixels, in plain PyTorch."""
        classes = to_classes(labels, self.num_classes, self.ignore_label)
        labelled = classes != self.num_classes
        sets = _no_sets(classes)
        if relax:
            sets = relaxed_sets(classes, self.num_classes, self.border, self.strict_classes)
        weights = self._pixel_weights(classes, sets, at_least_float32(logits.dtype))
        return _SetLoss.apply(logits, classes.masked_fill(~labelled, 0), weights, sets), labelled.sum()

    def _fused(self, logits: Tensor, labels: Tensor, relax: bool) -> tuple[Tensor, Tensor]:
        """The same by the GPU's kernels."""
        from loss.relaxation_triton import fused_loss_sum  # needs Triton, which comes with PyTorch for CUDA

        return fused_loss_sum(
            logits,
            labels,
            self.is_strict,
            ignore_label=self.ignore_label,
            border=self.border if relax else 0,
            upper_bound=self.upper_bound,
            batch_weighting=self.batch_weighting,
        )

    def _pixel_weights(self, classes: Tensor, sets: RelaxedSets, dtype: torch.dtype) -> Tensor:
        """w(S) for each pixel, 0 where ignored: [B, H, W]."""
        num_classes, columns = self.num_classes, self.num_classes + 1
        batch, plane = classes.shape[0], classes[0].numel()
        # A member's cell in a table [B, C + 1]. The own classes are counted everywhere, the others' on top.
        cell = sets.members + sets.pixels // plane * columns
        counts = count_classes(classes, num_classes).flatten() + torch.bincount(
            cell[1:].flatten(), minlength=batch * columns
        )
        present = counts.view(batch, columns)[:, :-1]  # the last column counts the ignored, and the empty places
        table = class_weights(present, present.sum(1), self.upper_bound, self.batch_weighting, dtype)
        table = F.pad(table, (0, 1))
        weights = table.gather(1, classes.flatten(1)).flatten()
        weights[sets.pixels] = table.flatten()[cell].sum(0) / (sets.members != num_classes).sum(0)
        return weights.view_as(classes)


def _has_kernels(logits: Tensor) -> bool:
    """Whether `loss.relaxation_triton` computes the loss of these logits; float64 is for tests and stays here."""
    if not logits.is_cuda or logits.dtype == torch.float64:
        return False
    if importlib.util.find_spec("triton") is None:
        warnings.warn("Triton is not installed: label relaxation runs in plain PyTorch, slower.", stacklevel=2)
        return False
    return True


def _no_sets(classes: Tensor) -> RelaxedSets:
    """Sets for no pixel at all: every pixel keeps its own class."""
    empty = classes.new_zeros(0)
    return RelaxedSets(empty, empty.view(1, 0))


def published_target(classes: Tensor, num_classes: int, border: int, strict_classes: Collection[int]) -> Tensor:
    """Multi-hot target of the published code: [B, C + 1, H, W] float32, the last channel for ignored and outside.

    border: 0 once the relaxation is off; the target is then one-hot, and twice that on a boundary (the published
    code meant to weight boundary pixels once).
    """
    one_hot = F.one_hot(classes, num_classes + 1).permute(0, 3, 1, 2).float()
    if border == 0:
        same = torch.ones_like(classes, dtype=torch.bool)
        for axis in (1, 2):
            size = classes.shape[axis] - 1
            equal = classes.narrow(axis, 0, size) == classes.narrow(axis, 1, size)
            same.narrow(axis, 0, size).logical_and_(equal)
            same.narrow(axis, 1, size).logical_and_(equal)
        return one_hot * torch.where(same, 1.0, 2.0).unsqueeze(1)
    outside = F.pad(one_hot, (border,) * 4)
    outside[:, -1] = F.pad(one_hot[:, -1], (border,) * 4, value=1.0)
    target = F.max_pool2d(outside, 2 * border + 1, 1)
    for strict in strict_classes:
        target = torch.where((classes == strict).unsqueeze(1), one_hot, target)
    return target


def published_loss(logits: Tensor, target: Tensor, upper_bound: float, batch_weighting: bool) -> Tensor:
    """Relaxed loss as the published code computes it, errors included, to compare against its runs.

    Its errors: the images of a batch share their border weights, so the loss grows with the square of the batch
    size; an ignored pixel beside a labelled one is trained as its neighbour; ignored pixels count in the shares.

    logits: [B, C, H, W]; target: [B, C + 1, H, W] of `published_target`. Returns a scalar.
    """
    allowed = target[:, :-1] > 0
    dtype = at_least_float32(logits.dtype)
    channel_counts = target.sum((2, 3))
    counts = channel_counts[:, :-1]
    weights = class_weights(counts, channel_counts.sum(1), upper_bound, batch_weighting, dtype)
    log_p = F.log_softmax(logits, 1, dtype=dtype)
    used = allowed.any(1)
    # Where nothing is allowed, allowing everything keeps the value and its gradient finite; it is left out below.
    log_p_set = log_p.masked_fill(~allowed & used.unsqueeze(1), -torch.inf).logsumexp(1)
    weight = (target[:, :-1] * weights[:, :, None, None]).sum(1)
    shared = (1 / allowed.sum(1).clamp(min=1)).sum(0, keepdim=True)
    loss = torch.where(used, -shared * weight * log_p_set, 0.0)
    return (loss.sum((1, 2)) / (used.sum((1, 2)) + 1)).sum()
