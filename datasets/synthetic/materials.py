"""Textures: what a surface looks like, independent of where it is.

A `Texture` has a colour image, with smaller copies for distant surfaces, and a class per texel; `HOLE` marks
transparent texels. `Canvas` paints one in metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
Colour = tuple[float, float, float]  # red, green, blue, 0..255
Point = tuple[float, float]

SKY, BUILDING, POLE, ROAD, SIDEWALK, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST, VOID = range(12)
HOLE = 255
SUBPIXEL_BITS = 4  # cv2 drawing functions take fixed-point coordinates


@dataclass(frozen=True)
class Texture:
    """labels [h, w] uint8 (class id or HOLE); mips: [h / 2^k, w / 2^k, 3] uint8; solid: has no HOLE."""

    labels: NDArray[np.uint8]
    mips: tuple[NDArray[np.uint8], ...]
    solid: bool


def make_texture(colours: NDArray, labels: NDArray[np.uint8]) -> Texture:
    """Texture of `colours` [h, w, 3] (0..255, any number type) and `labels` [h, w]."""
    image = np.clip(colours, 0, 255).astype(np.uint8)
    solid = bool((labels != HOLE).all())
    if not solid:
        image = _bleed(image, labels != HOLE)
    mips = [image]
    while min(mips[-1].shape[:2]) >= 4 and len(mips) < 9:
        height, width = mips[-1].shape[:2]
        mips.append(cv2.resize(mips[-1], (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA))
    return Texture(np.ascontiguousarray(labels), tuple(mips), solid)


def _bleed(image: NDArray[np.uint8], opaque: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Extend the colours into the holes, so that the smaller copies get no fringe of another colour."""
    height, width = opaque.shape
    small = (max(1, width // 4), max(1, height // 4))
    known = opaque.astype(np.uint8)
    weight = cv2.blur(cv2.resize(known * np.float32(1), small, interpolation=cv2.INTER_AREA), (5, 5))[..., None]
    spread = cv2.blur(cv2.resize(image * np.float32(known[..., None]), small, interpolation=cv2.INTER_AREA), (5, 5))
    mean = np.array(cv2.mean(image, known)[:3])
    filled = np.where(weight > 1e-3, spread / np.maximum(weight, 1e-3), mean).astype(np.uint8)
    return np.where(opaque[..., None], image, cv2.resize(filled, (width, height), interpolation=cv2.INTER_NEAREST))


def noise(rng: np.random.Generator, height: int, width: int, cell: float) -> NDArray[np.float32]:
    """A smooth random field [height, width] in -1..1 with blobs about `cell` texels wide."""
    rows, columns = max(2, round(height / cell) + 2), max(2, round(width / cell) + 2)
    coarse = rng.random((rows, columns), dtype=np.float32) * 2 - 1
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def tileable_noise(rng: np.random.Generator, size: int, cells: Sequence[int]) -> NDArray[np.float32]:
    """A seamless random field [size, size], zero mean, about -1..1; one octave per cell size."""
    total = np.zeros((size, size), np.float32)
    for cell in cells:
        coarse = np.pad(rng.random((size // cell, size // cell), dtype=np.float32) * 2 - 1, 2, mode="wrap")
        fine = cv2.resize(coarse, None, fx=cell, fy=cell, interpolation=cv2.INTER_CUBIC)
        total += fine[2 * cell : 2 * cell + size, 2 * cell : 2 * cell + size]
    return total / np.sqrt(len(cells))


def jitter(rng: np.random.Generator, colour: Colour, spread: float) -> Colour:
    """`colour` with random changes of brightness and, smaller, of hue; `spread` is a fraction."""
    gain = 1 + spread * rng.uniform(-1, 1) + 0.35 * spread * rng.uniform(-1, 1, 3)
    red, green, blue = np.clip(np.array(colour) * gain, 0, 255)
    return float(red), float(green), float(blue)


def scaled(colour: Colour, gain: float) -> Colour:
    """`colour` made brighter or darker."""
    return min(255.0, colour[0] * gain), min(255.0, colour[1] * gain), min(255.0, colour[2] * gain)


class Canvas:
    """An image of `width` x `height` metres; x runs right from the left edge, y up from the lower edge."""

    def __init__(self, width: float, height: float, density: float, label: int = HOLE,
                 colour: Colour = (90, 90, 90)) -> None:  # fmt: skip
        self.width, self.height, self.density = width, height, density
        rows, columns = max(4, round(height * density)), max(4, round(width * density))
        self.colours = np.full((rows, columns, 3), colour, np.uint8)
        self.labels = np.full((rows, columns), label, np.uint8)

    def _fixed(self, points: Sequence[Point]) -> NDArray[np.int32]:
        rows, columns = self.labels.shape
        scale = np.array([columns / self.width, rows / self.height])
        pixels = np.array(points, float) * scale
        pixels[:, 1] = rows - pixels[:, 1]
        return np.round((pixels - 0.5) * (1 << SUBPIXEL_BITS)).astype(np.int32)

    def polygon(self, points: Sequence[Point], colour: Colour, label: int | None = None) -> None:
        """Fill a polygon; with `label` None the classes stay."""
        fixed = self._fixed(points)
        cv2.fillPoly(self.colours, [fixed], colour, cv2.LINE_8, SUBPIXEL_BITS)
        if label is not None:
            cv2.fillPoly(self.labels, [fixed], label, cv2.LINE_8, SUBPIXEL_BITS)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, label: int | None = None) -> None:
        """Fill the rectangle from (x0, y0) to (x1, y1)."""
        rows, columns = self.labels.shape
        across, along = columns / self.width, rows / self.height
        top, bottom = max(0, round(rows - y1 * along)), max(0, round(rows - y0 * along))
        left, right = max(0, round(x0 * across)), max(0, round(x1 * across))
        self.colours[top:bottom, left:right] = colour
        if label is not None:
            self.labels[top:bottom, left:right] = label

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour, label: int | None = None) -> None:
        """Fill an ellipse around (x, y)."""
        angles = np.linspace(0, 2 * np.pi, 28, endpoint=False)
        points = [(x + rx * float(np.cos(a)), y + ry * float(np.sin(a))) for a in angles]
        self.polygon(points, colour, label)

    def line(self, points: Sequence[Point], width: float, colour: Colour, label: int | None = None) -> None:
        """Draw a line with round joints, `width` metres thick."""
        for (xa, ya), (xb, yb) in pairwise(points):
            length = max(1e-6, float(np.hypot(xb - xa, yb - ya)))
            nx, ny = -(yb - ya) / length * width / 2, (xb - xa) / length * width / 2
            corners = [(xa + nx, ya + ny), (xb + nx, yb + ny), (xb - nx, yb - ny), (xa - nx, ya - ny)]
            self.polygon(corners, colour, label)
        for x, y in points:
            self.ellipse(x, y, width / 2, width / 2, colour, label)

    def ring(self, x: float, y: float, radius: float, width: float, colour: Colour, label: int | None = None) -> None:
        """Draw a circular outline."""
        angles = np.linspace(0, 2 * np.pi, 33)
        points = [(x + radius * float(np.cos(a)), y + radius * float(np.sin(a))) for a in angles]
        self.line(points, width, colour, label)

    def text(self, words: str, x: float, y: float, size: float, colour: Colour) -> None:
        """Write `words`, `size` metres high, with the lower left corner at (x, y); the classes stay."""
        rows = self.labels.shape[0]
        at = (round(x * self.density), round(rows - y * self.density))
        scale, thick = size * self.density / 21, max(1, round(size * self.density / 7))
        cv2.putText(self.colours, words, at, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thick, cv2.LINE_AA)

    def shade(self, gain: NDArray[np.floating]) -> None:
        """Multiply the colours by `gain`, which must broadcast to [rows, columns, 1]."""
        self.colours = np.clip(self.colours * gain, 0, 255).astype(np.uint8)

    def grain(self, rng: np.random.Generator, strength: float, cell: float = 2.0) -> None:
        """Mottle the colours with blobs of `cell` texels."""
        self.shade(1 + strength * noise(rng, *self.labels.shape, cell)[..., None])

    def round_off(self, strength: float = 0.25) -> None:
        """Darken each row towards the left and right ends of its painted part, as on a rounded body."""
        opaque = self.labels != HOLE
        columns = np.arange(opaque.shape[1])
        first = np.where(opaque.any(1), opaque.argmax(1), 0)[:, None]
        last = opaque.shape[1] - 1 - np.where(opaque.any(1), opaque[:, ::-1].argmax(1), 0)[:, None]
        across = (columns - (first + last) / 2) / np.maximum(1, (last - first) / 2)
        self.shade((1 + 0.15 * strength - strength * np.clip(across + 0.25, -1.2, 1.2) ** 2)[..., None])

    def texture(self) -> Texture:
        """The finished texture."""
        return make_texture(self.colours, self.labels)
