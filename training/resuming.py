"""Going on with a training: what is kept of it, where it goes on from, and what is asked for that was not before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from config import RunConfig
from datasets.spec import DatasetSpec
from training.averaging import WeightAverage
from training.log import LAST, RunLog, free_run_folder, run_folder, tensorboard_folder
from training.progress import remedy
from utils.checkpoint import Checkpoint, load_checkpoint, load_state, save_checkpoint
from utils.distributed import lists_of_all, wait_for_all

# Flags, by their group, that the state of an optimizer depends on.
SAME_AS_BEFORE = (("optim", "adam"), ("optim", "amsgrad"), ("model", "freeze_trunk"))
# Flags of one who goes on with a run, and the one of video/train.py that the checkpoint decides.
GOING_ON = ("resume", "restore_optimizer", "snapshot", "start_epoch", "width")


@dataclass(frozen=True)
class State:
    """How far a training is: the next epoch, minutes spent, its best score and the newest ones.

    is_due: whether the network as it is, after the epoch before, is still to be scored.
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

    def state(self) -> State:
        """Where it goes on. Time and best score are a run's own, so --restore_optimizer begins them anew."""
        checkpoint, kept = self.checkpoint, self.checkpoint.training
        if not self.is_own:
            return State(checkpoint.epoch)
        is_due = kept.get("is_due", False)
        return State(checkpoint.epoch, kept["minutes"], kept["best"], dict(checkpoint.scores), is_due)


def find_start(run: RunConfig, snapshot: str | None = None) -> Start | None:
    """With --resume the run's own `last.pth`, else the `snapshot` whose optimizer is wanted; None for neither.

    Raises ValueError where it cannot be gone on with, or the processes find different ones.
    """
    start = _own(run_folder(run)) if run.resume else None
    if not start and snapshot:
        start = Start(Path(snapshot), load_checkpoint(snapshot), is_own=False)
        if start.checkpoint.epoch >= run.max_epoch:
            raise ValueError(f"{snapshot} has had {start.checkpoint.epoch} epochs; --max_epoch must be more.")
    if start and not start.checkpoint.training:
        flag = "--resume" if start.is_own else "--restore_optimizer"
        raise ValueError(f"{start.path}: holds no optimizer state; leave out {flag}.")
    return start


def check_fits(start: Start, spec: DatasetSpec, settings: Mapping[str, Any]) -> None:
    """Raise ValueError where it is of other classes than `spec`, or another kind of optimizer. settings: all flags."""
    path, checkpoint = start.path, start.checkpoint
    kept_names = [seg_class.name for seg_class in checkpoint.classes or ()]
    if checkpoint.dataset != spec.name or kept_names != list(spec.class_names):
        raise ValueError(
            f"{path} is of a run on the {len(kept_names)} classes of {checkpoint.dataset}, not on the "
            f"{spec.num_classes} of {spec.name}; name another --exp."
        )
    for group, name in SAME_AS_BEFORE:
        before, now = checkpoint.config[group][name], settings[group][name]
        if before != now:
            raise ValueError(f"{path}: its run had --{name} {before}, not {now}; give the same, or name another --exp.")


def restore(
    start: Start,
    net: nn.Module,
    optimizer: Optimizer,
    *,
    scaler: torch.amp.GradScaler | None = None,
    average: WeightAverage | None = None,
) -> None:
    """Give them the state that they had then; learning rate, momentum and decay stay what the flags say."""
    checkpoint, kept = start.checkpoint, start.checkpoint.training
    load_state(net, replace(checkpoint, state_dict=kept.get("weights", checkpoint.state_dict)), start.path)
    if average:
        load_state(average.net, checkpoint, start.path)
        average.num_updates = kept.get("num_updates", 0)
    flags = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(kept["optimizer"]))
    for group, own in zip(optimizer.param_groups, flags, strict=True):
        group.update(own)
    if scaler and kept["scaler"]:  # empty where the run before did not scale
        scaler.load_state_dict(dict(kept["scaler"]))


def open_run(
    run: RunConfig,
    start: Start | None,
    fresh: State,
    settings: Mapping[str, Any],
    about: Sequence[str],
    *,
    is_main: bool = True,
) -> tuple[RunLog, State]:
    """Make the run folder, and say how the run begins and what it is `about`. All that can fail comes before this.

    fresh: where it begins without a start; settings: all flags. Returns the run's log, and where it begins.
    """
    folder = run_folder(run)
    notices = _describe_start(start, settings) if start else []
    if not run.resume:
        folder, taken = free_run_folder(folder), folder
        if folder != taken:
            notices.append(f"{taken} holds a run: this one goes to {folder} (--exp {folder.name} --resume goes on).")
    elif not start:
        notices.append(f"{folder} has no {LAST} to go on from: the run starts from the beginning.")
    events = tensorboard_folder(run.tb_path, folder, is_resumed=run.resume)
    wait_for_all()  # every process has looked before one makes the folders
    log = RunLog(folder, events, active=is_main)
    for text in (*notices, *about, f"run folder: {folder}"):
        log.say(text)
    log.config(settings)
    state = start.state() if start else fresh
    if run.resume:
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
    """Write `checkpoint` with `state` into the run folder; only the main process does. `last.pth` can be gone on with.

    net: the one that learns; the checkpoint's weights are the average's, where there is one.
    """
    if not log.active:
        return
    kept = {
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict() if scaler else {},
        "best": state.best,
        "minutes": state.minutes,
        "is_due": state.is_due,
    }
    if average:
        kept |= {"weights": net.state_dict(), "num_updates": average.num_updates}
    kept = kept if name == LAST else {}
    save_checkpoint(log.folder / name, replace(checkpoint, epoch=state.epoch, scores=state.scores, training=kept))


def check_weights(net: nn.Module, dtype: torch.dtype | None) -> None:
    """Raise ValueError where a weight is no finite number, so that nothing sound is overwritten with it.

    dtype: what the network was trained in, None for float32.
    """
    if not all(torch.isfinite(values).all() for values in net.parameters()):
        raise ValueError(f"the weights are not numbers any more. {remedy(dtype)}")


def _own(folder: Path) -> Start | None:
    path = folder / LAST
    start = Start(path, load_checkpoint(path), is_own=True) if path.is_file() else None
    if len(set(lists_of_all([start.checkpoint.epoch if start else None]))) > 1:
        raise ValueError(f"{path} is not the same for all processes: --ckpt must be a folder that all machines share.")
    return start


def _describe_start(start: Start, settings: Mapping[str, Any]) -> list[str]:
    changed = start.changed(settings)
    return [
        f"going on after epoch {start.checkpoint.epoch} of {start.path}",
        *([f"with other settings than there: {', '.join(changed)}"] if changed else []),
    ]
