"""What a data set is: classes, splits and where its files are. Declarations only; imports nothing heavy."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from utils.text import escape

Color = tuple[int, int, int]

IGNORE_LABEL = 255  # the train id of pixels without a class, the same for every data set

# What a label file holds. EITHER: by its number of channels, one for ids, three for colours.
IDS, TRAIN_IDS, COLORS, EITHER = "ids", "train ids", "colors", "either"


@dataclass(frozen=True)
class SegClass:
    """One class. Its train id is its position in `DatasetSpec.classes`.

    name: kept as text on one line, in one Unicode form, so that names that look the same are equal.
    label_ids: the values that represent it in label files; () means "its train id".
    label_colors: the colours that represent it in colour label files; () means "its colour". They define how files are
    read, not what the class is: they do not count when classes are compared, and checkpoints do not store them.
    """

    name: str
    color: Color
    label_ids: tuple[int, ...] = ()
    label_colors: tuple[Color, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        name = " ".join(unicodedata.normalize("NFC", self.name).split())
        object.__setattr__(self, "name", escape(name))


@dataclass(frozen=True)
class Layout:
    """Where images and labels are below the root. `{folder}` is the split's folder, see `DatasetSpec.splits`.

    An image and its label share the path below `image_dir` and `label_dir` up to the suffix, whose ending may also be
    in capitals. label_dir: None if there are no labels. masks: what the label files hold, IDS, COLORS or EITHER.
    train_id_suffixes: files that hold train ids, used if those of `label_suffixes` are missing.
    list_file: a text file that lists the split's images, one per line; without it they are all those in `image_dir`.
    """

    image_dir: str
    label_dir: str | None = None
    image_suffixes: tuple[str, ...] = (".png", ".jpg", ".jpeg")
    label_suffixes: tuple[str, ...] = (".png",)
    masks: str = IDS
    train_id_suffixes: tuple[str, ...] = ()
    list_file: str | None = None


@dataclass(frozen=True)
class Frames:
    """Frames of the video around labelled ones: where they are, and how they are named after the labelled frame.

    by_number: by the number that ends its name, plus the step; else by its name and the step: photo_+1, photo_-1.
    """

    layouts: tuple[Layout, ...]
    by_number: bool = True

    def name_of(self, labelled: str, step: int) -> str:
        """The name of the frame `step` frames after `labelled`; negative: before it."""
        if not self.by_number:
            return f"{labelled}_{step:+d}"
        start, digits = re.fullmatch(r"(.*?)(\d*)", labelled, re.DOTALL).groups()  # type: ignore[union-attr]
        if not digits:
            raise ValueError(f"{labelled}: no frame number at the end of the name, so its neighbours are unknown.")
        return f"{start}{int(digits) + step:0{len(digits)}d}"


PROPAGATED = "propagated"  # the folder of propagated frames below the root of every set


@dataclass(frozen=True)
class DatasetSpec:
    """One data set, as data. Everything else (palette, lookup tables, class count) is derived from it.

    splits: name -> its folders. unlabelled: splits without public labels; predicted, never scored.
    layouts: the first whose folders exist is used. split_layouts: for splits that are elsewhere.
    name_ranges: folder -> first and last names of the runs that belong to it, in layouts where all splits share one
    folder (no `{folder}` and no list file).
    ignored_ids, ignored_colors: values in label files that mean "no class"; any value not listed anywhere is an error.
    val_folds: what fold `--cv k` validates on, picked from all labelled images: first folder below the image folder
    (str), or position in the sorted list (int). val_every: instead, fold k takes the images at k, k + val_every, and so
    on. default_fold: used if the set has no validation split of its own.
    coarse_split: the coarsely labelled split that `--coarse_boost_classes` adds to the class-uniform sampling.
    num_images: split -> number of images in the complete data set, if known.
    video: true frames, unlabelled. propagated: frames with propagated labels, for `--maxSkip`.
    scene_flow: the same, for `--scf`.
    """

    name: str
    title: str
    classes: tuple[SegClass, ...]
    layouts: tuple[Layout, ...]
    splits: Mapping[str, tuple[str, ...]]
    unlabelled: tuple[str, ...] = ()
    split_layouts: Mapping[str, tuple[Layout, ...]] = field(default_factory=dict)
    name_ranges: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    ignored_ids: tuple[int, ...] = ()
    ignored_colors: tuple[Color, ...] = ()
    val_folds: tuple[tuple[str | int, ...], ...] = ()
    val_every: int = 0
    default_fold: int | None = None
    coarse_split: str | None = None
    num_images: Mapping[str, int] = field(default_factory=dict)
    video: Frames | None = None
    propagated: Frames | None = None
    scene_flow: Frames | None = None
    ignore_label: int = field(default=IGNORE_LABEL, init=False)

    @property
    def num_classes(self) -> int:
        """Number of classes that are trained and scored."""
        return len(self.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in train id order."""
        return tuple(c.name for c in self.classes)

    @property
    def palette(self) -> tuple[Color, ...]:
        """RGB colours in train id order."""
        return tuple(c.color for c in self.classes)

    @property
    def num_folds(self) -> int:
        """Number of folds that `--cv` may select."""
        return len(self.val_folds) or self.val_every

    @property
    def split_names(self) -> tuple[str, ...]:
        """The values of `--split`: the declared splits, and train and val if folds define them."""
        return tuple(dict.fromkeys((*self.splits, *(("train", "val") if self.num_folds else ()))))

    def train_id_of_label_id(self) -> dict[int, int]:
        """Every value a label file of ids may hold -> train id or `ignore_label`."""
        table = dict.fromkeys((*self.ignored_ids, self.ignore_label), self.ignore_label)
        for train_id, seg_class in enumerate(self.classes):
            table.update(dict.fromkeys(seg_class.label_ids or (train_id,), train_id))
        return table

    def train_id_of_color(self) -> dict[Color, int]:
        """Every RGB colour a label file of colours may hold -> train id or `ignore_label`."""
        table = dict.fromkeys(self.ignored_colors, self.ignore_label)
        for train_id, seg_class in enumerate(self.classes):
            table.update(dict.fromkeys(seg_class.label_colors or (seg_class.color,), train_id))
        return table


def first_difference(before: Sequence[str], now: Sequence[str]) -> str:
    """Where the names of classes differ first, for a message: `class 1 was 'road', is 'Road'`, counted from 1."""
    for number, (old, new) in enumerate(zip_longest(before, now), start=1):
        if old != new:
            changed = f" was {old!r}, is {new!r}" if old and new else f", {old or new!r}, is {'gone' if old else 'new'}"
            return f"class {number}{changed}"
    return "no class differs"


def written_ids(classes: Sequence[SegClass]) -> list[int]:
    """The value that represents each class in written label files, as benchmark servers expect; train id order."""
    return [c.label_ids[0] if c.label_ids else train_id for train_id, c in enumerate(classes)]
