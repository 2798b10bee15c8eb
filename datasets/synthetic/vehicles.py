"""Cars and vans as closed bodies of flat, painted faces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datasets.synthetic.materials import (
    CAR,
    Canvas,
    Colour,
    FloatArray,
    Point,
    Texture,
    jitter,
    scaled,
)

PAINTS: tuple[Colour, ...] = (
    (176, 180, 184), (40, 42, 46), (222, 222, 220), (150, 24, 28), (34, 60, 120), (94, 100, 106), (60, 84, 66),
    (196, 160, 60), (110, 140, 168), (82, 30, 40),
)  # fmt: skip
GLASS: Colour = (42, 52, 60)
RUBBER: Colour = (22, 22, 24)
Corner = tuple[float, float, float]


@dataclass(frozen=True)
class Face:
    """A flat face: three corners [3] in body axes (right, up, forward) as seen from outside, and its paint."""

    top_left: FloatArray
    top_right: FloatArray
    bottom_left: FloatArray
    texture: Texture


@dataclass(frozen=True)
class Vehicle:
    """length, width, height in metres; the body's origin is on the ground below the middle of the rear."""

    length: float
    width: float
    height: float
    faces: tuple[Face, ...]


@dataclass(frozen=True)
class _Shape:
    length: float
    width: float
    height: float
    belt: float
    hood: float  # height of the hood's front edge
    tail: float  # along the body: foot of the rear window
    roof_rear: float
    roof_front: float
    cowl: float  # foot of the windscreen


def _shape(rng: np.random.Generator) -> _Shape:
    kind = rng.random()
    g = float(rng.uniform(0.95, 1.06))
    if kind < 0.4:  # hatchback
        return _Shape(3.9 * g, 1.72, 1.48 * g, 0.92, 0.74, 0.12, 0.5, 2.1 * g, 2.95 * g)
    if kind < 0.7:  # saloon
        return _Shape(4.5 * g, 1.78, 1.44 * g, 0.92, 0.72, 0.75, 1.4, 2.55 * g, 3.3 * g)
    if kind < 0.87:  # estate or off-roader
        return _Shape(4.5 * g, 1.86, 1.68 * g, 1.04, 0.9, 0.08, 0.3, 2.6 * g, 3.3 * g)
    return _Shape(5.2 * g, 1.95, 2.2 * g, 1.18, 0.95, 0.03, 0.06, 3.7 * g, 4.4 * g)  # van


def _body_side(rng: np.random.Generator, p: _Shape, paint: Colour) -> Canvas:
    canvas = Canvas(p.length, p.belt, 72.0)
    outline: list[Point] = [(0.03, 0.32), (0, 0.55), (0.0, p.belt), (p.cowl, p.belt), (p.length - 0.1, p.hood),
                            (p.length, 0.55), (p.length - 0.03, 0.3)]  # fmt: skip
    canvas.polygon(outline, paint, CAR)
    canvas.box(0, 0.7, p.length, 0.74, scaled(paint, 1.22))
    canvas.box(0, 0.3, p.length, 0.42, scaled(paint, 0.5))
    doors = (p.tail + 0.45, (p.tail + p.cowl) / 2 + 0.2, p.cowl - 0.05)
    for x in doors:
        canvas.box(x, 0.4, x + 0.025, p.belt, scaled(paint, 0.45))
    for x in doors[:2]:
        canvas.box(x + 0.12, 0.78, x + 0.32, 0.82, scaled(paint, 0.6))
    canvas.box(0, 0.6, 0.18, 0.8, (170, 26, 24))
    canvas.polygon([(p.length - 0.35, 0.58), (p.length, 0.56), (p.length - 0.1, 0.7), (p.length - 0.3, 0.72)],
                   (226, 228, 224))  # fmt: skip
    for x in (0.78, p.length - 0.8):
        canvas.ellipse(x, 0.33, 0.4, 0.4, (18, 18, 20), CAR)
        canvas.ellipse(x, 0.32, 0.32, 0.32, RUBBER, CAR)
        canvas.ellipse(x, 0.32, 0.2, 0.2, (150, 152, 156))
        canvas.ellipse(x, 0.32, 0.06, 0.06, (60, 60, 62))
        for a in np.arange(5) * 2 * np.pi / 5:
            canvas.ellipse(x + 0.13 * float(np.cos(a)), 0.32 + 0.13 * float(np.sin(a)), 0.035, 0.05, (56, 56, 60))
    return canvas


def _glass(canvas: Canvas, outline: list[Point], margin: float, paint: Colour, height: float) -> None:
    """Paint a window band: body colour outside, glass inside, a bright reflection in the upper part."""
    canvas.polygon(outline, paint, CAR)
    mid = np.mean(outline, axis=0)
    points = np.array(outline)
    size = np.maximum(np.ptp(points, axis=0) / 2, 0.05)
    inner = mid + (points - mid) * (1 - margin / size)
    canvas.polygon([(float(x), float(y)) for x, y in inner], GLASS)
    upper = inner.copy()
    upper[:, 1] = np.maximum(upper[:, 1], height * 0.55)
    canvas.polygon([(float(x), float(y)) for x, y in upper], (98, 116, 128))


def _cabin_side(p: _Shape, paint: Colour) -> Canvas:
    height = p.height - p.belt
    canvas = Canvas(p.length, height, 72.0)
    van = p.height > 2.0
    outline: list[Point] = [(p.tail, 0), (p.roof_rear, height), (p.roof_front, height), (p.cowl, 0)]
    _glass(canvas, outline, 0.07, paint, height)
    pillar = (p.tail + p.cowl) / 2 + 0.2
    canvas.box(pillar, 0.03, pillar + 0.09, height - 0.03, scaled(paint, 0.5))
    if van:
        canvas.box(p.tail + 0.05, 0, pillar + 0.5, height, paint)
    canvas.polygon([(p.tail, 0), (p.roof_rear, height), (p.roof_rear + 0.15, height), (p.tail + 0.25, 0)],
                   scaled(paint, 0.9))  # fmt: skip
    return canvas


def _end(rng: np.random.Generator, p: _Shape, paint: Colour, front: bool) -> Canvas:
    top = p.hood if front else p.belt
    canvas = Canvas(p.width, top - 0.28, 72.0, CAR, paint)
    height, w = top - 0.28, p.width
    canvas.box(0, 0, w, 0.16, scaled(paint, 0.45))
    canvas.box(0, 0.16, w, 0.2, scaled(paint, 1.2))
    if front:
        canvas.box(w * 0.28, height * 0.42, w * 0.72, height * 0.8, (26, 28, 30))
        canvas.box(w * 0.28, height * 0.58, w * 0.72, height * 0.62, (160, 162, 164))
        for x in (0.06, w - 0.42):
            canvas.box(x, height * 0.5, x + 0.36, height * 0.84, (230, 232, 226))
            canvas.ellipse(x + 0.18, height * 0.67, 0.09, 0.08, (160, 170, 176))
    else:
        for x in (0.03, w - 0.27):
            canvas.box(x, height * 0.48, x + 0.24, height * 0.92, (176, 22, 24))
            canvas.box(x, height * 0.48, x + 0.24, height * 0.58, (226, 120, 40))
        canvas.box(w * 0.1, height * 0.97, w * 0.9, height, scaled(paint, 0.6))
    plate: Colour = (232, 230, 224) if front or rng.random() < 0.5 else (230, 200, 60)
    y = 0.2 if front else height * 0.5
    canvas.box(w / 2 - 0.26, y, w / 2 + 0.26, y + 0.13, plate)
    canvas.box(w / 2 - 0.2, y + 0.04, w / 2 + 0.2, y + 0.09, (60, 60, 66))
    return canvas


def _pane(p: _Shape, run: float, paint: Colour, lean: float) -> Canvas:
    """Windscreen or rear window: a trapezoid, as wide as the body below and narrower by `lean` on each side above."""
    canvas = Canvas(p.width, run, 64.0)
    _glass(canvas, [(0, 0), (lean, run), (p.width - lean, run), (p.width, 0)], 0.08, paint, run)
    return canvas


def _plain(width: float, length: float, paint: Colour) -> Canvas:
    canvas = Canvas(width, length, 40.0, CAR, paint)
    columns = np.linspace(-1, 1, canvas.labels.shape[1])
    canvas.shade((1.06 - 0.16 * columns**2)[None, :, None])
    return canvas


def vehicle(rng: np.random.Generator) -> Vehicle:
    """Draw a car: hatchback, saloon, estate or van in a random paint."""
    p = _shape(rng)
    paint = jitter(rng, PAINTS[rng.integers(len(PAINTS))], 0.15)
    half, lean = p.width / 2, 0.16
    upper = half - lean
    side, cabin = _body_side(rng, p, paint), _cabin_side(p, paint)
    faces: list[Face] = []

    def add(canvas: Canvas, top_left: Corner, top_right: Corner, bottom_left: Corner) -> None:
        faces.append(Face(np.array(top_left), np.array(top_right), np.array(bottom_left), canvas.texture()))

    def mirrored(canvas: Canvas) -> Canvas:
        other = Canvas(canvas.width, canvas.height, canvas.density)
        other.colours, other.labels = canvas.colours[:, ::-1].copy(), canvas.labels[:, ::-1].copy()
        return other

    length, top, belt = p.length, p.height, p.belt
    add(side, (half, belt, 0), (half, belt, length), (half, 0, 0))
    add(mirrored(side), (-half, belt, length), (-half, belt, 0), (-half, 0, length))
    add(cabin, (upper, top, 0), (upper, top, length), (half, belt, 0))
    add(mirrored(cabin), (-upper, top, length), (-upper, top, 0), (-half, belt, length))
    add(_plain(2 * upper, p.roof_front - p.roof_rear, scaled(paint, 1.05)),
        (-upper, top, p.roof_front), (upper, top, p.roof_front), (-upper, top, p.roof_rear))  # fmt: skip
    screen = float(np.hypot(top - belt, p.cowl - p.roof_front))
    add(_pane(p, screen, paint, lean), (half, top, p.roof_front), (-half, top, p.roof_front), (half, belt, p.cowl))
    rear_run = float(np.hypot(top - belt, p.roof_rear - p.tail))
    add(_pane(p, rear_run, paint, lean), (-half, top, p.roof_rear), (half, top, p.roof_rear), (-half, belt, p.tail))
    hood_run = float(np.hypot(belt - p.hood, length - 0.1 - p.cowl))
    add(_plain(p.width, hood_run, scaled(paint, 1.08)), (half, belt, p.cowl), (-half, belt, p.cowl),
        (half, p.hood, length - 0.1))  # fmt: skip
    if p.tail > 0.2:
        add(_plain(p.width, p.tail, scaled(paint, 1.05)), (-half, belt, p.tail), (half, belt, p.tail), (-half, belt, 0))
    add(_end(rng, p, paint, front=False), (-half, belt, 0), (half, belt, 0), (-half, 0.28, 0))
    add(_end(rng, p, paint, front=True), (half, p.hood, length - 0.05), (-half, p.hood, length - 0.05),
        (half, 0.28, length - 0.05))  # fmt: skip
    tyres = Canvas(p.width, 0.4, 48.0)
    for x in (0.02, p.width - 0.24):
        tyres.box(x, 0, x + 0.22, 0.4, RUBBER, CAR)
    tyres.box(0, 0.22, p.width, 0.4, (20, 20, 20), CAR)
    add(tyres, (-half, 0.4, 0.5), (half, 0.4, 0.5), (-half, 0, 0.5))
    add(tyres, (half, 0.4, length - 0.5), (-half, 0.4, length - 0.5), (half, 0, length - 0.5))
    return Vehicle(length, p.width, top, tuple(faces))
