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
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
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
KINDS = {b"\x08\x00": "8 bits per pixel", b"\x10\x00": "16 bits per pixel", b"\x08\x03": "a palette"}
RECORDED = ("dataset", "dataset_dir", "split", "cv_split")  # settings of eval.py that determine the images

Read = Callable[[], bytes]


def main(config: SubmissionConfig) -> int:
    """Check a result folder of `eval.py`, a folder or a zip. Returns 1, and writes no zip, if something is wrong."""
    options = known_options(config.input)
    spec = load_spec(options.dataset or "", options.dataset_dir)
    root = dataset_root(spec.name, options.dataset_dir)
    pairs = find_samples(spec, root, options.split or "test", options.cv_split)
    path = Path(options.path or "")
    if (path / "pred").is_dir():
        path = path / "pred"
    elif recorded_by_eval(path / "settings.json"):
        raise FileNotFoundError(f"{path} has no folder pred; run eval.py again with --dump_images.")
    wrong = problems(path, pairs, written_ids(spec.classes))
    if options.zip and not wrong:
        path = write_zip(path, Path(options.zip))
        wrong = problems(path, pairs, written_ids(spec.classes))
    if wrong:
        for problem in wrong[:MOST_REPORTED]:
            print(escape(f"{path}: {problem}"), file=sys.stderr)
        more = f", {len(wrong) - MOST_REPORTED} of them not listed" if len(wrong) > MOST_REPORTED else ""
        print(f"error: {counted(len(wrong), 'problem')}{more}; not ready for submission.", file=sys.stderr)
        return 1
    split = options.split or "test"
    about = f"{counted(len(pairs), 'prediction')} of {spec.name} {split}"
    print(f"{escape(path)}: {about}; names, sizes and values are correct")
    return 0


def known_options(options: SubmissionInputConfig) -> SubmissionInputConfig:
    """The options, completed by those that `eval.py` recorded. Raises ValueError if no data set is known."""
    path = Path(options.path or "")
    if not options.path or not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}. Give a result folder of eval.py, or a zip.")
    known = recorded_by_eval(path / "settings.json")
    known |= {key: value for key, value in asdict(options).items() if key in RECORDED and value is not None}
    found = {key: known.get(key) for key in RECORDED}
    if not found["dataset"]:
        raise ValueError(f"{path} contains no settings.json of eval.py: name the data set with --dataset.")
    return SubmissionInputConfig(path=options.path, zip=options.zip, **found)


def recorded_by_eval(settings: Path) -> dict[str, Any]:
    """The data settings that `eval.py` recorded in its result folder; {} if the file is missing or not its own.

    Raises ValueError if it is damaged.
    """
    if not settings.is_file():
        return {}
    try:
        content = json.loads(settings.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{settings} is damaged ({error}); remove it and give --dataset.") from error
    data = content.get("data") if isinstance(content, dict) else None
    return data if isinstance(data, dict) else {}


def problems(path: Path, pairs: Sequence[Sample], allowed: Sequence[int]) -> list[str]:
    """What is wrong with the predictions in a folder or zip, one line each; [] if every pair has a correct file."""
    with opened(path) as files:
        wanted = {f"{pair.name}.png": pair for pair in pairs}
        missing = [f"{name}: missing" for name in wanted if name not in files]
        strangers = [f"{name}: the split has no image of this name" for name in files if name not in wanted]
        there = [(name, pair) for name, pair in wanted.items() if name in files]
        with ThreadPoolExecutor() as threads:
            found = threads.map(lambda item: problem(files[item[0]], item[1], allowed), there)
            wrong = [f"{name}: {text}" for (name, _), text in zip(there, found, strict=True) if text]
    return [*missing, *strangers, *wrong]


def problem(read: Read, pair: Sample, allowed: Sequence[int]) -> str | None:
    """What is wrong with one prediction, given as a function that reads the file; None if nothing is."""
    try:
        content = read()
    except (OSError, zipfile.BadZipFile, zlib.error) as error:
        return f"cannot be read ({one_line(error)})"
    if not content.startswith(PNG):
        return "is not a PNG file"
    kind, wanted = KINDS.get(content[PNG_KIND], "several channels"), f"{8 if max(allowed) < 256 else 16} bits per pixel"
    if kind != wanted:
        return f"has {kind}; the server expects {wanted}, one channel of label ids"
    try:
        ids = decode_values(content, pair.name)
    except ValueError:
        return "is damaged"
    width, height = image_size(pair.image_path)
    if ids.shape != (height, width):
        return f"is {ids.shape[1]}x{ids.shape[0]} pixels, but its image is {width}x{height}"
    strange = ~np.isin(ids, allowed)
    if strange.any():
        row, column = np.argwhere(strange)[0]
        place = f"row {row}, column {column} ({counted(int(strange.sum()), 'such pixel')})"
        known = ", ".join(map(str, sorted(allowed)))
        return f"value {ids[row, column]} at {place} is not the label id of a class: {known}"
    return None


@contextmanager
def opened(path: Path) -> Iterator[Mapping[str, Read]]:
    """The files in a folder or zip by relative path, each as a function that reads it. Raises ValueError."""
    if path.is_dir():
        yield {name: (path / name).read_bytes for name in sorted(files_below(path)) if (path / name).is_file()}
        return
    try:
        with zipfile.ZipFile(path) as archive:
            names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
            yield {name: partial(archive.read, name) for name in names}
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: neither a folder nor a zip file ({error}).") from error


def write_zip(folder: Path, path: Path) -> Path:
    """Zip the files of `folder` under their paths in it; PNG files are compressed already.

    Raises ValueError for a name that is not UTF-8, which a zip cannot hold.
    """
    if path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"--zip {path} is inside the folder to be zipped, {folder}; choose a place outside.")
    writable_folder(path.parent, "--zip")
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive, opened(folder) as files:
        for name, read in files.items():
            try:
                archive.writestr(zipfile.ZipInfo(name), read())
            except UnicodeEncodeError:
                raise ValueError(f"--zip: {name} is not a UTF-8 name, as a zip needs; rename its image.") from None
    return path


if __name__ == "__main__":
    run_command(main, CONFIG)
