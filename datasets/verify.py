"""Check every file of a data set: python -m datasets.verify --dataset NAME --dataset_dir DIR."""

from __future__ import annotations

from dataclasses import dataclass

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
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datasets.files import Sample, dataset_root, existing_layout, find_samples, label_files, load_spec, samples_in
from datasets.labels import UNKNOWN_ID, read_label_file, train_ids, unknown_values
from datasets.legend import ClassShare, percent_text, percentages, plot_shares
from datasets.specs.spec import DatasetSpec
from utils.command import one_line, run_command
from utils.files import PLOT_SUFFIXES, writable_file, write_json
from utils.images import Uint8Array, read_image
from utils.parallel import SMALL_FILES, default_num_workers, in_parallel
from utils.text import counted, escape, format_table

MOST_VALUES = 20  # unknown values reported per file
MOST_LINES = 10  # findings per kind that are printed; --json has all
MOST_SIZES = 3  # image sizes that are listed one by one
APART = ("train", "val", "test", "train_extra")  # no image may be in two of these

Finding = tuple[str, str, str]  # kind, for counting; the file to fix; what is wrong, and where


class FileReport(NamedTuple):
    """What the two files of a sample hold.

    size: WIDTHxHEIGHT of the image, digest: of its pixels, so equal for the same image in two files; both "" if it
    cannot be read. class_pixels: of each class in train id order, then of no class; () without labels.
    findings: kind, file and message of each problem.
    """

    size: str
    digest: str
    class_pixels: tuple[int, ...]
    findings: tuple[Finding, ...]


def main(config: VerifyConfig) -> int:
    """Print what is there and what is wrong, and write the files of `--json` and `--plot`. Returns 1 for problems."""
    data, output = config.data, config.output
    if output.json:
        writable_file(Path(output.json), "--json")
    if output.plot:
        writable_file(Path(output.plot), "--plot", PLOT_SUFFIXES)
    spec = load_spec(data.dataset, data.dataset_dir)
    root = dataset_root(spec.name, data.dataset_dir)
    if data.split and data.split not in spec.split_names:
        find_samples(spec, root, data.split)  # raises, with the known splits
    samples, findings, notes = list_samples(spec, root, data.split, data.cv)
    files = list(dict.fromkeys(sample for found in samples.values() for sample in found))
    examine_one, num_workers = partial(examine, spec=spec), output.num_workers or default_num_workers()
    results = in_parallel(examine_one, files, num_workers, title="verify", least=SMALL_FILES)
    reports = dict(zip(files, results, strict=True))
    findings += [finding for report in reports.values() for finding in report.findings]
    findings = list(dict.fromkeys(findings + shared_images(samples, reports)))
    splits = {name: summarize([reports[sample] for sample in found], spec) for name, found in samples.items()}
    labelled = {name: split for name, split in splits.items() if split["labels"]}
    absent = {name: [c for c, n in split["class_pixels"].items() if not n] for name, split in labelled.items()}
    notes += [f"{name}: no pixel of {', '.join(classes)}" for name, classes in absent.items() if classes]
    print(f"{spec.title} in {escape(root)}")
    rows = [("split", "images", "labels", "sizes (width x height)")]
    for name, split in splits.items():
        sizes = list(split["sizes"])
        shown = ", ".join(sizes) if len(sizes) <= MOST_SIZES else f"{len(sizes)} sizes, {sizes[0]} to {sizes[-1]}"
        rows.append((name, str(split["images"]), str(split["labels"]), shown))
    print(format_table(rows))
    if labelled:
        print("\n" + classes_table(labelled))
    print("\n".join(["", *(f"note: {escape(note)}" for note in notes)]))
    print_findings(findings)
    if output.json:
        asked = {"dataset": spec.name, "title": spec.title, "root": str(root), "split": data.split, "cv": data.cv}
        listed = [{"kind": kind, "file": file, "message": message} for kind, file, message in findings]
        found = {"clean": not findings, "splits": splits, "findings": listed, "notes": notes}
        write_json(Path(output.json), asked | found)
    if output.plot and labelled:
        shares = {name: [*map(ClassShare, range(spec.num_classes), spec.class_names, spec.palette,
                              split["class_pixels"].values(), percentages([*split["class_pixels"].values()]))]
                  for name, split in labelled.items()}  # fmt: skip
        plot_shares(Path(output.plot), f"{spec.title}: share of each class", shares)
    elif output.plot:
        print(f"note: {output.plot} is not written: without labels there is nothing to plot")
    return 1 if findings else 0


def list_samples(
    spec: DatasetSpec, root: Path, split: str | None, cv: int | None
) -> tuple[dict[str, list[Sample]], list[Finding], list[str]]:
    """The samples of `split`, or if it is None of all relevant splits; findings and notes about files in them."""
    samples: dict[str, list[Sample]] = {}
    findings: list[Finding] = []
    notes: list[str] = []
    # Without unions, to see each image once, and without video.
    usual = [name for name in spec.split_names if name == "test" or name not in (*spec.unlabelled, "trainval")]
    for name in [split] if split else usual:
        try:
            samples[name] = found = find_samples(spec, root, name, cv, need_labels=False)
        except (OSError, ValueError) as error:
            if isinstance(error, FileNotFoundError) and not split and name not in ("train", "val"):
                notes.append(f"{name} is missing: {error}")
            else:  # training needs it, or it is there and wrong
                findings.append(("split", str(root), f"{name}: {one_line(error)}"))
            continue
        if name not in spec.unlabelled:
            findings += unmatched_files(spec, root, name, found)
        expected = spec.num_images.get(name, len(found))
        if len(found) != expected and cv is None:
            notes.append(f"{name}: {counted(len(found), 'image')}; the complete data set has {expected}")
    return samples, findings, notes


def unmatched_files(spec: DatasetSpec, root: Path, split: str, samples: Iterable[Sample]) -> list[Finding]:
    """Images without labels, and label files without an image."""
    lonely = [sample.image_path for sample in samples if sample.label_path is None]
    found = [("no label file", str(path), f"{path} has no label file") for path in lonely]
    declared = split if split in spec.splits else "trainval"
    layout = existing_layout(spec, root, declared)
    for folder in spec.splits[declared]:
        matched = {sample.label_path for sample in samples_in(layout, root, folder)}
        lonely = [path for path, _ in label_files(layout, root, folder).values() if path not in matched]
        told = f"has no image in {root / layout.image_dir.format(folder=folder)}"
        found += [("no image", str(path), f"{path} {told}") for path in lonely]
    return found


def examine(sample: Sample, spec: DatasetSpec) -> FileReport:
    """Read and check both files of a sample. Never raises for a problem with a file."""
    size, digest, class_pixels = "", "", ()
    findings: list[Finding] = []
    file = str(sample.image_path)
    try:
        image = read_image(sample.image_path)
        size, digest = _size(image), hashlib.blake2b(image.data, digest_size=16).hexdigest()
        if sample.label_path is not None:
            file = str(sample.label_path)
            pixels = read_label_file(sample.label_path, sample.masks)
            labels = train_ids(pixels, sample.masks, spec)
            if _size(labels) != size:
                what = f"{file} is {_size(labels)}, but its image {sample.image_path} is {size} (width x height; "
                findings.append(("size", file, f"{what}images are turned upright as EXIF says, label files are not)"))
            for value, count, row, column in unknown_values(pixels, labels)[:MOST_VALUES]:
                place = f"pixels: {count}, the first at row {row}, column {column}"
                what = f"{file}: value {value} is not a class of {spec.title} ({place})"
                findings.append(("label value", file, what))
            counts = np.bincount(labels.ravel(), minlength=256).tolist()
            class_pixels = (*counts[: spec.num_classes], counts[UNKNOWN_ID] + counts[spec.ignore_label])
    except (ValueError, OSError) as error:
        findings.append(("unreadable", file, one_line(error)))
    return FileReport(size, digest, class_pixels, tuple(findings))


def shared_images(samples: Mapping[str, Sequence[Sample]], reports: Mapping[Sample, FileReport]) -> list[Finding]:
    """Images in two splits that must not overlap, whether as one file or as two with the same pixels."""
    places: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for split in (name for name in APART if name in samples):
        for sample in samples[split]:
            places[reports[sample].digest].setdefault(split, str(sample.image_path))
    findings: list[Finding] = []
    for found in (found for digest, found in places.items() if digest and len(found) > 1):
        told = " and ".join(f"{split} ({path})" for split, path in found.items())
        findings.append(("duplicate", list(found.values())[-1], f"the same image is in {told}"))
    return findings


def summarize(reports: Sequence[FileReport], spec: DatasetSpec) -> dict[str, Any]:
    """The files of a split, as plain values: how many, their sizes from small to large, and the pixels of classes."""
    sizes = Counter(report.size for report in reports if report.size)
    labelled = [report.class_pixels for report in reports if report.class_pixels]
    *class_pixels, nothing = np.sum(labelled or [(0,) * (spec.num_classes + 1)], axis=0).tolist()
    return {
        "images": len(reports),
        "labels": len(labelled),
        "sizes": {size: sizes[size] for size in sorted(sizes, key=lambda size: np.prod([*map(int, size.split("x"))]))},
        "class_pixels": dict(zip(spec.class_names, class_pixels, strict=True)),
        "no_class_pixels": nothing,
    }


def classes_table(splits: Mapping[str, Mapping[str, Any]]) -> str:
    """The percents of each class, a column per split; then those of all pixels that have no class."""
    columns = []
    for name, split in splits.items():
        pixels, nothing = [*split["class_pixels"].values()], split["no_class_pixels"]
        percents = [*percentages(pixels), 100 * nothing / max(1, sum(pixels) + nothing)]
        shown = zip([*pixels, nothing], percents, strict=True)
        columns.append([name, *(percent_text(percent)[:-2] if count else "-" for count, percent in shown)])
    names = ["percent", *next(iter(splits.values()))["class_pixels"], "no class, of all"]
    return format_table([*zip(names, *columns, strict=True)])


def print_findings(findings: Sequence[Finding]) -> None:
    """The first of each kind, and how many there are."""
    for kind, count in Counter(kind for kind, _, _ in findings).items():
        messages = [message for other, _, message in findings if other == kind]
        print(f"{kind}: {count}", *(f"    {escape(message)}" for message in messages[:MOST_LINES]), sep="\n")
        if count > MOST_LINES:
            print(f"    and {count - MOST_LINES} more (--json FILE lists all)")
    if findings:
        print(f"error: {counted(len(findings), 'problem')} found", file=sys.stderr)
    else:
        print("no problems found")


def _size(pixels: Uint8Array) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


if __name__ == "__main__":
    run_command(main, CONFIG)
