"""Which files a split is made of."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from datasets.spec import DatasetSpec, Layout


@dataclass(frozen=True, order=True)
class Pair:
    """An image and its label file.

    name: the image's path below its image folder, without the suffix; unique within a split.
    labels: None where the split has no labels.
    """

    name: str
    image: Path
    labels: Path | None


def dataset_root(spec: DatasetSpec, dataset_dir: str | None) -> Path:
    """The folder of a data set: `--dataset_dir`, else the environment variable, else data/<name>.

    Raises FileNotFoundError naming all three.
    """
    default = Path("data") / spec.name
    root = Path(dataset_dir or os.environ.get(spec.env_var) or default)
    if root.is_dir():
        return root
    raise FileNotFoundError(
        f"data set {spec.name}: no folder {root}. Name it with --dataset_dir or the environment variable "
        f"{spec.env_var}, or put it at {default}."
    )


def find_pairs(spec: DatasetSpec, root: Path, split: str, cv: int | None = None) -> list[Pair]:
    """The pairs of `split`, sorted by name. A fold `cv` redefines train and val among all labelled images.

    Raises ValueError for an unknown split or fold, FileNotFoundError where images or labels are missing.
    """
    if cv is None and spec.default_fold is not None and split in ("train", "val"):
        cv = spec.default_fold
    if cv is not None and split in ("train", "val"):
        return _fold(spec, root, split, cv)
    if split not in spec.splits:
        known = dict.fromkeys((*spec.splits, *(("train", "val") if spec.val_folds else ())))
        raise ValueError(f"--split {split!r} is unknown for {spec.name}. Choose one of: {', '.join(known)}.")
    return _list_files(spec, spec.layouts, root, spec.splits[split], labelled=split not in spec.unlabelled)


def find_coarse_pairs(spec: DatasetSpec, root: Path) -> list[Pair]:
    """The coarsely labelled pairs, for class-uniform sampling. Raises ValueError where the set has none."""
    if not spec.coarse_layouts:
        raise ValueError(f"--coarse_boost_classes: {spec.name} has no coarse labels.")
    return _list_files(spec, spec.coarse_layouts, root, spec.coarse_folders, labelled=True)


def _fold(spec: DatasetSpec, root: Path, split: str, cv: int) -> list[Pair]:
    if not 0 <= cv < len(spec.val_folds):
        known = ", ".join(str(k) for k in range(len(spec.val_folds))) or "none"
        raise ValueError(f"--cv {cv}: {spec.name} has these folds: {known}.")
    chosen = spec.val_folds[cv]
    pool = find_pairs(spec, root, "trainval")
    is_val = [pair.name.split("/")[0] in chosen or position in chosen for position, pair in enumerate(pool)]
    pairs = [pair for pair, val in zip(pool, is_val, strict=True) if val == (split == "val")]
    if not pairs:
        raise FileNotFoundError(f"data set {spec.name}: fold {cv} has no {split} images below {root}.")
    return pairs


def _list_files(
    spec: DatasetSpec, layouts: Iterable[Layout], root: Path, folders: Iterable[str], *, labelled: bool
) -> list[Pair]:
    layouts, folders = tuple(layouts), tuple(folders)
    layout = _existing_layout(spec, layouts, root, folders)
    pairs: list[Pair] = []
    for folder in folders:
        image_dir = root / layout.image_dir.format(folder=folder)
        label_dir = root / layout.label_dir.format(folder=folder)
        found = [
            _pair(path, image_dir, label_dir, layout, labelled)
            for path in sorted(image_dir.rglob("*"))
            if path.name.endswith(layout.image_suffixes) and not path.name.startswith(".")
        ]
        if not found:
            raise FileNotFoundError(
                f"data set {spec.name}: no images match {image_dir}/**/*[{'|'.join(layout.image_suffixes)}]. "
                "See PREPARE_DATASETS.md."
            )
        pairs += found
    return sorted(pairs)


def _existing_layout(spec: DatasetSpec, layouts: tuple[Layout, ...], root: Path, folders: tuple[str, ...]) -> Layout:
    looked_at = []
    for layout in layouts:
        image_dirs = [root / layout.image_dir.format(folder=folder) for folder in folders]
        if all(path.is_dir() for path in image_dirs):
            return layout
        looked_at += [str(path) for path in image_dirs if not path.is_dir()]
    raise FileNotFoundError(
        f"data set {spec.name}: no folder {' nor '.join(looked_at)}. See PREPARE_DATASETS.md for the tree."
    )


def _pair(image: Path, image_dir: Path, label_dir: Path, layout: Layout, labelled: bool) -> Pair:
    relative = image.relative_to(image_dir).as_posix()
    suffix = next(s for s in layout.image_suffixes if relative.endswith(s))
    name = relative.removesuffix(suffix)
    if not labelled:
        return Pair(name, image, None)
    candidates = [label_dir / f"{name}{s}" for s in layout.label_suffixes]
    for labels in candidates:
        if labels.is_file():
            return Pair(name, image, labels)
    raise FileNotFoundError(f"no label file for {image}: looked for {' and '.join(map(str, candidates))}.")
