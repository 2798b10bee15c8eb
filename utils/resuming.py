"""Going on with a training: from which checkpoint, whether it fits, and what is asked for that it was not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from utils.averaging import WeightAverage
from utils.checkpoint import Checkpoint, load_checkpoint, load_state
from utils.distributed import lists_of_all

# Flags, by their group, that the state of an optimizer depends on.
SAME_AS_BEFORE = (("optim", "adam"), ("optim", "amsgrad"), ("model", "freeze_trunk"))
GOING_ON = ("resume", "restore_optimizer", "snapshot", "start_epoch")  # flags of one who goes on with a run


@dataclass(frozen=True)
class State:
    """How far a training is: the next epoch, minutes spent, its best score and the newest ones.

    is_due: whether the epoch before is still to be validated.
    """

    epoch: int
    minutes: float = 0.0
    best: float = -1.0  # mIoU, or PSNR in dB, which is never less than 0 either
    scores: Mapping[str, float] = field(default_factory=dict)
    is_due: bool = False


@dataclass(frozen=True)
class Start:
    """What a training goes on from. is_own: the run's own `last.pth`, not another one's with --restore_optimizer."""

    path: Path
    checkpoint: Checkpoint
    is_own: bool

    def changed(self, settings: Mapping[str, Any]) -> list[str]:
        """The flags that say something else than there, with what they said."""
        before = self.checkpoint.config
        return [
            f"--{name} {value} (was {before[group][name]})"
            for group, values in settings.items()
            for name, value in values.items()
            if name in before.get(group, {}) and before[group][name] != value and name not in GOING_ON
        ]


def find_start(
    folder: Path | None,
    snapshot: str | None,
    *,
    dataset: str,
    class_names: Sequence[str],
    settings: Mapping[str, Any],
) -> Start | None:
    """The run's own `last.pth` in `folder`, else the `snapshot` whose optimizer is wanted; None for neither.

    settings: all flags. Raises ValueError where it is of another data set or kind of optimizer, or the processes find
    different ones.
    """
    start = _own(folder) if folder else None
    if not start and snapshot:
        start = Start(Path(snapshot), load_checkpoint(snapshot), is_own=False)
    if not start:
        return None
    path, checkpoint = start.path, start.checkpoint
    if not checkpoint.training:
        raise ValueError(f"{path}: holds no optimizer state; leave out --restore_optimizer or --resume.")
    kept_names = [seg_class.name for seg_class in checkpoint.classes or ()]
    if checkpoint.dataset != dataset or kept_names != list(class_names):
        raise ValueError(
            f"{path} is of a run on the {len(kept_names)} classes of {checkpoint.dataset}, not on the "
            f"{len(class_names)} of {dataset}; name another --exp."
        )
    for group, name in SAME_AS_BEFORE:
        before, now = checkpoint.config[group][name], settings[group][name]
        if before != now:
            raise ValueError(f"{path}: its run had --{name} {before}, not {now}; give the same, or name another --exp.")
    if checkpoint.epoch >= settings["run"]["max_epoch"] and not start.is_own:
        raise ValueError(f"{path} has had {checkpoint.epoch} epochs; --max_epoch must be more.")
    return start


def restore(
    start: Start, net: nn.Module, average: WeightAverage | None, optimizer: Optimizer, scaler: torch.amp.GradScaler
) -> None:
    """Give them the state that they had then; learning rate, momentum and decay stay what the flags say."""
    checkpoint, kept = start.checkpoint, start.checkpoint.training
    load_state(net, replace(checkpoint, state_dict=kept.get("weights", checkpoint.state_dict)), start.path)
    if average:
        load_state(average.net, checkpoint, start.path)
        average.num_updates = kept.get("num_updates", 0)
    restore_optimizer(optimizer, kept["optimizer"])
    if kept["scaler"]:  # empty where the run before did not scale
        scaler.load_state_dict(dict(kept["scaler"]))


def restore_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Give `optimizer` the moments of `state`, and leave it what the flags say."""
    flags = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(state))
    for group, own in zip(optimizer.param_groups, flags, strict=True):
        group.update(own)


def first_state(start: Start | None, start_epoch: int) -> State:
    """Where the training begins. Time and best score are a run's own, so --restore_optimizer begins them anew."""
    if not start:
        return State(start_epoch)
    checkpoint, kept = start.checkpoint, start.checkpoint.training
    if not start.is_own:
        return State(checkpoint.epoch)
    is_due = kept.get("is_due", False)
    return State(checkpoint.epoch, kept["minutes"], kept["best"], dict(checkpoint.scores), is_due)


def check_weights(net: nn.Module) -> None:
    """Raise ValueError where a weight is no finite number, so that nothing sound is overwritten with it."""
    if not all(torch.isfinite(values).all() for values in net.parameters()):
        raise ValueError("the weights are not numbers any more. Use a smaller --lr, or --no-bf16 without --fp16.")


def _own(folder: Path) -> Start | None:
    path = folder / "last.pth"
    start = Start(path, load_checkpoint(path), is_own=True) if path.is_file() else None
    if len(set(lists_of_all([start.checkpoint.epoch if start else None]))) > 1:
        raise ValueError(f"{path} is not the same for all processes: --ckpt must be a folder that all machines share.")
    return start
