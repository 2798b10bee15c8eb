"""Which files a split consists of."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from config import DATASET_ROOTS
from datasets.specs.lists import in_capitals_too, listed_names, unicode_forms, without_suffix
from datasets.specs.registry import check_name, dataset_spec
from datasets.specs.spec import IDS, TRAIN_IDS, DatasetSpec, Layout, env_var
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
    check_name(name)
    return dataset_spec(name, _root(name, dataset_dir))


def dataset_root(spec: DatasetSpec, dataset_dir: str | None) -> Path:
    """The folder of a data set: `--dataset_dir`, else the environment variable, else the default in `config.py`.

    Raises FileNotFoundError naming all three.
    """
    return _root(spec.name, dataset_dir)


def find_samples(spec: DatasetSpec, root: Path, split: str, cv: int | None = None) -> list[Sample]:
    """The pairs of `split`, sorted by name, frame2 before frame10.

    A fold `cv` redefines train and val among all labelled images. Raises ValueError for an unknown split or fold,
    FileNotFoundError if images or labels are missing.
    """
    pairs = find_images(spec, root, split, cv)
    if split not in spec.unlabelled:
        for pair in pairs:
            if pair.label_path is None:
                places = _where_labels_may_be(spec, root, split, pair)
                raise FileNotFoundError(f"no label file for {pair.image_path}: looked for {places}.")
    return pairs


def find_images(spec: DatasetSpec, root: Path, split: str, cv: int | None = None) -> list[Sample]:
    """Like `find_samples`, but with `label_path` None if an image has no label file."""
    if cv is None and spec.default_fold is not None and split in ("train", "val"):
        cv = spec.default_fold
    if cv is not None and split in ("train", "val"):
        return _fold(spec, root, split, cv)
    if split not in spec.splits:
        raise ValueError(f"split {split!r} is unknown for {spec.name}. Choose one of: {', '.join(spec.split_names)}.")
    layout = existing_layout(spec, root, split)
    pairs = [pair for folder in spec.splits[split] for pair in _pairs_of_folder(spec, layout, root, folder)]
    if split in spec.unlabelled:  # files may exist: those of Cityscapes' test split hold nothing but "no class"
        pairs = [replace(pair, label_path=None) for pair in pairs]
    return _in_order(_with_distinct_names(pairs))


def find_coarse_samples(spec: DatasetSpec, root: Path) -> list[Sample]:
    """The coarsely labelled pairs, for class-uniform sampling. Raises ValueError if the set has none."""
    if spec.coarse_split is None:
        raise ValueError(f"--coarse_boost_classes: {spec.name} has no coarse labels.")
    return find_samples(spec, root, spec.coarse_split)


def existing_layout(spec: DatasetSpec, root: Path, split: str) -> Layout:
    """The layout whose folders of `split` exist. Raises FileNotFoundError naming all folders searched for."""
    missing = []
    for layout in layouts_of(spec, split):
        labelled = split not in spec.unlabelled and layout.label_dir is not None
        wanted = [
            root / part.format(folder=folder)
            for folder in spec.splits[split]
            for part in (layout.image_dir, *((layout.label_dir,) if labelled else ()))
        ]
        absent = [path for path in wanted if not path.is_dir()]
        if not absent:
            return layout
        missing += absent
    raise FileNotFoundError(
        f"data set {spec.name}: no folder {' nor '.join(dict.fromkeys(map(str, missing)))}. "
        "See PREPARE_DATASETS.md for the expected folders."
    )


def layouts_of(spec: DatasetSpec, split: str) -> tuple[Layout, ...]:
    """Where the files of `split` may lie."""
    return spec.split_layouts.get(split, spec.layouts)


def label_file(layout: Layout, root: Path, folder: str, name: str) -> tuple[Path | None, str]:
    """The label file of an image, None if it is missing, and what it holds. Its name may be in another Unicode form."""
    for form in unicode_forms(name):
        for path, masks in _label_candidates(layout, root, folder, form):
            if path.is_file():
                return path, masks
    return None, layout.masks


def files_below(folder: Path) -> Iterator[str]:
    """The files below `folder`, as paths relative to it, including linked folders; nothing hidden.

    A missing `folder` has none. Raises OSError for a folder that cannot be read: its files would be missing silently.
    """
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_unless_absent):
        folders[:] = [name for name in folders if not name.startswith(".") and not _leads_back(Path(parent, name))]
        below = Path(parent).relative_to(folder)
        yield from ((below / name).as_posix() for name in names if not name.startswith("."))


def _unless_absent(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error


def _leads_back(folder: Path) -> bool:
    """Whether this is a link to one of its own parents, where a walk would never end."""
    return folder.is_symlink() and any(folder.samefile(parent) for parent in folder.absolute().parents)


def _root(name: str, dataset_dir: str | None) -> Path:
    default = DATASET_ROOTS[name]
    root = Path(dataset_dir or os.environ.get(env_var(name)) or default)
    if root.is_dir():
        return root
    raise FileNotFoundError(
        f"data set {name}: no folder {root}. Give it with --dataset_dir or the environment variable "
        f"{env_var(name)}, or put it at {default} (the default, DATASET_ROOTS in config.py)."
    )


def _fold(spec: DatasetSpec, root: Path, split: str, cv: int) -> list[Sample]:
    if not 0 <= cv < spec.num_folds:
        if not spec.num_folds:
            raise ValueError(f"--cv {cv}: {spec.name} has no cross-validation folds; leave it out.")
        raise ValueError(f"--cv {cv}: {spec.name} has the folds {', '.join(str(k) for k in range(spec.num_folds))}.")
    pool = sorted(find_images(spec, root, "trainval"))  # as text: checkpoints were trained without these images
    if spec.val_every:
        is_val = [position % spec.val_every == cv for position in range(len(pool))]
    else:
        chosen = spec.val_folds[cv]
        is_val = [pair.name.split("/")[0] in chosen or position in chosen for position, pair in enumerate(pool)]
    pairs = [pair for pair, val in zip(pool, is_val, strict=True) if val == (split == "val")]
    if not pairs:
        lists = "list the images in train.txt and val.txt, or " if spec.val_every else ""
        hint = f" To train on all, {lists}give --train_split trainval without --cv." if split == "train" else ""
        raise FileNotFoundError(f"data set {spec.name}: fold {cv} has no {split} images below {root}.{hint}")
    return _in_order(pairs)


def _pairs_of_folder(spec: DatasetSpec, layout: Layout, root: Path, folder: str) -> Iterator[Sample]:
    image_dir = root / layout.image_dir.format(folder=folder)
    images = [path for path in files_below(image_dir) if path.lower().endswith(_lower(layout.image_suffixes))]
    if not images:
        raise FileNotFoundError(
            f"data set {spec.name}: no images match {image_dir}/**/*[{'|'.join(layout.image_suffixes)}]. "
            "See PREPARE_DATASETS.md."
        )
    names = {path: without_suffix(path, layout) for path in images}
    members = _members(spec, layout, root, folder, names)
    for path, name in names.items():
        if members is None or name in members:
            labels, masks = label_file(layout, root, folder, name)
            yield Sample(name, image_dir / path, labels, masks)


def _members(spec: DatasetSpec, layout: Layout, root: Path, folder: str, names: Mapping[str, str]) -> set[str] | None:
    """Which names belong to `folder`; None if all do. names: path below the image folder -> name, of all images."""
    if layout.list_file is not None:
        return set(listed_names(root / layout.list_file.format(folder=folder), layout, root, names))
    if "{folder}" in layout.image_dir or not spec.name_ranges:
        return None
    members = {name for name in names.values() if any(low <= name <= high for low, high in spec.name_ranges[folder])}
    if not members:
        raise FileNotFoundError(f"data set {spec.name}: {root / layout.image_dir} has none of the {folder} images.")
    return members


def _label_candidates(layout: Layout, root: Path, folder: str, name: str) -> list[tuple[Path, str]]:
    if layout.label_dir is None:
        return []
    stem = root / layout.label_dir.format(folder=folder) / name
    suffixes = [(form, layout.masks) for suffix in layout.label_suffixes for form in in_capitals_too(suffix)]
    suffixes += [(form, TRAIN_IDS) for suffix in layout.train_id_suffixes for form in in_capitals_too(suffix)]
    return [(Path(f"{stem}{suffix}"), masks) for suffix, masks in suffixes]


def _where_labels_may_be(spec: DatasetSpec, root: Path, split: str, pair: Sample) -> str:
    folders = dict.fromkeys(folder for folders in spec.splits.values() for folder in folders)
    candidates = [
        path
        for layout in layouts_of(spec, split)
        for folder in folders
        if pair.image_path.is_relative_to(root / layout.image_dir.format(folder=folder))
        for path, _ in _label_candidates(layout, root, folder, pair.name)
        if not path.suffix.isupper()  # accepted, but not worth mentioning
    ]
    return " and ".join(map(str, dict.fromkeys(candidates)))


def _with_distinct_names(pairs: list[Sample]) -> list[Sample]:
    images: dict[str, Path] = {}
    for pair in pairs:
        if images.get(pair.name) == pair.image_path:
            raise ValueError(f"{pair.image_path} is listed twice in this split; remove it from one of its lists.")
        if pair.name in images:
            raise ValueError(f"{images[pair.name]} and {pair.image_path} share the name {pair.name}; rename one.")
        images[pair.name] = pair.image_path
    owners: dict[Path, Path] = {}
    for pair in pairs:
        owner = owners.setdefault(pair.label_path, pair.image_path) if pair.label_path else pair.image_path
        if owner != pair.image_path:
            raise ValueError(f"{owner} and {pair.image_path} share the label file {pair.label_path}; rename one.")
    return pairs


def _in_order(pairs: Iterable[Sample]) -> list[Sample]:
    return sorted(pairs, key=lambda pair: natural_order(pair.name))


def _lower(suffixes: Iterable[str]) -> tuple[str, ...]:
    return tuple(suffix.lower() for suffix in suffixes)
