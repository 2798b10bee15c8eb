"""Cross entropy, plain or weighted per image by how rare each class is."""

from __future__ import annotations

import statistics
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


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


def check_inputs(logits: Tensor, labels: Tensor, num_classes: int) -> None:
    """Raise ValueError unless logits are [B, num_classes, H, W] float and labels [B, H, W] integer."""
    if logits.dim() != 4 or logits.shape[1] != num_classes or not logits.is_floating_point():
        raise ValueError(
            f"logits must be floating point [B, {num_classes}, H, W], got {logits.dtype} {list(logits.shape)}."
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integer train ids, got {labels.dtype}.")
    if labels.shape != logits.shape[:1] + logits.shape[2:]:
        raise ValueError(f"labels must match [B, H, W] of the logits {list(logits.shape)}, got {list(labels.shape)}.")


def to_classes(labels: Tensor, num_classes: int, ignore_label: int) -> Tensor:
    """Return labels as int64 with `num_classes` in place of `ignore_label`.

    labels: [B, H, W] integer train ids. On the CPU a value that is neither a class nor `ignore_label` raises
    ValueError. On other devices the check would stall the device, so it is skipped: the data loader has checked.
    """
    classes = labels.long()
    ignored = classes == ignore_label
    if classes.device.type == "cpu":
        wrong = ((classes < 0) | (classes >= num_classes)) & ~ignored
        if wrong.any():
            values = classes[wrong].unique().tolist()
            shown = ", ".join(map(str, values[:10])) + (", ..." if len(values) > 10 else "")
            raise ValueError(
                f"labels contain {shown}: neither a train id (0 to {num_classes - 1}) nor ignore_label {ignore_label}. "
                "Map the label ids to train ids first."
            )
    return classes.masked_fill(ignored, num_classes)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute a loss in: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def count_classes(classes: Tensor, num_classes: int) -> Tensor:
    """Count the pixels of each class, image by image.

    classes: [B, ...] int64 in 0 ... `num_classes`, where `num_classes` itself stands for "ignored".
    Returns [B, num_classes + 1] int64; the last column counts the ignored pixels.
    """
    batch, columns = classes.shape[0], num_classes + 1
    image = torch.arange(batch, device=classes.device).view(-1, *[1] * (classes.dim() - 1))
    return torch.bincount((classes + image * columns).flatten(), minlength=batch * columns).view(batch, columns)


def balanced_weights(pixels: Sequence[int], power: float) -> list[float]:
    """Weight of each class over a whole data set: (median share / share) ** power, 1 for a class without pixels.

    Power 1 is the median of the classes' shares / share, over the whole set (Eigen and Fergus, ICCV 2015, count only
    images that show the class); 0.5 goes half the way. pixels: how often each class occurs.
    """
    median = statistics.median([count for count in pixels if count] or [1])
    return [(median / count) ** power if count else 1.0 for count in pixels]


def class_weights(
    counts: Tensor, total: Tensor, upper_bound: float, batch_weighting: bool, dtype: torch.dtype
) -> Tensor:
    """Weight of each class: `1 + upper_bound * (1 - share)`. The weight of an absent class is never used.

    counts: [B, C] how often each class occurs in each image; total: [B] the denominators of the shares.
    batch_weighting: compute shares over the whole batch, so that all images have the same weights.
    Returns [B, C] of `dtype`.
    """
    if batch_weighting:
        counts = counts.sum(0, keepdim=True).expand_as(counts)
        total = total.sum(0, keepdim=True).expand_as(total)
    share = counts.to(dtype) / total.clamp(min=1).to(dtype).unsqueeze(1)
    return 1 + upper_bound * (1 - share)


class SetTarget(NamedTuple):
    """The target that the logits of a batch are compared with.

    own: [B, H, W] int64 in 0 ... C-1, the pixel's class; any class where ignored.
    weights: [B, H, W] float32 or float64, 0 where ignored.
    sets: the pixels with further allowed classes.
    """

    own: Tensor
    weights: Tensor
    sets: RelaxedSets


def set_loss(logits: Tensor, target: SetTarget) -> Tensor:
    """The sum over pixels, a scalar of the weights' dtype. logits: [B, C, H, W], any dtype, layout and device."""
    total: Tensor = _SetLoss.apply(logits, *target)
    return total


class _SetLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, own: Tensor, weights: Tensor, sets: RelaxedSets) -> Tensor:
        log_p = F.log_softmax(logits, 1, dtype=weights.dtype).contiguous()
        total, softmax_set = _compare(log_p, SetTarget(own, weights, sets))
        ctx.save_for_backward(log_p, own, weights, *sets, softmax_set)
        ctx.dtype = logits.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        log_p, own, weights, pixels, members, softmax_set = ctx.saved_tensors
        target = SetTarget(own, weights * grad, RelaxedSets(pixels, members))
        return _gradient(log_p.exp(), target, softmax_set * grad).to(ctx.dtype), None, None, None


def _compare(log_p: Tensor, target: SetTarget) -> tuple[Tensor, Tensor]:
    """The summed loss, and `weight * softmax_S` [K, N] of the sets' members.

    log_p: [B, C, H, W] contiguous, log probabilities.
    """
    own, weights, sets = target
    loss = -log_p.gather(1, own.unsqueeze(1)).squeeze(1)
    chosen = log_p.view(-1)[_positions(sets, log_p.shape)]
    chosen.masked_fill_(sets.members == log_p.shape[1], -torch.inf)
    log_p_set = chosen.logsumexp(0)
    loss.view(-1)[sets.pixels] = -log_p_set
    softmax_set = (chosen - log_p_set).exp() * weights.reshape(-1)[sets.pixels]
    return (loss * weights).sum(), softmax_set


def _gradient(probabilities: Tensor, target: SetTarget, softmax_set: Tensor) -> Tensor:
    """`weight * (softmax_all - softmax_S)` [B, C, H, W], written over the contiguous `probabilities`."""
    own, weights, sets = target
    own, weights = own.unsqueeze(1), weights.unsqueeze(1)
    result = probabilities.mul_(weights)
    alone = weights.clone(memory_format=torch.contiguous_format)  # pixels with their own class only
    alone.view(-1)[sets.pixels] = 0
    # Neither line writes a position twice, so both are deterministic without accumulation.
    result.scatter_(1, own, result.gather(1, own) - alone)
    used = (sets.members != result.shape[1]).nonzero(as_tuple=True)
    result.view(-1)[_positions(sets, result.shape)[used]] -= softmax_set[used]
    return result


def _positions(sets: RelaxedSets, shape: torch.Size) -> Tensor:
    """Positions of the sets' members in the flattened logits [B, C, H, W]: [K, N]; arbitrary for empty places."""
    num_classes, plane = shape[1], shape[2] * shape[3]
    first = sets.pixels // plane * (num_classes * plane) + sets.pixels % plane
    return first + sets.members.clamp(max=num_classes - 1) * plane


class Loss(nn.Module, ABC):
    """A loss of logits against integer labels.

    num_classes: C; ignore_label: train id of pixels to ignore.
    """

    def __init__(self, num_classes: int, ignore_label: int = 255) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ignore_label = ignore_label

    def forward(self, logits: Tensor, labels: Tensor, relax: bool = True) -> Tensor:
        """Return the scalar loss.

        logits: [B, C, H, W] raw scores; labels: [B, H, W] integer train ids.
        relax: whether labels are relaxed; False for the last epochs of training. Losses without relaxation accept and
        ignore it, so that all losses are called alike.
        ValueError: wrong shapes, or (on the CPU) a label that is neither a class nor the ignore label.
        """
        check_inputs(logits, labels, self.num_classes)
        return self.compare(logits, labels, relax)

    def compare(self, logits: Tensor, labels: Tensor, relax: bool) -> Tensor:
        """The loss, a scalar, of logits and labels whose shapes and types have been checked."""
        return set_loss(logits, self.target(labels, relax, logits.dtype))

    @abstractmethod
    def target(self, labels: Tensor, relax: bool, dtype: torch.dtype) -> SetTarget:
        """What logits of `dtype` are compared with. labels: [B, H, W] integer train ids."""


def own_class_target(classes: Tensor, weights: Tensor, num_classes: int) -> SetTarget:
    """Only the own class is correct. classes: [B, H, W] int64, `num_classes` where ignored; weights: [B, H, W]."""
    return SetTarget(classes.masked_fill(classes == num_classes, 0), weights, no_sets(classes))


class CrossEntropy(Loss):
    """Mean of `-log softmax` over the labelled pixels of the batch; 0 if there are none.

    class_weights: one per class, for a weighted mean instead; None: all classes count equally.
    """

    def __init__(self, num_classes: int, ignore_label: int = 255, class_weights: Sequence[float] | None = None) -> None:
        super().__init__(num_classes, ignore_label)
        weights = torch.ones(num_classes) if class_weights is None else torch.tensor(class_weights)
        if weights.shape != (num_classes,):
            raise ValueError(f"class_weights must be {num_classes} numbers, got {len(weights)}.")
        # The last weight is that of ignored pixels. Not kept in checkpoints: it belongs to the run, not the network.
        self.register_buffer("weights", F.pad(weights, (0, 1)), persistent=False)

    weights: Tensor

    def target(self, labels: Tensor, relax: bool, dtype: torch.dtype) -> SetTarget:
        """See `Loss.target`."""
        classes = to_classes(labels, self.num_classes, self.ignore_label)
        weights = self.weights.to(at_least_float32(dtype))[classes]
        total = weights.sum()
        return own_class_target(classes, weights / torch.where(total > 0, total, 1.0), self.num_classes)


class ImageWeightedCrossEntropy(Loss):
    """Cross entropy in which the rarer classes of an image count more.

    An image's loss is the weighted mean of `-log softmax` over its labelled pixels, with the weights from
    `loss.cross_entropy`. The batch's loss is the mean over the images that have a labelled pixel, so the batch
    size does not change its scale. `published=True` sums over the images instead, as the published code does.

    num_classes: C; ignore_label: train id of pixels to ignore; upper_bound: how much more the rarest class counts,
    0 for equal weights; batch_weighting: compute the classes' shares over the batch, not per image.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_label: int = 255,
        upper_bound: float = 1.0,
        batch_weighting: bool = False,
        published: bool = False,
    ) -> None:
        super().__init__(num_classes, ignore_label)
        self.upper_bound = upper_bound
        self.batch_weighting = batch_weighting
        self.published = published

    def target(self, labels: Tensor, relax: bool, dtype: torch.dtype) -> SetTarget:
        """See `Loss.target`."""
        classes = to_classes(labels, self.num_classes, self.ignore_label)
        counts = count_classes(classes, self.num_classes)[:, :-1]
        table = class_weights(counts, counts.sum(1), self.upper_bound, self.batch_weighting, at_least_float32(dtype))
        weights = F.pad(table, (0, 1)).gather(1, classes.flatten(1))
        used = weights.sum(1, keepdim=True)
        weights /= torch.where(used > 0, used, 1.0)  # an image without labelled pixels gets weights 0 / 1
        if not self.published:
            weights /= (used > 0).sum().clamp(min=1)
        return own_class_target(classes, weights.view_as(classes), self.num_classes)
