"""What a data set contains, and what is wrong with it, split by split."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from datasets.examine import Examined, Finding, examine_all
from datasets.index import Pair, existing_layout, files_below, find_images
from datasets.lists import compose, in_capitals_too, without_suffix
from datasets.spec import DatasetSpec
from utils.columns import counted
from utils.command import one_line

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

    pairs: dict[str, list[Pair]] = field(default_factory=dict)
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
    examined: dict[Pair, Examined] = {}
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


def _unpaired(spec: DatasetSpec, root: Path, split: str, pairs: Iterable[Pair]) -> list[Finding]:
    """Images without labels, and label files without an image."""
    lonely = [pair for pair in pairs if pair.labels is None]
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
        for image, name in ((pair.image, pair.name) for pair in lonely if pair.image.is_relative_to(image_dir)):
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


def _unlisted(spec: DatasetSpec, root: Path, pairs: Mapping[str, Sequence[Pair]]) -> list[str]:
    """A note of how many images are in no list, if lists define the splits."""
    if not all(split in pairs and layout.list_file for layout in spec.layouts for split in REQUIRED):
        return []
    listed = {pair.image for found in pairs.values() for pair in found}
    images = {root / spec.layouts[0].image_dir / path for path in files_below(root / spec.layouts[0].image_dir)}
    unlisted = [image for image in images - listed if without_suffix(image.name, spec.layouts[0]) != image.name]
    return [f"{len(unlisted)} {'image is' if len(unlisted) == 1 else 'images are'} in no list"] if unlisted else []


def _split_survey(pairs: Sequence[Pair], examined: Mapping[Pair, Examined], num_classes: int) -> SplitSurvey:
    results = [examined[pair] for pair in pairs]
    sizes = Counter((result.size[1], result.size[0]) for result in results if result.size)
    labelled = [result.class_pixels for result in results if result.class_pixels]
    total = tuple(map(sum, zip(*labelled, strict=True))) if labelled else (0,) * (num_classes + 1)
    return SplitSurvey(len(pairs), len(labelled), sizes, total)


def _duplicates(pairs: Mapping[str, Sequence[Pair]], examined: Mapping[Pair, Examined]) -> list[Finding]:
    """Images in two splits that must not overlap, whether as one file or as two with the same pixels."""
    places: defaultdict[str, dict[str, Pair]] = defaultdict(dict)
    for split in (name for name in APART if name in pairs):
        for pair in pairs[split]:
            if examined[pair].digest:
                places[examined[pair].digest].setdefault(split, pair)
    return [
        Finding("duplicate", str(list(found.values())[-1].image), "the same image is in "
                + " and ".join(f"{split} ({pair.image})" for split, pair in found.items()))
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


def _turned(examined: Mapping[Pair, Examined]) -> list[str]:
    """How many images with labels EXIF turns: their labels are not turned with them."""
    turned = [pair.image for pair, result in examined.items() if result.turned and pair.labels]
    if not turned:
        return []
    return [
        f"images with labels and an EXIF rotation: {len(turned)}, the first {turned[0]}; they are turned upright, but "
        "label files are read as stored: these must show the upright picture"
    ]
