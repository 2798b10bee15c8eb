"""Train an SDC-Net on frames without labels: python -m video.train --frames DIR; `--help` lists every flag."""

from __future__ import annotations

from utils.flags import parse_command_line
from video.settings import VideoTrainConfig

if __name__ == "__main__":
    CONFIG = parse_command_line(VideoTrainConfig)  # before heavy imports, so that --help answers at once

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.optim import Adam
from torch.utils.data import DataLoader
from tqdm import tqdm

from config import as_dict
from datasets.workers import default_num_workers, prepare_worker
from utils.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from utils.command import run_command
from utils.device import resolve_device
from utils.distributed import processes
from utils.images import write_image
from utils.log import RunLog, free_run_folder, run_folder, tensorboard_folder
from utils.optim import set_lr
from utils.pictures import side_by_side
from utils.precision import autocast_dtype
from utils.progress import Clock, Meter, seconds_between_bars
from utils.resuming import State, check_weights, restore_optimizer
from video.build import build_flow
from video.clips import (
    Clip,
    Draw,
    Sample,
    TrainingClips,
    as_sample,
    collate,
    draw_epoch,
    evenly,
    find_sequences,
    load_clip,
    split_sequences,
)
from video.displaced import displaced
from video.sdc import PREDICTION, SDCNet, arch_name, load_sdc
from video.sdc_loss import WHITE, SDCLoss, sdc_loss

CLIP_LENGTHS = {"reconstruction": 2, PREDICTION: 3}
LOG_STEPS = 20  # how often the loss is read from the device, and written down
SMALLEST_CROP = 32  # pixels; DIS finds nothing in less
TEST_STEPS = 2  # --test_mode
NUM_SAMPLES = 4  # held-out places of which pictures are written
# Of the network, of the motion that it starts from, and of the frame before as it is; PSNR in dB.
SCORES = ("psnr", "psnr_of_flow", "psnr_of_copying", "loss", "loss_of_flow")
BRIGHTER = 4  # how much the picture of the differences is amplified


@dataclass(frozen=True)
class Training:
    """What every epoch works with."""

    config: VideoTrainConfig
    device: torch.device
    dtype: torch.dtype | None
    net: SDCNet
    optimizer: Adam
    log: RunLog
    train: Sequence[Clip]
    val: Sequence[Clip]


def main(config: VideoTrainConfig) -> int:
    """Train as `config` says. Returns the exit code."""
    training = set_up(config)
    try:
        train(training)
    finally:
        training.log.close()
    return 0


def set_up(config: VideoTrainConfig) -> Training:
    """Find the frames, build network and optimizer. Nothing is written before all of it has succeeded."""
    if processes().count > 1:
        raise ValueError("python -m video.train works in one process; start it without torchrun.")
    if config.frames.crop_size < SMALLEST_CROP:
        raise ValueError(f"--crop_size must be at least {SMALLEST_CROP}, got {config.frames.crop_size}.")
    device = resolve_device(config.device.device)
    dtype = autocast_dtype(device, bf16=config.device.bf16, fp16=False)
    sequences = find_sequences(Path(config.frames.frames))
    clips, val = split_sequences(sequences, CLIP_LENGTHS[config.net.mode], config.frames.val_share)
    folder = run_folder(config.run.ckpt, config.run.exp, config.run.tb_tag, test_mode=config.run.test_mode)
    if not config.run.resume:
        folder = free_run_folder(folder)
    last = folder / "last.pth"
    start = last if config.run.resume and last.is_file() else config.net.snapshot
    torch.manual_seed(config.run.seed)
    net = load_sdc(start, mode=config.net.mode) if start else SDCNet(config.net.width)
    net = net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = Adam(net.parameters(), lr=config.optim.lr, weight_decay=config.optim.weight_decay)
    events = tensorboard_folder(config.run.tb_path, folder, is_resumed=config.run.resume)
    log = RunLog(folder, events, active=True)
    millions = sum(p.numel() for p in net.parameters()) / 1e6
    log.say(
        f"SDC-Net for {config.net.mode}, width {net.width} ({millions:.1f} M parameters) on {device}, "
        f"{str(dtype or torch.float32).removeprefix('torch.')}\n"
        f"{len(sequences)} sequence(s): {len(clips)} places to train on, {len(val)} held out\nrun folder: {folder}"
    )
    log.config(as_dict(config))
    return Training(config, device, dtype, net, optimizer, log, clips, evenly(val, config.frames.num_val))


def train(training: Training) -> None:
    """Train epoch by epoch, score, and keep `last.pth` and `best.pth`."""
    run = training.config.run
    state = resume(training)
    clock = Clock(run.max_minutes, run.max_epoch, state.minutes)
    if state.epoch == 0:
        state = score(training, state)
    for epoch in () if clock.is_up() else range(state.epoch, run.max_epoch):
        train_one_epoch(training, epoch, clock)
        check_weights(training.net)
        state = replace(state, epoch=epoch + 1, minutes=clock.minutes())
        ends = run.test_mode or epoch + 1 == run.max_epoch or clock.is_up()
        if ends or (epoch + 1) % run.val_interval == 0:
            state = score(training, state)
        save(training, state, "last.pth")
        if ends:  # not asked again: time that runs out after this moment pays for a last, scored epoch
            break
    training.log.say(f"best PSNR {state.best:.2f} dB: {training.log.folder / 'best.pth'}")


def train_one_epoch(training: Training, epoch: int, clock: Clock) -> None:
    """One visit of every place to train on, one optimizer step a batch."""
    config, net = training.config, training.net
    net.train()
    draws = draw_epoch(config.run.seed, epoch, len(training.train), config.frames.repeat)
    loader = training_loader(training, draws)
    meter = Meter(training.device)
    with tqdm(
        total=len(loader),
        desc=f"epoch {epoch + 1}/{config.run.max_epoch}",
        unit="step",
        dynamic_ncols=True,
        leave=False,
        mininterval=seconds_between_bars(),
    ) as progress:
        for step, (frames, flow) in enumerate(loader):
            if clock.is_up() or (config.run.test_mode and step == TEST_STEPS):
                break
            now = clock.epoch(epoch + step / len(loader))
            meter.waited()
            lr = config.optim.lr * 0.1 ** (now / config.run.max_epoch)
            set_lr(training.optimizer, lr)
            loss = optimizer_step(training, frames, flow)
            progress.update()
            meter.worked(loss.total, len(frames))
            if step % LOG_STEPS == 0 or step == len(loader) - 1:
                parts = {name: float(value) for name, value in loss._asdict().items() if name != "total"}
                values = {"epoch": round(epoch + step / len(loader), 4), "lr": lr, **meter.read(), **parts}
                training.log.scalars("train", epoch * len(loader) + step, values)
                progress.set_postfix_str(
                    f"loss {values['loss']:.4f} {values['images_per_s']:.1f} crops/s "
                    f"waiting {values['waiting']:.0%} left {clock.left(now)}"
                )


def training_loader(training: Training, draws: list[Draw]) -> DataLoader[Sample]:
    """Batches of the crops that `draws` name."""
    config, on_gpu = training.config, training.device.type == "cuda"
    count = config.device.num_workers
    if count is None:  # on a CPU the network needs the cores more than DIS does
        count = default_num_workers(processes()) if on_gpu else 0
    crops = TrainingClips(training.train, config.frames.crop_size, config.run.seed, partial(build_flow, "dis"))
    return DataLoader(
        crops,
        batch_size=min(config.frames.batch, len(draws)),
        sampler=draws,
        drop_last=True,
        collate_fn=collate,
        num_workers=count,
        pin_memory=on_gpu,
        worker_init_fn=prepare_worker,
    )


def optimizer_step(training: Training, frames: Tensor, flow: Tensor) -> SDCLoss:
    """Learn from one batch. frames [B, length, 3, S, S] uint8, flow [B, 2, S, S]. Returns the loss, detached."""
    frames, flow = (values.to(training.device, non_blocking=True) for values in (frames, flow))
    prediction, motion = predict(training, frames, flow)
    loss = sdc_loss(prediction, frames[:, -1].float(), motion)
    training.optimizer.zero_grad(set_to_none=True)
    loss.total.backward()
    training.optimizer.step()
    return SDCLoss(*(part.detach() for part in loss))


def predict(training: Training, frames: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """The last frame, made of the one before it: [B, 3, H, W] float32, 0 to 255, and the motion [B, 2, H, W]."""
    with torch.autocast(training.device.type, training.dtype, enabled=training.dtype is not None):
        motion = training.net(frames[:, 0], frames[:, 1], flow)
    return displaced(frames[:, -2].float(), motion), motion


@torch.inference_mode()
def score(training: Training, state: State) -> State:
    """The state with the PSNR of the held-out frames, whole; `best.pth` where it is the best. Writes some pictures."""
    training.net.eval()
    flow_of = build_flow("dis")
    rows = []
    for number, clip in enumerate(tqdm(training.val, desc="score", disable=None, leave=False, dynamic_ncols=True)):
        frames, flow = (values[None].to(training.device) for values in as_sample(load_clip(clip), flow_of))
        prediction, motion = predict(training, frames, flow)
        before, truth = frames[:, -2].float(), frames[:, -1].float()
        by_flow = displaced(before, flow)
        losses = (sdc_loss(made, truth, way).total.item() for made, way in ((prediction, motion), (by_flow, flow)))
        rows.append([*(psnr(made, truth) for made in (prediction, by_flow, before)), *losses])
        if number < NUM_SAMPLES:
            write_sample(training, state.epoch, number, before[0], prediction[0], truth[0])
    scores: dict[str, float] = dict(zip(SCORES, np.mean(rows, axis=0).tolist(), strict=True))
    if not math.isfinite(scores["psnr"]):
        raise ValueError("the network's frames are not numbers any more. Use a smaller --lr, or another --snapshot.")
    training.log.say(
        f"epoch {state.epoch}: PSNR {scores['psnr']:.2f} dB; the flow alone {scores['psnr_of_flow']:.2f}, "
        f"copying {scores['psnr_of_copying']:.2f}; loss {scores['loss']:.4f}, the flow's {scores['loss_of_flow']:.4f}"
    )
    training.log.scalars("val", state.epoch, {"epoch": state.epoch, **scores})
    is_best = scores["psnr"] > state.best
    state = replace(state, scores=scores, best=max(state.best, scores["psnr"]))
    if is_best:
        save(training, state, "best.pth")
    return state


def psnr(picture: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of values 0 to 255; at most 100, for equal ones. NaN where one is NaN."""
    error = (picture - truth).square().mean().item()
    return min(10 * math.log10(WHITE**2 / max(error, 1e-12)), 100.0) if math.isfinite(error) else math.nan


def write_sample(
    training: Training, epoch: int, number: int, before: Tensor, prediction: Tensor, truth: Tensor
) -> None:
    """The frame before, the prediction, the truth, and how they differ, into the run folder and TensorBoard."""
    difference = (WHITE - BRIGHTER * (prediction - truth).abs()).clamp(min=0)  # white: none
    picture = side_by_side(
        [
            values.round().byte().permute(1, 2, 0).contiguous().cpu().numpy()
            for values in (before, prediction, truth, difference)
        ]
    )
    write_image(training.log.folder / "samples" / f"epoch{epoch:03d}_{number}.png", picture)
    training.log.image(f"sample{number}", epoch, picture)


def resume(training: Training) -> State:
    """The state to start from: that of the run folder's `last.pth`, whose weights `set_up` has loaded, if any."""
    path = training.log.folder / "last.pth"
    if not training.config.run.resume or not path.is_file():
        return State(training.config.run.start_epoch)
    checkpoint = load_checkpoint(path)
    restore_optimizer(training.optimizer, checkpoint.training["optimizer"])
    training.log.say(f"going on after epoch {checkpoint.epoch} of {path}")
    training.log.rewind(checkpoint.epoch)
    return State(checkpoint.epoch, checkpoint.training["minutes"], checkpoint.training["best"], checkpoint.scores)


def save(training: Training, state: State, name: str) -> None:
    """Write a checkpoint into the run folder; `last.pth` can be gone on with."""
    progress = {"optimizer": training.optimizer.state_dict(), "best": state.best, "minutes": state.minutes}
    checkpoint = Checkpoint(
        state_dict=training.net.state_dict(),
        arch=arch_name(training.config.net.mode),
        epoch=state.epoch,
        scores=state.scores,
        config=as_dict(training.config),
        training=progress if name == "last.pth" else {},
    )
    save_checkpoint(training.log.folder / name, checkpoint)


if __name__ == "__main__":
    run_command(main, CONFIG)
