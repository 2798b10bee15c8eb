"""Check predictions against the data set's images, and zip them: python -m inference.submission RESULTS --zip FILE."""

from __future__ import annotations

from inference.settings import SubmissionConfig, SubmissionInputConfig
from utils.flags import parse_command_line

if __name__ == "__main__":
    CONFIG = parse_command_line(SubmissionConfig)  # before heavy imports, so that --help answers at once

import json
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from datasets.files import Sample, dataset_root, files_below, find_samples, load_spec
from datasets.specs.spec import written_ids
from utils.command import one_line, run_command
from utils.decoding import PNG, decode_values
from utils.files import atomic_path, writable_folder
from utils.images import image_size
from utils.text import counted, escape

MOST_LISTED_PROBLEMS = 20
PNG_KIND = slice(24, 26)  # where a PNG file stores its bits per channel and kind of channels
PNG_KINDS = {b"\x08\x00": "8 bits per pixel", b"\x10\x00": "16 bits per pixel", b"\x08\x03": "a palette"}
RECORDED = ("dataset", "dataset_dir", "split", "cv_split")  # settings of eval.py that determine the images


def main(config: SubmissionConfig) -> int:
    """Check a result folder of `eval.py`, a folder or a zip. Returns 1, and writes no zip, if something is wrong."""
    path, options = Path(config.input.path or ""), config.input
    if not options.path or not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}. Give a result folder of eval.py, or a zip.")
    is_of_eval = (path / "settings.json").is_file()
    if is_of_eval:
        options = complete_options(options, path / "settings.json")
    if not options.dataset:
        raise ValueError(f"{path} contains no settings.json of eval.py: name the data set with --dataset.")
    split = options.split or "test"
    spec = load_spec(options.dataset, options.dataset_dir)
    samples = find_samples(spec, dataset_root(spec.name, options.dataset_dir), split, options.cv_split)
    if (path / "pred").is_dir():
        path = path / "pred"
    elif is_of_eval:
        raise FileNotFoundError(f"{path} has no folder pred; run eval.py again with --dump_images.")
    problems = find_problems(path, samples, written_ids(spec.classes))
    for problem in problems[:MOST_LISTED_PROBLEMS]:
        print(escape(f"{path}: {problem}"), file=sys.stderr)
    if problems:
        print(f"error: {counted(len(problems), 'problem')}; not ready for submission.", file=sys.stderr)
        return 1
    if options.zip:
        write_zip(path, Path(options.zip))
        path = Path(options.zip)
    about = f"{counted(len(samples), 'prediction')} of {spec.name} {split}"
    print(f"{escape(path)}: {about}; names, sizes and values are correct")
    return 0


def complete_options(options: SubmissionInputConfig, file: Path) -> SubmissionInputConfig:
    """The options, completed by those that `eval.py` recorded in `file`. Raises ValueError if they are unreadable."""
    try:
        recorded = json.loads(file.read_text(encoding="utf-8"))["data"]
        return replace(options, **{key: recorded.get(key) for key in RECORDED if getattr(options, key) is None})
    except Exception as error:  # anything, of a damaged file
        raise ValueError(f"{file} is damaged or not of eval.py; remove it and give --dataset.") from error


def find_problems(path: Path, samples: Sequence[Sample], allowed: Sequence[int]) -> list[str]:
    """What is wrong with the predictions in a folder or zip, one line each; [] if every sample has a correct file."""
    read: Callable[[str], bytes]
    if path.is_dir():
        read, found = lambda name: (path / name).read_bytes(), set(files_below(path))
    else:
        try:
            archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path}: neither a folder nor a zip file ({error}).") from error
        read, found = archive.read, {entry.filename for entry in archive.infolist() if not entry.is_dir()}
    wanted = {f"{sample.name}.png": sample for sample in samples}

    def check(name: str) -> str | None:
        if name not in wanted:
            return "the split has no image of this name"
        try:
            return find_problem(read(name), wanted[name], allowed) if name in found else "missing"
        except (OSError, zipfile.BadZipFile, zlib.error) as error:
            return f"cannot be read ({one_line(error)})"

    names = [*wanted, *sorted(found - wanted.keys())]
    with ThreadPoolExecutor() as threads:
        return [f"{name}: {problem}" for name, problem in zip(names, threads.map(check, names), strict=True) if problem]


def find_problem(content: bytes, sample: Sample, allowed: Sequence[int]) -> str | None:
    """What is wrong with one prediction, given as the content of its file; None if nothing is."""
    if not content.startswith(PNG):
        return "is not a PNG file"
    kind = PNG_KINDS.get(content[PNG_KIND], "several channels")
    wanted = f"{8 if max(allowed) < 256 else 16} bits per pixel"
    if kind != wanted:
        return f"has {kind}; the server expects {wanted}, one channel of label ids"
    try:
        ids = decode_values(content, sample.name)
    except ValueError:
        return "is damaged"
    width, height = image_size(sample.image_path)
    if ids.shape != (height, width):
        return f"is {ids.shape[1]}x{ids.shape[0]} pixels, but its image is {width}x{height}"
    strange = np.argwhere(~np.isin(ids, allowed))
    if not len(strange):
        return None
    row, column = strange[0]
    place = f"row {row}, column {column} ({counted(len(strange), 'such pixel')})"
    return f"value {ids[row, column]} at {place} is not the label id of a class: {str(sorted(allowed))[1:-1]}"


def write_zip(folder: Path, path: Path) -> None:
    """Zip the files of `folder` under their paths in it; PNG files are compressed already."""
    if path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"--zip {path} is inside the folder to be zipped, {folder}; choose a place outside.")
    writable_folder(path.parent, "--zip")
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in sorted(files_below(folder)):
            try:
                archive.writestr(zipfile.ZipInfo(name), (folder / name).read_bytes())
            except UnicodeEncodeError:
                raise ValueError(f"--zip: {name} is not a UTF-8 name, as a zip needs; rename its image.") from None


if __name__ == "__main__":
    run_command(main, CONFIG)
