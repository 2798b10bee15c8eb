"""The loss that a config describes."""

from __future__ import annotations

from collections.abc import Sequence

from config import LossConfig
from datasets.specs.spec import DatasetSpec
from loss.cross_entropy import CrossEntropy, ImageWeightedCrossEntropy, Loss, balanced_weights
from loss.relaxation import RelaxedCrossEntropy
from utils.flags import parse_numbers


def build_loss(config: LossConfig, spec: DatasetSpec, class_pixels: Sequence[int] | None) -> Loss:
    """A module called with (logits [B, C, H, W], labels [B, H, W], relax=True).

    class_pixels: how often each class occurs in the training labels; needed for --class_balance. Raises ValueError for
    flags that exclude each other, change nothing without another one, or name unknown classes.
    """
    _check_flags(config)
    strict_classes = parse_numbers(config.strict_bdr_cls, "--strict_bdr_cls")
    if any(not 0 <= c < spec.num_classes for c in strict_classes):
        raise ValueError(
            f"--strict_bdr_cls {config.strict_bdr_cls}: {spec.name} has train ids 0 to {spec.num_classes - 1}."
        )
    if config.relaxes:
        return RelaxedCrossEntropy(
            spec.num_classes,
            ignore_label=spec.ignore_label,
            border=config.rlx_border,
            strict_classes=strict_classes,
            upper_bound=config.wt_bound if config.jointwtborder else 0.0,
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


def _check_flags(config: LossConfig) -> None:
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
