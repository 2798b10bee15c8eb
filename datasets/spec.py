"""What a data set is: classes, splits and where its files lie. Declarations only; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Color = tuple[int, int, int]

IGNORE_LABEL = 255  # the train id of pixels without a class, the same for every data set


@dataclass(frozen=True)
class SegClass:
    """One class. Its train id is its position in `DatasetSpec.classes`.

    label_ids: the values that stand for it in label files; () means "its train id".
    """

    name: str
    color: Color
    label_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layout:
    """Where images and labels lie below the root. `{folder}` is the split's folder, see `DatasetSpec.splits`.

    An image and its label share the path below `image_dir` and `label_dir` up to the suffix.
    """

    image_dir: str
    label_dir: str
    image_suffixes: tuple[str, ...] = (".png", ".jpg", ".jpeg")
    label_suffixes: tuple[str, ...] = (".png",)


@dataclass(frozen=True)
class DatasetSpec:
    """One data set, as data. Everything else (palette, lookup tables, class count) is derived from it.

    splits: name -> folders it is made of. unlabelled: splits without public labels; predicted, never scored.
    layouts: the first whose image folder exists is used.
    ignored_ids: values in label files that mean "no class"; any value not listed anywhere is an error.
    val_folds: what fold `--cv k` validates on, picked from all labelled images: first folder below the image folder
    (str), or position in the sorted list (int). default_fold: used where the set has no validation split of its own.
    coarse_layouts, coarse_folders: coarsely labelled images, for class-uniform sampling.
    """

    name: str
    title: str
    classes: tuple[SegClass, ...]
    layouts: tuple[Layout, ...]
    splits: Mapping[str, tuple[str, ...]]
    unlabelled: tuple[str, ...] = ()
    ignored_ids: tuple[int, ...] = ()
    val_folds: tuple[tuple[str | int, ...], ...] = ()
    default_fold: int | None = None
    coarse_layouts: tuple[Layout, ...] = ()
    coarse_folders: tuple[str, ...] = ()
    ignore_label: int = field(default=IGNORE_LABEL, init=False)

    @property
    def num_classes(self) -> int:
        """How many classes are trained and scored."""
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
    def env_var(self) -> str:
        """The environment variable that may name this set's root."""
        return f"KERBLINE_{self.name.upper()}"

    def train_id_of_label_id(self) -> dict[int, int]:
        """Every value a label file may hold -> train id or `ignore_label`."""
        table = dict.fromkeys((*self.ignored_ids, self.ignore_label), self.ignore_label)
        for train_id, seg_class in enumerate(self.classes):
            table.update(dict.fromkeys(seg_class.label_ids or (train_id,), train_id))
        return table


def written_ids(classes: Sequence[SegClass]) -> list[int]:
    """The value that each class is written as in label files, as benchmark servers want it; train id order."""
    return [c.label_ids[0] if c.label_ids else train_id for train_id, c in enumerate(classes)]
