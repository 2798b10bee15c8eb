"""What a data set contains, and what is wrong with it, split by split."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from datasets.files import Sample, existing_layout, files_below, find_images
from datasets.labels import UNKNOWN, read_mask, train_ids, unknown_values
from datasets.specs.lists import compose, in_capitals_too, without_suffix
from datasets.specs.spec import EITHER, TRAIN_IDS, DatasetSpec
from utils.command import one_line
from utils.decoding import UPRIGHT
from utils.images import exif_orientation, read_image, read_palette
from utils.text import counted

CHUNK = 8  # pairs handed to a process at once
MOST_VALUES = 20  # unknown values reported per file
ALIKE = ("palette", "three channels")  # kinds of findings that are the same for every file of a set


@dataclass(frozen=True)
class Finding:
    """One problem. kind: for counting; file: the one to fix; message: what is wrong, and where."""

    kind: str
    file: str
    message: str


@dataclass(frozen=True)
class Examined:
    """What a pair holds.

    size: (height, width) of the image, None if it cannot be read. digest: of its pixels, so equal for the same image
    in two files. class_pixels: of each class in train id order, then of no class; () if there are no labels.
    turned: whether EXIF turns the image. holds_default_ignore: whether the labels contain 255 and no class claims it.
    """

    size: tuple[int, int] | None
    digest: str
    class_pixels: tuple[int, ...]
    findings: tuple[Finding, ...]
    turned: bool = False
    holds_default_ignore: bool = False


def examine(pair: Sample, spec: DatasetSpec) -> Examined:
    """Read and check both files. Never raises for a problem with a file."""
    findings: list[Finding] = []
    size, digest, turned = None, "", False
    try:
        image = read_image(pair.image_path)
        turned = exif_orientation(pair.image_path) != UPRIGHT
        size, digest = image.shape[:2], hashlib.blake2b(image.data, digest_size=16).hexdigest()
    except (ValueError, OSError) as error:
        findings.append(Finding("unreadable", str(pair.image_path), one_line(error)))
    of_labels = _examine_labels(pair, spec, size, turned) if pair.label_path else Examined(None, "", (), ())
    return replace(of_labels, size=size, digest=digest, findings=(*findings, *of_labels.findings), turned=turned)


def palette_doubt(pair: Sample, pixels: NDArray[np.integer], spec: DatasetSpec) -> str | None:
    """What the palette of a label file says against reading it as ids; None where it says nothing, or is not asked.

    pixels: what the file holds, see `read_mask`. A palette counts where most of the indices that occur, and at least
    two, have the colour of a class: others are made up by programs, for the eye.
    """
    if pair.masks != EITHER or pixels.ndim != 2 or pair.label_path is None:
        return None
    palette = dict(enumerate(read_palette(pair.label_path)))
    if not palette:
        return None
    of_id, of_color = spec.train_id_of_label_id(), spec.train_id_of_color()
    occurring = np.unique(pixels).tolist()
    told = {i: of_color[palette[i]] for i in occurring if palette.get(i) in of_color}
    wrong = [i for i, train_id in told.items() if of_id.get(i) != train_id]
    if not wrong or len(told) < 2 or 2 * len(told) <= len(occurring):
        return None
    index = wrong[0]
    return (
        f"the palette says index {index} is the colour of {_class_name(told[index], spec)}, classes.json says index "
        f'{index} is {_class_name(of_id.get(index), spec)}; is it "masks": "colors"? ("masks": "ids" where it is not)'
    )


def examine_all(pairs: Sequence[Sample], spec: DatasetSpec, num_workers: int) -> Iterator[Examined]:
    """`examine` for each of `pairs`, in their order, on `num_workers` processes (0 or 1: in this one)."""
    task = partial(examine, spec=spec)
    if num_workers <= 1 or len(pairs) <= CHUNK:
        yield from map(task, pairs)
        return
    # "spawn": forking a process that runs threads may hang, and the caller may be one.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=_one_thread) as pool:
        yield from pool.map(task, pairs, chunksize=CHUNK)


def _examine_labels(pair: Sample, spec: DatasetSpec, image_size: tuple[int, int] | None, turned: bool) -> Examined:
    """What `examine` says of the label file; nothing of the image."""
    file = str(pair.label_path)
    try:
        pixels = read_mask(pair)
        doubt = palette_doubt(pair, pixels, spec)
    except (ValueError, OSError) as error:
        return Examined(None, "", (), (Finding("unreadable", file, one_line(error)),))
    labels = train_ids(pixels, pair.masks, spec)
    findings = [Finding("palette", file, f"{file}: {doubt}")] if doubt else []
    if image_size is not None and labels.shape != image_size:
        (height, width), (rows, columns) = image_size, labels.shape
        message = f"{file} is {columns}x{rows}, but its image {pair.image_path} is {width}x{height} (width x height)"
        if turned:
            message += "; the likely cause: the image is turned upright by its EXIF rotation, the mask is not"
        findings.append(Finding("size", file, message))
    strangers = unknown_values(pixels, labels)
    if strangers and _are_ids_in_three_channels(pixels, spec):
        what = f"{file}: these are ids in three equal channels: save one channel"
        findings.append(Finding("three channels", file, what))
        strangers = []
    for stranger in strangers[:MOST_VALUES]:
        place = f"pixels: {stranger.pixels}, the first at row {stranger.row}, column {stranger.column}"
        what = f"{file}: value {stranger.value} is not a class of {spec.title} ({place})"
        findings.append(Finding("label value", file, what))
    counts = np.bincount(labels.ravel(), minlength=256)
    class_pixels = (*counts[: spec.num_classes].tolist(), int(counts[UNKNOWN] + counts[spec.ignore_label]))
    default = spec.ignore_label
    declared = {*spec.ignored_ids, *(i for c in spec.classes for i in c.label_ids)}
    read_as_ids = pixels.ndim == 2 and pair.masks != TRAIN_IDS
    holds_default = read_as_ids and default not in declared and bool((pixels == default).any())
    return Examined(None, "", class_pixels, tuple(findings), holds_default_ignore=holds_default)


def _are_ids_in_three_channels(pixels: NDArray[np.integer], spec: DatasetSpec) -> bool:
    """Whether a mask of colours is grey throughout and most of its values are ids of the set."""
    if pixels.ndim != 3 or (pixels[..., :1] != pixels[..., 1:]).any():
        return False
    values = np.unique(pixels[..., 0]).tolist()
    known = spec.train_id_of_label_id()
    return 2 * sum(value in known for value in values) > len(values)


def _class_name(train_id: int | None, spec: DatasetSpec) -> str:
    if train_id is None:
        return "nothing"
    return "no class" if train_id == spec.ignore_label else f"`{spec.class_names[train_id]}`"


def _one_thread() -> None:
    cv2.setNumThreads(1)  # the processes share the cores already


REQUIRED = ("train", "val")  # training needs them
APART = ("train", "val", "test", "train_extra")  # no image may be in two of these


@dataclass(frozen=True)
class SplitSurvey:
    """One split. sizes: (width, height) -> number of images. class_pixels: per class in train id order, then none."""

    num_images: int
    num_labelled: int
    sizes: Mapping[tuple[int, int], int]
    class_pixels: tuple[int, ...]


@dataclass(frozen=True)
class Survey:
    """What was found. findings: problems to fix; notes: worth knowing."""

    splits: Mapping[str, SplitSurvey]
    findings: Sequence[Finding]
    notes: Sequence[str]


@dataclass
class _Files:
    """What is known before any file is opened."""

    pairs: dict[str, list[Sample]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def survey(spec: DatasetSpec, root: Path, *, split: str | None, cv: int | None, num_workers: int) -> Survey:
    """Check every image and label file of `split`, or if it is None of all relevant splits, with a progress bar.

    Raises ValueError for an unknown split.
    """
    if split is not None and split not in spec.split_names:
        raise ValueError(f"--split {split!r} is unknown for {spec.name}. Choose one of: {', '.join(spec.split_names)}.")
    files = _list_files(spec, root, split, cv)
    jobs = list(dict.fromkeys(pair for pairs in files.pairs.values() for pair in pairs))
    progress = tqdm(total=len(jobs), unit="image", dynamic_ncols=True, disable=None)
    examined: dict[Sample, Examined] = {}
    with progress:
        for pair, result in zip(jobs, examine_all(jobs, spec, num_workers), strict=True):
            examined[pair] = result
            progress.update()
    findings = [*files.findings, *(finding for result in examined.values() for finding in result.findings)]
    findings += _duplicates(files.pairs, examined)
    splits = {name: _split_survey(pairs, examined, spec.num_classes) for name, pairs in files.pairs.items()}
    notes = [*files.notes, *_missing_classes(splits, spec), *_default_ignore(splits, examined.values(), spec)]
    notes += _turned(examined)
    return Survey(splits, list(dict.fromkeys(findings)), notes)


def _list_files(spec: DatasetSpec, root: Path, split: str | None, cv: int | None) -> _Files:
    files = _Files()
    for name in [split] if split else _relevant_splits(spec):
        try:
            if split is None and name not in REQUIRED:
                existing_layout(spec, root, name)
        except FileNotFoundError as error:
            files.notes.append(f"{name} is missing: {error}")
            continue
        try:
            pairs = find_images(spec, root, name, cv)
        except (OSError, ValueError) as error:
            if split is None and isinstance(error, FileNotFoundError) and _has_one_image(spec, root):
                files.notes.append(f"{name} is empty: there is one image in all; train with --train_split trainval")
                continue
            files.findings.append(Finding("split", str(root), f"{name}: {one_line(error)}"))
            continue
        files.pairs[name] = pairs
        if name not in spec.unlabelled:
            files.findings += _unpaired(spec, root, name, pairs)
        expected = spec.num_images.get(name, len(pairs))
        if len(pairs) != expected and (cv is None or name not in REQUIRED):
            files.notes.append(f"{name}: {counted(len(pairs), 'image')}; the complete data set has {expected}")
    files.notes += _unlisted(spec, root, files.pairs)
    return files


def _has_one_image(spec: DatasetSpec, root: Path) -> bool:
    """Whether train or val is empty because folds divide a single image."""
    try:
        return spec.val_every > 0 and len(find_images(spec, root, "trainval")) == 1
    except (OSError, ValueError):
        return False


def _relevant_splits(spec: DatasetSpec) -> list[str]:
    """The splits to train on, score or predict, without unions (to see each image once) and without video."""
    return [name for name in spec.split_names if name != "trainval" and (name == "test" or name not in spec.unlabelled)]


def _unpaired(spec: DatasetSpec, root: Path, split: str, pairs: Iterable[Sample]) -> list[Finding]:
    """Images without labels, and label files without an image."""
    lonely = [pair for pair in pairs if pair.label_path is None]
    found: list[Finding] = []
    declared = split if split in spec.splits else "trainval"
    layout = existing_layout(spec, root, declared)
    declared_suffixes = (*layout.label_suffixes, *layout.train_id_suffixes)
    suffixes = [form for suffix in declared_suffixes for form in in_capitals_too(suffix)]
    for folder in spec.splits[declared]:
        image_dir = root / layout.image_dir.format(folder=folder)
        label_dir = root / (layout.label_dir or "").format(folder=folder)
        image_files, label_files = list(files_below(image_dir)), list(files_below(label_dir))
        images = {compose(without_suffix(path, layout)) for path in image_files}
        images_by_stem, labels_by_stem = ({_stem(path): path for path in paths} for paths in (image_files, label_files))
        for image, name in ((s.image_path, s.name) for s in lonely if s.image_path.is_relative_to(image_dir)):
            wanted, message = f"{name}{layout.label_suffixes[0]}", f"{image} has no label file"
            if near := labels_by_stem.get(_stem(wanted)):
                message += f": looked for {label_dir / wanted}; there is {label_dir / near}: "
                message += _why_not(near, "labels", layout.label_suffixes)
            found.append(Finding("no label file", str(image), message))
        for path in label_files:
            suffix = next((suffix for suffix in suffixes if path.endswith(suffix)), None)
            if suffix is not None and compose(name := path.removesuffix(suffix)) not in images:
                message = f"{label_dir / path} has no image in {image_dir}"
                if near := images_by_stem.get(_stem(f"{name}{layout.image_suffixes[0]}")):
                    message += f"; there is {image_dir / near}: {_why_not(near, 'images', layout.image_suffixes)}"
                found.append(Finding("no image", str(label_dir / path), message))
    return found


def _stem(path: str) -> str:
    """What two paths share that differ in capitals, Unicode form or in what stands behind the last dot alone."""
    return compose(path.rpartition(".")[0]).casefold()


def _why_not(path: str, what: str, suffixes: Sequence[str]) -> str:
    """Why `path` is not taken, though it has the same `_stem` as what is wanted."""
    endings = list(dict.fromkeys(suffix.rpartition(".")[2].upper() for suffix in suffixes))
    if path.rpartition(".")[2].upper() in endings:
        return "names must be the same, capitals too"
    return f"{what} must be {' or '.join([', '.join(endings[:-1]), endings[-1]] if endings[1:] else endings)}"


def _unlisted(spec: DatasetSpec, root: Path, pairs: Mapping[str, Sequence[Sample]]) -> list[str]:
    """A note of how many images are in no list, if lists define the splits."""
    if not all(split in pairs and layout.list_file for layout in spec.layouts for split in REQUIRED):
        return []
    listed = {pair.image_path for found in pairs.values() for pair in found}
    images = {root / spec.layouts[0].image_dir / path for path in files_below(root / spec.layouts[0].image_dir)}
    unlisted = [image for image in images - listed if without_suffix(image.name, spec.layouts[0]) != image.name]
    return [f"{len(unlisted)} {'image is' if len(unlisted) == 1 else 'images are'} in no list"] if unlisted else []


def _split_survey(pairs: Sequence[Sample], examined: Mapping[Sample, Examined], num_classes: int) -> SplitSurvey:
    results = [examined[pair] for pair in pairs]
    sizes = Counter((result.size[1], result.size[0]) for result in results if result.size)
    labelled = [result.class_pixels for result in results if result.class_pixels]
    total = tuple(map(sum, zip(*labelled, strict=True))) if labelled else (0,) * (num_classes + 1)
    return SplitSurvey(len(pairs), len(labelled), sizes, total)


def _duplicates(pairs: Mapping[str, Sequence[Sample]], examined: Mapping[Sample, Examined]) -> list[Finding]:
    """Images in two splits that must not overlap, whether as one file or as two with the same pixels."""
    places: defaultdict[str, dict[str, Sample]] = defaultdict(dict)
    for split in (name for name in APART if name in pairs):
        for pair in pairs[split]:
            if examined[pair].digest:
                places[examined[pair].digest].setdefault(split, pair)
    return [
        Finding("duplicate", str(list(found.values())[-1].image_path), "the same image is in "
                + " and ".join(f"{split} ({pair.image_path})" for split, pair in found.items()))
        for found in places.values()
        if len(found) > 1
    ]  # fmt: skip


def _missing_classes(splits: Mapping[str, SplitSurvey], spec: DatasetSpec) -> list[str]:
    notes = []
    for name, found in splits.items():
        absent = [c for c, pixels in zip(spec.class_names, found.class_pixels, strict=False) if not pixels]
        if found.num_labelled and absent:
            notes.append(f"{name}: no pixel of {', '.join(absent)}")
    return notes


def _default_ignore(
    splits: Mapping[str, SplitSurvey], examined: Iterable[Examined], spec: DatasetSpec
) -> list[str]:
    """A hint at binary masks, 0 and 255: where one of two classes of a set of one's own is nowhere, but 255 is.

    With more classes, 255 is the border between them, as in many sets.
    """
    totals = [sum(pixels) for pixels in zip(*(split.class_pixels for split in splits.values()), strict=True)]
    absent = [name for name, pixels in zip(spec.class_names, totals, strict=False) if not pixels]
    is_binary = spec.name == "folder" and spec.num_classes == 2 and len(absent) == 1
    if not is_binary or not any(result.holds_default_ignore for result in examined):
        return []
    value = spec.ignore_label
    return [
        f"label files hold {value}, and no pixel is {absent[0]}: {value} means no class; "
        f'if it is {absent[0]}, write "ids": [{value}]'
    ]


def _turned(examined: Mapping[Sample, Examined]) -> list[str]:
    """How many images with labels EXIF turns: their labels are not turned with them."""
    turned = [pair.image_path for pair, result in examined.items() if result.turned and pair.label_path]
    if not turned:
        return []
    return [
        f"images with labels and an EXIF rotation: {len(turned)}, the first {turned[0]}; they are turned upright, but "
        "label files are read as stored: these must show the upright picture"
    ]
