"""Train a network: `python train.py --dataset camvid --arch DeepMNV3V3PlusD_m1 ...`; `--help` lists every flag."""

from __future__ import annotations

from config import AS_IN_TRAINING, TrainConfig, as_dict, short_name
from utils.flags import parse_command_line

if __name__ == "__main__":
    CONFIG = parse_command_line(TrainConfig)  # before heavy imports, so that --help answers at once

import shlex
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from datasets.files import load_spec
from datasets.specs.spec import DatasetSpec
from loss import Loss
from network.checkpoint import IMAGENET_MEAN, IMAGENET_STD, Checkpoint
from training.checkpoints import save_run
from training.loop import Meters, run_epochs
from training.optim import set_lr
from training.run_log import BEST, LAST, NUM_SAMPLES, beside_labels, draw_curves, write_augmentation, write_sample
from training.setup import Training, set_up
from utils.command import run_command
from utils.device import give_back_freed_memory, normalise, resolve_device
from utils.distributed import Processes, gradients_summed_later, process_group, share_buffers, sum_over_processes
from utils.metrics import confusion_matrix, scores, scores_table


def main(config: TrainConfig) -> int:
    """Train as `config` says. Returns the exit code."""
    spec = load_spec(config.data.dataset, config.data.dataset_dir)
    device = resolve_device(config.device.device)
    with process_group(device, timedelta(minutes=config.precision.timeout)) as processes:
        train(processes, config, spec, device)
    return 0


def train(processes: Processes, config: TrainConfig, spec: DatasetSpec, device: torch.device) -> None:
    """Train epoch by epoch, validate, and keep `last.pth` and `best.pth`."""
    training = set_up(config, spec, device, processes)  # not in `main`: it is freed before the process group ends
    log, progress = training.log, training.progress
    with log:
        run_epochs(training, train_one_epoch, score, save)
        if (best := log.folder / BEST).is_file():
            log.say(f"best mIoU {100 * progress.best:.2f}: {best}\n{about_scores(training, best)}")


def score(training: Training) -> dict[str, float | None]:
    """Validate, and log all scores. Returns those of all classes together, the mean IoU first."""
    log, progress = training.log, training.progress
    found = validate(training)
    log.say(f"epoch {progress.epoch}\n{scores_table(found)}")
    if len(found["absent"]) == training.spec.num_classes:
        log.say(f"no pixel of the validation labels has a class: no score and no {BEST}, use {LAST}.")
    totals = {name: found[name] for name in ("mean_iou", "mean_accuracy", "pixel_accuracy")}
    per_class = {f"iou/{name}": one["iou"] for name, one in found["classes"].items() if one["iou"] is not None}
    log.scalars("val", {"epoch": progress.epoch, "minutes": progress.minutes(), **totals, **per_class})
    if training.processes.is_main:
        draw_curves(log.folder)
    return totals


def about_scores(training: Training, snapshot: Path) -> str:
    """How a snapshot was scored, and the command that scores it alike; by default `eval.py` scores otherwise."""
    root = training.config.data.dataset_dir
    where = f" --dataset_dir {shlex.quote(root)}" if root else ""
    bf16 = " --bf16" if training.dtype == torch.bfloat16 else ""
    command = f"python eval.py --snapshot {shlex.quote(str(snapshot))}{where} {AS_IN_TRAINING}{bf16}"
    return f"scored on whole images, scale 1, no flip; the same (but for rounding): {command}"


def train_one_epoch(training: Training) -> Iterator[None]:
    """The rest of the epoch's crops, one optimizer step per `--accumulate` batches; yields after each step."""
    config, progress = training.config, training.progress
    training.model.train()
    if config.model.freeze_trunk or config.model.trunk_freeze_bn:
        for module in training.net.trunk_modules():
            module.eval()  # frozen batch norms keep their statistics
    accumulate = training.accumulate
    loader = training.data.epoch(progress.epoch, progress.step * accumulate)
    num_steps = progress.step + len(loader) // accumulate
    with Meters(progress, num_steps, training, config.optim.max_bad_steps) as meters:
        batches = meters.timed(loader)
        for step in range(progress.step, num_steps):
            # Dropout draws from these alone, so that a resumed run draws the same numbers.
            seed = np.random.SeedSequence((config.run.seed, progress.epoch, step, training.processes.rank))
            torch.manual_seed(int(seed.generate_state(1)[0]))
            now = meters.schedule_at(step)
            lr = training.lr_at(now)
            set_lr(training.optimizer, lr)
            is_relaxed = config.loss.rlx_off_epoch < 0 or now < config.loss.rlx_off_epoch
            loss_of = training.losses[0 if is_relaxed else 1]
            parts = [next(batches) for _ in range(accumulate)]
            if config.augment.dump_augmentation_images and progress.epoch == step == 0:
                write_augmentation(training.log, training.spec, *parts[0])
            shares = share_of_mean(training, [labels for _, labels in parts])
            for part, ((images, labels), share) in enumerate(zip(parts, shares, strict=True)):
                with gradients_summed_later(training.model, part + 1 < accumulate):
                    meters.add(forward_backward(training, images, labels, loss_of, share), len(images))
            if not meters.is_bad(partial(training.data.names, progress.epoch, step * accumulate, accumulate)):
                optimizer_step(training)
            meters.end_step(lr)
            yield


def share_of_mean(training: Training, labels: Sequence[Tensor]) -> Sequence[Tensor | float]:
    """By what to multiply the loss of each batch of a step, so that their sum, in the mean over processes, is the mean
    over all that is labelled, however the crops are distributed. With --published_loss: the mean over batches.

    labels: [B, H, W] uint8 train ids of each batch.
    """
    config = training.config.loss
    if config.published_loss or len(labels) * training.processes.world_size == 1:
        return [1 / len(labels)] * len(labels)
    labelled = [ids != training.spec.ignore_label for ids in labels]
    if config.img_wt_loss:  # a mean over images
        labelled = [pixels.flatten(1).any(1) for pixels in labelled]
    counts = torch.stack([pixels.sum() for pixels in labelled]).to(training.device, non_blocking=True)
    total = sum_over_processes(counts.sum()).clamp(min=1)
    return list(counts * training.processes.world_size / total)


def forward_backward(
    training: Training, images: Tensor, labels: Tensor, loss_of: Loss, share: Tensor | float
) -> Tensor:
    """Add the gradient of one batch. images [B, 3, H, W] uint8, labels [B, H, W] uint8. Returns its part of the loss.

    share: factor of the batch's loss.
    """
    device = training.device
    images = normalise(images.to(device, non_blocking=True), IMAGENET_MEAN, IMAGENET_STD)
    labels = labels.to(device, non_blocking=True)
    with torch.autocast(device.type, training.dtype, enabled=training.dtype is not None):
        logits = training.model(images)
    loss = loss_of(logits, labels) * share
    training.scaler.scale(loss).backward()
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
def validate(training: Training) -> dict[str, Any]:
    """Score the whole images of the validation split, and write samples of the first few."""
    net = training.scored_net.eval()
    share_buffers(net)  # each process has statistics of its own crops, but all must score the network that is saved
    num_classes, num_shown = training.spec.num_classes, 0
    matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=training.device)
    give_back_freed_memory()  # whole images and crops differ in size
    hidden = None if training.processes.is_main else True  # None: shown on a terminal
    for images, labels in tqdm(training.val, desc="validate", leave=False, dynamic_ncols=True, disable=hidden):
        pixels = normalise(images.to(training.device, non_blocking=True), IMAGENET_MEAN, IMAGENET_STD)
        with torch.autocast(training.device.type, training.dtype, enabled=training.dtype is not None):
            prediction = net(pixels).argmax(1)
        truth = labels.to(training.device, non_blocking=True)
        matrix += confusion_matrix(truth, prediction, num_classes, training.spec.ignore_label)
        if num_shown < NUM_SAMPLES and training.processes.is_main:
            for sample in zip(images, labels, prediction.byte().cpu(), strict=True):
                picture = beside_labels(training.spec, *sample)
                write_sample(training.log, training.progress.epoch, num_shown, picture)
                num_shown += 1
    give_back_freed_memory()
    return scores(sum_over_processes(matrix).cpu(), training.spec.class_names)


def save(training: Training, name: str) -> None:
    """Write a checkpoint into the run folder."""
    checkpoint = Checkpoint(
        state_dict=training.scored_net.state_dict(),
        arch=short_name(training.config.model.arch),
        head=training.head,
        dataset=training.spec.name,
        classes=training.spec.classes,
        config=as_dict(training.config),
    )
    save_run(training, name, checkpoint)


if __name__ == "__main__":
    run_command(main, CONFIG)
