"""Check every file of a data set: python -m datasets.verify --dataset NAME --dataset_dir DIR."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from config import NUM_WORKERS, ErrorConfig, SetConfig
from utils.flags import POSITIVE, option, parse_command_line


@dataclass(frozen=True, kw_only=True)
class VerifyOutputConfig:
    """results"""

    json: str | None = option(None, "also write everything that was found to this JSON file")
    plot: str | None = option(None, "also plot the classes' shares of the pixels to this image")
    num_workers: int | None = option(None, NUM_WORKERS, must_be=POSITIVE)


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Check every file of a data set: python -m datasets.verify --dataset NAME. Exit code 0 if no problem is found."""

    data: SetConfig
    output: VerifyOutputConfig
    errors: ErrorConfig


if __name__ == "__main__":
    CONFIG = parse_command_line(VerifyConfig)  # before heavy imports, so that --help answers at once

import hashlib
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datasets.files import Sample, dataset_root, existing_layout, find_samples, label_files, load_spec, samples_in
from datasets.labels import UNKNOWN_ID, read_label_file, train_ids, unknown_values
from datasets.specs.spec import DatasetSpec
from utils.command import one_line, run_command
from utils.files import PLOT_SUFFIXES, writable_file, write_json
from utils.images import read_image
from utils.parallel import available_cores, in_parallel
from utils.plots import drawable, new_plot
from utils.text import counted, display_width, escape, padded

MOST_VALUES = 20  # unknown values reported per file
MOST_LINES = 10  # findings per kind that are printed; --json has all
REQUIRED = ("train", "val")  # training needs them
APART = ("train", "val", "test", "train_extra")  # no image may be in two of these


@dataclass(frozen=True)
class Finding:
    """One problem. kind: for counting; file: the one to fix; message: what is wrong, and where."""

    kind: str
    file: str
    message: str


@dataclass
class FileReport:
    """What the two files of a sample hold.

    size: (width, height) of the image, None if it cannot be read. digest: of its pixels, so equal for the same image
    in two files. class_pixels: of each class in train id order, then of no class; None without labels.
    """

    size: tuple[int, int] | None = None
    digest: str = ""
    class_pixels: list[int] | None = None
    findings: list[Finding] = field(default_factory=list)


@dataclass
class SplitReport:
    """One split. sizes: (width, height) -> number of images. class_pixels: as in `FileReport`, summed."""

    num_images: int
    num_labels: int
    sizes: Counter[tuple[int, int]]
    class_pixels: list[int]

    def shares(self) -> list[float]:
        """Each class's share of the pixels that have a class, 0 to 1, then the share of all that have none."""
        of_classes = max(1, sum(self.class_pixels[:-1]))
        nothing = self.class_pixels[-1] / max(1, sum(self.class_pixels))
        return [*(count / of_classes for count in self.class_pixels[:-1]), nothing]


@dataclass
class Survey:
    """What was found. findings: problems to fix; notes: worth knowing."""

    splits: dict[str, SplitReport] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def main(config: VerifyConfig) -> int:
    """Print what is there and what is wrong, and write the files of `--json` and `--plot`. Returns 1 for problems."""
    data, output = config.data, config.output
    if output.json:
        writable_file(Path(output.json), "--json")
    if output.plot:
        writable_file(Path(output.plot), "--plot", PLOT_SUFFIXES)
    spec = load_spec(data.dataset, data.dataset_dir)
    root = dataset_root(spec.name, data.dataset_dir)
    survey = examine_set(spec, root, data.split, data.cv, output.num_workers or available_cores())
    labelled = {name: split for name, split in survey.splits.items() if split.num_labels}
    print(f"{spec.title} in {escape(root)}")
    print(splits_table(survey))
    if labelled:
        print("\n" + classes_table(labelled, spec))
    print("\n".join(["", *(f"note: {escape(note)}" for note in survey.notes)]))
    print_findings(survey.findings)
    if output.json:
        asked = {"dataset": spec.name, "title": spec.title, "root": str(root), "split": data.split, "cv": data.cv}
        write_json(Path(output.json), asked | as_json(survey, spec))
    if output.plot and labelled:
        write_shares_plot(Path(output.plot), labelled, spec)
    elif output.plot:
        print(f"note: {output.plot} is not written: without labels there is nothing to plot")
    return 1 if survey.findings else 0


def examine_set(spec: DatasetSpec, root: Path, split: str | None, cv: int | None, num_workers: int) -> Survey:
    """Check every image and label file of `split`, or if it is None of all relevant splits, with a progress bar.

    Raises ValueError for an unknown split.
    """
    if split is not None and split not in spec.split_names:
        raise ValueError(f"--split {split!r} is unknown for {spec.name}. Choose one of: {', '.join(spec.split_names)}.")
    survey, samples = Survey(), {}
    # Without unions, to see each image once, and without video.
    usual = [name for name in spec.split_names if name == "test" or name not in (*spec.unlabelled, "trainval")]
    for name in [split] if split else usual:
        try:
            if not split and name not in REQUIRED:
                existing_layout(spec, root, name)
        except FileNotFoundError as error:
            survey.notes.append(f"{name} is missing: {error}")
            continue
        try:
            samples[name] = find_samples(spec, root, name, cv, need_labels=False)
        except (OSError, ValueError) as error:
            survey.findings.append(Finding("split", str(root), f"{name}: {one_line(error)}"))
            continue
        if name not in spec.unlabelled:
            survey.findings += unmatched_files(spec, root, name, samples[name])
        expected = spec.num_images.get(name, len(samples[name]))
        if len(samples[name]) != expected and (cv is None or name not in REQUIRED):
            images = counted(len(samples[name]), "image")
            survey.notes.append(f"{name}: {images}; the complete data set has {expected}")
    files = list(dict.fromkeys(sample for found in samples.values() for sample in found))
    work = partial(examine_sample, files, spec)
    reports = dict(
        zip(files, in_parallel(work, len(files), num_workers=num_workers, title="verify", show=True), strict=True)
    )
    survey.findings += [finding for report in reports.values() for finding in report.findings]
    survey.findings += shared_images({name: samples[name] for name in APART if name in samples}, reports)
    survey.findings = list(dict.fromkeys(survey.findings))
    for name, found in samples.items():
        survey.splits[name] = whole = summarize([reports[sample] for sample in found], spec)
        absent = [c for c, count in zip(spec.class_names, whole.class_pixels, strict=False) if not count]
        if whole.num_labels and absent:
            survey.notes.append(f"{name}: no pixel of {', '.join(absent)}")
    return survey


def unmatched_files(spec: DatasetSpec, root: Path, split: str, samples: list[Sample]) -> list[Finding]:
    """Images without labels, and label files without an image."""
    found = [
        Finding("no label file", str(sample.image_path), f"{sample.image_path} has no label file")
        for sample in samples
        if sample.label_path is None
    ]
    declared = split if split in spec.splits else "trainval"
    layout = existing_layout(spec, root, declared)
    for folder in spec.splits[declared]:
        matched = {sample.label_path for sample in samples_in(layout, root, folder)}
        image_dir = root / layout.image_dir.format(folder=folder)
        lonely = [path for path, _ in label_files(layout, root, folder).values() if path not in matched]
        found += [Finding("no image", str(path), f"{path} has no image in {image_dir}") for path in lonely]
    return found


def examine_sample(samples: list[Sample], spec: DatasetSpec, index: int) -> FileReport:
    """Read and check both files of a sample. Never raises for a problem with a file."""
    sample, report = samples[index], FileReport()
    try:
        image = read_image(sample.image_path)
        report.size = image.shape[1], image.shape[0]
        report.digest = hashlib.blake2b(image.data, digest_size=16).hexdigest()
    except (ValueError, OSError) as error:
        report.findings.append(Finding("unreadable", str(sample.image_path), one_line(error)))
    if sample.label_path is None:
        return report
    file = str(sample.label_path)
    try:
        pixels = read_label_file(sample.label_path, sample.masks)
    except (ValueError, OSError) as error:
        report.findings.append(Finding("unreadable", file, one_line(error)))
        return report
    labels = train_ids(pixels, sample.masks, spec)
    size = labels.shape[1], labels.shape[0]
    if report.size not in (None, size):
        sizes = f"{size[0]}x{size[1]}, but its image {sample.image_path} is {report.size[0]}x{report.size[1]}"
        upright = "images are turned upright as EXIF says, label files are not"
        report.findings.append(Finding("size", file, f"{file} is {sizes} (width x height; {upright})"))
    for unknown in unknown_values(pixels, labels)[:MOST_VALUES]:
        place = f"pixels: {unknown.pixels}, the first at row {unknown.row}, column {unknown.column}"
        what = f"{file}: value {unknown.value} is not a class of {spec.title} ({place})"
        report.findings.append(Finding("label value", file, what))
    counts = np.bincount(labels.ravel(), minlength=256)
    nothing = int(counts[UNKNOWN_ID] + counts[spec.ignore_label])
    report.class_pixels = [*counts[: spec.num_classes].tolist(), nothing]
    return report


def shared_images(splits: dict[str, list[Sample]], reports: dict[Sample, FileReport]) -> list[Finding]:
    """Images in two splits that must not overlap, whether as one file or as two with the same pixels."""
    places: dict[str, dict[str, Path]] = {}
    for split, samples in splits.items():
        for sample in (sample for sample in samples if reports[sample].digest):
            places.setdefault(reports[sample].digest, {}).setdefault(split, sample.image_path)
    shared = [found for found in places.values() if len(found) > 1]
    return [
        Finding("duplicate", str([*found.values()][-1]), f"the same image is in {' and '.join(where)}")
        for found in shared
        if (where := [f"{split} ({path})" for split, path in found.items()])
    ]


def summarize(reports: list[FileReport], spec: DatasetSpec) -> SplitReport:
    """The reports of a split's files as one."""
    class_pixels = [report.class_pixels for report in reports if report.class_pixels]
    total = np.sum(class_pixels or [[0] * (spec.num_classes + 1)], axis=0).tolist()
    sizes = Counter(report.size for report in reports if report.size)
    return SplitReport(len(reports), len(class_pixels), sizes, total)


def splits_table(survey: Survey) -> str:
    """One line per split: images, label files, and the smallest and the largest size."""
    lines = [f"{'split':<14} {'images':>7} {'labels':>7}  sizes (width x height)"]
    for name, split in survey.splits.items():
        by_area = sorted(split.sizes, key=lambda size: (size[0] * size[1], size))
        ends = dict.fromkeys(f"{width}x{height}" for width, height in (*by_area[:1], *by_area[-1:]))
        lines.append(f"{name:<14} {split.num_images:>7} {split.num_labels:>7}  {' to '.join(ends)}")
    return "\n".join(lines)


def classes_table(splits: dict[str, SplitReport], spec: DatasetSpec) -> str:
    """Each class's share of the pixels that have a class, in percent, per split; then the share without a class."""
    rows = (*spec.class_names, "no class, of all")
    width = max(map(display_width, rows))
    lines = [f"{'percent':<{width}}" + "".join(f" {name:>13}" for name in splits)]
    for name, shares in zip(rows, zip(*(split.shares() for split in splits.values()), strict=True), strict=True):
        # Only 0 is shown as 0.
        shown = ["-" if share == 0 else f"{100 * share:.2f}" if share >= 0.0001 else "< 0.01" for share in shares]
        lines.append(padded(name, width) + "".join(f" {text:>13}" for text in shown))
    return "\n".join(lines)


def print_findings(findings: list[Finding]) -> None:
    """The first of each kind, and how many there are."""
    for kind, count in Counter(finding.kind for finding in findings).items():
        print(f"{kind}: {count}")
        messages = [finding.message for finding in findings if finding.kind == kind]
        print("\n".join(f"    {escape(message)}" for message in messages[:MOST_LINES]))
        if count > MOST_LINES:
            print(f"    and {count - MOST_LINES} more (--json FILE lists all)")
    if findings:
        print(f"error: {counted(len(findings), 'problem')} found", file=sys.stderr)
    else:
        print("no problems found")


def as_json(survey: Survey, spec: DatasetSpec) -> dict[str, Any]:
    """Everything that was found, as plain values."""
    splits = {
        name: {
            "images": split.num_images,
            "labels": split.num_labels,
            "sizes": {f"{width}x{height}": count for (width, height), count in sorted(split.sizes.items())},
            "class_pixels": dict(zip(spec.class_names, split.class_pixels, strict=False)),
            "no_class_pixels": split.class_pixels[-1],
        }
        for name, split in survey.splits.items()
    }
    findings = [asdict(finding) for finding in survey.findings]
    return {"clean": not findings, "splits": splits, "findings": findings, "notes": survey.notes}


def write_shares_plot(path: Path, splits: dict[str, SplitReport], spec: DatasetSpec) -> None:
    """Each class's share of the pixels, on a logarithmic scale to show rare classes; one marker per split."""
    percents = {name: [100 * share for share in split.shares()] for name, split in splits.items()}
    order = sorted(range(spec.num_classes), key=lambda train_id: -max(of[train_id] for of in percents.values()))
    colors = [tuple(channel / 255 for channel in spec.palette[train_id]) for train_id in order]
    with new_plot(path, (9, 1.4 + 0.3 * spec.num_classes), dpi=130) as figure:
        axes = figure.add_subplot()
        for marker, (name, of) in zip("osD^vP", percents.items(), strict=False):
            shown = [of[train_id] or np.nan for train_id in order]  # 0 has no place on this scale
            style: dict[str, Any] = {"s": 46, "marker": marker, "edgecolors": "#3c4043", "alpha": 0.8, "label": name}
            axes.scatter(shown, range(len(order)), c=colors, **style)
        axes.set_yticks(range(len(order)), [drawable(spec.class_names[i], f"train id {i}") for i in order])
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.grid(axis="x", color="#e8eaed")
        axes.set_axisbelow(True)
        axes.set_xlabel("share of the labelled pixels, in percent")
        axes.set_title(drawable(f"{spec.title}: share of each class", "share of each class"), loc="left")
        axes.legend(loc="lower right", frameon=False)


if __name__ == "__main__":
    run_command(main, CONFIG)
