"""The record of a propagated pair, a note in its label file, and the video position that it encodes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from datasets.index import Pair
from datasets.lists import compose
from utils.noted_png import read_note

PAIR_NOTE = "kerbline-pair"  # inside the label file, which is written last: the pair's record

Record = dict[str, Any]  # plain values, one line of the manifest
Place = tuple[str, int]  # of a frame in a video: the beginning of its name, and its number


def record_of(pair: Pair) -> Record | None:
    """The record of a propagated pair on disk; None if it is missing or incomplete."""
    note = read_note(pair.labels, PAIR_NOTE) if pair.labels and pair.labels.is_file() else None
    return json.loads(note) if note and pair.image.is_file() else None


def without_frames_of(propagated: Iterable[Pair], held_out: Iterable[str]) -> list[Pair]:
    """Those `propagated` pairs that do not show the same moment of the same video as a frame in `held_out`.

    Frames whose names, including the folder, differ only in the number are assumed to be of one video.
    """
    places = {place for name in held_out if (place := _place(name))}
    videos = {start for start, _ in places}
    return [pair for pair in propagated if _start(pair) not in videos or _place_of(pair) not in places]


def _start(pair: Pair) -> str | None:
    # From the name, since most pairs are of other videos and their files need not be opened.
    place = _place(_labelled_and_step(pair.name)[0])
    return place[0] if place else None


def _place_of(pair: Pair) -> Place | None:
    labelled, step = _labelled_and_step(pair.name)
    record = record_of(pair) if step else None
    place = _place(labelled)
    return (place[0], place[1] + step * (record["stride"] if record else 1)) if place else None


def _labelled_and_step(name: str) -> tuple[str, int]:
    """The labelled frame and step from which `Frames` made the name; the name and 0 if it is the frame's own number."""
    parts = re.fullmatch(r"(.*)_([+-]\d+)", name, re.DOTALL)
    return (parts[1], int(parts[2])) if parts else (name, 0)


def _place(name: str) -> Place | None:
    parts = re.fullmatch(r"(.*?)(\d+)", compose(name), re.DOTALL)
    return (parts[1], int(parts[2])) if parts else None
