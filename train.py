"""Train a network: `python train.py --dataset camvid --arch DeepMNV3V3PlusD_m1 ...`; `--help` lists every flag."""

from __future__ import annotations

from config import TrainConfig, as_dict
from utils.flags import parse_command_line

if __name__ == "__main__":
    CONFIG = parse_command_line(TrainConfig)  # before heavy imports, so that --help answers at once

import math
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from datasets.files import load_spec
from datasets.specs.spec import DatasetSpec
from inference.settings import AS_IN_TRAINING
from loss import Loss
from network.checkpoint import IMAGENET_MEAN, IMAGENET_STD, Checkpoint
from training.checkpoints import State, check_weights
from training.checkpoints import save as save_state
from training.loop import Clock, StepLog
from training.optim import set_lr
from training.run_log import BEST, LAST, NUM_SAMPLES, draw_curves, labelled_sample, write_augmentation, write_sample
from training.setup import Training, set_up
from utils.command import run_command
from utils.device import normalise, resolve_device
from utils.distributed import Processes, gradients_summed_later, process_group, share_buffers
from utils.memory import give_back_freed_memory
from utils.metrics import ConfusionMatrix, Scores, scores


def main(config: TrainConfig) -> int:
    """Train as `config` says. Returns the exit code."""
    spec = load_spec(config.data.dataset, config.data.dataset_dir)
    device = resolve_device(config.device.device)
    with process_group(device) as processes:
        _train_as(processes, config, spec, device)
    return 0


def _train_as(processes: Processes, config: TrainConfig, spec: DatasetSpec, device: torch.device) -> None:
    """Train as one of the processes; what is built here is freed before the process group ends."""
    training, state = set_up(config, spec, device, processes)
    with training.log:
        train(training, state)


def train(training: Training, state: State) -> None:
    """Train epoch by epoch, validate, and keep `last.pth` and `best.pth`."""
    run, log = training.config.run, training.log
    if state.is_due:
        state = score(training, state)
    clock = Clock(run.max_minutes, run.max_epoch, state.minutes)
    for epoch in () if clock.is_up() else range(state.epoch, run.max_epoch):
        torch.manual_seed(seed_of(run.seed, epoch, training.processes.rank))  # a resumed run draws the same numbers
        train_one_epoch(training, epoch, clock)
        check_weights(training.net, training.dtype)
        ends = run.test_mode or epoch + 1 == run.max_epoch or clock.is_up()
        is_due = ends or (epoch + 1) % run.val_interval == 0
        state = replace(state, epoch=epoch + 1, minutes=clock.minutes(), is_due=is_due)
        save(training, state, LAST)
        if is_due:
            state = score(training, state)
        if ends or (is_due and clock.is_up()):  # if it is up but nothing was due, one more step is trained and scored
            break
    if (best := log.folder / BEST).is_file():
        log.say(f"best mIoU {100 * state.best:.2f}: {best}\n{about_scores(training, best)}")


def score(training: Training, state: State) -> State:
    """The state with the network's scores; writes `last.pth` and, if they are the best, `best.pth`."""
    result = validate(training, state.epoch)
    training.log.say(f"epoch {state.epoch}\n{result.table()}")
    if len(result.absent) == training.spec.num_classes:
        training.log.say(f"no pixel of the validation labels has a class: no score and no {BEST}, use {LAST}.")
    per_class = zip(result.class_names, result.iou, strict=True)
    values = {f"iou/{name}": iou for name, iou in per_class if not math.isnan(iou)}
    about = {"epoch": state.epoch, "minutes": state.minutes}
    training.log.scalars("val", {**about, **_main_scores(result), **values})
    is_best = result.mean_iou > state.best  # never if it is NaN
    best = result.mean_iou if is_best else state.best
    state = replace(state, best=best, scores=_main_scores(result), is_due=False)
    if is_best:
        save(training, state, BEST)
    save(training, state, LAST)
    if training.processes.is_main:
        draw_curves(training.log.folder)
    return state


def about_scores(training: Training, snapshot: Path) -> str:
    """How a snapshot was scored, and the command that scores it alike; by default `eval.py` scores otherwise."""
    root = training.config.data.dataset_dir
    where = f" --dataset_dir {shlex.quote(root)}" if root else ""
    bf16 = " --bf16" if training.dtype == torch.bfloat16 else ""
    command = f"python eval.py --snapshot {shlex.quote(str(snapshot))}{where} {AS_IN_TRAINING}{bf16}"
    return f"scored on whole images, scale 1, no flip; the same (but for rounding): {command}"


def seed_of(*numbers: int) -> int:
    """One seed for several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def train_one_epoch(training: Training, epoch: int, clock: Clock) -> None:
    """One pass over the epoch's crops, one optimizer step per `--accumulate` batches."""
    config = training.config
    training.model.train()
    if config.model.freeze_trunk or config.model.trunk_freeze_bn:
        for module in training.net.trunk_modules():
            module.eval()  # frozen batch norms keep their statistics
    loader = training.data.epoch(epoch)
    accumulate, test_mode = config.optim.accumulate, config.run.test_mode
    with StepLog(
        loader, epoch, clock, training.log, training.device, training.dtype, accumulate=accumulate, test_mode=test_mode
    ) as steps:
        for place, (images, labels) in steps:
            if epoch == 0 and place.batch == 0 and config.augment.dump_augmentation_images:
                write_augmentation(training.log, training.spec, images, labels)
            lr = training.lr_at(place.now)
            set_lr(training.optimizer, lr)
            is_relaxed = config.loss.rlx_off_epoch < 0 or place.now < config.loss.rlx_off_epoch
            with gradients_summed_later(training.model, not place.ends_step):
                loss = forward_backward(training, images, labels, training.losses[not is_relaxed], steps.accumulate)
            if place.ends_step:
                optimizer_step(training)
            steps.worked(place, lr, loss, len(images))


def forward_backward(training: Training, images: Tensor, labels: Tensor, loss_of: Loss, accumulate: int) -> Tensor:
    """Add the gradient of one batch. images [B, 3, H, W] uint8, labels [B, H, W] uint8. Returns the loss."""
    device = training.device
    images = normalise(images.to(device, non_blocking=True), IMAGENET_MEAN, IMAGENET_STD)
    labels = labels.to(device, non_blocking=True)
    with torch.autocast(device.type, training.dtype, enabled=training.dtype is not None):
        logits = training.model(images)
    loss = loss_of(logits, labels)
    training.scaler.scale(loss / accumulate).backward()
    return loss.detach()


def optimizer_step(training: Training) -> None:
    """Apply the gradient and clear it."""
    if training.config.optim.clip_norm:
        training.scaler.unscale_(training.optimizer)
        nn.utils.clip_grad_norm_(training.net.parameters(), training.config.optim.clip_norm)
    training.scaler.step(training.optimizer)
    training.scaler.update()
    training.optimizer.zero_grad(set_to_none=True)
    if training.average:
        training.average.update(training.net)


@torch.inference_mode()
def validate(training: Training, epoch: int) -> Scores:
    """Score the whole images of the validation split, and write samples of the first few."""
    net = training.scored_net.eval()
    share_buffers(net)  # each process has statistics of its own crops, but all must score the network that is saved
    confusion = ConfusionMatrix(training.spec.num_classes, training.spec.ignore_label, training.device)
    num_shown = 0
    give_back_freed_memory()  # whole images and crops differ in size
    for images, labels in tqdm(
        training.val, desc="validate", leave=False, dynamic_ncols=True,
        disable=None if training.processes.is_main else True,
    ):
        pixels = normalise(images.to(training.device, non_blocking=True), IMAGENET_MEAN, IMAGENET_STD)
        with torch.autocast(training.device.type, training.dtype, enabled=training.dtype is not None):
            predictions = net(pixels).argmax(1)
        confusion.update(labels.to(training.device, non_blocking=True), predictions)
        if num_shown < NUM_SAMPLES and training.processes.is_main:
            for image, truth, guess in zip(images, labels, predictions.byte().cpu(), strict=True):
                write_sample(training.log, epoch, num_shown, labelled_sample(training.spec, image, truth, guess))
                num_shown += 1
    give_back_freed_memory()
    return scores(confusion.reduce(), training.spec.class_names)


def save(training: Training, state: State, name: str) -> None:
    """Write a checkpoint into the run folder."""
    checkpoint = Checkpoint(
        state_dict=training.scored_net.state_dict(),
        arch=training.config.model.arch.split(".")[-1],
        head=training.net.head,
        dataset=training.spec.name,
        classes=training.spec.classes,
        config=as_dict(training.config),
    )
    save_state(
        training.log, name, checkpoint, state, training.net, training.optimizer,
        scaler=training.scaler, average=training.average,
    )  # fmt: skip


def _main_scores(result: Scores) -> dict[str, float]:
    return {"mean_iou": result.mean_iou, "mean_accuracy": result.mean_accuracy, "pixel_accuracy": result.pixel_accuracy}


if __name__ == "__main__":
    run_command(main, CONFIG)
