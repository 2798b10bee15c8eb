"""Saving and resuming a training: what is kept of it, where it continues from, and which flags have changed since."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from config import RunConfig, short_name
from datasets.specs.spec import DatasetSpec, first_difference
from network.checkpoint import Checkpoint, load_checkpoint, load_state, plain, save_checkpoint
from training.loop import Progress
from training.optim import WeightAverage
from training.run_log import LAST, METRICS, PREVIOUS, RunLog, run_folder
from utils.command import one_line
from utils.distributed import find_processes, lists_of_all, mean_over_processes, wait_for_all
from utils.files import first_free
from utils.text import counted

# Switches, with their group, that the optimizer's state depends on.
SAME_AS_BEFORE = (("optim", "adam"), ("optim", "amsgrad"), ("model", "freeze_trunk"))
# Flags that may differ when a run is resumed, and the one of video/train.py that the checkpoint decides.
MAY_DIFFER = ("resume", "restore_optimizer", "snapshot", "start_epoch", "width")


class Start(NamedTuple):
    """What a training continues from."""

    path: Path
    checkpoint: Checkpoint


def find_start(run: RunConfig, snapshot: str | None = None) -> Start | None:
    """With --resume the run's own `last.pth`, else the `snapshot` whose optimizer is restored; None for neither.

    Raises ValueError if it cannot be continued from, or if the processes find different ones.
    """
    own = _newest(run_folder(run)) if run.resume else None
    found = (own.checkpoint.epoch, own.checkpoint.training.get("crops"), str(own.path)) if own else None
    if len(set(lists_of_all([found]))) > 1:
        raise ValueError(
            f"{run_folder(run) / LAST} differs between processes: --ckpt must be a folder that all machines share."
        )
    if own:
        start, flag = own, "--resume"
    elif snapshot:
        other = load_checkpoint(snapshot)
        if other.epoch >= run.max_epoch:
            raise ValueError(f"{snapshot} was already trained to epoch {other.epoch}; raise --max_epoch.")
        of_network = ("optimizer", "scaler", "weights", "num_updates")  # the rest belongs to the other run
        kept = {name: other.training[name] for name in of_network if name in other.training}
        start, flag = Start(Path(snapshot), replace(other, scores={}, training=kept)), "--restore_optimizer"
    else:
        return None
    if "optimizer" not in start.checkpoint.training:
        raise ValueError(f"{start.path} contains no optimizer state; leave out {flag}.")
    return start


def _newest(folder: Path) -> Start | None:
    """The run's latest checkpoint that is whole; None if it has none. A damaged one is told."""
    problem: ValueError | None = None
    for path in (folder / LAST, folder / PREVIOUS):
        try:
            start = Start(path, load_checkpoint(path))
        except FileNotFoundError:
            continue
        except ValueError as error:
            problem = problem or error
            continue
        if problem and find_processes().is_main:
            print(f"warning: {one_line(problem)} Continuing from {path}, the checkpoint before.", file=sys.stderr)
        return start
    if problem:
        raise problem
    return None


def check_fits(start: Start, spec: DatasetSpec, settings: Mapping[str, Any], head: Mapping[str, Any]) -> None:
    """Raise ValueError if it is of other classes than `spec`, another network, or another kind of optimizer.

    settings: all flags. head: of the network to be trained.
    """
    path, checkpoint = start
    arch = short_name(settings["model"]["arch"])
    for what, before, now in (
        ("--dataset", checkpoint.dataset, spec.name),
        ("--arch", checkpoint.arch or arch, arch),
        ("head (--aspp_rates, --refine)", plain(checkpoint.head), plain(head)),
        # A switch that the version before did not have was off.
        *((f"--{name}", checkpoint.config.get(group, {}).get(name, False), settings[group][name])
          for group, name in SAME_AS_BEFORE),
    ):  # fmt: skip
        if before != now:
            raise ValueError(f"{path}: its run had {what} {_shown(before)}, not {_shown(now)}; name another --exp.")
    trained = [seg_class.name for seg_class in checkpoint.classes or ()]
    if trained != list(spec.class_names):
        changed = first_difference(trained, spec.class_names)
        raise ValueError(f"{path}: its run had other classes than {spec.title} has now: {changed}; name another --exp.")


def changed_flags(before: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """The flags of `settings` that differ from a checkpoint's, with their earlier values."""
    return [
        f"--{name} {_shown(value)} (was {_shown(before[group][name])})"
        for group, values in settings.items()
        for name, value in values.items()
        if name in before.get(group, {}) and before[group][name] != value and name not in MAY_DIFFER
    ]


def restore(
    start: Start,
    net: nn.Module,
    optimizer: Optimizer,
    *,
    scaler: torch.amp.GradScaler | None = None,
    average: WeightAverage | None = None,
) -> None:
    """Restore the saved state; learning rate, momentum and decay stay as the flags say."""
    path, checkpoint = start
    kept = checkpoint.training
    load_state(net, replace(checkpoint, state_dict=kept.get("weights", checkpoint.state_dict)), path)
    if average:
        load_state(average.net, checkpoint, path)
        average.num_updates = kept.get("num_updates", 0)
    flags = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    if len(kept["optimizer"]["param_groups"]) != len(flags):
        raise ValueError(f"{path}: only one of its run and this one has a --trunk_lr or --layer_decay; change that.")
    groups = [{**group, **own} for group, own in zip(kept["optimizer"]["param_groups"], flags, strict=True)]
    optimizer.load_state_dict({**kept["optimizer"], "param_groups": groups})
    if scaler and kept.get("scaler"):  # empty where the run before did not scale
        scaler.load_state_dict(dict(kept["scaler"]))


def open_run(
    run: RunConfig,
    start: Start | None,
    settings: Mapping[str, Any],
    record: Mapping[str, Any],
    about: Sequence[str],
    *,
    crops_a_step: int,
) -> tuple[RunLog, Progress]:
    """Create the run folder, and print how the run starts and what it is `about`. Whatever can fail comes before this.

    settings: all flags; record: what it starts with, see training/run_log.py. Returns the log and the first progress.
    """
    folder = run_folder(run)
    progress = Progress(run.max_epoch, run.max_minutes, run.start_epoch, crops_a_step=crops_a_step)
    notices = []
    if start:
        path, checkpoint = start
        kept = checkpoint.training
        progress.epoch, progress.scores = checkpoint.epoch, dict(checkpoint.scores)
        progress.minutes_before = progress.agreed_minutes = kept.get("minutes", 0.0)
        progress.best, progress.is_due = kept.get("best", progress.best), kept.get("is_due", False)
        progress.step = kept.get("crops", 0) // crops_a_step  # the batch may have changed
        progress.loss, progress.num_losses = torch.tensor(kept.get("loss", 0.0)), kept.get("num_losses", 0)
        steps = f" and {counted(progress.step, 'step')}" if progress.step else ""
        notices.append(f"continuing after epoch {checkpoint.epoch}{steps} of {path}")
        if changed := changed_flags(checkpoint.config, settings):
            notices.append(f"settings changed since: {', '.join(changed)}")
    if not run.resume:
        taken = folder  # a run never overwrites another
        folder = Path(first_free(str(folder), lambda name: (Path(name) / METRICS).exists()))
        if folder != taken:
            notices.append(f"{taken} already holds a run; writing to {folder}. To continue that run instead: --resume.")
    elif not start:
        notices.append(f"{folder} has no {LAST} to resume from; starting from the beginning.")
    if start and progress.is_over():
        flag = "max_epoch" if progress.epoch >= run.max_epoch else "max_minutes"
        notices.append(f"finished: --{flag} {getattr(run, flag):g} is reached; raise it to continue.")
    wait_for_all()  # every process has looked before one creates the folders
    log = RunLog(folder, Path(run.tb_path) / folder.name, active=find_processes().is_main)
    for text in (*notices, *about, f"run folder: {folder}"):
        log.say(text)
    log.config(settings, record)
    if run.resume:
        log.steps = start.checkpoint.training.get("steps", 0) if start else 0
        log.rewind(progress.epoch, is_due=progress.is_due or not start)
    return log, progress


def save_run(training: Any, name: str, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` to the run folder, in the main process only; all call it. `last.pth` can be resumed from.

    It returns when everything is copied; the copy is written while the training goes on.

    training: with `net`, the one that learns; the checkpoint's weights are those of `average`, if there is one.
    """
    log, progress, scaler, average = training.log, training.progress, training.scaler, training.average
    loss = float(mean_over_processes(progress.loss))
    if not log.active:
        return
    kept = {
        "optimizer": training.optimizer.state_dict(),
        "scaler": scaler.state_dict() if scaler else {},
        "best": progress.best,
        "minutes": progress.minutes(),
        "is_due": progress.is_due,
        "steps": log.steps,
        "crops": progress.step * progress.crops_a_step,
        "loss": loss,
        "num_losses": progress.num_losses,
    }
    if average:
        kept |= {"weights": training.net.state_dict(), "num_updates": average.num_updates}
    checkpoint = replace(
        checkpoint,
        state_dict=plain(checkpoint.state_dict),
        epoch=progress.epoch,
        scores=progress.scores,
        training=plain(kept) if name == LAST else {},
    )
    log.in_background(save_checkpoint, log.folder / name, checkpoint, log.folder / PREVIOUS if name == LAST else None)


def _shown(value: Any) -> str:
    return ("off", "on")[value] if isinstance(value, bool) else str(value)
