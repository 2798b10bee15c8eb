"""Colours and shares of classes: as a legend of a picture, as text, and as a plot; and pictures on one sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datasets.specs.spec import Color, SegClass
from utils.images import Uint8Array, colorize, shrink, side_by_side, tint
from utils.plots import new_plot
from utils.text import format_table

PAPER, INK, FAINT_INK, OUTLINE = (255, 255, 255), (32, 33, 36), (112, 117, 122), (189, 193, 198)
SMALLEST_FONT, LARGEST_FONT = 12, 30  # pixels
LARGEST_CELL, CELL_GAP = 360, 12  # longer side of a picture on a sheet, and the gap between two, in pixels


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


def shares_table(shares: Sequence[ClassShare]) -> str:
    """A text table: one line per class, pixels and percent."""
    lines = [(share.name, str(share.pixels), f"{share.percent:.2f}") for share in shares]
    return format_table([("class", "pixels", "percent"), *lines])


def percent_text(percent: float) -> str:
    """Of what occurs: as `12.34 %`, or `< 0.01 %`, so that only nothing is shown as 0."""
    return f"{percent:.2f} %" if percent >= 0.01 else "< 0.01 %"


def plot_shares(path: Path, title: str, shares: Mapping[str, Sequence[ClassShare]]) -> None:
    """Plot the shares of the same classes in one or several splits: bars in the class colours, the largest at the top.

    shares: of each split by its name, which is shown beside its bars.
    """
    splits = list(shares.values())
    order = sorted(range(len(splits[0])), key=lambda i: max(of[i].percent for of in splits))
    height = 0.8 / len(splits)
    with new_plot(path, (8, 1.2 + (0.14 + 0.18 * len(splits)) * len(order)), dpi=150) as figure:
        axes = figure.add_subplot()
        for number, (name, of) in enumerate(shares.items()):
            rows = np.arange(len(order)) + height * ((len(splits) - 1) / 2 - number)
            colors = [tuple(channel / 255 for channel in of[i].color) for i in order]
            drawn = axes.barh(rows, [of[i].percent for i in order], height, color=colors, edgecolor="#bdc1c6")
            told = [f"{percent_text(of[i].percent) if of[i].pixels else '0 %'} {name}" for i in order]
            axes.bar_label(drawn, told, padding=4, color="#5f6368", fontsize="small")
        axes.set_xlabel("share of the pixels, in percent")
        axes.set_yticks(
            range(len(order)), [drawable(splits[0][i].name, f"train id {splits[0][i].train_id}") for i in order]
        )
        axes.set_title(drawable(title, title.encode("ascii", "replace").decode()), loc="left")
        axes.margins(x=0.2, y=0.02)
        axes.spines[["top", "right"]].set_visible(False)


def plot_shares_over_time(
    path: Path, shares: Sequence[Sequence[float]], classes: Sequence[SegClass], seconds: Sequence[float] | None = None
) -> None:
    """Plot the shares, in percent, of N frames [N, C] as areas on top of each other, in the class colours.

    seconds: when each frame begins, and when the last one ends, N + 1 values; None: they are images, numbered from 1.
    """
    edges = np.arange(len(shares) + 1) + 0.5 if seconds is None else np.asarray(seconds)
    values = np.array([*shares, shares[-1]])  # the last one lasts until the last edge
    present = np.flatnonzero(values.any(0)).tolist()
    with new_plot(path, (10, 4.5), dpi=150) as figure:
        axes = figure.add_subplot()
        colors = ["#{:02x}{:02x}{:02x}".format(*classes[i].color) for i in present]
        areas = axes.stackplot(edges, values[:, present].T, step="post", linewidth=0, colors=colors)
        names = [drawable(classes[i].name, f"train id {i}") for i in present]
        figure.legend(areas[::-1], names[::-1], loc="outside right upper", frameon=False, ncols=1 + len(names) // 20)
        axes.set_xlabel("image, in order of the names" if seconds is None else "seconds")
        axes.set_ylabel("share of the pixels, in percent")
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(0, 100)
        axes.spines[["top", "right"]].set_visible(False)


def draw_sheet(
    pictures: Sequence[tuple[Uint8Array, Uint8Array]], classes: Sequence[SegClass], columns: int
) -> Uint8Array:
    """Images [H, W, 3] with train ids [H, W] on one sheet [h, w, 3], `columns` of them in a row, and a legend.

    Of each the image, its labels, and both over each other; small enough for a sheet.
    """
    cells, palette = [], [c.color for c in classes]
    counts = np.zeros(len(classes), int)
    for image, labels in pictures:
        counts += pixels_per_class(labels, len(classes))
        image, labels = shrink(image, LARGEST_CELL), shrink(labels, LARGEST_CELL, cv2.INTER_NEAREST_EXACT)
        cells.append(side_by_side([image, colorize(labels, palette), tint(image, labels, palette)], gap=2))
    columns, (height, width) = min(columns, len(cells)), np.max([cell.shape[:2] for cell in cells], axis=0)
    sheet = np.full((-(-len(cells) // columns), height + CELL_GAP, columns, width + CELL_GAP, 3), 255, np.uint8)
    for i, cell in enumerate(cells):
        sheet[i // columns, : cell.shape[0], i % columns, : cell.shape[1]] = cell
    sheet = sheet.reshape(sheet.shape[0] * sheet.shape[1], -1, 3)[:-CELL_GAP, :-CELL_GAP]
    return with_legend(np.ascontiguousarray(sheet), counted_shares(counts.tolist(), classes))


def _font_file() -> Path:
    """Matplotlib's own font, so that pictures look the same everywhere."""
    import matplotlib  # takes a tenth of a second, as do the other parts of it

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@cache
def _characters() -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(_font_file())).get_charmap())


def drawable(text: str, otherwise: str) -> str:
    """`text`, or `otherwise` if the font lacks one of its characters, as it does those of East Asian scripts."""
    return text if {ord(c) for c in text if not c.isspace()} <= _characters() else otherwise


def with_legend(picture: Uint8Array, shares: Sequence[ClassShare], *, percents: bool = True) -> Uint8Array:
    """`picture` [H, W, 3] uint8 RGB, unchanged at the top left of a sheet, with a legend in columns below it.

    The sheet is wider than the picture if a column needs it.
    """
    height, width = picture.shape[:2]
    names = [drawable(share.name, f"train id {share.train_id}") for share in shares]
    size = min(LARGEST_FONT, max(SMALLEST_FONT, round(0.021 * (width * height) ** 0.5)))  # of the font; all follows it
    font = ImageFont.truetype(str(_font_file()), size)
    margin, line, gutter, swatch = (round(part * size) for part in (1.1, 1.75, 2.4, 1.7))
    text_left = swatch + round(0.6 * size)
    longest = max((font.getlength(name) for name in names), default=0)
    entry = round(swatch + 0.6 * size + longest + (size + font.getlength("100.00 %") if percents else 0))
    room = width - 2 * margin
    num_rows = max(1, -(-len(names) // max(1, (room + gutter) // (entry + gutter))))
    num_columns = max(1, -(-len(names) // num_rows))
    # Columns share the width evenly, but are not so far apart that they no longer look like one legend.
    step = min((room - entry) // max(1, num_columns - 1), round(1.5 * entry))
    below = 2 * margin + (num_rows - 1) * line + size
    sheet = Image.new("RGB", (max(width, 2 * margin + (num_columns - 1) * step + entry), height + below), PAPER)
    sheet.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(sheet)
    for i, (name, share) in enumerate(zip(names, shares, strict=True)):
        column, row = divmod(i, num_rows)
        left, top = margin + column * step, height + margin + row * line
        middle = top + size // 2
        draw.rectangle((left, top, left + swatch - 1, top + size - 1), fill=share.color, outline=OUTLINE)
        draw.text((left + text_left, middle), name, INK, font, anchor="lm")
        if percents:
            draw.text((left + entry, middle), percent_text(share.percent), FAINT_INK, font, anchor="rm")
    return np.asarray(sheet)
