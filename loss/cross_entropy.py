"""Cross entropy, plain or weighted per image by how rare each class is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from loss.base import Loss
from loss.class_weights import class_weights, count_classes
from loss.inputs import at_least_float32, to_classes
from loss.set_loss import SetTarget
from loss.sets import no_sets


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
    `loss.class_weights`. The batch's loss is the mean over the images that have a labelled pixel, so the batch
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
