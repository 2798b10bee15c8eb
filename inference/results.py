"""What the demos write of each image: files with notes in them, by which --resume finds what need not be made again."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.legend import counted_shares, pixels_per_class, with_legend
from datasets.specs.spec import IGNORE_LABEL, SegClass, written_ids
from inference.confidence import count_confidence, summarise, unstack
from inference.visualize import highlight, overlay
from utils.files import first_free
from utils.images import Uint8Array, colorize, read_note, write_png

KINDS = ("color", "overlay", "ids", "confidence")  # what the demos can write of an image
SHARES_TABLE, SHARES_PICTURE = "class_shares.csv", "class_shares.png"  # of the images of a folder, or a video's frames

# Text notes inside the demos' PNG files: the input of a result, the fingerprint of its settings, the pixels of each
# class, how sure they are, and the size of the mask in it; the rest is legend.
SOURCE_NOTE = "kerbline-source"
SETTINGS_NOTE = "kerbline-settings"
COUNTS_NOTE = "kerbline-pixels"
CONFIDENCE_NOTE = "kerbline-confidence"
MASK_SIZE_NOTE = "kerbline-mask-size"

ResultPaths = Mapping[str, Path]  # kind -> file; only these are made


class Tally(NamedTuple):
    """Of one result: the pixels of each class, in train id order, and the mean and `LOW` confidence, () without one."""

    pixels: list[int]
    confidence: tuple[float, ...] = ()


def label_id_map(prediction: Uint8Array, classes: Sequence[SegClass]) -> NDArray[np.integer]:
    """Train ids [H, W] as the values that the data set's label files hold: uint8, or uint16 if they need it."""
    ids = written_ids(classes)
    table: NDArray[np.integer] = np.full(256, IGNORE_LABEL, np.uint16 if max(ids) > IGNORE_LABEL else np.uint8)
    table[: len(classes)] = ids
    return table[prediction]


def choose_kinds(outputs: str, kinds: Sequence[str] = KINDS) -> list[str]:
    """Those of `kinds` that `--outputs` lists. Raises ValueError if it lists none, or others."""
    listed = {kind.strip().lower() for kind in outputs.split(",")} - {""}
    if not listed or listed - set(kinds):
        raise ValueError(f"--outputs {outputs!r} must list some of: {', '.join(kinds)}.")
    return [kind for kind in kinds if kind in listed]


def result_paths(
    folder: Path, images: Sequence[Path], base: Path = Path(), kinds: Sequence[str] = KINDS
) -> list[ResultPaths]:
    """Paths below `folder` for each of `images`, all below `base`: <path there without suffix>_color.png and so on.

    If two would share the name (a.jpg, a.png), the suffix is kept: a_jpg, a_png. A result of the same input may be
    replaced; if any other file has the name of any kind, -2, -3, ... is added to it.
    """
    relative = [image.relative_to(base) for image in images]
    # Lower case: for Windows and macOS A.png and a.png are the same file.
    sharing = Counter(path.with_suffix("").as_posix().lower() for path in relative)
    taken: set[str] = set()
    found: list[ResultPaths] = []
    for image, path in zip(images, relative, strict=True):
        name, source = path.with_suffix("").as_posix(), _source_id(image)

        def is_anothers(name: str, source: str = source) -> bool:
            # Path.exists raises if a name is too long; demo_folder.py reports that.
            files = [Path(f"{folder / name}_{kind}.png") for kind in KINDS]
            there = [file for file in files if os.path.exists(file)]  # noqa: PTH110
            return name.lower() in taken or any(read_note(file, SOURCE_NOTE) != source for file in there)

        name = first_free(name if sharing[name.lower()] == 1 else f"{name}_{path.suffix[1:]}", is_anothers)
        taken.add(name.lower())
        found.append({kind: folder / f"{name}_{kind}.png" for kind in kinds})
    return found


def write_results(
    paths: ResultPaths, image: Uint8Array, prediction: Uint8Array, classes: Sequence[SegClass], source: Path,
    *, wanted: frozenset[int] | None = None, settings: str = "",
) -> Tally:
    """Write the results of one input that `paths` names.

    image: [H, W, 3] RGB. prediction: [H, W] train ids, or [2, H, W] with confidence. wanted: train ids that are shown;
    None: all. settings: the fingerprint of what the results depend on, see `read_tally`.
    """
    prediction, confidence = unstack(prediction)
    counts = pixels_per_class(prediction, len(classes))
    note = {SOURCE_NOTE: _source_id(source), SETTINGS_NOTE: settings, COUNTS_NOTE: " ".join(map(str, counts))}
    sure: tuple[float, ...] = ()
    if confidence is not None:
        sure = summarise(count_confidence(confidence, prediction, np.full_like(prediction, IGNORE_LABEL)))[:2]
        note[CONFIDENCE_NOTE] = " ".join(f"{share:.4f}" for share in sure)
        write_png(paths["confidence"], confidence, note)
    if "ids" in paths:
        write_png(paths["ids"], label_id_map(prediction, classes), note)
    if paths.keys() & {"color", "overlay"}:
        shown_image, shown_prediction = highlight(image, prediction, wanted)
    if "color" in paths:
        shares = [share for share in counted_shares(counts, classes) if wanted is None or share.train_id in wanted]
        height, width = prediction.shape
        mask = with_legend(colorize(shown_prediction, [c.color for c in classes]), shares)
        write_png(paths["color"], mask, {**note, MASK_SIZE_NOTE: f"{width}x{height}"})
    if "overlay" in paths:
        write_png(paths["overlay"], overlay(shown_image, shown_prediction, classes), note)
    return Tally(counts, sure)


def read_tally(paths: ResultPaths, settings: str) -> Tally | None:
    """What `write_results` returned with these settings; None if a result is missing or was made with others."""
    if any(read_note(path, SETTINGS_NOTE) != settings for path in paths.values()):
        return None
    first = next(iter(paths.values()))
    counts, sure = ((read_note(first, note) or "").split() for note in (COUNTS_NOTE, CONFIDENCE_NOTE))
    return Tally(list(map(int, counts)), tuple(map(float, sure)) if "confidence" in paths else ())


def is_result(path: Path) -> bool:
    """Whether a demo wrote this file."""
    return path.name.endswith((SHARES_TABLE, SHARES_PICTURE)) or (
        path.suffix.lower() == ".png" and read_note(path, SOURCE_NOTE) is not None
    )


def _source_id(source: Path) -> str:
    # Distinguishes inputs without disclosing their paths.
    return hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:16]
