"""The record of a propagated pair, which its label file carries as a note, and the place in the video that it tells."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from datasets.index import Pair
from inference.writers import read_note

PAIR_NOTE = "kerbline-pair"  # inside the label file, which is written last: the pair's record

Record = dict[str, Any]  # plain values, one line of the manifest
Place = tuple[str, int]  # of a frame in a video: what its name begins with, and its number


def record_of(pair: Pair) -> Record | None:
    """The record of a propagated pair on disk; None where it is not there or not whole."""
    note = read_note(pair.labels, PAIR_NOTE) if pair.labels and pair.labels.is_file() else None
    return json.loads(note) if note and pair.image.is_file() else None


def without_frames_of(propagated: Iterable[Pair], held_out: Iterable[str]) -> list[Pair]:
    """Those `propagated` pairs that are not of the same moment of the same video as a labelled frame in `held_out`.

    Frames with numbers that follow the same text, folder included, are taken for frames of one video.
    """
    places = {place for name in held_out if (place := _place(name))}
    videos = {start for start, _ in places}
    return [pair for pair in propagated if _start(pair) not in videos or _place_of(pair) not in places]


def _start(pair: Pair) -> str | None:
    # Read off the name, since most pairs are of other videos and their files need not be opened.
    place = _place(_labelled_and_step(pair.name)[0])
    return place[0] if place else None


def _place_of(pair: Pair) -> Place | None:
    labelled, step = _labelled_and_step(pair.name)
    record = record_of(pair) if step else None
    place = _place(labelled)
    return (place[0], place[1] + step * (record["stride"] if record else 1)) if place else None


def _labelled_and_step(name: str) -> tuple[str, int]:
    """What `Frames` made the name of; where it is the frame's own, by its number, that one and 0."""
    parts = re.fullmatch(r"(.*)_([+-]\d+)", name, re.DOTALL)
    return (parts[1], int(parts[2])) if parts else (name, 0)


def _place(name: str) -> Place | None:
    parts = re.fullmatch(r"(.*?)(\d+)", name, re.DOTALL)
    return (parts[1], int(parts[2])) if parts else None
