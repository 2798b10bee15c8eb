"""Resuming a training: what is saved of it, where it continues from, and which flags have changed since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from config import RunConfig
from datasets.specs.spec import DatasetSpec, first_difference
from network.checkpoint import Checkpoint, load_checkpoint, load_state, not_finite, plain, save_checkpoint
from training.loop import remedy
from training.optim import WeightAverage
from training.run_log import LAST, RunLog, free_run_folder, run_folder, tensorboard_folder
from utils.distributed import lists_of_all, wait_for_all

# Switches, with their group, that the optimizer's state depends on.
SAME_AS_BEFORE = (("optim", "adam"), ("optim", "amsgrad"), ("model", "freeze_trunk"))
# Flags that may differ when a run is resumed, and the one of video/train.py that the checkpoint decides.
MAY_DIFFER = ("resume", "restore_optimizer", "snapshot", "start_epoch", "width")


@dataclass(frozen=True)
class State:
    """How far a training has come: the next epoch, minutes spent, the best score and the latest ones.

    is_due: whether the network, as the previous epoch left it, is still to be scored.
    """

    epoch: int
    minutes: float = 0.0
    best: float = -1.0  # mIoU, or PSNR in dB, which is never less than 0 either
    scores: Mapping[str, float] = field(default_factory=dict)
    is_due: bool = False


@dataclass(frozen=True)
class Start:
    """What a training continues from. is_own: the run's own `last.pth`, not another's with --restore_optimizer."""

    path: Path
    checkpoint: Checkpoint
    is_own: bool

    def changed(self, settings: Mapping[str, Any]) -> list[str]:
        """The flags that differ from the checkpoint's, with their earlier values."""
        before = self.checkpoint.config
        return [
            f"--{name} {_shown(value)} (was {_shown(before[group][name])})"
            for group, values in settings.items()
            for name, value in values.items()
            if name in before.get(group, {}) and before[group][name] != value and name not in MAY_DIFFER
        ]

    def state(self) -> State:
        """Where it continues. Time and best score belong to a run, so --restore_optimizer starts them afresh."""
        checkpoint, kept = self.checkpoint, self.checkpoint.training
        if not self.is_own:
            return State(checkpoint.epoch)
        known = {key: kept[key] for key in ("minutes", "best", "is_due") if key in kept}
        return State(checkpoint.epoch, scores=dict(checkpoint.scores), **known)


def find_start(run: RunConfig, snapshot: str | None = None) -> Start | None:
    """With --resume the run's own `last.pth`, else the `snapshot` whose optimizer is restored; None for neither.

    Raises ValueError if it cannot be continued from, or if the processes find different ones.
    """
    start = _own(run_folder(run)) if run.resume else None
    if not start and snapshot:
        start = Start(Path(snapshot), load_checkpoint(snapshot), is_own=False)
        if start.checkpoint.epoch >= run.max_epoch:
            raise ValueError(f"{snapshot} was already trained to epoch {start.checkpoint.epoch}; raise --max_epoch.")
    if start and "optimizer" not in start.checkpoint.training:
        flag = "--resume" if start.is_own else "--restore_optimizer"
        raise ValueError(f"{start.path} contains no optimizer state; leave out {flag}.")
    return start


def check_fits(start: Start, spec: DatasetSpec, settings: Mapping[str, Any], head: Mapping[str, Any]) -> None:
    """Raise ValueError if it is of other classes than `spec`, another head, or another kind of optimizer.

    settings: all flags. head: of the network to be trained.
    """
    path, checkpoint = start.path, start.checkpoint
    if checkpoint.dataset != spec.name:
        raise ValueError(f"{path}: its run was on {checkpoint.dataset}, not on {spec.name}; name another --exp.")
    trained = [seg_class.name for seg_class in checkpoint.classes or ()]
    if trained != list(spec.class_names):
        changed = first_difference(trained, spec.class_names)
        raise ValueError(f"{path}: its run had other classes than {spec.title} has now: {changed}; name another --exp.")
    arch = settings["model"]["arch"].split(".")[-1]
    if checkpoint.arch not in (None, arch):
        raise ValueError(f"{path}: its run trained {checkpoint.arch}, not {arch}; name another --exp.")
    if plain(head) != plain(checkpoint.head):
        raise ValueError(f"{path}: its run had another head (--aspp_rates, --refine); change it, or --exp.")
    for group, name in SAME_AS_BEFORE:
        # A switch that the version before did not have was off.
        before, now = checkpoint.config.get(group, {}).get(name, False), settings[group][name]
        if before != now:
            there, here = (f"{'with' if value else 'without'} --{name}" for value in (before, now))
            raise ValueError(f"{path}: its run was {there}, this one is {here}; change it, or name another --exp.")


def restore(
    start: Start,
    net: nn.Module,
    optimizer: Optimizer,
    *,
    scaler: torch.amp.GradScaler | None = None,
    average: WeightAverage | None = None,
) -> None:
    """Restore the saved state; learning rate, momentum and decay stay as the flags say."""
    checkpoint, kept = start.checkpoint, start.checkpoint.training
    load_state(net, replace(checkpoint, state_dict=kept.get("weights", checkpoint.state_dict)), start.path)
    if average:
        load_state(average.net, checkpoint, start.path)
        average.num_updates = kept.get("num_updates", 0)
    flags = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    if len(kept["optimizer"]["param_groups"]) != len(flags):
        raise ValueError(f"{start.path}: only one of its run and this one has a --trunk_lr; change it, or --exp.")
    optimizer.load_state_dict(dict(kept["optimizer"]))
    for group, own in zip(optimizer.param_groups, flags, strict=True):
        group.update(own)
    if scaler and kept.get("scaler"):  # empty where the run before did not scale
        scaler.load_state_dict(dict(kept["scaler"]))


def open_run(
    run: RunConfig,
    start: Start | None,
    fresh: State,
    settings: Mapping[str, Any],
    record: Mapping[str, Any],
    about: Sequence[str],
    *,
    is_main: bool = True,
) -> tuple[RunLog, State]:
    """Create the run folder, and print how the run starts and what it is `about`. Whatever can fail comes before this.

    fresh: the state to begin with if there is no start; settings: all flags; record: what it starts with, see
    training/run_log.py. Returns the run's log and the first state.
    """
    folder = run_folder(run)
    notices = _describe_start(start, settings) if start else []
    if not run.resume:
        folder, taken = free_run_folder(folder), folder
        if folder != taken:
            notices.append(f"{taken} already holds a run; writing to {folder}. To continue that run instead: --resume.")
    elif not start:
        notices.append(f"{folder} has no {LAST} to resume from; starting from the beginning.")
    events = tensorboard_folder(run.tb_path, folder, is_resumed=run.resume)
    wait_for_all()  # every process has looked before one creates the folders
    log = RunLog(folder, events, active=is_main)
    for text in (*notices, *about, f"run folder: {folder}"):
        log.say(text)
    log.config(settings, record)
    state = start.state() if start else fresh
    if start and state.epoch >= run.max_epoch:
        log.say(f"finished: all epochs (--max_epoch {run.max_epoch}) are done; raise it to continue.")
    elif start and run.max_minutes and state.minutes >= run.max_minutes:
        log.say(f"finished: the run's time (--max_minutes {run.max_minutes:g}) is used up; raise it to continue.")
    if run.resume:
        log.steps = start.checkpoint.training.get("steps", 0) if start else 0
        log.rewind(state.epoch, is_due=state.is_due)
    return log, state


def save(
    log: RunLog,
    name: str,
    checkpoint: Checkpoint,
    state: State,
    net: nn.Module,
    optimizer: Optimizer,
    *,
    scaler: torch.amp.GradScaler | None = None,
    average: WeightAverage | None = None,
) -> None:
    """Write `checkpoint` with `state` to the run folder, in the main process only. `last.pth` can be resumed from.

    net: the one that learns; the checkpoint's weights are those of the average, if there is one.
    """
    if not log.active:
        return
    kept = {
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict() if scaler else {},
        "best": state.best,
        "minutes": state.minutes,
        "is_due": state.is_due,
        "steps": log.steps,
    }
    if average:
        kept |= {"weights": net.state_dict(), "num_updates": average.num_updates}
    kept = kept if name == LAST else {}
    save_checkpoint(log.folder / name, replace(checkpoint, epoch=state.epoch, scores=state.scores, training=kept))


def check_weights(net: nn.Module, dtype: torch.dtype | None) -> None:
    """Raise ValueError if a weight or a statistic is NaN or infinite, so that no sound checkpoint is overwritten.

    dtype: what the network was trained in, None for float32.
    """
    if bad := not_finite(net.state_dict()):
        raise ValueError(f"{bad} became NaN or infinite. {remedy(dtype)}")


def _shown(value: Any) -> str:
    return ("off", "on")[value] if isinstance(value, bool) else str(value)


def _own(folder: Path) -> Start | None:
    path = folder / LAST
    start = Start(path, load_checkpoint(path), is_own=True) if path.is_file() else None
    if len(set(lists_of_all([start.checkpoint.epoch if start else None]))) > 1:
        raise ValueError(f"{path} differs between processes: --ckpt must be a folder that all machines share.")
    return start


def _describe_start(start: Start, settings: Mapping[str, Any]) -> list[str]:
    changed = start.changed(settings)
    return [
        f"continuing after epoch {start.checkpoint.epoch} of {start.path}",
        *([f"settings changed since: {', '.join(changed)}"] if changed else []),
    ]
