"""Train an SDC-Net on frames without labels: python -m video.train --frames DIR; `--help` lists every flag."""

from __future__ import annotations

from utils.flags import parse_command_line
from video.settings import VideoTrainConfig

if __name__ == "__main__":
    CONFIG = parse_command_line(VideoTrainConfig)  # before heavy imports, so that --help answers at once

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.optim import Adam
from torch.utils.data import DataLoader
from tqdm import tqdm

from config import as_dict
from network.checkpoint import Checkpoint
from training.checkpoints import State, check_weights, find_start, open_run, restore
from training.checkpoints import save as save_state
from training.loop import Clock, StepLog
from training.optim import set_lr
from training.run_log import BEST, LAST, NUM_SAMPLES, RunLog, as_picture, record_start, write_sample
from utils.command import run_command
from utils.device import autocast_dtype, resolve_device
from utils.distributed import find_processes
from utils.images import Uint8Array, side_by_side
from utils.parallel import default_num_workers, prepare_worker
from utils.text import counted
from video.clips import (
    Clip,
    ClipDraw,
    ClipSample,
    TrainingClips,
    collate_clips,
    draw_clips,
    evenly,
    find_frame_sequences,
    load_clip,
    split_sequences,
)
from video.flow import sdc_inputs
from video.sdc import WHITE, SDCLoss, SDCNet, arch_name, displace, load_sdc, sdc_loss, sdc_of

SMALLEST_CROP = 32  # pixels; DIS finds nothing in less
# Of the network, of the motion that it starts from, and of the unchanged previous frame; PSNR in dB.
SCORES = ("psnr", "psnr_of_flow", "psnr_of_copying", "loss", "loss_of_flow")
BRIGHTER = 4  # how much differences are amplified in the sample images


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
    training, state = set_up(config)
    with training.log:
        train(training, state)
    return 0


def set_up(config: VideoTrainConfig) -> tuple[Training, State]:
    """Find the frames, build network and optimizer. Nothing is written before all of this has succeeded."""
    if find_processes().world_size > 1:
        raise ValueError("python -m video.train works in one process; start it without torchrun.")
    if config.frames.crop_size < SMALLEST_CROP:
        raise ValueError(f"--crop_size must be at least {SMALLEST_CROP}, got {config.frames.crop_size}.")
    device = resolve_device(config.device.device)
    dtype = autocast_dtype(device, bf16=config.device.bf16, fp16=False)
    sequences = find_frame_sequences(Path(config.frames.frames))
    clips, val = split_sequences(sequences, config.frames.val_share)
    start = find_start(config.run)
    torch.manual_seed(config.run.seed)
    if start:
        net = sdc_of(start.checkpoint, start.path, config.net.mode)
    elif config.net.snapshot:
        net = load_sdc(config.net.snapshot, mode=config.net.mode)
    else:
        net = SDCNet(config.net.mode, config.net.width)
    net = net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = Adam(net.parameters(), lr=config.optim.lr, weight_decay=config.optim.weight_decay)
    if start:
        restore(start, net, optimizer)
    millions = sum(p.numel() for p in net.parameters()) / 1e6
    about = (
        f"SDC-Net for {config.net.mode}, width {net.width} ({millions:.1f} M parameters) on {device}, "
        f"{str(dtype or torch.float32).removeprefix('torch.')}",
        f"{counted(len(sequences), 'sequence')}: {counted(len(clips), 'clip')} to train on, {len(val)} held out",
    )
    fresh = State(config.run.start_epoch, is_due=config.run.start_epoch == 0)  # the initial network is scored too
    log, state = open_run(config.run, start, fresh, as_dict(config), record_start(dtype), about)
    scored = evenly(val, config.frames.num_val)
    return Training(config, device, dtype, net, optimizer, log, clips, scored), state


def train(training: Training, state: State) -> None:
    """Train epoch by epoch, score, and keep `last.pth` and `best.pth`."""
    run, log = training.config.run, training.log
    clock = Clock(run.max_minutes, run.max_epoch, state.minutes)
    if state.is_due:
        state = score(training, state)
    for epoch in () if clock.is_up() else range(state.epoch, run.max_epoch):
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
    log.say(f"best PSNR {state.best:.2f} dB: {log.folder / BEST}")


def train_one_epoch(training: Training, epoch: int, clock: Clock) -> None:
    """One pass over the training clips, one optimizer step per batch."""
    config = training.config
    training.net.train()
    loader = training_loader(training, draw_clips(config.run.seed, epoch, len(training.train), config.frames.repeat))
    with StepLog(
        loader, epoch, clock, training.log, training.device, training.dtype, test_mode=config.run.test_mode
    ) as steps:
        for place, (frames, flows) in steps:
            lr = config.optim.lr * 0.1 ** (place.now / config.run.max_epoch)
            set_lr(training.optimizer, lr)
            loss = optimizer_step(training, frames, flows)
            parts = {name: value for name, value in loss._asdict().items() if name != "total"}
            steps.worked(place, lr, loss.total, len(frames), **parts)


def training_loader(training: Training, draws: list[ClipDraw]) -> DataLoader[ClipSample]:
    """Batches of the crops that `draws` name."""
    config, on_gpu = training.config, training.device.type == "cuda"
    count = config.device.num_workers
    if count is None:  # on a CPU the network needs the cores more than DIS does
        count = default_num_workers(find_processes()) if on_gpu else 0
    crops = TrainingClips(training.train, config.net.mode, config.frames.crop_size, config.run.seed)
    return DataLoader(
        crops,
        batch_size=min(config.frames.batch, len(draws)),
        sampler=draws,
        drop_last=True,
        collate_fn=collate_clips,
        num_workers=count,
        pin_memory=on_gpu,
        worker_init_fn=prepare_worker,
    )


def optimizer_step(training: Training, frames: Tensor, flows: Tensor) -> SDCLoss:
    """Train on one batch. frames [B, length, 3, S, S] uint8, flows [B, M, 2, S, S]. Returns the loss, detached."""
    frames, flows = (values.to(training.device, non_blocking=True) for values in (frames, flows))
    prediction, motion = predict(training, frames, flows)
    loss = sdc_loss(prediction, frames[:, -1].float(), motion)
    training.optimizer.zero_grad(set_to_none=True)
    loss.total.backward()
    training.optimizer.step()
    return SDCLoss(*(part.detach() for part in loss))


def predict(training: Training, frames: Tensor, flows: Tensor) -> tuple[Tensor, Tensor]:
    """The last frame, made from the previous one: [B, 3, H, W] float32, 0 to 255, and the motion [B, 2, H, W]."""
    with torch.autocast(training.device.type, training.dtype, enabled=training.dtype is not None):
        motion = training.net(frames[:, : training.net.num_frames], flows)
    return displace(frames[:, -2].float(), motion), motion


@torch.inference_mode()
def score(training: Training, state: State) -> State:
    """The state with the PSNR on the whole held-out frames; writes samples, `last.pth` and, if best, `best.pth`."""
    training.net.eval()
    rows = []
    for number, clip in enumerate(tqdm(training.val, desc="score", disable=None, leave=False, dynamic_ncols=True)):
        inputs = sdc_inputs(load_clip(clip), training.config.net.mode)
        frames, flows = (values[None].to(training.device) for values in inputs)
        prediction, motion = predict(training, frames, flows)
        before, truth, flow = frames[:, -2].float(), frames[:, -1].float(), flows[:, -1]
        by_flow = displace(before, flow)
        losses = (sdc_loss(made, truth, way).total.item() for made, way in ((prediction, motion), (by_flow, flow)))
        rows.append([*(psnr(made, truth) for made in (prediction, by_flow, before)), *losses])
        if number < NUM_SAMPLES:
            write_sample(training.log, state.epoch, number, sample(before[0], prediction[0], truth[0]))
    scores: dict[str, float] = dict(zip(SCORES, np.mean(rows, axis=0).tolist(), strict=True))
    if not math.isfinite(scores["psnr"]):
        raise ValueError(
            "the predicted frames became NaN or infinite. Start a new run (--exp) with a smaller --lr, or from another "
            "--snapshot."
        )
    training.log.say(
        f"epoch {state.epoch}: PSNR {scores['psnr']:.2f} dB; the flow alone {scores['psnr_of_flow']:.2f}, "
        f"copying {scores['psnr_of_copying']:.2f}; loss {scores['loss']:.4f}, the flow's {scores['loss_of_flow']:.4f}"
    )
    training.log.scalars("val", {"epoch": state.epoch, **scores})
    is_best = scores["psnr"] > state.best
    state = replace(state, scores=scores, best=max(state.best, scores["psnr"]), is_due=False)
    if is_best:
        save(training, state, BEST)
    save(training, state, LAST)
    return state


def psnr(picture: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of values 0 to 255; at most 100, for equal images. NaN if either has NaN."""
    error = (picture - truth).square().mean().item()
    return min(10 * math.log10(WHITE**2 / max(error, 1e-12)), 100.0) if math.isfinite(error) else math.nan


def sample(before: Tensor, prediction: Tensor, truth: Tensor) -> Uint8Array:
    """Previous frame, prediction, truth and their difference, side by side. [3, H, W], values 0 to 255."""
    difference = (WHITE - BRIGHTER * (prediction - truth).abs()).clamp(min=0)  # white: none
    return side_by_side([as_picture(values.round().byte()) for values in (before, prediction, truth, difference)])


def save(training: Training, state: State, name: str) -> None:
    """Write a checkpoint into the run folder."""
    checkpoint = Checkpoint(
        state_dict=training.net.state_dict(),
        arch=arch_name(training.config.net.mode),
        config=as_dict(training.config),
    )
    save_state(training.log, name, checkpoint, state, training.net, training.optimizer)


if __name__ == "__main__":
    run_command(main, CONFIG)
