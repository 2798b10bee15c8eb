"""The loss that a config describes."""

from __future__ import annotations

from torch import nn

from config import LossConfig, parse_numbers
from datasets.spec import DatasetSpec
from loss.cross_entropy import CrossEntropy, ImageWeightedCrossEntropy
from loss.relaxation import RelaxedCrossEntropy


def build_loss(config: LossConfig, spec: DatasetSpec) -> nn.Module:
    """A module called with (logits [B, C, H, W], labels [B, H, W], relax=True). Raises ValueError for odd flags."""
    if config.jointwtborder and config.img_wt_loss:
        raise ValueError("--jointwtborder and --img_wt_loss exclude each other; give one of them.")
    if config.jointwtborder:
        return RelaxedCrossEntropy(
            spec.num_classes,
            ignore_label=spec.ignore_label,
            border=config.rlx_border,
            strict_classes=parse_numbers(config.strict_bdr_cls, "--strict_bdr_cls"),
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
    return CrossEntropy(spec.num_classes, ignore_label=spec.ignore_label)
