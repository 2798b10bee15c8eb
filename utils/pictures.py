"""Label maps as pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datasets.spec import IGNORE_LABEL, Color
from utils.images import Uint8Array

IGNORE_COLOR: Color = (0, 0, 0)


def colorize(labels: Uint8Array, palette: Sequence[Color]) -> Uint8Array:
    """Train ids [H, W] uint8 -> RGB [H, W, 3] uint8; ids of no class are black."""
    table = np.tile(np.array(IGNORE_COLOR, np.uint8), (IGNORE_LABEL + 1, 1))
    table[: len(palette)] = palette
    return table[labels]


def blend(image: Uint8Array, labels: Uint8Array, palette: Sequence[Color], opacity: float = 0.55) -> Uint8Array:
    """The colours of `labels` laid over `image`; where there is no class the image stays as it is."""
    mixed = image * (1 - opacity) + colorize(labels, palette) * opacity
    return np.where((labels < len(palette))[..., None], mixed, image).astype(np.uint8)


def side_by_side(pictures: Sequence[Uint8Array], gap: int = 6) -> Uint8Array:
    """RGB pictures of one height next to each other, with a white gap."""
    bar = np.full((pictures[0].shape[0], gap, 3), 255, np.uint8)
    row = [part for picture in pictures for part in (picture, bar)][:-1]
    return np.concatenate(row, axis=1)
