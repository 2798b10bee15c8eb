"""Segment a folder of pictures: python demo_folder.py --demo-folder FOLDER --snapshot CHECKPOINT --save-dir FOLDER."""

from __future__ import annotations

from config import DemoFolderConfig
from utils.flags import parse_command_line

if __name__ == "__main__":
    CONFIG = parse_command_line(DemoFolderConfig)  # before PyTorch is imported, so that --help answers at once

import sys
from functools import partial
from pathlib import Path

from tqdm import tqdm

from inference.build import demo_predictor, load_model
from inference.legend import shares_line
from inference.writers import is_result, result_names, result_paths, write_results
from utils.command import one_line, run_command
from utils.device import resolve_device
from utils.files import writable_folder
from utils.images import IMAGE_SUFFIXES, read_image


def main(config: DemoFolderConfig) -> int:
    """Predict every picture of the folder. Returns 1 where some could not be read; the others are done all the same."""
    device = resolve_device(config.device.device)
    source_folder = Path(config.input.demo_folder)
    images = find_images(source_folder)
    model = load_model(config.model)
    predictor = demo_predictor(model, config.output, device)
    folder = writable_folder(Path(config.output.save_dir), "--save-dir")

    unreadable: list[str] = []
    progress = tqdm(list(zip(images, result_names(images, source_folder), strict=True)), unit="image", disable=None)
    for source, name in progress:
        try:
            image = read_image(source)
        except (ValueError, OSError) as error:
            unreadable.append(one_line(error))
            continue
        labels = predictor.labels(image).cpu().numpy()
        paths = result_paths(folder, name, source)
        shares = write_results(paths, image, labels, model.classes, source)
        progress.write(f"{paths.color}: {shares_line(shares)}")

    print(f"{len(images) - len(unreadable)} of {len(images)} pictures done; the results are in {folder}")
    for message in unreadable:
        print(f"left out: {message}", file=sys.stderr)
    return 1 if unreadable else 0


def find_images(folder: Path) -> list[Path]:
    """The pictures in `folder` and its sub-folders, sorted; not those that a demo wrote.

    Raises FileNotFoundError or ValueError where there are none.
    """
    if folder.is_file():
        raise ValueError(f"--demo-folder {folder} is a file; demo.py --demo-image takes one picture.")
    if not folder.is_dir():
        raise FileNotFoundError(f"--demo-folder: no such folder: {folder}")
    images = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not path.name.startswith(".")
        and not is_result(path)
    ]
    if not images:
        raise ValueError(f"--demo-folder {folder} has no pictures ({', '.join(IMAGE_SUFFIXES)}).")
    return images


if __name__ == "__main__":
    run_command(partial(main, CONFIG), debug=CONFIG.device.debug)
