"""Segment a folder of images: python demo_folder.py --demo-folder FOLDER --snapshot CHECKPOINT --save-dir FOLDER."""

from __future__ import annotations

from inference.settings import DemoFolderConfig
from utils.flags import parse_command_line, parse_scales

if __name__ == "__main__":
    CONFIG = parse_command_line(DemoFolderConfig)  # before heavy imports, so that --help answers at once

import csv
import fnmatch
import glob
import hashlib
import json
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
from inference.pixel_percentage import SHARES_PICTURE, SHARES_TABLE
from inference.predictor import Predictor, errors_naming
from inference.visualize import draw_shares
from inference.writers import (
    ResultPaths,
    check_names,
    chosen_kinds,
    is_done,
    is_result,
    pixel_counts,
    result_names,
    result_paths,
    write_results,
)
from utils.command import one_line, run_command
from utils.device import Arriving, DeviceQueue, resolve_device
from utils.distributed import Processes, lists_of_all, process_group, sum_over_processes, wait_for_all
from utils.files import natural_order, writable_folder, write_csv
from utils.images import IMAGE_SUFFIXES, Uint8Array, dark_notice, read_image
from utils.parallel import WriteBehind, read_ahead
from utils.text import counted, escape

ANY_FOLDERS = "**"  # in a pattern
WITHOUT_EFFECT = ("save_dir", "outputs", "max_memory", "resume")  # on the content of a result


@dataclass(frozen=True)
class Job:
    """An image, where its results go, and a hash of what they depend on."""

    source: Path
    paths: ResultPaths
    settings: str


def main(config: DemoFolderConfig) -> int:
    """Predict every image. Returns 1 if some could not be read; the others are done all the same."""
    device = resolve_device(config.device.device)
    kinds = chosen_kinds(config.output.outputs)
    base, images, others = find_images(config.input.demo_folder)
    model = build_model(config.model)
    wanted = wanted_classes(config.output.classes, model.classes)
    predictor = demo_predictor(model, config.output, device)
    folder = writable_folder(Path(config.output.save_dir), "--save-dir")
    all_paths = result_paths(folder, result_names(images, base), images, kinds)
    jobs = [
        Job(image, paths, fingerprint(config, model, wanted, image))
        for image, paths in zip(images, all_paths, strict=True)
    ]

    with process_group(device) as processes:
        wait_for_all()  # until every process has seen which files exist
        counts, unreadable = segment(jobs, processes, predictor, model, wanted, resume=config.output.resume)
        counts = sum_over_processes(counts.to(device)).cpu()
        unreadable = lists_of_all(unreadable)
        if processes.is_main:
            write_shares(folder, base, jobs, counts, model, wanted)
            num_done = len(jobs) - len(unreadable)
            print(f"{num_done} of {counted(len(jobs), 'image')} done; results: {escape(folder)}")
            if others:
                print(others_line(others))
            for message in unreadable:
                print(f"skipped: {message}", file=sys.stderr)
    return 1 if unreadable and processes.is_main else 0  # torchrun stops all processes when one fails


def segment(
    jobs: list[Job], processes: Processes, predictor: Predictor, model: Model, wanted: frozenset[int] | None, *,
    resume: bool,
) -> tuple[Tensor, list[str]]:
    """Do this process's jobs.

    Returns the pixels of each class [N, C] int64, 0 for images of other processes and unreadable ones, and a message
    for each of the latter.
    """
    counts = torch.zeros(len(jobs), len(model.classes), dtype=torch.int64)
    missing, unreadable = [], []
    for i in range(processes.rank, len(jobs), processes.world_size):
        found_before = counts_before(jobs[i], model) if resume else None
        if found_before is None:
            missing.append(i)
        else:
            counts[i] = torch.tensor(found_before)

    network = DeviceQueue(predictor.device)
    with WriteBehind(2) as write_behind, tqdm(total=len(missing), unit="image", disable=None) as progress:

        def write(i: int, image: Uint8Array, predicted: Arriving) -> None:
            job = jobs[i]
            found = write_results(
                job.paths, image, predicted.array(), model.classes, job.source, wanted=wanted, settings=job.settings
            )
            counts[i] = torch.tensor(found)
            first = escape(next(iter(job.paths.values())))
            progress.write(f"{first}: {shares_line(counted_shares(found, model.classes))}")

        for i, reading in read_ahead(missing, lambda i: read(jobs[i])):
            try:
                image = reading.result()
                if notice := dark_notice(jobs[i].source, image):
                    progress.write(escape(notice), file=sys.stderr)
                with network.working(), errors_naming(jobs[i].source):
                    predicted = Arriving(predictor.labels(image))
            except (ValueError, OSError) as error:
                unreadable.append(one_line(error))
            else:
                write_behind(write, i, image, predicted)
            progress.update()
    if missing:
        busy = f"network busy {100 * network.share():.0f} % of the time"
        print(f"{network.per_second(len(missing)):.2f} images/s; {busy}", file=sys.stderr)
    return counts, unreadable


def counts_before(job: Job, model: Model) -> list[int] | None:
    """The pixels of each class that an earlier run found with these settings; None if its results are incomplete."""
    try:
        return pixel_counts(job.paths, model.classes) if is_done(job.paths, job.settings) else None
    except (ValueError, OSError):
        return None


def read(job: Job) -> Uint8Array:
    """The image. Raises OSError or ValueError if it cannot be read, or if its name is too long for its results."""
    check_names(job.paths)
    return read_image(job.source)


def find_images(wanted: str) -> tuple[Path, list[Path], list[Path]]:
    """The folder `wanted` and the images in it and its subfolders, also linked ones, in order; no results of demos.

    For a pattern like photos/**/*.jpg: the folder before the first wildcard, and the images that match. Last come the
    files that were skipped because their extension is not that of an image.
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
        found = matching(folder, pattern)
    else:
        raise FileNotFoundError(f"--demo-folder: no such folder: {folder}")
    found.sort(key=lambda path: natural_order(path.as_posix()))
    files = [path for path in found if path.is_file() and not path.name.startswith(".") and not is_own(path)]
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise ValueError(f"--demo-folder {wanted} contains no images ({', '.join(IMAGE_SUFFIXES)}).")
    return folder, images, [path for path in files if path.suffix.lower() not in IMAGE_SUFFIXES]


def is_own(path: Path) -> bool:
    """Whether a demo wrote this file."""
    return path.name.endswith((SHARES_TABLE, SHARES_PICTURE)) or is_result(path)


def others_line(others: Sequence[Path]) -> str:
    """How many files were skipped for their extension, and what the extensions are."""
    extensions = sorted({path.suffix.lower() or "no extension" for path in others})
    unlike = "is not named like an image" if len(others) == 1 else "are not named like images"
    return escape(f"skipped {counted(len(others), 'file')} that {unlike}: {', '.join(extensions)}")


def matching(folder: Path, pattern: tuple[str, ...]) -> list[Path]:
    """The files below `folder` whose relative path matches the parts of a pattern."""
    if ANY_FOLDERS not in pattern:
        return list(folder.glob("/".join(pattern)))
    return [folder / name for name in files_below(folder) if fits(Path(name).parts, pattern)]


def fits(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether the parts of a path match those of a pattern, where ** stands for any number of them."""
    if not pattern or not parts:
        return not parts and all(part == ANY_FOLDERS for part in pattern)
    if pattern[0] == ANY_FOLDERS:
        return fits(parts, pattern[1:]) or fits(parts[1:], pattern)
    return fnmatch.fnmatch(parts[0], pattern[0]) and fits(parts[1:], pattern[1:])


def fingerprint(config: DemoFolderConfig, model: Model, wanted: frozenset[int] | None, image: Path) -> str:
    """A hash of what the results of an image depend on: settings (not their spelling), model and image."""
    snapshot = Path(config.model.snapshot)
    stamps = [(path.stat().st_size, path.stat().st_mtime_ns) for path in (snapshot, image)]
    of_model = [str(snapshot.resolve()), model.arch, repr(model.classes)]
    output = {key: value for key, value in as_dict(config.output).items() if key not in WITHOUT_EFFECT}
    output |= {"scales": parse_scales(config.output.scales), "classes": wanted and sorted(wanted)}
    return hashlib.sha256(json.dumps([of_model, output, stamps]).encode()).hexdigest()[:16]


def write_shares(
    folder: Path, base: Path, jobs: list[Job], counts: Tensor, model: Model, wanted: frozenset[int] | None
) -> None:
    """Write the class shares of each image in percent, as a table and a picture; without those that could not be read.

    Lines of an earlier run with the same classes are kept if they are of other images, by path below the given folder,
    since the results of those images are kept too.
    """
    path, header = folder / SHARES_TABLE, ["image", *(c.name for c in model.classes)]
    of_this_run = {_as_text(job.source.relative_to(base)) for job in jobs}
    rows: list[Sequence[object]] = [
        (_as_text(job.source.relative_to(base)), *percentages(line))
        for job, line in zip(jobs, counts.tolist(), strict=True)
        if any(line)
    ]
    rows += [line for line in lines_of_table(path, header) if line[0] not in of_this_run]
    write_csv(path, header, rows)
    if len(rows) > 1:
        rows.sort(key=lambda row: natural_order(str(row[0])))
        shares = [[float(str(share)) for share in row[1:]] for row in rows]
        draw_shares(folder / SHARES_PICTURE, shares, model.classes, wanted)


def lines_of_table(path: Path, header: list[str]) -> list[list[str]]:
    """The lines below `header` in a table; [] if there is no such table or it has another header."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            first, *lines = csv.reader(file)
    except (OSError, ValueError, csv.Error):
        return []
    return [line for line in lines if len(line) == len(header)] if first == header else []


def _as_text(path: Path) -> str:
    """`path` for a table; bytes of a name that are not text as \\udc…."""
    return path.as_posix().encode(errors="backslashreplace").decode()


if __name__ == "__main__":
    run_command(main, CONFIG)
