"""Label relaxation: near a boundary, any class found nearby counts as correct (CVPR 2019, section 3.3).

Let S(p) be the classes found within `border` pixels of a pixel p; with a border of 0, its own. Training maximises the
likelihood of the union of S(p): the loss is the sum over pixels of `w(p) * (lse_all - lse_S)`, the difference between
the log-sum-exps over all classes and over S(p). The losses below differ in w(p) alone, which they describe by a weight
of each class in each image and a scale of each pixel. On a GPU the kernels of `loss.relaxation_triton` find the sets
and compute the sum, elsewhere the functions here do.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from utils.device import why_no_triton


def relaxed_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore_label: int = 255,
    border: int = 1,
    strict_classes: Sequence[int] = (),
    upper_bound: float = 1.0,
    batch_weighting: bool = False,
    published: bool = False,
) -> Tensor:
    """Cross entropy with relaxed labels: the mean over the batch's labelled pixels, a scalar; 0 if there are none.

    w(p) is the mean over S(p) of `class_weights`, whose shares are those of the classes in the sets of the image.

    logits: [B, C, H, W] raw scores, any dtype and layout; labels: [B, H, W] integer train ids.
    border: a class is allowed within this many pixels of its region, in a square window; 0 for no relaxation.
    strict_classes: train ids whose pixels are not relaxed.
    upper_bound: how much more the rarest class counts, 0 for equal weights.
    batch_weighting: compute the classes' shares over the whole batch.
    published: as the published code computes it, errors included, to use its learning rates: the images of a batch
        share the weights of their boundaries, so the loss grows with the square of the batch size; an ignored pixel
        next to a labelled one is trained as its neighbour; ignored pixels count in the classes' shares; without
        relaxation, pixels at a boundary count twice.
    ValueError: wrong shapes or types, or (on the CPU) a label that is neither a class nor `ignore_label`.
    """
    repeats = _twice_at_boundaries(labels) if published and border == 0 else None
    sets = _find_sets(logits, labels, ignore_label, border, strict_classes, published, repeats)
    counts = sets.counts[:, : logits.shape[1]]
    if not published:
        return _weighted_sum(logits, sets, _mean_weights(logits, sets, upper_bound, batch_weighting))
    table = class_weights(counts, sets.counts.sum(1), upper_bound, batch_weighting, logits.dtype)
    # A pixel is divided by the number of its classes, or multiplied by its repeats: by the sum over all images of the
    # batch in the place of the image's own number.
    factors = 1 / sets.sizes.clamp(min=1) if repeats is None else repeats.where(labels != ignore_label, 1)
    return _weighted_sum(logits, sets, table / (sets.num_used + 1).unsqueeze(1), factors.to(table.dtype).sum(0))


def image_weighted_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore_label: int = 255,
    upper_bound: float = 1.0,
    batch_weighting: bool = False,
    published: bool = False,
) -> Tensor:
    """Cross entropy in which the rarer classes of an image count more, a scalar.

    An image's loss is the mean over its labelled pixels, weighted by `class_weights`. The batch's loss is the mean over
    the images that have a labelled pixel; published: the sum, as in the published code. Otherwise as
    `relaxed_cross_entropy`.
    """
    sets = _find_sets(logits, labels, ignore_label)
    counts = sets.counts[:, : logits.shape[1]]
    table = class_weights(counts, counts.sum(1), upper_bound, batch_weighting, logits.dtype)
    used = (counts * table).sum(1, keepdim=True)
    table /= torch.where(used > 0, used, 1.0)
    return _weighted_sum(logits, sets, table if published else table / (used > 0).sum().clamp(min=1))


def class_weights(
    counts: Tensor, total: Tensor, upper_bound: float, batch_weighting: bool, dtype: torch.dtype
) -> Tensor:
    """Weight of each class: `1 + upper_bound * (1 - share)`. The weight of an absent class is never used.

    counts: [B, C] how often each class occurs in each image; total: [B] the denominators of the shares.
    batch_weighting: compute shares over the whole batch, so that all images have the same weights.
    Returns [B, C] of `dtype`, but at least float32.
    """
    dtype = torch.promote_types(dtype, torch.float32)
    if batch_weighting:
        counts = counts.sum(0, keepdim=True).expand_as(counts)
        total = total.sum(0, keepdim=True).expand_as(total)
    share = counts.to(dtype) / total.clamp(min=1).to(dtype).unsqueeze(1)
    return 1 + upper_bound * (1 - share)


def check_inputs(logits: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless logits are [B, C, H, W] float and labels [B, H, W] integer."""
    fits = logits.dim() == 4 and labels.shape == logits.shape[:1] + logits.shape[2:]
    if not fits or not logits.is_floating_point() or labels.is_floating_point():
        got = f"{list(logits.shape)} {logits.dtype} and {list(labels.shape)} {labels.dtype}"
        raise ValueError(f"logits must be [B, C, H, W] floating point and labels [B, H, W] integer, got {got}.")


def to_classes(logits: Tensor, labels: Tensor, ignore_label: int) -> Tensor:
    """Labels [B, H, W] of logits [B, C, H, W] as int64, with C in place of `ignore_label`.

    Raises ValueError for wrong shapes or types, and for a label that is neither a class nor `ignore_label`; the latter
    not on a GPU, which the check would stall: the data loader has made it.
    """
    check_inputs(logits, labels)
    num_classes, classes = logits.shape[1], labels.long()
    ignored = classes == ignore_label
    if classes.device.type == "cpu":
        wrong = ((classes < 0) | (classes >= num_classes)) & ~ignored
        if wrong.any():
            values = ", ".join(map(str, classes[wrong].unique().tolist()[:10]))
            known = f"a train id (0 to {num_classes - 1}) nor ignore_label {ignore_label}"
            raise ValueError(f"labels contain {values}: neither {known}. Map the label ids to train ids first.")
    return classes.masked_fill(ignored, num_classes)


class LabelSets(NamedTuple):
    """The sets S(p) of a batch: few pixels are near a boundary, and only for these they are written out.

    own: [B, H, W] int64, the pixel's class, C where ignored.
    places: image, row and column, [N] each, of the pixels whose set may be another one than their own class alone.
    allowed: [N, C] bool, which classes are in the sets there.
    counts: [B, C + 1] how often a class is in an image's sets; last, if published, ignored or outside.
    num_used: [B] pixels whose set is not empty; sizes: [B, H, W] int64, the number of classes in it.
    """

    own: Tensor
    places: tuple[Tensor, ...]
    allowed: Tensor
    counts: Tensor
    num_used: Tensor
    sizes: Tensor


def relaxed_sets(
    classes: Tensor,
    num_classes: int,
    border: int = 0,
    strict_classes: Sequence[int] = (),
    published: bool = False,
    repeats: Tensor | None = None,
) -> LabelSets:
    """The classes allowed at each pixel.

    classes: [B, H, W] int64, `num_classes` where ignored. Neither ignored pixels nor places outside the image add to
    the sets of others; ignored pixels have a set only if `published`. Pixels of `strict_classes` keep their own class.
    repeats: [B, H, W] how often a pixel is counted; default: once.
    """
    batch, columns = len(classes), num_classes + 1
    ignored = classes == num_classes
    cells = classes + torch.arange(batch, device=classes.device).view(-1, 1, 1) * columns
    weights = None if repeats is None else repeats.flatten()
    counts = torch.bincount(cells.flatten(), weights, minlength=batch * columns).view(batch, columns)
    is_strict = torch.isin(classes, classes.new_tensor(list(strict_classes)))
    highest = _window_max(classes.masked_fill(ignored, -1).int(), border)
    lowest = -_window_max(-classes.int(), border)
    places = (torch.where(ignored, (highest >= 0) & published, lowest < highest) & ~is_strict).nonzero(as_tuple=True)
    image, row, column = places
    padded = F.pad(classes, (border,) * 4, value=num_classes)
    allowed = torch.zeros(len(image), columns, dtype=torch.bool, device=classes.device)
    for down, right in itertools.product(range(2 * border + 1), repeat=2):
        allowed.scatter_(1, padded[image, row + down, column + right].unsqueeze(1), True)
    others = allowed.scatter(1, classes[places].unsqueeze(1), False)  # own classes have been counted
    counts.index_add_(0, image, others.to(counts.dtype))
    allowed = allowed[:, :-1]
    if published and border:
        # Outside the image all is ignored: a frame of one pixel stands for it.
        near_ignored = _window_max(F.pad(ignored.int(), (1,) * 4, value=1), border)[:, 1:-1, 1:-1] > 0
        counts[:, -1] = (near_ignored & ~is_strict).sum((1, 2))
    sizes = (~ignored).long().index_put(places, allowed.sum(1))
    return LabelSets(classes, places, allowed, counts, sizes.count_nonzero((1, 2)), sizes)


def _find_sets(logits: Tensor, labels: Tensor, ignore_label: int, *options: Any) -> Any:
    """The sets in the form of whoever computes the loss. options: those of `relaxed_sets`."""
    if kernels := _kernels(logits):
        check_inputs(logits, labels)
        return kernels.class_sets(labels, logits.shape[1], ignore_label, *options)
    return relaxed_sets(to_classes(logits, labels, ignore_label), logits.shape[1], *options)


def _mean_weights(logits: Tensor, sets: Any, upper_bound: float, batch_weighting: bool) -> Tensor:
    """`class_weights`, divided by the number of the batch's labelled pixels: [B, C]."""
    num_classes = logits.shape[1]
    if kernels := _kernels(logits):
        return kernels.mean_weights(sets, num_classes, upper_bound, batch_weighting)
    counts = sets.counts[:, :num_classes]
    table = class_weights(counts, counts.sum(1), upper_bound, batch_weighting, logits.dtype)
    return table / sets.num_used.sum().clamp(min=1)


def _weighted_sum(logits: Tensor, sets: Any, table: Tensor, scale: Tensor | None = None) -> Tensor:
    """The sum over pixels of `w(p) * (lse_all - lse_S)`, a scalar.

    w(p) is the sum over S(p) of the image's row of `table` [B, C], times `scale` [H, W]; the mean if there is no scale.
    """
    if kernels := _kernels(logits):
        return kernels.fused_loss_sum(logits, sets, table, scale)
    own, places, allowed, _, _, sizes = sets
    of_sets = table[places[0]].where(allowed, 0).sum(1)
    of_sets = of_sets / sizes[places] if scale is None else of_sets
    # Ignored pixels weigh nothing.
    weights = F.pad(table, (0, 1)).gather(1, own.flatten(1)).view_as(own).index_put(places, of_sets)
    weights = weights if scale is None else weights * scale
    total: Tensor = _SetLoss.apply(logits, own.clamp(max=logits.shape[1] - 1), weights, allowed, *places)
    return total


class _SetLoss(torch.autograd.Function):
    """The sum of the pixels' losses, with its gradient `weight * (softmax_all - softmax_S)`."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, own: Tensor, weights: Tensor, allowed: Tensor, *places: Tensor) -> Tensor:
        image, row, column = places
        log_p = F.log_softmax(logits, 1, dtype=weights.dtype)
        loss = F.nll_loss(log_p, own, reduction="none")
        chosen = log_p[image, :, row, column].masked_fill(~allowed, -torch.inf)
        loss[places] = -chosen.logsumexp(1)
        ctx.save_for_backward(log_p, own, weights, chosen.softmax(1), *places)
        ctx.dtype = logits.dtype
        return (loss * weights).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        log_p, own, weights, softmax_set, image, row, column = ctx.saved_tensors
        places = image, row, column
        weights = weights * grad
        result = log_p.exp().mul_(weights.unsqueeze(1))
        alone = weights.index_put(places, weights.new_zeros(()))  # pixels with their own class only
        # Neither line writes a position twice, so both are deterministic without accumulation.
        result.scatter_add_(1, own.unsqueeze(1), -alone.unsqueeze(1))
        result[image, :, row, column] -= softmax_set * weights[places].unsqueeze(1)
        return result.to(ctx.dtype), *[None] * 6


def _twice_at_boundaries(labels: Tensor) -> Tensor:
    """[B, H, W] int32: 2 where a pixel's label differs from that of one of its four neighbours, else 1."""
    down, right = labels[:, 1:] != labels[:, :-1], labels[:, :, 1:] != labels[:, :, :-1]
    differs = F.pad(down, (0, 0, 0, 1)) | F.pad(down, (0, 0, 1, 0)) | F.pad(right, (0, 1)) | F.pad(right, (1, 0))
    return 1 + differs.int()


def _window_max(values: Tensor, border: int) -> Tensor:
    """Maximum over the square window of `border` pixels around each place of the last two dimensions."""
    for axis in (-2, -1):
        result = values.clone()
        for step in range(1, min(border + 1, values.shape[axis])):
            overlap = values.shape[axis] - step
            before, after = result.narrow(axis, 0, overlap), result.narrow(axis, step, overlap)
            torch.maximum(before, values.narrow(axis, step, overlap), out=before)
            torch.maximum(after, values.narrow(axis, 0, overlap), out=after)
        values = result
    return values


def _kernels(logits: Tensor) -> Any:
    """The module `loss.relaxation_triton`, if it can compute the loss; not for float64, which only tests use."""
    if not logits.is_cuda or logits.dtype == torch.float64:
        return None
    if problem := why_no_triton():
        warnings.warn(f"{problem}: the loss runs in plain PyTorch, slower.", stacklevel=2)
        return None
    from loss import relaxation_triton  # needs Triton, which comes with PyTorch for CUDA

    return relaxation_triton
