"""The interface of every loss, and the common part of those that are sums over pixels."""

from __future__ import annotations

from abc import ABC, abstractmethod

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

    def compare(self, logits: Tensor, labels: Tensor, relax: bool) -> Tensor:
        """The loss, a scalar, of logits and labels whose shapes and types have been checked."""
        return set_loss(logits, self.target(labels, relax, logits.dtype))

    @abstractmethod
    def target(self, labels: Tensor, relax: bool, dtype: torch.dtype) -> SetTarget:
        """What logits of `dtype` are compared with. labels: [B, H, W] integer train ids."""
