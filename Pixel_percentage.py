"""Count the pixels of each class in a colour mask, an id map, or a folder of them: python Pixel_percentage.py PATH."""

from __future__ import annotations

DEFAULT_PATH = "./save"  # counted if no path is given; set it to your own file or folder

from inference.settings import PercentageConfig, PixelPercentageConfig
from utils.flags import parse_command_line

if __name__ == "__main__":
    CONFIG = parse_command_line(PixelPercentageConfig)  # before heavy imports, so that --help answers at once

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from datasets.files import load_spec
from datasets.specs.registry import DATASETS, dataset_spec
from datasets.specs.spec import DatasetSpec
from inference.pixel_percentage import Row, count_file, mask_files, rows
from utils.command import run_command
from utils.files import PLOT_SUFFIXES, writable_file, write_csv, write_json
from utils.plots import drawable, new_plot
from utils.text import counted, display_width, escape, padded


def main(config: PixelPercentageConfig) -> int:
    """Count, print a table whose percentages sum to 100.00, write the files of `--csv`, `--json`, `--plot`."""
    options = config.input
    spec = known_spec(options)
    path = Path(options.path or DEFAULT_PATH)
    files = mask_files(path)
    _check_writable(options)
    counts = [count_file(file, spec, options.ids) for file in files]
    table = rows(sum(counts, Counter()), spec)

    print(f"{escape(path)}: {spec.title}" + (f", {counted(len(files), 'file')}" if path.is_dir() else ""))
    print(text_table(table))
    if any(row.train_id is None for row in table):
        print("some pixels have unknown values, which belong to no class; check --dataset and, for one-channel "
              "files, whether they hold train ids (--ids train)", file=sys.stderr)
    if options.csv:
        lines = [(row.name, row.pixels, f"{row.percent:.2f}") for row in table]
        write_csv(Path(options.csv), ("class", "pixels", "percent"), lines)
    if options.json:
        per_file = {str(file): [asdict(row) for row in rows(count, spec)]
                    for file, count in zip(files, counts, strict=True)}
        content = {"dataset": spec.name, "classes": [asdict(row) for row in table], "files": per_file}
        write_json(Path(options.json), content)
    if options.plot:
        write_plot(Path(options.plot), table, escape(path))
    return 0


def known_spec(options: PercentageConfig) -> DatasetSpec:
    """The data set's declaration; its folder is needed only if the classes are defined there."""
    if options.dataset_dir or options.dataset not in DATASETS:
        return load_spec(options.dataset, options.dataset_dir)
    return dataset_spec(options.dataset)


def text_table(table: Sequence[Row]) -> str:
    """One line per class, and the sum."""
    width = max(len("class"), *(display_width(row.name) for row in table))
    lines = [f"{'class':<{width}}  {'pixels':>12}  {'percent':>7}"]
    lines += [f"{padded(row.name, width)}  {row.pixels:>12}  {row.percent:>7.2f}" for row in table]
    lines.append(f"{'sum':<{width}}  {sum(row.pixels for row in table):>12}  {sum(row.percent for row in table):>7.2f}")
    return "\n".join(lines)


def write_plot(path: Path, table: Sequence[Row], title: str) -> None:
    """A bar chart in the class colours, the largest share at the top."""
    bars = sorted((row for row in table if row.pixels), key=lambda row: row.pixels)
    with new_plot(path, (8, 1.2 + 0.32 * len(bars)), dpi=150) as figure:
        axes = figure.add_subplot()
        colors = [tuple(channel / 255 for channel in row.color) for row in bars]
        drawn = axes.barh(range(len(bars)), [row.percent for row in bars], color=colors, edgecolor="#bdc1c6")
        axes.bar_label(drawn, [f"{row.percent:.2f} %" for row in bars], padding=4, color="#5f6368")
        axes.set_xlabel("share of the pixels, in percent")
        axes.set_yticks(range(len(bars)), [drawable(row.name, f"train id {row.train_id}") for row in bars])
        axes.set_title(drawable(title, title.encode("ascii", "replace").decode()), loc="left")
        axes.margins(x=0.12, y=0.02)
        axes.spines[["top", "right"]].set_visible(False)


def _check_writable(options: PercentageConfig) -> None:
    for flag, file, suffixes in (
        ("--csv", options.csv, ()), ("--json", options.json, ()), ("--plot", options.plot, PLOT_SUFFIXES)
    ):  # fmt: skip
        if file:
            writable_file(Path(file), flag, suffixes)


if __name__ == "__main__":
    run_command(main, CONFIG)
