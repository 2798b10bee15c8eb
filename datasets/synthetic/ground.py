"""The ground plane: the class and the appearance of each place on the street.

Everything is computed from the place itself, so that kerbs and markings are sharp at any image size.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.synthetic.camera import Curve
from datasets.synthetic.materials import ROAD, SIDEWALK, TREE, Colour, FloatArray, Texture, make_texture, tileable_noise

KERB_WIDTH = 0.2
FINE_SIZE = 0.008  # metres; size of a grain of the finest structure
CORNER_RADIUS = 3.0


@dataclass(frozen=True)
class Junction:
    """A side street at `z` that reaches `half_width` metres to each side and leads left, right or both ways."""

    z: float
    half_width: float
    left: bool
    right: bool


@dataclass(frozen=True)
class Tile:
    """A repeating ground texture; `size` metres wide."""

    texture: Texture
    size: float


@dataclass(frozen=True)
class Ground:
    """The plan of the street, all widths in metres from the centre line."""

    curve: Curve
    half_width: float
    walk: float
    parking: float  # width of a parking strip inside the road, 0: none
    junctions: tuple[Junction, ...]
    crossings: tuple[float, ...]
    centre_line: str  # "dashed", "double", "solid" or "none"
    edge_line: str  # "solid", "dashed" or "none"
    lawn: bool  # beyond the sidewalk: grass (class Tree, as CamVid labels low plants) or paving
    line_colour: Colour
    asphalt: Tile
    slabs: Tile
    grass: Tile


def kerb_distance(ground: Ground, x: FloatArray, z: FloatArray) -> FloatArray:
    """Metres from the kerb, negative on the road; kerbs are rounded at the corners of side streets."""
    d = x - ground.curve.x(z).astype(x.dtype)
    distance = np.abs(d) - np.float32(ground.half_width)
    for junction in ground.junctions:
        near = np.abs(z - np.float32(junction.z)) < junction.half_width + 8
        near &= ((d > 0) & junction.right) | ((d < 0) & junction.left)
        if near.any():
            a, b = distance[near], np.abs(z[near] - np.float32(junction.z)) - np.float32(junction.half_width)
            r = np.float32(CORNER_RADIUS)
            corner = r - np.hypot(np.maximum(r - a, 0), np.maximum(r - b, 0))
            distance[near] = np.where((a < r) & (b < r) & (a > 0) & (b > 0), corner, np.minimum(a, b))
    return distance


def ground_labels(ground: Ground, x: FloatArray, z: FloatArray, distance: FloatArray) -> NDArray[np.uint8]:
    """Classes [n] of the ground points (x, z)."""
    labels = np.full(x.shape, ROAD, np.uint8)
    labels[distance >= 0] = SIDEWALK
    if ground.lawn:
        labels[distance >= ground.walk] = TREE
    return labels


def ground_colours(ground: Ground, x: FloatArray, z: FloatArray, distance: FloatArray, footprint: FloatArray,
                   labels: NDArray[np.uint8]) -> NDArray[np.float32]:  # fmt: skip
    """Colours [n, 3] of the ground points; `footprint` [n] is the size of a sample on the ground in metres."""
    colours = np.empty((*x.shape, 3), np.float32)
    for label, tile in ((ROAD, ground.asphalt), (SIDEWALK, ground.slabs), (TREE, ground.grass)):
        at = np.flatnonzero(labels == label)
        if at.size:
            colours[at] = sample_tile(tile, x[at], z[at], footprint[at])
    fine = np.flatnonzero(footprint < 0.5 * FINE_SIZE)
    if fine.size:
        colours[fine] *= fine_grain(ground.asphalt, x[fine], z[fine], footprint[fine])[:, None]
    road = np.flatnonzero(labels == ROAD)
    if road.size:
        colours[road] = _marked(ground, colours[road], x[road], z[road], distance[road], footprint[road])
    kerb = np.flatnonzero((distance > -0.35) & (distance < KERB_WIDTH + 0.1))
    if kerb.size:
        gap, step = distance[kerb], np.maximum(footprint[kerb] * 0.6, 0.02)
        stone = np.clip(gap / step + 0.5, 0, 1) * np.clip((KERB_WIDTH - gap) / step + 0.5, 0, 1)
        face = np.clip((gap + 0.09) / step + 0.5, 0, 1) * np.clip(-gap / step + 0.5, 0, 1)
        gutter = 1 - 0.22 * np.clip(1 + gap / 0.35, 0, 1) * (gap < 0)
        base = colours[kerb] * gutter[:, None]
        base += stone[:, None] * (np.array([178, 174, 166], np.float32) - base) * 0.8
        base *= 1 - 0.5 * face[:, None]
        colours[kerb] = base
    return colours


def _band(offset: FloatArray, half: float, footprint: FloatArray) -> FloatArray:
    """Share of a sample that a painted band around offset 0 covers."""
    soft = np.maximum(footprint, 0.01)
    return np.clip((half - np.abs(offset)) / soft + 0.5, 0, 1) * np.minimum(1, 2 * half / soft)


def _dashes(z: FloatArray, period: float, length: float, footprint: FloatArray) -> FloatArray:
    return _band(np.mod(z, period) - period / 2, length / 2, footprint * 2)


def _marked(ground: Ground, colours: FloatArray, x: FloatArray, z: FloatArray, distance: FloatArray,
            footprint: FloatArray) -> FloatArray:  # fmt: skip
    """Road colours with tyre tracks and painted markings."""
    d = x - ground.curve.x(z).astype(np.float32)
    lane = (ground.half_width - ground.parking) / 2
    track = np.abs(np.abs(np.abs(d) - lane) - 0.75)
    oil = np.exp(-(((np.abs(d) - lane) / 0.25) ** 2))
    colours = colours * (1 - 0.07 * np.exp(-((track / 0.3) ** 2)) - 0.05 * oil)[:, None]
    paint = np.zeros_like(d)
    if ground.centre_line == "double":
        paint = np.maximum(paint, _band(np.abs(d) - 0.14, 0.065, footprint))
    elif ground.centre_line == "solid":
        paint = np.maximum(paint, _band(d, 0.075, footprint))
    elif ground.centre_line == "dashed":
        paint = np.maximum(paint, _band(d, 0.075, footprint) * _dashes(z, 6.0, 3.0, footprint))
    inner = ground.half_width - ground.parking - 0.3
    if ground.edge_line != "none":
        edge = _band(np.abs(d) - inner, 0.06, footprint)
        paint = np.maximum(paint, edge * _dashes(z, 2.0, 1.0, footprint) if ground.edge_line == "dashed" else edge)
    if ground.parking > 0:
        bay = _band(np.mod(z, 5.5) - 2.75, 0.05, footprint * 2) * (np.abs(d) > inner)
        paint = np.maximum(paint, bay)
    for junction in ground.junctions:  # no lines inside a junction
        paint = paint * (np.abs(z - junction.z) > junction.half_width + 1.0)
    paint = np.where(np.abs(d) < ground.half_width, paint, 0)
    for crossing in ground.crossings:
        along = _band(z - crossing, 1.4, footprint)
        stripes = _band(np.mod(d, 1.0) - 0.5, 0.26, footprint) * (np.abs(d) < ground.half_width - 0.2)
        stop = _band(np.abs(z - crossing) - 2.6, 0.16, footprint) * (np.abs(d) < ground.half_width - 0.2)
        near = np.abs(z - crossing) < 2.9
        paint = np.where(near, np.maximum(along * stripes, stop * np.sign(d * (crossing - z)).clip(0, 1)), paint)
    worn = 0.8 * np.clip(0.55 + colours.mean(axis=1) / 180, 0.55, 1)
    return colours + (paint * worn)[:, None] * (np.array(ground.line_colour, np.float32) - colours)


def sample_tile(tile: Tile, x: FloatArray, z: FloatArray, footprint: FloatArray) -> NDArray[np.float32]:
    """Colours [n, 3] of a repeating texture at ground points."""
    density = tile.texture.labels.shape[0] / tile.size
    level = np.round(np.log2(np.maximum(footprint * density, 1.0)))
    level = np.minimum(level, len(tile.texture.mips) - 1).astype(np.uint8)
    out = np.empty((x.size, 3), np.float32)
    for k in np.unique(level):
        at = np.flatnonzero(level == k)
        mip = tile.texture.mips[k]
        scale = mip.shape[0] / tile.size
        size = np.float32(mip.shape[0])
        out[at] = bilinear(mip, np.mod(x[at] * np.float32(scale), size), np.mod(z[at] * np.float32(scale), size), True)
    return out


def bilinear(image: NDArray[np.uint8], columns: FloatArray, rows: FloatArray, wrap: bool) -> NDArray[np.uint8]:
    """Colours [n, 3] of `image` at texture coordinates in texels; 0 is the outer edge of the first texel."""
    n = columns.size
    wide = min(n, 4096)
    tall = -(-n // wide)
    grid = np.zeros((2, tall * wide), np.float32)
    grid[0, :n], grid[1, :n] = columns - 0.5, rows - 0.5
    border = cv2.BORDER_WRAP if wrap else cv2.BORDER_REPLICATE
    maps = grid.reshape(2, tall, wide)
    colours = np.asarray(cv2.remap(image, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=border), np.uint8)
    return colours.reshape(-1, *image.shape[2:])[:n]


def fine_grain(tile: Tile, u: FloatArray, v: FloatArray, footprint: FloatArray) -> FloatArray:
    """Brightness [n], around 1, of grain finer than the textures, so that near surfaces in large images are not blank.

    u, v: places on the surface in metres. The grain fades out where a sample is larger than half a grain.
    """
    density = tile.texture.labels.shape[0] / tile.size
    zoom = np.float32(1 / (FINE_SIZE * density))
    period = np.float32(tile.size)
    value = sample_tile(tile, np.mod(u * zoom, period), np.mod(v * zoom, period), np.zeros_like(u))[:, 1]
    strength = np.clip(1 - 2 * footprint / FINE_SIZE, 0, 1)
    return 1 + 0.9 * strength * (value / tile.texture.mips[-1][..., 1].mean() - 1)


def asphalt_tile(rng: np.random.Generator, base: Colour) -> Tile:
    """Asphalt with grain, patches and cracks, 12 m wide."""
    size = 768
    gain = 1 + 0.07 * tileable_noise(rng, size, (2, 4)) + 0.05 * tileable_noise(rng, size, (32, 64, 128))
    for _ in range(int(rng.integers(1, 4))):  # repairs
        x, y = rng.integers(0, size - 220, 2)
        w, h = rng.integers(40, 180), rng.integers(60, 220)
        gain[y : y + h, x : x + w] *= rng.uniform(0.82, 0.95)
    for _ in range(int(rng.integers(2, 6))):  # cracks
        steps = np.cumsum(rng.normal(0, 1, (60, 2)) * 4 + rng.normal(0, 1, 2) * 3, axis=0)
        points = np.round(steps + rng.uniform(0, size, 2)).astype(np.int32)
        cv2.polylines(gain, [points], False, 0.62, 1)
    if rng.random() < 0.7:
        cv2.circle(gain, (size // 3, size // 3), 20, 0.7, -1)
        cv2.circle(gain, (size // 3, size // 3), 16, 0.86, 2)
    labels = np.full((size, size), ROAD, np.uint8)
    return Tile(make_texture(np.array(base, np.float32) * gain[..., None], labels), 12.0)


def slab_tile(rng: np.random.Generator, base: Colour, slab: float) -> Tile:
    """Paving slabs of `slab` metres with joints; the tile is 12 slabs wide."""
    per = 36
    size = 12 * per
    tone = 1 + 0.09 * (rng.random((12, 12), dtype=np.float32) - 0.5) * 2
    gain = np.kron(tone, np.ones((per, per), np.float32)) * (1 + 0.05 * tileable_noise(rng, size, (2, 4, 36)))
    gain[::per] *= 0.72
    gain[1::per] *= 0.86
    for row in range(12):
        shift = per // 2 * (row % 2)
        gain[row * per : (row + 1) * per, shift::per] *= 0.75
    labels = np.full((size, size), SIDEWALK, np.uint8)
    return Tile(make_texture(np.array(base, np.float32) * gain[..., None], labels), 12 * slab)


def grass_tile(rng: np.random.Generator, base: Colour) -> Tile:
    """Lawn, 8 m wide."""
    size = 512
    gain = 1 + 0.2 * tileable_noise(rng, size, (2, 4)) + 0.14 * tileable_noise(rng, size, (16, 64))
    labels = np.full((size, size), TREE, np.uint8)
    return Tile(make_texture(np.array(base, np.float32) * gain[..., None], labels), 8.0)
