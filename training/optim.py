"""Optimizer and learning rate schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from config import OptimConfig


def build_optimizer(config: OptimConfig, net: nn.Module) -> Optimizer:
    """SGD, or AdamW with --adam. Biases and batch norm are not decayed under AdamW, as is usual there.

    Raises ValueError if SGD is switched off and no other optimizer is named.
    """
    if not config.sgd and not config.adam:
        raise ValueError("--no-sgd leaves no optimizer; choose the other one with --adam.")
    trained = [p for p in net.parameters() if p.requires_grad]
    if config.adam:
        return AdamW(_decay_groups(trained, config.weight_decay), lr=config.lr, amsgrad=config.amsgrad)
    return SGD(trained, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)


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
    """Give every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def freeze(modules: Iterable[nn.Module]) -> None:
    """Stop training these modules. Put them in evaluation mode as well, so that batch norms keep their statistics."""
    for module in modules:
        module.requires_grad_(False)


def _decay_groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, object]]:
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
