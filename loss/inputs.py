"""Checks and conversions of the tensors and options passed to losses."""

from __future__ import annotations

import torch
from torch import Tensor


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
