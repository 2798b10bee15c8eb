"""Segment one image or video: python demo.py --demo-image IMAGE --snapshot CHECKPOINT --save-dir FOLDER."""

from __future__ import annotations

from inference.settings import DemoConfig, DemoOutputConfig
from utils.flags import parse_command_line

if __name__ == "__main__":
    CONFIG = parse_command_line(DemoConfig)  # before heavy imports, so that --help answers at once

import sys
from itertools import chain, repeat
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.legend import counted_shares, percentages, pixels_per_class, plot_shares_over_time, shares_table
from inference.confidence import describe
from inference.load import prepare_demo
from inference.pipeline import errors_naming, predict_all
from inference.results import SHARES_PICTURE, SHARES_TABLE, choose_kinds, result_paths, write_results
from inference.visualize import frame_painter
from utils.command import run_command
from utils.device import to_device
from utils.distributed import find_processes
from utils.files import first_free, write_csv
from utils.images import Uint8Array, read_image
from utils.text import counted, escape
from utils.video_io import new_video, open_video
from video.flow import FlowArray, dis_flow, grey_difference, inside, warp_image
from video.sdc import displace

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
KEPT = 0.7  # weight of the past where both frames look the same
ALIKE = 12.0  # difference in brightness, of 255, at which about a third of that weight is left
VIDEO_RESULTS = ("_overlay.mp4", f"_{SHARES_TABLE}", f"_{SHARES_PICTURE}")


def main(config: DemoConfig) -> int:
    """Segment the image or the video that the flags name."""
    if bool(config.input.demo_image) == bool(config.input.demo_video):
        raise ValueError("give --demo-image or --demo-video, and not both.")
    if find_processes().world_size > 1:
        raise ValueError("demo.py runs in one process; use torchrun with demo_folder.py, which distributes its images.")
    if config.input.demo_video:
        return segment_video(config)
    if config.input.temporal:
        raise ValueError("--temporal works only with --demo-video: an image has no previous frame.")
    return segment_image(config)


def segment_image(config: DemoConfig) -> int:
    """Write the image's colour mask, overlay and label ids, and print the class shares."""
    kinds = choose_kinds(config.output.outputs)
    source = Path(config.input.demo_image)
    if source.is_dir():
        raise ValueError(f"{source} is a folder; segment all its images with demo_folder.py --demo-folder.")
    if source.suffix.lower() in VIDEO_SUFFIXES and source.is_file():
        raise ValueError(f"{source} is a video; use --demo-video.")
    image = read_image(source)
    model, wanted, predictor, folder = prepare_demo(config)
    [paths] = result_paths(folder, [source], source.parent, kinds)

    with errors_naming(source):
        prediction = predictor.predict(image).cpu().numpy()
    tally = write_results(paths, image, prediction, model.classes, source, wanted=wanted)

    print(shares_table(counted_shares(tally.pixels, model.classes)))
    if tally.confidence:
        print(describe(*tally.confidence))
    for path in paths.values():
        print(f"wrote {escape(path)}")
    return 0


def segment_video(config: DemoConfig) -> int:
    """Write the video with the classes overlaid, and the class shares: of every frame, as a table and as a plot.

    A camera runs until Ctrl-C or `--max_frames`.
    """
    most, source = config.input.max_frames, config.input.demo_video
    if choose_kinds(config.output.outputs) != choose_kinds(DemoOutputConfig.outputs):
        raise ValueError("--outputs works only with images; for label ids, use demo_folder.py on the video's frames.")
    with open_video(source) as video:
        model, wanted, predictor, folder = prepare_demo(config)
        first = next(video.frames, None)
        if first is None:
            raise ValueError(f"{source}: no frame could be read; the file may be damaged.")
        name = first_free(video.name, lambda name: any((folder / f"{name}{end}").exists() for end in VIDEO_RESULTS))
        film, table, picture = (folder / f"{name}{ending}" for ending in VIDEO_RESULTS)
        height, width = first[1].shape[:2]
        paint, size = frame_painter((width, height), model.classes, wanted)
        frames, smoother = chain([first], video.frames), Smoother()
        times: list[float] = []
        counts: list[list[int]] = []

        def read(_: None) -> tuple[Uint8Array, float] | None:
            frame = next(frames, None)
            return frame and frame[::-1]

        def predict(image: Uint8Array) -> Tensor:
            return smoother(image, predictor.probabilities(image)).argmax(0).to(torch.uint8)

        def write(_: None, prediction: Uint8Array, image: Uint8Array, seconds: float) -> None:
            counts.append(pixels_per_class(prediction, len(model.classes)))
            times.append(seconds)
            write_frame(paint(image, prediction), seconds)

        with new_video(film, video.rate, size) as write_frame:
            predict_all(
                repeat(None) if most is None else repeat(None, most), read,
                predict if config.input.temporal else predictor.predict, write, device=predictor.device,
                path_of=lambda _: Path(source), unit="frame", total=most or video.num_frames or None,
                interruptible=video.is_camera,
            )  # fmt: skip
        if video.is_damaged():
            print("notice: the video is damaged: frames that could not be decoded are left out", file=sys.stderr)

    shares = [percentages(line) for line in counts]
    header = ("frame", "seconds", *(c.name for c in model.classes))
    write_csv(table, header, [(i, f"{times[i]:.3f}", *line) for i, line in enumerate(shares)])
    plot_shares_over_time(picture, shares, model.classes, [*times, times[-1] + 1 / video.rate])
    print(f"wrote {escape(film)}: {counted(len(counts), 'frame')}\nwrote {escape(table)}\nwrote {escape(picture)}")
    return 0


class Smoother:
    """Mixes each frame's probabilities with those of the same spot in the frame before, found by optical flow.

    Where that looks different (something came into view, or the flow is wrong) nothing is mixed in.
    """

    def __init__(self) -> None:
        self._before: tuple[Uint8Array, Tensor] | None = None

    @torch.inference_mode()
    def __call__(self, image: Uint8Array, probabilities: Tensor) -> Tensor:
        """Smoothed probabilities [C, H, W] of the frame [H, W, 3] RGB with these probabilities."""
        if self._before is not None:
            image_before, smoothed_before = self._before
            flow = dis_flow(image, image_before)
            motion = to_device(torch.from_numpy(flow.transpose(2, 0, 1)), probabilities.device)
            kept = to_device(torch.from_numpy(likeness(image, image_before, flow) * KEPT), probabilities.device)
            probabilities = probabilities + kept * (displace(smoothed_before[None], motion[None])[0] - probabilities)
        self._before = image, probabilities
        return probabilities


def likeness(image: Uint8Array, other: Uint8Array, flow: FlowArray) -> NDArray[np.float32]:
    """[H, W]: 1 where `other`, moved by the flow, looks like `image`, falling to 0; 0 where it came from outside."""
    # Blurred slightly, so that noise does not count.
    difference = cv2.blur(grey_difference(image, warp_image(other, flow)), (5, 5))
    return np.where(inside(flow), np.exp(-((difference / ALIKE) ** 2)), 0).astype(np.float32)


if __name__ == "__main__":
    run_command(main, CONFIG)
