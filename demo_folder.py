"""Segment a folder of images: python demo_folder.py --demo-folder FOLDER --snapshot CHECKPOINT --save-dir FOLDER."""

from __future__ import annotations

from inference.settings import DemoFolderConfig
from utils.flags import parse_command_line

if __name__ == "__main__":
    CONFIG = parse_command_line(DemoFolderConfig)  # before heavy imports, so that --help answers at once

import fnmatch
import glob
import os
import sys
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from config import as_dict
from datasets.files import files_below
from datasets.legend import counted_shares, percentages, plot_shares_over_time
from inference.confidence import CONFIDENCE_COLUMNS
from inference.load import Model, prepare_demo
from inference.pipeline import predict_all
from inference.predictor import Predictor
from inference.results import (
    SHARES_PICTURE,
    SHARES_TABLE,
    ResultPaths,
    Tally,
    choose_kinds,
    is_result,
    read_tally,
    result_paths,
    write_results,
)
from utils.command import run_command
from utils.distributed import Processes, lists_of_all, process_group, wait_for_all
from utils.files import fingerprint, natural_order, write_csv
from utils.images import IMAGE_SUFFIXES, Uint8Array, read_image
from utils.text import counted, escape

ANY_FOLDERS = "**"  # in a pattern
NOT_IN_RESULTS = ("save_dir", "outputs", "max_memory")  # settings that change no result


def main(config: DemoFolderConfig) -> int:
    """Predict every image. Returns 1 if some could not be read; the others are done all the same."""
    kinds = choose_kinds(config.output.outputs)
    base, images, others = find_images(config.input.demo_folder)
    model, wanted, predictor, folder = prepare_demo(config)
    output = {key: value for key, value in as_dict(config.output).items() if key not in NOT_IN_RESULTS}
    output |= {"scales": predictor.scales, "classes": wanted and sorted(wanted)}
    settings = [model.arch, repr(model.classes), output]
    jobs = [
        (image, paths, fingerprint(settings, [Path(config.model.snapshot), image]))
        for image, paths in zip(images, result_paths(folder, images, base, kinds), strict=True)
    ]

    with process_group(predictor.device) as processes:
        wait_for_all()  # until every process has seen which files exist
        tallies, unreadable = segment(jobs, processes, predictor, model, wanted, resume=config.input.resume)
        done, unreadable = sorted(lists_of_all(list(tallies.items()))), lists_of_all(unreadable)
        if not processes.is_main:
            return 0  # even if images were left out: torchrun stops all processes when one fails
        shares = [percentages(tally.pixels) for _, tally in done]
        more = CONFIDENCE_COLUMNS if "confidence" in kinds else ()
        lines = [
            (images[i].relative_to(base).as_posix(), *line, *(f"{100 * part:.2f}" for part in tally.confidence))
            for (i, tally), line in zip(done, shares, strict=True)
        ]
        write_csv(folder / SHARES_TABLE, ("image", *(c.name for c in model.classes), *more), lines)
        if len(shares) > 1:
            plot_shares_over_time(folder / SHARES_PICTURE, shares, model.classes)
        num_done = len(jobs) - len(unreadable)
        print(f"{num_done} of {counted(len(jobs), 'image')} done; results: {escape(folder)}")
        if others:
            suffixes = ", ".join(sorted({path.suffix.lower() or "no extension" for path in others}))
            print(escape(f"skipped {counted(len(others), 'file')} without the extension of an image: {suffixes}"))
        for message in unreadable:
            print(f"skipped: {message}", file=sys.stderr)
    return 1 if unreadable else 0


def segment(
    jobs: list[tuple[Path, ResultPaths, str]], processes: Processes, predictor: Predictor, model: Model,
    wanted: frozenset[int] | None, *, resume: bool,
) -> tuple[dict[int, Tally], list[str]]:
    """Do this process's jobs: an image, where its results go, and the fingerprint of what they depend on.

    Returns what the results say, by the position of the job, and a message for each image that cannot be read.
    """  # fmt: skip
    own = range(processes.rank, len(jobs), processes.world_size)
    kept = {i: read_tally(*jobs[i][1:]) for i in own} if resume else {}
    tallies = {i: tally for i, tally in kept.items() if tally}
    missing = [i for i in own if i not in tallies]
    unreadable: list[str] = []

    def read(i: int) -> tuple[Uint8Array]:
        source, paths, _ = jobs[i]
        for path in paths.values():
            with suppress(FileNotFoundError):
                path.stat()  # OSError if the name is too long
        return (read_image(source),)

    def write(i: int, prediction: Uint8Array, image: Uint8Array) -> None:
        source, paths, settings = jobs[i]
        tally = write_results(paths, image, prediction, model.classes, source, wanted=wanted, settings=settings)
        tallies[i] = tally
        most = ", ".join(f"{c.name} {c.percent:.2f} %" for c in counted_shares(tally.pixels, model.classes)[:5])
        tqdm.write(f"{escape(next(iter(paths.values())))}: {most}")

    predict_all(
        missing, read, predictor.predict, write, device=predictor.device, path_of=lambda i: jobs[i][0],
        total=len(missing), num_writers=2, failed=unreadable,
    )  # fmt: skip
    return tallies, unreadable


def find_images(wanted: str) -> tuple[Path, list[Path], list[Path]]:
    """The folder `wanted` and the images in it and its subfolders, also linked ones, in order; no results of demos.

    For a pattern like photos/**/*.jpg: the folder before the first wildcard, and the images that match. Last come the
    files that were skipped because their extension is not that of an image, as of HEIC photos.
    Raises FileNotFoundError or ValueError if there are no images.
    """
    wanted = os.path.expanduser(wanted)  # noqa: PTH111 - a quoted ~ is not expanded by the shell, an unknown one stays
    folder = Path(wanted)
    pattern: tuple[str, ...] = (ANY_FOLDERS,)
    if folder.is_file():
        raise ValueError(f"--demo-folder {folder} is a file; segment one image with demo.py --demo-image.")
    if not folder.is_dir():
        if not glob.has_magic(wanted):
            raise FileNotFoundError(f"--demo-folder: no such folder: {folder}")
        first_wildcard = next(i for i, part in enumerate(folder.parts) if glob.has_magic(part))
        folder, pattern = Path(*folder.parts[:first_wildcard]), folder.parts[first_wildcard:]
    if ANY_FOLDERS in pattern:  # glob also follows linked folders that lead back, for hours where there are several
        found = [folder / name for name in files_below(folder) if matches(Path(name).parts, pattern)]
    else:
        found = list(folder.glob("/".join(pattern)))
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


if __name__ == "__main__":
    run_command(main, CONFIG)
