"""Optimizer and learning rate schedule."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from config import OptimConfig
from network.blocks import Network


def build_optimizer(config: OptimConfig, net: Network) -> Optimizer:
    """SGD, or AdamW with --adam. Biases and batch norm are not decayed under AdamW, as is usual there.

    Each group has `lr_factor`, which `set_lr` applies: 1 for the head, --trunk_lr for the trunk's last stage,
    and for each stage before it --layer_decay times that of the next. Raises ValueError if
    SGD is switched off and no other optimizer is named.
    """
    if not config.sgd and not config.adam:
        raise ValueError("--no-sgd leaves no optimizer; choose the other one with --adam.")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            factor = 1.0
            if net.is_trunk_key(name):
                factor = config.trunk_lr * config.layer_decay ** net.stages_after(name)
            decay = 0.0 if config.adam and parameter.ndim <= 1 else config.weight_decay
            groups.setdefault((factor, decay), []).append(parameter)
    settings = [
        {"params": parameters, "lr_factor": factor, "lr": config.lr * factor, "weight_decay": decay}
        for (factor, decay), parameters in groups.items()
    ]
    # One pass over the weights, and with --fp16 no waiting for the GPU to say whether the gradient is finite.
    fused = True if next(net.parameters()).is_cuda else None
    if config.adam:
        return AdamW(settings, amsgrad=config.amsgrad, fused=fused)
    return SGD(settings, momentum=config.momentum, fused=fused)


def build_schedule(config: OptimConfig, *, max_epoch: int, rlx_off_epoch: int) -> Callable[[float], float]:
    """The learning rate as a function of the epoch, fractions included: `lr(0.0)` is the first step's.

    `scl-poly` follows poly over all epochs until `rlx_off_epoch`, then restarts at lr * rescale with exponent repoly
    over the remaining epochs; the relaxation ends with the same step. Warm-up scales either, from almost 0 to 1. Raises
    ValueError if that epoch is missing or outside the training.
    """
    if config.lr_schedule == "scl-poly" and not 0 < rlx_off_epoch < max_epoch:
        raise ValueError(
            f"--lr_schedule scl-poly restarts at --rlx_off_epoch, which must lie between 0 and --max_epoch "
            f"{max_epoch}; got {rlx_off_epoch}."
        )

    def lr_at(epoch: float) -> float:
        warmed_up = min((epoch + 1e-2) / (config.warmup_epochs + 1e-2), 1.0)
        if config.lr_schedule == "scl-poly" and epoch >= rlx_off_epoch:
            left = 1 - (epoch - rlx_off_epoch) / (max_epoch - rlx_off_epoch)
            return warmed_up * config.lr * config.rescale * max(left, 0.0) ** config.repoly
        return warmed_up * config.lr * max(1 - epoch / max_epoch, 0.0) ** config.poly_exp

    return lr_at


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Give every parameter group this learning rate times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)


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
        means = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([mean for mean, _ in means], [now for _, now in means], 1 - decay)
        if counts := [pair for pair in pairs if not pair[0].is_floating_point()]:
            torch._foreach_copy_([mean for mean, _ in counts], [now for _, now in counts])
