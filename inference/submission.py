"""Check predictions before submitting them, and zip them: python -m inference.submission RESULTS --zip FILE.

Checked are names, number, sizes and values, against the data set's own images; every problem is named with its file.
"""

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
from typing import Any

import numpy as np

from datasets.files import Sample, dataset_root, files_below, find_samples, load_spec
from datasets.specs.spec import written_ids
from utils.command import one_line, run_command
from utils.decoding import PNG, decode_values
from utils.files import atomic_path, writable_folder
from utils.images import image_size
from utils.text import counted, escape

MOST_REPORTED = 20  # problems that are printed one by one
PNG_KIND = slice(24, 26)  # where a PNG file stores its bits per channel and kind of channels
PNG_KINDS = {b"\x08\x00": "8 bits per pixel", b"\x10\x00": "16 bits per pixel", b"\x08\x03": "a palette"}
RECORDED = ("dataset", "dataset_dir", "split", "cv_split")  # settings of eval.py that determine the images


def main(config: SubmissionConfig) -> int:
    """Check a result folder of `eval.py`, a folder or a zip. Returns 1, and writes no zip, if something is wrong."""
    options = complete_options(config.input)
    split = options.split or "test"
    spec = load_spec(options.dataset or "", options.dataset_dir)
    samples = find_samples(spec, dataset_root(spec.name, options.dataset_dir), split, options.cv_split)
    path = Path(options.path or "")
    if (path / "pred").is_dir():
        path = path / "pred"
    elif options != config.input:  # completed by what eval.py recorded there
        raise FileNotFoundError(f"{path} has no folder pred; run eval.py again with --dump_images.")
    problems = find_problems(path, samples, written_ids(spec.classes))
    if options.zip and not problems:
        write_zip(path, Path(options.zip))
        path = Path(options.zip)
    for problem in problems[:MOST_REPORTED]:
        print(escape(f"{path}: {problem}"), file=sys.stderr)
    if problems:
        more = f", {len(problems) - MOST_REPORTED} of them not listed" if len(problems) > MOST_REPORTED else ""
        print(f"error: {counted(len(problems), 'problem')}{more}; not ready for submission.", file=sys.stderr)
        return 1
    about = f"{counted(len(samples), 'prediction')} of {spec.name} {split}"
    print(f"{escape(path)}: {about}; names, sizes and values are correct")
    return 0


def complete_options(options: SubmissionInputConfig) -> SubmissionInputConfig:
    """The options, completed by those that `eval.py` recorded. Raises ValueError if no data set is known."""
    path = Path(options.path or "")
    if not options.path or not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}. Give a result folder of eval.py, or a zip.")
    recorded: dict[str, Any] = {}
    if (path / "settings.json").is_file():
        try:
            recorded = json.loads((path / "settings.json").read_text(encoding="utf-8"))["data"]
        except (ValueError, LookupError, TypeError) as error:
            if not options.dataset:
                raise ValueError(f"{path / 'settings.json'} is damaged or not of eval.py; give --dataset.") from error
    missing = {key: recorded[key] for key in RECORDED if getattr(options, key) is None and key in recorded}
    options = replace(options, **missing)
    if not options.dataset:
        raise ValueError(f"{path} contains no settings.json of eval.py: name the data set with --dataset.")
    return options


def find_problems(path: Path, samples: Sequence[Sample], allowed: Sequence[int]) -> list[str]:
    """What is wrong with the predictions in a folder or zip, one line each; [] if every sample has a correct file."""
    read: Callable[[str], bytes]
    if path.is_dir():
        read = lambda name: (path / name).read_bytes()  # noqa: E731
        found = {name for name in files_below(path) if (path / name).is_file()}
    else:
        try:
            archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path}: neither a folder nor a zip file ({error}).") from error
        read, found = archive.read, {entry.filename for entry in archive.infolist() if not entry.is_dir()}
    wanted = {f"{sample.name}.png": sample for sample in samples}
    there = [name for name in wanted if name in found]
    with ThreadPoolExecutor() as threads:
        checked = list(threads.map(lambda name: find_problem(lambda: read(name), wanted[name], allowed), there))
    return [
        *(f"{name}: missing" for name in wanted if name not in found),
        *(f"{name}: the split has no image of this name" for name in sorted(found - wanted.keys())),
        *(f"{name}: {problem}" for name, problem in zip(there, checked, strict=True) if problem),
    ]


def find_problem(read: Callable[[], bytes], sample: Sample, allowed: Sequence[int]) -> str | None:
    """What is wrong with one prediction, given as a function that reads the file; None if nothing is."""
    try:
        content = read()
    except (OSError, zipfile.BadZipFile, zlib.error) as error:
        return f"cannot be read ({one_line(error)})"
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
    strange = ~np.isin(ids, allowed)
    if strange.any():
        row, column = np.argwhere(strange)[0]
        place = f"row {row}, column {column} ({counted(int(strange.sum()), 'such pixel')})"
        known = ", ".join(map(str, sorted(allowed)))
        return f"value {ids[row, column]} at {place} is not the label id of a class: {known}"
    return None


def write_zip(folder: Path, path: Path) -> None:
    """Zip the files of `folder` under their paths in it; PNG files are compressed already.

    Raises ValueError for a name that is not UTF-8, which a zip cannot hold.
    """
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
