"""Exponential moving average of a network's weights: what is validated and kept with --ema."""

from __future__ import annotations

import copy

import torch
from torch import nn


class WeightAverage:
    """Running mean of the weights over about the last `1 / (1 - decay)` steps ("Mean teachers", arXiv:1703.01780).

    Batch norm statistics are averaged as well. Early on the window is shorter, so that the random start is forgotten:
    the decay of update n is `min(decay, (1 + n) / (10 + n))`.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        self.decay = decay
        self.num_updates = 0

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Take in the weights of `net`, after an optimizer step."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        pairs = list(zip(self.net.state_dict().values(), net.state_dict().values(), strict=True))
        torch._foreach_lerp_(
            [mean for mean, _ in pairs if mean.is_floating_point()],
            [now for mean, now in pairs if mean.is_floating_point()],
            1 - decay,
        )
        for mean, now in pairs:
            if not mean.is_floating_point():
                mean.copy_(now)
