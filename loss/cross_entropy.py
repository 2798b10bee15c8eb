"""Cross entropy, plain and weighted per image by how rare each class is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loss.class_weights import class_weights, count_classes


def check_inputs(logits: Tensor, labels: Tensor, num_classes: int) -> None:
    """Raise ValueError unless logits are [B, num_classes, H, W] float and labels [B, H, W] integer."""
    if logits.dim() != 4 or logits.shape[1] != num_classes or not logits.is_floating_point():
        raise ValueError(
            f"logits must be floating point [B, {num_classes}, H, W], got {logits.dtype} {list(logits.shape)}."
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integer train ids, got {labels.dtype}.")
    if labels.shape != logits.shape[:1] + logits.shape[2:]:
        raise ValueError(f"labels must be [B, H, W] of the logits {list(logits.shape)}, got {list(labels.shape)}.")


def to_classes(labels: Tensor, num_classes: int, ignore_label: int) -> Tensor:
    """Return labels as int64 with `num_classes` in place of `ignore_label`.

    labels: [B, H, W] integer train ids. On the CPU a value that is neither a class nor `ignore_label` raises
    ValueError. On other devices that look would stall the device, so it is skipped: the data loader has checked.
    """
    classes = labels.long()
    ignored = classes == ignore_label
    if classes.device.type == "cpu":
        wrong = ((classes < 0) | (classes >= num_classes)) & ~ignored
        if wrong.any():
            values = classes[wrong].unique().tolist()
            shown = ", ".join(map(str, values[:10])) + (", ..." if len(values) > 10 else "")
            raise ValueError(
                f"labels hold {shown}: neither a train id (0 to {num_classes - 1}) nor ignore_label {ignore_label}. "
                "Map the label ids to train ids first."
            )
    return classes.masked_fill(ignored, num_classes)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to compute a loss in: half precision is widened, float64 is kept."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def pixel_cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Negative log likelihood of each pixel, 0 where ignored.

    logits: [B, C, H, W]; classes: [B, H, W] int64, C where ignored. Returns [B, H, W], float32 or wider.
    """
    wide = logits.to(at_least_float32(logits.dtype))
    # Summed by the caller: PyTorch's own sum over a label map is not deterministic on CUDA.
    return F.cross_entropy(wide, classes, ignore_index=logits.shape[1], reduction="none")


class CrossEntropy(nn.Module):
    """Mean of `-log softmax` over the pixels of the batch that are not ignored; 0 where there is none.

    class_weights: one per class, for a weighted mean instead; None: all count alike.
    """

    def __init__(self, num_classes: int, ignore_label: int = 255, class_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        weights = torch.ones(num_classes) if class_weights is None else torch.tensor(class_weights)
        if weights.shape != (num_classes,):
            raise ValueError(f"class_weights must be {num_classes} numbers, got {len(weights)}.")
        # The last weight is that of ignored pixels. Not kept in checkpoints: it belongs to the run, not the network.
        self.register_buffer("weights", F.pad(weights, (0, 1)), persistent=False)

    weights: Tensor

    def forward(self, logits: Tensor, labels: Tensor, relax: bool = True) -> Tensor:
        """Return the scalar loss; `relax` is accepted so that all losses are called alike, and changes nothing.

        logits: [B, C, H, W] raw scores; labels: [B, H, W] integer train ids.
        ValueError: wrong shapes, or (on the CPU) a label that is neither a class nor the ignore label.
        """
        check_inputs(logits, labels, self.num_classes)
        classes = to_classes(labels, self.num_classes, self.ignore_label)
        pixel_weights = self.weights[classes]
        total = pixel_weights.sum()
        return (pixel_weights * pixel_cross_entropy(logits, classes)).sum() / torch.where(total > 0, total, 1.0)


class ImageWeightedCrossEntropy(nn.Module):
    """Cross entropy in which the rarer classes of an image count more.

    Each image's loss is the weighted mean of `-log softmax` over its labelled pixels, with the weights of
    `loss.class_weights`. The batch's loss is the mean over the images that have a labelled pixel, so the batch
    size does not change its scale. `published=True` sums over the images instead, as the published code did.

    num_classes: C; ignore_label: train id that is no class; upper_bound: how much more the rarest class counts,
    0 for equal weights; batch_weighting: take the classes' shares over the batch, not image by image.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_label: int = 255,
        upper_bound: float = 1.0,
        batch_weighting: bool = False,
        published: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.upper_bound = upper_bound
        self.batch_weighting = batch_weighting
        self.published = published

    def forward(self, logits: Tensor, labels: Tensor, relax: bool = True) -> Tensor:
        """Return the scalar loss; `relax` is accepted so that all losses are called alike, and changes nothing.

        logits: [B, C, H, W] raw scores; labels: [B, H, W] integer train ids.
        ValueError: wrong shapes, or (on the CPU) a label that is neither a class nor the ignore label.
        """
        check_inputs(logits, labels, self.num_classes)
        classes = to_classes(labels, self.num_classes, self.ignore_label)
        counts = count_classes(classes, self.num_classes)[:, :-1]
        dtype = at_least_float32(logits.dtype)
        weights = class_weights(counts, counts.sum(1), self.upper_bound, self.batch_weighting, dtype)
        pixel_weights = F.pad(weights, (0, 1)).gather(1, classes.flatten(1))
        weighted = (pixel_weights * pixel_cross_entropy(logits, classes).flatten(1)).sum(1)
        # An image without a labelled pixel has a sum of weights of 0, and a loss of 0 / 1.
        used = pixel_weights.sum(1)
        image_losses = weighted / torch.where(used > 0, used, 1.0)
        if self.published:
            return image_losses.sum()
        return image_losses.sum() / (used > 0).sum().clamp(min=1)
