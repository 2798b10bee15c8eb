"""A street, built from a seed: its ground, the camera's drive, and the painted surfaces that stand along it.

World: x to the right, y up, z along the street, in metres; the ground is y = 0. Time `t` counts frames. Everything that
stands is a flat parallelogram (`Quad`) with a picture on it (`Canvas`), so depth and motion follow exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.floating]
Rng = np.random.Generator

SKY, BUILDING, POLE, ROAD, SIDEWALK, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST, VOID = range(12)
STILL = np.zeros(3)
VIEW_LENGTH = 120.0  # metres of street beyond the last camera position
# Metres beyond it with small objects: further away they would be so few pixels that nobody could recognise them.
DETAIL_LENGTH = 13.0

WALLS = ((156, 82, 62), (176, 104, 78), (214, 198, 160), (200, 172, 128), (188, 190, 186), (150, 152, 156))
PAINTS = ((150, 30, 32), (34, 62, 124), (204, 206, 208), (40, 42, 46), (120, 126, 130), (46, 92, 66), (206, 170, 60))
CLOTHES = (*PAINTS, (92, 60, 96), (214, 120, 50), (120, 84, 60))
TROUSERS = ((40, 46, 66), (30, 30, 32), (92, 82, 68), (70, 74, 82))
SKIN = ((224, 178, 150), (196, 142, 108), (120, 80, 58))
LEAVES = ((86, 112, 44), (70, 104, 50), (110, 118, 46), (128, 104, 40))
STEEL = ((112, 116, 118), (70, 76, 78), (44, 62, 54))
RED, BLUE, GREEN, WHITE = (196, 28, 34), (26, 70, 156), (20, 96, 62), (238, 238, 234)
BLACK, GLASS = (30, 30, 34), (62, 74, 86)
SIGNS = ((24, WHITE), (3, WHITE), (8, RED), (4, BLUE), (4, GREEN))  # corners, colour inside the rim
# Planks, railing, building-site barrier: colours of background and bars, distance of the bars in metres, their width.
FENCES = (((70, 50, 34), (134, 98, 64), 0.16, 0.14), ((44, 48, 46), (84, 92, 88), 0.28, 0.1), (WHITE, RED, 0.8, 0.4))


@dataclass(frozen=True)
class Ground:
    """The plan of the street. Lengths in metres, from its centre line; colours in 0..255.

    dash: painted share of the centre line, 0 none to 1 solid. lawn: beyond the sidewalk lies grass, of class Tree as
    CamVid labels low plants, instead of paving.
    """

    half_width: float = 4.0
    sidewalk: float = 3.0
    dash: float = 0.5
    crossings: tuple[float, ...] = ()
    lawn: bool = False
    asphalt: ArrayLike = (100, 100, 102)
    paving: ArrayLike = (170, 164, 154)

    def beside(self, side: int, beyond_kerb: float, z: float) -> FloatArray:
        """The point `beyond_kerb` metres outside the kerb on `side` (-1 left, 1 right); negative: on the road."""
        return np.array([side * (self.half_width + beyond_kerb), 0.0, z])


@dataclass(frozen=True)
class Drive:
    """The camera's way: metres per frame, metres right of the centre line, radians; `period`: frames per sway."""

    speed: float = 0.5
    lane: float = 0.0
    height: float = 1.5
    pitch: float = 0.0
    yaw: float = 0.0
    yaw_sway: float = 0.0
    lane_sway: float = 0.0
    period: float = 40.0


@dataclass(frozen=True)
class Look:
    """Weather and lens. sun: direction to it; sunlight: 0 overcast .. 0.6 clear; clouds: 0 .. 1; exposure: a colour."""

    sun: FloatArray
    sunlight: float
    sky: FloatArray
    clouds: float
    exposure: FloatArray


class Canvas:
    """A picture of `width` x `height` metres of one class; x runs right and y up from its lower left corner.

    colours: [h, w, 3] uint8. opaque: [h, w] uint8, 1 where something is painted. density: texels per metre.
    """

    def __init__(self, label: int, width: float, height: float, colour: ArrayLike, density: float = 48.0,
                 filled: bool = False) -> None:  # fmt: skip
        shape = max(8, round(height * density)), max(8, round(width * density))
        self.label, self.width, self.height = label, width, height
        self.colours = np.empty((*shape, 3), np.uint8)
        self.colours[:] = np.clip(colour, 0, 255)
        self.opaque = np.full(shape, filled, np.uint8)

    def polygon(self, points: ArrayLike, colour: ArrayLike) -> None:
        """Fill the polygon with corners `points` [n, 2] in metres."""
        rows, columns = self.opaque.shape
        texels = np.asarray(points, float) * [columns / self.width, -rows / self.height] + [0, rows] - 0.5
        fixed = np.round(texels * 16).astype(np.int32)  # four binary digits after the point
        cv2.fillPoly(self.colours, [fixed], np.clip(colour, 0, 255).tolist(), cv2.LINE_8, 4)
        cv2.fillPoly(self.opaque, [fixed], 1, cv2.LINE_8, 4)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: ArrayLike) -> None:
        """Fill the rectangle from (x0, y0) to (x1, y1)."""
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)

    def oval(self, x: float, y: float, rx: float, ry: float, colour: ArrayLike, corners: int = 24) -> None:
        """Fill an ellipse around (x, y), or with few `corners` a regular polygon that stands on its side."""
        angles = (np.arange(corners) + 0.5) * 2 * np.pi / corners - np.pi / 2
        self.polygon(np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], -1), colour)

    def limb(self, points: Sequence[tuple[float, float]], width: float, colour: ArrayLike) -> None:
        """Draw a line, `width` metres thick."""
        for start, end in pairwise(np.array(points)):
            across = width / 2 * np.array([start[1] - end[1], end[0] - start[0]]) / np.hypot(*(end - start))
            self.polygon([start + across, end + across, end - across, start - across], colour)

    def mottle(self, rng: Rng, strength: float, cell: float) -> Canvas:
        """Vary the brightness in blobs of `cell` texels; returns the canvas itself."""
        gain = 1 + strength * blobs(rng, *self.opaque.shape, cell)[..., None]
        self.colours = np.clip(self.colours * gain, 0, 255).astype(np.uint8)
        return self


@dataclass(frozen=True)
class Quad:
    """A parallelogram: top_left + a * u + b * v + t * velocity with 0 <= a, b < 1; `u` and `v` follow its picture."""

    top_left: FloatArray
    u: FloatArray
    v: FloatArray
    canvas: Canvas
    velocity: FloatArray


@dataclass(frozen=True)
class World:
    """A street at all times."""

    ground: Ground
    drive: Drive
    look: Look
    quads: tuple[Quad, ...]
    seed: tuple[int, ...]

    @cached_property
    def geometry(self) -> FloatArray:
        """Top left corners, u, v and velocities at t = 0 of ground (u = x, v = -z) and quads, [4, 1 + n, 3]."""
        ground = (STILL, (1, 0, 0), (0, 0, -1), STILL)
        return np.array([ground, *((q.top_left, q.u, q.v, q.velocity) for q in self.quads)], float).transpose(1, 0, 2)

    def pose(self, t: float) -> tuple[FloatArray, FloatArray]:
        """The camera's position [3], and its rotation [3, 3], whose rows are its right, down and forward."""
        drive, z, swing = self.drive, self.drive.speed * t, 2 * np.pi * t / self.drive.period
        x, yaw = drive.lane + drive.lane_sway * np.sin(swing), drive.yaw + drive.yaw_sway * np.sin(swing + 1.0)
        sin_y, cos_y, sin_p, cos_p = np.sin(yaw), np.cos(yaw), np.sin(drive.pitch), np.cos(drive.pitch)
        right, forward = [cos_y, 0.0, -sin_y], [sin_y * cos_p, -sin_p, cos_y * cos_p]
        return np.array([x, drive.height, z]), np.array([right, np.cross(right, forward), forward])


def build_world(seed: int | tuple[int, ...], num_frames: int = 1) -> World:
    """The street of `seed`, long enough for `num_frames` frames. The same arguments give the same street."""
    seed = (seed,) if isinstance(seed, int) else tuple(seed)
    rng = np.random.default_rng([*seed, 1])
    lane = rng.uniform(2.9, 3.6)
    ground = Ground(
        half_width=lane + rng.choice([0, 2.2]), sidewalk=rng.uniform(2.2, 4.2),
        dash=rng.choice([0, 0.5, 0.5, 1]), lawn=bool(rng.random() < 0.5),
        crossings=tuple(rng.uniform([8, 35], [25, 80])[rng.random(2) < 0.5]),
        asphalt=vary(rng, (100, 100, 102), 0.25), paving=vary(rng, (172, 166, 154), 0.15),
    )  # fmt: skip
    drive = Drive(
        speed=rng.uniform(0.3, 0.7), lane=lane / 2 * rng.choice([1, 1, 1, -1]) + rng.uniform(-0.3, 0.3),
        height=rng.uniform(1.35, 1.75), pitch=rng.uniform(-0.02, 0.05), yaw=rng.uniform(-0.15, 0.15),
        yaw_sway=rng.uniform(0, 0.03), lane_sway=rng.uniform(0, 0.4), period=rng.uniform(25, 60),
    )  # fmt: skip
    overcast, height, azimuth = rng.random() < 0.35, rng.uniform(0.4, 1.0), rng.uniform(-np.pi, np.pi)
    look = Look(
        sun=np.array([np.cos(height) * np.sin(azimuth), np.sin(height), np.cos(height) * np.cos(azimuth)]),
        sunlight=0.0 if overcast else rng.uniform(0.35, 0.6), clouds=rng.uniform(0, 0.5) + 0.5 * overcast,
        sky=vary(rng, (178, 184, 190) if overcast else (88, 138, 204), 0.1),
        exposure=vary(rng, (1, 1, 1), 0.15),
    )  # fmt: skip
    last = drive.speed * num_frames
    return World(ground, drive, look, tuple(Furnisher(rng, ground, drive).furnish(last)), seed)


class Furnisher:
    """Places everything that stands along a street."""

    def __init__(self, rng: Rng, ground: Ground, drive: Drive) -> None:
        self.rng, self.ground, self.drive, self.quads = rng, ground, drive, list[Quad]()
        self.steel, self.leaf = vary(rng, rng.choice(STEEL), 0.15), vary(rng, rng.choice(LEAVES), 0.2)
        self.crowns = [paint_leaves(rng, 5.0, 5.0, vary(rng, self.leaf, 0.15), round_off=True) for _ in range(3)]

    def furnish(self, last: float) -> list[Quad]:
        """All surfaces of a street that the camera follows up to z = `last`."""
        rng, ground, end, detail_end = self.rng, self.ground, last + VIEW_LENGTH, last + DETAIL_LENGTH
        lane = 1.6 if self.drive.lane >= 0 else -1.6
        for side in (-1, 1):
            self.houses(side, end)
            self.borders(side, detail_end)
            self.posts(side, detail_end)
            self.people(side, detail_end)
            for z in spots(rng, 5, end if rng.random() < 0.5 else 8, 12):
                self.tree(ground.beside(side, 0.9, z), rng.uniform(4.5, 7.5))
            # cars park on the camera's own side only where there is room
            for z in spots(rng, 3, end if ground.half_width > 4 or side * lane < 0 else 0, 12):
                self.car(ground.beside(side, -1.1, z), np.pi * (rng.random() < 0.3), 0.0)
        self.car(ground.beside(1, lane - ground.half_width, 14), 0.0, self.drive.speed)
        for z in spots(rng, 14, end, 40):  # oncoming traffic
            self.car(ground.beside(1, -lane - ground.half_width, z), np.pi, rng.uniform(0.3, 0.7))
        return self.quads

    def add(self, top_left: FloatArray, top_right: FloatArray, low_left: FloatArray, canvas: Canvas,
            velocity: FloatArray = STILL) -> None:  # fmt: skip
        """Add the parallelogram with these three corners."""
        self.quads.append(Quad(top_left, top_right - top_left, low_left - top_left, canvas, velocity))

    def wall(self, left: FloatArray, right: FloatArray, canvas: Canvas, velocity: FloatArray = STILL) -> None:
        """An upright picture above the line from `left` to `right`."""
        up = np.array([0.0, canvas.height, 0.0])
        self.add(left + up, right + up, left, canvas, velocity)

    def stand(self, canvas: Canvas, at: FloatArray, turn: float = 0.0, velocity: FloatArray = STILL) -> None:
        """An upright picture with the middle of its foot at `at`, facing back along z or turned by `turn`."""
        half = canvas.width / 2 * np.array([np.cos(turn), 0.0, np.sin(turn)])
        self.wall(at - half, at + half, canvas, velocity)

    def houses(self, side: int, end: float) -> None:
        """A row of houses, and walls that close the view at the end."""
        rng, ground, z = self.rng, self.ground, self.rng.uniform(-14, -8)
        back = ground.sidewalk + (rng.uniform(3, 6) if ground.lawn else 0.0)
        styles = [paint_house(rng, ground.lawn) for _ in range(4)]
        while z < end:
            front, flank, roof = styles[rng.integers(4)]
            near, far = ground.beside(side, back, z), ground.beside(side, back, z + front.width)
            behind = np.array([side * flank.width, 0.0, 0.0])
            eaves, ridge = np.array([0, front.height, 0]), behind / 2 + np.array([0, flank.height, 0])
            self.wall(near, far, front)
            self.wall(near, near + behind, flank)
            self.add(near + ridge, far + ridge, near + eaves, roof)
            z += front.width + (rng.uniform(1, 4) if ground.lawn else rng.choice([0, 0, 0, 3]))
        for k, (front, _, _) in enumerate(styles):
            corner = np.array([side * 24 * k, 0.0, end + 14])
            self.wall(corner, corner + np.array([side * 24, 0, 0]), front)

    def tree(self, at: FloatArray, height: float) -> None:
        """A trunk and two layers of leaves."""
        rng, foot = self.rng, height * self.rng.uniform(0.25, 0.4)
        self.stand(Canvas(TREE, 0.06 * height, foot * 1.5, (92, 76, 60), filled=True).mottle(rng, 0.3, 4), at)
        for depth, share in ((-0.2, 0.8), (0.1, 1.0)):
            size, low = share * (height - foot), at + np.array([rng.uniform(-0.3, 0.3), foot, depth * height])
            left, top = np.array([-size / 2, 0, 0]), np.array([0, size, 0])
            self.add(low + left + top, low - left + top, low + left, self.crowns[rng.integers(3)])

    def borders(self, side: int, end: float) -> None:
        """Fences and hedges: beside the sidewalk, or at the kerb where houses stand at the sidewalk."""
        rng, z, beyond_kerb = self.rng, self.rng.uniform(2, 5), self.ground.sidewalk + 0.2 if self.ground.lawn else 0.5
        while z < end:
            canvas = paint_leaves(rng, 4, 1.2, self.leaf) if rng.random() < 0.15 else paint_fence(rng)
            for _ in range(rng.integers(2, 6)):
                start, z = self.ground.beside(side, beyond_kerb, z), z + 4
                self.wall(start, start + np.array([0, 0, 4]), canvas)
            z += rng.uniform(1, 5)

    def posts(self, side: int, end: float) -> None:
        """Lamp posts, bollards, traffic signs and, of none of the eleven classes, litter bins along the kerb."""
        rng = self.rng
        rows = [(POLE, 16, 0.2, rng.uniform(4, 8)), (VOID, 14, 0.6, 1.0), (POLE, rng.choice([2, 30]), 0.22, 1.0)]
        for label, gap, width, height in rows:
            canvas = Canvas(label, width, height, self.steel if label == POLE else rng.choice(PAINTS), filled=True)
            canvas.box(0, 0.75, width, 0.85, rng.choice((RED, WHITE)))
            for z in spots(rng, 5, end, gap):
                self.stand(canvas, self.ground.beside(side, 0.4 + width, z))
        for z in spots(rng, 4.5, end, 5):
            at, plate = self.ground.beside(side, rng.uniform(0.4, 0.9), z), paint_sign(rng)
            post = Canvas(POLE, 0.18, rng.uniform(1.9, 2.3) + plate.height, self.steel, filled=True)
            self.stand(post, at)
            self.stand(plate, at + np.array([0, post.height - plate.height, -0.08]))

    def people(self, side: int, end: float) -> None:
        """Pedestrians on the sidewalk and on the road, most of them on crossings; cyclists near the kerb."""
        rng, ground = self.rng, self.ground
        places = [(rng.uniform(0.6, ground.sidewalk - 0.4), z) for z in spots(rng, 4, end, 3.5)]
        places += [(rng.uniform(-ground.half_width, 0), z) for z in (*ground.crossings, rng.uniform(6, 14))]
        for beyond_kerb, z in places:
            velocity = rng.uniform(-0.08, 0.08, 3) * [1, 0, 1]
            self.stand(paint_person(rng), ground.beside(side, beyond_kerb, z), rng.uniform(-0.4, 0.4), velocity)
        for z in spots(rng, 5, end, 5):
            at, velocity = ground.beside(side, rng.uniform(-2.9, 0.8), z), np.array([0.0, 0.0, rng.uniform(0.1, 0.3)])
            self.stand(paint_cyclist(rng), at, side * rng.uniform(0.3, 0.8), velocity)

    def car(self, rear: FloatArray, heading: float, speed: float) -> None:
        """A car: two sides cut out along its outline, and a strip of metal or glass across each edge of the outline."""
        rng, paint = self.rng, vary(self.rng, self.rng.choice(PAINTS), 0.2)
        length, width, height = rng.uniform(3.7, 4.8), rng.uniform(1.65, 1.85), rng.uniform(1.4, 1.9)
        belt, tail, cowl, top = height * 0.6, rng.choice([0.05, 0.7]), length * rng.uniform(0.68, 0.8), height - 0.12
        outline = [(0, 0.2), (0, belt), (tail, belt), (tail + 0.35, height), (cowl - 0.7, height), (cowl, belt),
                   (length, belt * 0.85), (length, 0.2)]  # fmt: skip
        flank = Canvas(CAR, length, height, paint)
        flank.polygon(outline, paint)
        flank.polygon([(tail + 0.25, belt), (tail + 0.45, top), (cowl - 0.75, top), (cowl - 0.25, belt)], GLASS)
        for x in (0.75, length - 0.8):
            flank.oval(x, 0.33, 0.33, 0.33, BLACK)
            flank.oval(x, 0.33, 0.18, 0.18, STEEL[0])
        forward, up = np.array([np.sin(heading), 0.0, np.cos(heading)]), np.array([0.0, 1.0, 0.0])
        across = width / 2 * np.array([forward[2], 0.0, -forward[0]])
        for left in (rear - across, rear + across):
            self.wall(left, left + length * forward, flank, speed * forward)
        for k, edge in enumerate(pairwise(outline)):
            (z_low, low), (z_high, high) = sorted(edge, key=lambda point: point[1])
            strip = Canvas(CAR, width, float(np.hypot(z_high - z_low, high - low)), paint, filled=True)
            if k in (2, 4):  # the windows at the rear and at the front
                strip.box(0.1, 0.06, width - 0.1, strip.height - 0.06, GLASS)
            elif k in (0, 6):  # the ends, with lights
                strip.box(0, 0, width, 0.15, BLACK)
                for x in (0.05, width - 0.4):
                    strip.box(x, strip.height * 0.6, x + 0.35, strip.height * 0.85, RED if k == 0 else WHITE)
            left = rear - across + high * up + z_high * forward
            self.add(left, left + 2 * across, rear - across + low * up + z_low * forward, strip, speed * forward)


def paint_house(rng: Rng, gabled: bool) -> tuple[Canvas, Canvas, Canvas]:
    """Front, side wall and roof of a house; one without a gable may have more floors."""
    floors, rise = int(rng.integers(2, 4) if gabled else rng.integers(3, 6)), rng.uniform(2, 5) * gabled
    storey, width, depth, paint = rng.uniform(2.8, 3.4), rng.uniform(7, 15), 11.0, vary(rng, rng.choice(WALLS), 0.2)
    height, spacing, tall = storey * floors, rng.uniform(1.9, 3), storey * rng.uniform(0.45, 0.6)
    front = Canvas(BUILDING, width, height, paint, 20, filled=True).mottle(rng, 0.08, 3).mottle(rng, 0.08, 40)
    for y in np.arange(floors) * storey + 0.9:
        for x in np.arange(spacing * 0.3, width - spacing * 0.7, spacing):
            front.box(x - 0.1, y - 0.12, x + spacing * 0.5 + 0.1, y + tall + 0.1, WHITE)
            front.box(x, y, x + spacing * 0.5, y + tall, vary(rng, GLASS, 0.4))
    front.box(width / 2, 0, width / 2 + 1.1, 2.3, rng.choice(PAINTS))
    flank = Canvas(BUILDING, depth, height + rise, paint, 12)
    flank.polygon([(0, 0), (0, height), (depth / 2, height + rise), (depth, height), (depth, 0)], paint)
    roof = Canvas(BUILDING, width, np.hypot(depth / 2, rise), vary(rng, (110, 74, 64), 0.3), 12, filled=True)
    return front, flank.mottle(rng, 0.1, 4), roof.mottle(rng, 0.15, 5)


def paint_leaves(rng: Rng, width: float, height: float, colour: FloatArray, round_off: bool = False) -> Canvas:
    """Foliage with a ragged edge, as a hedge or rounded off to a crown."""
    canvas = Canvas(TREE, width, height, colour, 32).mottle(rng, 0.3, 12).mottle(rng, 0.25, 3)
    rows, columns = canvas.opaque.shape
    y, x = np.linspace(-1, 1, rows)[:, None], np.linspace(-1, 1, columns)
    edge = np.hypot(x, y) if round_off else -y
    canvas.opaque[:] = edge + 0.12 * blobs(rng, rows, columns, 14) + 0.06 * blobs(rng, rows, columns, 4) < 0.88
    canvas.colours = np.clip(canvas.colours * (1 - 0.3 * y[..., None]), 0, 255).astype(np.uint8)
    return canvas


def paint_fence(rng: Rng) -> Canvas:
    """Four metres of fence, labelled without holes, as a person would do."""
    back, front, gap, width = FENCES[rng.integers(3)]
    canvas = Canvas(FENCE, 4, rng.uniform(1.1, 1.7), vary(rng, back, 0.2), filled=True)
    for x in np.arange(0, 4, gap):
        canvas.box(x, 0, x + width, canvas.height, vary(rng, front, 0.1))
    return canvas


def paint_person(rng: Rng) -> Canvas:
    """Someone on foot."""
    coat, legs, skin, hair = (vary(rng, rng.choice(colours), 0.2) for colours in (CLOTHES, TROUSERS, SKIN, TROUSERS))
    canvas, stride = Canvas(PEDESTRIAN, 0.9, rng.uniform(1.6, 1.85), coat), rng.uniform(0.02, 0.25)
    for side in (-1, 1):
        canvas.limb([(0.45 + side * 0.08, 0.9), (0.45 + side * (0.1 + stride), 0.08)], 0.16, legs)
        canvas.limb([(0.45 + side * 0.2, 1.35), (0.45 + side * 0.27, 1.1), (0.45 + side * 0.25, 0.9)], 0.1, coat * 0.85)
    canvas.polygon([(0.25, 0.8), (0.65, 0.8), (0.66, 1.38), (0.55, 1.45), (0.35, 1.45), (0.24, 1.38)], coat)
    canvas.oval(0.45, canvas.height - 0.17, 0.1, 0.14, skin)
    canvas.oval(0.45, canvas.height - 0.1, 0.11, 0.09, hair)
    return canvas.mottle(rng, 0.1, 6)


def paint_cyclist(rng: Rng) -> Canvas:
    """Someone on a bicycle, from the side; the wheels are labelled without holes, as a person would do."""
    coat, legs, skin, steel = (vary(rng, rng.choice(colours), 0.2) for colours in (CLOTHES, TROUSERS, SKIN, CLOTHES))
    canvas = Canvas(BICYCLIST, 1.8, 1.8, coat)
    for x in (0.38, 1.42):
        canvas.oval(x, 0.34, 0.34, 0.34, BLACK)
        canvas.oval(x, 0.34, 0.27, 0.27, STEEL[0])
    canvas.limb([(0.38, 0.34), (0.86, 0.32), (1.27, 0.86), (0.74, 0.8), (0.38, 0.34)], 0.06, steel)
    canvas.limb([(1.42, 0.34), (1.25, 0.98), (1.37, 1.02)], 0.06, steel)
    for knee, foot in (((1.1, 0.76), (0.96, 0.44)), ((1.06, 0.63), (0.8, 0.22))):
        canvas.limb([(0.72, 0.95), knee, foot], 0.15, legs)
    canvas.polygon([(0.58, 0.92), (0.84, 0.92), (1.2, 1.36), (1.08, 1.5), (0.92, 1.46)], coat)
    canvas.limb([(1.1, 1.4), (1.16, 1.14), (1.33, 1.03)], 0.1, coat * 0.8)
    canvas.oval(1.21, 1.6, 0.1, 0.13, skin)
    canvas.oval(1.2, 1.68, 0.13, 0.09, steel)
    return canvas.mottle(rng, 0.1, 6)


def paint_sign(rng: Rng) -> Canvas:
    """A traffic sign: disc, triangle, octagon or square."""
    corners, inner = SIGNS[rng.integers(5)]
    canvas = Canvas(SIGN, 0.85, 0.85, RED)
    radius = 0.42 * (np.sqrt(2) if corners == 4 else 1)  # a square fills the picture
    canvas.oval(0.425, 0.425, radius, radius, WHITE if corners == 4 else RED, corners)
    canvas.oval(0.425, 0.425, radius * 0.75, radius * 0.75, inner, corners)
    canvas.box(0.25, 0.36, 0.6, 0.48, BLACK if inner == WHITE else WHITE)
    return canvas


def vary(rng: Rng, colour: ArrayLike, spread: float) -> FloatArray:
    """`colour` with another brightness and, a little, another hue; `spread` is a share."""
    return np.asarray(colour) * (1 + spread * rng.uniform(-1, 1) + spread / 3 * rng.uniform(-1, 1, 3))


def spots(rng: Rng, first: float, last: float, gap: float) -> Iterator[float]:
    """Places from `first` to `last` that are about `gap` apart."""
    z = first + gap * rng.uniform(0, 0.5)
    while z < last:
        yield z
        z += gap * rng.uniform(0.7, 1.3)


def blobs(rng: Rng, height: int, width: int, cell: float) -> NDArray[np.float32]:
    """A smooth random field [height, width] in -1..1 whose bumps are about `cell` wide."""
    coarse = rng.uniform(-1, 1, (int(height / cell) + 2, int(width / cell) + 2)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)
