"""Clips of consecutive frames, without labels, for training motion networks."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from utils.files import natural_order
from utils.images import IMAGE_SUFFIXES, Uint8Array, read_image
from utils.video_io import opened_video
from video.flow import sdc_inputs

MOST_VIDEO = 4 * 2**30  # most bytes of decoded frames of a video file to hold in memory
CLIP_LENGTH = 3  # frames up to the target, for both uses of the network
FAR = 1.5  # times the usual step between frame numbers; beyond it a frame is missing in between

Frame = Path | Uint8Array
Clip = tuple[Frame, ...]  # CLIP_LENGTH consecutive frames
ClipSample = tuple[Tensor, Tensor]  # see `video.flow.sdc_inputs`


@dataclass(frozen=True)
class ClipDraw:
    """A training sample: its clip, and the epoch and the place in it, which determine everything random."""

    epoch: int
    place: int
    clip: int


def find_frame_sequences(source: Path) -> list[list[Frame]]:
    """The frame sequences in a folder and its subfolders, or in a video file, each in temporal order.

    A sequence consists of the files in one folder whose names differ only in the number at the end; a gap in the
    numbers starts a new one. Names without a number form one sequence per folder. Raises FileNotFoundError or
    ValueError.
    """
    if source.is_file():
        return [_frames_of_video(source)]
    if not source.is_dir():
        raise FileNotFoundError(f"no such file or folder: {source}")
    found = [sequence for folder, names in _images_below(source) for sequence in in_sequences(names, folder)]
    if not found:
        raise FileNotFoundError(f"no images in {source} or its subfolders ({', '.join(IMAGE_SUFFIXES)}).")
    return found


def in_sequences(names: Sequence[str], folder: Path = Path()) -> list[list[Frame]]:
    """The images `names` of one folder as sequences; see `find_frame_sequences`."""
    stems = [Path(name).stem for name in names]
    ending = common_ending(stems) if len(stems) > 1 else ""
    series: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for name, stem in zip(names, stems, strict=True):
        start, digits = re.fullmatch(r"(.*?)(\d*)", stem.removesuffix(ending), re.DOTALL).groups()  # type: ignore[union-attr]
        series[start if digits else ""].append((int(digits or 0), name))
    in_order = (sorted(series[start], key=_by_number) for start in sorted(series, key=natural_order))
    return [[folder / name for name in run] for numbered in in_order for run in _even_runs(numbered)]


def _by_number(numbered: tuple[int, str]) -> Any:
    return numbered[0], natural_order(numbered[1])


def common_ending(stems: Sequence[str]) -> str:
    """The ending that all the names share after their number, such as the `_leftImg8bit` of Cityscapes."""
    backwards = [stem[::-1] for stem in stems]
    return os.path.commonprefix(backwards)[::-1].lstrip("0123456789")  # noqa: RUF071 - letters, not folders


def split_sequences(sequences: Sequence[Sequence[Frame]], val_share: float) -> tuple[list[Clip], list[Clip]]:
    """The clips of CLIP_LENGTH frames to train on, and those to score on: the last `val_share` of each sequence.

    No frame is in both. A sequence too short for both is used for training. Raises ValueError if either is empty.
    """
    train: list[Clip] = []
    val: list[Clip] = []
    for frames in sequences:
        num_val = max(CLIP_LENGTH, round(len(frames) * val_share))
        cut = len(frames) - num_val if len(frames) >= CLIP_LENGTH + num_val else len(frames)
        train += _clips(frames[:cut])
        val += _clips(frames[cut:])
    if not train or not val:
        longest = max(map(len, sequences))
        raise ValueError(
            f"--frames: at least {2 * CLIP_LENGTH} consecutive frames are needed, {CLIP_LENGTH} to train on and "
            f"{CLIP_LENGTH} to score on; the longest sequence has {longest}. Check --val_share {val_share}."
        )
    return train, val


def evenly(clips: Sequence[Clip], at_most: int) -> list[Clip]:
    """At most `at_most` of the clips, evenly spaced."""
    places = np.linspace(0, len(clips) - 1, min(at_most, len(clips))).round().astype(int)
    return [clips[place] for place in places]


def draw_clips(seed: int, epoch: int, num_clips: int, repeat: int) -> list[ClipDraw]:
    """Every clip `repeat` times, in random order."""
    order = np.random.default_rng((seed, epoch)).permutation(num_clips * repeat)
    return [ClipDraw(epoch, place, int(clip) % num_clips) for place, clip in enumerate(order)]


class TrainingClips(Dataset[ClipSample]):
    """Crops (frames [length, 3, S, S] uint8, flows [M, 2, S, S] float32) for a network for `mode`; see `sdc_inputs`.

    Clips are mirrored and reversed at random. A sample depends only on (seed, draw).
    """

    def __init__(self, clips: Sequence[Clip], mode: str, crop_size: int, seed: int) -> None:
        self.clips = clips
        self.mode = mode
        self.crop_size = crop_size
        self.seed = seed

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, draw: ClipDraw) -> ClipSample:
        generator = np.random.default_rng((self.seed, draw.epoch, draw.place))
        frames = load_clip(self.clips[draw.clip])
        height, width = min(self.crop_size, frames[0].shape[0]), min(self.crop_size, frames[0].shape[1])
        top, left = (
            int(generator.integers(side - part + 1))
            for side, part in zip(frames[0].shape[:2], (height, width), strict=True)
        )
        mirror, backwards = generator.integers(2, size=2)
        frames = [frame[top : top + height, left : left + width][:, :: -1 if mirror else 1] for frame in frames]
        return sdc_inputs(frames[::-1] if backwards else frames, self.mode)


def load_clip(clip: Clip) -> list[Uint8Array]:
    """The frames of a clip, [H, W, 3] uint8 RGB. Raises ValueError if sizes differ, and the errors of `read_image`."""
    frames = [read_image(frame) if isinstance(frame, Path) else frame for frame in clip]
    for frame, picture in zip(clip, frames, strict=True):
        if picture.shape != frames[0].shape:
            raise ValueError(
                f"{frame} has {picture.shape[1]}x{picture.shape[0]} pixels, {clip[0]} before it "
                f"{frames[0].shape[1]}x{frames[0].shape[0]}; all frames of a sequence must have the same size."
            )
    return frames


def collate_clips(samples: Sequence[ClipSample]) -> ClipSample:
    """Samples -> batch. Raises ValueError if their sizes differ."""
    frames, flows = zip(*samples, strict=True)
    sizes = sorted({(clip.shape[3], clip.shape[2]) for clip in frames})
    if len(sizes) > 1:
        smallest = min(min(size) for size in sizes)
        raise ValueError(
            f"crops of {' and '.join(f'{width}x{height}' for width, height in sizes)} pixels cannot form a batch: some "
            f"sequences are smaller than --crop_size. Use at most {smallest}."
        )
    return torch.stack(frames), torch.stack(flows)


def _clips(frames: Sequence[Frame]) -> list[Clip]:
    return [tuple(frames[i : i + CLIP_LENGTH]) for i in range(len(frames) - CLIP_LENGTH + 1)]


def _images_below(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural_order)
        images = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")]
        if images:
            yield Path(parent), images


def _even_runs(numbered: Sequence[tuple[int, str]]) -> Iterator[list[str]]:
    """Cut names in order of their numbers where frames are missing: at FAR times the usual distance."""
    distances = [later - earlier for (earlier, _), (later, _) in pairwise(numbered)]
    usual = median_low(distances) if distances else 0
    run: list[str] = []
    for (_, name), distance in zip(numbered, [*distances, 0], strict=True):
        run.append(name)
        if distance > FAR * usual:
            yield run
            run = []
    yield run


def _frames_of_video(path: Path) -> list[Frame]:
    frames: list[Frame] = []
    size = 0
    with opened_video(str(path)) as video:
        for _, frame in video.frames:
            frames.append(frame)
            size += frame.nbytes
            if size > MOST_VIDEO:
                raise ValueError(
                    f"{path}: more than {MOST_VIDEO / 2**30:.0f} GiB of frames. Write them to a folder and pass that: "
                    f"ffmpeg -i {path.name} -q:v 2 frames/%06d.jpg"
                )
    return frames
