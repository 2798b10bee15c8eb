"""Segment a folder of images: python demo_folder.py --demo-folder FOLDER --snapshot CHECKPOINT --save-dir FOLDER."""

from __future__ import annotations

from inference.settings import DemoFolderConfig
from utils.flags import parse_command_line, parse_scales

if __name__ == "__main__":
    CONFIG = parse_command_line(DemoFolderConfig)  # before heavy imports, so that --help answers at once

import fnmatch
import glob
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from config import as_dict
from datasets.files import files_below
from datasets.legend import counted_shares, percentages, shares_line
from inference.load import Model, build_model, demo_predictor, wanted_classes
from inference.predictor import Predictor, describe_speed, predict_all
from inference.results import (
    SHARES_PICTURE,
    SHARES_TABLE,
    ResultPaths,
    check_names,
    choose_kinds,
    fingerprint,
    is_result,
    read_counts,
    result_paths,
    write_results,
)
from inference.visualize import draw_shares
from utils.command import run_command
from utils.device import resolve_device
from utils.distributed import Processes, lists_of_all, process_group, sum_over_processes, wait_for_all
from utils.files import natural_order, writable_folder, write_csv
from utils.images import IMAGE_SUFFIXES, Uint8Array, read_image
from utils.text import counted, escape

ANY_FOLDERS = "**"  # in a pattern
WITHOUT_EFFECT = ("save_dir", "outputs", "max_memory", "resume")  # on the content of a result


@dataclass(frozen=True)
class Job:
    """An image, where its results go, and the fingerprint of what they depend on."""

    source: Path
    paths: ResultPaths
    settings: str


def main(config: DemoFolderConfig) -> int:
    """Predict every image. Returns 1 if some could not be read; the others are done all the same."""
    device = resolve_device(config.device.device)
    kinds = choose_kinds(config.output.outputs)
    base, images, others = find_images(config.input.demo_folder)
    model = build_model(config.model)
    wanted = wanted_classes(config.output.classes, model.classes)
    predictor = demo_predictor(model, config.output, device)
    folder = writable_folder(Path(config.output.save_dir), "--save-dir")
    output = {key: value for key, value in as_dict(config.output).items() if key not in WITHOUT_EFFECT}
    output |= {"scales": parse_scales(config.output.scales), "classes": wanted and sorted(wanted)}
    settings = [model.arch, repr(model.classes), output]
    all_paths = result_paths(folder, images, base, kinds)
    jobs = [
        Job(image, paths, fingerprint(settings, [Path(config.model.snapshot), image]))
        for image, paths in zip(images, all_paths, strict=True)
    ]

    with process_group(device) as processes:
        wait_for_all()  # until every process has seen which files exist
        counts, unreadable = segment(jobs, processes, predictor, model, wanted, resume=config.output.resume)
        counts = sum_over_processes(counts.to(device)).cpu()
        unreadable = lists_of_all(unreadable)
        if processes.is_main:
            write_shares(folder, [image.relative_to(base) for image in images], counts, model, wanted)
            num_done = len(jobs) - len(unreadable)
            print(f"{num_done} of {counted(len(jobs), 'image')} done; results: {escape(folder)}")
            if others:
                extensions = sorted({path.suffix.lower() or "no extension" for path in others})
                files = counted(len(others), "file")
                print(escape(f"skipped {files} without the extension of an image: {', '.join(extensions)}"))
            for message in unreadable:
                print(f"skipped: {message}", file=sys.stderr)
    return 1 if unreadable and processes.is_main else 0  # torchrun stops all processes when one fails


def segment(
    jobs: list[Job], processes: Processes, predictor: Predictor, model: Model, wanted: frozenset[int] | None,
    *, resume: bool,
) -> tuple[Tensor, list[str]]:
    """Do this process's jobs.

    Returns the pixels of each class [N, C] int64, 0 for images of other processes and unreadable ones, and a message
    for each of the latter.
    """  # fmt: skip
    counts = torch.zeros(len(jobs), len(model.classes), dtype=torch.int64)
    missing: list[int] = []
    unreadable: list[str] = []
    for i in range(processes.rank, len(jobs), processes.world_size):
        found = read_counts(jobs[i].paths, jobs[i].settings) if resume else None
        if found is None:
            missing.append(i)
        else:
            counts[i] = torch.tensor(found)

    def read(i: int) -> tuple[Uint8Array]:
        check_names(jobs[i].paths)
        return (read_image(jobs[i].source),)

    def write(i: int, prediction: Uint8Array, image: Uint8Array) -> None:
        job = jobs[i]
        found = write_results(
            job.paths, image, prediction, model.classes, job.source, wanted=wanted, settings=job.settings
        )
        counts[i] = torch.tensor(found)
        first = escape(next(iter(job.paths.values())))
        tqdm.write(f"{first}: {shares_line(counted_shares(found, model.classes))}")

    speed = predict_all(
        missing, read, predictor.predict, write, device=predictor.device, path_of=lambda i: jobs[i].source,
        total=len(missing), num_writers=2, show=processes.is_main, failed=unreadable,
    )  # fmt: skip
    if speed:
        print(describe_speed(speed), file=sys.stderr)
    return counts, unreadable


def find_images(wanted: str) -> tuple[Path, list[Path], list[Path]]:
    """The folder `wanted` and the images in it and its subfolders, also linked ones, in order; no results of demos.

    For a pattern like photos/**/*.jpg: the folder before the first wildcard, and the images that match. Last come the
    files that were skipped because their extension is not that of an image, as of HEIC photos.
    Raises FileNotFoundError or ValueError if there are no images.
    """
    wanted = os.path.expanduser(wanted)  # noqa: PTH111 - a quoted ~ is not expanded by the shell, an unknown one stays
    folder = Path(wanted)
    if folder.is_file():
        raise ValueError(f"--demo-folder {folder} is a file; segment one image with demo.py --demo-image.")
    if folder.is_dir():
        found = [folder / name for name in files_below(folder)]
    elif glob.has_magic(wanted):
        first_wildcard = next(i for i, part in enumerate(folder.parts) if glob.has_magic(part))
        pattern = folder.parts[first_wildcard:]
        folder = Path(*folder.parts[:first_wildcard])
        if ANY_FOLDERS in pattern:  # glob either does not follow linked folders there, or also those that lead back
            found = [folder / name for name in files_below(folder) if matches(Path(name).parts, pattern)]
        else:
            found = list(folder.glob("/".join(pattern)))
    else:
        raise FileNotFoundError(f"--demo-folder: no such folder: {folder}")
    found.sort(key=lambda path: natural_order(path.as_posix()))
    files = [path for path in found if path.is_file() and not path.name.startswith(".") and not is_result(path)]
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise ValueError(f"--demo-folder {wanted} contains no images ({', '.join(IMAGE_SUFFIXES)}).")
    return folder, images, [path for path in files if path.suffix.lower() not in IMAGE_SUFFIXES]


def matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether the parts of a path match those of a pattern, where ** stands for any number of them."""
    if not pattern or not parts:
        return not parts and all(part == ANY_FOLDERS for part in pattern)
    if pattern[0] == ANY_FOLDERS:
        return matches(parts, pattern[1:]) or matches(parts[1:], pattern)
    return fnmatch.fnmatch(parts[0], pattern[0]) and matches(parts[1:], pattern[1:])


def write_shares(
    folder: Path, names: Sequence[Path], counts: Tensor, model: Model, wanted: frozenset[int] | None
) -> None:
    """Write the class shares of each image in percent, as a table and a picture; without those that could not be read.

    names: the images' paths below the given folder. counts: [N, C] pixels.
    """
    shares = {name: percentages(line) for name, line in zip(names, counts.tolist(), strict=True) if any(line)}
    lines = [(name.as_posix(), *line) for name, line in shares.items()]
    write_csv(folder / SHARES_TABLE, ("image", *(c.name for c in model.classes)), lines)
    if len(shares) > 1:
        draw_shares(folder / SHARES_PICTURE, list(shares.values()), model.classes, wanted)


if __name__ == "__main__":
    run_command(main, CONFIG)
