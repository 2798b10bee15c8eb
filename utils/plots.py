"""Plots in which text is shown as it is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=dpi)
