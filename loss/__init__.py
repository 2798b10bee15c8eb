"""Training losses: functions of logits and labels with options. `build_loss` chooses what a config describes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from config import LossConfig
from datasets.specs.spec import DatasetSpec
from loss.relaxation import image_weighted_cross_entropy, relaxed_cross_entropy, to_classes
from utils.flags import parse_numbers

# (logits [B, C, H, W], labels [B, H, W] integer train ids) -> the loss, a scalar.
Loss = Callable[[Tensor, Tensor], Tensor]


def build_loss(
    config: LossConfig, spec: DatasetSpec, device: torch.device, class_pixels: Sequence[int] | None = None
) -> tuple[Loss, Loss]:
    """The loss, and the one from --rlx_off_epoch on, which is the same but for the relaxation.

    class_pixels: how often each class occurs in the training labels; needed for --class_balance. Raises ValueError for
    flags that exclude each other, change nothing without another one, or name unknown classes.
    """
    _check_options(config)
    strict_classes = parse_numbers(config.strict_bdr_cls, "--strict_bdr_cls")
    if any(not 0 <= c < spec.num_classes for c in strict_classes):
        raise ValueError(
            f"--strict_bdr_cls {config.strict_bdr_cls}: {spec.name} has train ids 0 to {spec.num_classes - 1}."
        )
    weighs = config.jointwtborder or config.img_wt_loss
    options: dict[str, Any] = {
        "ignore_label": spec.ignore_label,
        "upper_bound": config.wt_bound if weighs else 0.0,
        "batch_weighting": config.batch_weighting,
        "published": config.published_loss,
    }
    losses: tuple[Loss, Loss]
    if config.relaxes:
        relaxed = partial(relaxed_cross_entropy, strict_classes=strict_classes, **options)
        losses = partial(relaxed, border=config.rlx_border), partial(relaxed, border=0)
    elif config.img_wt_loss:
        losses = (partial(image_weighted_cross_entropy, **options),) * 2
    else:
        weights = None
        if class_pixels and config.class_balance:
            weights = torch.tensor(balanced_weights(class_pixels, config.class_balance), device=device)
        losses = (partial(cross_entropy, ignore_label=spec.ignore_label, class_weights=weights),) * 2
    if not config.jaccard:
        return losses
    together = partial(plus_soft_jaccard, weight=config.jaccard, ignore_label=spec.ignore_label)
    return partial(together, losses[0]), partial(together, losses[1])


def cross_entropy(
    logits: Tensor, labels: Tensor, *, ignore_label: int = 255, class_weights: Tensor | None = None
) -> Tensor:
    """`F.cross_entropy` in at least float32: the mean over the batch's labelled pixels, but 0 if there are none.

    logits: [B, C, H, W] raw scores; labels: [B, H, W] integer train ids; class_weights: [C], for a weighted mean.
    """
    classes, num_classes = to_classes(logits, labels, ignore_label), logits.shape[1]
    log_p = F.log_softmax(logits, 1, dtype=torch.promote_types(logits.dtype, torch.float32))
    weights = logits.new_ones(num_classes, dtype=log_p.dtype) if class_weights is None else class_weights
    # Not reduction="sum", which on a GPU gives other bits each time.
    total = F.nll_loss(log_p, classes, weights, ignore_index=num_classes, reduction="none").sum()
    used = F.pad(weights, (0, 1))[classes].sum()
    return total / torch.where(used > 0, used, 1.0)


def soft_jaccard(logits: Tensor, labels: Tensor, *, ignore_label: int = 255) -> Tensor:
    """1 - IoU with probabilities as members (Rahman and Wang, ISVC 2016): the mean over the classes in the labels.

    logits: [B, C, H, W] raw scores; labels: [B, H, W] integer train ids. The IoU is that of the whole batch. A class
    counts alike however few pixels it has: cross entropy gains little from a pole, this loss as much as from the road.
    """
    classes, num_classes = to_classes(logits, labels, ignore_label).unsqueeze(1), logits.shape[1]
    p = logits.softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32)) * (classes < num_classes)
    members = classes == torch.arange(num_classes, device=logits.device).view(1, -1, 1, 1)
    sizes, common = members.sum((0, 2, 3)), (p * members).sum((0, 2, 3))
    iou = common / (p.sum((0, 2, 3)) + sizes - common).clamp(min=1)
    return ((1 - iou) * (sizes > 0)).sum() / (sizes > 0).sum().clamp(min=1)


def plus_soft_jaccard(loss: Loss, logits: Tensor, labels: Tensor, *, weight: float, ignore_label: int) -> Tensor:
    """`loss`, and `weight` times `soft_jaccard`."""
    return loss(logits, labels) + weight * soft_jaccard(logits, labels, ignore_label=ignore_label)


def balanced_weights(pixels: Sequence[int], power: float) -> list[float]:
    """Weight of each class over a whole data set: (median share / share) ** power, 1 for a class without pixels.

    Power 1 is the median of the classes' shares / share, over the whole set (Eigen and Fergus, ICCV 2015, count only
    images that show the class); 0.5 goes half the way. pixels: how often each class occurs.
    """
    median = statistics.median([count for count in pixels if count] or [1])
    return [(median / count) ** power if count else 1.0 for count in pixels]


def _check_options(config: LossConfig) -> None:
    losses = ("relax", "jointwtborder", "img_wt_loss", "class_balance")
    chosen = [f"--{loss}" for loss in losses if getattr(config, loss)]
    if len(chosen) > 1:
        raise ValueError(f"{' and '.join(chosen)} exclude each other; give one of them.")
    weighs = config.jointwtborder or config.img_wt_loss
    for flag, is_used, needed in (
        ("strict_bdr_cls", config.relaxes, "--relax or --jointwtborder"),
        ("rlx_border", config.relaxes, "--relax or --jointwtborder"),
        ("wt_bound", weighs, "--jointwtborder or --img_wt_loss"),
        ("batch_weighting", weighs and config.wt_bound, "--jointwtborder or --img_wt_loss with a --wt_bound above 0"),
        ("published_loss", config.relaxes or weighs, "--relax, --jointwtborder or --img_wt_loss"),
    ):
        if not is_used and getattr(config, flag) != getattr(LossConfig, flag):
            raise ValueError(f"--{flag} changes nothing without {needed}; add that, or leave --{flag} out.")
