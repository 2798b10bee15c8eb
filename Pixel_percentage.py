"""Count the pixels of each class in a colour mask, an id map, or a folder of them: python Pixel_percentage.py PATH."""

from __future__ import annotations

DEFAULT_PATH = "./save"  # counted if no path is given; set it to your own file or folder

from inference.settings import PixelPercentageConfig
from utils.flags import parse_command_line

if __name__ == "__main__":
    CONFIG = parse_command_line(PixelPercentageConfig)  # before heavy imports, so that --help answers at once

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.files import files_below, load_spec
from datasets.labels import UNKNOWN_ID, pack_colors, read_label_file, train_ids, unpack_color
from datasets.legend import ClassShare, percentages, plot_shares, shares_table
from datasets.specs.registry import DATASETS, dataset_spec
from datasets.specs.spec import COLORS, EITHER, IDS, DatasetSpec
from inference.results import KINDS, MASK_SIZE_NOTE, SHARES_PICTURE, SOURCE_NOTE
from utils.command import run_command
from utils.files import PLOT_SUFFIXES, natural_order, writable_file, write_csv, write_json
from utils.images import IGNORE_COLOR, IMAGE_SUFFIXES, read_note, read_palette
from utils.text import counted, escape

# What a pixel counts as: its train id, None for an unknown value; and for what has no class, its value in words.
Counts = Counter[tuple[int | None, str]]

# Files that Cityscapes has for one image; the first that exists is counted. Others distinguish instances.
CITYSCAPES_KINDS = ("labelIds", "labelTrainIds", "color")
MOST_LISTED = 10  # values without a class that are listed one by one; photos have thousands
NO_COLOR = (255, 255, 255)


def main(config: PixelPercentageConfig) -> int:
    """Count, print a table whose percentages sum to 100.00, write the files of `--csv`, `--json`, `--plot`."""
    options = config.input
    in_data = options.dataset_dir or options.dataset not in DATASETS  # the classes may be defined there
    spec = load_spec(options.dataset, options.dataset_dir) if in_data else dataset_spec(options.dataset)
    path = Path(options.path or DEFAULT_PATH)
    files = find_masks(path)
    for flag, file in (("--csv", options.csv), ("--json", options.json), ("--plot", options.plot)):
        if file:
            writable_file(Path(file), flag, PLOT_SUFFIXES if flag == "--plot" else ())
    counts = [count_file(file, spec, options.ids) for file in files]
    table, *each = [tabulate(one, spec) for one in (sum(counts, Counter()), *counts)]

    print(f"{escape(path)}: {spec.title}" + (f", {counted(len(files), 'file')}" if path.is_dir() else ""))
    total = ClassShare(None, "sum", NO_COLOR, sum(row.pixels for row in table), sum(row.percent for row in table))
    print(shares_table([*table, total]))
    if any(row.train_id is None for row in table):
        print("some pixels have unknown values, which belong to no class; check --dataset and, for one-channel "
              "files, whether they hold train ids (--ids train)", file=sys.stderr)  # fmt: skip
    if options.csv:
        lines = [(row.name, row.pixels, f"{row.percent:.2f}") for row in table]
        write_csv(Path(options.csv), ("class", "pixels", "percent"), lines)
    if options.json:
        per_file = {str(file): [asdict(row) for row in one] for file, one in zip(files, each, strict=True)}
        whole = [asdict(row) for row in table]
        write_json(Path(options.json), {"dataset": spec.name, "classes": whole, "files": per_file})
    if options.plot:
        plot_shares(Path(options.plot), escape(path), {"": [row for row in table if row.pixels]})
    return 0


def find_masks(path: Path) -> list[Path]:
    """`path` itself, or the images in the folder `path` and its subfolders, sorted.

    Of the three results of a demo, and of Cityscapes' files of one image, only the ids are taken: the others show the
    same image. Raises FileNotFoundError or ValueError if there is nothing.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    if not path.is_dir():
        return [path]
    names = [name for name in files_below(path) if name.lower().endswith(IMAGE_SUFFIXES)]
    found = [path / name for name in sorted(names, key=natural_order) if not name.endswith(SHARES_PICTURE)]
    there = {file for file in found if file.is_file()}
    files = [file for file in found if file in there and not _shows_again(file, there)]
    if not files:
        raise ValueError(f"{path} contains no images ({', '.join(IMAGE_SUFFIXES)}).")
    return files


def _shows_again(path: Path, there: set[Path]) -> bool:
    stem, _, kind = path.stem.rpartition("_")
    better: Sequence[str] = ("ids",) if kind in KINDS and kind != "ids" else ()
    if stem.endswith(("_gtFine", "_gtCoarse")):
        better = CITYSCAPES_KINDS[: CITYSCAPES_KINDS.index(kind)] if kind in CITYSCAPES_KINDS else CITYSCAPES_KINDS
    return any(path.with_name(f"{stem}_{other}.png") in there for other in better)


def count_file(path: Path, spec: DatasetSpec, ids: str) -> Counts:
    """The pixels of each class in one mask, read as the data set's own label files are.

    ids: what one channel holds: `label` or `train` ids; `auto`: train ids if the file name says so, else label ids.
    Raises the errors of `read_label_file`.
    """
    may_be_colors = ids == "auto" and "trainids" not in path.stem.lower()
    is_result = read_note(path, SOURCE_NOTE) is not None
    pixels = read_mask(path, spec, may_be_colors=may_be_colors and not is_result)
    if size := read_note(path, MASK_SIZE_NOTE):  # the rest is legend
        width, height = map(int, size.split("x"))
        pixels = pixels[:height, :width]
    are_colors = pixels.ndim == 3
    train_id_of: Mapping[Any, int]
    if are_colors:
        # Of the two colours that a class may have, results show one and label files hold the other.
        shown = {color: i for i, color in enumerate(spec.palette)}
        train_id_of = {IGNORE_COLOR: spec.ignore_label} | shown if is_result else shown | spec.train_id_of_color()
    elif ids == "label" or may_be_colors:
        train_id_of = spec.train_id_of_label_id()
    else:
        train_id_of = {i: i for i in (*range(spec.num_classes), spec.ignore_label)}
    values, numbers = np.unique(pack_colors(pixels) if are_colors else pixels, return_counts=True)
    counts: Counts = Counter()
    for code, number in zip(values.tolist(), numbers.tolist(), strict=True):
        value: Any = unpack_color(code) if are_colors else code
        train_id = train_id_of.get(value)
        is_class = train_id is not None and train_id != spec.ignore_label
        counts[train_id, "" if is_class else f"no class: {'colour' if are_colors else 'id'} {value}"] += number
    return counts


def read_mask(path: Path, spec: DatasetSpec, *, may_be_colors: bool) -> NDArray[np.integer]:
    """Ids [H, W] or colours [H, W, 3] of a mask."""
    pixels = read_label_file(path, EITHER)
    if pixels.ndim == 3 or not may_be_colors or any(layout.masks != COLORS for layout in spec.layouts):
        return pixels
    # Predictions for a set of colours are grey files of ids; but a grey file may also show grey colours of classes.
    colors = read_label_file(path, COLORS)
    is_known = [(train_ids(*read, spec) != UNKNOWN_ID).all() for read in ((colors, COLORS), (pixels, IDS))]
    return pixels if is_known == [False, True] and not read_palette(path) else colors


def tabulate(counts: Counts, spec: DatasetSpec) -> list[ClassShare]:
    """Every class of the data set in train id order, then what has no class, the largest first.

    The latter have the train id `ignore_label` if they are declared as no class, None if they are unknown.
    """
    others = sorted(((*key, n) for key, n in counts.items() if key[1]), key=lambda item: -item[2])
    listed, rest = others[:MOST_LISTED], others[MOST_LISTED:]
    if rest:
        train_id = None if any(i is None for i, _, _ in rest) else spec.ignore_label
        listed.append((train_id, f"no class: {len(rest)} more", sum(n for _, _, n in rest)))
    listed = [(i, name, counts[i, ""]) for i, name in enumerate(spec.class_names)] + listed
    colors = [*spec.palette, *[NO_COLOR] * (len(listed) - spec.num_classes)]
    shares = percentages([n for _, _, n in listed])
    return [
        ClassShare(train_id, name, color, pixels, percent)
        for (train_id, name, pixels), color, percent in zip(listed, colors, shares, strict=True)
    ]


if __name__ == "__main__":
    run_command(main, CONFIG)
