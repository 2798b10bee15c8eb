"""Plots in which text is shown as it is written, and numbers are plain."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable, Iterator
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
    from matplotlib.text import Text


# If several installed fonts are suitable, those with such a word in the file name come last.
UNUSUAL = ("bold", "black", "light", "thin", "medium", "italic", "oblique", "mono", "serif", "condensed")


def text_font(size: int, text: str = "") -> ImageFont.FreeTypeFont:
    """A font that has the characters of `text`. size: in pixels.

    Matplotlib's own font is used if it has them, so that images look the same everywhere, and also if no font has
    them.
    """
    return ImageFont.truetype(str(font_file(text) or _default_file()), size)


@cache
def font_file(text: str) -> Path | None:
    """The file of a font that has all characters of `text`: Matplotlib's own, else an installed one, or None."""
    wanted = {ord(character) for character in text if not character.isspace()}
    if text.isascii() or wanted <= _characters(_default_file()):
        return _default_file()
    return next((path for path in _installed() if wanted <= _characters(path)), None)


def drawable(text: str, otherwise: str) -> str:
    """`text`, or `otherwise` if no font has its characters, with a notice that says what to install."""
    if font_file(text):
        return text
    wide = any(unicodedata.east_asian_width(character) in "WF" for character in text)
    _notice("fonts-noto-cjk" if wide else "fonts-noto-core", text.encode(errors="backslashreplace").decode())
    return otherwise


def use_fonts(texts: Iterable[Text]) -> None:
    """Have Matplotlib draw each of `texts` in a font that has its characters."""
    from matplotlib.font_manager import FontProperties

    for text in texts:
        file = font_file(text.get_text())
        if file not in (None, _default_file()):
            text.set_fontproperties(FontProperties(fname=str(file), size=text.get_fontsize()))


_noticed: set[str] = set()


def _notice(package: str, text: str) -> None:
    """Once for each package."""
    if package not in _noticed:
        _noticed.add(package)
        print(
            f"notice: no installed font has the characters of {text}; images show train ids instead of such names. "
            f"Install a font that has them: on Debian and Ubuntu, {package}.",
            file=sys.stderr,
        )


@cache
def _default_file() -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@cache
def _installed() -> tuple[Path, ...]:
    # Imported only here: it takes a tenth of a second. Its own list is a cache, which lacks recently installed fonts.
    from matplotlib.font_manager import findSystemFonts

    paths = [Path(path) for path in findSystemFonts()]
    return tuple(sorted(paths, key=lambda path: (any(word in path.stem.lower() for word in UNUSUAL), path.name, path)))


@cache
def _characters(path: Path) -> frozenset[int]:
    """The characters that the font in `path` has outlines for; none if it is unreadable or has only bitmaps."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(str(path))
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(font.get_charmap()) if font.scalable else frozenset()


# Whatever a user's matplotlibrc says: names may hold $, _ and \, which are no formulas.
AS_WRITTEN: Any = {"text.parse_math": False, "text.usetex": False, "axes.formatter.use_mathtext": False}


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
