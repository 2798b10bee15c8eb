"""Clips of consecutive frames, without labels, for training motion networks."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median_low

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets.files import files_below
from utils.files import natural_order
from utils.images import IMAGE_SUFFIXES, Uint8Array, read_image
from utils.video_io import open_video
from video.flow import sdc_inputs

MOST_VIDEO = 4 * 2**30  # most bytes of decoded frames of a video file to hold in memory
CLIP_LENGTH = 3  # frames up to the target, for both uses of the network
FAR = 1.5  # times the usual step between frame numbers; beyond it a frame is missing in between

Frame = Path | Uint8Array
Clip = tuple[Frame, ...]  # CLIP_LENGTH consecutive frames
ClipSample = tuple[Tensor, Tensor]  # see `video.flow.sdc_inputs`


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
    return [run for frames in series.values() for run in _cut_at_gaps(frames)]


def _cut_at_gaps(frames: Sequence[tuple[int, Path]]) -> Iterator[list[Frame]]:
    """Cut frames in order of their numbers where some are missing: at FAR times the usual distance."""
    distances = [later - earlier for (earlier, _), (later, _) in pairwise(frames)]
    gaps = [i + 1 for i, distance in enumerate(distances) if distance > FAR * median_low(distances)]
    for first, end in pairwise([0, *gaps, len(frames)]):
        yield [path for _, path in frames[first:end]]


def _frames_of_video(path: Path) -> list[Frame]:
    frames: list[Uint8Array] = []
    with open_video(str(path)) as video:
        for _, frame in video.frames:
            frames.append(frame)
            if len(frames) * frame.nbytes > MOST_VIDEO:
                raise ValueError(
                    f"{path}: more than {MOST_VIDEO / 2**30:.0f} GiB of frames. Write them to a folder and pass that: "
                    f"ffmpeg -i {path.name} -q:v 2 frames/%06d.jpg"
                )
    return [*frames]


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
        raise ValueError(
            f"--frames: at least {2 * CLIP_LENGTH} consecutive frames are needed, {CLIP_LENGTH} to train on and "
            f"{CLIP_LENGTH} to score on; the longest sequence has {max(map(len, sequences))}. "
            f"Check --val_share {val_share}."
        )
    return train, val


class TrainingClips(Dataset[ClipSample]):
    """Crops (frames [length, 3, S, S] uint8, flows [M, 2, S, S] float32) for a network for `mode`; see `sdc_inputs`.

    Indexed by the place in the epoch and the clip. Clips are mirrored and reversed at random, as `seed` and the place
    determine.
    """

    def __init__(self, clips: Sequence[Clip], mode: str, crop_size: int, seed: tuple[int, int]) -> None:
        self.clips = clips
        self.mode = mode
        self.crop_size = crop_size
        self.seed = seed

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
        raise ValueError(
            f"crops of {' and '.join(f'{width}x{height}' for width, height in sizes)} pixels cannot form a batch: some "
            f"sequences are smaller than --crop_size. Use at most {min(map(min, sizes))}."
        )
    return torch.stack(frames), torch.stack(flows)
