"""Fonts for names in any script: Matplotlib's own, else an installed one."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import ImageFont

if TYPE_CHECKING:
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
