"""Train an SDC-Net on frames without labels: python -m video.train --frames DIR; `--help` lists every flag."""

from __future__ import annotations

from utils.flags import parse_command_line
from video.settings import VideoTrainConfig

if __name__ == "__main__":
    CONFIG = parse_command_line(VideoTrainConfig)  # before heavy imports, so that --help answers at once

import math
import os
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median_low

import numpy as np
import torch
from torch import Tensor
from torch.optim import Adam
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from config import as_dict
from datasets.files import files_below
from datasets.loaders import LoaderOptions
from network.checkpoint import Checkpoint
from training.checkpoints import find_start, open_run, restore, save_run
from training.loop import Meters, Progress, run_epochs
from training.optim import set_lr
from training.run_log import BEST, NUM_SAMPLES, RunLog, as_picture, record_start, write_sample
from utils.command import run_command
from utils.device import autocast_dtype, resolve_device
from utils.distributed import find_processes
from utils.files import natural_order
from utils.images import IMAGE_SUFFIXES, Uint8Array, read_image, side_by_side
from utils.text import counted
from utils.video_io import open_video
from video.flow import sdc_inputs
from video.sdc import WHITE, SDCNet, displace, load_sdc, sdc_loss

BRIGHTER = 4  # how much differences are amplified in the sample images

MOST_VIDEO = 4 * 2**30  # most bytes of decoded frames of a video file to hold in memory
CLIP_LENGTH = 3  # frames up to the target, for both uses of the network
FAR = 1.5  # times the usual step between frame numbers; beyond it a frame is missing in between

Frame = Path | Uint8Array
Clip = tuple[Frame, ...]  # CLIP_LENGTH consecutive frames
ClipSample = tuple[Tensor, Tensor]  # see `video.flow.sdc_inputs`


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
    scaler: None = None
    average: None = None


def main(config: VideoTrainConfig) -> None:
    """Train epoch by epoch, score, and keep `last.pth` and `best.pth`."""
    training = set_up_sdc(config)
    with training.log as log:
        run_epochs(training, train_sdc_epoch, score_sdc, save_sdc)
        log.say(f"best PSNR {training.progress.best:.2f} dB: {log.folder / BEST}")


def set_up_sdc(config: VideoTrainConfig) -> SDCTraining:
    """Find the frames, build network and optimizer. Nothing is written before all of this has succeeded."""
    if find_processes().world_size > 1:
        raise ValueError("python -m video.train works in one process; start it without torchrun.")
    device = resolve_device(config.device.device)
    dtype = autocast_dtype(device, bf16=config.device.bf16, fp16=False)
    sequences = find_frame_sequences(Path(config.frames.frames))
    clips, val = split_sequences(sequences, config.frames.val_share)
    start = find_start(config.run)
    torch.manual_seed(config.run.seed)
    net = SDCNet(config.net.mode, config.net.width)
    if path := start.path if start else config.net.snapshot:
        net = load_sdc(path, config.net.mode, start.checkpoint if start else None)
    net = net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = Adam(net.parameters(), lr=config.optim.lr, weight_decay=config.optim.weight_decay)
    if start:
        restore(start, net, optimizer)
    millions = sum(p.numel() for p in net.parameters()) / 1e6
    about = (
        f"SDC-Net for {config.net.mode}, width {net.width} ({millions:.1f} M parameters) on {device}",
        f"{counted(len(sequences), 'sequence')}: {counted(len(clips), 'clip')} to train on, {len(val)} held out",
    )
    batch = min(config.frames.batch, len(clips) * config.frames.repeat)
    log, progress = open_run(config.run, start, as_dict(config), record_start(dtype), about, crops_a_step=batch)
    progress.is_due = progress.is_due or (not start and progress.epoch == 0)  # the initial network is scored too
    scored = np.linspace(0, len(val) - 1, min(config.frames.num_val, len(val))).round().astype(int)  # evenly spaced
    return SDCTraining(config, device, dtype, net, optimizer, log, progress, clips, [val[i] for i in scored])


def train_sdc_epoch(training: SDCTraining) -> Iterator[None]:
    """The rest of the epoch's clips, one optimizer step per batch; yields after each."""
    config, progress = training.config, training.progress
    training.net.train()
    num_steps = len(training.train) * config.frames.repeat // progress.crops_a_step
    loader = training_loader(training)
    with Meters(progress, num_steps, training) as meters:
        for step, (frames, flows) in enumerate(meters.timed(loader), start=progress.step):
            lr = config.optim.lr * 0.1 ** (meters.schedule_at(step) / config.run.max_epoch)
            set_lr(training.optimizer, lr)
            frames, flows = (values.to(training.device, non_blocking=True) for values in (frames, flows))
            prediction, motion = predict(training, frames, flows)
            loss, terms = sdc_loss(prediction, frames[:, -1].float(), motion)
            training.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            meters.add(loss.detach(), len(frames))
            if not meters.is_bad(lambda: []):
                training.optimizer.step()
            meters.end_step(lr, **terms)
            yield


def training_loader(training: SDCTraining) -> DataLoader[tuple[Tensor, Tensor]]:
    """The epoch's batches that are left, of crops of every clip, --repeat times, in random order."""
    config, epoch, num_clips = training.config, training.progress.epoch, len(training.train)
    batch = training.progress.crops_a_step
    order = np.random.default_rng((config.run.seed, epoch)).permutation(num_clips * config.frames.repeat)
    draws = list(enumerate(order % num_clips))  # place in the epoch, and clip
    on_gpu, num_workers = training.device.type == "cuda", config.device.num_workers
    if num_workers is None and not on_gpu:
        num_workers = 0  # the network needs the cores more than DIS does
    clips = TrainingClips(training.train, config.net.mode, config.frames.crop_size, (config.run.seed, epoch))
    return DataLoader(
        clips, batch_size=batch, sampler=draws[training.progress.step * batch :], drop_last=True,
        collate_fn=collate_clips, **LoaderOptions(find_processes(), num_workers, on_gpu).for_loader(),
    )  # fmt: skip


def predict(training: SDCTraining, frames: Tensor, flows: Tensor) -> tuple[Tensor, Tensor]:
    """The last frame, made from the previous one: [B, 3, H, W] float32, 0 to 255, and the motion [B, 2, H, W]."""
    with torch.autocast(training.device.type, training.dtype, enabled=training.dtype is not None):
        motion = training.net(frames[:, : training.net.num_frames], flows)
    return displace(frames[:, -2].float(), motion), motion


@torch.inference_mode()
def score_sdc(training: SDCTraining) -> dict[str, float]:
    """PSNR in dB on whole held-out frames, of the network, its input flow, the frame before; writes samples."""
    progress = training.progress
    training.net.eval()
    rows = []
    for number, clip in enumerate(tqdm(training.val, desc="score", disable=None, leave=False, dynamic_ncols=True)):
        inputs = sdc_inputs(load_clip(clip), training.config.net.mode)
        frames, flows = (values[None].to(training.device) for values in inputs)
        prediction, _ = predict(training, frames, flows)
        before, truth = frames[:, -2].float(), frames[:, -1].float()
        made = {"psnr": prediction, "psnr_of_flow": displace(before, flows[:, -1]), "psnr_of_copying": before}
        rows.append({name: psnr(picture, truth) for name, picture in made.items()})
        if number < NUM_SAMPLES:
            difference = (WHITE - BRIGHTER * (prediction - truth).abs()).clamp(min=0)  # white: none
            pictures = [as_picture(values[0].round().byte()) for values in (before, prediction, truth, difference)]
            write_sample(training.log, progress.epoch, number, side_by_side(pictures))
    scores = {name: statistics.fmean(row[name] for row in rows) for name in rows[0]}
    training.log.say(
        f"epoch {progress.epoch}: PSNR {scores['psnr']:.2f} dB; the flow alone {scores['psnr_of_flow']:.2f}, "
        f"copying {scores['psnr_of_copying']:.2f}"
    )
    training.log.scalars("val", {"epoch": progress.epoch, **scores})
    return scores


def psnr(picture: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of values 0 to 255; at most 100, for equal images. NaN if either has NaN."""
    error = (picture - truth).square().mean().item()
    return min(10 * math.log10(WHITE**2 / max(error, 1e-12)), 100.0) if math.isfinite(error) else math.nan


def save_sdc(training: SDCTraining, name: str) -> None:
    """Write a checkpoint into the run folder."""
    arch, config = f"SDCNet_{training.config.net.mode}", as_dict(training.config)
    checkpoint = Checkpoint(state_dict=training.net.state_dict(), arch=arch, config=config)
    save_run(training, name, checkpoint)


def find_frame_sequences(source: Path) -> list[list[Frame]]:
    """The frame sequences in a folder and its subfolders, or in a video file, each in temporal order.

    A sequence consists of the files in one folder whose names differ only in the number at the end; a gap in the
    numbers starts a new one. Names without a number form one sequence per folder. Raises FileNotFoundError or
    ValueError.
    """
    if source.is_file():
        with open_video(str(source)) as video:
            frames: list[Frame] = []
            for _, frame in video.frames:
                frames.append(frame)
                if len(frames) * frame.nbytes > MOST_VIDEO:
                    way_out = f"write them to a folder and pass that: ffmpeg -i {source.name} -q:v 2 frames/%06d.jpg"
                    raise ValueError(f"{source}: more than {MOST_VIDEO >> 30} GiB of frames; {way_out}")
        return [frames]
    folders: defaultdict[Path, list[str]] = defaultdict(list)
    for path in sorted(files_below(source), key=natural_order):
        if path.lower().endswith(IMAGE_SUFFIXES):
            folders[(source / path).parent].append(Path(path).name)
    if not folders:
        raise FileNotFoundError(f"no images in {source} or its subfolders ({', '.join(IMAGE_SUFFIXES)}).")
    return [sequence for folder, names in folders.items() for sequence in in_sequences(names, folder)]


def in_sequences(names: Iterable[str], folder: Path = Path()) -> list[list[Frame]]:
    """The images `names` of one folder as sequences; see `find_frame_sequences`."""
    stems = {name: Path(name).stem for name in sorted(names, key=natural_order)}
    # What all names share after their number, such as the `_leftImg8bit` of Cityscapes.
    shared = os.path.commonprefix([stem[::-1] for stem in stems.values()])[::-1] if len(stems) > 1 else ""  # noqa: RUF071
    series: defaultdict[str, list[tuple[int, Path]]] = defaultdict(list)
    for name, stem in stems.items():
        numbered = re.fullmatch(r"(.*?)(\d+)", stem.removesuffix(shared.lstrip("0123456789")), re.DOTALL)
        start, number = (numbered[1], int(numbered[2])) if numbered else ("", 0)
        series[start].append((number, folder / name))
    sequences: list[list[Frame]] = []
    for frames in series.values():
        distances = [later - earlier for (earlier, _), (later, _) in pairwise(frames)]
        gaps = [i + 1 for i, distance in enumerate(distances) if distance > FAR * median_low(distances)]
        sequences += [[path for _, path in frames[i:j]] for i, j in pairwise([0, *gaps, len(frames)])]
    return sequences


def split_sequences(sequences: Sequence[Sequence[Frame]], val_share: float) -> tuple[list[Clip], list[Clip]]:
    """The clips of CLIP_LENGTH frames to train on, and those to score on: the last `val_share` of each sequence.

    No frame is in both. A sequence too short for both is used for training. Raises ValueError if either is empty.
    """
    train: list[Clip] = []
    val: list[Clip] = []
    for frames in sequences:
        num_val = max(CLIP_LENGTH, round(len(frames) * val_share))
        cut = len(frames) - num_val if len(frames) >= CLIP_LENGTH + num_val else len(frames)
        for clips, part in ((train, frames[:cut]), (val, frames[cut:])):
            clips += [tuple(part[i : i + CLIP_LENGTH]) for i in range(len(part) - CLIP_LENGTH + 1)]
    if not train or not val:
        needed = f"--frames: at least {2 * CLIP_LENGTH} consecutive frames are needed, half of them to score on"
        raise ValueError(f"{needed}; the longest sequence has {max(map(len, sequences))}. Check --val_share.")
    return train, val


@dataclass(frozen=True)
class TrainingClips(Dataset[ClipSample]):
    """Crops (frames [length, 3, S, S] uint8, flows [M, 2, S, S] float32) for a network for `mode`; see `sdc_inputs`.

    Indexed by the place in the epoch and the clip. Clips are mirrored and reversed at random, as `seed` and the place
    determine.
    """

    clips: Sequence[Clip]
    mode: str
    crop_size: int
    seed: tuple[int, int]

    def __getitem__(self, draw: tuple[int, int]) -> ClipSample:
        place, clip = draw
        generator = np.random.default_rng((*self.seed, place))
        frames = load_clip(self.clips[clip])
        sides = [(side, min(self.crop_size, side)) for side in frames[0].shape[:2]]
        rows, columns = (slice(first := int(generator.integers(side - part + 1)), first + part) for side, part in sides)
        mirror, backwards = generator.integers(2, size=2)
        frames = [frame[rows, columns][:, :: -1 if mirror else 1] for frame in frames]
        return sdc_inputs(frames[::-1] if backwards else frames, self.mode)


def load_clip(clip: Clip) -> list[Uint8Array]:
    """The frames of a clip, [H, W, 3] uint8 RGB. Raises ValueError if sizes differ, and the errors of `read_image`."""
    frames = [read_image(frame) if isinstance(frame, Path) else frame for frame in clip]
    for frame, picture in zip(clip, frames, strict=True):
        if picture.shape != frames[0].shape:
            sizes = [f"{p.shape[1]}x{p.shape[0]}" for p in (picture, frames[0])]
            raise ValueError(f"{frame} has {sizes[0]} pixels, {clip[0]} before it {sizes[1]}; they must be equal.")
    return frames


def collate_clips(samples: Sequence[ClipSample]) -> ClipSample:
    """Samples -> batch. Raises ValueError if their sizes differ."""
    frames, flows = zip(*samples, strict=True)
    sizes = {clip.shape[2:] for clip in frames}
    if len(sizes) > 1:
        raise ValueError(f"some sequences are smaller than --crop_size. Use at most {min(map(min, sizes))}.")
    return torch.stack(frames), torch.stack(flows)


if __name__ == "__main__":
    run_command(main, CONFIG)
