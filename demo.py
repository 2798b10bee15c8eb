"""Segment one image or video: python demo.py --demo-image IMAGE --snapshot CHECKPOINT --save-dir FOLDER."""

from __future__ import annotations

from inference.settings import DemoConfig, DemoInputConfig
from utils.flags import parse_command_line

if __name__ == "__main__":
    CONFIG = parse_command_line(DemoConfig)  # before heavy imports, so that --help answers at once

import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import chain, count, islice
from pathlib import Path

import torch
from tqdm import tqdm

from datasets.legend import counted_shares, percentages, pixels_per_class, shares_table
from inference.load import Model, build_model, demo_predictor, wanted_classes
from inference.pixel_percentage import SHARES_PICTURE, SHARES_TABLE
from inference.predictor import Predictor, errors_naming
from inference.temporal import Smoother
from inference.visualize import FramePainter, draw_shares
from inference.writers import KINDS, check_names, chosen_kinds, result_paths, unused_paths, write_results
from utils.command import run_command
from utils.device import Arriving, DeviceQueue, resolve_device
from utils.distributed import find_processes
from utils.files import writable_folder, write_csv
from utils.images import Uint8Array, dark_notice, read_image
from utils.parallel import WriteBehind, read_ahead
from utils.text import counted, escape
from utils.video_io import Video, new_video, opened_video

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
VIDEO_RESULTS = ("_overlay.mp4", f"_{SHARES_TABLE}", f"_{SHARES_PICTURE}")


def main(config: DemoConfig) -> int:
    """Segment the image or the video that the flags name."""
    if bool(config.input.demo_image) == bool(config.input.demo_video):
        raise ValueError("give --demo-image or --demo-video, and not both.")
    if config.input.temporal and not config.input.demo_video:
        raise ValueError("--temporal works only with --demo-video: an image has no previous frame.")
    if config.input.demo_video and len(chosen_kinds(config.output.outputs)) < len(KINDS):
        raise ValueError(
            "--outputs works only with --demo-image: of a video the overlay and the class shares are written. For "
            "label ids, extract its frames to a folder and use demo_folder.py."
        )
    if find_processes().world_size > 1:
        raise ValueError("demo.py runs in one process; use torchrun with demo_folder.py, which distributes its images.")
    return segment_video(config) if config.input.demo_video else segment_image(config)


def segment_image(config: DemoConfig) -> int:
    """Write the image's colour mask, overlay and label ids, and print the class shares."""
    device = resolve_device(config.device.device)
    kinds = chosen_kinds(config.output.outputs)
    source = Path(config.input.demo_image)
    if source.is_dir():
        raise ValueError(f"{source} is a folder; segment all its images with demo_folder.py --demo-folder.")
    if source.suffix.lower() in VIDEO_SUFFIXES and source.is_file():
        raise ValueError(f"{source} is a video; use --demo-video.")
    image = read_image(source)
    if notice := dark_notice(source, image):
        print(escape(notice), file=sys.stderr)
    model = build_model(config.model)
    wanted = wanted_classes(config.output.classes, model.classes)
    predictor = demo_predictor(model, config.output, device)
    folder = writable_folder(Path(config.output.save_dir), "--save-dir")

    [paths] = result_paths(folder, [source.stem], [source], kinds)
    check_names(paths)

    with errors_naming(source):
        labels = predictor.labels(image).cpu().numpy()
    counts = write_results(paths, image, labels, model.classes, source, wanted=wanted)

    print(shares_table(counted_shares(counts, model.classes)))
    for path in paths.values():
        print(f"wrote {escape(path)}")
    return 0


def segment_video(config: DemoConfig) -> int:
    """Write the video with the classes overlaid, and the class shares of every frame as a table and as a picture."""
    device = resolve_device(config.device.device)
    with opened_video(config.input.demo_video) as video:
        model = build_model(config.model)
        wanted = wanted_classes(config.output.classes, model.classes)
        predictor = demo_predictor(model, config.output, device)
        folder = writable_folder(Path(config.output.save_dir), "--save-dir")
        first = next(video.frames, None)
        if first is None:
            raise ValueError(f"{config.input.demo_video}: no frame could be read; the file may be damaged.")
        film, table, picture = unused_paths(folder, video.name, VIDEO_RESULTS)
        height, width = first[1].shape[:2]
        painter = FramePainter((width, height), model.classes, wanted)
        frames = chain([first], video.frames)
        times, counts = predict_frames(video, frames, film, predictor, painter, model, config.input)
        if len(counts) != config.input.max_frames and (missing := video.missing()):
            print(
                f"notice: the video ends after {counted(len(counts), 'frame')}, {missing:.2f} s earlier than it says; "
                "the file may be truncated",
                file=sys.stderr,
            )
        elif video.is_damaged():
            print("notice: the video is damaged: frames that could not be decoded are left out", file=sys.stderr)

    shares = [percentages(line) for line in counts]
    header = ("frame", "seconds", *(c.name for c in model.classes))
    write_csv(table, header, [(i, f"{times[i]:.3f}", *line) for i, line in enumerate(shares)])
    draw_shares(picture, shares, model.classes, wanted, [*times, times[-1] + 1 / video.rate])
    print(f"wrote {escape(film)}: {counted(len(counts), 'frame')}\nwrote {escape(table)}\nwrote {escape(picture)}")
    return 0


def predict_frames(
    video: Video, frames: Iterator[tuple[float, Uint8Array]], film: Path, predictor: Predictor, painter: FramePainter,
    model: Model, options: DemoInputConfig,
) -> tuple[list[float], list[list[int]]]:
    """Write the frames to `film`. Returns the time of each, in seconds, and its pixels of each class.

    A camera runs until Ctrl-C or `--max_frames`. Raises KeyboardInterrupt if that comes before its first frame is done.
    """
    times: list[float] = []
    counts: list[list[int]] = []
    num_done = 0
    network, smoother = DeviceQueue(predictor.device), Smoother()
    with (
        new_video(film, video.rate, painter.size) as write_frame,
        WriteBehind() as write_behind,
        tqdm(total=options.max_frames or video.num_frames or None, unit="frame", disable=None) as progress,
    ):

        def write(image: Uint8Array, seconds: float, predicted: Arriving) -> None:
            labels = predicted.array()
            counts.append(pixels_per_class(labels, len(model.classes)))
            times.append(seconds)
            write_frame(painter(image, labels), seconds)

        try:
            with closing(read_ahead(count(), lambda _: next(frames, None))) as reading:
                for _, future in islice(reading, options.max_frames):
                    frame = future.result()
                    if frame is None:
                        break
                    seconds, image = frame
                    with network.working(), errors_naming(Path(options.demo_video)):
                        predicted = predictor.probabilities(image) if options.temporal else predictor.labels(image)
                    if options.temporal:
                        predicted = smoother(image, predicted).argmax(0).to(torch.uint8)
                    write_behind(write, image, seconds, Arriving(predicted))
                    num_done += 1
                    progress.update()
        except KeyboardInterrupt:
            if not (video.is_camera and num_done):
                raise
    busy = f"network busy {100 * network.share():.0f} % of the time"
    print(f"{network.per_second(len(counts)):.2f} frames/s; {busy}", file=sys.stderr)
    return times, counts


if __name__ == "__main__":
    run_command(main, CONFIG)
