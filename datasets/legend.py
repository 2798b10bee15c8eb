"""The legend of a colour mask: the colour of each class, and its share of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datasets.specs.spec import Color, SegClass
from utils.images import Uint8Array
from utils.plots import drawable, text_font
from utils.text import display_width, padded


def pixels_per_class(labels: Uint8Array, num_classes: int) -> list[int]:
    """The pixels of each class in train ids [H, W]; those without a class are not counted."""
    return np.bincount(labels.ravel(), minlength=num_classes)[:num_classes].tolist()


def percentages(counts: Sequence[int]) -> list[float]:
    """Percent of each count, rounded to hundredths by largest remainder, so that they sum to 100; all 0 for nothing."""
    total = sum(counts)
    if total == 0:
        return [0.0] * len(counts)
    hundredths = [10_000 * count // total for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda i: (-(10_000 * counts[i] % total), i))
    for i in by_remainder[: 10_000 - sum(hundredths)]:
        hundredths[i] += 1
    return [value / 100 for value in hundredths]


PAPER = (255, 255, 255)
INK = (32, 33, 36)
FAINT_INK = (112, 117, 122)
OUTLINE = (189, 193, 198)
SMALLEST_FONT, LARGEST_FONT = 12, 30  # pixels


@dataclass(frozen=True)
class ClassShare:
    """One class that occurs: its colour, its pixels and their share in percent."""

    train_id: int
    name: str
    color: Color
    pixels: int
    percent: float


def class_shares(labels: Uint8Array, classes: Sequence[SegClass]) -> list[ClassShare]:
    """The classes that occur in train ids `labels` [H, W], the largest first; percent sum to 100.00."""
    return counted_shares(pixels_per_class(labels, len(classes)), classes)


def counted_shares(counts: Sequence[int], classes: Sequence[SegClass]) -> list[ClassShare]:
    """The classes that occur, the largest first, from the pixels of each in train id order; percent sum to 100.00."""
    shares = [
        ClassShare(train_id, seg_class.name, seg_class.color, count, percent)
        for train_id, (seg_class, count, percent) in enumerate(zip(classes, counts, percentages(counts), strict=True))
        if count
    ]
    return sorted(shares, key=lambda share: -share.pixels)


def class_list(classes: Sequence[SegClass], wanted: frozenset[int]) -> list[ClassShare]:
    """The wanted classes in train id order, for a legend without shares."""
    return [ClassShare(i, c.name, c.color, 0, 0.0) for i, c in enumerate(classes) if i in wanted]


def with_legend(picture: Uint8Array, shares: Sequence[ClassShare], *, percents: bool = True) -> Uint8Array:
    """`picture` [H, W, 3] uint8 RGB, unchanged in the upper left corner of a sheet, with a legend next to or below it.

    Below a wide image, next to a tall one. The sheet grows if the legend needs it; the legend covers nothing.
    """
    height, width = picture.shape[:2]
    layout = _layout(width, height, shares, percents)
    corner = (width, 0) if layout.beside else (0, height)
    sheet_size = (max(width, corner[0] + layout.width), max(height, corner[1] + layout.height))
    sheet = Image.new("RGB", sheet_size, PAPER)
    sheet.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(sheet)
    for i, share in enumerate(shares):
        column, row = divmod(i, layout.num_rows)
        left = corner[0] + layout.margin + column * layout.column_step
        _draw_entry(draw, layout, left, corner[1] + layout.margin + row * layout.line, share, percents)
    return np.asarray(sheet)


@dataclass(frozen=True)
class _Layout:
    """Sizes in pixels; all depend on the font. A column's entries are `line` apart, columns `column_step`."""

    font: ImageFont.FreeTypeFont
    beside: bool
    margin: int
    line: int
    swatch: tuple[int, int]
    entry_width: int
    column_step: int
    num_rows: int
    num_columns: int

    @property
    def height(self) -> int:
        return 2 * self.margin + self.num_rows * self.line - (self.line - self.swatch[1])

    @property
    def width(self) -> int:
        return 2 * self.margin + (self.num_columns - 1) * self.column_step + self.entry_width


def _layout(width: int, height: int, shares: Sequence[ClassShare], percents: bool) -> _Layout:
    size = min(LARGEST_FONT, max(SMALLEST_FONT, round(0.021 * (width * height) ** 0.5)))
    layout = _layout_in_font(size, width, height, shares, percents)
    while layout.height > 0.6 * height and not layout.beside and size > SMALLEST_FONT:
        size -= 1
        layout = _layout_in_font(size, width, height, shares, percents)
    return layout


def _layout_in_font(size: int, width: int, height: int, shares: Sequence[ClassShare], percents: bool) -> _Layout:
    font = text_font(size)  # of the percents; names may need others
    margin, line, swatch = round(1.1 * size), round(1.75 * size), (round(1.7 * size), size)
    names = max((_font_of(name, font).getlength(name) for name in map(_drawn_name, shares)), default=0)
    entry_width = round(swatch[0] + 0.6 * size + names + (size + font.getlength("100.00 %") if percents else 0))
    beside = height >= width and 2 * margin + len(shares) * line <= height
    room, gutter = width - 2 * margin, round(2.4 * size)
    fitting = 1 if beside else max(1, (room + gutter) // (entry_width + gutter))
    num_rows = max(1, -(-len(shares) // fitting))
    num_columns = max(1, -(-len(shares) // num_rows))
    # Columns share the width evenly, but are not so far apart that they no longer look like one legend.
    step = min((room - entry_width) // (num_columns - 1), round(1.5 * entry_width)) if num_columns > 1 else 0
    return _Layout(font, beside, margin, line, swatch, entry_width, step, num_rows, num_columns)


def _draw_entry(
    draw: ImageDraw.ImageDraw, layout: _Layout, left: int, top: int, share: ClassShare, percents: bool
) -> None:
    width, height = layout.swatch
    draw.rectangle((left, top, left + width - 1, top + height - 1), fill=share.color, outline=OUTLINE)
    middle = top + height // 2
    name = _drawn_name(share)
    draw.text((left + width + round(0.6 * height), middle), name, INK, _font_of(name, layout.font), anchor="lm")
    if not percents:
        return
    text = f"{share.percent:.2f} %" if share.percent >= 0.01 else "< 0.01 %"
    draw.text((left + layout.entry_width, middle), text, FAINT_INK, layout.font, anchor="rm")


def _drawn_name(share: ClassShare) -> str:
    return drawable(share.name, f"train id {share.train_id}")


def _font_of(name: str, font: ImageFont.FreeTypeFont) -> ImageFont.FreeTypeFont:
    """One that has the characters of `name`, as large as `font`."""
    return font if name.isascii() else text_font(round(font.size), name)


def shares_table(shares: Sequence[ClassShare]) -> str:
    """A text table: one line per class, pixels and percent."""
    width = max(len("class"), *(display_width(share.name) for share in shares))
    lines = [f"{'class':<{width}}  {'pixels':>12}  {'percent':>7}"]
    lines += [f"{padded(share.name, width)}  {share.pixels:>12}  {share.percent:>7.2f}" for share in shares]
    return "\n".join(lines)


def shares_line(shares: Sequence[ClassShare], most: int = 5) -> str:
    """The largest shares on one line."""
    return ", ".join(f"{share.name} {share.percent:.2f} %" for share in shares[:most])
