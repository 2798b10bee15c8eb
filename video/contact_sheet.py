"""A contact sheet of propagated pairs: rows of images overlaid with their labels, with void marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw

from datasets.specs.spec import Color
from utils.images import Uint8Array, blend
from utils.plots import text_font

WIDTH = 320  # of an image on the sheet, in pixels
GAP = 8
FONT_SIZE = 14
VOID_COLOR = (255, 0, 220)  # of the stripes on unlabelled pixels; no data set has a class of this colour
STRIPE = 8  # pixels from one stripe to the next


@dataclass(frozen=True)
class Cell:
    """An image [H, W, 3] uint8 RGB with its train ids [H, W] uint8, and a line of text above it."""

    title: str
    image: Uint8Array
    labels: Uint8Array


def sheet(rows: Sequence[Sequence[Cell]], palette: Sequence[Color]) -> Uint8Array:
    """The cells on white, [H, W, 3] uint8 RGB; rows may differ in length. palette: colours in train id order."""
    drawn = [[_drawn(cell, palette) for cell in row] for row in rows]
    heights = [max(picture.shape[0] for picture in row) for row in drawn]
    columns = max(len(row) for row in drawn)
    page = np.full((sum(heights) + GAP * (len(rows) + 1), columns * (WIDTH + GAP) + GAP, 3), 255, np.uint8)
    top = GAP
    for row, height in zip(drawn, heights, strict=True):
        for column, picture in enumerate(row):
            left = GAP + column * (WIDTH + GAP)
            page[top : top + picture.shape[0], left : left + WIDTH] = picture
        top += height + GAP
    return page


def with_void_marked(image: Uint8Array, labels: Uint8Array, palette: Sequence[Color]) -> Uint8Array:
    """`image` [H, W, 3] overlaid with the colours of `labels` [H, W], and with stripes where there is no class."""
    shown = blend(image, labels, palette)
    y, x = np.indices(labels.shape)
    stripes = (labels >= len(palette)) & ((x + y) % STRIPE < STRIPE // 2)
    shown[stripes] = VOID_COLOR
    return shown


def _drawn(cell: Cell, palette: Sequence[Color]) -> Uint8Array:
    size = (WIDTH, max(1, round(WIDTH * cell.labels.shape[0] / cell.labels.shape[1])))
    image = cv2.resize(cell.image, size, interpolation=cv2.INTER_AREA)
    labels = cv2.resize(cell.labels, size, interpolation=cv2.INTER_NEAREST_EXACT)
    head = Image.new("RGB", (WIDTH, FONT_SIZE + 6), "white")
    ImageDraw.Draw(head).text((0, 0), cell.title, "black", text_font(FONT_SIZE, cell.title))
    return np.concatenate([np.asarray(head), with_void_marked(image, labels, palette)])  # type: ignore[arg-type]
