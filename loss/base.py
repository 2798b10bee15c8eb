"""The interface of every loss, and the common part of those that are sums over pixels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection

import torch
from torch import Tensor, nn

from loss.inputs import check_inputs
from loss.set_loss import SetTarget, set_loss


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

    @abstractmethod
    def compare(self, logits: Tensor, labels: Tensor, relax: bool) -> Tensor:
        """The loss, a scalar, of logits and labels whose shapes and types have been checked."""


class SetLoss(Loss):
    """A loss that is a sum over pixels, as `loss.set_loss` computes it."""

    def compare(self, logits: Tensor, labels: Tensor, relax: bool) -> Tensor:
        """See `Loss.compare`."""
        return set_loss(logits, self.target(labels, relax, logits.dtype))

    @abstractmethod
    def target(self, labels: Tensor, relax: bool, dtype: torch.dtype) -> SetTarget:
        """The target that logits of `dtype` are compared with. labels: [B, H, W] integer train ids."""


class RelaxedLoss(Loss):
    """A loss that allows several classes near a boundary.

    num_classes: C; ignore_label: train id of pixels to ignore.
    border: a class is allowed within this many pixels of its region, in a square window.
    strict_classes: train ids whose pixels are not relaxed.
    upper_bound: how much more the rarest class counts, 0 for equal weights.
    batch_weighting: compute the classes' shares over the batch, not per image.
    ValueError: a border below 1, or strict classes that are not train ids.
    """

    is_strict: Tensor

    def __init__(
        self,
        num_classes: int,
        ignore_label: int = 255,
        border: int = 1,
        strict_classes: Collection[int] = (),
        upper_bound: float = 1.0,
        batch_weighting: bool = False,
    ) -> None:
        super().__init__(num_classes, ignore_label)
        unknown = sorted(c for c in strict_classes if not 0 <= c < num_classes)
        if unknown:
            raise ValueError(f"strict_classes {unknown} are not train ids. Choose from 0 to {num_classes - 1}.")
        if border < 1:
            raise ValueError(f"border must be at least 1 pixel, got {border}. For no relaxation use CrossEntropy.")
        self.border, self.strict_classes = border, tuple(sorted(set(strict_classes)))
        # For kernels; not kept in checkpoints, since it belongs to the run and not to the network.
        is_strict = torch.zeros(num_classes, dtype=torch.bool)
        is_strict[list(self.strict_classes)] = True
        self.register_buffer("is_strict", is_strict, persistent=False)
        self.upper_bound = upper_bound
        self.batch_weighting = batch_weighting
