"""Plots in which text is shown as it is written, and numbers are plain."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.files import atomic_path
from utils.fonts import use_fonts

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Whatever a user's matplotlibrc says: names may hold $, _ and \, which are no formulas.
AS_WRITTEN = {"text.parse_math": False, "text.usetex": False, "axes.formatter.use_mathtext": False}


@contextmanager
def new_plot(path: Path, size: tuple[float, float], dpi: int) -> Iterator[Figure]:
    """A figure to draw in, written to `path` when the block has succeeded. size: width and height in inches.

    Every text is shown in a font that has its characters; see `drawable` for those that no font has.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    with rc_context(AS_WRITTEN):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
            if axis.get_scale() == "log":
                _number_plainly(axis)
        use_fonts(figure.findobj(Text))
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
