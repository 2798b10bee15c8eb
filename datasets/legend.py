"""The legend of a colour mask: the colour of each class, and its share of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from datasets.specs.spec import Color, SegClass
from utils.images import Uint8Array
from utils.plots import drawable, text_font

PAPER, INK, FAINT_INK, OUTLINE = (255, 255, 255), (32, 33, 36), (112, 117, 122), (189, 193, 198)
SMALLEST_FONT, LARGEST_FONT = 12, 30  # pixels


@dataclass(frozen=True)
class ClassShare:
    """One class that occurs: its colour, its pixels and their share in percent."""

    train_id: int | None  # None: of no class
    name: str
    color: Color
    pixels: int
    percent: float


def pixels_per_class(labels: Uint8Array, num_classes: int) -> list[int]:
    """The pixels of each class in train ids of any shape; those without a class are not counted."""
    return np.bincount(labels.ravel(), minlength=num_classes)[:num_classes].tolist()


def percentages(counts: Sequence[int]) -> list[float]:
    """Percent of each count, rounded to hundredths by largest remainder, so that they sum to 100; all 0 for nothing."""
    total = sum(counts)
    if total == 0:
        return [0.0] * len(counts)
    hundredths = [10_000 * count // total for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda i: -(10_000 * counts[i] % total))
    for i in by_remainder[: 10_000 - sum(hundredths)]:
        hundredths[i] += 1
    return [value / 100 for value in hundredths]


def counted_shares(counts: Sequence[int], classes: Sequence[SegClass]) -> list[ClassShare]:
    """The classes that occur, the largest first, from the pixels of each in train id order; percent sum to 100.00."""
    found = enumerate(zip(classes, counts, percentages(counts), strict=True))
    shares = [ClassShare(train_id, c.name, c.color, count, percent) for train_id, (c, count, percent) in found if count]
    return sorted(shares, key=lambda share: -share.pixels)


def class_list(classes: Sequence[SegClass], wanted: frozenset[int]) -> list[ClassShare]:
    """The wanted classes in train id order, for a legend without shares."""
    return [ClassShare(i, c.name, c.color, 0, 0.0) for i, c in enumerate(classes) if i in wanted]


def shares_table(shares: Sequence[ClassShare]) -> str:
    """A text table: one line per class, pixels and percent."""
    width = max(len("class"), *(len(share.name) for share in shares))
    lines = [f"{'class':<{width}}  {'pixels':>12}  {'percent':>7}"]
    lines += [f"{share.name.ljust(width)}  {share.pixels:>12}  {share.percent:>7.2f}" for share in shares]
    return "\n".join(lines)


def shares_line(shares: Sequence[ClassShare]) -> str:
    """The five largest shares on one line."""
    return ", ".join(f"{share.name} {share.percent:.2f} %" for share in shares[:5])


def with_legend(picture: Uint8Array, shares: Sequence[ClassShare], *, percents: bool = True) -> Uint8Array:
    """`picture` [H, W, 3] uint8 RGB, unchanged in the upper left corner of a sheet, with a legend next to or below it.

    Below a wide image, next to a tall one. The sheet grows if the legend needs it; the legend covers nothing.
    """
    height, width = picture.shape[:2]
    names = [drawable(share.name, f"train id {share.train_id}") for share in shares]
    largest = min(LARGEST_FONT, max(SMALLEST_FONT, round(0.021 * (width * height) ** 0.5)))
    for size in range(largest, SMALLEST_FONT - 1, -1):
        layout = _Layout(size, names, width, height, percents)
        if layout.beside or layout.height <= 0.6 * height:
            break
    corner = (width, 0) if layout.beside else (0, height)
    sheet = Image.new("RGB", (max(width, corner[0] + layout.width), max(height, corner[1] + layout.height)), PAPER)
    sheet.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(sheet)
    swatch_width, swatch_height = layout.swatch
    for i, (name, share) in enumerate(zip(names, shares, strict=True)):
        column, row = divmod(i, layout.num_rows)
        left, top = corner[0] + layout.margin + column * layout.step, corner[1] + layout.margin + row * layout.line
        middle = top + swatch_height // 2
        swatch = (left, top, left + swatch_width - 1, top + swatch_height - 1)
        draw.rectangle(swatch, fill=share.color, outline=OUTLINE)
        text_left = left + swatch_width + round(0.6 * swatch_height)
        draw.text((text_left, middle), name, INK, text_font(size), anchor="lm")
        if percents:
            text = f"{share.percent:.2f} %" if share.percent >= 0.01 else "< 0.01 %"
            draw.text((left + layout.entry_width, middle), text, FAINT_INK, text_font(size), anchor="rm")
    return np.asarray(sheet)


class _Layout:
    """Sizes of a legend in pixels; all depend on the font. Entries of a column are `line` apart, columns `step`."""

    def __init__(self, size: int, names: Sequence[str], width: int, height: int, percents: bool) -> None:
        self.margin, self.line, self.swatch = round(1.1 * size), round(1.75 * size), (round(1.7 * size), size)
        longest = max((text_font(size).getlength(name) for name in names), default=0)
        percent_width = size + text_font(size).getlength("100.00 %") if percents else 0
        self.entry_width = round(self.swatch[0] + 0.6 * size + longest + percent_width)
        self.beside = height >= width and 2 * self.margin + len(names) * self.line <= height
        room, gutter = width - 2 * self.margin, round(2.4 * size)
        fitting = 1 if self.beside else max(1, (room + gutter) // (self.entry_width + gutter))
        self.num_rows = max(1, -(-len(names) // fitting))
        num_columns = max(1, -(-len(names) // self.num_rows))
        # Columns share the width evenly, but are not so far apart that they no longer look like one legend.
        self.step = min((room - self.entry_width) // max(1, num_columns - 1), round(1.5 * self.entry_width))
        self.width = 2 * self.margin + (num_columns - 1) * self.step + self.entry_width
        self.height = 2 * self.margin + self.num_rows * self.line - (self.line - size)
