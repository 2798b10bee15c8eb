"""PNG files with text notes inside, which say what a file is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from utils.files import atomic_path


def write_png(path: Path, pixels: NDArray[np.integer], notes: dict[str, str]) -> None:
    """Write [H, W, 3] RGB or [H, W] as PNG, atomically, with text notes inside."""
    info = PngImagePlugin.PngInfo()
    for key, text in notes.items():
        info.add_text(key, text)
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=info, compress_level=4)


def read_note(path: Path, key: str) -> str | None:
    """A text note of a PNG file written by `write_png`; None if there is none."""
    try:
        # Not Image.open, which refuses very large images; nothing is decoded here.
        with PngImagePlugin.PngImageFile(path) as picture:
            value = picture.info.get(key)
    except (OSError, SyntaxError, ValueError):
        return None
    return value if isinstance(value, str) else None
