"""The loss that a config describes."""

from __future__ import annotations

from collections.abc import Sequence

from config import LossConfig
from datasets.spec import DatasetSpec
from loss.base import Loss
from loss.class_weights import balanced_weights
from loss.cross_entropy import CrossEntropy, ImageWeightedCrossEntropy
from loss.relaxation import RelaxedCrossEntropy
from utils.flags import parse_numbers


def build_loss(config: LossConfig, spec: DatasetSpec, class_pixels: Sequence[int] | None) -> Loss:
    """A module called with (logits [B, C, H, W], labels [B, H, W], relax=True). Raises ValueError for invalid flags.

    class_pixels: how often each class occurs in the training labels; needed for --class_balance.
    """
    if config.class_balance and (config.jointwtborder or config.img_wt_loss):
        raise ValueError("--class_balance is for plain cross entropy; leave out --jointwtborder and --img_wt_loss.")
    if config.jointwtborder and config.img_wt_loss:
        raise ValueError("--jointwtborder and --img_wt_loss exclude each other; give one of them.")
    strict_classes = parse_numbers(config.strict_bdr_cls, "--strict_bdr_cls")
    if strict_classes and not config.jointwtborder:
        raise ValueError("--strict_bdr_cls excludes classes from label relaxation, which needs --jointwtborder.")
    if any(not 0 <= c < spec.num_classes for c in strict_classes):
        raise ValueError(
            f"--strict_bdr_cls {config.strict_bdr_cls}: {spec.name} has train ids 0 to {spec.num_classes - 1}."
        )
    if config.jointwtborder:
        return RelaxedCrossEntropy(
            spec.num_classes,
            ignore_label=spec.ignore_label,
            border=config.rlx_border,
            strict_classes=strict_classes,
            upper_bound=config.wt_bound,
            batch_weighting=config.batch_weighting,
            published=config.published_loss,
        )
    if config.img_wt_loss:
        return ImageWeightedCrossEntropy(
            spec.num_classes,
            ignore_label=spec.ignore_label,
            upper_bound=config.wt_bound,
            batch_weighting=config.batch_weighting,
            published=config.published_loss,
        )
    weights = balanced_weights(class_pixels, config.class_balance) if class_pixels and config.class_balance else None
    return CrossEntropy(spec.num_classes, ignore_label=spec.ignore_label, class_weights=weights)
