"""Which files a split consists of."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from config import DATASET_ROOTS
from datasets.specs.registry import check_name, dataset_spec
from datasets.specs.spec import IDS, TRAIN_IDS, DatasetSpec, Layout
from utils.files import natural_order


@dataclass(frozen=True, order=True)
class Sample:
    """An image and its label file.

    name: the image's path below its image folder, without the suffix; unique within a split.
    label_path: None if there is none. masks: what the label file holds, see `datasets.specs.spec`.
    """

    name: str
    image_path: Path
    label_path: Path | None
    masks: str = IDS


def load_spec(name: str, dataset_dir: str | None) -> DatasetSpec:
    """The declaration of data set `name`, completed or checked by the data in its root.

    Raises ValueError for an unknown name, FileNotFoundError for a missing root, and the errors of `dataset_spec`.
    """
    root = dataset_root(name, dataset_dir)
    spec = dataset_spec(name, root)
    if spec.name == "folder" and "test" in spec.splits:
        # A list of test images declares no labels. If any image has some, the split is scored, and all need them.
        tested = find_samples(spec, root, "test", need_labels=False)
        return spec if any(sample.label_path for sample in tested) else replace(spec, unlabelled=("test",))
    return spec


def dataset_root(name: str, dataset_dir: str | None) -> Path:
    """The folder of data set `name`: `--dataset_dir`, else its environment variable, else the default in `config.py`.

    Raises ValueError for an unknown name, FileNotFoundError for a missing folder.
    """
    check_name(name)
    variable, default = f"KERBLINE_{name.upper()}", DATASET_ROOTS[name]
    root = Path(dataset_dir or os.environ.get(variable) or default)
    if not root.is_dir():
        raise FileNotFoundError(
            f"data set {name}: no folder {root}. Give it with --dataset_dir or the environment variable {variable}, "
            f"or put it at {default} (the default, DATASET_ROOTS in config.py)."
        )
    return root


def find_samples(
    spec: DatasetSpec, root: Path, split: str, cv: int | None = None, *, need_labels: bool = True
) -> list[Sample]:
    """The samples of `split`, sorted by name, frame2 before frame10.

    A fold `cv` redefines train and val among all labelled images. need_labels: an image without labels is an error.
    Raises ValueError for an unknown split or fold, FileNotFoundError if images or labels are missing.
    """
    if cv is None:
        cv = spec.default_fold
    if cv is not None and split in ("train", "val"):
        samples = _fold(spec, root, split, cv, need_labels)
    elif split not in spec.splits:
        raise ValueError(f"split {split!r} is unknown for {spec.name}. Choose one of: {', '.join(spec.split_names)}.")
    else:
        samples = _samples_of_split(spec, root, split, need_labels)
    return sorted(samples, key=lambda sample: natural_order(sample.name))


def existing_layout(spec: DatasetSpec, root: Path, split: str) -> Layout:
    """The layout whose folders of `split` exist. Raises FileNotFoundError naming all folders searched for."""
    missing: list[Path] = []
    for layout in spec.split_layouts.get(split, spec.layouts):
        labelled = split not in spec.unlabelled and layout.label_dir
        patterns = [layout.image_dir, layout.label_dir] if labelled else [layout.image_dir]
        wanted = [root / str(part).format(folder=folder) for folder in spec.splits[split] for part in patterns]
        absent = [path for path in wanted if not path.is_dir()]
        if not absent:
            return layout
        missing += absent
    folders = " nor ".join(dict.fromkeys(map(str, missing)))
    raise FileNotFoundError(f"data set {spec.name}: no folder {folders}. See PREPARE_DATASETS.md.")


def samples_in(layout: Layout, root: Path, folder: str) -> list[Sample]:
    """All images in one folder of `layout`, see `DatasetSpec.splits`, with their label files where there are any."""
    image_dir, labels = root / layout.image_dir.format(folder=folder), label_files(layout, root, folder)
    return [
        Sample(name, image_path, *labels.get(normalize_unicode(name), (None, layout.masks)))
        for name, image_path in named_files(image_dir, layout.image_suffixes)
    ]


def label_files(layout: Layout, root: Path, folder: str) -> dict[str, tuple[Path, str]]:
    """The label files in one folder of `layout`, and what they hold, by the image's name in one Unicode form."""
    if layout.label_dir is None:
        return {}
    label_dir = root / layout.label_dir.format(folder=folder)
    found: dict[str, tuple[Path, str]] = {}
    for suffixes, masks in ((layout.train_id_suffixes, TRAIN_IDS), (layout.label_suffixes, layout.masks)):
        found |= {normalize_unicode(name): (path, masks) for name, path in named_files(label_dir, suffixes)}
    return found


def named_files(folder: Path, suffixes: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """The files below `folder` that end in one of `suffixes`: path below it without the suffix, and path."""
    for path in files_below(folder):
        if (name := without_suffix(path, suffixes)) != path:
            yield name, folder / path


def files_below(folder: Path) -> Iterator[str]:
    """The files below `folder`, as paths relative to it, including linked folders; nothing hidden.

    A missing `folder` has none. Raises OSError for a folder that cannot be read: its files would be missing silently.
    """
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_unless_absent):
        folders[:] = [name for name in folders if not name.startswith(".") and not _leads_back(Path(parent, name))]
        below = Path(parent).relative_to(folder)
        yield from ((below / name).as_posix() for name in names if not name.startswith("."))


def without_suffix(path: str, suffixes: Sequence[str]) -> str:
    """`path` without the first of `suffixes` that it ends in, in lower or upper case; unchanged if it has none."""
    suffix = next((suffix for suffix in suffixes if path.lower().endswith(suffix.lower())), "")
    return path[: len(path) - len(suffix)]


def normalize_unicode(name: str) -> str:
    """`name` in the form (NFC) in which names that look the same are equal; macOS writes accents in another."""
    return unicodedata.normalize("NFC", name)


def _unless_absent(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error


def _leads_back(folder: Path) -> bool:
    """Whether this is a link to one of its own parents, where a walk would never end."""
    return folder.is_symlink() and any(folder.samefile(parent) for parent in folder.absolute().parents)


def _samples_of_split(spec: DatasetSpec, root: Path, split: str, need_labels: bool) -> list[Sample]:
    layout = existing_layout(spec, root, split)
    samples: list[Sample] = []
    for folder in spec.splits[split]:
        found = _members(spec, layout, root, folder, samples_in(layout, root, folder))
        if not found:
            wanted = f"{root / layout.image_dir.format(folder=folder)}/**/*[{'|'.join(layout.image_suffixes)}]"
            raise FileNotFoundError(f"{spec.name}: no images match {wanted} ({split}). See PREPARE_DATASETS.md.")
        for sample in found:
            if need_labels and split not in spec.unlabelled and sample.label_path is None:
                stem = root / (layout.label_dir or "").format(folder=folder) / sample.name
                suffixes = " or ".join((*layout.label_suffixes, *layout.train_id_suffixes))
                raise FileNotFoundError(f"no label file for {sample.image_path}: looked for {stem}{suffixes}.")
        samples += found
    _check_distinct(samples)
    if split in spec.unlabelled:  # files may exist: those of Cityscapes' test split hold nothing but "no class"
        return [replace(sample, label_path=None) for sample in samples]
    return samples


def _fold(spec: DatasetSpec, root: Path, split: str, cv: int, need_labels: bool) -> list[Sample]:
    if not 0 <= cv < spec.num_folds:
        folds = ", ".join(map(str, range(spec.num_folds)))
        raise ValueError(f"--cv {cv}: {spec.name} has {f'the folds {folds}' if folds else 'no folds; leave it out'}.")
    # In the order of the names as text: checkpoints were trained without these images.
    pool = sorted(_samples_of_split(spec, root, "trainval", need_labels))
    if spec.val_every:
        is_val = [position % spec.val_every == cv for position in range(len(pool))]
    else:
        chosen = spec.val_folds[cv]
        is_val = [sample.name.split("/")[0] in chosen or position in chosen for position, sample in enumerate(pool)]
    samples = [sample for sample, val in zip(pool, is_val, strict=True) if val == (split == "val")]
    if not samples:
        way_out = "To train on all, give --train_split trainval without --cv, or list the images."
        raise FileNotFoundError(f"data set {spec.name}: fold {cv} has no {split} images below {root}. {way_out}")
    return samples


def _members(spec: DatasetSpec, layout: Layout, root: Path, folder: str, samples: list[Sample]) -> list[Sample]:
    """Those `samples` that belong to `folder`, where the layout has one image folder for all splits."""
    if layout.list_file is not None:
        listed = _listed_names(root / layout.list_file.format(folder=folder), layout, root, samples)
        return [sample for sample in samples if sample.name in listed]
    if "{folder}" in layout.image_dir or not spec.name_ranges:
        return samples
    return [s for s in samples if any(low <= s.name <= high for low, high in spec.name_ranges[folder])]


def _listed_names(list_path: Path, layout: Layout, root: Path, samples: Sequence[Sample]) -> set[str]:
    """The names of those `samples` that a list names, one per line.

    A line is a name or a path, with or without suffix, below the image folder, below `root` or absolute. One that
    names no image and begins with a # and a space is a comment. Raises FileNotFoundError naming file and line if
    another names none, ValueError if the list is empty, and if it is not text.
    """
    text = list_path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    if "\0" in text:
        raise ValueError(f"{list_path} is not UTF-8 text, but maybe UTF-16; save it as UTF-8.")
    image_dir = root / layout.image_dir
    names = {normalize_unicode(sample.name): sample.name for sample in samples}
    names |= {normalize_unicode(s.image_path.relative_to(image_dir).as_posix()): s.name for s in samples}
    listed: set[str] = set()
    for number, line in enumerate(text.split("\n"), start=1):
        entry = line.strip().replace("\\", "/")
        paths = [os.path.relpath(folder / entry, image_dir) for folder in (image_dir, root)]
        if Path(entry).is_absolute():  # links may lead to the same place
            paths.append(os.path.relpath(os.path.realpath(entry), image_dir.resolve()))
        keys = [normalize_unicode(key) for path in paths for key in (path, without_suffix(path, layout.image_suffixes))]
        name = next((names[key] for key in keys if key in names), None)
        if name is None:
            if re.match(r"#+\s|#*$", entry):
                continue
            rules = "a list has one name per line; a comment begins with a # and a space"
            raise FileNotFoundError(f"{list_path}, line {number}: no image {line.strip()} in {image_dir} ({rules}).")
        listed.add(name)
    if not listed:
        raise ValueError(f"{list_path}: the list is empty.")
    return listed


def _check_distinct(samples: Sequence[Sample]) -> None:
    """Raises ValueError if two samples share their name or their label file."""
    owners: dict[object, Sample] = {}
    for sample in samples:
        for kind, key in (("name", sample.name), ("label file", sample.label_path)):
            if key and (owner := owners.setdefault(key, sample)) is not sample:
                both = f"{owner.image_path} and {sample.image_path} share the {kind} {key}"
                raise ValueError(f"{both} in one split; rename one, or remove it from a list.")
