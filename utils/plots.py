"""Plots in which text is shown as it is written, and numbers are plain."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import ImageFont

from utils.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


@cache
def _font_file() -> Path:
    """Matplotlib's own font, so that pictures look the same everywhere."""
    import matplotlib  # takes a tenth of a second, as do the other parts of it

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@cache
def _characters() -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(_font_file())).get_charmap())


def text_font(size: int) -> ImageFont.FreeTypeFont:
    """The font of pictures. size: in pixels."""
    return ImageFont.truetype(str(_font_file()), size)


def drawable(text: str, otherwise: str) -> str:
    """`text`, or `otherwise` if the font lacks one of its characters, as it does those of East Asian scripts."""
    return text if {ord(c) for c in text if not c.isspace()} <= _characters() else otherwise


# Whatever a user's matplotlibrc says: names may hold $, _ and \, which are no formulas.
AS_WRITTEN: Any = {"text.parse_math": False, "text.usetex": False, "axes.formatter.use_mathtext": False}


@contextmanager
def new_plot(path: Path, size: tuple[float, float], dpi: int) -> Iterator[Figure]:
    """A figure to draw in, written to `path` when the block has succeeded. size: width and height in inches."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(AS_WRITTEN):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
            if axis.get_scale() == "log":
                _number_plainly(axis)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=dpi)


def _number_plainly(axis: Axis) -> None:
    """Number a logarithmic axis as 0.01, 1, 20, without powers; between powers of ten only where there is room."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return np.format_float_positional(x, 6, fractional=False, trim="-") if super().__call__(x, pos) else ""

    axis.set_major_formatter(Plain(labelOnlyBase=False))
    axis.set_minor_formatter(Plain(labelOnlyBase=False))
