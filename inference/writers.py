"""Images of a prediction: colour mask with legend, overlay, label ids. One set per input, nothing overwritten."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.legend import counted_shares, pixels_per_class, with_legend
from datasets.specs.spec import IGNORE_LABEL, SegClass, class_colors, written_ids
from utils.files import first_free
from utils.images import Uint8Array, blend, colorize, dark_grey, read_label_ids, read_note, write_png

OVERLAY_STRENGTH = 0.5
LINE_STRENGTH = 0.4  # of the lines between classes: stronger ones hide a detailed photo, as they surround every speck
UNWANTED_LIGHT = 0.6  # brightness of the photo outside the wanted classes
KINDS = ("color", "overlay", "ids")

# Text notes inside the PNG files: the input of a result, the settings it was made with, the pixels of each class, and
# the size of the mask in it; the rest is legend.
SOURCE_NOTE = "kerbline-source"
SETTINGS_NOTE = "kerbline-settings"
COUNTS_NOTE = "kerbline-pixels"
MASK_SIZE_NOTE = "kerbline-mask-size"


# Where the results of one input go: kind -> file. Only these are made.
ResultPaths = Mapping[str, Path]


def chosen_kinds(outputs: str) -> list[str]:
    """The kinds of results that `--outputs` lists. Raises ValueError if it lists none, or others than there are."""
    listed = {kind.strip().lower() for kind in outputs.split(",")} - {""}
    if unknown := sorted(listed - set(KINDS)):
        raise ValueError(f"--outputs: there is no output {unknown[0]!r}. Choose from: {', '.join(KINDS)}.")
    if not listed:
        raise ValueError(f"--outputs lists nothing to write. Choose from: {', '.join(KINDS)}.")
    return [kind for kind in KINDS if kind in listed]


def result_paths(
    folder: Path, names: Sequence[str], sources: Sequence[Path], kinds: Sequence[str] = KINDS
) -> list[ResultPaths]:
    """Paths below `folder` for each of `sources`, called <name>_color.png and so on; `names` are distinct.

    A result of the same input may be replaced; if any other file has the name of any kind, -2, -3, ... is added to it.
    """
    given = set(names)

    def paths_of(name: str, source: Path) -> ResultPaths:
        def is_taken(candidate: str) -> bool:
            is_anothers = candidate != name and candidate in given
            return is_anothers or not _may_be_written(_paths(folder, candidate, KINDS), source)

        return _paths(folder, first_free(name, is_taken), kinds)

    return [paths_of(name, source) for name, source in zip(names, sources, strict=True)]


def unused_paths(folder: Path, name: str, endings: Sequence[str]) -> list[Path]:
    """<name><ending> below `folder` for each ending, with -2, -3, ... added to the name until none of them exists."""

    def paths(candidate: str) -> list[Path]:
        return [folder / f"{candidate}{ending}" for ending in endings]

    return paths(first_free(name, lambda candidate: any(path.exists() for path in paths(candidate))))


def check_names(paths: ResultPaths) -> None:
    """Raises OSError if the results cannot have these names, for example because they are too long."""
    for path in paths.values():
        with suppress(FileNotFoundError):
            path.stat()


def result_names(images: Sequence[Path], folder: Path) -> list[str]:
    """A distinct name for the results of each of `images`, all below `folder`: the path there without its suffix.

    If two would share it (a.jpg, a.png), the suffix is kept: a_jpg, a_png.
    """
    relative = [image.relative_to(folder) for image in images]
    # Lower case: for Windows and macOS A.png and a.png are the same file.
    plain = [path.with_suffix("").as_posix() for path in relative]
    sharing = Counter(name.lower() for name in plain)
    names: list[str] = []
    taken = {name for name, number in sharing.items() if number == 1}
    for name, path in zip(plain, relative, strict=True):
        if sharing[name.lower()] > 1:
            name = first_free(f"{name}_{path.suffix[1:]}", lambda candidate: candidate.lower() in taken)
            taken.add(name.lower())
        names.append(name)
    return names


def write_results(
    paths: ResultPaths, image: Uint8Array, labels: Uint8Array, classes: Sequence[SegClass], source: Path,
    *, wanted: frozenset[int] | None = None, settings: str = "",
) -> list[int]:
    """Write the results of one input that `paths` names, and return the pixels of each class, in train id order.

    image: [H, W, 3] RGB. labels: [H, W] train ids. wanted: train ids that are shown; None: all. settings: a hash of
    what the results depend on, see `is_done`.
    """
    counts = pixels_per_class(labels, len(classes))
    note = {SOURCE_NOTE: _source_id(source), SETTINGS_NOTE: settings, COUNTS_NOTE: " ".join(map(str, counts))}
    if "ids" in paths:
        write_png(paths["ids"], label_id_map(labels, classes), note)
    if paths.keys() & {"color", "overlay"}:
        shown_image, shown_labels = highlighted(image, labels, wanted)
    if "color" in paths:
        shares = [share for share in counted_shares(counts, classes) if wanted is None or share.train_id in wanted]
        height, width = labels.shape
        mask = with_legend(colorize(shown_labels, class_colors(classes)), shares)
        write_png(paths["color"], mask, {**note, MASK_SIZE_NOTE: f"{width}x{height}"})
    if "overlay" in paths:
        write_png(paths["overlay"], overlay(shown_image, shown_labels, classes), note)
    return counts


def is_done(paths: ResultPaths, settings: str) -> bool:
    """Whether all results of an input exist and were made with these settings."""
    return all(read_note(path, SETTINGS_NOTE) == settings for path in paths.values())


def pixel_counts(paths: ResultPaths, classes: Sequence[SegClass]) -> list[int]:
    """What `write_results` returned, from the files that it wrote. Raises ValueError if they do not tell."""
    if "ids" not in paths:
        return [int(count) for count in (read_note(next(iter(paths.values())), COUNTS_NOTE) or "none").split()]
    ids = written_ids(classes)
    by_id = np.bincount(read_label_ids(paths["ids"]).ravel(), minlength=max(ids) + 1)
    return by_id[ids].tolist()


def highlighted(
    image: Uint8Array, labels: Uint8Array, wanted: frozenset[int] | None
) -> tuple[Uint8Array, Uint8Array]:
    """Photo [H, W, 3] and train ids [H, W] to show: outside the wanted classes dark grey and without a class."""
    if wanted is None:
        return image, labels
    rest = ~np.isin(labels, list(wanted))
    shown = np.where(rest[..., None], dark_grey(image, UNWANTED_LIGHT), image)
    return shown, np.where(rest, np.uint8(IGNORE_LABEL), labels)


def label_id_map(labels: Uint8Array, classes: Sequence[SegClass]) -> NDArray[np.integer]:
    """Train ids [H, W] as the values that the data set's label files hold: uint8, or uint16 if they need it."""
    ids = written_ids(classes)
    table: NDArray[np.integer] = np.full(256, IGNORE_LABEL, np.uint16 if max(ids) > IGNORE_LABEL else np.uint8)
    table[: len(classes)] = ids
    return table[labels]


def overlay(image: Uint8Array, labels: Uint8Array, classes: Sequence[SegClass]) -> Uint8Array:
    """The photo [H, W, 3] tinted by the class colours, with light lines where train ids `labels` [H, W] meet."""
    tinted = blend(image, labels, class_colors(classes), OVERLAY_STRENGTH)
    lines = class_borders(labels)
    tinted[lines] = ((1 - LINE_STRENGTH) * tinted[lines] + LINE_STRENGTH * 255).astype(np.uint8)
    return tinted


def class_borders(labels: Uint8Array) -> NDArray[np.bool_]:
    """[H, W], true where train ids [H, W] change; lines of 1 pixel, thicker in large images."""
    borders = np.zeros(labels.shape, np.uint8)
    borders[:-1] |= labels[:-1] != labels[1:]
    borders[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    thickness = max(1, round((borders.size**0.5) / 1400))
    return cv2.dilate(borders, np.ones((thickness, thickness), np.uint8)).astype(bool)


def is_result(path: Path) -> bool:
    """Whether a demo wrote this file."""
    return path.suffix.lower() == ".png" and read_note(path, SOURCE_NOTE) is not None


def _paths(folder: Path, name: str, kinds: Sequence[str]) -> ResultPaths:
    return {kind: folder / f"{name}_{kind}.png" for kind in kinds}


def _may_be_written(paths: ResultPaths, source: Path) -> bool:
    # Path.exists raises if a name is too long; `check_names` reports that.
    there = [path for path in paths.values() if os.path.exists(path)]  # noqa: PTH110
    return all(read_note(path, SOURCE_NOTE) == _source_id(source) for path in there)


def _source_id(source: Path) -> str:
    # Distinguishes inputs without disclosing their paths.
    return hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:16]
