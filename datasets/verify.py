"""Check every file of a data set: python -m datasets.verify --dataset NAME --dataset_dir DIR."""

from __future__ import annotations

from datasets.settings import SetConfig, VerifyConfig
from utils.flags import parse_command_line

if __name__ == "__main__":
    CONFIG = parse_command_line(VerifyConfig)  # before heavy imports, so that --help answers at once

import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datasets.files import dataset_root, load_spec
from datasets.specs.spec import DatasetSpec
from datasets.survey import ALIKE, SplitSurvey, Survey, survey
from utils.command import run_command
from utils.files import PLOT_SUFFIXES, writable_file, write_json
from utils.parallel import available_cores
from utils.plots import drawable, new_plot
from utils.text import counted, display_width, escape, padded

MOST_LINES = 10  # findings per kind that are printed; --json has all
MOST_SIZES = 3  # image sizes that are listed one by one


def main(config: VerifyConfig) -> int:
    """Print what is there and what is wrong, and write the files of `--json` and `--plot`. Returns 1 for problems."""
    output = config.output
    if output.json:
        writable_file(Path(output.json), "--json")
    if output.plot:
        writable_file(Path(output.plot), "--plot", PLOT_SUFFIXES)
    spec = load_spec(config.data.dataset, config.data.dataset_dir)
    root = dataset_root(spec, config.data.dataset_dir)
    found = survey(
        spec, root, split=config.data.split, cv=config.data.cv, num_workers=output.num_workers or available_cores()
    )
    print(f"{spec.title} in {escape(root)}")
    print(splits_table(found))
    labelled = any(split.num_labelled for split in found.splits.values())
    if labelled:
        print("\n" + classes_table(found, spec))
    print("\n".join(["", *(f"note: {escape(note)}" for note in found.notes)]))
    print_findings(found)
    if output.json:
        write_json(Path(output.json), as_json(found, spec, root, config.data))
    if output.plot and labelled:
        write_plot(Path(output.plot), found, spec)
    elif output.plot:
        print(f"note: {output.plot} is not written: without labels there is nothing to plot")
    return 1 if found.findings else 0


def splits_table(found: Survey) -> str:
    """One line per split: images, label files, sizes."""
    lines = [f"{'split':<14} {'images':>7} {'labels':>7}  sizes (width x height)"]
    for name, split in found.splits.items():
        lines.append(f"{name:<14} {split.num_images:>7} {split.num_labelled:>7}  {sizes_text(split)}")
    return "\n".join(lines)


def sizes_text(split: SplitSurvey) -> str:
    """`480x360`, or the number of sizes with the smallest and the largest."""
    by_area = sorted(split.sizes, key=lambda size: (size[0] * size[1], size))
    if len(by_area) <= MOST_SIZES:
        return ", ".join(f"{width}x{height}" for width, height in by_area)
    (width, height), (widest, highest) = by_area[0], by_area[-1]
    return f"{len(by_area)} sizes, {width}x{height} to {widest}x{highest}"


def classes_table(found: Survey, spec: DatasetSpec) -> str:
    """Each class's share of the pixels that have a class, in percent, per split; then the share without a class."""
    labelled = {name: split for name, split in found.splits.items() if split.num_labelled}
    width = max(len("no class, of all"), *(display_width(name) for name in spec.class_names))
    lines = [f"{'percent':<{width}}" + "".join(f" {name:>13}" for name in labelled)]
    for train_id, name in enumerate(spec.class_names):
        shares = (class_shares(split)[train_id] for split in labelled.values())
        lines.append(padded(name, width) + "".join(f" {percent_text(share):>13}" for share in shares))
    nothing = (split.class_pixels[-1] / max(1, sum(split.class_pixels)) for split in labelled.values())
    lines.append(f"{'no class, of all':<{width}}" + "".join(f" {percent_text(share):>13}" for share in nothing))
    return "\n".join(lines)


def class_shares(split: SplitSurvey) -> list[float]:
    """Each class's share of the pixels that have a class, 0 to 1."""
    pixels = split.class_pixels[:-1]
    return [count / max(1, sum(pixels)) for count in pixels]


def percent_text(share: float) -> str:
    """A share as percent; only 0 is shown as 0."""
    if share == 0:
        return "-"
    return f"{100 * share:.2f}" if share >= 0.0001 else "< 0.01"


def print_findings(found: Survey) -> None:
    """The first of each kind, and how many there are."""
    if not found.findings:
        print("no problems found")
        return
    for kind, count in Counter(finding.kind for finding in found.findings).items():
        print(f"{kind}: {count}")
        messages = [finding.message for finding in found.findings if finding.kind == kind]
        most = 1 if kind in ALIKE else MOST_LINES
        print("\n".join(f"    {escape(message)}" for message in messages[:most]))
        if count > most:
            print(f"    and {count - most} more (--json FILE lists all)")
    print(f"error: {counted(len(found.findings), 'problem')} found", file=sys.stderr)


def as_json(found: Survey, spec: DatasetSpec, root: Path, asked: SetConfig) -> dict[str, Any]:
    """Everything that was found, as plain values."""
    return {
        "dataset": spec.name,
        "title": spec.title,
        "root": str(root),
        "split": asked.split,
        "cv": asked.cv,
        "clean": not found.findings,
        "splits": {
            name: {
                "images": split.num_images,
                "labels": split.num_labelled,
                "sizes": {f"{width}x{height}": count for (width, height), count in sorted(split.sizes.items())},
                "class_pixels": dict(zip(spec.class_names, split.class_pixels, strict=False)),
                "no_class_pixels": split.class_pixels[-1],
            }
            for name, split in found.splits.items()
        },
        "findings": [asdict(finding) for finding in found.findings],
        "notes": list(found.notes),
    }


def write_plot(path: Path, found: Survey, spec: DatasetSpec) -> None:
    """Each class's share of the pixels, on a logarithmic scale to show rare classes; one marker per split."""
    labelled = {name: split for name, split in found.splits.items() if split.num_labelled}
    markers = "osD^vP"
    outline: dict[str, Any] = {"s": 46, "edgecolors": "#3c4043"}
    shares = {name: class_shares(split) for name, split in labelled.items()}
    order = sorted(range(spec.num_classes), key=lambda i: -max((of[i] for of in shares.values()), default=0))
    with new_plot(path, (9, 1.4 + 0.3 * spec.num_classes), dpi=130) as figure:
        axes = figure.add_subplot()
        for place, train_id in enumerate(order):
            percents = [100 * of[train_id] for of in shares.values()]
            color = tuple(channel / 255 for channel in spec.palette[train_id])
            axes.plot([p for p in percents if p], [place] * sum(p > 0 for p in percents), color="#bdc1c6", zorder=1)
            for marker, percent in zip(markers, percents, strict=False):
                if percent:
                    axes.scatter(percent, place, marker=marker, color=color, linewidths=0.7, alpha=0.8, **outline)
        for marker, name in zip(markers, labelled, strict=False):
            axes.scatter([], [], marker=marker, color="white", label=name, **outline)
        axes.set_yticks(range(len(order)), [drawable(spec.class_names[i], f"train id {i}") for i in order])
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.grid(axis="x", color="#e8eaed")
        axes.set_axisbelow(True)
        axes.set_xlabel("share of the labelled pixels, in percent")
        axes.set_title(drawable(f"{spec.title}: share of each class", "share of each class"), loc="left")
        axes.legend(loc="lower right", frameon=False)
        axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    run_command(main, CONFIG)
