"""Label relaxation as the published code computes it, errors included, to use its learning rates and compare runs.

Its errors: the images of a batch share the weights of their boundaries, so the loss grows with the square of the batch
size; an ignored pixel next to a labelled one is trained as its neighbour; ignored pixels count in the classes' shares;
once relaxation is off, pixels on a boundary count twice.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor

from loss.cross_entropy import at_least_float32, class_weights


def published_target(classes: Tensor, num_classes: int, border: int, strict_classes: Collection[int]) -> Tensor:
    """Multi-hot target of the published code: [B, C + 1, H, W] float32; the last channel is for ignored and outside.

    border: 0 once relaxation is off; the target is then one-hot, and twice that on a boundary (the published
    code was meant to weight boundary pixels once).
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


def published_loss(
    logits: Tensor, target: Tensor, upper_bound: float, batch_weighting: bool, relax: bool = True
) -> Tensor:
    """The published loss, a scalar.

    logits: [B, C, H, W]; target: [B, C + 1, H, W] from `published_target`; relax: False if its border is 0.
    """
    counted = target[:, :-1]
    allowed = counted > 0
    dtype = at_least_float32(logits.dtype)
    channel_counts = target.sum((2, 3))
    weights = class_weights(channel_counts[:, :-1], channel_counts.sum(1), upper_bound, batch_weighting, dtype)
    log_p = F.log_softmax(logits, 1, dtype=dtype)
    used = allowed.any(1)
    # Where nothing is allowed, allowing everything keeps the value and its gradient finite; it is masked out below.
    log_p_set = log_p.masked_fill(~allowed & used.unsqueeze(1), -torch.inf).logsumexp(1)
    weight = (allowed * weights[:, :, None, None]).sum(1)
    # A relaxed pixel is divided by the number of its classes, a pixel of a boundary multiplied by 2; but with the sum
    # over all images of the batch in the place of the image's own number.
    number = counted.sum(1).clamp(min=1)
    shared = (1 / number if relax else number).sum(0, keepdim=True)
    loss = torch.where(used, -shared * weight * log_p_set, 0.0)
    return (loss.sum((1, 2)) / (used.sum((1, 2)) + 1)).sum()
