"""Train an SDC-Net on frames without labels: python -m video.train --frames DIR; `--help` lists every flag."""

from __future__ import annotations

from utils.flags import parse_command_line
from video.settings import VideoTrainConfig

if __name__ == "__main__":
    CONFIG = parse_command_line(VideoTrainConfig)  # before heavy imports, so that --help answers at once

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.optim import Adam
from torch.utils.data import DataLoader
from tqdm import tqdm

from config import as_dict
from network.checkpoint import Checkpoint
from training.checkpoints import check_weights, find_start, open_run, restore, save_run
from training.loop import TEST_STEPS, Meters, Progress
from training.optim import set_lr
from training.run_log import BEST, LAST, NUM_SAMPLES, RunLog, as_picture, record_start, write_sample
from utils.command import run_command
from utils.device import autocast_dtype, resolve_device
from utils.distributed import find_processes
from utils.images import side_by_side
from utils.parallel import default_num_workers, prepare_worker
from utils.text import counted
from video.clips import Clip, TrainingClips, collate_clips, find_frame_sequences, load_clip, split_sequences
from video.flow import sdc_inputs
from video.sdc import WHITE, SDCNet, arch_name, displace, load_sdc, sdc_loss

# Of the network, of the motion that it starts from, and of the unchanged previous frame; PSNR in dB.
SCORES = ("psnr", "psnr_of_flow", "psnr_of_copying")
BRIGHTER = 4  # how much differences are amplified in the sample images


@dataclass(frozen=True)
class SDCTraining:
    """What every epoch works with."""

    config: VideoTrainConfig
    device: torch.device
    dtype: torch.dtype | None
    net: SDCNet
    optimizer: Adam
    log: RunLog
    progress: Progress
    train: Sequence[Clip]
    val: Sequence[Clip]


def main(config: VideoTrainConfig) -> None:
    """Train epoch by epoch, score, and keep `last.pth` and `best.pth`."""
    training = set_up(config)
    run, log, progress = config.run, training.log, training.progress
    with log:
        if progress.is_due:
            score(training)
        is_over = progress.is_over()
        while not is_over:
            train_one_epoch(training)
            check_weights(training.net, training.dtype)
            is_over = run.test_mode or progress.is_over()
            progress.is_due = is_over or progress.epoch % run.val_interval == 0
            save(training, LAST)
            if progress.is_due:
                score(training)
                is_over = is_over or progress.is_over()  # the time may have run out meanwhile
        log.say(f"best PSNR {progress.best:.2f} dB: {log.folder / BEST}")


def set_up(config: VideoTrainConfig) -> SDCTraining:
    """Find the frames, build network and optimizer. Nothing is written before all of this has succeeded."""
    if find_processes().world_size > 1:
        raise ValueError("python -m video.train works in one process; start it without torchrun.")
    device = resolve_device(config.device.device)
    dtype = autocast_dtype(device, bf16=config.device.bf16, fp16=False)
    sequences = find_frame_sequences(Path(config.frames.frames))
    clips, val = split_sequences(sequences, config.frames.val_share)
    start = find_start(config.run)
    torch.manual_seed(config.run.seed)
    if start:
        net = load_sdc(start.path, mode=config.net.mode, checkpoint=start.checkpoint)
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
    log, progress = open_run(config.run, start, as_dict(config), record_start(dtype), about)
    progress.is_due = progress.is_due or (not start and progress.epoch == 0)  # the initial network is scored too
    scored = np.linspace(0, len(val) - 1, min(config.frames.num_val, len(val))).round().astype(int)  # evenly spaced
    return SDCTraining(config, device, dtype, net, optimizer, log, progress, clips, [val[i] for i in scored])


def train_one_epoch(training: SDCTraining) -> None:
    """One pass over the training clips, one optimizer step per batch."""
    config, progress = training.config, training.progress
    training.net.train()
    loader = training_loader(training)
    with Meters(progress, len(loader), training.log, training.device, training.dtype) as meters:
        for step, (frames, flows) in enumerate(meters.timed(loader)):
            lr = config.optim.lr * 0.1 ** (meters.schedule_at(step) / config.run.max_epoch)
            set_lr(training.optimizer, lr)
            frames, flows = (values.to(training.device, non_blocking=True) for values in (frames, flows))
            prediction, motion = predict(training, frames, flows)
            loss, terms = sdc_loss(prediction, frames[:, -1].float(), motion)
            training.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            training.optimizer.step()
            meters.add(loss.detach(), len(frames))
            meters.end_step(lr, **terms)
            if progress.time_is_up() or (config.run.test_mode and step + 1 == TEST_STEPS):
                break
    progress.epoch += 1


def training_loader(training: SDCTraining) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of crops of every clip, --repeat times, in the epoch's random order."""
    config, epoch, num_clips = training.config, training.progress.epoch, len(training.train)
    order = np.random.default_rng((config.run.seed, epoch)).permutation(num_clips * config.frames.repeat)
    draws = list(enumerate(order % num_clips))  # place in the epoch, and clip
    on_gpu, num_workers = training.device.type == "cuda", config.device.num_workers
    if num_workers is None:  # on a CPU the network needs the cores more than DIS does
        num_workers = default_num_workers(find_processes()) if on_gpu else 0
    return DataLoader(
        TrainingClips(training.train, config.net.mode, config.frames.crop_size, (config.run.seed, epoch)),
        batch_size=min(config.frames.batch, len(draws)),
        sampler=draws,
        drop_last=True,
        collate_fn=collate_clips,
        num_workers=num_workers,
        pin_memory=on_gpu,
        worker_init_fn=prepare_worker,
    )


def predict(training: SDCTraining, frames: Tensor, flows: Tensor) -> tuple[Tensor, Tensor]:
    """The last frame, made from the previous one: [B, 3, H, W] float32, 0 to 255, and the motion [B, 2, H, W]."""
    with torch.autocast(training.device.type, training.dtype, enabled=training.dtype is not None):
        motion = training.net(frames[:, : training.net.num_frames], flows)
    return displace(frames[:, -2].float(), motion), motion


@torch.inference_mode()
def score(training: SDCTraining) -> None:
    """PSNR on the whole held-out frames; writes samples, `last.pth` and, if it is the best, `best.pth`."""
    progress = training.progress
    training.net.eval()
    rows = []
    for number, clip in enumerate(tqdm(training.val, desc="score", disable=None, leave=False, dynamic_ncols=True)):
        inputs = sdc_inputs(load_clip(clip), training.config.net.mode)
        frames, flows = (values[None].to(training.device) for values in inputs)
        prediction, _ = predict(training, frames, flows)
        before, truth = frames[:, -2].float(), frames[:, -1].float()
        rows.append([psnr(made, truth) for made in (prediction, displace(before, flows[:, -1]), before)])
        if number < NUM_SAMPLES:
            difference = (WHITE - BRIGHTER * (prediction - truth).abs()).clamp(min=0)  # white: none
            pictures = [as_picture(values[0].round().byte()) for values in (before, prediction, truth, difference)]
            write_sample(training.log, progress.epoch, number, side_by_side(pictures))
    scores: dict[str, float] = dict(zip(SCORES, np.mean(rows, axis=0).tolist(), strict=True))
    training.log.say(
        f"epoch {progress.epoch}: PSNR {scores['psnr']:.2f} dB; the flow alone {scores['psnr_of_flow']:.2f}, "
        f"copying {scores['psnr_of_copying']:.2f}"
    )
    training.log.scalars("val", {"epoch": progress.epoch, **scores})
    progress.scores, progress.is_due = scores, False
    if scores["psnr"] > progress.best:
        progress.best = scores["psnr"]
        save(training, BEST)
    save(training, LAST)


def psnr(picture: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of values 0 to 255; at most 100, for equal images. NaN if either has NaN."""
    error = (picture - truth).square().mean().item()
    return min(10 * math.log10(WHITE**2 / max(error, 1e-12)), 100.0) if math.isfinite(error) else math.nan


def save(training: SDCTraining, name: str) -> None:
    """Write a checkpoint into the run folder."""
    checkpoint = Checkpoint(
        state_dict=training.net.state_dict(),
        arch=arch_name(training.config.net.mode),
        config=as_dict(training.config),
    )
    save_run(training.log, name, checkpoint, training.progress, training.net, training.optimizer)


if __name__ == "__main__":
    run_command(main, CONFIG)
